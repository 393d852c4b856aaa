//! What is under way at once, and what never waits for what.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::net::TcpListener;

use super::super::authority::Authority;
use super::bed::{
    PATIENCE, Server, Witness, append, chunk, header, heartbeat, node, server, vote_of,
};
use crate::network::grpc::{GrpcTransport, Tls};
use crate::network::{
    AppendRequest, Forward, Forwarded, LinkError, SnapshotChunk, Transport, VoteRequest,
};
use crate::types::{NodeId, Peer};

/// Requests without end, and how many of them were taken.
fn counted(
    requests: impl Iterator<Item = AppendRequest> + Send + 'static,
) -> (BoxStream<'static, AppendRequest>, Arc<AtomicUsize>) {
    let taken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    let requests = requests.inspect(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
    });
    (stream::iter(requests).boxed(), taken)
}

fn vote() -> VoteRequest {
    VoteRequest::new(vote_of(9), None)
}

#[tokio::test]
async fn many_messages_of_a_stream_are_under_way_before_the_first_is_answered() {
    const COUNT: u64 = 20;
    let (server, authority) = server(Witness::with(100, 0, 0)).await;
    let link = server.link(node(9), &authority.of(node(9)), NodeId(1));
    let requests = (0..COUNT).map(|index| append(index, 1, 100));
    let answers = link.append_stream(stream::iter(requests).boxed(), PATIENCE).await.unwrap();
    let answers = tokio::spawn(answers.collect::<Vec<_>>());
    server.witness.has_arrived(COUNT as usize).await;
    assert!(!answers.is_finished());
    server.witness.answers.add_permits(100);
    let matched: Vec<_> =
        answers.await.unwrap().into_iter().map(|a| a.unwrap().unwrap().unwrap().index).collect();
    assert_eq!(matched, (0..COUNT).collect::<Vec<_>>(), "one answer to each, in order");
    server.stop().await;
}

#[tokio::test]
async fn a_peer_that_does_not_answer_is_sent_a_window_and_no_more() {
    let (server, authority) = server(Witness::with(1000, 0, 0)).await;
    let link = server.link(node(9), &authority.of(node(9)), NodeId(1));
    let (requests, taken) = counted((0..).map(|index| append(index, 1, 1 << 20)));
    let answers = link.append_stream(requests, PATIENCE).await.unwrap();
    let answers = tokio::spawn(answers.take(40).count());
    server.witness.has_arrived(16).await;
    for _ in 0..10 {
        // Whatever could still come has had its turns.
        heartbeat(&link).await.unwrap();
    }
    assert!(taken.load(Ordering::Relaxed) <= 18, "{taken:?} MiB for a window of 16");
    server.witness.answers.add_permits(1000);
    assert_eq!(answers.await.unwrap(), 40, "with answers it goes on");
    server.stop().await;
}

#[tokio::test]
async fn heartbeats_votes_and_read_barriers_pass_bulk_and_snapshots_that_stand_still() {
    let (server, authority) = server(Witness::with(0, 0, 2)).await;
    let link = server.link(node(9), &authority.of(node(9)), NodeId(1));
    let (requests, taken) = counted((0..).map(|index| append(index, 1, 8 << 20)));
    let bulk = Arc::clone(&link);
    let bulk = tokio::spawn(async move {
        let answers = bulk.append_stream(requests, PATIENCE * 10).await.unwrap();
        answers.collect::<Vec<_>>().await
    });
    let endless = stream::iter((0..).map(chunk)).boxed();
    let sending = tokio::spawn(link.snapshot(header(), endless));
    server.witness.has_arrived(1).await;
    while taken.load(Ordering::Relaxed) < 2 {
        tokio::task::yield_now().await;
    }
    for _ in 0..50 {
        heartbeat(&link).await.unwrap();
        link.vote(vote(), PATIENCE).await.unwrap();
        link.pre_vote(vote(), PATIENCE).await.unwrap();
        let index = link.forward(Forward::ReadIndex, PATIENCE).await.unwrap();
        assert!(matches!(index, Forwarded::ReadIndex(7)));
    }
    assert!(!bulk.is_finished() && !sending.is_finished(), "they still stand");
    server.stop().await;
    assert!(sending.await.unwrap().is_err());
    assert!(bulk.await.unwrap().pop().is_some_and(|last| last.is_err()));
}

#[tokio::test]
async fn a_snapshot_arrives_whole_or_not_at_all() {
    let (server, authority) = server(Witness::new()).await;
    let link = server.link(node(9), &authority.of(node(9)), NodeId(1));
    let chunks = stream::iter((0..40).map(chunk)).boxed();
    assert_eq!(link.snapshot(header(), chunks).await.unwrap().vote, vote_of(1));
    assert_eq!(server.witness.chunks_taken.load(Ordering::Relaxed), 40);
    let broken = || Err::<SnapshotChunk, _>(io::Error::other("a block cannot be read"));
    let chunks = stream::iter((0..3).map(chunk).chain([broken()])).boxed();
    let error = link.snapshot(header(), chunks).await.unwrap_err();
    assert!(error.to_string().contains("a block cannot be read"), "{error}");
    server.stop().await;
}

#[tokio::test]
async fn a_snapshot_that_is_fetched_is_read_as_fast_as_the_caller_likes() {
    let (server, authority) = server(Witness::new()).await;
    let link = server.link(node(9), &authority.of(node(9)), NodeId(1));
    let (read_header, mut chunks) = link.fetch_snapshot().await.unwrap();
    assert_eq!(read_header, header());
    for number in 0..30 {
        assert_eq!(chunks.next().await.unwrap().unwrap(), chunk(number).unwrap());
    }
    // It has no end; who has enough lets go, and the rest of the link does not notice.
    drop(chunks);
    heartbeat(&link).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn what_is_not_sent_is_told_from_what_may_have_arrived() {
    let (server, authority) = server(Witness::with(0, 0, 0)).await;
    let link = server.link(node(9), &authority.of(node(9)), NodeId(1));
    let waiting = link.snapshot(header(), stream::pending().boxed());
    let waiting = tokio::spawn(waiting);
    server.witness.has_arrived(1).await;
    let peer = server.peer();
    server.stop().await;
    let lost = waiting.await.unwrap().unwrap_err();
    assert!(matches!(lost, LinkError::Unknown { .. }), "{lost}");
    // The old connection may take one more message, and not know what became of it.
    let mut errors = Vec::new();
    for _ in 0..3 {
        errors.push(link.forward(Forward::ReadIndex, PATIENCE).await.unwrap_err());
    }
    let last = errors.pop().unwrap();
    assert!(matches!(last, LinkError::NotSent { .. }), "{last}");
    assert!(last.to_string().contains(&peer.address), "{last}");
}

#[tokio::test]
async fn a_link_follows_its_peer_to_another_address() {
    let (first, authority) = server(Witness::new()).await;
    let tls = Tls::new(&authority.of(node(2))).unwrap();
    let transport = GrpcTransport::new(node(2), tls);
    let link = transport.link(NodeId(1), &first.peer());
    heartbeat(&link).await.unwrap();
    first.stop().await;
    let second = Server::start(node(1), &authority.of(node(1)), Witness::new()).await;
    // Whoever opens one anew says where the peer is now.
    drop(transport.link(NodeId(1), &second.peer()));
    let arrives = async {
        while heartbeat(&link).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, arrives).await.expect("the link leads to the new address");
    assert!(second.witness.count() > 0);
    second.stop().await;
}

#[tokio::test]
async fn a_peer_that_is_gone_is_told_from_one_that_is_silent() {
    let authority = Authority::new("peers");
    let silent = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let peer = Peer { address: silent.local_addr().unwrap().to_string(), ..Peer::default() };
    let tls = Tls::new(&authority.of(node(2))).unwrap();
    let link = GrpcTransport::new(node(2), tls).link(NodeId(1), &peer);
    let moment = Duration::from_millis(300);
    assert!(!link.is_deserted(moment).await, "its machine takes connections for it");
    let (door, deserted) = tokio::join!(
        async {
            // One that was left over from before, and the one that is made now.
            drop(silent.accept().await.unwrap());
            drop(silent.accept().await.unwrap());
            silent
        },
        link.is_deserted(PATIENCE),
    );
    assert!(deserted, "who takes connections for it finds nobody");
    drop(door);
    assert!(link.is_deserted(PATIENCE).await, "nobody listens");
    let (server, authority) = server(Witness::new()).await;
    let link = server.link(node(2), &authority.of(node(2)), NodeId(1));
    assert!(!link.is_deserted(moment).await);
    heartbeat(&link).await.expect("it is served after it was looked for");
    server.stop().await;
}
