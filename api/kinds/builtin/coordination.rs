//! `coordination.k8s.io`: who holds what, and until when.

use super::rows::{Row, Table};

pub(super) const V1: Table = Table {
    group: "coordination.k8s.io",
    version: "v1",
    package: "io.k8s.api.coordination.v1",
    priority: 16500,
    rows: &[Row::namespaced("Lease", "leases").create_on_update().conditional_update()],
};
