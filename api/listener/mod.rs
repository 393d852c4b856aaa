//! Takes TLS connections and hands their requests to a router; every port of a front is one of these.
//!
//! Keeps: each request carries a [`Peer`]: where it comes from and which certificates its sender has
//! proved to own. Certificates and trusted CAs can be swapped while connections stand ([`TlsSource`]); a
//! connection whose client is not believed any more ends within [`Limits::grace`].
//! Keeps: what arrives is bounded before it is trusted: handshakes, connections, headers, streams. Of too
//! many handshakes the oldest is dropped, because an honest one takes milliseconds; of too many
//! connections the newest is refused.
//! Never: speaks plain text, or stops because of what a client sends.

mod connection;
mod frames;
mod tls;

#[cfg(test)]
mod tests;

pub use tls::{Clients, TlsConfig, TlsError, TlsSource};

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use tls::Held;

/// Who sent a request: an extension of each.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The certificate chain, leaf first, verified by the port's CAs. Empty where none was shown.
    pub certificates: Arc<[CertificateDer<'static>]>,
    pub address: SocketAddr,
}

/// How much a port takes at a time.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Beyond it a new connection is closed at once.
    pub connections_max: usize,
    /// Beyond it the oldest handshake that is under way is given up.
    pub handshakes_max: usize,
    pub handshake_wait_max: Duration,
    /// How long a client may take for the headers of a request, and an HTTP/1 connection may lie idle.
    pub header_wait_max: Duration,
    /// Requests under way on one HTTP/2 connection. A client multiplexes all its watches on one.
    pub streams_max: u32,
    /// How long requests may go on after the port was told to close, or their client is not believed any
    /// more.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_max: 10_000,
            handshakes_max: 256,
            handshake_wait_max: Duration::from_secs(10),
            header_wait_max: Duration::from_secs(32),
            streams_max: 2000,
            grace: Duration::from_secs(5),
        }
    }
}

/// Why a port can't be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct Error {
    pub address: SocketAddr,
    #[source]
    pub source: std::io::Error,
}

/// After an error of `accept`, mostly that there are no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A port that is bound and not yet served. Connections wait in its backlog.
pub struct Listener {
    listener: TcpListener,
    tls: Arc<TlsSource>,
    limits: Limits,
}

impl Listener {
    /// Takes `address`; port 0 takes a free one.
    pub async fn bind(address: SocketAddr, tls: Arc<TlsSource>) -> Result<Listener, Error> {
        let failed = |source| Error { address, source };
        Listener::adopt(TcpListener::bind(address).await.map_err(failed)?, tls).map_err(failed)
    }

    /// Serves a port that was bound before its certificates were there.
    pub fn adopt(listener: TcpListener, tls: Arc<TlsSource>) -> std::io::Result<Listener> {
        listener.local_addr()?;
        Ok(Listener { listener, tls, limits: Limits::default() })
    }

    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Listener {
        Listener { limits, ..self }
    }

    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr().expect("asked for once already, when it was bound")
    }

    /// Serves until `shutdown`. Then no connection is taken any more, clients are told to go elsewhere,
    /// and requests under way have [`Limits::grace`] to finish.
    pub async fn serve(self, router: axum::Router, shutdown: CancellationToken) {
        let Listener { listener, tls, limits } = self;
        let tasks = TaskTracker::new();
        let mut handshakes = Handshakes::default();
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(_) = connections.join_next() => {}
                Some(shaken) = handshakes.under_way.join_next() => {
                    // Failed ones have been spoken of where they failed.
                    let Ok(Some(shaken)) = shaken else { continue };
                    if connections.len() >= limits.connections_max {
                        let (address, max) = (shaken.address, limits.connections_max);
                        tracing::warn!(%address, max, "too many connections, one is refused");
                        continue;
                    }
                    connections.spawn(connection::converse(
                        shaken,
                        router.clone(),
                        limits,
                        tasks.clone(),
                        shutdown.clone(),
                    ));
                }
                accepted = listener.accept() => match accepted {
                    Ok((stream, address)) => handshakes.begin(stream, address, &tls, limits),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept connections");
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
        drop(listener);
        drop(handshakes);
        tasks.close();
        let finished = async {
            while connections.join_next().await.is_some() {}
            tasks.wait().await;
        };
        if timeout(limits.grace, finished).await.is_err() {
            connections.shutdown().await;
        }
    }
}

/// A connection whose client has proved what it is.
struct Shaken {
    stream: TlsStream<TcpStream>,
    address: SocketAddr,
    held: Held,
}

/// Connections that are not connections yet.
#[derive(Default)]
struct Handshakes {
    under_way: JoinSet<Option<Shaken>>,
    oldest_first: VecDeque<AbortHandle>,
}

impl Handshakes {
    fn begin(&mut self, stream: TcpStream, address: SocketAddr, tls: &TlsSource, limits: Limits) {
        self.oldest_first.retain(|handshake| !handshake.is_finished());
        if self.oldest_first.len() >= limits.handshakes_max
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            oldest.abort();
        }
        let held = tls.held();
        let acceptor = TlsAcceptor::from(Arc::clone(&held.server));
        let handshake = self.under_way.spawn(async move {
            match timeout(limits.handshake_wait_max, shake_hands(stream, acceptor)).await {
                Ok(Ok(stream)) => return Some(Shaken { stream, address, held }),
                Ok(Err(reason)) => tracing::debug!(%address, %reason, "connection refused"),
                Err(_) => tracing::debug!(%address, "connection was slow to prove itself"),
            }
            None
        });
        self.oldest_first.push_back(handshake);
    }
}

async fn shake_hands(
    stream: TcpStream,
    acceptor: TlsAcceptor,
) -> std::io::Result<TlsStream<TcpStream>> {
    stream.set_nodelay(true)?;
    acceptor.accept(stream).await
}
