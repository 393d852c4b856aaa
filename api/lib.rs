//! What the cluster means: fronts over one replicated store.
//!
//! [`listener`] takes TLS connections for every front, [`cluster`] is the front for masters and operators.

pub mod cluster;
pub mod listener;
