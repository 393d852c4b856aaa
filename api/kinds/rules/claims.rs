//! Claims, the volumes that fill them, and the classes these come from.

use serde_json::Value;

use super::same::{difference, same};
use super::{Field, Found};
use crate::error::Cause;
use crate::object::quantity::Quantity;

const ACCESS: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const MODES: &[&str] = &["Block", "Filesystem"];
const RECLAIMS: &[&str] = &["Delete", "Recycle", "Retain"];

pub(super) fn claim(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    check_spec(&Field::of(object).at("spec"), &mut found);
    found
}

pub(super) fn check_spec(spec: &Field<'_>, found: &mut Found) {
    let access = spec.at("accessModes");
    if access.is_empty() {
        found.push(access.required("at least 1 access mode is required"));
    }
    check_access(&access, found);
    spec.at("selector").must_be_selector(found);
    let size = spec.at("resources.requests").key("storage");
    let size = Field { path: format!("{}[storage]", spec.at("resources").path), ..size };
    match size.quantity() {
        None => found.push(size.required("")),
        Some(quantity) if quantity.is_negative() || quantity.is_zero() => {
            found.push(size.invalid("must be greater than zero"));
        }
        Some(_) => {}
    }
    let class = spec.at("storageClassName");
    if !class.is_empty() {
        class.must_be_subdomain(found);
    }
    spec.at("volumeMode").may_be_one_of(MODES, found);
    for name in ["dataSource", "dataSourceRef"] {
        let source = spec.at(name);
        if source.is_set() {
            source.at("name").must_not_be_empty(found);
            source.at("kind").must_not_be_empty(found);
            let kind = source.at("kind").text();
            if source.at("apiGroup").is_empty() && kind != "PersistentVolumeClaim" {
                found.push(crate::schema::causes::invalid(
                    &source.path,
                    &kind.into(),
                    "must be 'PersistentVolumeClaim' when referencing the default apiGroup",
                ));
            }
        }
    }
}

fn check_access(access: &Field<'_>, found: &mut Found) {
    let unknown = access.items().filter(|mode| !ACCESS.contains(&mode.text()));
    found.extend(
        unknown.map(|mode| Field { path: access.path.clone(), ..mode }.unsupported(ACCESS)),
    );
    let alone = access.items().any(|mode| mode.text() == "ReadWriteOncePod");
    if alone && access.items().any(|mode| mode.text() != "ReadWriteOncePod") {
        let why = "may not use ReadWriteOncePod with other access modes";
        found.push(access.forbidden(why));
    }
}

pub(super) fn claim_change(new: &Value, old: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let is_bound = Field::of(new).at("status.phase").text() == "Bound";
    let held = Field::of(old).at("status.capacity").key("storage").quantity();
    let (new, old) = (Field::of(new).at("spec"), Field::of(old).at("spec"));
    let mut rest = new.value.clone();
    let mut free = |name: &str| rest[name] = old.at(name).value.clone();
    if old.at("volumeName").is_empty() {
        free("volumeName");
    }
    if !old.at("storageClassName").is_set() {
        free("storageClassName");
    }
    if is_bound {
        free("volumeAttributesClassName");
        let size = old.at("resources.requests.storage").value.clone();
        if rest.pointer("/resources/requests").is_some_and(Value::is_object) {
            rest["resources"]["requests"]["storage"] = size;
        }
    }
    if !same(&rest, old.value) {
        let why = format!(
            "spec is immutable after creation except resources.requests and \
             volumeAttributesClassName for bound claims\n{}",
            difference(old.value, &rest)
        );
        found.push(new.forbidden(&why));
    }
    let size = new.at("resources.requests.storage");
    let (now, before) = (size.quantity(), old.at("resources.requests.storage").quantity());
    let less = |a: Option<Quantity>, b: Option<Quantity>| {
        a.zip(b).is_some_and(|(a, b)| a.minus(b).is_negative())
    };
    let shrinks_too_far = match (now, held) {
        (Some(now), Some(held)) => now.minus(held).is_negative() || now.minus(held).is_zero(),
        _ => false,
    };
    if less(now, before) && shrinks_too_far {
        found.push(size.forbidden("field can not be less than status.capacity"));
    }
    let mode = new.at("volumeMode");
    Field { path: "volumeMode".into(), ..mode }.must_stay(&old.at("volumeMode"), &mut found);
    found
}

pub(super) fn volume(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let spec = Field::of(object).at("spec");
    let access = spec.at("accessModes");
    if access.is_empty() {
        found.push(access.required(""));
    }
    check_access(&access, &mut found);
    let capacity = spec.at("capacity");
    if capacity.is_empty() {
        found.push(capacity.required(""));
    } else if capacity.map().is_none_or(|map| map.len() != 1 || !map.contains_key("storage")) {
        found.push(capacity.unsupported(&["storage"]));
    }
    let size = capacity.key("storage");
    if size.quantity().is_some_and(|it| it.is_negative() || it.is_zero()) {
        found.push(size.invalid("must be greater than zero"));
    }
    spec.at("persistentVolumeReclaimPolicy").may_be_one_of(RECLAIMS, &mut found);
    spec.at("volumeMode").may_be_one_of(MODES, &mut found);
    let class = spec.at("storageClassName");
    if !class.is_empty() {
        class.must_be_subdomain(&mut found);
    }
    match sources(&spec).as_slice() {
        [] => found.push(spec.required("must specify a volume type")),
        [_] => {}
        [_, more @ ..] => {
            let why = "may not specify more than 1 volume type";
            found.extend(more.iter().map(|name| spec.at(name).forbidden(why)));
        }
    }
    let path = spec.at("hostPath.path");
    if path.text() == "/" && spec.at("persistentVolumeReclaimPolicy").text() == "Recycle" {
        let policy = spec.at("persistentVolumeReclaimPolicy");
        found.push(policy.forbidden("may not be 'recycle' for a hostPath mount of '/'"));
    }
    if spec.at("local").is_set() {
        spec.at("local.path").must_not_be_empty(&mut found);
        if !spec.at("nodeAffinity").is_set() {
            let why = "Local volume requires node affinity";
            found.push(spec.at("nodeAffinity").required(why));
        }
    }
    found
}

/// The kinds of volume that it says it is.
fn sources(spec: &Field<'_>) -> Vec<String> {
    const OTHERS: &[&str] = &[
        "accessModes",
        "capacity",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "volumeAttributesClassName",
        "volumeMode",
    ];
    let fields = spec.map().into_iter().flatten();
    fields
        .filter(|(name, value)| !OTHERS.contains(&name.as_str()) && !value.is_null())
        .map(|(name, _)| name.clone())
        .collect()
}

pub(super) fn volume_change(new: &Value, old: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let (new, old) = (Field::of(new).at("spec"), Field::of(old).at("spec"));
    let kinds = sources(&old);
    let stays = sources(&new) == kinds
        && kinds.iter().all(|name| {
            let (mut now, mut before) = (new.at(name).value.clone(), old.at(name).value.clone());
            // Secrets of a driver may be named anew.
            for side in [&mut now, &mut before] {
                for secret in ["controllerExpandSecretRef", "nodeExpandSecretRef"] {
                    if let Some(fields) = side.as_object_mut() {
                        fields.remove(secret);
                    }
                }
            }
            same(&now, &before)
        });
    if !stays {
        let why = "spec.persistentvolumesource is immutable after creation\n";
        let why = format!("{why}{}", difference(old.value, new.value));
        let spec = Field { path: "spec.persistentvolumesource".into(), ..new.clone() };
        found.push(spec.forbidden(&why));
    }
    let mode = Field { path: "volumeMode".into(), ..new.at("volumeMode") };
    mode.must_stay(&old.at("volumeMode"), &mut found);
    if old.at("nodeAffinity").is_set() {
        let affinity = Field { path: "nodeAffinity".into(), ..new.at("nodeAffinity") };
        affinity.must_stay(&old.at("nodeAffinity"), &mut found);
    }
    found
}

pub(super) fn storage_class(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let class = Field::of(object);
    let provisioner = class.at("provisioner");
    if provisioner.is_empty() {
        found.push(provisioner.required(""));
    } else {
        provisioner
            .must_be(|text| crate::object::selector::bad_key(&text.to_lowercase()), &mut found);
    }
    class.at("reclaimPolicy").may_be_one_of(&["Delete", "Retain"], &mut found);
    class
        .at("volumeBindingMode")
        .must_be_one_of(&["Immediate", "WaitForFirstConsumer"], &mut found);
    found
}

pub(super) fn storage_class_change(new: &Value, old: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let (new, old) = (Field::of(new), Field::of(old));
    for name in ["parameters", "provisioner", "reclaimPolicy"] {
        if !same(new.at(name).value, old.at(name).value) {
            found.push(new.at(name).forbidden(&format!("updates to {name} are forbidden.")));
        }
    }
    new.at("volumeBindingMode").must_stay(&old.at("volumeBindingMode"), &mut found);
    found
}
