//! The runtime that every control loop runs on.
//!
//! An [`Informer`] keeps what the API shows of one resource, typed, one copy for all loops of the process.
//! Its changes put keys into a [`Queue`]; a [`runner`] takes them out, one worker per key at a time, and calls
//! a reconciler with the key and nothing else: a restart, a missed event and a first run are one path.
//! A loop runs while [`leadership`] lasts, and ends with its token.
//!
//! Keeps: a key that changed while it was worked on is worked on again; a failure is tried again, later
//! each time.
//! Never: hands an event to a reconciler; knows a store or Raft (it has a `Client`).

pub mod amounts;
pub mod events;
pub mod informer;
pub mod labels;
pub mod leadership;
pub mod metrics;
pub mod node_rules;
pub mod pending;
pub mod queue;
pub mod requests;
pub mod runner;
pub mod steady;

pub use events::Recorder;
pub use informer::{Delta, Informer, Informers};
pub use metrics::Metrics;
pub use pending::Pending;
pub use queue::Queue;
pub use runner::{Next, Reconcile, run};
pub use steady::Steady;

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Which object: what a reconciler is given. The namespace is empty for what has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub namespace: String,
    pub name: String,
}

impl Key {
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Key {
        Key { namespace: namespace.into(), name: name.into() }
    }

    #[must_use]
    pub fn of(metadata: &ObjectMeta) -> Key {
        Key {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// A resourceVersion as the number that it is in this store; zero where there is none.
#[must_use]
pub fn revision_of(metadata: &ObjectMeta) -> u64 {
    metadata.resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0)
}
