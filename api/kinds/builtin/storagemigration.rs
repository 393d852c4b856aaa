//! `storagemigration.k8s.io`: objects rewritten in the version in which they are stored now.

use super::rows::{Row, STATUS, Table};

pub(super) const V1: Table = Table {
    group: "storagemigration.k8s.io",
    version: "v1",
    package: "io.k8s.api.storagemigration.v1",
    priority: 15800,
    rows: &[Row::cluster("StorageVersionMigration", "storageversionmigrations")
        .subresources(&[STATUS])
        .conditional_update()],
};
