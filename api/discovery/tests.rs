//! Discovery documents as clients read them.

use super::*;
use crate::kinds::{Registry, builtin};

/// What a 1.36 server publishes: group and version, resource, hash. Without the admission policies, new
/// then and still stored in their beta version, and CustomResourceDefinitions, whose hash is historic.
const HASHES: &str = include_str!("tests/storage-version-hashes.tsv");

/// Built-in rows, and one of a made-up custom resource.
fn rows() -> std::sync::Arc<Snapshot> {
    let registry = Registry::builtin();
    let lease = builtin::kinds().into_iter().find(|kind| kind.kind.as_ref() == "Lease").unwrap();
    registry.put(vec![Kind {
        group: "example.com".into(),
        version: "v1".into(),
        resource: "widgets".into(),
        kind: "Widget".into(),
        custom: true,
        ..lease
    }]);
    registry.snapshot()
}

#[test]
fn storage_version_hashes_are_those_of_upstream() {
    for line in HASHES.lines() {
        let columns: Vec<&str> = line.split('\t').collect();
        let at: GroupVersion = columns[0].parse().unwrap();
        let rows = rows();
        let kind = rows.find(&at.group, &at.version, columns[1]).unwrap();
        assert_eq!(storage_version_hash(kind).as_deref(), Some(columns[2]), "{line}");
    }
}

#[test]
fn groups_are_listed_with_their_preferred_version_and_without_the_core() {
    let list = groups(&rows());
    let names: Vec<&str> =
        list["groups"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(names[..3], ["apiregistration.k8s.io", "apps", "events.k8s.io"]);
    assert_eq!(names.last(), Some(&"example.com"));
    assert!(!names.contains(&""));
    assert_eq!(
        group(&rows(), "autoscaling").unwrap(),
        json!({
            "kind": "APIGroup", "apiVersion": "v1", "name": "autoscaling",
            "preferredVersion": {"groupVersion": "autoscaling/v2", "version": "v2"},
            "versions": [
                {"groupVersion": "autoscaling/v2", "version": "v2"},
                {"groupVersion": "autoscaling/v1", "version": "v1"},
            ],
        })
    );
    assert_eq!(group(&rows(), ""), None);
    assert_eq!(group(&rows(), "nothing"), None);
}

#[test]
fn resources_and_subresources_of_a_version_are_listed() {
    let list = resources(&rows(), "", "v1").unwrap();
    assert_eq!(list["groupVersion"], "v1");
    let find = |name: &str| {
        let resources = list["resources"].as_array().unwrap();
        resources.iter().find(|it| it["name"] == name).unwrap().clone()
    };
    assert_eq!(
        find("pods/eviction"),
        json!({
            "name": "pods/eviction", "singularName": "", "namespaced": true, "kind": "Eviction",
            "group": "policy", "version": "v1", "verbs": ["create"],
        })
    );
    assert_eq!(find("pods")["shortNames"], json!(["po"]));
    assert_eq!(find("pods/exec")["kind"], "PodExecOptions");
    assert_eq!(find("componentstatuses").get("storageVersionHash"), None);
    let all = list["resources"].as_array().unwrap();
    assert!(all.iter().all(|it| it["verbs"].as_array().is_some_and(|verbs| !verbs.is_empty())));
    assert_eq!(resources(&rows(), "apps", "v9"), None);
}

#[test]
fn aggregated_discovery_says_the_same_in_one_document() {
    let read =
        |half| -> Value { serde_json::from_slice(&aggregated(&rows(), half).bytes).unwrap() };
    let core = read(Half::Core);
    assert_eq!(core["items"].as_array().unwrap().len(), 1);
    assert_eq!(core["items"][0]["metadata"], json!({}));
    let groups = read(Half::Groups);
    let apps =
        groups["items"].as_array().unwrap().iter().find(|it| it["metadata"]["name"] == "apps");
    let deployments = &apps.unwrap()["versions"][0]["resources"][2];
    assert_eq!(
        *deployments,
        json!({
            "resource": "deployments", "singularResource": "deployment", "scope": "Namespaced",
            "responseKind": {"group": "", "version": "", "kind": "Deployment"},
            "shortNames": ["deploy"], "categories": ["all"],
            "verbs": ["create", "delete", "deletecollection", "get",
                "list", "patch", "update", "watch"],
            "subresources": [
                {"subresource": "scale", "verbs": ["get", "patch", "update"],
                 "responseKind": {"group": "autoscaling", "version": "v1", "kind": "Scale"}},
                {"subresource": "status", "verbs": ["get", "patch", "update"],
                 "responseKind": {"group": "", "version": "", "kind": "Deployment"}},
            ],
        })
    );
    let widgets =
        &groups["items"].as_array().unwrap().last().unwrap()["versions"][0]["resources"][0];
    assert_eq!(widgets["responseKind"]["group"], "example.com");
}

#[test]
fn the_tag_of_a_document_changes_with_the_rows() {
    let (with, without) = (rows(), Registry::builtin().snapshot());
    let tag = |rows: &Snapshot| aggregated(rows, Half::Groups).etag;
    assert_eq!(tag(&with), tag(&rows()));
    assert_ne!(tag(&with), tag(&without));
    assert_eq!(tag(&with).len(), 128);
}
