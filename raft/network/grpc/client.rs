//! The calling side of the gRPC transport.
//!
//! Keeps: every call ends by its deadline; snapshots, which have none, by how long they stand still.
//! Never: sends a message twice, or calls unsent what may have arrived. A call that fails before the
//! connection took it is `NotSent`; one to which the peer itself said no is `Refused`; all else is
//! `Unknown`.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

use crate::network::convert::Malformed;
use crate::network::grpc::connection::{
    Connection, Lane, SendError, Slot, Target, Unconnected, described, is_deserted, is_refusal,
};
use crate::network::grpc::messages;
use crate::network::grpc::tls::Tls;
use crate::network::grpc::{Identity, MESSAGE_BYTES_MAX, PART_WAIT_MAX};
use crate::network::pipeline::{Pipeline, Window, first_piece};
use crate::network::wire::{self, peer_client::PeerClient, snapshot_part::Part};
use crate::network::{
    AppendRequest, AppendResponse, AppendResult, Forward, Forwarded, Link, LinkError,
    SnapshotChunk, SnapshotHeader, SnapshotResponse, TransferRequest, TransferResponse, Transport,
    VoteRequest, VoteResponse,
};
use crate::types::{NodeId, Peer};

/// Longest that a peer may take to install a snapshot after it has the last part of it.
const INSTALL_WAIT_MAX: Duration = Duration::from_secs(600);

/// Most calls of followers' requests under way to one peer. Well below what the server lets through on a
/// connection, so that heartbeats and votes never have to wait for a place. Beyond it callers wait, and
/// are told `NotSent` when their deadline comes first.
const CONTROL_FORWARDS_MAX: usize = 128;
const BULK_FORWARDS_MAX: usize = 512;

/// The call of this name, on whatever connection there is by then.
macro_rules! rpc {
    ($name:ident) => {
        |mut client: PeerClient<Connection>, message| async move { client.$name(message).await }
    };
}

/// Opens links to other masters. All links to one peer share its connections.
pub struct GrpcTransport {
    us: Identity,
    tls: Arc<Tls>,
    routes: Mutex<HashMap<NodeId, Arc<Route>>>,
}

impl GrpcTransport {
    pub fn new(us: Identity, tls: Arc<Tls>) -> Arc<GrpcTransport> {
        Arc::new(GrpcTransport { us, tls, routes: Mutex::default() })
    }
}

impl Transport for GrpcTransport {
    fn link(&self, target: NodeId, peer: &Peer) -> Arc<dyn Link> {
        let mut routes = self.routes.lock();
        let route = match routes.get(&target) {
            Some(route) => {
                route.lead_to(&peer.address);
                Arc::clone(route)
            }
            None => {
                let route = Route::new(Target {
                    us: self.us,
                    them: Identity { cluster: self.us.cluster, node: target },
                    address: ArcSwap::from_pointee(peer.address.clone()),
                    tls: Arc::clone(&self.tls),
                });
                routes.insert(target, Arc::clone(&route));
                route
            }
        };
        Arc::new(GrpcLink { route })
    }

    fn heard_from(&self, peer: NodeId) {
        if let Some(route) = self.routes.lock().get(&peer) {
            route.heard_from();
        }
    }

    fn forget(&self, peer: NodeId) {
        self.routes.lock().remove(&peer);
    }
}

/// The connections to one peer, wherever it is.
struct Route {
    target: Arc<Target>,
    control: Arc<Slot>,
    bulk: Arc<Slot>,
    snapshot: Arc<Slot>,
    control_forwards: Semaphore,
    bulk_forwards: Semaphore,
}

impl Route {
    fn new(target: Target) -> Arc<Route> {
        let target = Arc::new(target);
        Arc::new(Route {
            control: Slot::new(Arc::clone(&target), Lane::Control),
            bulk: Slot::new(Arc::clone(&target), Lane::Bulk),
            snapshot: Slot::new(Arc::clone(&target), Lane::Snapshot),
            control_forwards: Semaphore::new(CONTROL_FORWARDS_MAX),
            bulk_forwards: Semaphore::new(BULK_FORWARDS_MAX),
            target,
        })
    }

    /// Where the peer is from now on. Links that were opened before follow: consensus keeps them for as
    /// long as the peer is a member. A connection that stands is kept until it breaks.
    fn lead_to(&self, address: &str) {
        if **self.target.address.load() != address {
            self.target.address.store(Arc::new(address.to_owned()));
            self.heard_from();
        }
    }

    /// The peer is there: whatever waited before it tried again need not.
    fn heard_from(&self) {
        for slot in [&self.control, &self.bulk, &self.snapshot] {
            slot.heard_from();
        }
    }

    fn slot(&self, lane: Lane) -> &Arc<Slot> {
        match lane {
            Lane::Control => &self.control,
            Lane::Bulk => &self.bulk,
            Lane::Snapshot => &self.snapshot,
        }
    }

    fn forwards(&self, lane: Lane) -> &Semaphore {
        if lane == Lane::Control { &self.control_forwards } else { &self.bulk_forwards }
    }

    /// As people know the peer.
    fn peer(&self) -> String {
        format!("{} ({})", self.target.them.node, self.target.address.load())
    }

    fn not_sent(&self, reason: impl Into<String>) -> LinkError {
        LinkError::NotSent { peer: self.peer(), reason: reason.into() }
    }

    fn unknown(&self, reason: impl Into<String>) -> LinkError {
        LinkError::Unknown { peer: self.peer(), reason: reason.into() }
    }

    fn malformed(&self, error: &Malformed) -> LinkError {
        self.unknown(error.to_string())
    }

    async fn connection(&self, lane: Lane, expiry: Instant) -> Result<Connection, LinkError> {
        match timeout_at(expiry, self.slot(lane).connection()).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(Unconnected::Failed(reason))) => Err(self.not_sent(reason)),
            Ok(Err(Unconnected::Refused(reason))) => {
                Err(LinkError::Refused { peer: self.peer(), reason })
            }
            Err(_) => Err(self.not_sent("not connected before the deadline")),
        }
    }

    /// One message and its answer: `send` is the call, `read` what the answer means.
    async fn call<M, W, F, R>(
        self: Arc<Route>,
        lane: Lane,
        message: M,
        deadline: Duration,
        send: impl FnOnce(PeerClient<Connection>, M) -> F,
        read: impl FnOnce(W) -> Result<R, Malformed>,
    ) -> Result<R, LinkError>
    where
        M: Message,
        F: Future<Output = Result<Response<W>, Status>>,
    {
        let bytes = message.encoded_len();
        if bytes > MESSAGE_BYTES_MAX {
            let reason = format!("message of {bytes} bytes, at most {MESSAGE_BYTES_MAX}");
            return Err(self.not_sent(reason));
        }
        let expiry = Instant::now() + deadline;
        let connection = self.connection(lane, expiry).await?;
        match timeout_at(expiry, send(connection.client(), message)).await {
            Ok(Ok(answer)) => {
                connection.note_answered();
                read(answer.into_inner()).map_err(|error| self.malformed(&error))
            }
            Ok(Err(status)) => Err(failure(self.peer(), &status)),
            Err(_) => {
                connection.note_missed();
                Err(self.unknown(format!("no answer within {deadline:?}")))
            }
        }
    }

    async fn append(
        self: Arc<Route>,
        request: AppendRequest,
        deadline: Duration,
    ) -> Result<AppendResponse, LinkError> {
        let heartbeat = request.entries.is_empty();
        let lane = if heartbeat { Lane::Control } else { Lane::Bulk };
        // What does not fit into a message is left for the next one; the answer says how far it went.
        let (piece, whole) = first_piece(request);
        let last = piece.entries.last().map(|entry| entry.log_id);
        let message = messages::wire_append(piece);
        match self.call(lane, message, deadline, rpc!(append), messages::appended).await? {
            AppendResponse::Success if !whole => Ok(AppendResponse::PartialSuccess(last)),
            answer => Ok(answer),
        }
    }

    async fn append_stream(
        self: Arc<Route>,
        requests: BoxStream<'static, AppendRequest>,
        deadline: Duration,
    ) -> Result<BoxStream<'static, Result<AppendResult, LinkError>>, LinkError> {
        let expiry = Instant::now() + deadline;
        let connection = self.connection(Lane::Bulk, expiry).await?;
        let pipeline = Pipeline::new(Window::APPENDS);
        let outgoing = pipeline.outgoing(requests).map(messages::wire_append);
        let mut client = connection.client();
        let opened = match timeout_at(expiry, client.append_stream(outgoing)).await {
            Ok(opened) => opened.map_err(|status| failure(self.peer(), &status))?,
            Err(_) => {
                connection.note_missed();
                return Err(self.unknown(format!("no stream within {deadline:?}")));
            }
        };
        let mut held = HeldStream { connection, pipeline: Arc::clone(&pipeline), ended: false };
        let peer = self.peer();
        let incoming = opened.into_inner().map(move |answer| {
            held.note(&answer);
            let answer = answer.map_err(|status| failure(self.peer(), &status))?;
            messages::streamed(answer).map_err(|error| self.malformed(&error))
        });
        Ok(pipeline.answers(incoming, deadline, peer))
    }

    async fn send_snapshot(
        self: Arc<Route>,
        header: SnapshotHeader,
        chunks: BoxStream<'static, io::Result<SnapshotChunk>>,
    ) -> Result<SnapshotResponse, LinkError> {
        let connection = self.connection(Lane::Snapshot, Instant::now() + PART_WAIT_MAX).await?;
        // Room for one: a chunk is read when the one before it has been taken.
        let (parts, outgoing) = mpsc::channel(1);
        let feed = self.feed(header, chunks, parts);
        let mut client = connection.client();
        // Dropped before the answer, this resets the stream, and the peer forgets what it has.
        let answered = client.send_snapshot(ReceiverStream::new(outgoing));
        tokio::pin!(answered);
        let answer = tokio::select! {
            biased;
            // The peer may refuse before it has taken everything.
            answer = &mut answered => answer,
            fed = feed => {
                fed?;
                match timeout(INSTALL_WAIT_MAX, answered).await {
                    Ok(answer) => answer,
                    Err(_) => {
                        let reason = format!("snapshot not installed in {INSTALL_WAIT_MAX:?}");
                        return Err(self.unknown(reason));
                    }
                }
            }
        };
        let answer = answer.map_err(|status| failure(self.peer(), &status))?;
        messages::installed(answer.into_inner()).map_err(|error| self.malformed(&error))
    }

    /// Hands the parts over one by one. On an error the end of the snapshot is never sent, by which the
    /// peer knows that it has not got all of it.
    async fn feed(
        &self,
        header: SnapshotHeader,
        mut chunks: BoxStream<'static, io::Result<SnapshotChunk>>,
        parts: mpsc::Sender<wire::SnapshotPart>,
    ) -> Result<(), LinkError> {
        let hand_over = async |part| match timeout(PART_WAIT_MAX, parts.send(part)).await {
            Ok(Ok(())) => Ok(()),
            // The call has ended; its answer says why.
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => {
                let reason = format!("it took no part of the snapshot in {PART_WAIT_MAX:?}");
                Err(self.unknown(reason))
            }
        };
        hand_over(messages::wire_header(header)).await?;
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| self.unknown(format!("read snapshot: {error}")))?;
            hand_over(messages::wire_chunk(chunk)).await?;
        }
        hand_over(messages::wire_end()).await
    }

    async fn fetch_snapshot(self: Arc<Route>) -> Result<FetchedSnapshot, LinkError> {
        let connection = self.connection(Lane::Snapshot, Instant::now() + PART_WAIT_MAX).await?;
        let mut client = connection.client();
        let opened = timeout(PART_WAIT_MAX, client.fetch_snapshot(wire::FetchRequest {})).await;
        let waited = |_| self.unknown(format!("no snapshot in {PART_WAIT_MAX:?}"));
        let opened = opened.map_err(waited)?;
        let mut parts = opened.map_err(|status| failure(self.peer(), &status))?.into_inner();
        let first = timeout(PART_WAIT_MAX, parts.message()).await.map_err(waited)?;
        let first = first.map_err(|status| failure(self.peer(), &status))?;
        let Some(Part::Header(header)) = first.and_then(|first| first.part) else {
            return Err(self.malformed(&Malformed::missing("snapshot's header")));
        };
        // The connection stays for as long as the chunks are read.
        let chunks = messages::chunks(parts).map(move |chunk| {
            let _ = &connection;
            chunk
        });
        Ok((messages::header(header), chunks.boxed()))
    }

    async fn forward(
        self: Arc<Route>,
        request: Forward,
        deadline: Duration,
    ) -> Result<Forwarded, LinkError> {
        let lane = match request {
            // A read waits for it, and it carries nothing.
            Forward::ReadIndex => Lane::Control,
            _ => Lane::Bulk,
        };
        let expiry = Instant::now() + deadline;
        let permit = match timeout_at(expiry, self.forwards(lane).acquire()).await {
            Ok(permit) => permit.expect("the semaphore is never closed"),
            Err(_) => return Err(self.not_sent("too many requests are under way to it")),
        };
        let left = expiry.saturating_duration_since(Instant::now());
        let message = messages::wire_forward(request);
        let route = Arc::clone(&self);
        let answer = route.call(lane, message, left, rpc!(forward), messages::forwarded).await;
        drop(permit);
        answer
    }
}

type FetchedSnapshot = (SnapshotHeader, BoxStream<'static, io::Result<SnapshotChunk>>);

/// The connection under a stream of appends.
///
/// A stream that is dropped while the peer takes nothing could not even be reset: what was to be sent
/// would stay in the window of the connection, and a few such streams would fill it. Such a connection is
/// given up; calls that are on it end there, new ones get a new one.
struct HeldStream {
    connection: Connection,
    pipeline: Arc<Pipeline>,
    /// The peer has ended the stream, and wants nothing more of it.
    ended: bool,
}

impl HeldStream {
    fn note(&mut self, answer: &Result<wire::StreamedAppend, Status>) {
        use wire::streamed_append::Outcome;
        match answer {
            Ok(wire::StreamedAppend { outcome: Some(Outcome::Matched(_)) }) => {
                self.connection.note_answered();
            }
            _ => self.ended = true,
        }
    }
}

impl Drop for HeldStream {
    fn drop(&mut self) {
        if !self.ended && !self.pipeline.is_idle() {
            self.connection.retire();
        }
    }
}

struct GrpcLink {
    route: Arc<Route>,
}

impl Link for GrpcLink {
    fn is_deserted(&self, patience: Duration) -> BoxFuture<'static, bool> {
        let target = Arc::clone(&self.route.target);
        async move { timeout(patience, is_deserted(&target)).await.unwrap_or(false) }.boxed()
    }

    fn append(
        &self,
        request: AppendRequest,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<AppendResponse, LinkError>> {
        Arc::clone(&self.route).append(request, deadline).boxed()
    }

    fn append_stream(
        &self,
        requests: BoxStream<'static, AppendRequest>,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<AppendResult, LinkError>>, LinkError>>
    {
        Arc::clone(&self.route).append_stream(requests, deadline).boxed()
    }

    fn vote(
        &self,
        request: VoteRequest,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<VoteResponse, LinkError>> {
        let (route, message) = (Arc::clone(&self.route), messages::wire_vote_request(&request));
        route.call(Lane::Control, message, deadline, rpc!(vote), messages::voted).boxed()
    }

    fn pre_vote(
        &self,
        request: VoteRequest,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<VoteResponse, LinkError>> {
        let (route, message) = (Arc::clone(&self.route), messages::wire_vote_request(&request));
        route.call(Lane::Control, message, deadline, rpc!(pre_vote), messages::voted).boxed()
    }

    fn transfer_leader(
        &self,
        request: TransferRequest,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<TransferResponse, LinkError>> {
        let (route, message) = (Arc::clone(&self.route), messages::wire_transfer(&request));
        let read = messages::transferred;
        route.call(Lane::Control, message, deadline, rpc!(transfer_leader), read).boxed()
    }

    fn snapshot(
        &self,
        header: SnapshotHeader,
        chunks: BoxStream<'static, io::Result<SnapshotChunk>>,
    ) -> BoxFuture<'static, Result<SnapshotResponse, LinkError>> {
        Arc::clone(&self.route).send_snapshot(header, chunks).boxed()
    }

    fn forward(
        &self,
        request: Forward,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Forwarded, LinkError>> {
        Arc::clone(&self.route).forward(request, deadline).boxed()
    }

    fn fetch_snapshot(&self) -> BoxFuture<'static, Result<FetchedSnapshot, LinkError>> {
        Arc::clone(&self.route).fetch_snapshot().boxed()
    }
}

/// What is known of a message whose call failed.
fn failure(peer: String, status: &Status) -> LinkError {
    if is_refusal(status) {
        return LinkError::Refused { peer, reason: status.message().to_owned() };
    }
    let reason = described(status);
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if let Some(SendError::NotSent(_)) = error.downcast_ref::<SendError>() {
            return LinkError::NotSent { peer, reason };
        }
        cause = error.source();
    }
    LinkError::Unknown { peer, reason }
}
