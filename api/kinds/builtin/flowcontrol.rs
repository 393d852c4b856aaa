//! `flowcontrol.apiserver.k8s.io`: whose requests wait for whose.

use super::rows::{Row, STATUS, Table};

pub(super) const V1: Table = Table {
    group: "flowcontrol.apiserver.k8s.io",
    version: "v1",
    package: "io.k8s.api.flowcontrol.v1",
    priority: 16100,
    rows: &[
        Row::cluster("FlowSchema", "flowschemas").subresources(&[STATUS]).generation(),
        Row::cluster("PriorityLevelConfiguration", "prioritylevelconfigurations")
            .subresources(&[STATUS])
            .generation(),
    ],
};
