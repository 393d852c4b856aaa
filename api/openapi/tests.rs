//! Documents that clients can explain and validate by.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::*;
use crate::kinds::{Registry, builtin};

/// Built-in rows, and one custom resource whose schema says things that only OpenAPI 3 can.
fn rows() -> Arc<Snapshot> {
    let registry = Registry::builtin();
    let lease = builtin::kinds().into_iter().find(|kind| kind.kind.as_ref() == "Lease").unwrap();
    registry.put(vec![Kind {
        group: "stable.example.com".into(),
        version: "v1".into(),
        resource: "widgets".into(),
        singular: "widget".into(),
        kind: "Widget".into(),
        list_kind: "WidgetList".into(),
        custom: true,
        published: Some(Arc::new(json!({
            "type": "object",
            "properties": {"spec": {"type": "object", "properties": {
                "size": {"anyOf": [{"type": "integer"}, {"type": "string"}],
                         "x-kubernetes-int-or-string": true},
                "note": {"type": "string", "nullable": true},
                "free": {"type": "object", "properties": {"a": {"type": "string"}},
                         "x-kubernetes-preserve-unknown-fields": true},
            }}},
        }))),
        ..lease
    }]);
    registry.snapshot()
}

fn read(document: &Document) -> Value {
    serde_json::from_slice(&document.bytes).unwrap()
}

fn every_reference(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
            map.values().for_each(|it| every_reference(it, found));
        }
        Value::Array(list) => list.iter().for_each(|it| every_reference(it, found)),
        _ => {}
    }
}

/// No reference leads nowhere, and each group, version and kind is one type's.
fn check_whole(document: &Value, at: &str) {
    let mut found = BTreeSet::new();
    every_reference(document, &mut found);
    assert!(!found.is_empty());
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    let mut claimed = BTreeSet::new();
    for (name, schema) in document.pointer(at).unwrap().as_object().unwrap() {
        let gvks = schema["x-kubernetes-group-version-kind"].as_array();
        for gvk in gvks.into_iter().flatten() {
            assert!(claimed.insert(gvk.to_string()), "{name} is the second {gvk}");
        }
    }
}

#[test]
fn every_document_of_version_3_is_whole_and_has_the_hash_the_root_says() {
    let (api, rows) = (OpenApi::new("v1.37.0"), rows());
    let root = read(&api.v3_root(&rows));
    let paths = root["paths"].as_object().unwrap();
    assert!(paths.contains_key("api/v1") && paths.contains_key("apis/stable.example.com/v1"));
    for (name, entry) in paths {
        let document = api.v3(&rows, name).unwrap();
        let url = format!("/openapi/v3/{name}?hash={}", document.etag);
        assert_eq!(entry["serverRelativeURL"], url.as_str());
        check_whole(&read(&document), "/components/schemas");
    }
    assert_eq!(api.v3(&rows, "apis/nothing/v1"), None);
    assert_eq!(api.v3(&rows, "apis//v1"), None);
}

#[test]
fn kubectl_finds_what_it_looks_for() {
    let (api, rows) = (OpenApi::new("v1.37.0"), rows());
    let apps = read(&api.v3(&rows, "apis/apps/v1").unwrap());
    let patch = &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(patch["x-kubernetes-action"], "patch");
    assert_eq!(patch["operationId"], "patchAppsV1NamespacedDeployment");
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({"group": "apps", "version": "v1", "kind": "Deployment"})
    );
    let names = patch["parameters"].as_array().unwrap();
    assert!(names.iter().any(|it| it["name"] == "fieldValidation" && it["in"] == "query"));
    let schemas = &apps["components"]["schemas"];
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    assert!(containers["description"].as_str().unwrap().starts_with("List of containers"));
    let strategy = &schemas["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]["strategy"];
    assert_eq!(
        strategy["allOf"][0]["$ref"],
        "#/components/schemas/io.k8s.api.apps.v1.DeploymentStrategy"
    );
    assert_eq!(strategy["x-kubernetes-patch-strategy"], "retainKeys");
    assert_eq!(strategy["default"], json!({}));
    let list = &schemas["io.k8s.api.apps.v1.DeploymentList"];
    assert_eq!(list["x-kubernetes-group-version-kind"][0]["kind"], "DeploymentList");
}

#[test]
fn version_2_is_whole_and_says_nothing_that_only_version_3_can() {
    let (api, rows) = (OpenApi::new("v1.37.0"), rows());
    let document = read(&api.v2(&rows));
    check_whole(&document, "/definitions");
    let text = document.to_string();
    for word in ["\"oneOf\":[", "\"anyOf\":[", "\"nullable\":true"] {
        assert!(!text.contains(word), "{word}");
    }
    let spec = &document["definitions"]["com.example.stable.v1.Widget"]["properties"]["spec"];
    assert_eq!(spec["properties"]["note"], json!({}));
    assert_eq!(spec["properties"]["size"], json!({"x-kubernetes-int-or-string": true}));
    assert_eq!(spec["properties"]["free"].get("properties"), None);
    let path = "/apis/stable.example.com/v1/namespaces/{namespace}/widgets";
    assert_eq!(
        document["paths"][path]["get"]["operationId"],
        "listComExampleStableV1NamespacedWidget"
    );
    assert_eq!(
        document["definitions"]["io.k8s.apimachinery.pkg.api.resource.Quantity"]["type"],
        "string"
    );
}

/// Splits a message into its fields: number and bytes.
fn fields(mut bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
    use prost::encoding::{WireType, decode_key, decode_varint};
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let (number, kind) = decode_key(&mut bytes).unwrap();
        match kind {
            WireType::LengthDelimited => {
                let len = usize::try_from(decode_varint(&mut bytes).unwrap()).unwrap();
                out.push((number, bytes[..len].to_vec()));
                bytes = &bytes[len..];
            }
            WireType::Varint => {
                out.push((number, decode_varint(&mut bytes).unwrap().to_be_bytes().into()))
            }
            other => panic!("{other:?}"),
        }
    }
    out
}

#[test]
fn the_protobuf_of_version_2_has_every_path_and_definition() {
    let (api, rows) = (OpenApi::new("v1.37.0"), rows());
    let json = read(&api.v2(&rows));
    let document = fields(&api.v2_protobuf(&rows).bytes);
    let only = |number: u32| document.iter().find(|(at, _)| *at == number).unwrap().1.clone();
    assert_eq!(only(1), b"2.0");
    let names = |bytes: &[u8], number: u32| -> BTreeSet<String> {
        let named = fields(bytes).into_iter().filter(|(at, _)| *at == number);
        named.map(|(_, pair)| String::from_utf8(fields(&pair)[0].1.clone()).unwrap()).collect()
    };
    let keys = |value: &Value| -> BTreeSet<String> {
        value.as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!(names(&only(8), 2), keys(&json["paths"]));
    assert_eq!(names(&only(9), 1), keys(&json["definitions"]));
}

#[test]
fn a_kept_document_is_the_one_that_was_made_and_goes_when_its_rows_change() {
    let (api, with) = (OpenApi::new("v1.37.0"), rows());
    let name = "apis/stable.example.com/v1";
    let made = api.v3(&with, name).unwrap();
    assert_eq!(api.v3(&with, name).unwrap(), made);
    let without = Registry::builtin().snapshot();
    assert_eq!(api.v3(&without, name), None);
    assert_ne!(api.v2(&without).etag, api.v2(&with).etag);
    assert_eq!(api.v3_etag(&without, "apis/apps/v1"), api.v3_etag(&with, "apis/apps/v1"));
}

#[test]
fn every_operation_has_an_id_of_its_own() {
    let rows = rows();
    let mut ids = BTreeSet::new();
    for kind in rows.kinds() {
        for path in operations::paths(&rows, kind) {
            for operation in path.operations {
                assert!(ids.insert(operation.id.clone()), "{}", operation.id);
            }
        }
    }
    assert!(
        ids.contains("readCoreV1NamespacedPodLog") && ids.contains("listCoreV1PodForAllNamespaces")
    );
    assert!(ids.contains("connectCoreV1GetNamespacedPodExec"));
    assert!(ids.contains("replaceRbacAuthorizationV1ClusterRole"));
}
