//! The schema of a CustomResourceDefinition becomes nodes, and is checked for being structural.
//!
//! Structural means: every field has one type, said where the field is, and the logical keywords (`allOf`,
//! `anyOf`, `oneOf`, `not`) only narrow values. Only then is it known what to prune and where defaults go.

use std::sync::Arc;

use serde_json::{Map as Json, Value, json};

use super::{Field, Form, List, Map, Node, Object, Rules, Text, Topology, causes};
use crate::error::Cause;

const METADATA: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The node of a custom resource with this `openAPIV3Schema`: with `apiVersion`, `kind` and `metadata`, whether
/// or not the schema speaks of them. What the schema says wrongly is taken for not said.
#[must_use]
pub fn node(schema: &Value) -> Node {
    let mut root = build(schema, Depth::Described);
    if !matches!(root.form, Form::Object(_)) {
        root.form = Form::Object(Object::default());
    }
    let Form::Object(object) = &mut root.form else { return root };
    let text = || Node { form: Form::String(Text::Plain), ..Node::default() };
    for (name, node) in
        [("apiVersion", text()), ("kind", text()), ("metadata", Node::named(METADATA))]
    {
        object.fields.retain(|field| &*field.name != name);
        object.fields.push(Field { name: name.into(), node, ..Field::default() });
    }
    sort(object);
    root
}

fn sort(object: &mut Object) {
    object.fields.sort_by(|a, b| a.name.cmp(&b.name));
}

/// Whether a schema describes a place, or only narrows one that is described elsewhere.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Described,
    Narrowing,
}

fn is(schema: &Value, key: &str) -> bool {
    schema.get(key) == Some(&Value::Bool(true))
}

fn build(schema: &Value, depth: Depth) -> Node {
    let preserve_unknown =
        is(schema, "x-kubernetes-preserve-unknown-fields") || depth == Depth::Narrowing;
    Node {
        form: form(schema, depth, preserve_unknown),
        nullable: is(schema, "nullable"),
        preserve_unknown,
        embedded: is(schema, "x-kubernetes-embedded-resource"),
        default: schema.get("default").filter(|it| !it.is_null()).cloned(),
        rules: rules(schema),
    }
}

fn form(schema: &Value, depth: Depth, preserve_unknown: bool) -> Form {
    if is(schema, "x-kubernetes-int-or-string") {
        return Form::IntOrString;
    }
    let narrowing = depth == Depth::Narrowing;
    match schema["type"].as_str() {
        Some("string") => Form::String(Text::Plain),
        Some("integer") => Form::Integer { bits32: false },
        Some("number") => Form::Number,
        Some("boolean") => Form::Boolean,
        Some("array") => list(schema, depth),
        Some("object") => object_or_map(schema, depth, preserve_unknown),
        _ if schema["properties"].is_object() => object_or_map(schema, depth, preserve_unknown),
        _ if narrowing && schema["required"].is_array() => {
            object_or_map(schema, depth, preserve_unknown)
        }
        _ if narrowing && schema["items"].is_object() => list(schema, depth),
        _ if narrowing && schema["additionalProperties"].is_object() => {
            object_or_map(schema, depth, preserve_unknown)
        }
        _ => Form::Any,
    }
}

fn list(schema: &Value, depth: Depth) -> Form {
    let topology = match schema["x-kubernetes-list-type"].as_str() {
        Some("set") => Topology::Set,
        Some("map") => {
            let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten();
            Topology::Map(keys.filter_map(Value::as_str).map(Arc::from).collect())
        }
        _ => Topology::Atomic,
    };
    Form::List(List { items: Arc::new(build(&schema["items"], depth)), topology })
}

fn object_or_map(schema: &Value, depth: Depth, preserve_unknown: bool) -> Form {
    let atomic = schema["x-kubernetes-map-type"] == "atomic";
    let properties = schema["properties"].as_object();
    match &schema["additionalProperties"] {
        values @ Value::Object(_) if properties.is_none() => {
            return Form::Map(Map { values: Arc::new(build(values, depth)), atomic });
        }
        Value::Bool(true) if properties.is_none() => {
            let values = Node { nullable: true, preserve_unknown: true, ..Node::default() };
            return Form::Map(Map { values: Arc::new(values), atomic });
        }
        _ => {}
    }
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let none = Json::new();
    let properties = properties.unwrap_or(&none);
    let mut fields: Vec<Field> = properties
        .iter()
        .map(|(name, schema)| Field {
            name: name.as_str().into(),
            node: build(schema, depth),
            required: required.contains(&name.as_str()),
            ..Field::default()
        })
        .collect();
    // What is required but not described is still required; where it would be pruned, it can never be there.
    for name in required.iter().filter(|name| !properties.contains_key(**name)) {
        if preserve_unknown {
            let node = Node { nullable: true, preserve_unknown, ..Node::default() };
            let name: Arc<str> = (*name).into();
            fields.push(Field { name, node, required: true, ..Field::default() });
        }
    }
    let mut object = Object { fields, atomic };
    sort(&mut object);
    object.fields.dedup_by(|a, b| a.name == b.name);
    Form::Object(object)
}

fn rules(schema: &Value) -> Option<Box<Rules>> {
    let number = |key: &str| schema[key].as_f64();
    let count = |key: &str| schema[key].as_u64();
    let all = |key: &str| -> Vec<Node> {
        let list = schema[key].as_array().into_iter().flatten();
        list.map(|it| build(it, Depth::Narrowing)).collect()
    };
    let pattern = schema["pattern"]
        .as_str()
        .and_then(|text| Some((text.to_owned(), Arc::new(regex::Regex::new(text).ok()?))));
    let rules = Rules {
        allowed: schema["enum"].as_array().cloned(),
        pattern,
        format: schema["format"].as_str().map(str::to_owned),
        minimum: number("minimum"),
        exclusive_minimum: is(schema, "exclusiveMinimum"),
        maximum: number("maximum"),
        exclusive_maximum: is(schema, "exclusiveMaximum"),
        multiple_of: number("multipleOf"),
        length_min: count("minLength"),
        length_max: count("maxLength"),
        items_min: count("minItems"),
        items_max: count("maxItems"),
        properties_min: count("minProperties"),
        properties_max: count("maxProperties"),
        all_of: all("allOf"),
        any_of: all("anyOf"),
        one_of: all("oneOf"),
        not: schema["not"].is_object().then(|| Box::new(build(&schema["not"], Depth::Narrowing))),
    };
    (!rules.is_empty()).then(|| Box::new(rules))
}

impl Rules {
    fn is_empty(&self) -> bool {
        let Rules {
            allowed,
            pattern,
            format,
            minimum,
            exclusive_minimum: _,
            maximum,
            exclusive_maximum: _,
            multiple_of,
            length_min,
            length_max,
            items_min,
            items_max,
            properties_min,
            properties_max,
            all_of,
            any_of,
            one_of,
            not,
        } = self;
        allowed.is_none()
            && pattern.is_none()
            && format.is_none()
            && [minimum, maximum, multiple_of].iter().all(|it| it.is_none())
            && [length_min, length_max, items_min, items_max, properties_min, properties_max]
                .iter()
                .all(|it| it.is_none())
            && [all_of, any_of, one_of].iter().all(|it| it.is_empty())
            && not.is_none()
    }
}

/// Why a schema is not structural; nothing if it is. `at` is its path in the definition.
#[must_use]
pub fn structural(schema: &Value, at: &str) -> Vec<Cause> {
    let mut found = Vec::new();
    described(schema, at, Level::Root, &mut found);
    found
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Field,
    Item,
}

fn described(schema: &Value, at: &str, level: Level, found: &mut Vec<Cause>) {
    let kind = schema["type"].as_str().unwrap_or_default();
    if kind == "array" && !schema["items"].is_object() {
        found.push(causes::required(&format!("{at}.items"), "must be specified"));
    }
    if schema["items"].is_object() {
        described(&schema["items"], &format!("{at}.items"), Level::Item, found);
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        described(property, &format!("{at}.properties[{name}]"), Level::Field, found);
    }
    let additional = schema.get("additionalProperties");
    if let Some(additional) = additional {
        let at = format!("{at}.additionalProperties");
        if level == Level::Root {
            found.push(causes::forbidden(&at, "must not be used at the root"));
        }
        if schema["properties"].as_object().is_some_and(|it| !it.is_empty()) {
            found.push(causes::forbidden(
                &at,
                "additionalProperties and properties are mutual exclusive",
            ));
        }
        if additional.is_object() {
            described(additional, &at, Level::Field, found);
        }
    }
    let (preserve, either, embedded) = (
        is(schema, "x-kubernetes-preserve-unknown-fields"),
        is(schema, "x-kubernetes-int-or-string"),
        is(schema, "x-kubernetes-embedded-resource"),
    );
    let excluded = [
        ("x-kubernetes-preserve-unknown-fields", preserve),
        ("x-kubernetes-embedded-resource", embedded),
    ];
    for (key, set) in excluded {
        if either && set {
            let detail = "must be false if x-kubernetes-int-or-string is true";
            found.push(causes::invalid(&format!("{at}.{key}"), &true.into(), detail));
        }
    }
    let at_type = format!("{at}.type");
    let detail = "must be object if x-kubernetes-embedded-resource is true";
    if embedded && kind.is_empty() {
        found.push(causes::required(&at_type, detail));
    } else if embedded && kind != "object" {
        found.push(causes::invalid(&at_type, &schema["type"], detail));
    } else if kind.is_empty() && !either && !preserve {
        let detail = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        found.push(causes::required(&at_type, detail));
    }
    if level == Level::Root && !kind.is_empty() && kind != "object" {
        found.push(causes::invalid(&at_type, &schema["type"], "must be object at the root"));
    }
    if level == Level::Root || embedded {
        implicit(schema, at, level, found);
    }
    if embedded && !preserve && schema["properties"].as_object().is_none_or(Json::is_empty) {
        let detail = "must not be empty if x-kubernetes-embedded-resource is true without \
                      x-kubernetes-preserve-unknown-fields";
        found.push(causes::required(&format!("{at}.properties"), detail));
    }
    narrowings(schema, at, found);
}

/// What every object has may be narrowed only so far.
fn implicit(schema: &Value, at: &str, level: Level, found: &mut Vec<Cause>) {
    let properties = &schema["properties"];
    for (name, kind) in [("kind", "string"), ("apiVersion", "string"), ("metadata", "object")] {
        let Some(property) = properties.get(name) else { continue };
        if property["type"] != kind {
            let path = format!("{at}.properties[{name}].type");
            found.push(causes::invalid(&path, &property["type"], &format!("must be {kind}")));
        }
    }
    if let (Level::Root, Some(metadata)) = (level, properties["metadata"].as_object()) {
        let known = |key: &String| matches!(key.as_str(), "type" | "properties" | "description");
        let names = metadata.get("properties").and_then(Value::as_object);
        let other = |name: &String| name != "name" && name != "generateName";
        if !metadata.keys().all(known) || names.is_some_and(|it| it.keys().any(other)) {
            let detail = "must not specify anything other than name and generateName, but metadata \
                          is implicitly specified";
            found.push(causes::forbidden(&format!("{at}.properties[metadata]"), detail));
        }
    }
}

/// The logical keywords, and the one form of them that says integer or string.
fn narrowings(schema: &Value, at: &str, found: &mut Vec<Cause>) {
    let either = json!([{"type": "integer"}, {"type": "string"}]);
    for key in ["allOf", "anyOf", "oneOf"] {
        for (index, narrowing) in schema[key].as_array().into_iter().flatten().enumerate() {
            if key == "anyOf" && schema[key] == either {
                continue;
            }
            let at = format!("{at}.{key}[{index}]");
            if key == "allOf" && index == 0 && narrowing["anyOf"] == either {
                let mut rest = narrowing.clone();
                rest["anyOf"] = Value::Null;
                self::narrowing(&rest, &at, found);
            } else {
                self::narrowing(narrowing, &at, found);
            }
        }
    }
    if schema["not"].is_object() {
        narrowing(&schema["not"], &format!("{at}.not"), found);
    }
    if let Some(pattern) = schema["pattern"].as_str()
        && let Err(error) = regex::Regex::new(pattern)
    {
        let detail = format!("must be a valid regular expression, but isn't: {error}");
        found.push(causes::invalid(&format!("{at}.pattern"), &schema["pattern"], &detail));
    }
}

fn narrowing(schema: &Value, at: &str, found: &mut Vec<Cause>) {
    narrowings(schema, at, found);
    if schema["items"].is_object() {
        narrowing(&schema["items"], &format!("{at}.items"), found);
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        narrowing(property, &format!("{at}.properties[{name}]"), found);
    }
    for (key, detail) in [
        ("type", "must be empty to be structural"),
        ("additionalProperties", "must be undefined to be structural"),
        ("default", "must be undefined to be structural"),
        ("title", "must be empty to be structural"),
        ("description", "must be empty to be structural"),
        ("nullable", "must be false to be structural"),
        ("x-kubernetes-preserve-unknown-fields", "must be false to be structural"),
        ("x-kubernetes-embedded-resource", "must be false to be structural"),
        ("x-kubernetes-int-or-string", "must be false to be structural"),
        ("x-kubernetes-list-map-keys", "must be empty to be structural"),
        ("x-kubernetes-list-type", "must be undefined to be structural"),
        ("x-kubernetes-map-type", "must be undefined to be structural"),
    ] {
        let said = match schema.get(key) {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::String(text)) => !text.is_empty(),
            Some(_) => true,
        };
        if said {
            found.push(causes::forbidden(&format!("{at}.{key}"), detail));
        }
    }
}
