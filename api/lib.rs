//! What the cluster means: fronts over one road of objects, and over one replicated store.
//!
//! Modules in reading order: [`object`] and [`error`] are the nouns, [`schema`] what a type looks like,
//! [`kinds`] which types there are and how each behaves, [`codec`] and [`merge`] bytes and patches,
//! [`objects`] how objects rest in the store, [`live`] what is followed there, [`request`] what may be asked,
//! [`auth`] and [`admission`] who is asked about it, [`pipeline`] the road itself, [`http`] its REST front,
//! [`audit`] what is written down of it,
//! [`client`] how the rest of the house asks, [`bootstrap`] what every cluster holds. [`server`] puts them
//! together. [`listener`] takes TLS connections for every front, [`cluster`] is the front for masters and
//! operators, [`etcd`] the one for etcd's clients. `docs/api.md` draws the rooms and who may know whom.

pub mod admission;
pub mod audit;
pub mod auth;
#[cfg(test)]
mod bed;
pub mod bootstrap;
pub mod client;
pub mod cluster;
pub mod codec;
pub mod discovery;
pub mod document;
pub mod error;
pub mod etcd;
pub mod http;
pub mod kinds;
pub mod listener;
pub mod live;
pub mod merge;
pub mod node;
pub mod object;
pub mod objects;
pub mod openapi;
pub mod pipeline;
pub mod request;
pub mod sandbox;
pub mod schema;
pub mod server;
pub mod tunnel;

pub use error::Status;
