//! What a structural schema refuses, and in which words.

use serde_json::json;

use super::*;
use crate::schema::decode::{Syntax, decode, reshape};
use crate::schema::{custom, defaults};

/// `field: message` for all that is wrong.
fn wrong(schema: &Value, spec: &Value) -> Vec<String> {
    let node = custom::node(&json!({"type": "object", "properties": {"spec": schema}}));
    let object = json!({"spec": spec});
    let told = |cause: Cause| format!("{}: {}", cause.field, cause.message);
    validate(&node, &object, "").into_iter().map(told).collect()
}

#[test]
fn what_is_wrong_is_told_in_upstreams_words() {
    for (schema, spec, told) in [
        (
            json!({"type": "integer"}),
            json!("three"),
            r#"spec: Invalid value: "string": spec in body must be of type integer: "string""#,
        ),
        (
            json!({"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}}}),
            json!({}),
            "spec.a: Required value",
        ),
        (
            json!({"type": "string", "enum": ["a", "b"]}),
            json!("c"),
            r#"spec: Unsupported value: "c": supported values: "a", "b""#,
        ),
        (
            json!({"type": "string", "pattern": "^a+$"}),
            json!("b"),
            r#"spec: Invalid value: "b": spec in body should match '^a+$'"#,
        ),
        (
            json!({"type": "integer", "maximum": 3}),
            json!(4),
            "spec: Invalid value: 4: spec in body should be less than or equal to 3",
        ),
        (
            json!({"type": "integer", "minimum": 3, "exclusiveMinimum": true}),
            json!(3),
            "spec: Invalid value: 3: spec in body should be greater than 3",
        ),
        (
            json!({"type": "integer", "multipleOf": 5}),
            json!(7),
            "spec: Invalid value: 7: spec in body should be a multiple of 5",
        ),
        (
            json!({"type": "string", "maxLength": 2}),
            json!("äöü"),
            "spec: Too long: may not be more than 2 bytes",
        ),
        (
            json!({"type": "string", "minLength": 2}),
            json!("a"),
            r#"spec: Invalid value: "a": spec in body should be at least 2 chars long"#,
        ),
        (
            json!({"type": "array", "maxItems": 1, "items": {"type": "integer"}}),
            json!([1, 2]),
            "spec: Too many: 2: must have at most 1 item",
        ),
        (
            json!({"type": "array", "minItems": 1, "items": {"type": "integer"}}),
            json!([]),
            "spec: Invalid value: []: spec in body should have at least 1 items",
        ),
        (
            json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}),
            json!(["a", "b", "a"]),
            r#"spec[2]: Duplicate value: "a""#,
        ),
        (
            json!({"type": "array", "x-kubernetes-list-type": "map",
                   "x-kubernetes-list-map-keys": ["k"],
                   "items": {"type": "object", "properties": {"k": {"type": "string"}}}}),
            json!([{"k": "a"}, {"k": "a"}]),
            r#"spec[1]: Duplicate value: {"k":"a"}"#,
        ),
        (
            json!({"type": "string", "format": "date-time"}),
            json!("today"),
            r#"spec: Invalid value: "today": spec in body must be of type date-time: "today""#,
        ),
        (
            json!({"type": "string"}),
            Value::Null,
            r#"spec: Invalid value: "null": spec in body must be of type string: "null""#,
        ),
        (
            json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                   "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}),
            json!({"a": 1, "b": 2}),
            concat!(
                r#"spec: Invalid value: {"a":1,"b":2}: "spec" must validate one and only "#,
                "one schema (oneOf). Found 2 valid alternatives"
            ),
        ),
        (
            json!({"type": "string", "not": {"enum": ["x"]}}),
            json!("x"),
            r#"spec: Invalid value: "x": "spec" must not validate the schema (not)"#,
        ),
    ] {
        assert_eq!(wrong(&schema, &spec), [told], "{schema}");
    }
}

#[test]
fn what_keeps_the_rules_is_not_complained_of() {
    for (schema, spec) in [
        (json!({"type": "integer"}), json!(1.0)),
        (json!({"type": "string", "nullable": true}), Value::Null),
        (
            json!({"anyOf": [{"type": "integer"}, {"type": "string"}],
                "x-kubernetes-int-or-string": true}),
            json!("50%"),
        ),
        (
            json!({"anyOf": [{"type": "integer"}, {"type": "string"}],
                "x-kubernetes-int-or-string": true}),
            json!(5),
        ),
        (json!({"type": "number", "enum": [1, 2.5]}), json!(1.0)),
        (json!({"type": "string", "format": "nobody-knows"}), json!("x")),
        (
            json!({"type": "string", "format": "uuid"}),
            json!("123e4567-e89b-12d3-a456-426614174000"),
        ),
        (json!({"type": "string", "format": "mac"}), json!("00:11:22:33:44:55")),
        (
            json!({"type": "object", "properties": {
                "a": {"type": "string"}, "b": {"type": "string"}},
                   "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}),
            json!({"b": "x"}),
        ),
        (
            json!({"type": "object", "additionalProperties": {"type": "integer"}}),
            json!({"x": 1, "y": 2}),
        ),
    ] {
        assert_eq!(wrong(&schema, &spec), Vec::<String>::new(), "{schema}");
    }
}

#[test]
fn unknown_fields_of_custom_resources_are_pruned_and_told() {
    let node = custom::node(&json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {
            "known": {"type": "integer"},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                     "properties": {"tight": {"type": "object"}}},
            "pod": {"type": "object", "x-kubernetes-embedded-resource": true,
                    "properties": {"spec": {"type": "object"}}},
        }},
    }}));
    let text = br#"{"apiVersion": "example.com/v1", "kind": "Widget",
        "metadata": {"name": "w", "unknownMeta": 1, "labels": {}},
        "spec": {"known": "wrong", "gone": null, "free": {"any": {"thing": 1.0}, "tight": {"x": 1}},
                 "pod": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "other": 1}},
        "spec": {"known": "wrong", "empty": null,
                 "free": {"any": {"thing": 1.0, "thing": 2}, "tight": {"x": 1}},
                 "pod": {"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p"}, "other": 1}}}"#;
    let read = decode(&node, Syntax::Json, text).unwrap();
    assert_eq!(
        read.value,
        json!({
            "apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"},
            "spec": {"known": "wrong", "free": {"any": {"thing": 2}, "tight": {}},
                     "pod": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}},
        })
    );
    assert_eq!(
        read.strict,
        [
            r#"unknown field "metadata.unknownMeta""#,
            r#"unknown field "spec.gone""#,
            r#"unknown field "spec.free.tight.x""#,
            r#"unknown field "spec.pod.other""#,
            r#"duplicate field "spec""#,
            r#"unknown field "spec.empty""#,
            r#"duplicate field "spec.free.any.thing""#,
        ]
    );
    assert_eq!(reshape(&node, read.value.clone()).unwrap().value, read.value);
}

#[test]
fn defaults_are_put_where_nothing_is() {
    let node = custom::node(&json!({"type": "object", "properties": {
        "spec": {"type": "object", "default": {}, "properties": {
            "a": {"type": "integer", "default": 1},
            "b": {"type": "string", "nullable": true, "default": "x"},
            "c": {"type": "string", "default": "y"},
            "list": {"type": "array", "items": {"type": "object", "properties": {
                "p": {"type": "string", "default": "TCP"}}}},
        }},
    }}));
    let filled = |mut value: Value| {
        defaults::apply(&node, &mut value);
        value
    };
    assert_eq!(filled(json!({})), json!({"spec": {"a": 1, "b": "x", "c": "y"}}));
    assert_eq!(
        filled(json!({"spec": {"a": 0, "b": null, "c": null, "list": [{}, {"p": "UDP"}]}})),
        json!({"spec": {"a": 0, "b": null, "c": "y", "list": [{"p": "TCP"}, {"p": "UDP"}]}})
    );
    let mut pod =
        json!({"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80}]}]}});
    defaults::apply(&Node::named("io.k8s.api.core.v1.Pod"), &mut pod);
    assert_eq!(
        pod,
        json!({"spec": {"containers": [{"name": "c", "ports": [
            {"containerPort": 80, "protocol": "TCP"}]}]}})
    );
}

#[test]
fn a_schema_that_is_not_structural_is_told_why() {
    let told = |schema: Value| -> Vec<String> {
        let causes = custom::structural(&schema, "spec.validation.openAPIV3Schema");
        let short = |cause: Cause| {
            let field = cause.field.replace("spec.validation.openAPIV3Schema", "~");
            format!("{field}: {}", cause.message)
        };
        causes.into_iter().map(short).collect()
    };
    assert_eq!(told(json!({})), ["~.type: Required value: must not be empty at the root"]);
    assert_eq!(
        told(json!({"type": "object", "properties": {
            "a": {},
            "b": {"type": "array"},
            "c": {"type": "array", "items": {}},
            "d": {"type": "string", "anyOf": [{"type": "string"}]},
            "e": {"x-kubernetes-int-or-string": true,
                "anyOf": [{"type": "integer"}, {"type": "string"}]},
            "metadata": {"type": "object", "properties": {"labels": {"type": "object"}}},
        }})),
        [
            "~.properties[a].type: Required value: must not be empty for specified object fields",
            "~.properties[b].items: Required value: must be specified",
            "~.properties[c].items.type: Required value: \
                must not be empty for specified array items",
            "~.properties[d].anyOf[0].type: Forbidden: must be empty to be structural",
            "~.properties[metadata]: Forbidden: must not specify anything other than name and \
             generateName, but metadata is implicitly specified",
        ]
    );
    let fine = json!({"type": "object", "properties": {
        "metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 5}}},
        "spec": {"type": "object", "additionalProperties": {"type": "string"}},
    }});
    assert_eq!(told(fine), Vec::<String>::new());
}
