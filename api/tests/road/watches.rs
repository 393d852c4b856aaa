//! Watches: everything once, in order, from where it was asked; and how they end.

use bytes::BytesMut;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::http::{Api, CONFIG_MAPS, MERGE, config_map};

/// The events of a watch, one line each.
pub struct Stream {
    body: Incoming,
    rest: BytesMut,
}

impl Stream {
    async fn open(api: &Api, query: &str) -> Stream {
        let path = format!("{CONFIG_MAPS}?watch=true&{query}");
        Stream::at(api, &path, &[]).await
    }

    pub async fn at(api: &Api, path: &str, headers: &[(&str, &str)]) -> Stream {
        let response = api.send("GET", path, headers, "").await;
        assert_eq!(response.status(), 200);
        Stream { body: response.into_body(), rest: BytesMut::new() }
    }

    /// `None` at the end.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line = self.rest.split_to(end + 1);
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = self.body.frame().await?.unwrap();
            if let Ok(data) = frame.into_data() {
                self.rest.extend_from_slice(&data);
            }
        }
    }

    /// Type and name of the next event.
    async fn told(&mut self) -> String {
        let event = self.next().await.expect("the watch goes on");
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default();
        format!("{} {name}", event["type"].as_str().unwrap())
    }
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

const OURS: &str = "labelSelector=ours";

fn ours(name: &str, data: &str) -> Value {
    let mut object = config_map(name, data);
    object["metadata"]["labels"] = json!({"ours": "yes"});
    object
}

#[tokio::test]
async fn a_watch_from_a_revision_tells_what_came_after_it() {
    let api = Api::start().await;
    let first = api.create(CONFIG_MAPS, &ours("a", "1")).await;
    let from = version(&first);
    api.create(CONFIG_MAPS, &ours("b", "1")).await;
    let mut watch = Stream::open(&api, &format!("{OURS}&resourceVersion={from}")).await;
    assert_eq!(watch.told().await, "ADDED b");
    api.patch(&format!("{CONFIG_MAPS}/a"), MERGE, &json!({"data": {"a": "2"}})).await;
    assert_eq!(watch.told().await, "MODIFIED a");
    let last = api.get(&format!("{CONFIG_MAPS}/b")).await.json();
    api.ask("DELETE", &format!("{CONFIG_MAPS}/b"), &[], "").await;
    let deleted = watch.next().await.unwrap();
    assert_eq!(deleted["type"], "DELETED");
    assert_eq!(deleted["object"]["data"], last["data"]);
    assert!(version(&deleted["object"]) > version(&last), "at the revision of the delete");
}

#[tokio::test]
async fn a_watch_without_a_revision_begins_with_the_state() {
    let api = Api::start().await;
    api.create(CONFIG_MAPS, &ours("a", "1")).await;
    for query in ["", "&resourceVersion=0"] {
        let mut watch = Stream::open(&api, &format!("{OURS}{query}")).await;
        assert_eq!(watch.told().await, "ADDED a");
    }
    let mut one = Stream::at(&api, "/api/v1/watch/namespaces/default/configmaps/a", &[]).await;
    assert_eq!(one.told().await, "ADDED a");
}

#[tokio::test]
async fn a_selector_turns_changes_into_coming_and_going() {
    let api = Api::start().await;
    let query = "labelSelector=ours%3Dyes&resourceVersion=1";
    let mut watch = Stream::open(&api, query).await;
    let created = api.create(CONFIG_MAPS, &ours("a", "1")).await;
    assert_eq!(watch.told().await, "ADDED a");
    let path = format!("{CONFIG_MAPS}/a");
    let label = |value: &'static str| {
        let (api, path) = (&api, &path);
        async move {
            let patch = json!({"metadata": {"labels": {"ours": value}}});
            api.patch(path, MERGE, &patch).await.json()
        }
    };
    let away = label("no").await;
    let gone = watch.next().await.unwrap();
    assert_eq!(gone["type"], "DELETED");
    assert_eq!(gone["object"]["metadata"]["labels"], created["metadata"]["labels"]);
    assert_eq!(version(&gone["object"]), version(&away));
    api.patch(&path, MERGE, &json!({"data": {"a": "unseen"}})).await;
    label("yes").await;
    assert_eq!(watch.told().await, "ADDED a");
    api.patch(&path, MERGE, &json!({"data": {"a": "3"}})).await;
    assert_eq!(watch.told().await, "MODIFIED a");
}

#[tokio::test]
async fn the_initial_state_ends_with_a_marked_bookmark() {
    let api = Api::start().await;
    api.create(CONFIG_MAPS, &ours("a", "1")).await;
    api.create(CONFIG_MAPS, &ours("b", "1")).await;
    let query = format!(
        "{OURS}&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    );
    let mut watch = Stream::open(&api, &query).await;
    assert_eq!(watch.told().await, "ADDED a");
    assert_eq!(watch.told().await, "ADDED b");
    let mark = watch.next().await.unwrap();
    assert_eq!(mark["type"], "BOOKMARK");
    let object = &mark["object"];
    assert_eq!(object["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(
        (object["kind"].as_str(), object["apiVersion"].as_str()),
        (Some("ConfigMap"), Some("v1"))
    );
    assert!(version(object) > 1);
    api.create(CONFIG_MAPS, &ours("c", "1")).await;
    assert_eq!(watch.told().await, "ADDED c");
    let refused = api.get(&format!("{CONFIG_MAPS}?watch=true&sendInitialEvents=true")).await;
    assert_eq!(refused.code, 422);
}

#[tokio::test]
async fn a_watch_ends_cleanly_at_its_time_with_a_bookmark_for_who_asked() {
    let api = Api::start().await;
    let query = format!("{OURS}&resourceVersion=1&timeoutSeconds=1&allowWatchBookmarks=true");
    let mut watch = Stream::open(&api, &query).await;
    let mark = watch.next().await.unwrap();
    assert_eq!(mark["type"], "BOOKMARK");
    assert!(version(&mark["object"]) > 1);
    assert_eq!(watch.next().await, None);
    let mut silent =
        Stream::open(&api, &format!("{OURS}&resourceVersion=1&timeoutSeconds=1")).await;
    assert_eq!(silent.next().await, None, "no bookmark for who did not ask");
}

#[tokio::test]
async fn a_watch_from_what_is_forgotten_is_told_so_by_an_event() {
    let api = Api::start().await;
    let first = api.create(CONFIG_MAPS, &ours("a", "1")).await;
    api.create(CONFIG_MAPS, &ours("b", "1")).await;
    let objects = api.sandbox.server.road().objects();
    objects.compact(objects.revision()).await.unwrap();
    let from = version(&first) - 1;
    let mut watch = Stream::open(&api, &format!("{OURS}&resourceVersion={from}")).await;
    let error = watch.next().await.unwrap();
    assert_eq!(error["type"], "ERROR");
    assert_eq!(
        (error["object"]["code"].as_i64(), error["object"]["reason"].as_str()),
        (Some(410), Some("Expired"))
    );
    assert!(error["object"]["message"].as_str().unwrap().starts_with("too old resource version"));
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn tables_and_bare_metadata_are_watched_too() {
    let api = Api::start().await;
    let path = format!("{CONFIG_MAPS}?watch=true&{OURS}&resourceVersion=1");
    let accept = "application/json;as=Table;g=meta.k8s.io;v=v1";
    let mut tables = Stream::at(&api, &path, &[("accept", accept)]).await;
    let accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let mut partial = Stream::at(&api, &path, &[("accept", accept)]).await;
    api.create(CONFIG_MAPS, &ours("a", "1")).await;
    api.create(CONFIG_MAPS, &ours("b", "1")).await;
    let first = tables.next().await.unwrap();
    assert_eq!(first["object"]["kind"], "Table");
    assert_ne!(first["object"]["columnDefinitions"], json!([]));
    assert_eq!(first["object"]["rows"][0]["cells"][0], "a");
    let second = tables.next().await.unwrap();
    assert_eq!(second["object"]["columnDefinitions"], json!([]), "columns are told once");
    let bare = partial.next().await.unwrap();
    assert_eq!(bare["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(bare["object"].get("data"), None);
}

#[tokio::test]
async fn all_watchers_see_one_order() {
    let api = Api::start().await;
    let mut watches = Vec::new();
    for _ in 0..4 {
        watches.push(Stream::open(&api, &format!("{OURS}&resourceVersion=1")).await);
    }
    let client = &api;
    let writers = (0..3).map(|writer| async move {
        for number in 0..5 {
            client.create(CONFIG_MAPS, &ours(&format!("w{writer}-{number}"), "1")).await;
        }
    });
    futures::future::join_all(writers).await;
    let mut orders = Vec::new();
    for mut watch in watches {
        let mut order = Vec::new();
        for _ in 0..15 {
            order.push(version(&watch.next().await.unwrap()["object"]));
        }
        assert!(order.is_sorted());
        orders.push(order);
    }
    assert!(orders.windows(2).all(|two| two[0] == two[1]));
}

#[tokio::test]
async fn a_watch_in_protobuf_comes_in_frames_of_a_told_length() {
    let api = Api::start().await;
    let path = format!("{CONFIG_MAPS}?watch=true&{OURS}&resourceVersion=1");
    let accept = [("accept", "application/vnd.kubernetes.protobuf;stream=watch")];
    let response = api.send("GET", &path, &accept, "").await;
    assert_eq!(
        response.headers()["content-type"],
        "application/vnd.kubernetes.protobuf;stream=watch"
    );
    api.create(CONFIG_MAPS, &ours("a", "1")).await;
    let mut body = response.into_body();
    let mut read = BytesMut::new();
    while read.len() < 4 || read.len() < 4 + length(&read) {
        read.extend_from_slice(&body.frame().await.unwrap().unwrap().into_data().unwrap());
    }
    let frame = &read[4..4 + length(&read)];
    assert_eq!(&frame[..7], b"\x0a\x05ADDED");
    assert!(frame.windows(4).any(|it| it == b"k8s\0"), "the object has its envelope");
}

fn length(bytes: &[u8]) -> usize {
    u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize
}

#[tokio::test]
async fn a_watch_over_a_websocket_is_one_message_per_event() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let api = Api::start().await;
    let mut wire = tokio::net::TcpStream::connect(api.sandbox.address).await.unwrap();
    let request = format!(
        "GET {CONFIG_MAPS}?watch=true&{OURS}&resourceVersion=1 HTTP/1.1\r\nHost: x\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    wire.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(wire.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    for name in ["a", "b"] {
        api.create(CONFIG_MAPS, &ours(name, "1")).await;
        assert_eq!(wire.read_u8().await.unwrap(), 0x81, "one whole text");
        let length = match wire.read_u8().await.unwrap() {
            126 => usize::from(wire.read_u16().await.unwrap()),
            short => usize::from(short),
        };
        let mut text = vec![0; length];
        wire.read_exact(&mut text).await.unwrap();
        let event: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(
            (&event["type"], &event["object"]["metadata"]["name"]),
            (&json!("ADDED"), &json!(name))
        );
    }
}

#[tokio::test]
async fn a_server_that_stops_ends_its_watches() {
    let api = Api::start().await;
    let mut watch = Stream::open(&api, &format!("{OURS}&resourceVersion=1")).await;
    let crate::http::Api { sandbox, .. } = api;
    sandbox.stop().await;
    assert_eq!(watch.next().await, None);
}
