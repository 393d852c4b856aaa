//! Takes the connections of other masters.
//!
//! Keeps: what is not a peer costs little and harms nobody. A connection that fails to prove itself, or
//! sends what is no HTTP/2, is closed; the others do not notice.
//! Never: stops because of what arrives. Every bound has its answer: when too many handshakes are under
//! way the oldest is dropped, because an honest one takes milliseconds; when there are too many
//! connections the newest is.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::codegen::{Service, http};

use crate::driver::{Calls, Driver, Flush};
use crate::network::Inbound;
use crate::network::grpc::service::{Caller, PeerService};
use crate::network::grpc::tls::{Held, Tls, check_protocol};
use crate::network::grpc::{Identity, MESSAGE_BYTES_MAX};
use crate::network::wire::peer_server::PeerServer;
use crate::trust::Proof;

/// Peers have three connections each, and for a moment twice that when they reconnect.
const CONNECTIONS_MAX: usize = 256;
const HANDSHAKES_MAX: usize = 64;
const HANDSHAKE_WAIT_MAX: Duration = Duration::from_secs(5);

/// How long calls may go on after the server was told to stop, or their peer is not believed any more.
const GRACE: Duration = Duration::from_secs(1);

/// After an error of `accept`, mostly that there are no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_WAIT_MAX: Duration = Duration::from_secs(10);

/// Calls under way on one connection. A client keeps itself well below (`client.rs`).
const CALLS_MAX: u32 = 1024;

/// What one call, and one connection, may have sent that nobody has read yet. A call that is not read
/// stops at the first, so it takes several before a connection stands still.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;
const HEADER_BYTES_MAX: u32 = 16 << 10;

/// Calls given up before we looked at them. A client whose deadlines pass all at once gives up many;
/// they are peers, so this is no attack yet.
const GIVEN_UP_MAX: usize = 1024;

/// Serves peers until `shutdown`. Calls under way then have a moment to finish; streams end at once.
pub async fn serve(
    listener: TcpListener,
    us: Identity,
    tls: Arc<Tls>,
    inbound: Arc<dyn Inbound>,
    shutdown: impl Future<Output = ()> + Send,
) {
    let closing = CancellationToken::new();
    let tasks = TaskTracker::new();
    let service = PeerService { us, inbound, closing: closing.clone(), tasks: tasks.clone() };
    let service = PeerServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let mut handshakes = Handshakes::default();
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            Some(shaken) = handshakes.under_way.join_next() => {
                // Failed ones have been spoken of where they failed.
                let Ok(Some((stream, remote, held))) = shaken else { continue };
                if connections.len() >= CONNECTIONS_MAX {
                    tracing::warn!(%remote, max = CONNECTIONS_MAX, "too many peer connections");
                    continue;
                }
                let (service, tasks) = (service.clone(), tasks.clone());
                connections.spawn(converse(stream, remote, held, service, tasks, closing.clone()));
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, remote)) => handshakes.begin(stream, remote, &tls),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept peer connections");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    drop(listener);
    drop(handshakes);
    closing.cancel();
    tasks.close();
    let finished = async {
        while connections.join_next().await.is_some() {}
        tasks.wait().await;
    };
    if timeout(GRACE, finished).await.is_err() {
        // Dropped with their tasks; the peers see the connection close.
        connections.shutdown().await;
        let _ = timeout(GRACE, tasks.wait()).await;
    }
}

/// Connections that have not proved themselves yet.
#[derive(Default)]
struct Handshakes {
    under_way: JoinSet<Option<(TlsStream<TcpStream>, SocketAddr, Held)>>,
    oldest_first: VecDeque<AbortHandle>,
}

impl Handshakes {
    fn begin(&mut self, stream: TcpStream, remote: SocketAddr, tls: &Tls) {
        self.oldest_first.retain(|handshake| !handshake.is_finished());
        if self.oldest_first.len() >= HANDSHAKES_MAX
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            oldest.abort();
        }
        let held = tls.held();
        let acceptor = TlsAcceptor::from(held.server());
        let handshake = self.under_way.spawn(async move {
            match timeout(HANDSHAKE_WAIT_MAX, shake_hands(stream, acceptor)).await {
                Ok(Ok(stream)) => return Some((stream, remote, held)),
                Ok(Err(reason)) => tracing::debug!(%remote, reason, "peer connection refused"),
                Err(_) => tracing::debug!(%remote, "peer connection was slow to prove itself"),
            }
            None
        });
        self.oldest_first.push_back(handshake);
    }
}

async fn shake_hands(
    stream: TcpStream,
    acceptor: TlsAcceptor,
) -> Result<TlsStream<TcpStream>, String> {
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let stream = acceptor.accept(stream).await.map_err(|error| error.to_string())?;
    check_protocol(stream.get_ref().1.alpn_protocol())?;
    Ok(stream)
}

/// One connection, from its first request to its end.
async fn converse(
    stream: TlsStream<TcpStream>,
    remote: SocketAddr,
    mut held: Held,
    service: PeerServer<PeerService>,
    tasks: TaskTracker,
    closing: CancellationToken,
) {
    let proof = Proof::just_shown(stream.get_ref().1.peer_certificates());
    let certificates = Arc::clone(&proof.chain);
    let caller = Arc::new(Caller { remote, certificates, introduced: OnceLock::new() });
    let calls = Calls::default();
    let service = {
        let calls = calls.clone();
        service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(Arc::clone(&caller));
            let answered = service.clone().call(request);
            let call = calls.begin();
            let answer: Answer = Box::pin(async move {
                let answer = answered.await;
                drop(call);
                answer
            });
            answer
        })
    };
    let (stream, mut driver) = Driver::new(stream, Flush::ByOutlet);
    let connection = http2::Builder::new(Tracked(tasks))
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_WAIT_MAX)
        .max_concurrent_streams(CALLS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(HEADER_BYTES_MAX)
        .max_pending_accept_reset_streams(GIVEN_UP_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = poll_fn(|context| driver.poll(context, &calls, connection.as_mut())) => ended,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            driver.ring();
            poll_fn(|context| driver.poll(context, &calls, connection.as_mut())).await
        }
        () = held.until_client_disowned(&proof) => {
            tracing::info!(%remote, "peer connection closed: its CA is not believed any more");
            connection.as_mut().graceful_shutdown();
            driver.ring();
            let driven = poll_fn(|context| driver.poll(context, &calls, connection.as_mut()));
            match timeout(GRACE, driven).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%remote, %error, "peer connection ended");
    }
}

type Answer = std::pin::Pin<
    Box<dyn Future<Output = Result<http::Response<tonic::body::Body>, Infallible>> + Send>,
>;

/// Runs what belongs to connections where [`serve`] can wait for it.
#[derive(Clone)]
struct Tracked(TaskTracker);

impl<F> hyper::rt::Executor<F> for Tracked
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}
