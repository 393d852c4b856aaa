//! Objects that Go wrote, both as JSON and as protobuf, and bytes that nobody should have written.

use std::path::Path;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

struct Pair {
    name: String,
    json: Value,
    protobuf: Vec<u8>,
}

/// Objects that Go wrote, both ways: ours, or all of a directory of `NAME.json` and `NAME.pb` that
/// `KONTIKI_GOLDEN` names (`testdata/HEAD` of k8s.io/api), as far as their kinds are in the table.
fn pairs() -> Vec<Pair> {
    let all = match std::env::var_os("KONTIKI_GOLDEN") {
        Some(directory) => pairs_of_directory(Path::new(&directory)),
        None => {
            let lines: Vec<_> = include_str!("golden.txt").lines().skip(1).collect();
            lines.chunks(2).map(|pair| (json_of(pair[0].as_bytes()), pair[1])).map(own).collect()
        }
    };
    let (known, unknown): (Vec<_>, Vec<_>) = all
        .into_iter()
        .partition(|pair| knows(text(&pair.json["apiVersion"]), text(&pair.json["kind"])));
    let unknown: Vec<_> = unknown.into_iter().map(|pair| pair.name).collect();
    println!("{} pairs; not in the table: {unknown:?}", known.len());
    assert!(!known.is_empty(), "there is nothing to compare");
    known
}

fn own((json, protobuf): (Value, &str)) -> Pair {
    let name = format!("{}, {}", text(&json["apiVersion"]), text(&json["kind"]));
    Pair { name, json, protobuf: BASE64_STANDARD.decode(protobuf).unwrap() }
}

fn pairs_of_directory(directory: &Path) -> Vec<Pair> {
    let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    files
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .map(|path| Pair {
            name: path.file_stem().unwrap().to_string_lossy().into_owned(),
            json: json_of(&std::fs::read(&path).unwrap()),
            protobuf: std::fs::read(path.with_extension("pb")).unwrap(),
        })
        .collect()
}

fn json_of(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
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
    let pairs = pairs();
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
    println!("{} of {} agree", pairs.len() - wrong.len(), pairs.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_go_wrote_as_json_encodes_to_the_bytes_it_wrote_as_protobuf() {
    let pairs = pairs();
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

/// What `kubectl create deployment web --image=nginx --replicas=0` and `kubectl create token` send.
#[test]
fn bodies_of_kubectl_are_understood() {
    let read = |body: &str| decode(&BASE64_STANDARD.decode(body).unwrap(), None).unwrap().value;
    assert_eq!(
        read(
            "azhzAAoVCgdhcHBzL3YxEgpEZXBsb3ltZW50EqsBCh8KA3dlYhIAGgAiACoAMgA4AEIAWgoKA2FwcBID\
             d2ViEnoIABIMCgoKA2FwcBIDd2ViGmAKHAoAEgAaACIAKgAyADgAQgBaCgoDYXBwEgN3ZWISQBIiCgVu\
             Z2lueBIFbmdpbngqAEIAagByAIABAIgBAJABAKIBABoAMgBCAEoAUgBYAGAAaACCAQCKAQCaAQDCAQAi\
             AgoAKAA4ABoMCAAQABgAIAAoADgAGgAiAA=="
        ),
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "labels": {"app": "web"}},
            "spec": {
                "replicas": 0,
                "selector": {"matchLabels": {"app": "web"}},
                "strategy": {},
                "template": {
                    "metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "nginx", "image": "nginx", "resources": {}}]},
                },
            },
            "status": {},
        })
    );
    assert_eq!(
        read(
            "azhzAAooChhhdXRoZW50aWNhdGlvbi5rOHMuaW8vdjESDFRva2VuUmVxdWVzdBIaChAKABIAGgAiACoA\
             MgA4AEIAEgAaBAoAEgAaACIA"
        ),
        json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "metadata": {}, "spec": {}, "status": {"token": ""},
        })
    );
}

#[test]
fn a_schema_of_a_custom_resource_keeps_what_is_set_in_it() {
    let schema = json!({
        "type": "object", "$schema": "http://x", "nullable": true,
        "required": ["a"], "x-kubernetes-preserve-unknown-fields": false,
        "properties": {
            "a": {"type": "integer", "minimum": 0, "maximum": 1.5, "default": 1, "enum": [1, 2]},
            "b": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "map",
                  "x-kubernetes-list-map-keys": ["x"], "maxItems": 0},
            "c": {"additionalProperties": true, "default": {"k": [false, "x"]}},
            "d": {"additionalProperties": {"type": "string"}, "additionalItems": false},
            "e": {"items": [{"type": "string"}, {"$ref": "#/x"}]},
            "f": {"dependencies": {"one": ["x"], "two": {"type": "object"}},
                  "x-kubernetes-validations": [{"rule": "self > 1", "optionalOldSelf": false}]},
        },
    });
    let custom = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
                 "names": {"plural": "things", "kind": "Thing"},
                 "versions": [{"name": "v1", "served": true, "storage": false,
                               "schema": {"openAPIV3Schema": schema}}]},
        "status": {"conditions": [], "acceptedNames": {"plural": "", "kind": ""},
                   "storedVersions": []},
    });
    let again = round_trip(&custom);
    let read = &again["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    assert_eq!(difference("", read, &schema), None);
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
    fn a_damaged_body_is_decoded_or_refused(at: usize, bit in 0u8..8, cut: usize) {
        static BODIES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
            let mut bodies: Vec<_> = pairs().into_iter().map(|pair| pair.protobuf).collect();
            bodies.sort_by_key(Vec::len);
            bodies.truncate(8);
            bodies
        });
        for body in BODIES.iter() {
            let mut body = body.clone();
            let place = at % body.len();
            body[place] ^= 1 << bit;
            body.truncate(cut % body.len() + 1);
            let _ = decode(&body, None);
        }
    }
}
