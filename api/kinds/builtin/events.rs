//! `events.k8s.io`: the core group's events under newer names; one store for both.

use super::rows::{Row, Table};

pub(super) const V1: Table = Table {
    group: "events.k8s.io",
    version: "v1",
    package: "io.k8s.api.events.v1",
    priority: 17750,
    rows: &[Row::namespaced("Event", "events")
        .short(&["ev"])
        .create_on_update()
        .stored_as("", "v1")
        .selectable(&[
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "reason",
            "reportingController",
            "type",
        ])],
};
