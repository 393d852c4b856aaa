//! The nouns of the Kubernetes API that carry no behaviour of one kind: names of types and resources,
//! metadata, selectors, quantities, time.
//!
//! An object in flight is a `serde_json::Value`: what a client sent is kept as it was sent, absent and empty
//! stay apart, and no field is lost because our types are older than the client's.

pub mod duration;
pub mod meta;
pub mod names;
pub mod quantity;
pub mod schedule;
pub mod selector;
pub mod time;

pub use names::{GroupKind, GroupResource, GroupVersion, GroupVersionKind, GroupVersionResource};
pub use quantity::Quantity;
