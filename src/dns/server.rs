//! Takes questions over UDP and TCP, and sends the answers back.
//!
//! Keeps: what is ours is answered in the loop that received it; what is others' by a task of its own, whose
//! number the resolver bounds. [`CONNECTIONS_MAX`] connections at a time; one that says nothing for
//! [`IDLE`], or does not take its answer, is closed.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::message::{Received, STREAM_MAX, datagram_max, encode, receive};
use super::resolver::{Begun, Resolver};

const CONNECTIONS_MAX: usize = 128;
const IDLE: Duration = Duration::from_secs(10);
/// Longest question that is looked at; real ones have a few hundred bytes.
const QUESTION_MAX: usize = 4096;
/// After an error of a socket, so that a broken one is not asked without end.
const PAUSE: Duration = Duration::from_millis(100);

/// A server's two sockets.
pub struct Sockets {
    pub datagrams: Arc<UdpSocket>,
    pub connections: TcpListener,
}

impl Sockets {
    /// Takes the port for both. Port 0 takes one that is free for both.
    pub async fn bind(address: SocketAddr) -> io::Result<Sockets> {
        let connections = TcpListener::bind(address).await?;
        let datagrams = Arc::new(UdpSocket::bind(connections.local_addr()?).await?);
        Ok(Sockets { datagrams, connections })
    }

    pub fn address(&self) -> io::Result<SocketAddr> {
        self.connections.local_addr()
    }
}

/// Answers until `stop`.
pub async fn serve(sockets: Sockets, resolver: Arc<Resolver>, stop: CancellationToken) {
    tokio::join!(
        datagrams(&sockets.datagrams, &resolver, &stop),
        connections(&sockets.connections, &resolver, &stop),
    );
}

async fn datagrams(socket: &Arc<UdpSocket>, resolver: &Arc<Resolver>, stop: &CancellationToken) {
    let mut waiting = JoinSet::new();
    let mut buffer = vec![0; QUESTION_MAX];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            Some(_) = waiting.join_next(), if !waiting.is_empty() => continue,
            () = stop.cancelled() => break,
        };
        let (count, asker) = match received {
            Ok(it) => it,
            Err(error) => {
                tracing::debug!(%error, "a question was not received");
                sleep(PAUSE).await;
                continue;
            }
        };
        let (answer, most) = match receive(&buffer[..count]) {
            Received::Noise => continue,
            Received::Refused(answer) => (*answer, super::message::DATAGRAM_MAX),
            Received::Question(question) => {
                let most = datagram_max(&question);
                match resolver.begin(&question) {
                    Begun::Done(answer) => (answer, most),
                    Begun::Elsewhere(rest) => {
                        let (socket, resolver) = (socket.clone(), resolver.clone());
                        waiting.spawn(async move {
                            let answer = resolver.finish(rest).await;
                            send(&socket, encode(answer, most), asker).await;
                        });
                        continue;
                    }
                }
            }
        };
        send(socket, encode(answer, most), asker).await;
    }
    waiting.shutdown().await;
}

async fn send(socket: &UdpSocket, answer: Option<Vec<u8>>, asker: SocketAddr) {
    let Some(bytes) = answer else { return };
    if let Err(error) = socket.send_to(&bytes, asker).await {
        tracing::debug!(%asker, %error, "an answer was not sent");
    }
}

async fn connections(listener: &TcpListener, resolver: &Arc<Resolver>, stop: &CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut open = JoinSet::new();
    loop {
        let accept = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            accepted = accept => accepted,
            Some(_) = open.join_next(), if !open.is_empty() => continue,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let resolver = resolver.clone();
                open.spawn(async move {
                    let _place = place;
                    // How a connection ends is its client's affair.
                    let _ = converse(stream, &resolver).await;
                });
            }
            Err(error) => {
                tracing::debug!(%error, "a connection was not taken");
                sleep(PAUSE).await;
            }
        }
    }
    open.shutdown().await;
}

/// One question after the other.
async fn converse(mut stream: TcpStream, resolver: &Resolver) -> io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let question = timeout(IDLE, async {
            let length = usize::from(stream.read_u16().await?);
            if length > QUESTION_MAX {
                return Err(io::Error::other("too long for a question"));
            }
            let mut bytes = vec![0; length];
            stream.read_exact(&mut bytes).await?;
            Ok(bytes)
        });
        let answer = match receive(&question.await??) {
            Received::Noise => return Ok(()),
            Received::Refused(answer) => *answer,
            Received::Question(question) => match resolver.begin(&question) {
                Begun::Done(answer) => answer,
                Begun::Elsewhere(rest) => resolver.finish(rest).await,
            },
        };
        let Some(bytes) = encode(answer, STREAM_MAX) else { return Ok(()) };
        let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        let whole = [&length.to_be_bytes(), bytes.as_slice()].concat();
        timeout(IDLE, stream.write_all(&whole)).await??;
    }
}
