//! An object's metadata, read from and written to its value.
//!
//! Reading takes whatever is there: what is absent or of another type reads as empty. Whether it is well
//! formed is decided once, when an object is decoded and validated.

use serde_json::{Map, Value};

use super::time::Timestamp;

/// The text at a path of fields; empty where there is none.
#[must_use]
pub fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    at(value, path).and_then(Value::as_str).unwrap_or_default()
}

/// What is at a path of fields.
#[must_use]
pub fn at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, name| value.get(name))
}

#[must_use]
pub fn name(value: &Value) -> &str {
    text(value, &["metadata", "name"])
}

#[must_use]
pub fn namespace(value: &Value) -> &str {
    text(value, &["metadata", "namespace"])
}

#[must_use]
pub fn uid(value: &Value) -> &str {
    text(value, &["metadata", "uid"])
}

#[must_use]
pub fn resource_version(value: &Value) -> &str {
    text(value, &["metadata", "resourceVersion"])
}

#[must_use]
pub fn generation(value: &Value) -> i64 {
    at(value, &["metadata", "generation"]).and_then(Value::as_i64).unwrap_or_default()
}

#[must_use]
pub fn labels(value: &Value) -> Option<&Map<String, Value>> {
    at(value, &["metadata", "labels"])?.as_object()
}

#[must_use]
pub fn annotation<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    at(value, &["metadata", "annotations", name])?.as_str()
}

#[must_use]
pub fn finalizers(value: &Value) -> Vec<&str> {
    let list = at(value, &["metadata", "finalizers"]).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

#[must_use]
pub fn deletion_timestamp(value: &Value) -> Option<Timestamp> {
    Timestamp::parse(text(value, &["metadata", "deletionTimestamp"]))
}

#[must_use]
pub fn is_deleting(value: &Value) -> bool {
    at(value, &["metadata", "deletionTimestamp"]).is_some_and(|it| !it.is_null())
}

/// The metadata, made where it is missing. A value that is no object has none.
pub fn of(value: &mut Value) -> Option<&mut Map<String, Value>> {
    let metadata = value.as_object_mut()?.entry("metadata").or_insert_with(|| Map::new().into());
    if !metadata.is_object() {
        *metadata = Map::new().into();
    }
    metadata.as_object_mut()
}

/// Sets one field of the metadata.
pub fn set(value: &mut Value, name: &str, to: impl Into<Value>) {
    if let Some(metadata) = of(value) {
        metadata.insert(name.into(), to.into());
    }
}

/// Takes a field out of the metadata.
pub fn unset(value: &mut Value, name: &str) {
    if let Some(metadata) = of(value) {
        metadata.remove(name);
    }
}

/// Puts `finalizers` in; an empty list takes the field out.
pub fn set_finalizers(value: &mut Value, finalizers: &[&str]) {
    if finalizers.is_empty() {
        unset(value, "finalizers");
    } else {
        set(value, "finalizers", finalizers.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>());
    }
}

/// Puts `from`'s field in the place of `value`'s, or takes it out where `from` has none.
pub fn copy_field(value: &mut Value, from: &Value, name: &str) {
    let Some(fields) = value.as_object_mut() else { return };
    match from.get(name) {
        Some(there) => {
            fields.insert(name.into(), there.clone());
        }
        None => {
            fields.remove(name);
        }
    }
}
