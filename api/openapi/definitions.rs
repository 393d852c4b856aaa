//! The types of a document, by name, in a form that both versions of OpenAPI are written from.
//!
//! Keeps: every type that is referred to is there, and no two types claim one group, version and kind. One
//! broken reference makes some clients give up on the whole server.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map as Json, Value, json};

use super::META;
use crate::kinds::{Kind, Snapshot};
use crate::object::GroupVersionKind;
use crate::schema::{self, Form, Node, Patch, Presence, Topology};

/// References are `{"$ref": "#/$defs/<name>"}`, and may stand beside a description.
pub(super) type Definitions = BTreeMap<String, Value>;

/// The name of a kind's type: upstream's, or made of the group read backwards.
pub(super) fn type_name(kind: &Kind) -> String {
    if !kind.custom {
        return kind.type_name.to_string();
    }
    let group: Vec<&str> = kind.group.split('.').rev().collect();
    format!("{}.{}.{}", group.join("."), kind.version, kind.kind)
}

pub(super) fn list_name(kind: &Kind) -> String {
    let name = type_name(kind);
    let package = name.rsplit_once('.').map_or("", |(package, _)| package);
    format!("{package}.{}", kind.list_kind)
}

/// The type of what a subresource takes, if it is a type (options of a connection are not).
pub(super) fn type_of(rows: &Snapshot, gvk: &GroupVersionKind) -> Option<String> {
    let version = rows.group(&gvk.group)?.version(&gvk.version)?;
    let sibling = version.kinds.iter().find(|kind| !kind.custom)?;
    let package = sibling.type_name.rsplit_once('.')?.0;
    let name = format!("{package}.{}", gvk.kind);
    Node::find(&name).map(|_| name)
}

/// All types that these kinds need, and those of `others` besides.
pub(super) fn collect(rows: &Snapshot, kinds: &[&Kind], others: &[&str]) -> Definitions {
    let mut wanted: BTreeSet<String> = others.iter().map(|name| (*name).to_owned()).collect();
    let mut gvks: Vec<(String, GroupVersionKind)> = Vec::new();
    let mut made = Definitions::new();
    for kind in kinds {
        let name = type_name(kind);
        if kind.custom {
            made.insert(name.clone(), custom(kind));
        }
        if kind.verbs.list {
            let list = list_name(kind);
            made.insert(list.clone(), list_of(kind, &name));
            let of_list = GroupVersionKind::new(&kind.group, &kind.version, &kind.list_kind);
            gvks.push((list.clone(), of_list));
            wanted.insert(list);
        }
        gvks.push((name.clone(), kind.gvk()));
        wanted.insert(name);
        for gvk in kind.subresources.iter().filter_map(|sub| sub.kind.as_ref()) {
            if let Some(name) = type_of(rows, gvk) {
                gvks.push((name.clone(), gvk.clone()));
                wanted.insert(name);
            }
        }
    }
    for kind in ["APIGroup", "APIGroupList", "APIResourceList", "APIVersions", "Status"] {
        gvks.push((format!("{META}.{kind}"), GroupVersionKind::new("", "v1", kind)));
    }
    // Every group and version has these two.
    for kind in ["DeleteOptions", "WatchEvent"] {
        let versions = rows.groups().iter().flat_map(|group| {
            let builtin = |it: &&crate::kinds::Version| it.kinds.iter().any(|kind| !kind.custom);
            group.versions.iter().filter(builtin).map(|version| (&group.name, &version.name))
        });
        gvks.extend(versions.map(|(group, version)| {
            (format!("{META}.{kind}"), GroupVersionKind::new(group, version, kind))
        }));
    }
    let packages: BTreeSet<&str> = wanted
        .iter()
        .filter_map(|name| Some(name.rsplit_once('.')?.0))
        .chain([META, RUNTIME])
        .collect();
    schema::schemas(
        |name| packages.contains(name),
        |name, schema| {
            made.insert(name.to_owned(), describe(name, schema));
        },
    );
    made.insert(format!("{META}.WatchEvent"), watch_event());
    let mut kept = reachable(made, wanted);
    put_gvks(&mut kept, gvks);
    kept
}

/// Those that the wanted ones refer to, directly or not.
fn reachable(mut all: Definitions, wanted: BTreeSet<String>) -> Definitions {
    let mut kept = Definitions::new();
    let mut open: Vec<String> = wanted.into_iter().collect();
    while let Some(name) = open.pop() {
        if let Some(schema) = all.remove(&name) {
            references(&schema, &mut open);
            kept.insert(name, schema);
        }
    }
    kept
}

fn references(schema: &Value, found: &mut Vec<String>) {
    match schema {
        Value::Object(map) => {
            if let Some(name) = map.get("$ref").and_then(Value::as_str).and_then(target) {
                found.push(name.to_owned());
            }
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

/// The name that a reference is to.
pub(super) fn target(reference: &str) -> Option<&str> {
    reference.strip_prefix("#/$defs/")
}

fn put_gvks(definitions: &mut Definitions, gvks: Vec<(String, GroupVersionKind)>) {
    let mut claimed = BTreeSet::new();
    for (name, gvk) in gvks {
        let Some(schema) = definitions.get_mut(&name).and_then(Value::as_object_mut) else {
            continue;
        };
        if claimed.insert(gvk.clone()) {
            let list = schema
                .entry("x-kubernetes-group-version-kind")
                .or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(list) = list {
                list.push(gvk_json(&gvk));
            }
        }
    }
}

pub(super) fn gvk_json(gvk: &GroupVersionKind) -> Value {
    json!({"group": gvk.group, "version": gvk.version, "kind": gvk.kind})
}

/// A schema of `k8s-openapi` with what our nodes know besides.
fn describe(name: &str, mut schema: Value) -> Value {
    let Some(Node { form: Form::Object(object), .. }) = Node::find(name) else {
        return schema;
    };
    if object.atomic {
        schema["x-kubernetes-map-type"] = "atomic".into();
    }
    for field in &object.fields {
        let Some(Value::Object(property)) = schema["properties"].get_mut(&*field.name) else {
            continue;
        };
        put_topology(property, &field.node);
        put_patch(property, &field.patch);
        let structure = matches!(field.node.form, Form::Named(_));
        match &field.node.default {
            Some(default) => property.insert("default".into(), default.clone()),
            None if structure && field.presence == Presence::Always => {
                property.insert("default".into(), json!({}))
            }
            None => None,
        };
    }
    schema
}

fn put_topology(property: &mut Json<String, Value>, node: &Node) {
    match &node.form {
        Form::List(list) => match &list.topology {
            Topology::Atomic => {}
            Topology::Set => {
                property.insert("x-kubernetes-list-type".into(), "set".into());
            }
            Topology::Map(keys) => {
                let keys: Vec<&str> = keys.iter().map(AsRef::as_ref).collect();
                property.insert("x-kubernetes-list-type".into(), "map".into());
                property.insert("x-kubernetes-list-map-keys".into(), keys.into());
            }
        },
        Form::Map(map) if map.atomic => {
            property.insert("x-kubernetes-map-type".into(), "atomic".into());
        }
        _ => {}
    }
}

fn put_patch(property: &mut Json<String, Value>, patch: &Patch) {
    let strategies: Vec<&str> =
        [("merge", patch.merge), ("retainKeys", patch.retain_keys), ("replace", patch.replace)]
            .into_iter()
            .filter_map(|(name, has)| has.then_some(name))
            .collect();
    if !strategies.is_empty() {
        property.insert("x-kubernetes-patch-strategy".into(), strategies.join(",").into());
    }
    if let Some(key) = &patch.merge_key {
        property.insert("x-kubernetes-patch-merge-key".into(), key.as_ref().into());
    }
}

const RUNTIME: &str = "io.k8s.apimachinery.pkg.runtime";
const API_VERSION: &str = "The version of this representation: group and version, as in apps/v1.";
const KIND: &str = "The kind of object this is, in CamelCase.";

fn list_of(kind: &Kind, name: &str) -> Value {
    json!({
        "description": format!("{} is a list of {}", kind.list_kind, kind.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"description": API_VERSION, "type": "string"},
            "kind": {"description": KIND, "type": "string"},
            "items": {
                "description": "The objects.",
                "type": "array",
                "items": reference(name),
            },
            "metadata": {
                "$ref": format!("#/$defs/{META}.ListMeta"),
                "description": "Metadata of the list.",
                "default": {},
            },
        },
    })
}

pub(super) fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/$defs/{name}")})
}

fn watch_event() -> Value {
    json!({
        "description": "One event of a watch.",
        "type": "object",
        "required": ["type", "object"],
        "properties": {
            "type": {"type": "string"},
            "object": {
                "$ref": "#/$defs/io.k8s.apimachinery.pkg.runtime.RawExtension",
                "description": "The object after the event; a Status if the type is ERROR.",
            },
        },
    })
}

/// A custom resource's schema as its owner wrote it, and what every object has.
fn custom(kind: &Kind) -> Value {
    let mut schema = match kind.published.as_deref() {
        Some(Value::Object(schema)) => Value::Object(schema.clone()),
        _ => json!({"type": "object"}),
    };
    if !schema["properties"].is_object() {
        schema["properties"] = json!({});
    }
    let properties = &mut schema["properties"];
    properties["apiVersion"] = json!({"description": API_VERSION, "type": "string"});
    properties["kind"] = json!({"description": KIND, "type": "string"});
    properties["metadata"] = json!({
        "$ref": format!("#/$defs/{META}.ObjectMeta"),
        "description": "Standard object metadata.",
    });
    schema
}
