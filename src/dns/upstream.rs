//! Asks others for names that are not the cluster's: the servers that the machine itself asks.
//!
//! Keeps: one question is one datagram from a fresh port with a fresh id, and an answer that is not to it
//! is not looked at; a long answer is fetched over TCP. Each server has [`PATIENCE`], [`SERVERS_MAX`] are
//! asked, and the one that answered last is asked first.
//! Never: asks us.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout};

use super::cache::Question;
use super::message::DATAGRAM_MAX;

/// A server may take; resolvers of pods give up after five seconds.
const PATIENCE: Duration = Duration::from_millis(1500);
/// As resolvers do.
const SERVERS_MAX: usize = 3;
/// How often it is looked whether the machine asks others now.
const LOOK: Duration = Duration::from_secs(5);
const PORT: u16 = 53;

/// Who is asked.
#[derive(Clone, Debug)]
pub enum Servers {
    /// Those of a `resolv.conf`, as it is now.
    File(PathBuf),
    These(Vec<SocketAddr>),
}

pub struct Upstream {
    servers: Servers,
    /// Ourselves.
    own: Vec<SocketAddr>,
    read: Mutex<Read>,
    first: AtomicUsize,
}

/// A file as it was read.
#[derive(Default)]
struct Read {
    at: Option<Instant>,
    servers: Vec<SocketAddr>,
}

impl Upstream {
    #[must_use]
    pub fn new(servers: Servers, own: Vec<SocketAddr>) -> Upstream {
        Upstream { servers, own, read: Mutex::default(), first: AtomicUsize::new(0) }
    }

    /// The answer of the first that has one, with its length; `None` if nobody has.
    pub async fn ask(&self, question: &Question) -> Option<(Message, usize)> {
        let mut servers = self.servers();
        servers.retain(|it| !self.own.contains(it));
        servers.truncate(SERVERS_MAX);
        let first = self.first.load(Ordering::Relaxed);
        let mut refused = None;
        for turn in 0..servers.len() {
            let number = (first + turn) % servers.len();
            match timeout(PATIENCE, exchange(servers[number], question)).await {
                Ok(Ok((answer, bytes))) => {
                    use ResponseCode::{NXDomain, NoError};
                    if matches!(answer.metadata.response_code, NoError | NXDomain) {
                        self.first.store(number, Ordering::Relaxed);
                        return Some((answer, bytes));
                    }
                    refused = Some((answer, bytes));
                }
                Ok(Err(error)) => {
                    tracing::debug!(server = %servers[number], %error, "no answer to a name");
                }
                Err(_) => tracing::debug!(server = %servers[number], "no answer to a name in time"),
            }
        }
        refused
    }

    fn servers(&self) -> Vec<SocketAddr> {
        let path = match &self.servers {
            Servers::These(servers) => return servers.clone(),
            Servers::File(path) => path,
        };
        let mut read = self.read.lock();
        let now = Instant::now();
        if read.at.is_none_or(|at| now - at >= LOOK) {
            read.at = Some(now);
            read.servers = named(&std::fs::read_to_string(path).unwrap_or_default());
        }
        read.servers.clone()
    }
}

/// The servers that a `resolv.conf` names.
fn named(text: &str) -> Vec<SocketAddr> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == "nameserver").then(|| words.next())?
    });
    // A scope (`fe80::1%eth0`) needs more than an address; such a server is left out.
    lines.filter_map(|it| Some(SocketAddr::new(it.parse().ok()?, PORT))).collect()
}

async fn exchange(server: SocketAddr, question: &Question) -> io::Result<(Message, usize)> {
    let (asked, bytes) = written(question)?;
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(&bytes).await?;
    // Others than we may want more than we have asked for.
    let mut buffer = vec![0; 4096];
    let answer = loop {
        let count = socket.recv(&mut buffer).await?;
        if let Some(answer) = answer_to(&asked, &buffer[..count]) {
            break (answer, count);
        }
    };
    if answer.0.metadata.truncation { whole(server, &asked, &bytes).await } else { Ok(answer) }
}

/// The same over TCP.
async fn whole(server: SocketAddr, asked: &Message, bytes: &[u8]) -> io::Result<(Message, usize)> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
    let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut buffer).await?;
    let answer = answer_to(asked, &buffer);
    answer.map(|it| (it, buffer.len())).ok_or_else(|| io::Error::other("not an answer to this"))
}

fn written(question: &Question) -> io::Result<(Message, Vec<u8>)> {
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.metadata.checking_disabled = question.unchecked;
    message.add_query(Query::query(question.name.clone(), question.wanted));
    let mut edns = Edns::new();
    edns.set_max_payload(DATAGRAM_MAX);
    edns.set_dnssec_ok(question.signed);
    message.edns = Some(edns);
    let bytes = message.to_vec().map_err(io::Error::other)?;
    Ok((message, bytes))
}

/// The message in `bytes`, if it answers what was asked.
fn answer_to(asked: &Message, bytes: &[u8]) -> Option<Message> {
    let answer = Message::from_vec(bytes).ok()?;
    let ours = answer.metadata.message_type == MessageType::Response
        && answer.metadata.id == asked.metadata.id
        && answer.queries == asked.queries;
    ours.then_some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_of_the_machine_are_read() {
        let text = "# by hand\nsearch example.org\nnameserver 192.0.2.53\nnameserver\n\
                    nameserver 2001:db8::53 \nnameserver fe80::1%eth0\noptions ndots:5\n";
        let all = ["192.0.2.53:53", "[2001:db8::53]:53"].map(|it| it.parse().unwrap());
        assert_eq!(named(text), all);
        assert_eq!(named(""), []);
    }
}
