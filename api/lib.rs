//! What the cluster means: fronts over one road of objects.
//!
//! Modules in reading order: [`object`] and [`error`] are the nouns, [`schema`] what a type looks like,
//! [`kinds`] which types there are and how each behaves, [`request`] what may be asked, [`client`] how the
//! rest of the house asks it. `docs/api.md` draws the rooms and who may know whom.

pub mod client;
pub mod codec;
pub mod discovery;
pub mod document;
pub mod error;
pub mod kinds;
pub mod merge;
pub mod object;
pub mod openapi;
pub mod request;
pub mod schema;

pub use error::Status;
