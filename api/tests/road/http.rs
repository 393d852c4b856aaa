//! A client that says exactly what a test wants to say, and what every answer has.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kontiki_api::sandbox::Sandbox;
use serde_json::{Value, json};

/// A sandbox, and a wire to it.
pub struct Api {
    pub sandbox: Sandbox,
    client: Client<HttpConnector, Full<Bytes>>,
}

pub struct Answer {
    pub code: u16,
    pub headers: http::HeaderMap,
    pub bytes: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.bytes)))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|it| it.to_str().unwrap()).unwrap_or_default()
    }
}

impl Api {
    pub async fn start() -> Api {
        let api = Api::over(Sandbox::start().await);
        // What a controller would make, and pods need.
        let account = json!({"kind": "ServiceAccount", "apiVersion": "v1",
            "metadata": {"name": "default"}});
        api.create("/api/v1/namespaces/default/serviceaccounts", &account).await;
        api
    }

    pub fn over(sandbox: Sandbox) -> Api {
        Api { sandbox, client: Client::builder(TokioExecutor::new()).build_http() }
    }

    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> http::Response<hyper::body::Incoming> {
        let mut request =
            http::Request::builder().method(method).uri(format!("{}{path}", self.sandbox.url()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        self.client.request(request).await.unwrap()
    }

    pub async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let (parts, body) = self.send(method, path, headers, body).await.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Answer { code: parts.status.as_u16(), headers: parts.headers, bytes }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], "").await
    }

    pub async fn write(&self, method: &str, path: &str, body: &Value) -> Answer {
        let json = [("content-type", "application/json")];
        self.ask(method, path, &json, body.to_string()).await
    }

    /// Creates what must be created.
    pub async fn create(&self, path: &str, body: &Value) -> Value {
        let answer = self.write("POST", path, body).await;
        assert_eq!(answer.code, 201, "{}", answer.json());
        answer.json()
    }

    pub async fn patch(&self, path: &str, kind: &str, body: &Value) -> Answer {
        self.ask("PATCH", path, &[("content-type", kind)], body.to_string()).await
    }
}

pub const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub const PODS: &str = "/api/v1/namespaces/default/pods";
pub const MERGE: &str = "application/merge-patch+json";

pub fn config_map(name: &str, data: &str) -> Value {
    json!({"kind": "ConfigMap", "apiVersion": "v1",
        "metadata": {"name": name}, "data": {"a": data}})
}

pub fn pod(name: &str) -> Value {
    json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "busybox"}]}})
}

#[tokio::test]
async fn every_answer_has_the_headers_that_clients_rely_on() {
    let api = Api::start().await;
    for path in ["/api/v1/namespaces", "/healthz", "/nowhere", "/api/v1/namespaces/none"] {
        let answer = api.get(path).await;
        assert!(!answer.header("audit-id").is_empty(), "{path}");
        assert_eq!(answer.header("cache-control"), "no-cache, private", "{path}");
        assert!(!answer.header("x-kubernetes-pf-flowschema-uid").is_empty(), "{path}");
    }
    let own = api.ask("GET", "/healthz", &[("audit-id", "mine")], "").await;
    assert_eq!(own.header("audit-id"), "mine");
}

#[tokio::test]
async fn a_path_that_is_nothing_is_told_in_text_and_an_object_that_is_not_there_as_a_status() {
    let api = Api::start().await;
    for path in ["/nowhere", "/api/v1/unknowns", "/apis/none/v1/things", "/apis/apps/v9"] {
        let answer = api.get(path).await;
        assert_eq!(answer.code, 404, "{path}");
        assert_eq!(answer.bytes, "404 page not found\n", "{path}");
    }
    let missing = api.get(&format!("{CONFIG_MAPS}/none")).await;
    assert_eq!(
        missing.json(),
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "configmaps \"none\" not found", "reason": "NotFound", "code": 404,
            "details": {"name": "none", "kind": "configmaps"}})
    );
}

#[tokio::test]
async fn bodies_are_bounded_and_of_a_known_type() {
    let api = Api::start().await;
    let large = vec![b' '; (3 << 20) + 1];
    let json = [("content-type", "application/json")];
    assert_eq!(api.ask("POST", CONFIG_MAPS, &json, large).await.code, 413);
    let strange = [("content-type", "text/plain")];
    let answer = api.ask("POST", CONFIG_MAPS, &strange, "x").await;
    assert_eq!(
        (answer.code, answer.json()["reason"].as_str()),
        (415, Some("UnsupportedMediaType"))
    );
    let answer = api.ask("POST", CONFIG_MAPS, &json, "{").await;
    assert_eq!((answer.code, answer.json()["reason"].as_str()), (400, Some("BadRequest")));
    let yaml = [("content-type", "application/yaml")];
    let body = "kind: ConfigMap\napiVersion: v1\nmetadata:\n  name: why\ndata:\n  a: \"1\"\n";
    let answer = api.ask("POST", CONFIG_MAPS, &yaml, body).await;
    assert_eq!(answer.code, 201, "{}", answer.json());
    let missing = api.write("POST", CONFIG_MAPS, &config_map("j", "1")).await;
    assert_eq!(missing.code, 201);
}

#[tokio::test]
async fn an_answer_comes_in_the_form_that_is_wanted_or_not_at_all() {
    let api = Api::start().await;
    let path = "/api/v1/namespaces/default";
    let with = |accept: &'static str| {
        let api = &api;
        async move { api.ask("GET", path, &[("accept", accept)], "").await }
    };
    assert_eq!(with("text/html").await.code, 406);
    let yaml = with("application/yaml").await;
    assert!(String::from_utf8_lossy(&yaml.bytes).contains("kind: Namespace"));
    let protobuf = with("application/vnd.kubernetes.protobuf").await;
    assert!(protobuf.bytes.starts_with(b"k8s\0"));
    assert_eq!(protobuf.header("content-type"), "application/vnd.kubernetes.protobuf");
    let partial = with("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1").await.json();
    assert_eq!(partial["kind"], "PartialObjectMetadata");
    assert_eq!(partial["metadata"]["name"], "default");
    assert_eq!(partial.get("spec"), None);
    let table = with("application/json;as=Table;g=meta.k8s.io;v=v1").await.json();
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["columnDefinitions"][0]["name"], "Name");
    assert_eq!(table["rows"][0]["cells"][0], "default");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let pretty = api.get(&format!("{path}?pretty=true")).await;
    assert!(String::from_utf8_lossy(&pretty.bytes).starts_with("{\n  \""));
}

#[tokio::test]
async fn a_large_answer_is_compressed_for_who_can_take_it() {
    let api = Api::start().await;
    let text = "x".repeat(200 << 10);
    api.create(CONFIG_MAPS, &config_map("large", &text)).await;
    for path in [format!("{CONFIG_MAPS}/large"), CONFIG_MAPS.to_owned()] {
        let answer = api.ask("GET", &path, &[("accept-encoding", "gzip")], "").await;
        assert_eq!(answer.header("content-encoding"), "gzip", "{path}");
        assert!(answer.bytes.len() < 20 << 10, "{path}");
        let plain = api.get(&path).await;
        assert_eq!(plain.header("content-encoding"), "", "{path}");
        assert!(plain.bytes.len() > 200 << 10, "{path}");
    }
}

#[tokio::test]
async fn tables_and_bare_metadata_of_many_are_lists_of_their_own() {
    let api = Api::start().await;
    for number in 0..3 {
        api.create(CONFIG_MAPS, &config_map(&format!("c{number}"), "1")).await;
    }
    let path = format!("{CONFIG_MAPS}?limit=2");
    let with = |accept: &'static str, path: String| {
        let api = &api;
        async move { api.ask("GET", &path, &[("accept", accept)], "").await.json() }
    };
    let table = "application/json;as=Table;g=meta.k8s.io;v=v1";
    let all = with(table, CONFIG_MAPS.into()).await;
    assert_eq!(all["rows"].as_array().unwrap().len(), 3);
    let page = with(table, path.clone()).await;
    assert_eq!(page["rows"].as_array().unwrap().len(), 2);
    assert_eq!(page["metadata"]["remainingItemCount"], 1);
    assert!(page["metadata"]["continue"].is_string());
    let objects = with(table, format!("{path}&includeObject=Object")).await;
    assert_eq!(objects["rows"][0]["object"]["kind"], "ConfigMap");
    let bare = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let list = with(bare, CONFIG_MAPS.into()).await;
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!(list["items"][0]["kind"], "PartialObjectMetadata");
    let protobuf = [("accept", "application/vnd.kubernetes.protobuf")];
    let protobuf = api.ask("GET", CONFIG_MAPS, &protobuf, "").await;
    assert!(protobuf.bytes.starts_with(b"k8s\0"));
}

#[tokio::test]
async fn past_the_limit_a_client_is_asked_to_come_again() {
    let closed = |config: &mut kontiki_api::server::Config| {
        config.limits = kontiki_api::http::Limits { reads_max: 0, writes_max: 0 };
    };
    let api = Api::over(Sandbox::with(closed).await);
    let refused = api.get(CONFIG_MAPS).await;
    assert_eq!((refused.code, refused.header("retry-after")), (429, "1"));
    assert_eq!(api.write("POST", CONFIG_MAPS, &config_map("a", "1")).await.code, 429);
    assert_eq!(api.get("/readyz").await.code, 200, "health needs no place");
    assert_eq!(api.send("GET", &format!("{CONFIG_MAPS}?watch=1"), &[], "").await.status(), 200);
}

#[tokio::test]
async fn who_asks_in_anothers_name_is_held_to_what_that_one_may() {
    let api = Api::start().await;
    let nobody = [("impersonate-user", "nobody")];
    let refused = api.ask("GET", "/api/v1/nodes", &nobody, "").await;
    assert_eq!(refused.code, 403);
    assert_eq!(
        refused.json()["message"],
        "nodes is forbidden: User \"nobody\" \
            cannot list resource \"nodes\" in API group \"\" at the \
         cluster scope"
    );
    let masters = [("impersonate-user", "chief"), ("impersonate-group", "system:masters")];
    assert_eq!(api.ask("GET", "/api/v1/nodes", &masters, "").await.code, 200);
}
