//! What is special about pods: how they end, get their node and leave it.

use serde_json::{Value, json};

use crate::http::{Api, MERGE, PODS, pod};

fn binding(name: &str, node: &str) -> Value {
    json!({"kind": "Binding", "apiVersion": "v1", "metadata": {"name": name},
        "target": {"kind": "Node", "name": node}})
}

async fn bound(api: &Api, name: &str) {
    api.create(PODS, &pod(name)).await;
    let answer = api.write("POST", &format!("{PODS}/{name}/binding"), &binding(name, "n1")).await;
    assert_eq!(answer.code, 201, "{}", answer.json());
}

#[tokio::test]
async fn a_pod_is_bound_once_and_by_either_url() {
    let api = Api::start().await;
    bound(&api, "a").await;
    let there = api.get(&format!("{PODS}/a")).await.json();
    assert_eq!(there["spec"]["nodeName"], "n1");
    let scheduled = &there["status"]["conditions"][0];
    assert_eq!(
        (scheduled["type"].as_str(), scheduled["status"].as_str()),
        (Some("PodScheduled"), Some("True"))
    );
    let again = api.write("POST", &format!("{PODS}/a/binding"), &binding("a", "n2")).await;
    assert_eq!(again.code, 409);
    api.create(PODS, &pod("b")).await;
    let bindings = "/api/v1/namespaces/default/bindings";
    let other = api.write("POST", bindings, &binding("b", "n2")).await;
    assert_eq!(other.code, 201, "{}", other.json());
    assert_eq!(api.get(&format!("{PODS}/b")).await.json()["spec"]["nodeName"], "n2");
    assert_eq!(api.write("POST", bindings, &binding("none", "n2")).await.code, 404);
    assert_eq!(api.write("POST", &format!("{PODS}/a/binding"), &binding("b", "n")).await.code, 400);
}

#[tokio::test]
async fn a_pod_that_runs_is_given_its_time_which_may_only_shrink() {
    let api = Api::start().await;
    bound(&api, "a").await;
    let path = format!("{PODS}/a");
    let delete = |seconds: Option<i64>| {
        let (api, path) = (&api, &path);
        async move {
            let body = seconds.map_or(json!({}), |it| json!({"gracePeriodSeconds": it}));
            api.write("DELETE", path, &body).await
        }
    };
    let marked = delete(Some(30)).await.json();
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    let longer = delete(Some(60)).await.json();
    assert_eq!(longer["metadata"]["deletionGracePeriodSeconds"], 30);
    let shorter = delete(Some(5)).await.json();
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    assert_eq!(api.get(&path).await.code, 200);
    let status = json!({"status": {"phase": "Failed"}});
    assert_eq!(api.patch(&format!("{path}/status"), MERGE, &status).await.code, 200);
    assert_eq!(delete(Some(0)).await.code, 200);
    assert_eq!(api.get(&path).await.code, 404);
}

#[tokio::test]
async fn a_pod_that_runs_nowhere_goes_at_once_unless_it_is_held() {
    let api = Api::start().await;
    api.create(PODS, &pod("a")).await;
    let deleted = api.ask("DELETE", &format!("{PODS}/a"), &[], "").await;
    assert_eq!((deleted.code, deleted.json()["kind"].as_str()), (200, Some("Pod")));
    assert_eq!(api.get(&format!("{PODS}/a")).await.code, 404);
    let mut held = pod("b");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    api.create(PODS, &held).await;
    let marked = api.ask("DELETE", &format!("{PODS}/b"), &[], "").await.json();
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
    assert_eq!(api.get(&format!("{PODS}/b")).await.code, 200);
}

#[tokio::test]
async fn an_eviction_spends_its_budget_in_the_same_commit() {
    let api = Api::start().await;
    let budget = json!({"kind": "PodDisruptionBudget", "apiVersion": "policy/v1",
        "metadata": {"name": "b"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    api.create(budgets, &budget).await;
    let status = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": 1,
        "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2}});
    let told = api.patch(&format!("{budgets}/b/status"), MERGE, &status).await;
    assert_eq!(told.code, 200, "{}", told.json());
    for name in ["a", "b"] {
        let mut wanted = pod(name);
        wanted["metadata"]["labels"] = json!({"app": "web"});
        wanted["spec"]["terminationGracePeriodSeconds"] = 30.into();
        api.create(PODS, &wanted).await;
        api.write("POST", &format!("{PODS}/{name}/binding"), &binding(name, "n1")).await;
        let status = json!({"status": {"phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}]}});
        let told = api.patch(&format!("{PODS}/{name}/status"), MERGE, &status).await;
        assert_eq!(told.code, 200, "{}", told.json());
    }
    let evict = |name: &'static str, options: Value| {
        let api = &api;
        async move {
            let body = json!({"kind": "Eviction", "apiVersion": "policy/v1",
                "metadata": {"name": name}, "deleteOptions": options});
            api.write("POST", &format!("{PODS}/{name}/eviction"), &body).await
        }
    };
    assert_eq!(evict("a", json!({"dryRun": ["All"]})).await.code, 201);
    let answer = evict("a", json!({})).await;
    assert_eq!((answer.code, answer.json()["status"].as_str()), (201, Some("Success")));
    let gone = api.get(&format!("{PODS}/a")).await.json();
    assert!(gone["metadata"]["deletionTimestamp"].is_string());
    let conditions = gone["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().any(|it| it["type"] == "DisruptionTarget"));
    let spent = api.get(&format!("{budgets}/b")).await.json();
    assert_eq!(spent["status"]["disruptionsAllowed"], 0);
    assert!(spent["status"]["disruptedPods"]["a"].is_string());
    let refused = evict("b", json!({})).await;
    assert_eq!(refused.code, 429);
    assert_eq!(refused.json()["details"]["causes"][0]["reason"], "DisruptionBudget");
    assert_eq!(evict("none", json!({})).await.code, 404);
}

#[tokio::test]
async fn what_ends_at_a_node_says_why_it_cannot() {
    let api = Api::start().await;
    api.create(PODS, &pod("a")).await;
    let log = api.get(&format!("{PODS}/a/log")).await;
    assert_eq!(
        (log.code, log.json()["message"].as_str()),
        (400, Some("pod a does not have a host assigned"))
    );
    let wrong = api.get(&format!("{PODS}/a/log?container=x")).await;
    assert_eq!(wrong.json()["message"], "container x is not valid for pod a");
    api.write("POST", &format!("{PODS}/a/binding"), &binding("a", "n1")).await;
    let exec = api.write("POST", &format!("{PODS}/a/exec?command=ls"), &Value::Null).await;
    assert_eq!(
        (exec.code, exec.json()["message"].as_str()),
        (400, Some("Upgrade request required"))
    );
    let log = api.get(&format!("{PODS}/a/log")).await;
    assert!(log.code >= 500, "{}", log.json());
    let why = log.json()["message"].as_str().unwrap().to_owned();
    assert!(why.contains("no agent of node \"n1\" is connected"), "{why}");
    assert_eq!(api.get(&format!("{PODS}/none/log")).await.code, 404);
}

#[tokio::test]
async fn ephemeral_containers_are_added_through_their_subresource_alone() {
    let api = Api::start().await;
    api.create(PODS, &pod("a")).await;
    let path = format!("{PODS}/a/ephemeralcontainers");
    let strategic = "application/strategic-merge-patch+json";
    let debug = json!({"spec": {"ephemeralContainers": [{"name": "debug", "image": "busybox"}]}});
    let added = api.patch(&path, strategic, &debug).await;
    assert_eq!(added.code, 200, "{}", added.json());
    assert_eq!(added.json()["spec"]["ephemeralContainers"][0]["name"], "debug");
    assert_eq!(added.json()["metadata"]["generation"], 2);
    let changed = json!({"spec": {"ephemeralContainers": [{"name": "debug", "image": "other"}]}});
    assert_eq!(api.patch(&path, strategic, &changed).await.code, 422);
    let taken = json!({"spec": {"ephemeralContainers": [{"name": "c", "image": "busybox"}]}});
    assert_eq!(api.patch(&path, strategic, &taken).await.code, 422);
}

#[tokio::test]
async fn a_pod_brings_volumes_of_a_driver_along() {
    let api = Api::start().await;
    let mut with = pod("a");
    with["spec"]["volumes"] = json!([{"name": "v", "csi": {"driver": "e2e.example.com",
        "readOnly": true, "volumeAttributes": {"size": "5"}}}]);
    api.create(PODS, &with).await;
    let patch = json!({"metadata": {"labels": {"patched": "yes"}}});
    let patched = api.patch(&format!("{PODS}/a"), MERGE, &patch).await.json();
    assert_eq!(patched["spec"]["volumes"][0]["csi"]["driver"], "e2e.example.com");
    assert_eq!(patched["spec"]["volumes"][0]["csi"]["volumeAttributes"]["size"], "5");
    with["metadata"]["name"] = "b".into();
    with["spec"]["volumes"][0]["csi"]["driver"] = "".into();
    let refused = api.write("POST", PODS, &with).await;
    assert_eq!(
        (refused.code, refused.json()["details"]["causes"][0]["field"].clone()),
        (422, "spec.volumes[0].csi.driver".into())
    );
}

#[tokio::test]
async fn a_certificate_for_a_pod_lasts_neither_too_short_nor_too_long() {
    let api = Api::start().await;
    let asking = |signer: &str, seconds: i64| {
        let mut pod = pod("a");
        pod["spec"]["volumes"] = json!([{"name": "v", "projected": {"sources": [{
            "podCertificate": {"signerName": signer, "keyType": "ED25519",
                "maxExpirationSeconds": seconds, "credentialBundlePath": "bundle.pem"}}]}}]);
        pod
    };
    let field = "spec.volumes[0].projected.sources[0].podCertificate.maxExpirationSeconds";
    for (signer, seconds, bound) in [
        ("example.com/a", 3599, ">= 3600"),
        ("example.com/a", 7_862_401, "<= 7862400"),
        ("kubernetes.io/a", 86_401, "<= 86400"),
    ] {
        let refused = api.write("POST", PODS, &asking(signer, seconds)).await;
        let cause = &refused.json()["details"]["causes"][0];
        assert_eq!((refused.code, &cause["field"]), (422, &json!(field)));
        let why =
            format!("Invalid value: {seconds}: if provided, maxExpirationSeconds must be {bound}");
        assert_eq!(cause["message"], why);
    }
    api.create(PODS, &asking("example.com/a", 7_862_400)).await;
}
