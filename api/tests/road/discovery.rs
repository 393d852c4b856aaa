//! What there is: discovery in its forms, OpenAPI, version and health.

use serde_json::json;

use crate::http::Api;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

#[tokio::test]
async fn discovery_comes_at_once_for_who_asks_and_piece_by_piece_for_all_others() {
    let api = Api::start().await;
    for accept in ["*/*", "application/json", ""] {
        let headers: &[(&str, &str)] = if accept.is_empty() { &[] } else { &[("accept", accept)] };
        let groups = api.ask("GET", "/apis", headers, "").await.json();
        assert_eq!(groups["kind"], "APIGroupList", "{accept}");
    }
    let old = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,\
         application/json";
    let legacy = api.ask("GET", "/apis", &[("accept", old)], "").await.json();
    assert_eq!(legacy["kind"], "APIGroupList", "an old form is passed over");
    let wanted = format!("{AGGREGATED},application/json");
    let whole = api.ask("GET", "/apis", &[("accept", &wanted)], "").await;
    assert_eq!(whole.header("content-type"), AGGREGATED);
    assert_eq!(whole.header("vary"), "Accept");
    let whole_names = whole.json();
    let names: Vec<_> =
        whole_names["items"].as_array().unwrap().iter().map(|it| &it["metadata"]["name"]).collect();
    assert!(
        names.iter().position(|it| **it == "apps") < names.iter().position(|it| **it == "batch")
    );
    let tag = whole.header("etag").to_owned();
    let known = [("accept", wanted.as_str()), ("if-none-match", tag.as_str())];
    assert_eq!(api.ask("GET", "/apis", &known, "").await.code, 304);
    let core = api.ask("GET", "/api", &[("accept", AGGREGATED)], "").await.json();
    assert_eq!(core["items"][0]["versions"][0]["version"], "v1");
}

#[tokio::test]
async fn every_level_of_discovery_is_there_with_and_without_a_slash() {
    let api = Api::start().await;
    for (path, kind) in [
        ("/api", "APIVersions"),
        ("/apis", "APIGroupList"),
        ("/apis/apps", "APIGroup"),
        ("/api/v1", "APIResourceList"),
        ("/apis/apps/v1", "APIResourceList"),
    ] {
        for path in [path.to_owned(), format!("{path}/")] {
            assert_eq!(api.get(&path).await.json()["kind"], kind, "{path}");
        }
    }
    let core = api.get("/api/v1").await.json();
    let named = |name: &str| {
        let all = core["resources"].as_array().unwrap().iter();
        all.clone().find(|it| it["name"] == name).cloned().unwrap_or_else(|| panic!("{name}"))
    };
    assert_eq!(named("pods/eviction")["group"], "policy");
    assert!(named("componentstatuses")["verbs"].is_array());
    assert_eq!(named("pods")["shortNames"], json!(["po"]));
}

#[tokio::test]
async fn openapi_of_version_three_may_be_kept_by_its_hash() {
    let api = Api::start().await;
    let root = api.get("/openapi/v3").await.json();
    let url = root["paths"]["api/v1"]["serverRelativeURL"].as_str().unwrap();
    let right = api.get(url).await;
    assert_eq!(right.code, 200);
    assert_eq!(right.header("cache-control"), "public, immutable");
    assert!(!right.header("expires").is_empty());
    assert!(right.json()["components"]["schemas"]["io.k8s.api.core.v1.Pod"].is_object());
    let wrong = api.get("/openapi/v3/api/v1?hash=0").await;
    assert_eq!((wrong.code, wrong.header("location")), (301, url));
    assert_eq!(api.get("/openapi/v3/apis/none/v1").await.code, 404);
}

#[tokio::test]
async fn openapi_of_version_two_comes_as_json_or_protobuf() {
    let api = Api::start().await;
    let json = api.get("/openapi/v2").await;
    assert_eq!(json.json()["swagger"], "2.0");
    let asked = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let protobuf = api.ask("GET", "/openapi/v2", &[("accept", asked)], "").await;
    assert_eq!(
        protobuf.header("content-type"),
        "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
    );
    assert!(!protobuf.bytes.starts_with(b"{"));
    assert_eq!(api.ask("GET", "/openapi/v2", &[("accept", "text/html")], "").await.code, 406);
}

#[tokio::test]
async fn the_server_says_what_it_is_and_how_it_is() {
    let api = Api::start().await;
    let version = api.get("/version").await.json();
    assert_eq!((version["major"].as_str(), version["minor"].as_str()), (Some("1"), Some("37")));
    assert!(version["gitVersion"].as_str().unwrap().starts_with("v1.37."));
    for path in ["/healthz", "/livez", "/readyz"] {
        let answer = api.get(path).await;
        assert_eq!((answer.code, &answer.bytes[..]), (200, &b"ok"[..]), "{path}");
    }
    let told = api.get("/readyz?verbose").await;
    assert!(String::from_utf8_lossy(&told.bytes).contains("[+]bootstrap ok"));
    let metrics = api.get("/metrics").await;
    let text = String::from_utf8_lossy(&metrics.bytes).into_owned();
    assert!(text.contains("apiserver_request_total{"), "{text}");
    assert!(text.contains("apiserver_request_duration_seconds_bucket{"));
    let keys = api.get("/openid/v1/jwks").await.json();
    assert!(keys["keys"].is_array());
}
