//! One connection to one peer: made when needed, kept, and made anew when it has broken.
//!
//! Keeps: at most one attempt at a time, in a task of its own, so that a caller with a short deadline does
//! not take the attempt with it when it gives up. After a failure the next attempt waits, longer each
//! time, and not at all once the peer has been heard from.
//! Never: hands out a connection on which the peer has not yet answered `Hello`. In TLS 1.3 a client
//! learns only with the first answer whether the server accepted it; waiting for that answer is what
//! makes "not sent" certain here and "refused" visible.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use rand::RngExt;
use rustls::pki_types::ServerName;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::codegen::{Service, http};

use crate::driver::{Calls, Driver, Flush};
use crate::network::grpc::tls::{Held, Tls, check_identity, check_protocol, node_name};
use crate::network::grpc::{Identity, MESSAGE_BYTES_MAX, PROTOCOL, REFUSED};
use crate::network::wire::{self, peer_client::PeerClient};
use crate::trust::Proof;

/// Everything up to and with the answer to `Hello`.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(3);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// A connection whose peer is silent is found out within the sum of these.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEP_ALIVE_WAIT_MAX: Duration = Duration::from_secs(5);

/// So many deadlines missed in a row, and the connection is given up before keep-alive does: after a
/// partition TCP may wait for seconds before it tries again, a new connection does not.
const MISSED_MAX: u32 = 4;

/// How long what is under way may go on when the peer is not believed any more.
const DISOWNED_FOR: Duration = Duration::from_secs(1);

/// What a peer may have under way towards us: per call, and in all.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
const HEADER_BYTES_MAX: u32 = 16 << 10;

/// Which of the connections to a peer. What is on one never waits for what is on another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// Heartbeats, votes, read barriers: small and urgent.
    Control,
    /// Entries, and whatever followers forward.
    Bulk,
    Snapshot,
}

/// Whom to reach, and as whom.
pub(super) struct Target {
    pub(super) us: Identity,
    pub(super) them: Identity,
    /// `host:port`, read and resolved anew for each attempt: the peer may move.
    pub(super) address: ArcSwap<String>,
    pub(super) tls: Arc<Tls>,
}

/// Why there is no connection. Nothing of any message was sent.
#[derive(Clone, Debug)]
pub(super) enum Unconnected {
    Failed(String),
    /// The peer is there and wants nothing of us.
    Refused(String),
}

pub(super) struct Slot {
    target: Arc<Target>,
    lane: Lane,
    state: Mutex<State>,
    /// The peer is alive: an attempt that waits need not.
    heard: Notify,
}

type Shaken = TlsStream<TcpStream>;

type Attempt = Shared<BoxFuture<'static, Result<Connection, Unconnected>>>;

enum State {
    Idle { failures: u32, not_before: Instant },
    Connecting(Attempt),
    Open(Connection),
}

impl Slot {
    pub(super) fn new(target: Arc<Target>, lane: Lane) -> Arc<Slot> {
        let state = Mutex::new(State::Idle { failures: 0, not_before: Instant::now() });
        Arc::new(Slot { target, lane, state, heard: Notify::new() })
    }

    /// The connection, once there is one. Whoever gives up waiting leaves the attempt to the others.
    pub(super) async fn connection(self: &Arc<Slot>) -> Result<Connection, Unconnected> {
        // The lock is given back at the end of the block, before anything is waited for.
        let attempt = 'attempt: {
            let mut state = self.state.lock();
            let (failures, not_before) = match &*state {
                State::Open(connection) if connection.is_usable() => return Ok(connection.clone()),
                State::Open(_) => (0, Instant::now()),
                State::Idle { failures, not_before } => (*failures, *not_before),
                State::Connecting(attempt) => break 'attempt attempt.clone(),
            };
            let task = tokio::spawn(Arc::clone(self).attempt(failures, not_before));
            let attempt = async {
                let stopped = |error| Unconnected::Failed(format!("the attempt stopped: {error}"));
                task.await.map_err(stopped).flatten()
            };
            let attempt = attempt.boxed().shared();
            *state = State::Connecting(attempt.clone());
            attempt
        };
        attempt.await
    }

    /// The peer has just contacted us, so it is there.
    pub(super) fn heard_from(&self) {
        if let State::Idle { failures, not_before } = &mut *self.state.lock() {
            *failures = 0;
            *not_before = Instant::now();
        }
        self.heard.notify_waiters();
    }

    async fn attempt(
        self: Arc<Slot>,
        failures: u32,
        not_before: Instant,
    ) -> Result<Connection, Unconnected> {
        tokio::select! {
            () = sleep_until(not_before) => {}
            () = self.heard.notified() => {}
        }
        let outcome = match timeout(CONNECT_WAIT_MAX, connect(&self.target, self.lane)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Unconnected::Failed(format!("not connected in {CONNECT_WAIT_MAX:?}"))),
        };
        let next = match &outcome {
            Ok(connection) => State::Open(connection.clone()),
            Err(error) => {
                tracing::debug!(
                    peer = %self.target.address.load(), lane = ?self.lane, failures, ?error,
                    "cannot connect to peer"
                );
                // A peer that refuses will hardly change its mind in milliseconds.
                let refused = matches!(error, Unconnected::Refused(_));
                let wait = if refused { BACKOFF_MAX } else { backoff(failures) };
                let failures = failures.saturating_add(1);
                State::Idle { failures, not_before: Instant::now() + wait }
            }
        };
        *self.state.lock() = next;
        outcome
    }
}

/// Doubles with each failure, up to a bound. Half of it is chance, so that masters which lost one another
/// at the same moment do not meet again at the same moment.
fn backoff(failures: u32) -> Duration {
    let longest = BACKOFF_MIN.saturating_mul(1 << failures.min(8)).min(BACKOFF_MAX);
    longest.mul_f64(rand::rng().random_range(0.5..=1.0)).max(BACKOFF_MIN)
}

async fn connect(target: &Target, lane: Lane) -> Result<Connection, Unconnected> {
    let (stream, to, mut held) = dial(target).await.map_err(Unconnected::Failed)?;
    let proof = Proof::just_shown(stream.get_ref().1.peer_certificates());
    let name = called(target).map_err(Unconnected::Failed)?;
    let calls = Calls::default();
    let (stream, driver) = Driver::new(stream, Flush::ByOutlet);
    let driven = Driven { driver: Arc::new(Mutex::new(Some(driver))), calls: calls.clone() };
    let (sender, requests) = http2::Builder::new(driven)
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_WAIT_MAX)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(HEADER_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| Unconnected::Failed(described(&error)))?;
    let retired = Arc::new(AtomicBool::new(false));
    let disowned = {
        let retired = Arc::clone(&retired);
        async move {
            held.until_server_disowned(&proof, &name).await;
            tracing::info!(peer = %to, ?lane, "the peer's CA is not believed any more");
            retired.store(true, Ordering::Relaxed);
            tokio::time::sleep(DISOWNED_FOR).await;
        }
    };
    let driver = tokio::spawn(async move {
        let ended = tokio::select! {
            ended = requests => ended,
            () = disowned => return,
        };
        if let Err(error) = ended {
            tracing::debug!(peer = %to, ?lane, error = described(&error), "peer connection lost");
        }
    });
    let origin = format!("https://{}", node_name(target.them));
    let origin = http::Uri::try_from(origin).expect("a node name is made of letters and digits");
    let health = Arc::new(Health {
        missed: AtomicU32::new(0),
        retired,
        driver: AbortOnDropHandle::new(driver),
    });
    let connection = Connection { sender, origin, health, calls };
    greet(&connection, target).await?;
    tracing::debug!(peer = %to, ?lane, "connected to peer");
    Ok(connection)
}

/// Runs what belongs to a connection. What comes first is the connection itself: where its protocol is spoken
/// and its bytes are moved. Everything after that is bodies on their way to it.
#[derive(Clone)]
struct Driven {
    driver: Arc<Mutex<Option<Driver<Shaken>>>>,
    calls: Calls,
}

impl<F> hyper::rt::Executor<F> for Driven
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        let Some(mut driver) = self.driver.lock().take() else {
            tokio::spawn(task);
            return;
        };
        let calls = self.calls.clone();
        tokio::spawn(async move {
            let mut connection = pin!(task.map(Ok::<(), Infallible>));
            let driven = poll_fn(|context| driver.poll(context, &calls, connection.as_mut())).await;
            if let Err(error) = driven {
                tracing::debug!(error, "a peer connection takes nothing any more");
            }
        });
    }
}

/// TCP and TLS, to whichever of the peer's addresses answers first in their order.
async fn dial(target: &Target) -> Result<(Shaken, std::net::SocketAddr, Held), String> {
    let expiry = Instant::now() + CONNECT_WAIT_MAX;
    let address = target.address.load_full();
    let found =
        lookup_host(&*address).await.map_err(|error| format!("resolve {address}: {error}"))?;
    let found: Vec<_> = found.collect();
    let mut reason = format!("{address} has no address");
    for (tried, to) in found.iter().enumerate() {
        // An address that swallows packets must not use up the time of those after it.
        let left = expiry.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(found.len() - tried).unwrap_or(u32::MAX);
        match timeout_at(Instant::now() + share, dial_one(target, *to)).await {
            Ok(Ok((stream, held))) => return Ok((stream, *to, held)),
            Ok(Err(error)) => reason = format!("{to}: {error}"),
            Err(_) => reason = format!("{to}: no answer in {share:?}"),
        }
    }
    Err(reason)
}

async fn dial_one(target: &Target, to: std::net::SocketAddr) -> Result<(Shaken, Held), String> {
    let stream = TcpStream::connect(to).await.map_err(|error| error.to_string())?;
    // Heartbeats are small; waiting to fill a packet would delay every one of them.
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let held = target.tls.held();
    let stream = TlsConnector::from(held.client())
        .connect(called(target)?, stream)
        .await
        .map_err(|error| format!("TLS: {error}"))?;
    let (_, session) = stream.get_ref();
    check_protocol(session.alpn_protocol())?;
    check_identity(session.peer_certificates(), target.them)?;
    Ok((stream, held))
}

fn called(target: &Target) -> Result<ServerName<'static>, String> {
    ServerName::try_from(node_name(target.them)).map_err(|error| error.to_string())
}

/// Whether all of the peer's addresses answer that nobody listens. Nothing is said on a connection that
/// is made. One that is closed all the same was taken by something that stands before the peer, and did
/// not find it.
pub(super) async fn is_deserted(target: &Target) -> bool {
    let address = target.address.load_full();
    let Ok(found) = lookup_host(&*address).await else { return false };
    let mut refused = 0;
    for to in found {
        let closed = match TcpStream::connect(to).await {
            Ok(mut stream) => stream.read_u8().await.map(drop),
            Err(error) => Err(error),
        };
        use std::io::ErrorKind::{ConnectionRefused, ConnectionReset, UnexpectedEof};
        match closed.map_err(|error| error.kind()) {
            Err(ConnectionRefused | ConnectionReset | UnexpectedEof) => refused += 1,
            _ => return false,
        }
    }
    refused > 0
}

/// Says who we are and hears who they are. Only then is the connection one.
async fn greet(connection: &Connection, target: &Target) -> Result<(), Unconnected> {
    let hello = wire::HelloRequest {
        cluster: target.us.cluster.0,
        from: target.us.node.0,
        to: target.them.node.0,
        protocol: PROTOCOL,
    };
    let answer = connection.client().hello(hello).await.map_err(|status| {
        if is_refusal(&status) {
            Unconnected::Refused(status.message().to_owned())
        } else {
            Unconnected::Failed(described(&status))
        }
    })?;
    let answer = answer.into_inner();
    let (cluster, node) = (target.them.cluster.0, target.them.node.0);
    if (answer.cluster, answer.node) != (cluster, node) {
        return Err(Unconnected::Refused(format!(
            "node {:x} of cluster {:x} answers there, not node {node:x} of cluster {cluster:x}",
            answer.node, answer.cluster
        )));
    }
    Ok(())
}

/// A connection on which messages can be sent. Cloned for each of them; closed when the last clone goes.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    sender: http2::SendRequest<tonic::body::Body>,
    origin: http::Uri,
    health: Arc<Health>,
    calls: Calls,
}

#[derive(Debug)]
struct Health {
    /// Deadlines missed since the last answer.
    missed: AtomicU32,
    /// Given up: good for what is on it, not for anything new.
    retired: Arc<AtomicBool>,
    /// Moves the bytes. The socket is closed with it.
    #[expect(dead_code, reason = "it works by being dropped")]
    driver: AbortOnDropHandle<()>,
}

impl Connection {
    pub(super) fn client(&self) -> PeerClient<Connection> {
        PeerClient::with_origin(self.clone(), self.origin.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// A deadline passed without an answer.
    pub(super) fn note_missed(&self) {
        self.health.missed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn note_answered(&self) {
        self.health.missed.store(0, Ordering::Relaxed);
    }

    /// Nothing new is sent on it.
    pub(super) fn retire(&self) {
        self.health.retired.store(true, Ordering::Relaxed);
    }

    fn is_usable(&self) -> bool {
        !self.sender.is_closed()
            && !self.health.retired.load(Ordering::Relaxed)
            && self.health.missed.load(Ordering::Relaxed) < MISSED_MAX
    }
}

/// Why a call failed below gRPC, in the terms that matter here.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    /// The connection gave the message back.
    #[error("{0}")]
    NotSent(String),
    #[error("{0}")]
    Lost(String),
}

impl Service<http::Request<tonic::body::Body>> for Connection {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = SendError;
    type Future = BoxFuture<'static, Result<Self::Response, SendError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        // A closed connection says so in `call`, where it is known that nothing was sent.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let call = self.calls.begin();
        let sent = self.sender.try_send_request(request);
        async move {
            let answered = sent.await;
            drop(call);
            answered.map_err(|mut error| {
                let given_back = error.take_message().is_some();
                let reason = described(error.error());
                if given_back { SendError::NotSent(reason) } else { SendError::Lost(reason) }
            })
        }
        .boxed()
    }
}

/// Whether the peer itself says that it did nothing.
pub(super) fn is_refusal(status: &tonic::Status) -> bool {
    status.metadata().contains_key(REFUSED)
}

/// An error with its causes. The outermost one mostly says no more than that there is one.
pub(super) fn described(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
