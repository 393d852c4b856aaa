//! JSON and plain HTTP on the same port, and what is no request at all.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::bed;

struct Web {
    client: Client<HttpConnector, Full<Bytes>>,
    address: SocketAddr,
}

impl Web {
    fn of(bed: &bed::Bed) -> Web {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Web { client, address: bed.members[0].address }
    }

    async fn send(&self, method: &str, path: &str, body: String) -> (u16, String) {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .body(Full::from(body))
            .unwrap();
        let response = self.client.request(request).await.unwrap();
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let (code, body) = self.send("POST", path, body.to_string()).await;
        (code, serde_json::from_str(&body).unwrap_or_else(|_| panic!("no JSON: {body}")))
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.send("GET", path, String::new()).await
    }
}

#[tokio::test]
async fn json_is_served_as_etcds_gateway_does() {
    let bed = bed::single().await;
    let web = Web::of(&bed);
    // "foo" and "bar" in base64.
    let (code, put) = web.post("/v3/kv/put", json!({"key": "Zm9v", "value": "YmFy"})).await;
    assert_eq!(code, 200);
    assert_eq!(put["header"]["revision"], "2");
    assert_eq!(put["header"]["cluster_id"], "193");
    let (_, range) = web.post("/v3/kv/range", json!({"key": "Zm9v"})).await;
    let kv = json!({
        "key": "Zm9v", "create_revision": "2", "mod_revision": "2", "version": "1", "value": "YmFy"
    });
    assert_eq!((range["kvs"][0].clone(), range["count"].clone()), (kv, json!("1")));
    let txn = json!({
        "compare": [{"target": "CREATE", "key": "Zm9v", "createRevision": "2"}],
        "success": [{"requestPut": {"key": "Zm9v", "value": "YmF6"}}],
    });
    let (code, done) = web.post("/v3/kv/txn", txn).await;
    assert_eq!((code, done["succeeded"].clone()), (200, json!(true)));
    assert_eq!(done["responses"][0]["response_put"]["header"]["revision"], "3");

    let (code, refused) = web.post("/v3/kv/range", json!({"key": ""})).await;
    assert_eq!(code, 400);
    let text = "etcdserver: key is not provided";
    assert_eq!(refused, json!({"code": 3, "error": text, "message": text}));
    let (code, _) = web.send("POST", "/v3/kv/range", "{".into()).await;
    assert_eq!(code, 400);
    let (code, _) = web.post("/v3/kv/range", json!({"unknown": 1})).await;
    assert_eq!(code, 400);
    let (code, status) = web.post("/v3/maintenance/status", json!({})).await;
    assert_eq!((code, status["version"].clone()), (200, json!(crate::etcd::VERSION)));
    let (code, granted) = web.post("/v3/lease/grant", json!({"TTL": 60})).await;
    assert_eq!((code, granted["TTL"].clone()), (200, json!("60")));
    let alive = json!({"ID": granted["ID"]});
    let (code, lease) = web.post("/v3/lease/timetolive", alive).await;
    assert_eq!((code, lease["grantedTTL"].clone()), (200, json!("60")));
}

#[tokio::test]
async fn a_watch_over_json_goes_on_after_its_request() {
    let bed = bed::single().await;
    let web = Web::of(&bed);
    let body = json!({"create_request": {"key": "Zm9v"}}).to_string();
    let request = http::Request::post(format!("http://{}/v3/watch", web.address))
        .body(Full::from(body))
        .unwrap();
    let mut body = web.client.request(request).await.unwrap().into_body();
    let mut read = String::new();
    let mut line = async || {
        while !read.contains('\n') {
            let frame = body.frame().await.unwrap().unwrap();
            read.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
        }
        let (line, rest) = read.split_once('\n').unwrap();
        let parsed: Value = serde_json::from_str(line).unwrap();
        read = rest.to_owned();
        parsed
    };
    assert_eq!(line().await["result"]["created"], true);
    web.post("/v3/kv/put", json!({"key": "Zm9v", "value": "YmFy"})).await;
    let told = line().await;
    assert_eq!(told["result"]["events"][0]["kv"]["value"], "YmFy");
}

#[tokio::test]
async fn health_version_and_metrics_are_there() {
    let bed = bed::single().await;
    let web = Web::of(&bed);
    let (code, health) = web.get("/health").await;
    assert_eq!((code, health.as_str()), (200, r#"{"health":"true","reason":""}"#));
    assert_eq!(web.get("/livez").await, (200, "ok\n".into()));
    let (code, ready) = web.get("/readyz?verbose").await;
    assert_eq!(code, 200);
    assert!(ready.contains("[+]linearizable_read ok\n") && ready.ends_with("ok\n"), "{ready}");
    assert_eq!(web.get("/readyz/non_learner").await, (200, "ok\n".into()));
    let (_, version) = web.get("/version").await;
    assert!(version.contains(crate::etcd::VERSION));

    let mut client = bed.client(0).await;
    client.put("k", "v", None).await.unwrap();
    client.get("", None).await.unwrap_err();
    let (_, metrics) = web.get("/metrics").await;
    for line in [
        "etcd_server_has_leader 1",
        "etcd_mvcc_put_total 1",
        "etcd_debugging_mvcc_current_revision 2",
        "grpc_server_handled_total{grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",\
         grpc_type=\"unary\",grpc_code=\"OK\"} 1",
        "grpc_server_handled_total{grpc_method=\"Range\",grpc_service=\"etcdserverpb.KV\",\
         grpc_type=\"unary\",grpc_code=\"InvalidArgument\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    let mut client = bed.client(0).await;
    client
        .alarm(etcd_client::AlarmAction::Activate, etcd_client::AlarmType::Nospace, None)
        .await
        .unwrap();
    let (code, health) = web.get("/health").await;
    assert_eq!((code, health.as_str()), (503, r#"{"health":"false","reason":"ALARM NOSPACE"}"#));
    assert_eq!(web.get("/health?exclude=NOSPACE").await.0, 200);
}

#[tokio::test]
async fn garbage_harms_nobody() {
    let bed = bed::single().await;
    let web = Web::of(&bed);
    let mut random = 7u32;
    for round in 0..20 {
        let mut stream = TcpStream::connect(web.address).await.unwrap();
        let noise: Vec<u8> = (0..400)
            .map(|_| {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (random >> 24) as u8
            })
            .collect();
        // Sometimes behind a good beginning.
        if round % 2 == 0 {
            stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.ok();
        }
        stream.write_all(&noise).await.ok();
        stream.shutdown().await.ok();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer));
        read.await.expect("the connection ends").ok();
    }
    let idle: Vec<_> =
        futures::future::join_all((0..200).map(|_| TcpStream::connect(web.address))).await;
    assert!(idle.iter().all(Result::is_ok));
    bed.client(0).await.put("k", "still here", None).await.unwrap();
}

/// A message that is none, within a good frame of gRPC.
#[tokio::test]
async fn a_malformed_message_is_refused() {
    let bed = bed::single().await;
    let client: Client<HttpConnector, Full<Bytes>> =
        Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let frame = Bytes::from_static(&[0, 0, 0, 0, 4, 0x0a, 0x7f, 1, 2]);
    let request =
        http::Request::post(format!("http://{}/etcdserverpb.KV/Range", bed.members[0].address))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::from(frame))
            .unwrap();
    let response: http::Response<hyper::body::Incoming> = client.request(request).await.unwrap();
    let trailers = response.headers().clone();
    let body = response.into_body().collect().await.unwrap();
    let status =
        trailers.get("grpc-status").or(body.trailers().unwrap_or(&trailers).get("grpc-status"));
    assert_eq!(status.unwrap(), "13");
    bed.client(0).await.get("k", None).await.unwrap();
}
