//! A schema of `k8s-openapi` and the facts on its type become a node.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;
use serde_json::{Map as Json, Value};

use super::facts::{self, FieldFacts, TypeFacts};
use crate::schema::{
    Field, Form, List, Map, Node, Object, Patch, Presence, Text, Topology, TypeName,
};

/// One of each type's name, for good: [`Form::Named`] holds it.
pub(crate) fn type_name(name: &str) -> &'static TypeName {
    type Names = HashMap<&'static str, &'static TypeName>;
    static NAMES: LazyLock<Mutex<Names>> = LazyLock::new(Mutex::default);
    let mut names = NAMES.lock();
    if let Some(known) = names.get(name) {
        return known;
    }
    let kept: &'static TypeName = Box::leak(Box::new(TypeName::new(Box::leak(name.into()))));
    names.insert(kept.as_str(), kept);
    kept
}

/// The name alone.
pub(crate) fn intern(name: &str) -> &'static str {
    type_name(name).as_str()
}

/// The node of the type itself.
pub(super) fn node(name: &str, schema: &Value) -> Node {
    let form = match special(name) {
        Some(form) => form,
        None => form(schema, &facts::of(name)),
    };
    Node { form, ..Node::default() }
}

/// Types whose JSON is not what their schema says. Those that hold any JSON are told apart by name where it
/// matters (protobuf), so a place never becomes one of them itself: it names it.
fn special(name: &str) -> Option<Form> {
    Some(match name.rsplit_once('.')?.1 {
        "Quantity" => Form::Quantity,
        "IntOrString" => Form::IntOrString,
        "Time" => Form::String(Text::Time),
        "MicroTime" => Form::String(Text::MicroTime),
        "RawExtension"
        | "FieldsV1"
        | "JSON"
        | "JSONSchemaPropsOrArray"
        | "JSONSchemaPropsOrBool"
        | "JSONSchemaPropsOrStringArray" => Form::Any,
        "Patch" if name.contains(".meta.") => Form::Any,
        _ => return None,
    })
}

fn form(schema: &Value, of: &TypeFacts) -> Form {
    if let Some(target) = schema["$ref"].as_str() {
        let name = target.rsplit('/').next().unwrap_or(target);
        return match special(name) {
            Some(form) if !matches!(form, Form::Any) => form,
            _ => Form::Named(type_name(name)),
        };
    }
    match schema["type"].as_str() {
        Some("string") if schema["format"] == "byte" => Form::String(Text::Bytes),
        Some("string") => Form::String(Text::Plain),
        Some("boolean") => Form::Boolean,
        Some("integer") => Form::Integer { bits32: schema["format"] == "int32" },
        Some("number") => Form::Number,
        Some("array") => Form::List(List {
            items: Arc::new(place(&schema["items"])),
            topology: Topology::Atomic,
        }),
        Some("object") if schema["additionalProperties"].is_object() => Form::Map(Map {
            values: Arc::new(place(&schema["additionalProperties"])),
            atomic: false,
        }),
        Some("object") => Form::Object(object(schema, of)),
        _ => Form::Any,
    }
}

fn place(schema: &Value) -> Node {
    Node { form: form(schema, &TypeFacts::default()), ..Node::default() }
}

fn object(schema: &Value, of: &TypeFacts) -> Object {
    let none = Json::new();
    let required = schema["required"].as_array().map_or(&[][..], Vec::as_slice);
    let mut fields: Vec<Field> = schema["properties"]
        .as_object()
        .unwrap_or(&none)
        .iter()
        .map(|(name, schema)| {
            let known = of.fields.iter().find(|(field, _)| field == name).map(|(_, facts)| facts);
            field(name, schema, required.iter().any(|it| it == name), known)
        })
        .collect();
    fields.sort_by(|a, b| a.name.cmp(&b.name));
    Object { fields, atomic: of.atomic }
}

fn field(name: &str, schema: &Value, required: bool, known: Option<&FieldFacts>) -> Field {
    let mut node = place(schema);
    let mut presence = usual_presence(&node.form, required);
    let mut patch = Patch::default();
    if let Some(known) = known {
        match &mut node.form {
            Form::List(list) => list.topology = known.topology.clone(),
            Form::Map(map) => map.atomic = known.atomic,
            _ => {}
        }
        node.default.clone_from(&known.default);
        patch = known.patch.clone();
        presence = known.presence.unwrap_or(presence);
    }
    Field { name: Arc::from(name), node, required, patch, presence }
}

/// How Go's types are usually written: what is required has no `omitempty`, structures are pointers.
fn usual_presence(form: &Form, required: bool) -> Presence {
    match form {
        Form::Named(_) | Form::Object(_) | Form::Any => Presence::AsSent,
        Form::Quantity | Form::IntOrString => Presence::AsSent,
        Form::String(Text::Time | Text::MicroTime) => Presence::AsSent,
        _ if required => Presence::Always,
        _ => Presence::UnlessZero,
    }
}
