//! The called side of the gRPC service: from the wire to [`Inbound`] and back.
//!
//! Keeps: nothing reaches `Inbound` that is not from a peer which said who it is, whose certificate does
//! not say otherwise, and which is admitted at this moment (a member removed while connected is not).
//! A refusal is marked as one (`REFUSED`), so that the caller can tell it from a connection that broke.
//! Never: interprets; a message that is malformed is refused before it reaches anyone.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use futures::StreamExt;
use futures::stream::BoxStream;
use rustls::pki_types::CertificateDer;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status, Streaming};

use crate::network::convert::Malformed;
use crate::network::grpc::tls::check_identity;
use crate::network::grpc::{Identity, PART_WAIT_MAX, PROTOCOL, REFUSED, messages};
use crate::network::wire::{self, peer_server::Peer, snapshot_part::Part};
use crate::network::{AppendRequest, Inbound, SnapshotChunk, SnapshotHeader};
use crate::types::{ClusterId, NodeId};

/// Who is at the other end of a connection. Comes with every request that arrives on it.
pub(super) struct Caller {
    pub(super) remote: SocketAddr,
    /// Verified by TLS.
    pub(super) certificates: Arc<[CertificateDer<'static>]>,
    /// What it said in `Hello`.
    pub(super) introduced: OnceLock<Identity>,
}

pub(super) struct PeerService {
    pub(super) us: Identity,
    pub(super) inbound: Arc<dyn Inbound>,
    /// The server stops: streams end, and calls that still wait are let go.
    pub(super) closing: CancellationToken,
    pub(super) tasks: TaskTracker,
}

impl PeerService {
    /// Lets the request through if its sender is who it may be.
    fn admitted<T>(&self, request: Request<T>) -> Result<T, Status> {
        let introduced = caller(&request)?.introduced.get().copied();
        let Some(from) = introduced else {
            return Err(refused("say hello first"));
        };
        self.inbound.admit(from.cluster, from.node).map_err(refused)?;
        Ok(request.into_inner())
    }

    /// Who calls, if it is who it says, wants us and is welcome.
    fn introduce(&self, caller: &Caller, hello: wire::HelloRequest) -> Result<Identity, String> {
        let from = Identity { cluster: ClusterId(hello.cluster), node: NodeId(hello.from) };
        let us = self.us;
        if hello.protocol < PROTOCOL {
            let theirs = hello.protocol;
            return Err(format!("it speaks version {theirs}, the oldest understood is {PROTOCOL}"));
        }
        check_identity(Some(&caller.certificates), from)?;
        self.inbound.admit(from.cluster, from.node)?;
        if from.cluster != us.cluster {
            return Err(format!("cluster {} is not this cluster ({})", from.cluster, us.cluster));
        }
        if hello.to != us.node.0 {
            let wanted = NodeId(hello.to);
            return Err(format!("node {} answers here, not node {wanted}", us.node));
        }
        if from.node == us.node || from.node.0 == 0 {
            return Err(format!("{} cannot be the id of another node", from.node));
        }
        let introduced = *caller.introduced.get_or_init(|| from);
        if introduced != from {
            return Err(format!("this connection is of node {}", introduced.node));
        }
        Ok(from)
    }

    /// What `work` comes to, unless the server closes first.
    async fn unless_closing<T>(&self, work: impl Future<Output = T>) -> Result<T, Status> {
        tokio::select! {
            biased;
            () = self.closing.cancelled() => Err(closing()),
            done = work => Ok(done),
        }
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    async fn hello(
        &self,
        request: Request<wire::HelloRequest>,
    ) -> Result<Response<wire::HelloResponse>, Status> {
        let caller = Arc::clone(caller(&request)?);
        match self.introduce(&caller, request.into_inner()) {
            Ok(from) => {
                self.inbound.greeted(from.node);
                tracing::debug!(remote = %caller.remote, node = %from.node, "peer said hello");
                Ok(Response::new(wire::HelloResponse {
                    cluster: self.us.cluster.0,
                    node: self.us.node.0,
                    protocol: PROTOCOL,
                }))
            }
            Err(reason) => {
                tracing::warn!(remote = %caller.remote, reason, "peer turned away");
                Err(refused(reason))
            }
        }
    }

    async fn append(
        &self,
        request: Request<wire::AppendRequest>,
    ) -> Result<Response<wire::AppendResponse>, Status> {
        let request = messages::append(self.admitted(request)?).map_err(malformed)?;
        let answer = self.unless_closing(self.inbound.append(request)).await?;
        Ok(Response::new(messages::wire_appended(answer.map_err(refused)?)))
    }

    type AppendStreamStream = BoxStream<'static, Result<wire::StreamedAppend, Status>>;

    async fn append_stream(
        &self,
        request: Request<Streaming<wire::AppendRequest>>,
    ) -> Result<Response<Self::AppendStreamStream>, Status> {
        let incoming = self.admitted(request)?;
        // Why the requests ended, where it was not that there are no more.
        let fault = Arc::new(OnceLock::new());
        let closing = self.closing.clone();
        let requests = appends(incoming, Arc::clone(&fault), closing.clone()).boxed();
        let answers = self
            .inbound
            .append_stream(requests)
            .map(|answer| answer.map(messages::wire_streamed).map_err(refused))
            .take_until(self.closing.clone().cancelled_owned());
        let last = futures::stream::once(async move {
            if closing.is_cancelled() { Some(self::closing()) } else { fault.get().cloned() }
        });
        let last = last.filter_map(|status| async { status.map(Err) });
        Ok(Response::new(answers.chain(last).boxed()))
    }

    async fn vote(
        &self,
        request: Request<wire::VoteRequest>,
    ) -> Result<Response<wire::VoteResponse>, Status> {
        let request = messages::vote_request(self.admitted(request)?).map_err(malformed)?;
        let answer = self.unless_closing(self.inbound.vote(request)).await?;
        Ok(Response::new(messages::wire_voted(&answer.map_err(refused)?)))
    }

    async fn pre_vote(
        &self,
        request: Request<wire::VoteRequest>,
    ) -> Result<Response<wire::VoteResponse>, Status> {
        let request = messages::vote_request(self.admitted(request)?).map_err(malformed)?;
        let answer = self.unless_closing(self.inbound.pre_vote(request)).await?;
        Ok(Response::new(messages::wire_voted(&answer.map_err(refused)?)))
    }

    async fn transfer_leader(
        &self,
        request: Request<wire::TransferRequest>,
    ) -> Result<Response<wire::TransferResponse>, Status> {
        let request = messages::transfer(self.admitted(request)?).map_err(malformed)?;
        let answer = self.unless_closing(self.inbound.transfer_leader(request)).await?;
        Ok(Response::new(messages::wire_transferred(&answer.map_err(refused)?)))
    }

    async fn send_snapshot(
        &self,
        request: Request<Streaming<wire::SnapshotPart>>,
    ) -> Result<Response<wire::SnapshotResponse>, Status> {
        let mut parts = self.admitted(request)?;
        let first = timeout(PART_WAIT_MAX, parts.message()).await;
        let first = first.map_err(|_| refused("the snapshot's header did not come in time"))??;
        let Some(Part::Header(header)) = first.and_then(|first| first.part) else {
            return Err(malformed(Malformed::missing("snapshot's header")));
        };
        let chunks = messages::chunks(parts).boxed();
        let installed = self.inbound.snapshot(messages::header(header), chunks);
        let answer = self.unless_closing(installed).await?.map_err(refused)?;
        Ok(Response::new(messages::wire_installed(&answer)))
    }

    type FetchSnapshotStream = ReceiverStream<Result<wire::SnapshotPart, Status>>;

    async fn fetch_snapshot(
        &self,
        request: Request<wire::FetchRequest>,
    ) -> Result<Response<Self::FetchSnapshotStream>, Status> {
        self.admitted(request)?;
        let fetched = self.unless_closing(self.inbound.fetch_snapshot()).await?;
        let (header, chunks) = fetched.map_err(refused)?;
        // A task of its own, because nothing runs here while the peer takes nothing: without it a peer
        // that stopped reading would keep the snapshot open for ever.
        let (parts, outgoing) = mpsc::channel(1);
        let closing = self.closing.clone();
        self.tasks.spawn(async move {
            let fed = feed(header, chunks, &parts);
            if closing.run_until_cancelled(fed).await.is_none() {
                let _ = parts.try_send(Err(self::closing()));
            }
        });
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }

    async fn forward(
        &self,
        request: Request<wire::ForwardRequest>,
    ) -> Result<Response<wire::ForwardResponse>, Status> {
        let request = messages::forward(self.admitted(request)?).map_err(malformed)?;
        let answer = self.unless_closing(self.inbound.forward(request)).await?;
        Ok(Response::new(messages::wire_forwarded(answer)))
    }
}

/// The requests of a stream, for as long as they are in order. What ends them early is left in `fault`:
/// the messages before it were carried out, so it is no refusal of the stream.
fn appends(
    incoming: Streaming<wire::AppendRequest>,
    fault: Arc<OnceLock<Status>>,
    closing: CancellationToken,
) -> impl futures::Stream<Item = AppendRequest> + Send + 'static {
    let requests = futures::stream::unfold((incoming, fault), |(mut incoming, fault)| async {
        let status = match incoming.message().await {
            Ok(Some(message)) => match messages::append(message) {
                Ok(request) => return Some((request, (incoming, fault))),
                Err(error) => Status::invalid_argument(error.to_string()),
            },
            Ok(None) => return None,
            Err(status) => status,
        };
        // Written once: the stream ends here.
        let _ = fault.set(status);
        None
    });
    requests.take_until(closing.cancelled_owned())
}

/// Hands over a snapshot part by part, until the end, an error, or a peer that takes no more.
async fn feed(
    header: SnapshotHeader,
    mut chunks: BoxStream<'static, io::Result<SnapshotChunk>>,
    parts: &mpsc::Sender<Result<wire::SnapshotPart, Status>>,
) {
    let hand_over =
        async |part| matches!(timeout(PART_WAIT_MAX, parts.send(part)).await, Ok(Ok(())));
    if !hand_over(Ok(messages::wire_header(header))).await {
        return;
    }
    while let Some(chunk) = chunks.next().await {
        let part = chunk.map(messages::wire_chunk);
        let failed = part.is_err();
        let part = part.map_err(|error| Status::internal(format!("read snapshot: {error}")));
        if !hand_over(part).await || failed {
            return;
        }
    }
    hand_over(Ok(messages::wire_end())).await;
}

fn caller<T>(request: &Request<T>) -> Result<&Arc<Caller>, Status> {
    request.extensions().get().ok_or_else(|| refused("the connection is unknown"))
}

/// We did nothing, and say so.
fn refused(reason: impl Into<String>) -> Status {
    let mut status = Status::failed_precondition(reason);
    status.metadata_mut().insert(REFUSED, MetadataValue::from_static("1"));
    status
}

#[expect(clippy::needless_pass_by_value, reason = "for use with map_err")]
fn malformed(error: Malformed) -> Status {
    refused(error.to_string())
}

fn closing() -> Status {
    Status::unavailable("the member is stopping")
}
