//! Which kinds of objects there are, and how each behaves: a row of data and a few hooks per kind.
//!
//! The registry changes while requests are served (a CustomResourceDefinition adds a row); whoever holds an
//! `Arc<Kind>` keeps the row it began with.

pub mod columns;
pub mod defaults;
pub mod kind;

pub use kind::{Hooks, Kind, Subresource, Verbs};
