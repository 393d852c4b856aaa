//! `storage.k8s.io`: classes of volumes, and what attaches them.

use super::rows::{Row, STATUS, Table};

pub(super) const V1: Table = Table {
    group: "storage.k8s.io",
    version: "v1",
    package: "io.k8s.api.storage.v1",
    priority: 16800,
    rows: &[
        Row::cluster("CSIDriver", "csidrivers").generation().conditional_update().returns_deleted(),
        Row::cluster("CSINode", "csinodes")
            .subresources(&[STATUS])
            .conditional_update()
            .returns_deleted(),
        Row::namespaced("CSIStorageCapacity", "csistoragecapacities").conditional_update(),
        Row::cluster("StorageClass", "storageclasses").short(&["sc"]).returns_deleted(),
        Row::cluster("VolumeAttachment", "volumeattachments")
            .subresources(&[STATUS])
            .conditional_update()
            .returns_deleted(),
        Row::cluster("VolumeAttributesClass", "volumeattributesclasses")
            .short(&["vac"])
            .returns_deleted(),
    ],
};
