//! `apiextensions.k8s.io`: kinds that users define.

use super::rows::{Row, STATUS, Table};

pub(super) const V1: Table = Table {
    group: "apiextensions.k8s.io",
    version: "v1",
    package: "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1",
    priority: 16700,
    rows: &[Row::cluster("CustomResourceDefinition", "customresourcedefinitions")
        .short(&["crd", "crds"])
        .in_api_extensions()
        .generation()
        .conditional_update()
        .subresources(&[STATUS])],
};
