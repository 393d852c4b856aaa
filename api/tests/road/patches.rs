//! The four patches, and what server-side apply keeps of who owns what.

use serde_json::{Value, json};

use crate::http::{Api, CONFIG_MAPS, MERGE, config_map};

const APPLY: &str = "application/apply-patch+yaml";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const JSON: &str = "application/json-patch+json";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn deployment() -> Value {
    json!({"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "d"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "d"}}, "template": {
            "metadata": {"labels": {"app": "d"}},
            "spec": {"containers": [{"name": "a", "image": "one"},
                {"name": "b", "image": "two"}]}}}})
}

#[tokio::test]
async fn each_patch_does_what_its_type_says() {
    let api = Api::start().await;
    api.create(DEPLOYMENTS, &deployment()).await;
    let path = format!("{DEPLOYMENTS}/d");
    let images = |it: &Value| -> Vec<(String, String)> {
        let all = it["spec"]["template"]["spec"]["containers"].as_array().unwrap();
        let text = |it: &Value| it.as_str().unwrap().to_owned();
        all.iter().map(|it| (text(&it["name"]), text(&it["image"]))).collect()
    };
    let both =
        |a: &str, b: &str| vec![("a".to_owned(), a.to_owned()), ("b".to_owned(), b.to_owned())];
    let one =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "b", "image": "new"}]}}}});
    let merged = api.patch(&path, STRATEGIC, &one).await.json();
    assert_eq!(images(&merged), both("one", "new"), "merged by name");
    let first = json!([{"op": "replace",
        "path": "/spec/template/spec/containers/0/image", "value": "x"},
        {"op": "test", "path": "/spec/replicas", "value": 2}]);
    assert_eq!(images(&api.patch(&path, JSON, &first).await.json()), both("x", "new"));
    let failing = json!([{"op": "test", "path": "/spec/replicas", "value": 7}]);
    assert_eq!(api.patch(&path, JSON, &failing).await.code, 422);
    let replaced = api.patch(&path, MERGE, &one).await.json();
    assert_eq!(
        images(&replaced),
        [("b".to_owned(), "new".to_owned())],
        "a merge patch replaces lists"
    );
    let unknown = api.patch(&path, "application/json", &one).await;
    assert_eq!(unknown.code, 415);
    assert_eq!(api.patch(&format!("{DEPLOYMENTS}/none"), MERGE, &one).await.code, 404);
    let named = api.patch(&path, MERGE, &json!({"metadata": {"name": "other"}})).await;
    assert_eq!(named.code, 422);
}

#[tokio::test]
async fn a_patch_with_a_version_holds_only_against_that() {
    let api = Api::start().await;
    let created = api.create(CONFIG_MAPS, &config_map("a", "1")).await;
    let path = format!("{CONFIG_MAPS}/a");
    let version = &created["metadata"]["resourceVersion"];
    let patch = json!({"metadata": {"resourceVersion": version}, "data": {"a": "2"}});
    assert_eq!(api.patch(&path, MERGE, &patch).await.code, 200);
    assert_eq!(api.patch(&path, MERGE, &patch).await.code, 409);
}

#[tokio::test]
async fn patches_that_race_all_hold() {
    let api = Api::start().await;
    api.create(CONFIG_MAPS, &config_map("a", "0")).await;
    let path = format!("{CONFIG_MAPS}/a");
    let each = (0..6).map(|number| {
        let (api, path) = (&api, &path);
        async move {
            let answer =
                api.patch(path, MERGE, &json!({"data": {format!("k{number}"): "x"}})).await;
            assert_eq!(answer.code, 200, "{}", answer.json());
        }
    });
    futures::future::join_all(each).await;
    let data = api.get(&path).await.json()["data"].clone();
    assert_eq!(data.as_object().unwrap().len(), 7);
}

async fn apply(api: &Api, manager: &str, force: bool, body: &Value) -> crate::http::Answer {
    let path = format!("{CONFIG_MAPS}/a?fieldManager={manager}&force={force}");
    api.patch(&path, APPLY, body).await
}

#[tokio::test]
async fn an_apply_creates_owns_and_gives_up() {
    let api = Api::start().await;
    let wanted = |data: Value| {
        json!({"kind": "ConfigMap", "apiVersion": "v1",
        "metadata": {"name": "a"}, "data": data})
    };
    let created = apply(&api, "one", false, &wanted(json!({"x": "1", "y": "1"}))).await;
    assert_eq!(created.code, 201, "{}", created.json());
    let entry = &created.json()["metadata"]["managedFields"][0];
    assert_eq!(
        (entry["manager"].as_str(), entry["operation"].as_str()),
        (Some("one"), Some("Apply"))
    );
    let same = apply(&api, "one", false, &wanted(json!({"x": "1", "y": "1"}))).await;
    assert_eq!(same.code, 200);
    assert_eq!(same.json(), created.json(), "an apply of what is there writes nothing");
    let conflict = apply(&api, "two", false, &wanted(json!({"x": "2"}))).await;
    assert_eq!(conflict.code, 409);
    let told = conflict.json();
    assert_eq!(told["details"]["causes"][0]["reason"], "FieldManagerConflict");
    assert_eq!(told["details"]["causes"][0]["field"], ".data.x");
    let forced = apply(&api, "two", true, &wanted(json!({"x": "2"}))).await.json();
    assert_eq!(forced["data"], json!({"x": "2", "y": "1"}));
    let given_up = apply(&api, "one", false, &wanted(json!({}))).await.json();
    assert_eq!(given_up["data"], json!({"x": "2"}), "what nobody owns any more goes");
}

#[tokio::test]
async fn what_an_apply_must_say_is_asked_for() {
    let api = Api::start().await;
    let body = config_map("a", "1");
    let path = format!("{CONFIG_MAPS}/a");
    let without = api.patch(&path, APPLY, &body).await;
    assert_eq!(without.code, 422);
    assert_eq!(
        without.json()["message"],
        "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for \
         apply patch"
    );
    let forced = api.patch(&format!("{path}?force=true"), MERGE, &body).await;
    assert_eq!(forced.code, 422);
    let mut managed = body.clone();
    managed["metadata"]["managedFields"] = json!([]);
    assert_eq!(apply(&api, "one", false, &managed).await.code, 400);
    let mut nameless = body.clone();
    nameless.as_object_mut().unwrap().remove("kind");
    assert_eq!(apply(&api, "one", false, &nameless).await.code, 400);
}

#[tokio::test]
async fn other_writes_are_owned_by_who_made_them() {
    let api = Api::start().await;
    let path = format!("{CONFIG_MAPS}?fieldManager=maker");
    let created = api.write("POST", &path, &config_map("a", "1")).await.json();
    let entry = &created["metadata"]["managedFields"][0];
    assert_eq!(entry["manager"], "maker");
    assert_eq!(entry["operation"], "Update");
    assert_eq!(entry["fieldsV1"], json!({"f:data": {".": {}, "f:a": {}}}));
    let agent = [("content-type", MERGE), ("user-agent", "mender/v1")];
    let body = json!({"data": {"b": "2"}}).to_string();
    let patched = api.ask("PATCH", &format!("{CONFIG_MAPS}/a"), &agent, body).await.json();
    let managers: Vec<_> = patched["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["manager"].as_str().unwrap())
        .collect();
    assert!(managers.contains(&"maker") && managers.contains(&"mender"), "{managers:?}");
}

#[tokio::test]
async fn a_scale_is_read_and_written_in_its_own_form() {
    let api = Api::start().await;
    api.create(DEPLOYMENTS, &deployment()).await;
    let path = format!("{DEPLOYMENTS}/d/scale");
    let scale = api.get(&path).await.json();
    assert_eq!(
        (scale["kind"].as_str(), scale["apiVersion"].as_str()),
        (Some("Scale"), Some("autoscaling/v1"))
    );
    assert_eq!(scale["spec"]["replicas"], 2);
    assert_eq!(scale["status"]["selector"], "app=d");
    let patched = api.patch(&path, MERGE, &json!({"spec": {"replicas": 5}})).await.json();
    assert_eq!(patched["spec"]["replicas"], 5);
    let parent = api.get(&format!("{DEPLOYMENTS}/d")).await.json();
    assert_eq!(
        (&parent["spec"]["replicas"], &parent["metadata"]["generation"]),
        (&json!(5), &json!(2))
    );
    let mut put = patched.clone();
    put["spec"]["replicas"] = 1.into();
    // As kubectl sends it: without saying what it is.
    let put = api.ask("PUT", &path, &[], put.to_string()).await;
    assert_eq!(put.code, 200, "{}", put.json());
    let stale = api.write("PUT", &path, &patched).await;
    assert_eq!(stale.code, 409);
    let negative = api.patch(&path, MERGE, &json!({"spec": {"replicas": -1}})).await;
    assert_eq!(negative.code, 422);
    assert_eq!(negative.json()["details"]["causes"][0]["field"], "spec.replicas");
}

#[tokio::test]
async fn a_json_patch_finds_a_status_of_which_nothing_has_been_said() {
    let api = Api::start().await;
    let claims = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
    let claim = json!({"kind": "ResourceClaim", "apiVersion": "resource.k8s.io/v1",
        "metadata": {"name": "a"}, "spec": {}});
    api.create(claims, &claim).await;
    let patch = json!([{"op": "add", "path": "/status/allocation", "value": {}}]);
    let path = format!("{claims}/a/status");
    let patched = api.patch(&path, "application/json-patch+json", &patch).await;
    assert_eq!(patched.code, 200, "{}", patched.json());
    assert!(patched.json()["status"]["allocation"].is_object(), "{}", patched.json());
}

#[tokio::test]
async fn who_approves_a_request_may_say_something_about_it() {
    let api = Api::start().await;
    let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let wanted = json!({"kind": "CertificateSigningRequest",
        "apiVersion": "certificates.k8s.io/v1", "metadata": {"name": "a"},
        "spec": {"request": crate::lifecycles::request(), "usages": ["client auth"],
            "signerName": "example.com/s"}});
    api.create(requests, &wanted).await;
    let patch = json!({"metadata": {"annotations": {"why": "asked"}},
        "spec": {"username": "other"}, "status": {"certificate": "eA==",
            "conditions": [{"type": "Noted", "status": "True", "reason": "r"}]}});
    let path = format!("{requests}/a/approval");
    let patched = api.patch(&path, MERGE, &patch).await.json();
    assert_eq!(patched["metadata"]["annotations"]["why"], "asked");
    assert_eq!(patched["status"]["conditions"][0]["type"], "Noted");
    assert_eq!(patched["status"].get("certificate"), None);
    assert_eq!(patched["spec"]["username"], "system:admin");
}
