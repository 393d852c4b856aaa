//! Shells, logs and ports of pods, through the whole of a master: a real listener, a real session of an agent,
//! and clients that speak what kubectl and others speak.

pub mod agent;
pub mod bed;

use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use kontiki_api::node::Channel;
use kontiki_api::tunnel::wire::HoldsRequest;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use agent::{Agent, session};
use bed::Master;

const POD: &str = "/api/v1/namespaces/default/pods/p";
/// Of whatever has to come at some time.
const PATIENCE: Duration = Duration::from_secs(30);

async fn ground() -> (Master, Agent) {
    let master = Master::start().await;
    let agent = Agent::start(&master.url, &master.ca.node("n"), "n").await;
    (master, agent)
}

fn exec(command: &str) -> String {
    format!("{POD}/exec?command={command}&stdin=true&stdout=true&stderr=true")
}

/// All that comes on each channel, until the server closes.
async fn channels<S>(socket: &mut S) -> [Vec<u8>; 4]
where
    S: futures::Stream<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin,
{
    let mut heard: [Vec<u8>; 4] = Default::default();
    let all = async {
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Binary(bytes) = message {
                heard[usize::from(bytes[0])].extend_from_slice(&bytes[1..]);
            }
        }
    };
    timeout(PATIENCE, all).await.expect("the server closes when all is said");
    heard
}

fn status(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|error| panic!("{error}: {bytes:?}"))
}

#[tokio::test]
async fn a_command_reads_its_input_to_the_end_that_version_5_can_tell() {
    let (master, _agent) = ground().await;
    let (mut socket, response) = master.websocket(&exec("cat"), "v5.channel.k8s.io").await;
    assert_eq!(response.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
    let large = vec![b'y'; 300_000];
    socket.send(Message::Binary(Bytes::from_static(b"\0hello "))).await.unwrap();
    socket.send(Message::Binary([&[0], &large[..]].concat().into())).await.unwrap();
    socket.send(Message::Binary(Bytes::from_static(b"\xff\0"))).await.unwrap();
    let [_, stdout, stderr, error] = channels(&mut socket).await;
    assert!(stdout == [b"hello ", &large[..]].concat() && stderr.is_empty());
    assert_eq!(status(&error)["status"], "Success");
}

#[tokio::test]
async fn how_a_command_ended_is_the_last_that_is_heard() {
    let (master, _agent) = ground().await;
    let (mut socket, _) = master.websocket(&exec("three"), "v4.channel.k8s.io").await;
    let mut order = Vec::new();
    let mut told = Vec::new();
    while let Some(Ok(Message::Binary(bytes))) = socket.next().await {
        if bytes.len() > 1 {
            order.push(bytes[0]);
            told = bytes[1..].to_vec();
        }
    }
    assert_eq!(order, [2, 3]);
    let told = status(&told);
    assert_eq!(told["reason"], "NonZeroExitCode");
    assert_eq!(told["details"]["causes"][0], json!({"reason": "ExitCode", "message": "3"}));
}

#[tokio::test]
async fn older_protocols_are_spoken_too() {
    let (master, _agent) = ground().await;
    for protocol in ["channel.k8s.io", ""] {
        let (mut socket, _) = master.websocket(&exec("true"), protocol).await;
        assert_eq!(channels(&mut socket).await.concat(), b"", "version 1 is silent about success");
    }
    let (mut socket, _) = master.websocket(&exec("three"), "channel.k8s.io").await;
    let [_, _, stderr, error] = channels(&mut socket).await;
    assert_eq!(
        (&stderr[..], &error[..]),
        (&b"no"[..], &b"command terminated with exit code 3"[..])
    );
    let (mut socket, _) = master.websocket(&exec("cat"), "base64.channel.k8s.io").await;
    socket.send(Message::Text("0aGVsbG8=".into())).await.unwrap();
    let mut texts = Vec::new();
    while texts.last().is_none_or(|text: &String| text.len() < 2) {
        if let Some(Ok(Message::Text(text))) = socket.next().await {
            texts.push(text.to_string());
        }
    }
    assert_eq!(texts.last().unwrap(), "1aGVsbG8=");
}

#[tokio::test]
async fn a_runtime_that_pings_is_answered_and_one_that_breaks_off_is_told_of() {
    let (master, _agent) = ground().await;
    let (mut socket, _) = master.websocket(&exec("ping"), "v4.channel.k8s.io").await;
    assert_eq!(status(&channels(&mut socket).await[3])["status"], "Success");
    for (command, words) in [("break", "without saying how"), ("garbage", "no SPDY/3.1")] {
        let (mut socket, _) = master.websocket(&exec(command), "v4.channel.k8s.io").await;
        let told = status(&channels(&mut socket).await[3]);
        assert_eq!(told["status"], "Failure");
        assert!(told["message"].as_str().unwrap().contains(words), "{told}");
    }
}

#[tokio::test]
async fn an_upgrade_to_spdy_carries_bytes_as_they_are() {
    let (master, _agent) = ground().await;
    let headers = "connection: upgrade\r\nupgrade: SPDY/3.1\r\ncontent-length: 0\r\n\
                   x-stream-protocol-version: portforward.k8s.io\r\n";
    let mut stream = master.ask("POST", &format!("{POD}/portforward"), headers).await;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(head.contains("upgrade: spdy/3.1\r\n"), "{head}");
    assert!(head.contains("x-stream-protocol-version: portforward.k8s.io\r\n"), "{head}");
    let said: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut heard = vec![0; said.len()];
    let (sent, read) = tokio::join!(writer.write_all(&said), reader.read_exact(&mut heard));
    sent.unwrap();
    read.unwrap();
    assert!(heard == said);
}

#[tokio::test]
async fn a_port_is_forwarded_through_a_websocket() {
    let (master, _agent) = ground().await;
    let path = format!("{POD}/portforward");
    let (mut socket, response) = master.websocket(&path, "SPDY/3.1+portforward.k8s.io").await;
    assert_eq!(response.headers()["sec-websocket-protocol"], "SPDY/3.1+portforward.k8s.io");
    socket.send(Message::Binary(Bytes::from_static(b"raw"))).await.unwrap();
    let Some(Ok(Message::Binary(heard))) = socket.next().await else { panic!("an echo") };
    assert_eq!(heard, "raw");
}

#[tokio::test]
async fn ports_in_the_query_are_channels_of_a_websocket() {
    let (master, _agent) = ground().await;
    let path = format!("{POD}/portforward?ports=80,443");
    let (mut socket, _) = master.websocket(&path, "v4.channel.k8s.io").await;
    let mut next = async || match socket.next().await {
        Some(Ok(Message::Binary(bytes))) => bytes,
        other => panic!("{other:?}"),
    };
    for said in [[0, 80, 0], [1, 80, 0], [2, 187, 1], [3, 187, 1]] {
        assert_eq!(next().await[..], said);
    }
    // The agent sends back what it is sent: the frames that open the streams, which say nothing to a client,
    // and then the data of the second port.
    socket.send(Message::Binary(Bytes::from_static(b"\x02data"))).await.unwrap();
    let Some(Ok(Message::Binary(heard))) = socket.next().await else { panic!("an echo") };
    assert_eq!(heard, &b"\x02data"[..]);
}

#[tokio::test]
async fn a_log_is_text_or_messages_and_a_missing_one_is_explained() {
    let (master, _agent) = ground().await;
    let answer = master.get(&format!("{POD}/log")).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("one\ntwo\n"), "{answer}");
    let (mut socket, _) = master.websocket(&format!("{POD}/log"), "binary.k8s.io").await;
    let mut text = Vec::new();
    while let Some(Ok(Message::Binary(bytes))) = socket.next().await {
        text.extend_from_slice(&bytes);
    }
    assert_eq!(text, b"one\ntwo\n");
    let missing = master.get(&format!("{POD}/log?previous=true")).await;
    assert!(missing.starts_with("HTTP/1.1 400 "), "{missing}");
    let words = r#"previous terminated container \"c\" in pod \"p\" not found"#;
    assert!(missing.contains(words), "{missing}");
}

#[tokio::test]
async fn pages_of_an_agent_and_of_a_pod_are_shown_under_their_names() {
    let (master, _agent) = ground().await;
    let node = json!({"metadata": {"name": "n"}});
    let node: k8s_openapi::api::core::v1::Node = serde_json::from_value(node).unwrap();
    master.sandbox.client().create(&node).await.unwrap();
    let answer = master.get("/api/v1/nodes/n/proxy/stats/summary?a=b").await;
    assert!(answer.ends_with("GET /stats/summary?a=b HTTP/1.1"), "{answer}");
    let answer = master.get("/api/v1/namespaces/default/pods/p:8080/proxy/index.html").await;
    assert!(answer.ends_with("GET /index.html HTTP/1.1"), "{answer}");

    let answer = master.get("/api/v1/namespaces/default/pods/p:8080/proxy/links").await;
    let link = "<a href=\"/api/v1/namespaces/default/pods/p:8080/proxy/page\">page</a>";
    assert!(answer.ends_with(link), "{answer}");

    let client = master.sandbox.client();
    let service = json!({"metadata": {"name": "s", "namespace": "default"},
        "spec": {"ports": [{"name": "web", "port": 80, "targetPort": 8080}]}});
    let service: k8s_openapi::api::core::v1::Service = serde_json::from_value(service).unwrap();
    client.create(&service).await.unwrap();
    let none = master.get("/api/v1/namespaces/default/services/s:80/proxy/").await;
    assert!(none.contains("no endpoints available for service"), "{none}");
    let slice = json!({"metadata": {"name": "s-1", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4", "ports": [{"name": "web", "port": 8080}],
        "endpoints": [{"addresses": ["192.0.2.1"], "targetRef": {"kind": "Pod", "name": "p"}}]});
    let slice: k8s_openapi::api::discovery::v1::EndpointSlice =
        serde_json::from_value(slice).unwrap();
    client.create(&slice).await.unwrap();
    for name in ["s:80", "s:web", "http:s:web"] {
        let path = format!("/api/v1/namespaces/default/services/{name}/proxy/page");
        let answer = master.get(&path).await;
        assert!(answer.ends_with("GET /page HTTP/1.1"), "{name}: {answer}");
    }
}

#[tokio::test]
async fn a_reader_who_does_not_read_stops_nobody_else_on_the_node() {
    let (master, _agent) = ground().await;
    // Endless, and nobody reads them: their windows fill, and they stand still.
    let mut stalled = Vec::new();
    for _ in 0..8 {
        stalled.push(master.ask("GET", &format!("{POD}/log?follow=true"), "").await);
    }
    for stream in &mut stalled {
        // They have begun.
        stream.read_u8().await.unwrap();
    }
    for _ in 0..20 {
        let (mut socket, _) = master.websocket(&exec("cat"), "v5.channel.k8s.io").await;
        let piece = [&[0][..], &[b'z'; 100_000]].concat();
        socket.send(Message::Binary(piece.into())).await.unwrap();
        socket.send(Message::Binary(Bytes::from_static(b"\xff\0"))).await.unwrap();
        assert_eq!(channels(&mut socket).await[1].len(), 100_000);
    }
}

#[tokio::test]
async fn a_session_that_is_replaced_ends_what_went_through_it_and_says_so() {
    let (master, _agent) = ground().await;
    let (mut socket, _) = master.websocket(&exec("wait"), "v4.channel.k8s.io").await;
    let _ = socket.next().await;
    let _other = Agent::start(&master.url, &master.ca.node("n"), "n").await;
    assert_eq!(master.sandbox.server.sessions().count(), 1);
    let told = status(&channels(&mut socket).await[3]);
    let words = "the session of node \"n\" has ended";
    assert!(told["message"].as_str().unwrap().contains(words), "{told}");
    // The new one is as good as the old one was.
    let answer = master.get(&format!("{POD}/log")).await;
    assert!(answer.contains("one\ntwo\n"), "{answer}");
}

#[tokio::test]
async fn a_session_goes_with_its_agent() {
    let (master, agent) = ground().await;
    let sessions = master.sandbox.server.sessions();
    assert!(sessions.holds("n"));
    drop(agent);
    let gone = async {
        while sessions.holds("n") {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, gone).await.expect("a connection that is closed ends its session");
}

#[tokio::test]
async fn a_node_without_an_agent_is_said_to_have_none() {
    let (master, _agent) = ground().await;
    let answer = master.get("/api/v1/namespaces/default/pods/far/log").await;
    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    assert!(answer.contains(r#"no agent of node \"nowhere\" is connected"#), "{answer}");
}

#[tokio::test]
async fn what_is_no_upgrade_or_none_that_is_known_is_refused() {
    let (master, _agent) = ground().await;
    let answer = master.get(&exec("cat")).await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("Upgrade request required"));
    let headers = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                   sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                   sec-websocket-protocol: v9.channel.k8s.io\r\n";
    let mut stream = master.ask("GET", &exec("cat"), headers).await;
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 400");
}

#[tokio::test]
async fn an_agent_speaks_for_its_own_node_and_for_nothing_else() {
    let master = Master::start().await;
    let refused = |answer: Result<_, tonic::Status>| answer.err().expect("it is refused");
    let other = refused(session(&master.url, &master.ca.node("other"), "n").await);
    assert_eq!(other.code(), tonic::Code::PermissionDenied);
    assert!(other.message().contains("\"other\""), "{other}");
    for tls in [master.ca.admin(), master.ca.client("system:node:n", "people")] {
        let refused = refused(session(&master.url, &tls, "n").await);
        assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    }
    let node = Channel::connect(&master.url, &master.ca.node("n")).await.unwrap();
    let asked = node.client().holds(HoldsRequest { node: "n".into() }).await.unwrap_err();
    assert_eq!(asked.code(), tonic::Code::PermissionDenied);
}

#[tokio::test]
async fn a_master_reaches_an_agent_through_the_one_that_holds_its_session() {
    let (holder, _agent) = ground().await;
    let nobody = "https://localhost:1".to_owned();
    let others = vec![nobody, holder.url.clone()];
    let asked = Master::beside(holder.ca.clone(), others).await;
    assert!(!asked.sandbox.server.sessions().holds("n"));
    let (mut socket, _) = asked.websocket(&exec("cat"), "v5.channel.k8s.io").await;
    let large = vec![b'q'; 500_000];
    socket.send(Message::Binary([&[0], &large[..]].concat().into())).await.unwrap();
    socket.send(Message::Binary(Bytes::from_static(b"\xff\0"))).await.unwrap();
    let [_, stdout, _, error] = channels(&mut socket).await;
    assert!(stdout == large);
    assert_eq!(status(&error)["status"], "Success");
    let missing = asked.get(&format!("{POD}/log?previous=true")).await;
    assert!(missing.starts_with("HTTP/1.1 400 "), "{missing}");
    let nowhere = asked.get("/api/v1/namespaces/default/pods/far/log").await;
    assert!(nowhere.contains("https://localhost:1 could not be asked"), "{nowhere}");
}
