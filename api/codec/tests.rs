//! Objects that Go wrote, both as JSON and as protobuf, and bytes that nobody should have written.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// Where the pairs of `NAME.json` and `NAME.pb` are: ours, or Kubernetes' own (`testdata/HEAD` of k8s.io/api).
fn golden() -> PathBuf {
    std::env::var_os("KONTIKI_GOLDEN")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("codec/golden"), PathBuf::from)
}

struct Pair {
    name: String,
    json: Value,
    protobuf: Vec<u8>,
}

/// All pairs whose kind has a protobuf form, and the names of the others.
fn pairs() -> (Vec<Pair>, Vec<String>) {
    let mut pairs = Vec::new();
    let mut unknown = Vec::new();
    for entry in std::fs::read_dir(golden()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let protobuf = std::fs::read(path.with_extension("pb")).unwrap();
        if knows(json["apiVersion"].as_str().unwrap(), json["kind"].as_str().unwrap()) {
            pairs.push(Pair { name, json, protobuf });
        } else {
            unknown.push(name);
        }
    }
    assert!(!pairs.is_empty(), "no pairs in {}", golden().display());
    (pairs, unknown)
}

/// The first place where two values differ.
fn difference(path: &str, left: &Value, right: &Value) -> Option<String> {
    match (left, right) {
        (Value::Object(a), Value::Object(b)) => a.keys().chain(b.keys()).find_map(|key| {
            let (left, right) = (a.get(key), b.get(key));
            let null = Value::Null;
            difference(&format!("{path}.{key}"), left.unwrap_or(&null), right.unwrap_or(&null))
        }),
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => a
            .iter()
            .zip(b)
            .enumerate()
            .find_map(|(at, (a, b))| difference(&format!("{path}[{at}]"), a, b)),
        _ => (left != right).then(|| format!("{path}: {left} against {right}")),
    }
}

#[test]
fn what_go_wrote_as_protobuf_decodes_to_what_it_wrote_as_json() {
    let (pairs, unknown) = pairs();
    let wrong: Vec<String> = pairs
        .iter()
        .filter_map(|pair| {
            let found = match decode(&pair.protobuf, None) {
                Ok(decoded) => difference("", &decoded.value, &pair.json)?,
                Err(status) => status.message().to_owned(),
            };
            Some(format!("{}: {found}", pair.name))
        })
        .collect();
    println!(
        "{} of {} agree; without a protobuf form: {unknown:?}",
        pairs.len() - wrong.len(),
        pairs.len()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_go_wrote_as_json_encodes_to_the_bytes_it_wrote_as_protobuf() {
    let (pairs, _) = pairs();
    let wrong: Vec<String> = pairs
        .iter()
        .filter_map(|pair| {
            let bytes = match encode(&pair.json) {
                Ok(bytes) => bytes,
                Err(status) => return Some(format!("{}: {status}", pair.name)),
            };
            let at = bytes.iter().zip(&pair.protobuf).position(|(a, b)| a != b);
            let at = at.or((bytes.len() != pair.protobuf.len()).then_some(bytes.len()))?;
            Some(format!("{}: differs at byte {at} of {}", pair.name, pair.protobuf.len()))
        })
        .collect();
    println!("{} of {} agree", pairs.len() - wrong.len(), pairs.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// An envelope around a message made by hand.
fn envelope(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let names = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
    [PREFIX.to_vec(), field(1, &names), field(2, message)].concat()
}

fn field(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    wire::put_bytes(&mut out, number, bytes);
    out
}

fn round_trip(value: &Value) -> Value {
    decode(&encode(value).unwrap(), None).unwrap().value
}

#[test]
fn zeros_that_go_always_writes_are_absent_and_zeros_behind_pointers_are_values() {
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "labels": {"app": ""}},
        "spec": {
            "replicas": 0, "paused": false, "minReadySeconds": 0,
            "template": {"spec": {"containers": [{"name": "", "image": ""}]}},
        },
    });
    assert_eq!(
        round_trip(&deployment),
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "labels": {"app": ""}},
            "spec": {
                "replicas": 0, "strategy": {},
                "template": {
                    "metadata": {},
                    "spec": {"containers": [{"name": "", "resources": {}}]},
                },
            },
            "status": {},
        })
    );
}

#[test]
fn options_and_status_travel_under_any_group_version() {
    for value in [
        json!({"apiVersion": "apps/v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0,
               "propagationPolicy": "Background"}),
        json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
               "message": "no", "reason": "NotFound", "code": 404,
               "details": {"name": "a", "kind": "pods", "causes": [{"field": "x"}]}}),
    ] {
        assert_eq!(round_trip(&value), value);
    }
}

#[test]
fn an_event_of_a_watch_is_framed_by_its_length_and_encloses_the_object() {
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"},
                        "data": {"k": "v"}});
    let frame = encode_event("ADDED", &object).unwrap();
    let (length, event) = frame.split_first_chunk::<4>().unwrap();
    assert_eq!(u32::from_be_bytes(*length) as usize, event.len());
    let decoded = decode(&envelope("v1", "WatchEvent", event), None).unwrap();
    assert_eq!(decoded.value["type"], "ADDED");
    assert_eq!(decoded.value["object"], object);
}

#[test]
fn a_list_keeps_its_items_and_their_order() {
    let list = json!({"apiVersion": "v1", "kind": "SecretList",
    "metadata": {"resourceVersion": "7", "remainingItemCount": 0},
    "items": [
        {"metadata": {"name": "b"}, "data": {"x": "AAEC"}, "type": "Opaque"},
        {"metadata": {"name": "a"}, "data": {"y": ""}, "immutable": false},
    ]});
    assert_eq!(round_trip(&list), list);
}

#[test]
fn an_envelope_without_a_kind_is_read_as_what_was_expected() {
    let expected = GroupVersionKind::new("", "v1", "ConfigMap");
    let bytes = envelope("", "", &[]);
    let decoded = decode(&bytes, Some(&expected)).unwrap();
    assert_eq!(decoded.value, json!({"apiVersion": "v1", "kind": "ConfigMap"}));
    assert_eq!(decode(&bytes, None).unwrap_err().code(), 400);
}

#[test]
fn messages_of_custom_objects_and_of_other_formats_are_refused() {
    let refused = |bytes: &[u8]| decode(bytes, None).unwrap_err().message().to_owned();
    assert!(refused(b"{}").contains("does not appear to be a protobuf message"));
    assert!(
        refused(&envelope("example.com/v1", "Thing", &[]))
            .contains("no kind \"Thing\" is registered for version \"example.com/v1\"")
    );
    assert!(encode(&json!({"apiVersion": "example.com/v1", "kind": "Thing"})).is_err());
}

#[test]
fn an_error_names_the_field() {
    // metadata (1) with a name (1) that is longer than what follows.
    let bytes = envelope("v1", "ConfigMap", &[0x0a, 0x02, 0x0a, 0x7f]);
    assert_eq!(
        decode(&bytes, None).unwrap_err().message(),
        "the body cannot be decoded as protobuf at metadata.name: unexpected EOF"
    );
    let misfit = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": 1}});
    assert_eq!(
        encode(&misfit).unwrap_err().message(),
        "Internal error occurred: v1, Kind=ConfigMap cannot be written as protobuf: data is not \
         a string"
    );
}

#[test]
fn nesting_and_the_number_of_values_are_bounded() {
    // A JSONSchemaProps whose `not` (28) is a JSONSchemaProps, and so on.
    let schema = (0..500).fold(Vec::new(), |inner, _| field(28, &inner));
    // spec (2), versions (7), schema (4), openAPIV3Schema (1).
    let message = [1, 4, 7, 2].into_iter().fold(schema, |inner, number| field(number, &inner));
    let bytes = envelope("apiextensions.k8s.io/v1", "CustomResourceDefinition", &message);
    let status = decode(&bytes, None).unwrap_err();
    assert_eq!(status.code(), 400);
    assert!(status.message().contains("nested deeper"), "{status}");

    // A list of more empty items than there may be: two bytes each.
    let items = [0x12, 0x00].repeat(decode::VALUES_MAX as usize + 1);
    let status = decode(&envelope("v1", "PodList", &items), None).unwrap_err();
    assert_eq!(status.code(), 400);
    assert!(status.message().contains("values"), "{status}");
}

#[test]
fn unknown_fields_and_packed_numbers_are_read() {
    // supplementalGroups (4) packed, and a number from a later release; in securityContext (14), spec (2).
    let context = [field(4, &[1, 0x96, 0x01]), field(999, b"later")].concat();
    let pod = field(2, &field(14, &context));
    let decoded = decode(&envelope("v1", "Pod", &pod), None).unwrap();
    assert_eq!(decoded.value["spec"]["securityContext"], json!({"supplementalGroups": [1, 150]}));
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused(bytes: Vec<u8>, kind in "Pod|Secret|Status|TokenReview") {
        let api_version = if kind == "TokenReview" { "authentication.k8s.io/v1" } else { "v1" };
        if let Ok(decoded) = decode(&envelope(api_version, &kind, &bytes), None) {
            // What was understood can be written, and is then read as the same.
            let again = encode(&decoded.value).unwrap();
            prop_assert_eq!(decode(&again, None).map(|it| it.kind), Ok(kind));
        }
    }

    #[test]
    fn a_damaged_body_is_decoded_or_refused(at in 0usize..4000, bit in 0u8..8, cut in 0usize..4000) {
        for pair in pairs().0.iter().take(3) {
            let mut bytes = pair.protobuf.clone();
            bytes.truncate(cut.max(1) % bytes.len() + 1);
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            let _ = decode(&bytes, None);
        }
    }
}
