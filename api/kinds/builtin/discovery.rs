//! `discovery.k8s.io`: which pods are behind a service.

use super::rows::{Row, Table};

pub(super) const V1: Table = Table {
    group: "discovery.k8s.io",
    version: "v1",
    package: "io.k8s.api.discovery.v1",
    priority: 16200,
    rows: &[Row::namespaced("EndpointSlice", "endpointslices").generation()],
};
