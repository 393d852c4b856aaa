//! `policy`: how many pods may be taken away at once.

use super::rows::{Row, STATUS, Table};
use crate::kinds::NameRule;

pub(super) const V1: Table = Table {
    group: "policy",
    version: "v1",
    package: "io.k8s.api.policy.v1",
    priority: 17100,
    rows: &[Row::namespaced("PodDisruptionBudget", "poddisruptionbudgets")
        .short(&["pdb"])
        .subresources(&[STATUS])
        .generation()
        .conditional_update()
        .names(NameRule::PathSegment)],
};
