//! One ordered history of commands, agreed on by the masters.
//!
//! [`replica::Replica`] is the door: propose a command, wait for a read barrier, watch, keep leases alive,
//! change the membership. Whoever holds one never needs to know who leads.
//! [`recovery`] is for directories on which no member runs.
//! Below it openraft decides, [`log`] keeps entries durably, `state_machine` hands them to the store, and
//! [`network`] carries messages between masters, `carry` leaves out those that the next one says as well;
//! [`trust`] says what TLS believes where that is not the web's rule, [`cryptography`] what it is made of,
//! [`driver`] how a connection is driven. openraft's names stay inside this crate.

pub mod cryptography;
pub mod driver;
pub mod error;
pub mod lifecycle;
pub mod log;
pub mod membership;
pub mod network;
pub mod recovery;
pub mod replica;
pub mod runtime;
pub mod trust;
pub mod types;

mod batcher;
mod carry;
mod duties;
mod encoding;
mod inbound;
mod leader;
mod log_store;
mod outbound;
mod progress;
mod read;
mod snapshots;
mod state_machine;

pub use error::Error;
pub use kontiki_storage as storage;
pub use replica::{Config, Replica};
pub use types::{ClusterId, NodeId, Peer};
