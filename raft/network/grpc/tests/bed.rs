//! A server with a witness behind it, and callers of every kind.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::super::authority::Authority;
use super::super::{GrpcTransport, Identity, Tls, TlsConfig, node_name, serve};
use crate::network::{
    AppendRequest, AppendResponse, AppendResult, Forward, Forwarded, Inbound, Link, LinkError,
    SnapshotChunk, SnapshotHeader, SnapshotResponse, TransferRequest, TransferResponse, Transport,
    VoteRequest, VoteResponse,
};
use crate::types::{ClusterId, LogId, NodeId, Payload, Peer, RaftEntry, Vote};

pub(super) const CLUSTER: ClusterId = ClusterId(0xc1);

/// For what is answered at once by a peer that is there. Nothing is concluded from how long it took.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn node(id: u64) -> Identity {
    Identity { cluster: CLUSTER, node: NodeId(id) }
}

/// What arrives, seen from behind the server. It answers at once, but for what is held back.
pub(super) struct Witness {
    pub(super) arrived: watch::Sender<usize>,
    /// Messages of streams are taken, and answered, as there are permits; `usize` many by default.
    pub(super) takes: Semaphore,
    pub(super) answers: Semaphore,
    /// Chunks of snapshots are taken as there are permits.
    pub(super) chunks: Semaphore,
    pub(super) chunks_taken: AtomicUsize,
    pub(super) turned_away: Mutex<Vec<NodeId>>,
}

impl Witness {
    pub(super) fn new() -> Arc<Witness> {
        Witness::with(Semaphore::MAX_PERMITS, Semaphore::MAX_PERMITS, Semaphore::MAX_PERMITS)
    }

    pub(super) fn with(takes: usize, answers: usize, chunks: usize) -> Arc<Witness> {
        Arc::new(Witness {
            arrived: watch::Sender::new(0),
            takes: Semaphore::new(takes),
            answers: Semaphore::new(answers),
            chunks: Semaphore::new(chunks),
            chunks_taken: AtomicUsize::new(0),
            turned_away: Mutex::default(),
        })
    }

    /// How many messages have come so far.
    pub(super) fn count(&self) -> usize {
        *self.arrived.borrow()
    }

    pub(super) async fn has_arrived(&self, count: usize) {
        let mut arrived = self.arrived.subscribe();
        let reached = arrived.wait_for(|arrived| *arrived >= count);
        tokio::time::timeout(PATIENCE, reached).await.expect("they arrive").unwrap();
    }

    fn note(&self) {
        self.arrived.send_modify(|arrived| *arrived += 1);
    }
}

async fn pass(semaphore: &Semaphore) {
    semaphore.acquire().await.expect("it is never closed").forget();
}

/// What [`Inbound`] is given; the methods need the witness in their futures.
struct Behind(Arc<Witness>);

impl Inbound for Behind {
    fn admit(&self, _: ClusterId, from: NodeId) -> Result<(), String> {
        if self.0.turned_away.lock().contains(&from) {
            return Err(format!("{from} is not welcome"));
        }
        Ok(())
    }

    fn append(&self, _: AppendRequest) -> BoxFuture<'static, Result<AppendResponse, String>> {
        self.0.note();
        Box::pin(async { Ok(AppendResponse::Success) })
    }

    fn append_stream(
        &self,
        requests: BoxStream<'static, AppendRequest>,
    ) -> BoxStream<'static, Result<AppendResult, String>> {
        let taken = {
            let witness = Arc::clone(&self.0);
            requests.then(move |request| {
                let witness = Arc::clone(&witness);
                async move {
                    pass(&witness.takes).await;
                    witness.note();
                    request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id)
                }
            })
        };
        let witness = Arc::clone(&self.0);
        // Taken ahead of being answered, as consensus does.
        let answers = taken.map(move |last| {
            let witness = Arc::clone(&witness);
            async move {
                pass(&witness.answers).await;
                Ok(Ok(last))
            }
        });
        answers.buffered(64).boxed()
    }

    fn vote(&self, request: VoteRequest) -> BoxFuture<'static, Result<VoteResponse, String>> {
        self.0.note();
        Box::pin(async move { Ok(VoteResponse::new(request.vote, None, true)) })
    }

    fn pre_vote(&self, request: VoteRequest) -> BoxFuture<'static, Result<VoteResponse, String>> {
        self.vote(request)
    }

    fn transfer_leader(
        &self,
        _: TransferRequest,
    ) -> BoxFuture<'static, Result<TransferResponse, String>> {
        self.0.note();
        Box::pin(async { Err("it does not lead".into()) })
    }

    fn snapshot(
        &self,
        _: SnapshotHeader,
        mut chunks: BoxStream<'static, io::Result<SnapshotChunk>>,
    ) -> BoxFuture<'static, Result<SnapshotResponse, String>> {
        let witness = Arc::clone(&self.0);
        Box::pin(async move {
            witness.note();
            loop {
                pass(&witness.chunks).await;
                match chunks.next().await {
                    Some(Ok(_)) => {
                        witness.chunks_taken.fetch_add(1, Ordering::Relaxed);
                    }
                    Some(Err(error)) => return Err(error.to_string()),
                    None => return Ok(SnapshotResponse::new(vote_of(1))),
                }
            }
        })
    }

    fn forward(&self, request: Forward) -> BoxFuture<'static, Forwarded> {
        self.0.note();
        Box::pin(async move {
            match request {
                Forward::ReadIndex => Forwarded::ReadIndex(7),
                _ => Forwarded::NotLeader { leader: None },
            }
        })
    }

    fn fetch_snapshot(
        &self,
    ) -> BoxFuture<
        'static,
        Result<(SnapshotHeader, BoxStream<'static, io::Result<SnapshotChunk>>), String>,
    > {
        self.0.note();
        Box::pin(async { Ok((header(), futures::stream::iter((0..).map(chunk)).boxed())) })
    }
}

/// A member's peer port.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) witness: Arc<Witness>,
    pub(super) tls: Arc<Tls>,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Server {
    pub(super) async fn start(us: Identity, tls: &TlsConfig, witness: Arc<Witness>) -> Server {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, tls) = (CancellationToken::new(), Tls::new(tls).unwrap());
        let inbound = Arc::new(Behind(Arc::clone(&witness)));
        let told = stop.clone().cancelled_owned();
        let serving = tokio::spawn(serve(listener, us, Arc::clone(&tls), inbound, told));
        Server { address, witness, tls, stop, serving }
    }

    /// Stops, and waits until it has.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        let stopped = tokio::time::timeout(PATIENCE, self.serving).await;
        stopped.expect("a server that is told to stop does").unwrap();
    }

    pub(super) fn peer(&self) -> Peer {
        Peer { address: self.address.to_string(), ..Peer::default() }
    }

    /// A link of `us` to `to`, which is thought to be here.
    pub(super) fn link(&self, us: Identity, tls: &TlsConfig, to: NodeId) -> Arc<dyn Link> {
        GrpcTransport::new(us, Tls::new(tls).unwrap()).link(to, &self.peer())
    }

    /// TCP, without more.
    pub(super) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// TCP and TLS as a peer speaks it, and nothing said yet.
    pub(super) async fn connect_tls(&self, tls: &TlsConfig) -> TlsStream<TcpStream> {
        let client = Tls::new(tls).unwrap().held().client();
        let name = node_name(node(1)).try_into().unwrap();
        TlsConnector::from(client).connect(name, self.connect().await).await.unwrap()
    }
}

/// A server of node 1 with everything right, and the CA of its cluster.
pub(super) async fn server(witness: Arc<Witness>) -> (Server, Authority) {
    let authority = Authority::new("peers");
    let server = Server::start(node(1), &authority.of(node(1)), witness).await;
    (server, authority)
}

/// Whether an honest peer is served.
pub(super) async fn is_served(server: &Server, authority: &Authority) {
    let link = server.link(node(9), &authority.of(node(9)), NodeId(1));
    heartbeat(&link).await.expect("an honest peer is served");
}

pub(super) async fn heartbeat(link: &Arc<dyn Link>) -> Result<AppendResponse, LinkError> {
    link.append(append(0, 0, 0), PATIENCE).await
}

pub(super) fn vote_of(node: u64) -> Vote {
    Vote::new_committed(3, NodeId(node))
}

/// `count` entries of `bytes` each, from `first` on.
pub(super) fn append(first: u64, count: u64, bytes: usize) -> AppendRequest {
    let id = |index| LogId::new_term_index(3, index);
    let entries = (first..first + count)
        .map(|index| RaftEntry {
            log_id: id(index),
            payload: openraft::EntryPayload::Normal(Payload(Bytes::from(vec![7; bytes]))),
        })
        .collect();
    AppendRequest {
        vote: vote_of(9),
        prev_log_id: first.checked_sub(1).map(id),
        entries,
        leader_commit: None,
    }
}

pub(super) fn header() -> SnapshotHeader {
    SnapshotHeader {
        vote: Bytes::from_static(b"vote"),
        meta: Bytes::from_static(b"meta"),
        manifest: Bytes::from_static(b"manifest"),
    }
}

pub(super) fn chunk(number: u64) -> io::Result<SnapshotChunk> {
    let bytes = Bytes::from(vec![number as u8; 1 << 20]);
    let checksum = crc32c::crc32c(&bytes);
    Ok(SnapshotChunk { file: 0, offset: number << 20, bytes, checksum })
}
