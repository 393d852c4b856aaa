//! `apps`: sets of pods that are kept running.

use super::rows::{Row, SCALE, STATUS, Table};

pub(super) const V1: Table = Table {
    group: "apps",
    version: "v1",
    package: "io.k8s.api.apps.v1",
    priority: 17800,
    rows: &[
        Row::namespaced("ControllerRevision", "controllerrevisions"),
        Row::namespaced("DaemonSet", "daemonsets")
            .short(&["ds"])
            .in_all()
            .subresources(&[STATUS])
            .generation(),
        Row::namespaced("Deployment", "deployments")
            .short(&["deploy"])
            .in_all()
            .subresources(&[SCALE, STATUS])
            .generation(),
        Row::namespaced("ReplicaSet", "replicasets")
            .short(&["rs"])
            .in_all()
            .subresources(&[SCALE, STATUS])
            .generation(),
        Row::namespaced("StatefulSet", "statefulsets")
            .short(&["sts"])
            .in_all()
            .subresources(&[SCALE, STATUS])
            .generation(),
    ],
};
