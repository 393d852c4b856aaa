//! `node.k8s.io`: ways to run a container.

use super::rows::{Row, Table};

pub(super) const V1: Table = Table {
    group: "node.k8s.io",
    version: "v1",
    package: "io.k8s.api.node.v1",
    priority: 16300,
    rows: &[Row::cluster("RuntimeClass", "runtimeclasses").create_on_update().conditional_update()],
};
