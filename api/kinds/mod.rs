//! Which kinds of objects there are, and how each behaves: a row of data and a few hooks per kind.
//!
//! The registry changes while requests are served (a CustomResourceDefinition adds a row); whoever holds an
//! `Arc<Kind>` keeps the row it began with.

pub mod beginnings;
pub mod builtin;
pub mod columns;
mod conversions;
pub mod defaults;
mod endings;
pub mod kind;
mod registry;
mod rules;
pub mod versions;

pub use kind::{Columns, Hooks, Kind, NameRule, Propagation, Stored, Subresource, Verbs};
pub use registry::{Group, Registry, Snapshot, Version};
