//! What must hold of what clients send to the API, whatever the bytes are: bodies, patches, applied
//! configurations, selectors. Like [`super::targets`], each function panics where it does not hold.

use kontiki_api::codec;
use kontiki_api::merge::{self, apply, json, strategic};
use kontiki_api::object::selector::{Fields, Labels};
use kontiki_api::object::time::Timestamp;
use kontiki_api::schema::decode::{self, Syntax};
use kontiki_api::schema::{Node, defaults};
use serde_json::Value;

/// By name, as the folders of seeds are called.
pub const ALL: &[(&str, fn(&[u8]))] = &[
    ("decode", decode),
    ("protobuf", protobuf),
    ("patch", patch),
    ("apply", apply),
    ("selectors", selectors),
];

/// Of which bodies are taken to be.
const TYPES: [&str; 4] = [
    "io.k8s.api.core.v1.Pod",
    "io.k8s.api.apps.v1.Deployment",
    "io.k8s.api.core.v1.Service",
    "io.k8s.api.core.v1.ConfigMap",
];

fn node(name: &str) -> &'static Node {
    Node::find(name).expect("it is built in")
}

/// The parts of an input, which stand on lines that begin with `---`.
fn parts(bytes: &[u8]) -> (&[u8], &[u8]) {
    let mark = b"\n---\n";
    match bytes.windows(mark.len()).position(|window| window == mark) {
        Some(at) => (&bytes[..at], &bytes[at + mark.len()..]),
        None => (bytes, &[]),
    }
}

fn value(bytes: &[u8]) -> Option<Value> {
    serde_json::from_slice(bytes).ok()
}

/// Bodies in JSON and YAML, as any of some types: read or refused; what was read has the shape of its type,
/// and defaults that are filled in stay.
pub fn decode(bytes: &[u8]) {
    for name in TYPES {
        for syntax in [Syntax::Json, Syntax::Yaml] {
            let Ok(read) = decode::decode(node(name), syntax, bytes) else { continue };
            let again = decode::reshape(node(name), read.value.clone());
            let again = again.expect("what was read has the shape of its type");
            assert_eq!(again.value, read.value, "{name}");
            assert_eq!(again.strict, Vec::<String>::new(), "{name}");
            let mut once = read.value;
            defaults::apply(node(name), &mut once);
            let mut twice = once.clone();
            defaults::apply(node(name), &mut twice);
            assert_eq!(twice, once, "{name}");
        }
    }
    let _ = decode::decode_any(Syntax::Json, bytes);
    let _ = decode::decode_any(Syntax::Yaml, bytes);
}

/// Bodies in protobuf: read or refused; what was read can be written, and is then read as the same, but for
/// fields that are always written and may say nothing.
pub fn protobuf(bytes: &[u8]) {
    let Ok(read) = codec::decode(bytes, None) else { return };
    let again = |value: &Value| {
        let written = codec::encode(value).expect("what was read can be written");
        codec::decode(&written, None).expect("what was written can be read")
    };
    let mut once = again(&read.value);
    assert_eq!(again(&once.value), once);
    let mut read = read;
    prune(&mut read.value);
    prune(&mut once.value);
    assert_eq!(once, read);
}

/// Takes out fields that say nothing.
fn prune(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(prune);
            fields.retain(|_, field| !says_nothing(field));
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}

fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(it) => !it,
        Value::Number(it) => it.as_f64() == Some(0.0),
        // An amount of nothing is written out.
        Value::String(it) => it.is_empty() || it == "0",
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

/// An object, and any patch of it in each of the three forms: carried out or refused. A merge patch twice is
/// once.
pub fn patch(bytes: &[u8]) {
    let (object, patch) = parts(bytes);
    let Some(object) = value(object) else { return };
    let _ = json::apply(&object, patch);
    let Some(patch) = value(patch) else { return };
    let once = merge::merge(object.clone(), &patch);
    assert_eq!(merge::merge(once.clone(), &patch), once);
    for name in TYPES {
        let _ = strategic::apply(node(name), &object, &patch);
    }
}

/// A live object, and any configuration that is applied to it: refused, or the same if it is applied again.
pub fn apply(bytes: &[u8]) {
    let (live, config) = parts(bytes);
    let (Some(live), Some(config)) = (value(live), value(config)) else { return };
    let version = config["apiVersion"].as_str().unwrap_or_default();
    let manager = apply::Manager { name: "fuzz", api_version: version, ..Default::default() };
    let at = Timestamp::from_seconds;
    for name in TYPES {
        let of = node(name);
        let applied = |live: &Value, seconds| {
            apply::apply(of, Some(live), &config, &manager, true, at(seconds))
        };
        if let Ok(once) = applied(&live, 1) {
            let mut twice = applied(&once, 2).expect("what could be applied can be applied again");
            apply::keep_times(&once, &mut twice);
            assert_eq!(twice, once, "{name}");
        }
        let mut updated = config.clone();
        apply::updated(of, Some(&live), &mut updated, &manager, at(1));
    }
}

/// Selectors of labels and fields: read or refused; what was read of labels is written as what reads the same.
pub fn selectors(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let object: Value =
        serde_json::json!({"metadata": {"name": "x", "labels": {"a": "b", "c": "1"}}});
    if let Ok(labels) = Labels::parse(text) {
        let written = labels.to_string();
        let again = Labels::parse(&written).expect("what was written can be read");
        assert_eq!(again, labels, "{written:?}");
        let there = object["metadata"]["labels"].as_object();
        assert_eq!(again.matches(there), labels.matches(there));
        let _ = labels.matches(None);
    }
    if let Ok(fields) = Fields::parse(text) {
        let _ = fields.matches(&object);
        fields.paths().for_each(drop);
    }
}
