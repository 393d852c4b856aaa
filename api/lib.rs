//! What the cluster means: fronts over one road of objects, and over one replicated store.
//!
//! Modules in reading order: [`object`] and [`error`] are the nouns, [`schema`] what a type looks like,
//! [`kinds`] which types there are and how each behaves, [`request`] what may be asked, [`client`] how the
//! rest of the house asks it. [`listener`] takes TLS connections for every front, [`cluster`] is the front for
//! masters and operators, [`etcd`] the one for etcd's clients. `docs/api.md` draws the rooms and who may know
//! whom.

pub mod client;
pub mod cluster;
pub mod codec;
pub mod discovery;
pub mod document;
pub mod error;
pub mod etcd;
pub mod kinds;
pub mod listener;
pub mod merge;
pub mod object;
pub mod openapi;
pub mod request;
pub mod schema;

pub use error::Status;
