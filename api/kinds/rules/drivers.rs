//! Storage drivers: what they are, where they run, what they have attached and what they have room for.

use serde_json::Value;

use super::field::{IMMUTABLE, duplicates};
use super::same::same;
use super::{Field, Found};
use crate::error::Cause;
use crate::object::names;
use crate::schema::causes;

const NAME_MAX: usize = 63;
const NODE_ID_MAX: usize = 192;
const METADATA_MAX: usize = 256 << 10;
const PARAMETERS_MAX: usize = 256 << 10;
const TOKEN_SECONDS: (i64, i64) = (600, 1 << 32);

/// The name by which a driver is known.
pub(super) fn check_driver(name: &Field<'_>, found: &mut Found) {
    if name.is_empty() {
        found.push(name.required(""));
        return;
    }
    if name.text().len() > NAME_MAX {
        found.push(causes::too_long(&name.path, NAME_MAX as u64));
    }
    let lower = name.text().to_lowercase();
    found.extend(names::bad_subdomain(&lower).map(|why| name.invalid(&why)));
}

pub(super) fn driver(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let spec = Field::of(object).at("spec");
    let said = [
        ("attachRequired", "attachedRequired"),
        ("podInfoOnMount", "podInfoOnMount"),
        ("storageCapacity", "storageCapacity"),
    ];
    for (name, shown) in said {
        if !spec.at(name).is_set() {
            found.push(spec.at(shown).required(""));
        }
    }
    let policies = &["File", "None", "ReadWriteOnceWithFSType"];
    spec.at("fsGroupPolicy").may_be_one_of(policies, &mut found);
    let tokens = spec.at("tokenRequests");
    let mut audiences = Vec::new();
    for token in tokens.items() {
        let (audience, seconds) = (token.at("audience"), token.at("expirationSeconds"));
        if audiences.contains(&audience.text()) {
            found.push(causes::duplicate(&audience.path, &audience.text().into()));
            continue;
        }
        audiences.push(audience.text());
        let why = match seconds.number() {
            Some(number) if number < TOKEN_SECONDS.0 => {
                "may not specify a duration less than 10 minutes"
            }
            Some(number) if number > TOKEN_SECONDS.1 => {
                "may not specify a duration larger than 2^32 seconds"
            }
            _ => continue,
        };
        found.push(seconds.invalid(why));
    }
    let modes = spec.at("volumeLifecycleModes");
    for mode in modes.items().filter(|mode| !["Persistent", "Ephemeral"].contains(&mode.text())) {
        let mode = Field { path: modes.path.clone(), ..mode };
        found.push(mode.unsupported(&["Persistent", "Ephemeral"]));
    }
    let period = spec.at("nodeAllocatableUpdatePeriodSeconds");
    if period.number().is_some_and(|number| number < 10) {
        found.push(period.invalid("must be greater than or equal to 10 seconds"));
    }
    let secrets = spec.at("serviceAccountTokenInSecrets");
    if secrets.is_set() && tokens.is_empty() {
        let why = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
        found.push(secrets.invalid(why));
    }
    found
}

pub(super) fn driver_change(new: &Value, old: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let (new, old) = (Field::of(new).at("spec"), Field::of(old).at("spec"));
    let attach = Field { path: "spec.attachedRequired".into(), ..new.at("attachRequired") };
    attach.must_stay(&old.at("attachRequired"), &mut found);
    new.at("volumeLifecycleModes").must_stay(&old.at("volumeLifecycleModes"), &mut found);
    found
}

pub(super) fn node(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let drivers = Field::of(object).at("spec.drivers");
    for driver in drivers.items() {
        check_driver(&driver.at("name"), &mut found);
        let id = driver.at("nodeID");
        id.must_not_be_empty(&mut found);
        if id.text().len() > NODE_ID_MAX {
            found.push(id.invalid(&format!("must be {NODE_ID_MAX} characters or less")));
        }
        driver.at("allocatable.count").must_not_be_negative(&mut found);
        let keys = || {
            let path = driver.path.clone();
            driver
                .at("topologyKeys")
                .items()
                .map(move |key| Field { path: path.clone(), ..key })
                .collect::<Vec<_>>()
        };
        for key in keys() {
            key.must_not_be_empty(&mut found);
            key.must_be_qualified(&mut found);
        }
        duplicates(keys().into_iter(), &mut found);
    }
    duplicates(drivers.items().map(|driver| driver.at("name")), &mut found);
    found
}

/// Of a driver that stays on the node only what it has room for may change.
pub(super) fn node_change(new: &Value, old: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let (new, old) = (Field::of(new).at("spec.drivers"), Field::of(old).at("spec.drivers"));
    let kept = |driver: &Field<'_>| {
        let mut kept = driver.value.clone();
        kept.as_object_mut().map(|fields| fields.remove("allocatable"));
        kept
    };
    for was in old.items() {
        let now = new.items().find(|driver| driver.at("name").value == was.at("name").value);
        if let Some(now) = now.filter(|now| !same(&kept(now), &kept(&was))) {
            found.push(causes::invalid(&new.path, now.value, IMMUTABLE));
        }
    }
    found
}

pub(super) fn attachment(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let attachment = Field::of(object);
    let spec = attachment.at("spec");
    check_driver(&spec.at("attacher"), &mut found);
    let source = spec.at("source");
    let (volume, inline) = (source.at("persistentVolumeName"), source.at("inlineVolumeSpec"));
    let one = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (volume.is_set(), inline.is_set()) {
        (false, false) => found.push(source.required(one)),
        (true, true) => found.push(source.forbidden(one)),
        (true, false) if volume.is_empty() => {
            found.push(volume.required("must specify non empty persistentVolumeName"));
        }
        (true, false) => volume.must_be_subdomain(&mut found),
        (false, true) => {}
    }
    spec.at("nodeName").must_be_subdomain(&mut found);
    found.extend(attachment_status(object));
    found
}

fn attachment_status(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let status = Field::of(object).at("status");
    let metadata = status.at("attachmentMetadata");
    if size(&metadata) > METADATA_MAX {
        found.push(causes::too_long(&metadata.path, METADATA_MAX as u64));
    }
    for name in ["attachError", "detachError"] {
        let (message, code) = (status.at(name).at("message"), status.at(name).at("errorCode"));
        if message.text().len() > METADATA_MAX {
            found.push(causes::too_long(&message.path, METADATA_MAX as u64));
        }
        code.must_be_between(0, i32::MAX.into(), &mut found);
    }
    found
}

pub(super) fn attachment_change(new: &Value, old: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    Field::of(new).at("spec").must_stay(&Field::of(old).at("spec"), &mut found);
    found
}

pub(super) fn capacity(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let capacity = Field::of(object);
    capacity.at("nodeTopology").must_be_selector(&mut found);
    capacity.at("storageClassName").must_be_subdomain(&mut found);
    capacity.at("capacity").quantity_must_not_be_negative(&mut found);
    found
}

pub(super) fn capacity_change(new: &Value, old: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    for name in ["nodeTopology", "storageClassName"] {
        Field::of(new).at(name).must_stay(&Field::of(old).at(name), &mut found);
    }
    found
}

pub(super) fn attributes_class(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let class = Field::of(object);
    let (driver, parameters) = (class.at("driverName"), class.at("parameters"));
    if driver.is_empty() {
        found.push(driver.required(""));
    } else {
        let lower = driver.text().to_lowercase();
        found.extend(crate::object::selector::bad_key(&lower).map(|why| driver.invalid(&why)));
    }
    if parameters.is_empty() {
        found.push(parameters.required("must contain at least one key/value pair"));
    }
    if size(&parameters) > PARAMETERS_MAX {
        found.push(causes::too_long(&parameters.path, PARAMETERS_MAX as u64));
    }
    found
}

pub(super) fn attributes_class_change(new: &Value, old: &Value) -> Vec<Cause> {
    let (new, old) = (Field::of(new), Field::of(old));
    let changed = ["driverName", "parameters"]
        .into_iter()
        .filter(|name| !same(new.at(name).value, old.at(name).value));
    changed
        .map(|name| new.at(name).forbidden(&format!("updates to {name} are forbidden.")))
        .collect()
}

/// Bytes of keys and values.
fn size(map: &Field<'_>) -> usize {
    map.entries().map(|(key, value)| key.len() + value.text().len()).sum()
}
