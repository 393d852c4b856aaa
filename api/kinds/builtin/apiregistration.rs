//! `apiregistration.k8s.io`: API groups that another server serves.

use super::rows::{Row, STATUS, Table};
use crate::kinds::NameRule;

pub(super) const V1: Table = Table {
    group: "apiregistration.k8s.io",
    version: "v1",
    package: "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1",
    priority: 20000,
    rows: &[Row::cluster("APIService", "apiservices")
        .in_api_extensions()
        .subresources(&[STATUS])
        .conditional_update()
        .names(NameRule::PathSegment)],
};
