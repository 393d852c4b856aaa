//! `scheduling.k8s.io`: which pods matter more.

use super::rows::{Row, Table};

pub(super) const V1: Table = Table {
    group: "scheduling.k8s.io",
    version: "v1",
    package: "io.k8s.api.scheduling.v1",
    priority: 16600,
    rows: &[Row::cluster("PriorityClass", "priorityclasses").short(&["pc"]).generation()],
};
