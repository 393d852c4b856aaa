//! The network between members: one door in front of each, through which all the others must come.
//!
//! A member advertises its door's address; the door passes bytes on to where the member listens. Who comes
//! in is known by the socket's owner, as the kernel tells it, for on loopback all come from one address.
//! Bytes from one member to another can be held back, one way or both, delayed, and stalled as by lost
//! packets. Held bytes go on when the link is whole again, as TCP would have sent them again.
//!
//! Keeps: bytes of one connection keep their order, and none is changed or made up.
//! Never: looks into what is said; it is encrypted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// A member's number; 0 is who is not known.
pub type Member = u32;

/// What a lost packet costs: a retransmission of TCP's.
const RETRANSMISSION: Duration = Duration::from_millis(200);
const CHUNK_BYTES: usize = 16 << 10;
const CHUNKS_WAITING_MAX: usize = 64;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// From whom to whom nothing goes.
    pub cut: BTreeSet<(Member, Member)>,
    pub delay: Duration,
    pub jitter: Duration,
    /// Of a thousand chunks, how many are sent again.
    pub lost_per_mille: u32,
    /// Connections that began before this many resets are closed.
    pub resets: u64,
}

struct Shared {
    conditions: watch::Sender<Conditions>,
    /// Which process is which member.
    processes: Mutex<BTreeMap<Member, i32>>,
    random: Mutex<StdRng>,
}

/// Clones are the same network.
#[derive(Clone)]
pub struct Network(Arc<Shared>);

impl Network {
    #[must_use]
    pub fn new(seed: u64) -> Network {
        Network(Arc::new(Shared {
            conditions: watch::Sender::new(Conditions::default()),
            processes: Mutex::default(),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
        }))
    }

    pub fn process(&self, member: Member, pid: i32) {
        self.0.processes.lock().insert(member, pid);
    }

    pub fn change(&self, change: impl FnOnce(&mut Conditions)) {
        self.0.conditions.send_modify(change);
    }

    /// Opens the door of a member: what comes to `outside` goes on to `inside`. It stays open.
    pub async fn open(
        &self,
        member: Member,
        outside: SocketAddr,
        inside: SocketAddr,
    ) -> Result<(), String> {
        let listener = TcpListener::bind(outside)
            .await
            .map_err(|error| format!("the door of member {member} at {outside}: {error}"))?;
        let network = self.clone();
        tokio::spawn(async move {
            loop {
                // Out of descriptors: those who hold some will let go.
                let Ok((stream, from)) = listener.accept().await else {
                    sleep(Duration::from_millis(50)).await;
                    continue;
                };
                let network = network.clone();
                tokio::spawn(async move {
                    network.pass(stream, from, outside, member, inside).await;
                });
            }
        });
        Ok(())
    }

    async fn pass(
        &self,
        outer: TcpStream,
        from: SocketAddr,
        outside: SocketAddr,
        to: Member,
        inside: SocketAddr,
    ) {
        let processes = self.0.processes.lock().clone();
        let owner = tokio::task::spawn_blocking(move || owner(from, outside, &processes)).await;
        let from = owner.ok().flatten().unwrap_or(0);
        let began = self.0.conditions.borrow().resets;
        // A dead member refuses; so does its door, by closing.
        let Ok(Ok(inner)) = timeout(RETRANSMISSION * 10, TcpStream::connect(inside)).await else {
            return;
        };
        outer.set_nodelay(true).ok();
        inner.set_nodelay(true).ok();
        let ((outer_in, outer_out), (inner_in, inner_out)) =
            (outer.into_split(), inner.into_split());
        let reset = async {
            let mut conditions = self.0.conditions.subscribe();
            conditions.wait_for(|now| now.resets > began).await.ok();
        };
        tokio::select! {
            () = self.pump(from, to, outer_in, inner_out) => {}
            () = self.pump(to, from, inner_in, outer_out) => {}
            () = reset => {}
        }
    }

    async fn pump(
        &self,
        from: Member,
        to: Member,
        mut source: tokio::net::tcp::OwnedReadHalf,
        mut sink: tokio::net::tcp::OwnedWriteHalf,
    ) {
        let (send, mut receive) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS_WAITING_MAX);
        let reading = async move {
            let mut buffer = vec![0; CHUNK_BYTES];
            while let Ok(length @ 1..) = source.read(&mut buffer).await {
                let chunk = (self.arrival(), buffer[..length].to_vec());
                if send.send(chunk).await.is_err() {
                    break;
                }
            }
        };
        let writing = async {
            let mut conditions = self.0.conditions.subscribe();
            while let Some((due, chunk)) = receive.recv().await {
                sleep_until(due).await;
                let open = conditions.wait_for(|now| !now.cut.contains(&(from, to))).await.is_ok();
                if !open || sink.write_all(&chunk).await.is_err() {
                    break;
                }
            }
        };
        // The end of what was said is passed on when all of it was.
        tokio::join!(reading, writing);
    }

    fn arrival(&self) -> Instant {
        let now = self.0.conditions.borrow();
        if now.delay.is_zero() && now.lost_per_mille == 0 {
            return Instant::now();
        }
        let mut random = self.0.random.lock();
        let jitter = now.jitter.mul_f64(random.random_range(0.0..=1.0));
        let lost = random.random_range(0..1000) < now.lost_per_mille;
        let again = if lost { RETRANSMISSION } else { Duration::ZERO };
        Instant::now() + now.delay + jitter + again
    }
}

/// Which of our processes holds the other end of a connection. Linux: `/proc`.
fn owner(from: SocketAddr, to: SocketAddr, processes: &BTreeMap<Member, i32>) -> Option<Member> {
    let (from, to) = (written(from)?, written(to)?);
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let inode = table.lines().skip(1).find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words.get(1) == Some(&from.as_str()) && words.get(2) == Some(&to.as_str()))
            .then(|| words.get(9).map(|inode| format!("socket:[{inode}]")))?
    })?;
    processes.iter().find_map(|(member, pid)| {
        let held = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
        let mut links = held.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
        links.any(|link| link.as_os_str() == inode.as_str()).then_some(*member)
    })
}

/// An address as the kernel's table writes it.
fn written(address: SocketAddr) -> Option<String> {
    let SocketAddr::V4(address) = address else { return None };
    let bytes = u32::from_le_bytes(address.ip().octets());
    Some(format!("{bytes:08X}:{:04X}", address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Somebody who says back what it hears, behind a door.
    async fn echo(network: &Network) -> SocketAddr {
        let inside = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = inside.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = inside.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await.ok();
                });
            }
        });
        let outside = {
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            free.local_addr().unwrap()
        };
        network.open(2, outside, address).await.unwrap();
        outside
    }

    #[tokio::test]
    async fn who_comes_in_is_known_and_a_cut_holds_bytes_one_way_until_it_heals() {
        let network = Network::new(1);
        network.process(1, i32::try_from(std::process::id()).unwrap());
        let door = echo(&network).await;
        let mut stream = TcpStream::connect(door).await.unwrap();
        let mut heard = [0; 3];
        stream.write_all(b"one").await.unwrap();
        stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"one");

        for cut in [(1, 2), (2, 1)] {
            network.change(|now| now.cut.extend([cut]));
            stream.write_all(b"two").await.unwrap();
            let nothing = timeout(Duration::from_millis(50), stream.read(&mut heard)).await;
            assert!(nothing.is_err(), "{nothing:?} came through {cut:?}");
            network.change(|now| now.cut.clear());
            stream.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, b"two");
        }
        // Between others nothing matters to it.
        network.change(|now| now.cut.extend([(2, 3)]));
        stream.write_all(b"six").await.unwrap();
        stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"six");
    }

    #[tokio::test]
    async fn a_reset_closes_what_is_open_and_slow_links_keep_the_order() {
        let network = Network::new(2);
        let door = echo(&network).await;
        network.change(|now| {
            now.delay = Duration::from_millis(1);
            now.jitter = Duration::from_millis(9);
        });
        let mut stream = TcpStream::connect(door).await.unwrap();
        let mut heard = [0; 30];
        for number in 0..10 {
            stream.write_all(format!("{number:03}").as_bytes()).await.unwrap();
        }
        stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"000001002003004005006007008009");
        network.change(|now| now.resets += 1);
        let end = stream.read(&mut heard).await;
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }
}
