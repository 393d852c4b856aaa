//! What is written down of requests.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kontiki_api::audit::{Audit, Place, Policy};
use kontiki_api::object::time::Clock;
use kontiki_api::request::Options;
use kontiki_api::sandbox::Sandbox;
use serde_json::{Value, json};

use crate::http::{Api, CONFIG_MAPS, MERGE, PODS, config_map, pod};

const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - {level: None, users: ["system:apiserver"]}
  - {level: None, nonResourceURLs: ["/healthz"]}
  - {level: Metadata, resources: [{group: "", resources: [secrets]}]}
  - {level: Request, verbs: [patch, delete]}
  - {level: RequestResponse, omitManagedFields: true}
"#;

/// A log in a folder.
pub fn open(folder: &Path, policy: &str) -> Arc<Audit> {
    let place =
        Place { path: folder.join("audit.log"), megabytes_max: 0, backups_max: 0, days_max: 0 };
    Arc::new(Audit::open(Policy::read(policy).unwrap(), place, Clock::System).unwrap())
}

/// All events, in the order in which they were written.
pub fn all_events(folder: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join("audit.log")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn audited(folder: &Path, policy: &str) -> Api {
    let audit = open(folder, policy);
    Api::over(Sandbox::with(|config| config.audit = Some(audit)).await)
}

/// The events of requests that name themselves, in the order in which they were written.
fn events(folder: &Path, id: &str) -> Vec<Value> {
    all_events(folder).into_iter().filter(|event| event["auditID"] == id).collect()
}

#[tokio::test]
async fn an_event_says_who_asked_for_what_and_what_came_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let api = audited(folder.path(), POLICY).await;
    let headers = [("audit-id", "made"), ("user-agent", "me/1"), ("x-forwarded-for", "192.0.2.7")];
    let made = api.ask("POST", CONFIG_MAPS, &headers, config_map("a", "x").to_string()).await;
    assert_eq!(made.code, 201);

    let [event] = &events(folder.path(), "made")[..] else { panic!("one event") };
    let expected = json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "RequestResponse",
        "auditID": "made", "stage": "ResponseComplete", "requestURI": CONFIG_MAPS,
        "verb": "create", "user": {"username": "system:admin",
            "groups": ["system:masters", "system:authenticated"]},
        "sourceIPs": ["192.0.2.7"], "userAgent": "me/1",
        "objectRef": {"resource": "configmaps", "namespace": "default", "name": "a",
            "apiVersion": "v1"},
        "responseStatus": {"metadata": {}, "code": 201},
        "requestObject": config_map("a", "x"),
    });
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&event[field], value, "{field}");
    }
    let shown = &event["responseObject"];
    assert_eq!((&shown["data"]["a"], &shown["kind"]), (&json!("x"), &json!("ConfigMap")));
    assert_eq!(shown["metadata"]["managedFields"], Value::Null, "they were to be left out");
    let why = &event["annotations"];
    assert_eq!(why["authorization.k8s.io/decision"], "allow");
    for time in ["requestReceivedTimestamp", "stageTimestamp"] {
        assert!(event[time].as_str().is_some_and(|it| it.ends_with('Z')), "{time}");
    }
}

#[tokio::test]
async fn the_policy_says_how_much_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let api = audited(folder.path(), POLICY).await;
    let secret = json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "s"}});
    let secrets = "/api/v1/namespaces/default/secrets";
    api.ask("POST", secrets, &[("audit-id", "secret")], secret.to_string()).await;
    let [event] = &events(folder.path(), "secret")[..] else { panic!("one event") };
    assert_eq!(event["level"], "Metadata");
    assert_eq!((&event["requestObject"], &event["responseObject"]), (&Value::Null, &Value::Null));
    assert_eq!(event["objectRef"]["name"], "s", "a create is about what it makes");

    let headers = [("audit-id", "patched"), ("content-type", "application/merge-patch+json")];
    let path = format!("{CONFIG_MAPS}/none");
    api.ask("PATCH", &path, &headers, r#"{"data":{"a":"y"}}"#).await;
    let [event] = &events(folder.path(), "patched")[..] else { panic!("one event") };
    assert_eq!(event["requestObject"], json!({"data": {"a": "y"}}));
    assert_eq!(event["responseObject"], Value::Null);
    let status = &event["responseStatus"];
    assert_eq!((&status["code"], &status["reason"]), (&json!(404), &json!("NotFound")));
    assert_eq!(status["message"], "configmaps \"none\" not found");

    api.ask("GET", "/healthz", &[("audit-id", "health")], "").await;
    assert!(events(folder.path(), "health").is_empty());
}

#[tokio::test]
async fn who_asks_in_anothers_name_is_written_with_both() {
    let folder = tempfile::tempdir().unwrap();
    let api = audited(folder.path(), POLICY).await;
    let headers = [("audit-id", "other"), ("impersonate-user", "ann")];
    assert_eq!(api.ask("GET", CONFIG_MAPS, &headers, "").await.code, 403);
    let [event] = &events(folder.path(), "other")[..] else { panic!("one event") };
    assert_eq!(event["user"]["username"], "system:admin");
    assert_eq!(event["impersonatedUser"]["username"], "ann");
    assert_eq!(event["annotations"]["authorization.k8s.io/decision"], "forbid");
    assert_eq!(event["responseStatus"]["code"], 403);
}

#[tokio::test]
async fn a_watch_is_written_when_it_begins_and_when_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    let every = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]";
    let api = audited(folder.path(), every).await;
    let path = format!("{CONFIG_MAPS}?watch=true&timeoutSeconds=1");
    // The answer is read to its end.
    api.ask("GET", &path, &[("audit-id", "watch")], "").await;
    let stages = || -> Vec<String> {
        let all = events(folder.path(), "watch");
        all.iter().map(|event| event["stage"].as_str().unwrap().to_owned()).collect()
    };
    // The server drops the body after the client has read its last byte.
    let done = async {
        while stages().len() < 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), done).await.expect("the watch ends");
    assert_eq!(stages(), ["RequestReceived", "ResponseStarted", "ResponseComplete"]);
}

#[tokio::test]
async fn what_admission_notes_is_written_with_the_event() {
    let folder = tempfile::tempdir().unwrap();
    let every = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]";
    let api = audited(folder.path(), every).await;
    let account = json!({"kind": "ServiceAccount", "apiVersion": "v1",
        "metadata": {"name": "default"}});
    api.create("/api/v1/namespaces/default/serviceaccounts", &account).await;
    let labels =
        json!({"metadata": {"labels": {"pod-security.kubernetes.io/audit": "restricted"}}});
    let namespace = api.patch("/api/v1/namespaces/default", MERGE, &labels).await;
    assert_eq!(namespace.code, 200);
    api.ask("POST", PODS, &[("audit-id", "pod")], pod("a").to_string()).await;
    let all = events(folder.path(), "pod");
    let why = &all.last().unwrap()["annotations"]["pod-security.kubernetes.io/audit-violations"];
    assert!(why.as_str().is_some_and(|why| why.contains("restricted")), "{all:?}");
}

#[tokio::test]
async fn what_is_asked_from_inside_the_process_is_written_as_if_it_came_over_the_wire() {
    let folder = tempfile::tempdir().unwrap();
    let every = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: RequestResponse}]";
    let api = audited(folder.path(), every).await;
    let client = api.sandbox.client().named("some-controller");
    let object: ConfigMap = serde_json::from_value(config_map("a", "x")).unwrap();
    let mut object = object;
    object.metadata.namespace = Some("default".into());
    client.create(&object).await.unwrap();
    client.get::<ConfigMap>("default", "none").await.unwrap_err();
    let watch = client.watch::<ConfigMap>("default", Options::default()).await.unwrap();
    drop(watch);
    let own = |verb: &str| -> Vec<Value> {
        let all = all_events(folder.path()).into_iter();
        all.filter(|it| it["userAgent"] == "some-controller" && it["verb"] == verb).collect()
    };
    let [received, made] = &own("create")[..] else { panic!("{:?}", own("create")) };
    assert_eq!(received["stage"], "RequestReceived");
    assert_eq!(made["stage"], "ResponseComplete");
    assert_eq!(made["requestURI"], CONFIG_MAPS);
    assert_eq!(made["objectRef"]["name"], "a");
    assert_eq!(made["responseStatus"]["code"], 201);
    assert_eq!(made["responseObject"]["data"], json!({"a": "x"}));
    assert_eq!(made["annotations"]["authorization.k8s.io/decision"], "allow");
    let missing = own("get").pop().unwrap();
    let status = &missing["responseStatus"];
    assert_eq!((&status["code"], &status["reason"]), (&json!(404), &json!("NotFound")));
    let stages: Vec<Value> = own("watch").iter().map(|it| it["stage"].clone()).collect();
    assert_eq!(stages, ["RequestReceived", "ResponseStarted", "ResponseComplete"]);
}
