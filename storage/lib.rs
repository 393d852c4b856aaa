//! Bytes under revisions: the multi-version, watchable key-value store that every master embeds.
//!
//! Semantics are etcd's (v3), byte for byte where a client can see them.
//! This crate knows no consensus, no clock, no randomness and no Kubernetes: what happens is a pure
//! function of the state and the commands it is handed, in their order.
//!
//! Modules in reading order: [`revision`] and [`record`] are the nouns, [`request`] what may be asked,
//! [`engine`] where bytes rest, [`keys`] and [`row`] how they are laid out there, [`apply`] one command
//! against the state, [`store`] the whole, [`view`] reads, [`watch`] what comes back out, [`directory`]
//! and [`snapshot`] whose data it is and how it travels, [`verify`] what must hold of it when it is closed;
//! [`append`] is how long copies are made.

pub mod append;
pub mod apply;
pub mod codec;
pub mod compaction;
mod damage;
pub mod directory;
pub mod engine;
pub mod error;
pub mod keys;
pub mod lease;
pub mod record;
pub mod request;
pub mod revision;
pub mod row;
pub mod snapshot;
pub mod store;
pub mod verify;
pub mod view;
pub mod watch;

pub use engine::Engine;
pub use error::Error;
pub use record::{Event, EventKind, KeyValue, LeaseId};
pub use request::{Answer, Command};
pub use revision::{Index, Revision};
pub use store::{Options, Store};
