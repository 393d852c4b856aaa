//! OpenAPI 2 as protobuf: gnostic's `openapi.v2.Document`, which client-go reads.
//!
//! Made from the finished JSON, so both forms say the same. Field numbers are those of
//! `openapiv2/OpenAPIv2.proto`; only messages that our documents need are here.

use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::{Map as Json, Value};

/// A message while it is written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn bytes(&mut self, number: u32, bytes: &[u8]) {
        encode_key(number, WireType::LengthDelimited, &mut self.0);
        encode_varint(bytes.len() as u64, &mut self.0);
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, number: u32, message: Message) {
        self.bytes(number, &message.0);
    }

    fn text(&mut self, number: u32, value: &Value) {
        if let Some(text) = value.as_str().filter(|text| !text.is_empty()) {
            self.bytes(number, text.as_bytes());
        }
    }

    fn texts(&mut self, number: u32, value: &Value) {
        for text in value.as_array().into_iter().flatten().filter_map(Value::as_str) {
            self.bytes(number, text.as_bytes());
        }
    }

    fn flag(&mut self, number: u32, value: &Value) {
        if value == &Value::Bool(true) {
            encode_key(number, WireType::Varint, &mut self.0);
            self.0.push(1);
        }
    }

    fn integer(&mut self, number: u32, value: &Value) {
        if let Some(integer) = value.as_i64().filter(|integer| *integer != 0) {
            encode_key(number, WireType::Varint, &mut self.0);
            encode_varint(integer.cast_unsigned(), &mut self.0);
        }
    }

    fn double(&mut self, number: u32, value: &Value) {
        if let Some(double) = value.as_f64().filter(|double| *double != 0.0) {
            encode_key(number, WireType::SixtyFourBit, &mut self.0);
            self.0.extend_from_slice(&double.to_le_bytes());
        }
    }

    /// A `Named…`: the name and the value as a pair.
    fn named(&mut self, number: u32, name: &str, value: Message) {
        let mut pair = Message::default();
        pair.bytes(1, name.as_bytes());
        pair.message(2, value);
        self.message(number, pair);
    }

    /// `Any`, whose text is YAML: JSON is YAML too.
    fn any(&mut self, number: u32, value: &Value) {
        if !value.is_null() {
            self.message(number, any(value));
        }
    }

    /// Everything that begins with `x-`.
    fn extensions(&mut self, number: u32, of: &Json<String, Value>) {
        for (name, value) in of.iter().filter(|(name, _)| name.starts_with("x-")) {
            self.named(number, name, any(value));
        }
    }
}

fn any(value: &Value) -> Message {
    let mut message = Message::default();
    message.bytes(2, format!("{value}\n").as_bytes());
    message
}

/// The document as protobuf.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, &document["swagger"]);
    let mut info = Message::default();
    info.text(1, &document["info"]["title"]);
    info.text(2, &document["info"]["version"]);
    out.message(2, info);
    let mut paths = Message::default();
    for (name, item) in entries(&document["paths"]) {
        paths.named(2, name, path(item));
    }
    out.message(8, paths);
    out.message(9, named_schemas(&document["definitions"]));
    for requirement in document["security"].as_array().into_iter().flatten() {
        let mut message = Message::default();
        for (name, scopes) in entries(requirement) {
            let mut list = Message::default();
            list.texts(1, scopes);
            message.named(1, name, list);
        }
        out.message(12, message);
    }
    let mut security = Message::default();
    for (name, scheme) in entries(&document["securityDefinitions"]) {
        let mut key = Message::default();
        key.text(1, &scheme["type"]);
        key.text(2, &scheme["name"]);
        key.text(3, &scheme["in"]);
        key.text(4, &scheme["description"]);
        let mut item = Message::default();
        item.message(2, key);
        security.named(1, name, item);
    }
    out.message(13, security);
    out.0
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// `Definitions` and `Properties` are alike.
fn named_schemas(schemas: &Value) -> Message {
    let mut out = Message::default();
    for (name, it) in entries(schemas) {
        out.named(1, name, schema(it));
    }
    out
}

fn schema(schema_json: &Value) -> Message {
    let mut out = Message::default();
    let it = |key: &str| schema_json.get(key).unwrap_or(&Value::Null);
    out.text(1, it("$ref"));
    out.text(2, it("format"));
    out.text(3, it("title"));
    out.text(4, it("description"));
    out.any(5, it("default"));
    out.double(6, it("multipleOf"));
    out.double(7, it("maximum"));
    out.flag(8, it("exclusiveMaximum"));
    out.double(9, it("minimum"));
    out.flag(10, it("exclusiveMinimum"));
    out.integer(11, it("maxLength"));
    out.integer(12, it("minLength"));
    out.text(13, it("pattern"));
    out.integer(14, it("maxItems"));
    out.integer(15, it("minItems"));
    out.flag(16, it("uniqueItems"));
    out.integer(17, it("maxProperties"));
    out.integer(18, it("minProperties"));
    out.texts(19, it("required"));
    for value in it("enum").as_array().into_iter().flatten() {
        out.message(20, any(value));
    }
    match it("additionalProperties") {
        Value::Null => {}
        Value::Bool(allowed) => {
            // A choice is written even where it is false.
            let mut item = Message::default();
            encode_key(2, WireType::Varint, &mut item.0);
            item.0.push(u8::from(*allowed));
            out.message(21, item);
        }
        inner => {
            let mut item = Message::default();
            item.message(1, schema(inner));
            out.message(21, item);
        }
    }
    if let Some(name) = it("type").as_str() {
        let mut item = Message::default();
        item.bytes(1, name.as_bytes());
        out.message(22, item);
    }
    if it("items").is_object() {
        let mut item = Message::default();
        item.message(1, schema(it("items")));
        out.message(23, item);
    }
    for inner in it("allOf").as_array().into_iter().flatten() {
        out.message(24, schema(inner));
    }
    if it("properties").is_object() {
        out.message(25, named_schemas(it("properties")));
    }
    if let Some(map) = schema_json.as_object() {
        out.extensions(31, map);
    }
    out
}

fn path(item: &Value) -> Message {
    let mut out = Message::default();
    let methods = [
        ("get", 2),
        ("put", 3),
        ("post", 4),
        ("delete", 5),
        ("options", 6),
        ("head", 7),
        ("patch", 8),
    ];
    for (method, number) in methods {
        if let Some(found) = item.get(method) {
            out.message(number, operation(found));
        }
    }
    parameters(&mut out, 9, &item["parameters"]);
    out
}

fn operation(operation: &Value) -> Message {
    let mut out = Message::default();
    out.texts(1, &operation["tags"]);
    out.text(3, &operation["description"]);
    out.text(5, &operation["operationId"]);
    out.texts(6, &operation["produces"]);
    out.texts(7, &operation["consumes"]);
    parameters(&mut out, 8, &operation["parameters"]);
    let mut responses = Message::default();
    for (code, response) in entries(&operation["responses"]) {
        let mut message = Message::default();
        message.text(1, &response["description"]);
        if response["schema"].is_object() {
            let mut item = Message::default();
            item.message(1, schema(&response["schema"]));
            message.message(2, item);
        }
        let mut value = Message::default();
        value.message(1, message);
        responses.named(1, code, value);
    }
    out.message(9, responses);
    out.texts(10, &operation["schemes"]);
    if let Some(map) = operation.as_object() {
        out.extensions(13, map);
    }
    out
}

fn parameters(out: &mut Message, number: u32, list: &Value) {
    for it in list.as_array().into_iter().flatten() {
        let mut parameter = Message::default();
        let place = it["in"].as_str();
        let mut inner = Message::default();
        if place == Some("body") {
            inner.text(2, &it["name"]);
            inner.text(3, &it["in"]);
            inner.flag(4, &it["required"]);
            inner.message(5, schema(&it["schema"]));
            parameter.message(1, inner);
        } else {
            // Of a query's and a path's parameter the numbers differ from the fifth field on.
            let query = place == Some("query");
            inner.flag(1, &it["required"]);
            inner.text(2, &it["in"]);
            inner.text(3, &it["description"]);
            inner.text(4, &it["name"]);
            inner.text(if query { 6 } else { 5 }, &it["type"]);
            inner.flag(if query { 20 } else { 19 }, &it["uniqueItems"]);
            let mut choice = Message::default();
            choice.message(if query { 3 } else { 4 }, inner);
            parameter.message(2, choice);
        }
        let mut item = Message::default();
        item.message(1, parameter);
        out.message(number, item);
    }
}
