//! What the cluster means: fronts over one replicated store.
//!
//! [`etcd`] is the front for etcd's clients: the keys as they are.

pub mod etcd;
