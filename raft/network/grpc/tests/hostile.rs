//! Who gets as far as a connection and then means no good, or is broken. The others do not notice.

use futures::StreamExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::codegen::http;

use super::super::Tls;
use super::super::connection::{Lane, Slot, Target};
use super::bed::{Witness, is_served, node, server};
use crate::network::wire;
use crate::types::NodeId;

#[tokio::test]
async fn garbage_ends_its_own_connection_and_no_other() {
    let (server, authority) = server(Witness::new()).await;
    let standing = server.link(node(2), &authority.of(node(2)), NodeId(1));
    super::bed::heartbeat(&standing).await.unwrap();
    for seed in 0..40 {
        let mut garbage = vec![0; 1 << (seed % 16)];
        StdRng::seed_from_u64(seed).fill_bytes(&mut garbage);
        let mut heard = Vec::new();
        // The other side may close at any point; that is what is asked of it.
        if seed % 2 == 0 {
            let mut raw = server.connect().await;
            let _ = raw.write_all(&garbage).await;
            let _ = raw.shutdown().await;
            let _ = raw.read_to_end(&mut heard).await;
        } else {
            let mut inside = server.connect_tls(&authority.of(node(3))).await;
            let _ = inside.write_all(&garbage).await;
            let _ = inside.shutdown().await;
            let _ = inside.read_to_end(&mut heard).await;
        }
    }
    assert_eq!(server.witness.count(), 1, "seeds 0 to 39: none of it was taken for a message");
    super::bed::heartbeat(&standing).await.unwrap();
    is_served(&server, &authority).await;
    server.stop().await;
}

#[tokio::test]
async fn who_connects_and_says_nothing_takes_nobody_s_place() {
    let (server, authority) = server(Witness::new()).await;
    let mut silent = Vec::new();
    for _ in 0..150 {
        silent.push(server.connect().await);
    }
    is_served(&server, &authority).await;
    let mut proven = Vec::new();
    for _ in 0..20 {
        proven.push(server.connect_tls(&authority.of(node(3))).await);
    }
    is_served(&server, &authority).await;
    // They have not gone, and the server stops all the same.
    server.stop().await;
    drop((silent, proven));
}

#[tokio::test]
async fn who_reads_nothing_of_what_it_asked_for_holds_up_nobody() {
    let (server, authority) = server(Witness::new()).await;
    let link = server.link(node(3), &authority.of(node(3)), NodeId(1));
    let mut unread = Vec::new();
    for _ in 0..3 {
        unread.push(link.fetch_snapshot().await.unwrap());
    }
    super::bed::heartbeat(&link).await.expect("its own heartbeats pass, too");
    is_served(&server, &authority).await;
    server.stop().await;
    let (_, mut chunks) = unread.pop().unwrap();
    while let Some(chunk) = chunks.next().await {
        if chunk.is_err() {
            return;
        }
    }
    panic!("a snapshot without end has ended well");
}

#[tokio::test]
async fn nobody_is_heard_before_it_has_said_who_it_is() {
    let (server, authority) = server(Witness::new()).await;
    let stream = server.connect_tls(&authority.of(node(3))).await;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let driver = tokio::spawn(connection);
    let request = http::Request::post("https://peer/kontiki.peer.v1.Peer/AppendStream")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::empty())
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    let message = answer.headers()["grpc-message"].to_str().unwrap();
    assert!(message.contains("say") && message.contains("hello"), "{message}");
    assert_eq!(server.witness.count(), 0);
    drop(sender);
    driver.abort();
    server.stop().await;
}

#[tokio::test]
async fn a_message_that_lacks_what_it_needs_is_refused_by_name() {
    let (server, authority) = server(Witness::new()).await;
    let target = Target {
        us: node(3),
        them: node(1),
        address: arc_swap::ArcSwap::from_pointee(server.address.to_string()),
        tls: Tls::new(&authority.of(node(3))).unwrap(),
    };
    let connection = Slot::new(target.into(), Lane::Control).connection().await.unwrap();
    let status = connection.client().vote(wire::VoteRequest::default()).await.unwrap_err();
    assert!(status.message().contains("vote"), "{status}");
    let status = connection.client().forward(wire::ForwardRequest::default()).await.unwrap_err();
    assert!(status.message().contains("missing"), "{status}");
    assert_eq!(server.witness.count(), 0, "nothing of it reached anyone");
    is_served(&server, &authority).await;
    server.stop().await;
}
