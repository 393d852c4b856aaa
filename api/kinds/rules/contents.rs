//! ConfigMaps and Secrets: what is in them, and that what is said to stay stays.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::{Field, Found};
use crate::error::Cause;
use crate::schema::causes;

/// All that one of them holds together.
const BYTES_MAX: usize = 1 << 20;

pub(super) fn config_map(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let object = Field::of(object);
    let binary = object.at("binaryData");
    let mut size = 0;
    for (key, field) in object.at("data").entries() {
        check_key(key, &field, &mut found);
        if binary.value.get(key).is_some() {
            let why = "duplicate of key present in binaryData";
            found.push(causes::invalid(&field.path, &key.into(), why));
        }
        size += field.text().len();
    }
    for (key, field) in binary.entries() {
        check_key(key, &field, &mut found);
        size += decoded(&field).len();
    }
    if size > BYTES_MAX {
        found.push(causes::too_long("", BYTES_MAX as u64));
    }
    found
}

pub(super) fn config_map_change(new: &Value, old: &Value) -> Vec<Cause> {
    stays(new, old, &["data", "binaryData"])
}

pub(super) fn secret(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let object = Field::of(object);
    let data = object.at("data");
    let mut size = 0;
    for (key, field) in data.entries() {
        check_key(key, &field, &mut found);
        size += decoded(&field).len();
    }
    if size > BYTES_MAX {
        found.push(causes::too_long("data", BYTES_MAX as u64));
    }
    match object.at("type").text() {
        "kubernetes.io/service-account-token" => {
            object
                .at("metadata.annotations")
                .key("kubernetes.io/service-account.name")
                .must_not_be_empty(&mut found);
        }
        "kubernetes.io/dockercfg" => must_be_json(&data.key(".dockercfg"), &mut found),
        "kubernetes.io/dockerconfigjson" => {
            must_be_json(&data.key(".dockerconfigjson"), &mut found);
        }
        "kubernetes.io/basic-auth" => {
            let parts = [data.key("username"), data.key("password")];
            if !parts.iter().any(Field::is_set) {
                found.extend(parts.iter().map(|part| part.required("")));
            }
        }
        "kubernetes.io/ssh-auth" => data.key("ssh-privatekey").must_not_be_empty(&mut found),
        "kubernetes.io/tls" => {
            for part in [data.key("tls.crt"), data.key("tls.key")] {
                if !part.is_set() {
                    found.push(part.required(""));
                }
            }
        }
        _ => {}
    }
    found
}

pub(super) fn secret_change(new: &Value, old: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    Field::of(new).at("type").must_stay(&Field::of(old).at("type"), &mut found);
    found.extend(stays(new, old, &["data"]));
    found
}

/// What was once said to be immutable.
fn stays(new: &Value, old: &Value, fields: &[&str]) -> Vec<Cause> {
    const WHY: &str = "field is immutable when `immutable` is set";
    let (new, old) = (Field::of(new), Field::of(old));
    let mut found = Found::new();
    if !old.at("immutable").is_true() {
        return found;
    }
    if !new.at("immutable").is_true() {
        found.push(new.at("immutable").forbidden(WHY));
    }
    for name in fields {
        if !super::same::same(new.at(name).value, old.at(name).value) {
            found.push(new.at(name).forbidden(WHY));
        }
    }
    found
}

fn decoded(field: &Field<'_>) -> Vec<u8> {
    STANDARD.decode(field.text()).unwrap_or_default()
}

fn must_be_json(field: &Field<'_>, found: &mut Found) {
    if !field.is_set() {
        found.push(field.required(""));
    } else if let Err(error) = serde_json::from_slice::<serde_json::Map<_, Value>>(&decoded(field))
    {
        let hidden = "<secret contents redacted>".into();
        found.push(causes::invalid(&field.path, &hidden, &error.to_string()));
    }
}

fn check_key(key: &str, field: &Field<'_>, found: &mut Found) {
    let plain = |it: u8| it.is_ascii_alphanumeric() || b"-_.".contains(&it);
    let mut say = |why: &str| found.push(causes::invalid(&field.path, &key.into(), why));
    if key.len() > 253 {
        say("must be no more than 253 characters");
    }
    if key.is_empty() || !key.bytes().all(plain) {
        say("a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. \
             'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is \
             '[-._a-zA-Z0-9]+')");
    }
    match key {
        "." => say("must not be '.'"),
        ".." => say("must not be '..'"),
        _ if key.starts_with("..") => say("must not start with '..'"),
        _ => {}
    }
}
