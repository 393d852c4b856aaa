//! Create, update and delete: what is refused, what is the system's, and what a write leaves as it is.

use serde_json::{Value, json};

use crate::http::{Api, CONFIG_MAPS, MERGE, config_map};

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_create_fills_in_what_is_the_systems() {
    let api = Api::start().await;
    let mut wanted = config_map("a", "1");
    wanted["metadata"]["uid"] = "mine".into();
    wanted["metadata"]["creationTimestamp"] = Value::Null;
    wanted["metadata"]["generation"] = 7.into();
    wanted["metadata"]["deletionTimestamp"] = "2020-01-01T00:00:00Z".into();
    let created = api.create(CONFIG_MAPS, &wanted).await;
    let metadata = &created["metadata"];
    assert_eq!(metadata["namespace"], "default");
    assert_eq!(metadata["uid"].as_str().unwrap().len(), 36);
    assert!(metadata["creationTimestamp"].as_str().unwrap().ends_with('Z'));
    assert_eq!(metadata.get("generation"), None);
    assert_eq!(metadata.get("deletionTimestamp"), None);
    assert!(version(&created) > 0);
    assert_eq!(api.get(&format!("{CONFIG_MAPS}/a")).await.json(), created);
}

#[tokio::test]
async fn a_create_is_refused_in_upstreams_words() {
    let api = Api::start().await;
    api.create(CONFIG_MAPS, &config_map("a", "1")).await;
    let refused = |body: Value| {
        let api = &api;
        async move {
            let answer = api.write("POST", CONFIG_MAPS, &body).await;
            (answer.code, answer.json()["message"].as_str().unwrap().to_owned())
        }
    };
    assert_eq!(
        refused(config_map("a", "2")).await,
        (409, "configmaps \"a\" already exists".into())
    );
    let mut elsewhere = config_map("b", "1");
    elsewhere["metadata"]["namespace"] = "other".into();
    assert_eq!(
        refused(elsewhere).await,
        (
            400,
            "the namespace of the provided object does not match the namespace sent on the \
               request"
                .into()
        )
    );
    let mut versioned = config_map("b", "1");
    versioned["metadata"]["resourceVersion"] = "5".into();
    assert_eq!(
        refused(versioned).await,
        (500, "resourceVersion should not be set on objects to be created".into())
    );
    let mut wrong = config_map("b", "1");
    wrong["apiVersion"] = "v2".into();
    assert_eq!(
        refused(wrong).await,
        (
            400,
            "the API version in the data (v2) does not match the expected API version (v1)".into()
        )
    );
    let (code, message) = refused(config_map("Bad_Name", "1")).await;
    assert_eq!(code, 422);
    assert!(message.starts_with("ConfigMap \"Bad_Name\" is invalid: metadata.name: Invalid value"));
    let (code, message) = refused(json!({"kind": "ConfigMap", "apiVersion": "v1"})).await;
    assert_eq!(code, 422);
    assert!(message.contains("name or generateName is required"), "{message}");
}

#[tokio::test]
async fn a_generated_name_begins_as_asked() {
    let api = Api::start().await;
    let mut wanted = config_map("", "1");
    wanted["metadata"] = json!({"generateName": "web-"});
    let one = api.create(CONFIG_MAPS, &wanted).await;
    let two = api.create(CONFIG_MAPS, &wanted).await;
    let (one, two) = (one["metadata"]["name"].clone(), two["metadata"]["name"].clone());
    assert_ne!(one, two);
    assert_eq!(one.as_str().unwrap().len(), "web-".len() + 5);
}

#[tokio::test]
async fn an_update_holds_only_against_what_it_was_made_from() {
    let api = Api::start().await;
    let created = api.create(CONFIG_MAPS, &config_map("a", "1")).await;
    let path = format!("{CONFIG_MAPS}/a");
    let mut changed = created.clone();
    changed["data"]["a"] = "2".into();
    let updated = api.write("PUT", &path, &changed).await;
    assert_eq!(updated.code, 200);
    let stale = api.write("PUT", &path, &changed).await;
    assert_eq!(stale.code, 409);
    assert_eq!(
        stale.json()["message"],
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please \
         apply your changes to the latest version and try again"
    );
    let unconditional = api.write("PUT", &path, &config_map("a", "3")).await;
    assert_eq!(unconditional.code, 200);
    assert_eq!(unconditional.json()["metadata"]["uid"], created["metadata"]["uid"]);
    let mut other = config_map("a", "4");
    other["metadata"]["uid"] = "00000000-0000-0000-0000-000000000000".into();
    assert_eq!(api.write("PUT", &path, &other).await.code, 409);
    assert_eq!(api.write("PUT", &path, &config_map("b", "4")).await.code, 400);
    let missing = api.write("PUT", &format!("{CONFIG_MAPS}/none"), &config_map("none", "1")).await;
    assert_eq!(missing.code, 404);
}

#[tokio::test]
async fn some_kinds_must_say_which_version_they_update_and_some_are_created_by_it() {
    let api = Api::start().await;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let lease = json!({"kind": "Lease", "apiVersion": "coordination.k8s.io/v1",
        "metadata": {"name": "l"}, "spec": {"holderIdentity": "me"}});
    let created = api.write("PUT", &format!("{leases}/l"), &lease).await;
    assert_eq!(created.code, 201, "{}", created.json());
    let refused = api.write("PUT", &format!("{leases}/l"), &lease).await;
    assert_eq!(refused.code, 422);
    assert_eq!(refused.json()["details"]["causes"][0]["field"], "metadata.resourceVersion");
}

#[tokio::test]
async fn what_changes_nothing_makes_no_revision() {
    let api = Api::start().await;
    let created = api.create(CONFIG_MAPS, &config_map("a", "1")).await;
    let path = format!("{CONFIG_MAPS}/a");
    let same = api.write("PUT", &path, &created).await.json();
    assert_eq!(version(&same), version(&created));
    let same = api.patch(&path, MERGE, &json!({"data": {"a": "1"}})).await.json();
    assert_eq!(version(&same), version(&created));
    let other = api.patch(&path, MERGE, &json!({"data": {"a": "2"}})).await.json();
    assert!(version(&other) > version(&created));
}

#[tokio::test]
async fn the_generation_counts_changes_of_the_spec_alone() {
    let api = Api::start().await;
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let wanted = json!({"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": {"app": "d"}}, "template": {
            "metadata": {"labels": {"app": "d"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}},
        "status": {"replicas": 5}});
    let created = api.create(path, &wanted).await;
    let generation = |it: &Value| it["metadata"]["generation"].as_i64().unwrap();
    assert_eq!(generation(&created), 1);
    assert_eq!(created["status"].get("replicas"), None, "a create does not write status");
    let one = format!("{path}/d");
    let labelled =
        api.patch(&one, MERGE, &json!({"metadata": {"labels": {"x": "y"}}})).await.json();
    assert_eq!(generation(&labelled), 1);
    let status = json!({"status": {"replicas": 3}, "spec": {"replicas": 9}});
    let told = api.patch(&format!("{one}/status"), MERGE, &status).await.json();
    assert_eq!(generation(&told), 1);
    assert_eq!(told["status"]["replicas"], 3);
    assert_ne!(told["spec"]["replicas"], 9, "status writes nothing else");
    let mut whole = told.clone();
    whole["status"]["replicas"] = 8.into();
    whole["spec"]["replicas"] = 4.into();
    whole["metadata"]["generation"] = 77.into();
    let scaled = api.write("PUT", &one, &whole).await.json();
    assert_eq!(generation(&scaled), 2);
    assert_eq!(scaled["status"]["replicas"], 3, "the object's own writes leave status alone");
    assert_eq!(scaled["spec"]["replicas"], 4);
}

#[tokio::test]
async fn a_dry_run_tells_what_would_be_and_writes_nothing() {
    let api = Api::start().await;
    let dry = api.write("POST", &format!("{CONFIG_MAPS}?dryRun=All"), &config_map("a", "1")).await;
    assert_eq!(dry.code, 201);
    assert_eq!(dry.json()["metadata"].get("resourceVersion"), None);
    assert_eq!(api.get(&format!("{CONFIG_MAPS}/a")).await.code, 404);
    let created = api.create(CONFIG_MAPS, &config_map("a", "1")).await;
    let path = format!("{CONFIG_MAPS}/a?dryRun=All");
    let patched = api.patch(&path, MERGE, &json!({"data": {"a": "2"}})).await.json();
    assert_eq!(patched["data"]["a"], "2");
    assert_eq!(api.ask("DELETE", &path, &[], "").await.code, 200);
    assert_eq!(api.get(&format!("{CONFIG_MAPS}/a")).await.json(), created);
    let again =
        api.write("POST", &format!("{CONFIG_MAPS}?dryRun=All"), &config_map("a", "1")).await;
    assert_eq!(again.code, 409);
    let unknown = api.ask("DELETE", &format!("{CONFIG_MAPS}/a?dryRun=Some"), &[], "").await;
    assert_eq!(unknown.code, 422);
}

#[tokio::test]
async fn an_object_with_finalizers_stays_until_the_last_is_gone() {
    let api = Api::start().await;
    let mut wanted = config_map("a", "1");
    wanted["metadata"]["finalizers"] = json!(["example.com/one"]);
    api.create(CONFIG_MAPS, &wanted).await;
    let path = format!("{CONFIG_MAPS}/a");
    let marked = api.ask("DELETE", &path, &[], "").await;
    assert_eq!(marked.code, 200);
    let marked = marked.json();
    assert_eq!(marked["kind"], "ConfigMap");
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    let again = api.ask("DELETE", &path, &[], "").await.json();
    assert_eq!(again, marked, "a second delete changes nothing");
    let late = json!({"metadata": {"finalizers": ["example.com/one", "example.com/two"]}});
    let refused = api.patch(&path, MERGE, &late).await;
    assert_eq!(refused.code, 422);
    let last = api.patch(&path, MERGE, &json!({"metadata": {"finalizers": []}})).await;
    assert_eq!(last.code, 200, "{}", last.json());
    assert_eq!(api.get(&path).await.code, 404);
}

#[tokio::test]
async fn what_a_delete_says_is_looked_at_first() {
    let api = Api::start().await;
    let created = api.create(CONFIG_MAPS, &config_map("a", "1")).await;
    let path = format!("{CONFIG_MAPS}/a");
    let delete = |body: Value| {
        let (api, path) = (&api, &path);
        async move { api.write("DELETE", path, &body).await }
    };
    assert_eq!(delete(json!({"preconditions": {"uid": "other"}})).await.code, 409);
    assert_eq!(delete(json!({"preconditions": {"resourceVersion": "1"}})).await.code, 409);
    assert_eq!(delete(json!({"propagationPolicy": "Sideways"})).await.code, 422);
    let both = json!({"propagationPolicy": "Orphan", "orphanDependents": true});
    assert_eq!(delete(both).await.code, 422);
    let right = json!({"preconditions": {"uid": created["metadata"]["uid"]}});
    let done = delete(right).await;
    assert_eq!(done.code, 200);
    assert_eq!(
        done.json(),
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
            "details": {"name": "a", "kind": "configmaps", "uid": created["metadata"]["uid"]}})
    );
    let gone = delete(json!({})).await;
    assert_eq!((gone.code, gone.json()["reason"].as_str()), (404, Some("NotFound")));
}

#[tokio::test]
async fn propagation_leaves_its_finalizer() {
    let api = Api::start().await;
    for (policy, finalizer) in [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")] {
        let name = policy.to_lowercase();
        api.create(CONFIG_MAPS, &config_map(&name, "1")).await;
        let path = format!("{CONFIG_MAPS}/{name}?propagationPolicy={policy}");
        let marked = api.ask("DELETE", &path, &[], "").await.json();
        assert_eq!(marked["metadata"]["finalizers"], json!([finalizer]));
    }
}

#[tokio::test]
async fn a_collection_is_deleted_by_its_selector() {
    let api = Api::start().await;
    for (name, label) in [("a", "x"), ("b", "x"), ("c", "y")] {
        let mut wanted = config_map(name, "1");
        wanted["metadata"]["labels"] = json!({"l": label});
        api.create(CONFIG_MAPS, &wanted).await;
    }
    let deleted = api.ask("DELETE", &format!("{CONFIG_MAPS}?labelSelector=l%3Dx"), &[], "").await;
    assert_eq!(deleted.code, 200);
    assert_eq!(deleted.json()["items"].as_array().unwrap().len(), 2);
    let left = api.get(&format!("{CONFIG_MAPS}?labelSelector=l")).await.json();
    let names: Vec<_> =
        left["items"].as_array().unwrap().iter().map(|it| &it["metadata"]["name"]).collect();
    assert_eq!(names, ["c"]);
}

#[tokio::test]
async fn a_namespace_goes_when_its_own_finalizer_does() {
    let api = Api::start().await;
    let wanted = json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "n"}});
    let created = api.create("/api/v1/namespaces", &wanted).await;
    assert_eq!(created["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(created["status"]["phase"], "Active");
    let marked = api.ask("DELETE", "/api/v1/namespaces/n", &[], "").await.json();
    assert_eq!(marked["status"]["phase"], "Terminating");
    assert_eq!(api.get("/api/v1/namespaces/n").await.code, 200);
    let late = api.write("POST", "/api/v1/namespaces/n/configmaps", &config_map("a", "1")).await;
    assert_eq!(late.code, 403);
    let mut last = marked.clone();
    last["spec"]["finalizers"] = json!([]);
    let done = api.write("PUT", "/api/v1/namespaces/n/finalize", &last).await;
    assert_eq!(done.code, 200, "{}", done.json());
    assert_eq!(api.get("/api/v1/namespaces/n").await.code, 404);
}

#[tokio::test]
async fn unknown_fields_are_refused_told_or_passed_over() {
    let api = Api::start().await;
    let mut wanted = config_map("a", "1");
    wanted["datum"] = "x".into();
    let path = |how: &str| format!("{CONFIG_MAPS}?fieldValidation={how}&dryRun=All");
    let strict = api.write("POST", &path("Strict"), &wanted).await;
    assert_eq!(strict.code, 400);
    assert_eq!(
        strict.json()["message"],
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: \
         unknown field \"datum\""
    );
    let warned = api.write("POST", &path("Warn"), &wanted).await;
    assert_eq!(warned.code, 201);
    assert_eq!(warned.header("warning"), "299 - \"unknown field \\\"datum\\\"\"");
    assert_eq!(warned.json().get("datum"), None);
    assert_eq!(api.write("POST", &path("Ignore"), &wanted).await.header("warning"), "");
    assert_eq!(api.write("POST", &path("Maybe"), &wanted).await.code, 422);
}

#[tokio::test]
async fn a_namespace_is_updated_and_its_status_told_apart() {
    let api = Api::start().await;
    let made = json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "team"}});
    let mut namespace = api.create("/api/v1/namespaces", &made).await;
    let path = "/api/v1/namespaces/team";
    namespace["metadata"]["labels"]["team"] = "blue".into();
    let updated = api.write("PUT", path, &namespace).await.json();
    assert_eq!(updated["metadata"]["labels"]["team"], "blue");
    assert_eq!(updated["metadata"]["labels"]["kubernetes.io/metadata.name"], "team");

    let status = format!("{path}/status");
    let condition = |reason: &str| {
        json!({"type": "StatusPatch", "status": "True", "reason": reason,
            "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    let patch = json!({"metadata": {"annotations": {"e2e": "yes"}},
        "status": {"conditions": [condition("Patched")]}});
    let mut patched = api.patch(&status, MERGE, &patch).await.json();
    assert_eq!(patched["status"]["conditions"][0]["reason"], "Patched");
    assert_eq!(patched["status"]["phase"], "Active");
    patched["status"]["conditions"] = json!([condition("Updated")]);
    let updated = api.write("PUT", &status, &patched).await.json();
    assert_eq!(updated["status"]["conditions"][0]["reason"], "Updated");
    // What is said of the status elsewhere is passed over.
    let aside = json!({"status": {"conditions": null}});
    let kept = api.patch(path, MERGE, &aside).await.json();
    assert_eq!(kept["status"]["conditions"][0]["reason"], "Updated");
}
