//! `batch`: pods that run to an end.

use super::rows::{Row, STATUS, Table};

pub(super) const V1: Table = Table {
    group: "batch",
    version: "v1",
    package: "io.k8s.api.batch.v1",
    priority: 17400,
    rows: &[
        Row::namespaced("CronJob", "cronjobs")
            .short(&["cj"])
            .in_all()
            .subresources(&[STATUS])
            .generation(),
        Row::namespaced("Job", "jobs")
            .in_all()
            .subresources(&[STATUS])
            .generation()
            .orphans()
            .selectable(&["status.successful"]),
    ],
};
