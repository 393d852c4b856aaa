//! The metadata that the system keeps, and what must hold of the rest.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::target::Target;
use crate::error::{Cause, Status};
use crate::kinds::Kind;
use crate::kinds::kind::NameRule;
use crate::object::selector::{bad_key, bad_label_value};
use crate::object::time::Timestamp;
use crate::object::{meta, names};
use crate::schema::causes::{forbidden, invalid, required, too_long};

/// All annotations of an object together.
const ANNOTATIONS_BYTES_MAX: usize = 256 << 10;
/// Signs of a generated name's end: no vowels, so that no words come out.
const GENERATED: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const GENERATED_LENGTH: usize = 5;
const GENERATED_BASE_MAX: usize = 63 - GENERATED_LENGTH;

pub(super) const ORPHAN: &str = "orphan";
pub(super) const FOREGROUND: &str = "foregroundDeletion";

/// A name that begins with `base`.
pub(super) fn generate_name(base: &str) -> String {
    let mut name: String = base.chars().take(GENERATED_BASE_MAX).collect();
    for _ in 0..GENERATED_LENGTH {
        name.push(char::from(GENERATED[rand::random_range(0..GENERATED.len())]));
    }
    name
}

/// Puts the object where the URL says, or refuses one that says it belongs elsewhere.
pub(super) fn place(target: &Target, object: &mut Value) -> Result<(), Status> {
    let namespace = meta::namespace(object);
    if target.kind.namespaced {
        if namespace.is_empty() {
            meta::set(object, "namespace", target.namespace.clone());
        } else if namespace != target.namespace {
            return Err(Status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the \
                 request",
            ));
        }
    } else if !namespace.is_empty() {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// Fields of a new object that are the system's to set.
pub(super) fn begin(kind: &Kind, object: &mut Value, now: Timestamp) {
    for field in [
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "generation",
        "resourceVersion",
    ] {
        meta::unset(object, field);
    }
    meta::set(object, "uid", uuid::Uuid::new_v4().to_string());
    meta::set(object, "creationTimestamp", now.rfc3339());
    if kind.has_generation {
        meta::set(object, "generation", 1);
    }
}

/// Fields that an update cannot change, whatever it says.
pub(super) fn carry_over(object: &mut Value, old: &Value) {
    let Some(before) = old.get("metadata").and_then(Value::as_object) else { return };
    let Some(metadata) = meta::of(object) else { return };
    let mut keep = |name: &str, only_where_absent: bool| match before.get(name) {
        Some(_) if only_where_absent && metadata.get(name).is_some_and(|it| !is_unset(it)) => {}
        Some(there) => {
            metadata.insert(name.into(), there.clone());
        }
        None if !only_where_absent => {
            metadata.remove(name);
        }
        None => {}
    };
    for name in ["generation", "creationTimestamp", "selfLink", "deletionTimestamp"] {
        keep(name, false);
    }
    for name in ["uid", "deletionGracePeriodSeconds", "name", "namespace"] {
        keep(name, true);
    }
    metadata.remove("resourceVersion");
    // What is empty is absent, as Go writes it: or an update of nothing would look like one.
    for name in ["labels", "annotations", "finalizers", "ownerReferences"] {
        let empty = metadata.get(name).is_some_and(|it| {
            it.as_object().is_some_and(Map::is_empty) || it.as_array().is_some_and(Vec::is_empty)
        });
        if empty {
            metadata.remove(name);
        }
    }
}

fn is_unset(value: &Value) -> bool {
    value.is_null() || value.as_str().is_some_and(str::is_empty)
}

/// Removes an owner that is named twice; says so once.
pub(super) fn unite_owners(object: &mut Value) -> Option<String> {
    let owners = meta::of(object)?.get_mut("ownerReferences")?.as_array_mut()?;
    let before = owners.len();
    let mut seen: Vec<Value> = Vec::new();
    owners.retain(|owner| {
        let is_new = !seen.contains(owner);
        if is_new {
            seen.push(owner.clone());
        }
        is_new
    });
    (owners.len() < before).then(|| {
        ".metadata.ownerReferences contains duplicate entries; API server dedups owner \
         references in \
         1.20+, and may reject such requests as early as 1.24; please fix your requests"
            .into()
    })
}

/// Whether anything but metadata and status differs.
pub(super) fn spec_differs(object: &Value, old: &Value) -> bool {
    fn fields(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
        let all = value.as_object().into_iter().flatten();
        all.filter(|(name, _)| {
            !matches!(name.as_str(), "metadata" | "status" | "kind" | "apiVersion")
        })
    }
    !fields(object).eq(fields(old))
}

/// The first moment of a deletion: more time will not come back.
pub(super) fn mark_deleting(object: &mut Value, when: Timestamp, grace_seconds: Option<i64>) {
    if !meta::is_deleting(object) {
        let generation = meta::generation(object);
        if generation > 0 {
            meta::set(object, "generation", generation + 1);
        }
    }
    meta::set(object, "deletionTimestamp", when.rfc3339());
    if let Some(seconds) = grace_seconds {
        meta::set(object, "deletionGracePeriodSeconds", seconds);
    }
}

/// What must hold of a new object's metadata.
pub(super) fn check(kind: &Kind, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let generate = meta::text(object, &["metadata", "generateName"]);
    if !generate.is_empty() {
        // What is appended makes a name of what ends with a dash.
        let base = generate.strip_suffix('-').map_or(generate.to_owned(), |it| format!("{it}a"));
        if let Some(why) = bad_name(kind.name_rule, &base) {
            causes.push(invalid("metadata.generateName", &generate.into(), &why));
        }
    }
    let name = meta::name(object);
    if name.is_empty() {
        causes.push(required("metadata.name", "name or generateName is required"));
    } else if let Some(why) = bad_name(kind.name_rule, name) {
        causes.push(invalid("metadata.name", &name.into(), &why));
    }
    causes.extend(check_rest(object));
    causes
}

/// What must hold of changed metadata.
pub(super) fn check_update(object: &Value, old: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    if meta::is_deleting(old) {
        let before: BTreeSet<_> = meta::finalizers(old).into_iter().collect();
        let added: Vec<_> =
            meta::finalizers(object).into_iter().filter(|it| !before.contains(it)).collect();
        if !added.is_empty() {
            let added: Vec<_> = added.iter().map(|it| format!("\"{it}\"")).collect();
            causes.push(forbidden(
                "metadata.finalizers",
                &format!(
                    "no new finalizers can be added if the object is being deleted, found new \
                     finalizers []string{{{}}}",
                    added.join(", ")
                ),
            ));
        }
    }
    for field in ["name", "namespace", "uid", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let now = meta::at(object, &["metadata", field]);
        if now != meta::at(old, &["metadata", field]) {
            let now = now.cloned().unwrap_or_default();
            causes.push(invalid(&format!("metadata.{field}"), &now, "field is immutable"));
        }
    }
    causes.extend(check_rest(object));
    causes
}

fn bad_name(rule: NameRule, name: &str) -> Option<String> {
    match rule {
        NameRule::Subdomain => names::bad_subdomain(name),
        NameRule::Label => names::bad_label(name),
        NameRule::PathSegment => names::bad_path_segment(name),
    }
}

fn check_rest(object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    for (key, value) in meta::labels(object).into_iter().flatten() {
        if let Some(why) = bad_key(key) {
            causes.push(invalid("metadata.labels", &key.as_str().into(), &why));
        }
        if let Some(why) = bad_label_value(value.as_str().unwrap_or_default()) {
            causes.push(invalid("metadata.labels", value, &why));
        }
    }
    let mut bytes = 0;
    let annotations = meta::at(object, &["metadata", "annotations"]).and_then(Value::as_object);
    for (key, value) in annotations.into_iter().flatten() {
        bytes += key.len() + value.as_str().unwrap_or_default().len();
        if let Some(why) = bad_key(&key.to_lowercase()) {
            causes.push(invalid("metadata.annotations", &key.as_str().into(), &why));
        }
    }
    if bytes > ANNOTATIONS_BYTES_MAX {
        causes.push(too_long("metadata.annotations", ANNOTATIONS_BYTES_MAX as u64));
    }
    causes.extend(check_owners(object));
    let finalizers = meta::finalizers(object);
    for finalizer in &finalizers {
        if let Some(why) = bad_key(finalizer) {
            causes.push(invalid("metadata.finalizers", &(*finalizer).into(), &why));
        }
    }
    if finalizers.contains(&ORPHAN) && finalizers.contains(&FOREGROUND) {
        causes.push(invalid(
            "metadata.finalizers",
            &finalizers.clone().into(),
            &format!("finalizer {ORPHAN} and {FOREGROUND} cannot be both set"),
        ));
    }
    causes
}

fn check_owners(object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let mut controller: Option<String> = None;
    let owners = meta::at(object, &["metadata", "ownerReferences"]).and_then(Value::as_array);
    for owner in owners.into_iter().flatten() {
        let field = |name: &str| format!("metadata.ownerReferences.{name}");
        let text = |name: &str| meta::text(owner, &[name]);
        let mut needs = |name: &str, why: &str| {
            if text(name).is_empty() {
                causes.push(invalid(&field(name), &"".into(), why));
            }
        };
        needs("apiVersion", "version must not be empty");
        needs("kind", "must not be empty");
        needs("name", "must not be empty");
        needs("uid", "must not be empty");
        if text("apiVersion") == "v1" && text("kind") == "Event" {
            causes.push(invalid(
                "metadata.ownerReferences",
                owner,
                "/v1, Kind=Event is disallowed from being an owner",
            ));
        }
        if owner.get("controller") == Some(&Value::Bool(true)) {
            let name = format!("{}/{}", text("kind"), text("name"));
            match &controller {
                Some(first) => causes.push(invalid(
                    "metadata.ownerReferences",
                    owner,
                    &format!(
                        "Only one reference can have Controller set to true. Found \"true\" in \
                         references for {first} and {name}"
                    ),
                )),
                None => controller = Some(name),
            }
        }
    }
    causes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_generated_name_fits_a_label() {
        let name = generate_name(&"x".repeat(100));
        assert_eq!(name.len(), 63);
        assert!(names::bad_label(&name).is_none(), "{name}");
        assert!(generate_name("web-").starts_with("web-"));
    }

    #[test]
    fn an_update_cannot_change_what_is_the_systems() {
        let old = json!({"metadata": {"name": "a", "uid": "u", "generation": 3,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "deletionTimestamp": "2026-01-02T00:00:00Z", "deletionGracePeriodSeconds": 30}});
        let mut new = json!({"metadata": {"name": "a", "generation": 9, "labels": {},
            "creationTimestamp": null, "resourceVersion": "5"}});
        carry_over(&mut new, &old);
        assert_eq!(new, old);
        assert!(check_update(&new, &old).is_empty());
        meta::set(&mut new, "uid", "other");
        meta::set_finalizers(&mut new, &["example.com/late"]);
        let causes = check_update(&new, &old);
        let fields: Vec<_> = causes.iter().map(|it| it.field.as_str()).collect();
        assert_eq!(fields, ["metadata.finalizers", "metadata.uid"]);
    }

    #[test]
    fn bad_metadata_is_named_field_by_field() {
        let object = json!({"metadata": {"name": "a", "labels": {"-": "b c"},
            "finalizers": ["orphan", "foregroundDeletion"],
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p"}]}});
        let fields: Vec<_> = check_rest(&object).into_iter().map(|it| it.field).collect();
        assert_eq!(
            fields,
            [
                "metadata.labels",
                "metadata.labels",
                "metadata.ownerReferences.uid",
                "metadata.finalizers"
            ]
        );
    }
}
