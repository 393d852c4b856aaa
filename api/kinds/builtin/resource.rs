//! `resource.k8s.io`: devices, and claims on them.

use super::rows::{Row, STATUS, Table};

pub(super) const V1: Table = Table {
    group: "resource.k8s.io",
    version: "v1",
    package: "io.k8s.api.resource.v1",
    priority: 16200,
    rows: &[
        Row::cluster("DeviceClass", "deviceclasses").generation().returns_deleted(),
        Row::cluster("DeviceTaintRule", "devicetaintrules")
            .subresources(&[STATUS])
            .generation()
            .returns_deleted(),
        Row::namespaced("ResourceClaim", "resourceclaims")
            .subresources(&[STATUS])
            .returns_deleted(),
        Row::namespaced("ResourceClaimTemplate", "resourceclaimtemplates").returns_deleted(),
        Row::cluster("ResourceSlice", "resourceslices")
            .generation()
            .returns_deleted()
            .selectable(&["spec.nodeName", "spec.driver"]),
    ],
};
