//! One connection, from its handshake to its end.
//!
//! Keeps: a connection that has proved itself and then says nothing is closed after
//! [`Limits::header_wait_max`]; after its first request an HTTP/2 connection may rest for as long as it
//! answers pings, because watches are quiet.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::TryFutureExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::frames::Full;
use super::{Limits, Peer};

const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_WAIT_MAX: Duration = Duration::from_secs(20);
/// Of one request. The largest honest ones carry tokens and long selectors.
const HEADER_BYTES_MAX: u32 = 256 << 10;
/// Requests given up before we looked at them, which a client in a hurry does and an attacker too.
const GIVEN_UP_MAX: usize = 512;
/// What may come on one stream, and on all of a connection, before it has been read. Fixed, and far apart: a
/// stream that nobody reads from must not stop the others, and an agent has many.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;
/// Of one stream, until the client has made room for it.
const SEND_BYTES_MAX: usize = 1 << 20;

pub(super) async fn converse(
    stream: TlsStream<TcpStream>,
    address: SocketAddr,
    router: axum::Router,
    limits: Limits,
    tasks: TaskTracker,
    shutdown: CancellationToken,
) {
    let session = stream.get_ref().1;
    let certificates = session.peer_certificates().unwrap_or_default();
    let certificates = certificates.iter().map(|given| given.clone().into_owned()).collect();
    let http2 = session.alpn_protocol() == Some(b"h2");
    let peer = Peer { certificates, address };
    let spoken = Arc::new(AtomicBool::new(false));

    let service = {
        let spoken = Arc::clone(&spoken);
        service_fn(move |mut request: http::Request<Incoming>| {
            spoken.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(peer.clone());
            let answered = router.clone().oneshot(request.map(axum::body::Body::new));
            let answer: Answer = Box::pin(answered.map_ok(|answer| answer.map(Full)));
            answer
        })
    };
    // What was agreed on in the handshake decides: nothing has to be read to find out, so nobody can
    // stop in the middle of it.
    let builder = builder(limits, tasks);
    let builder = if http2 { builder.http2_only() } else { builder.http1_only() };
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);

    let silence = tokio::time::sleep(limits.header_wait_max);
    tokio::pin!(silence);
    let mut listening = true;
    let mut closing = false;
    let ended = loop {
        tokio::select! {
            ended = &mut connection => break ended,
            () = &mut silence, if listening => {
                if !spoken.load(Ordering::Relaxed) {
                    tracing::debug!(%address, "connection sent no request");
                    return;
                }
                listening = false;
            }
            () = shutdown.cancelled(), if !closing => {
                connection.as_mut().graceful_shutdown();
                closing = true;
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%address, ?error, "connection ended");
    }
}

type Answer =
    Pin<Box<dyn Future<Output = Result<http::Response<Full>, Infallible>> + Send + 'static>>;

fn builder(limits: Limits, tasks: TaskTracker) -> auto::Builder<Tracked> {
    let mut builder = auto::Builder::new(Tracked(tasks));
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_wait_max)
        .max_buf_size(HEADER_BYTES_MAX as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_WAIT_MAX)
        .max_concurrent_streams(limits.streams_max)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(HEADER_BYTES_MAX)
        .max_send_buf_size(SEND_BYTES_MAX)
        .max_pending_accept_reset_streams(GIVEN_UP_MAX);
    builder
}

/// Runs what belongs to connections where the port can wait for it.
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
