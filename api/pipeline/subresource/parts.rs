//! Subresources that let one part of an object through: what each may change, and its rules.

use serde_json::{Map, Value};

use super::super::change::Part;
use crate::error::Cause;
use crate::object::meta;
use crate::schema::causes::{forbidden, invalid};

/// The part that a subresource stands for; `None` where it is not one of this sort.
pub(super) fn of(sub: &str) -> Option<Part> {
    Some(match sub {
        "ephemeralcontainers" => Part { prepare: only_ephemeral, check: only_added, counts: true },
        "resize" => Part { prepare: only_resources, check: same_containers, counts: true },
        "approval" => Part { prepare: only_conditions, check: no_rules, counts: false },
        "finalize" => Part { prepare: only_finalizers, check: no_rules, counts: false },
        _ => return None,
    })
}

fn no_rules(_: &Value, _: &Value) -> Vec<Cause> {
    Vec::new()
}

/// The old object, with the managedFields of the new.
fn old_but_managed(new: &Value, old: &Value) -> Value {
    let mut kept = old.clone();
    meta::unset(&mut kept, "resourceVersion");
    if let Some(managed) = meta::at(new, &["metadata", "managedFields"]) {
        meta::set(&mut kept, "managedFields", managed.clone());
    }
    kept
}

fn put_spec(kept: &mut Value, new: &Value, field: &str) {
    let Some(spec) = kept.get_mut("spec") else { return };
    meta::copy_field(spec, new.get("spec").unwrap_or(&Value::Null), field);
}

fn only_ephemeral(new: &mut Value, old: &Value) {
    let mut kept = old_but_managed(new, old);
    put_spec(&mut kept, new, "ephemeralContainers");
    *new = kept;
}

/// Ephemeral containers can be added, and neither changed nor taken away.
fn only_added(new: &Value, old: &Value) -> Vec<Cause> {
    let list = |object| {
        let there = meta::at(object, &["spec", "ephemeralContainers"]).and_then(Value::as_array);
        there.cloned().unwrap_or_default()
    };
    let (now, before) = (list(new), list(old));
    let mut causes = Vec::new();
    for (at, container) in before.iter().enumerate() {
        let name = meta::text(container, &["name"]);
        match now.iter().find(|it| meta::text(it, &["name"]) == name) {
            Some(there) if there == container => {}
            Some(_) => causes.push(forbidden(
                &format!("spec.ephemeralContainers[{at}]"),
                &format!("existing ephemeral containers \"{name}\" may not be changed\n"),
            )),
            None => causes.push(forbidden(
                "spec.ephemeralContainers",
                &format!("existing ephemeral containers \"{name}\" may not be removed\n"),
            )),
        }
    }
    let others = ["containers", "initContainers"];
    let taken: Vec<String> = others
        .iter()
        .filter_map(|field| meta::at(new, &["spec", field])?.as_array())
        .flatten()
        .map(|it| meta::text(it, &["name"]).to_owned())
        .collect();
    for (at, container) in now.iter().enumerate() {
        let name = meta::text(container, &["name"]);
        let twice = now[..at].iter().any(|it| meta::text(it, &["name"]) == name);
        if twice || taken.iter().any(|it| it == name) {
            causes.push(Cause {
                reason: "FieldValueDuplicate".into(),
                message: format!("Duplicate value: \"{name}\""),
                field: format!("spec.ephemeralContainers[{at}].name"),
            });
        }
    }
    causes
}

/// Of containers only what they may use, and how they are told.
fn only_resources(new: &mut Value, old: &Value) {
    let mut kept = old_but_managed(new, old);
    for field in ["containers", "initContainers"] {
        let wanted = meta::at(new, &["spec", field]).and_then(Value::as_array).cloned();
        let there = kept.pointer_mut(&format!("/spec/{field}")).and_then(Value::as_array_mut);
        for container in there.into_iter().flatten() {
            let name = meta::text(container, &["name"]).to_owned();
            let wanted = wanted.iter().flatten().find(|it| meta::text(it, &["name"]) == name);
            if let Some(wanted) = wanted {
                meta::copy_field(container, wanted, "resources");
                meta::copy_field(container, wanted, "resizePolicy");
            }
        }
    }
    put_spec(&mut kept, new, "resources");
    *new = kept;
}

fn same_containers(new: &Value, old: &Value) -> Vec<Cause> {
    let names = |object: &Value| -> Vec<String> {
        let there = meta::at(object, &["spec", "containers"]).and_then(Value::as_array);
        let each = there.into_iter().flatten();
        each.map(|it| meta::text(it, &["name"]).to_owned()).collect()
    };
    if names(new) == names(old) {
        Vec::new()
    } else {
        vec![forbidden("spec.containers", "pod resize may not add or remove containers")]
    }
}

/// Of the status the conditions; of the rest what says something about the object as such.
fn only_conditions(new: &mut Value, old: &Value) {
    let mut kept = old_but_managed(new, old);
    meta::copy_field(&mut kept, new, "metadata");
    meta::unset(&mut kept, "resourceVersion");
    if let Some(conditions) = meta::at(new, &["status", "conditions"]) {
        if !kept.get("status").is_some_and(Value::is_object) {
            kept["status"] = Map::new().into();
        }
        kept["status"]["conditions"] = conditions.clone();
    }
    *new = kept;
}

/// A namespace's own finalizers, and those of its metadata.
fn only_finalizers(new: &mut Value, old: &Value) {
    let mut kept = old_but_managed(new, old);
    meta::copy_field(&mut kept, new, "metadata");
    meta::unset(&mut kept, "resourceVersion");
    if !kept.get("spec").is_some_and(Value::is_object) {
        kept["spec"] = Map::new().into();
    }
    put_spec(&mut kept, new, "finalizers");
    *new = kept;
}

/// Refuses what is no count.
pub(super) fn not_negative(field: &str, number: i64) -> Option<Cause> {
    (number < 0).then(|| invalid(field, &number.into(), "must be greater than or equal to 0"))
}
