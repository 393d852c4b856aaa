//! Bodies, patches and queries that are almost right: cut, bent and stuffed at random, by seed.
//!
//! Whatever comes is answered, never with a failure of the server's own, and the server goes on.
//! `KONTIKI_SEED=n` chooses the first seed, `KONTIKI_HOSTILE_CASES=n` how many there are of each kind.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::http::{Answer, Api, CONFIG_MAPS, MERGE, PODS, pod};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

/// What tends to be read as something else than it is.
const TOKENS: &[&str] = &[
    "null",
    "{}",
    "[]",
    "[[",
    "{\"",
    "\"\"",
    "-1",
    "1e999",
    "0.5",
    "18446744073709551616",
    "\\u0000",
    "\\ud800",
    "true",
    "%",
    "$patch",
    "\"$patch\":\"delete\"",
    "metadata",
    "finalizers",
    "\u{feff}",
    "a=b,c!=d",
    "in (",
    "notin",
    "/",
    "~1",
    "~2",
    "/-",
    "op",
    "k8s\0",
    "apiVersion",
    "\n---\n",
    "&a",
    "*a",
    "<<: ",
];

fn seed() -> u64 {
    std::env::var("KONTIKI_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn cases() -> u64 {
    let said = std::env::var("KONTIKI_HOSTILE_CASES").ok();
    said.and_then(|text| text.parse().ok()).unwrap_or(150)
}

/// The same bytes, a little wrong.
fn bent(bytes: &[u8], random: &mut StdRng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..random.random_range(1..4) {
        if bytes.is_empty() {
            return bytes;
        }
        let at = random.random_range(0..bytes.len());
        let to = random.random_range(at..bytes.len().min(at + 40) + 1).min(bytes.len());
        match random.random_range(0..7) {
            0 => bytes[at] ^= 1 << random.random_range(0..8),
            1 => bytes[at] = random.random(),
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..to)),
            4 => {
                let again = bytes[at..to].to_vec();
                bytes.splice(at..at, again);
            }
            5 => {
                let token = TOKENS[random.random_range(0..TOKENS.len())];
                bytes.splice(at..to, token.bytes());
            }
            _ => {
                let token = TOKENS[random.random_range(0..TOKENS.len())];
                let many = token.repeat(random.random_range(1..200));
                bytes.splice(at..at, many.bytes());
            }
        }
    }
    bytes
}

/// Whether the server knew what it said. Upstream, and so we, answer 500 without a reason to some requests that
/// are merely wrong; a failure of the server's own has a reason.
fn is_answer(answer: &Answer) -> bool {
    let status: Value = serde_json::from_slice(&answer.bytes).unwrap_or_default();
    answer.code < 500 || answer.code == 500 && status.is_object() && status.get("reason").is_none()
}

/// Sends a bent body again and again, and looks at what is said of it.
async fn send(api: &Api, method: &str, path: &str, kind: &str, body: &[u8]) {
    for seed in seed()..seed() + cases() {
        let bent = bent(body, &mut StdRng::seed_from_u64(seed));
        let headers = [("content-type", kind)];
        let answer = api.ask(method, path, &headers, bent.clone()).await;
        assert!(
            is_answer(&answer),
            "{method} {path} {kind}, seed {seed}: {} {}\n{}",
            answer.code,
            String::from_utf8_lossy(&answer.bytes),
            String::from_utf8_lossy(&bent),
        );
    }
    assert_eq!(api.get("/healthz").await.code, 200);
}

fn deployment() -> Value {
    json!({"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "web",
        "labels": {"a": "b"}, "annotations": {"x": "y"}}, "spec": {"replicas": 2,
        "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}],
                "env": [{"name": "A", "value": "b"}],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}],
                "tolerations": [{"key": "a", "operator": "Exists"}]}}}})
}

#[tokio::test]
async fn bodies_that_are_almost_objects_are_refused_or_taken() {
    let api = Api::start().await;
    let web = deployment().to_string();
    for kind in ["application/json", "application/yaml"] {
        send(&api, "POST", DEPLOYMENTS, kind, web.as_bytes()).await;
    }
    send(&api, "POST", PODS, "application/json", pod("p").to_string().as_bytes()).await;
}

#[tokio::test]
async fn protobuf_that_is_almost_right_is_refused_or_taken() {
    let api = Api::start().await;
    api.create(DEPLOYMENTS, &deployment()).await;
    let path = format!("{DEPLOYMENTS}/web");
    let read = api.ask("GET", &path, &[("accept", PROTOBUF)], "").await;
    assert!(read.bytes.starts_with(b"k8s\0"));
    send(&api, "POST", DEPLOYMENTS, PROTOBUF, &read.bytes).await;
    send(&api, "PUT", &path, PROTOBUF, &read.bytes).await;
    send(&api, "DELETE", &format!("{CONFIG_MAPS}/none"), PROTOBUF, &read.bytes).await;
}

#[tokio::test]
async fn patches_that_are_almost_right_are_refused_or_carried_out() {
    let api = Api::start().await;
    api.create(DEPLOYMENTS, &deployment()).await;
    let path = format!("{DEPLOYMENTS}/web");
    let template = json!({"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "d"}],
        "containers": [{"name": "d", "image": "j", "$patch": "replace"},
            {"name": "c", "$retainKeys": ["name", "image"]}]}});
    let strategic = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]},
        "spec": {"template": template}});
    send(
        &api,
        "PATCH",
        &path,
        "application/strategic-merge-patch+json",
        strategic.to_string().as_bytes(),
    )
    .await;
    let merge = json!({"metadata": {"labels": {"a": null}}, "spec": {"replicas": 3}});
    send(&api, "PATCH", &path, MERGE, merge.to_string().as_bytes()).await;
    let operations = json!([{"op": "test", "path": "/spec/replicas", "value": 2},
        {"op": "move", "from": "/metadata/labels/a", "path": "/metadata/annotations/a~1b"},
        {"op": "copy", "from": "/spec/template/spec/containers/0", "path":
            "/spec/template/spec/containers/-"}]);
    send(&api, "PATCH", &path, "application/json-patch+json", operations.to_string().as_bytes())
        .await;
    let apply = format!("{path}?fieldManager=m&force=true");
    send(
        &api,
        "PATCH",
        &apply,
        "application/apply-patch+yaml",
        deployment().to_string().as_bytes(),
    )
    .await;
}

#[tokio::test]
async fn queries_that_are_almost_right_are_refused_or_answered() {
    let api = Api::start().await;
    for name in ["a", "b", "c"] {
        api.create(CONFIG_MAPS, &crate::http::config_map(name, "x")).await;
    }
    let first = api.get(&format!("{CONFIG_MAPS}?limit=1")).await.json();
    let token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    for (name, value) in [
        ("labelSelector", "a in (b,c),!d,e!=f,g=h"),
        ("fieldSelector", "metadata.name=a,metadata.namespace!=b"),
        ("continue", token.as_str()),
        ("resourceVersion", "10"),
        ("limit", "2"),
        ("timeoutSeconds", "1"),
    ] {
        for seed in seed()..seed() + cases() {
            let bent = bent(value.as_bytes(), &mut StdRng::seed_from_u64(seed));
            let text: String = bent.iter().take(400).map(|byte| format!("%{byte:02X}")).collect();
            // What lies in the future is waited for, in vain.
            let path = format!("{CONFIG_MAPS}?{name}={text}");
            if name == "resourceVersion" && String::from_utf8_lossy(&bent).len() > 2 {
                continue;
            }
            let answer = api.get(&path).await;
            let said = String::from_utf8_lossy(&answer.bytes).into_owned();
            assert!(is_answer(&answer) || answer.code == 504, "{path}, seed {seed}: {said}");
        }
    }
}
