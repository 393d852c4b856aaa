//! Volumes, claims, classes, and what drivers say of themselves.

use serde_json::{Value, json};

use super::cells::{age_of, at, flag, list, name, or, plain, text, text_or};
use super::{AGE, Column, Entry, NAME, column, typed};
use crate::object::time::Timestamp;

pub const TABLE: &[Entry] = &[
    ("", "PersistentVolume", VOLUME, volume),
    ("", "PersistentVolumeClaim", CLAIM, claim),
    ("storage.k8s.io", "StorageClass", CLASS, class),
    (
        "storage.k8s.io",
        "VolumeAttributesClass",
        &[NAME, column("DriverName", 0), AGE],
        |it, now| vec![name(it), text(it, "/driverName").into(), age_of(it, now)],
    ),
    ("storage.k8s.io", "VolumeAttachment", ATTACHMENT, |it, now| {
        vec![
            name(it),
            text(it, "/spec/attacher").into(),
            text(it, "/spec/source/persistentVolumeName").into(),
            text(it, "/spec/nodeName").into(),
            flag(it, "/status/attached").into(),
            age_of(it, now),
        ]
    }),
    ("storage.k8s.io", "CSINode", &[NAME, typed("Drivers", "integer", 0), AGE], |it, now| {
        vec![name(it), json!(list(it, "/spec/drivers").len()), age_of(it, now)]
    }),
    ("storage.k8s.io", "CSIDriver", DRIVER, driver),
];

/// The name, marked where one of the annotations says that it is the default.
pub fn name_with_default(it: &Value, annotations: &[&str]) -> Value {
    let default = annotations.iter().any(|path| text(it, path) == "true");
    match name(it) {
        Value::String(name) if default => format!("{name} (default)").into(),
        name => name,
    }
}

fn modes(modes: &[Value]) -> String {
    let short = modes.iter().map(|mode| match mode.as_str() {
        Some("ReadWriteOnce") => "RWO",
        Some("ReadOnlyMany") => "ROX",
        Some("ReadWriteMany") => "RWX",
        Some("ReadWriteOncePod") => "RWOP",
        _ => "",
    });
    let mut seen: Vec<&str> = Vec::new();
    short.filter(|mode| !mode.is_empty()).for_each(|mode| {
        if !seen.contains(&mode) {
            seen.push(mode);
        }
    });
    seen.join(",")
}

const VOLUME: &[Column] = &[
    NAME,
    column("Capacity", 0),
    column("Access Modes", 0),
    column("Reclaim Policy", 0),
    column("Status", 0),
    column("Claim", 0),
    column("StorageClass", 0),
    column("VolumeAttributesClass", 0),
    column("Reason", 0),
    AGE,
    column("VolumeMode", 1),
];

/// The phase, or that the object is going.
fn phase(it: &Value) -> Value {
    if at(it, "/metadata/deletionTimestamp").is_string() {
        "Terminating".into()
    } else {
        text(it, "/status/phase").into()
    }
}

/// The class, which older objects name by an annotation.
fn class_of(it: &Value) -> &str {
    let old = "/metadata/annotations/volume.beta.kubernetes.io~1storage-class";
    text_or(it, old, text(it, "/spec/storageClassName"))
}

fn size(value: &Value) -> Value {
    if value.is_null() { "0".into() } else { plain(value).into() }
}

fn volume(it: &Value, now: Timestamp) -> Vec<Value> {
    let claim = match at(it, "/spec/claimRef") {
        Value::Null => String::new(),
        claim => format!("{}/{}", text(claim, "/namespace"), text(claim, "/name")),
    };
    vec![
        name(it),
        size(at(it, "/spec/capacity/storage")),
        modes(list(it, "/spec/accessModes")).into(),
        text(it, "/spec/persistentVolumeReclaimPolicy").into(),
        phase(it),
        claim.into(),
        class_of(it).into(),
        text_or(it, "/spec/volumeAttributesClassName", "<unset>").into(),
        text(it, "/status/reason").into(),
        age_of(it, now),
        text_or(it, "/spec/volumeMode", "<unset>").into(),
    ]
}

const CLAIM: &[Column] = &[
    NAME,
    column("Status", 0),
    column("Volume", 0),
    column("Capacity", 0),
    column("Access Modes", 0),
    column("StorageClass", 0),
    column("VolumeAttributesClass", 0),
    AGE,
    column("VolumeMode", 1),
];

fn claim(it: &Value, now: Timestamp) -> Vec<Value> {
    let bound = !text(it, "/spec/volumeName").is_empty();
    let capacity = if bound { size(at(it, "/status/capacity/storage")) } else { Value::from("") };
    let access = if bound { modes(list(it, "/status/accessModes")) } else { String::new() };
    vec![
        name(it),
        phase(it),
        text(it, "/spec/volumeName").into(),
        capacity,
        access.into(),
        class_of(it).into(),
        text_or(it, "/spec/volumeAttributesClassName", "<unset>").into(),
        age_of(it, now),
        text_or(it, "/spec/volumeMode", "<unset>").into(),
    ]
}

const CLASS: &[Column] = &[
    NAME,
    column("Provisioner", 0),
    column("ReclaimPolicy", 0),
    column("VolumeBindingMode", 0),
    column("AllowVolumeExpansion", 0),
    AGE,
];

fn class(it: &Value, now: Timestamp) -> Vec<Value> {
    let name = name_with_default(
        it,
        &[
            "/metadata/annotations/storageclass.kubernetes.io~1is-default-class",
            "/metadata/annotations/storageclass.beta.kubernetes.io~1is-default-class",
        ],
    );
    vec![
        name,
        text(it, "/provisioner").into(),
        text_or(it, "/reclaimPolicy", "Delete").into(),
        text_or(it, "/volumeBindingMode", "Immediate").into(),
        flag(it, "/allowVolumeExpansion").into(),
        age_of(it, now),
    ]
}

const ATTACHMENT: &[Column] = &[
    NAME,
    column("Attacher", 0),
    column("PV", 0),
    column("Node", 0),
    typed("Attached", "boolean", 0),
    AGE,
];

const DRIVER: &[Column] = &[
    NAME,
    typed("AttachRequired", "boolean", 0),
    typed("PodInfoOnMount", "boolean", 0),
    typed("StorageCapacity", "boolean", 0),
    column("TokenRequests", 0),
    typed("RequiresRepublish", "boolean", 0),
    column("Modes", 0),
    AGE,
];

fn driver(it: &Value, now: Timestamp) -> Vec<Value> {
    let join = |path: &str, field: &str| {
        list(it, path).iter().map(|one| plain(at(one, field))).collect::<Vec<_>>().join(",")
    };
    let tokens = match at(it, "/spec/tokenRequests") {
        Value::Null => "<unset>".to_owned(),
        _ => join("/spec/tokenRequests", "/audience"),
    };
    vec![
        name(it),
        at(it, "/spec/attachRequired").as_bool().unwrap_or(true).into(),
        flag(it, "/spec/podInfoOnMount").into(),
        flag(it, "/spec/storageCapacity").into(),
        tokens.into(),
        flag(it, "/spec/requiresRepublish").into(),
        or(&join("/spec/volumeLifecycleModes", ""), "<none>").into(),
        age_of(it, now),
    ]
}
