//! What the cluster means: fronts over one road of objects.
//!
//! Modules in reading order: [`object`] and [`error`] are the nouns, [`schema`] what a type looks like,
//! [`kinds`] which types there are and how each behaves, [`objects`] how they rest in the store, [`request`] what
//! may be asked, [`auth`] and [`admission`] who is asked about it, [`client`] how the rest of the house asks it. `docs/api.md` draws the rooms and who may know whom.

pub mod admission;
pub mod auth;
pub mod bootstrap;
pub mod client;
pub mod error;
pub mod kinds;
pub mod live;
pub mod object;
pub mod objects;
pub mod request;
pub mod schema;

pub use error::Status;
