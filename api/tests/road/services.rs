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

#[tokio::test]
async fn addresses_and_their_ranges_have_lives_of_their_own() {
    let api = Api::start().await;
    let prefix = "/apis/networking.k8s.io/v1";
    let address = |name: &str| {
        json!({"kind": "IPAddress", "apiVersion": "networking.k8s.io/v1",
            "metadata": {"name": name, "labels": {"mine": "yes"}},
            "spec": {"parentRef": {"resource": "services", "name": "s", "namespace": "default"}}})
    };
    let addresses = ADDRESSES.to_owned();
    api.create(&addresses, &address("192.168.1.5")).await;
    for (name, why) in [
        ("a", "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
        ("2001:DB8::1", "must be in canonical form (\"2001:db8::1\")"),
    ] {
        let refused = api.write("POST", &addresses, &address(name)).await;
        let said = refused.json()["message"].as_str().unwrap_or_default().to_owned();
        assert!(refused.code == 422 && said.contains(why), "{said}");
    }
    let patch = json!({"metadata": {"annotations": {"a": "b"}}});
    let one = format!("{addresses}/192.168.1.5");
    assert_eq!(api.patch(&one, MERGE, &patch).await.code, 200);
    let mut made = api.get(&one).await.json();
    made["spec"]["parentRef"]["name"] = "other".into();
    let refused = api.write("PUT", &one, &made).await.json();
    assert!(refused["message"].as_str().unwrap().contains("field is immutable"), "{refused}");
    let mine = format!("{addresses}?labelSelector=mine%3Dyes");
    assert_eq!(api.get(&mine).await.json()["items"].as_array().unwrap().len(), 1);
    assert_eq!(api.write("DELETE", &mine, &Value::Null).await.code, 200);
    assert_eq!(api.get(&one).await.code, 404);

    let range = |ranges: Value| {
        json!({"kind": "ServiceCIDR", "apiVersion": "networking.k8s.io/v1",
            "metadata": {"name": "more"}, "spec": {"cidrs": ranges}})
    };
    let ranges = format!("{prefix}/servicecidrs");
    for (bad, why) in [
        (json!([]), "at least one CIDR required"),
        (json!(["10.0.0.0/33"]), "must be a valid CIDR value"),
        (json!(["10.0.0.0/24", "10.0.1.0/24"]), "no more than one IP for each IP family"),
    ] {
        let refused = api.write("POST", &ranges, &range(bad)).await.json();
        assert!(refused["message"].as_str().unwrap().contains(why), "{refused}");
    }
    let mut made = api.create(&ranges, &range(json!(["10.77.0.0/24"]))).await;
    made["spec"]["cidrs"] = json!(["10.78.0.0/24"]);
    let one = format!("{ranges}/more");
    let refused = api.write("PUT", &one, &made).await.json();
    assert!(refused["message"].as_str().unwrap().contains("field is immutable"), "{refused}");
    made["spec"]["cidrs"] = json!(["10.77.0.0/24", "2001:db8:77::/64"]);
    assert_eq!(api.write("PUT", &one, &made).await.code, 200);
}
