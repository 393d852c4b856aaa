//! Addresses and ports of Services: given once, kept, and given back.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::http::{Api, MERGE};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";

fn service(name: &str, kind: &str) -> Value {
    json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": name},
        "spec": {"type": kind, "ports": [{"port": 80, "protocol": "TCP"}]}})
}

#[tokio::test]
async fn a_service_gets_an_address_that_is_held_by_an_object() {
    let api = Api::start().await;
    let created = api.create(SERVICES, &service("a", "ClusterIP")).await;
    let ip = created["spec"]["clusterIP"].as_str().unwrap();
    assert!(ip.starts_with("10.43."), "{ip}");
    assert_eq!(created["spec"]["clusterIPs"], json!([ip]));
    assert_eq!(created["spec"]["ipFamilies"], json!(["IPv4"]));
    let held = api.get(&format!("{ADDRESSES}/{ip}")).await.json();
    assert_eq!(held["spec"]["parentRef"]["name"], "a");
    let mut same = service("b", "ClusterIP");
    same["spec"]["clusterIP"] = ip.into();
    let refused = api.write("POST", SERVICES, &same).await;
    assert_eq!(refused.code, 422);
    assert!(
        refused.json()["message"].as_str().unwrap().contains("provided IP is already allocated")
    );
    let deleted = api.ask("DELETE", &format!("{SERVICES}/a"), &[], "").await;
    assert_eq!(deleted.code, 200);
    assert_eq!(api.get(&format!("{ADDRESSES}/{ip}")).await.code, 404);
    assert_eq!(
        api.write("POST", SERVICES, &same).await.code,
        201,
        "what was given back can be had"
    );
}

#[tokio::test]
async fn an_update_keeps_what_was_given_and_another_type_gives_it_back() {
    let api = Api::start().await;
    let created = api.create(SERVICES, &service("a", "NodePort")).await;
    let port = created["spec"]["ports"][0]["nodePort"].as_i64().unwrap();
    assert!((30000..=32767).contains(&port));
    let path = format!("{SERVICES}/a");
    let updated = api.write("PUT", &path, &service("a", "NodePort")).await.json();
    assert_eq!(updated["spec"], created["spec"]);
    let mut wanted = service("b", "NodePort");
    wanted["spec"]["ports"][0]["nodePort"] = port.into();
    let refused = api.write("POST", SERVICES, &wanted).await;
    assert_eq!(refused.code, 422);
    assert!(
        refused.json()["message"].as_str().unwrap().contains("provided port is already allocated")
    );
    let cluster = api.patch(&path, MERGE, &json!({"spec": {"type": "ClusterIP"}})).await.json();
    assert_eq!(cluster["spec"]["ports"][0].get("nodePort"), None);
    assert_eq!(cluster["spec"]["clusterIP"], created["spec"]["clusterIP"]);
    assert_eq!(api.write("POST", SERVICES, &wanted).await.code, 201);
    let external = json!({"spec": {"type": "ExternalName", "externalName": "example.com"}});
    let external = api.patch(&path, MERGE, &external).await.json();
    assert_eq!(external["spec"].get("clusterIP"), None);
    let ip = created["spec"]["clusterIP"].as_str().unwrap();
    assert_eq!(api.get(&format!("{ADDRESSES}/{ip}")).await.code, 404);
    let back = api.patch(&path, MERGE, &json!({"spec": {"type": "ClusterIP"}})).await.json();
    assert!(back["spec"]["clusterIP"].is_string());
    let moved = api.patch(&path, MERGE, &json!({"spec": {"clusterIP": "10.43.0.77"}})).await;
    assert_eq!(moved.code, 422);
}

#[tokio::test]
async fn services_that_race_never_share() {
    let api = Api::start().await;
    let each = (0..12).map(|number| {
        let api = &api;
        async move { api.create(SERVICES, &service(&format!("s{number}"), "NodePort")).await }
    });
    let all = futures::future::join_all(each).await;
    let ips: HashSet<_> = all.iter().map(|it| it["spec"]["clusterIP"].to_string()).collect();
    let ports: HashSet<_> =
        all.iter().map(|it| it["spec"]["ports"][0]["nodePort"].to_string()).collect();
    assert_eq!((ips.len(), ports.len()), (12, 12));
}

#[tokio::test]
async fn one_address_that_many_ask_for_goes_to_one() {
    let api = Api::start().await;
    let each = (0..6).map(|number| {
        let api = &api;
        async move {
            let mut wanted = service(&format!("s{number}"), "ClusterIP");
            wanted["spec"]["clusterIP"] = "10.43.0.99".into();
            api.write("POST", SERVICES, &wanted).await.code
        }
    });
    let mut codes = futures::future::join_all(each).await;
    codes.sort_unstable();
    assert_eq!(codes, [201, 422, 422, 422, 422, 422]);
}

#[tokio::test]
async fn a_headless_service_and_a_dry_run_hold_nothing() {
    let api = Api::start().await;
    let mut headless = service("h", "ClusterIP");
    headless["spec"]["clusterIP"] = "None".into();
    let created = api.create(SERVICES, &headless).await;
    assert_eq!(created["spec"]["clusterIPs"], json!(["None"]));
    let before = api.get(ADDRESSES).await.json()["items"].as_array().unwrap().len();
    let dry = api.write("POST", &format!("{SERVICES}?dryRun=All"), &service("d", "NodePort")).await;
    assert_eq!(dry.code, 201);
    let after = api.get(ADDRESSES).await.json()["items"].as_array().unwrap().len();
    assert_eq!(before, after);
}
