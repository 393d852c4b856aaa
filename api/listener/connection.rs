//! One connection, from its handshake to its end.
//!
//! What it has to say goes out once for each turn in which it is driven ([`kontiki_raft::driver`]).
//!
//! Keeps: a connection that has proved itself and then says nothing is closed after
//! [`Limits::header_wait_max`]; after its first request an HTTP/2 connection may rest for as long as it
//! answers pings, because watches are quiet. One whose client is not believed any more takes no request, and
//! is closed after [`Limits::grace`]; handed on to somebody, as for a shell, it is cut at once.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use kontiki_raft::driver::{Call, Calls, Driver, Flush};
use kontiki_raft::trust::Proof;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::frames::Full;
use super::{Limits, Peer, Shaken};

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
    shaken: Shaken,
    router: axum::Router,
    limits: Limits,
    tasks: TaskTracker,
    shutdown: CancellationToken,
) {
    let Shaken { stream, address, mut held } = shaken;
    let session = stream.get_ref().1;
    let proof = Proof::just_shown(session.peer_certificates());
    let http2 = session.alpn_protocol() == Some(b"h2");
    let peer = Peer { certificates: Arc::clone(&proof.chain), address };
    let spoken = Arc::new(AtomicBool::new(false));
    let calls = Calls::default();

    let service = {
        let (spoken, calls) = (Arc::clone(&spoken), calls.clone());
        service_fn(move |mut request: http::Request<Incoming>| {
            spoken.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(peer.clone());
            // Its body is what a request is under way for longest.
            let one = calls.begin();
            let answered = router.clone().oneshot(request.map(axum::body::Body::new));
            let answer: Answer = Box::pin(async move {
                let answer = answered.await?;
                Ok(answer.map(|body| Full { body, _kept: one }))
            });
            answer
        })
    };
    // What was agreed on in the handshake decides: nothing has to be read to find out, so nobody can
    // stop in the middle of it.
    let builder = builder(limits, tasks);
    let builder = if http2 { builder.http2_only() } else { builder.http1_only() };
    // An HTTP/1 connection may be handed on, to somebody who is not driven from here.
    let flush = if http2 { Flush::ByOutlet } else { Flush::ByWriter };
    let (stream, mut driver) = Driver::new(stream, flush);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut connection = Box::pin(connection);

    let silence = tokio::time::sleep(limits.header_wait_max);
    tokio::pin!(silence);
    let mut listening = true;
    let (mut closing, mut disowned) = (false, false);
    let cut = tokio::time::sleep(Duration::MAX);
    tokio::pin!(cut);
    let ended = loop {
        let driven = poll_fn(|context| driver.poll(context, &calls, connection.as_mut()));
        tokio::select! {
            ended = driven => break ended,
            () = &mut silence, if listening => {
                if !spoken.load(Ordering::Relaxed) {
                    tracing::debug!(%address, "connection sent no request");
                    return;
                }
                listening = false;
            }
            () = held.until_disowned(&proof), if !disowned => {
                tracing::info!(%address, "a connection is closed: its CA is not believed any more");
                connection.as_mut().graceful_shutdown();
                driver.ring();
                cut.as_mut().reset(Instant::now() + limits.grace);
                (closing, disowned) = (true, true);
            }
            () = &mut cut, if disowned => return,
            () = shutdown.cancelled(), if !closing => {
                connection.as_mut().graceful_shutdown();
                driver.ring();
                closing = true;
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%address, ?error, "connection ended");
    }
    drop(connection);
    let mut outlet = driver.into_outlet();
    // Handed on to somebody else, it is still of the client that proved itself here.
    let distrusted = async {
        if !disowned {
            held.until_disowned(&proof).await;
        }
    };
    tokio::select! {
        biased;
        () = outlet.let_go() => return,
        () = shutdown.cancelled() => return,
        () = distrusted => {}
    }
    tracing::info!(%address, "a stream is cut: its CA is not believed any more");
    outlet.cut();
}

type Answer =
    Pin<Box<dyn Future<Output = Result<http::Response<Full<Call>>, Infallible>> + Send + 'static>>;

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
