//! `autoscaling`: one autoscaler, served in two versions and stored in the later.

use super::rows::{Row, STATUS, Table};

pub(super) const V1: Table = Table {
    group: "autoscaling",
    version: "v1",
    package: "io.k8s.api.autoscaling.v1",
    priority: 17500,
    rows: &[Row::namespaced("HorizontalPodAutoscaler", "horizontalpodautoscalers")
        .short(&["hpa"])
        .in_all()
        .subresources(&[STATUS])
        .stored_as("autoscaling", "v2")],
};

pub(super) const V2: Table = Table {
    group: "autoscaling",
    version: "v2",
    package: "io.k8s.api.autoscaling.v2",
    priority: 17500,
    rows: &[Row::namespaced("HorizontalPodAutoscaler", "horizontalpodautoscalers")
        .short(&["hpa"])
        .in_all()
        .subresources(&[STATUS])],
};
