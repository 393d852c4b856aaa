//! Which nodes' agents are connected here, and tunnels through their sessions.
//!
//! Keeps: a node has one session; one that comes replaces the one that is there. A key of a tunnel is random,
//! good once, for the node it was made for, and for [`OPEN_WAIT_MAX`].
//! Never: queues orders for an agent that does not take them; waits for a node longer than
//! [`ARRIVAL_WAITS_MAX`] says.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use rand::RngExt as _;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::beats;
use super::peers::{Peers, Place};
use super::pipe::{self, Ended};
use super::{quorum, reports};
use crate::error::{Reason, Status};
use crate::live::Live;
use crate::pipeline::Road;
use crate::tunnel::wire::{self, FromTunnel, from_tunnel};
use crate::tunnel::{Nodes, Tunnel};

/// Sessions of a master. Upstream's bar for a cluster is 5,000 nodes.
const SESSIONS_MAX: usize = 10_000;
/// Tunnels of a session, open or about to be. With the windows of the listener's connections so many can stand
/// still before one that moves has to wait for them.
pub(crate) const TUNNELS_MAX: usize = 128;
/// Orders that an agent has not taken yet.
const ORDERS_MAX: usize = TUNNELS_MAX;
/// Until an agent has opened a tunnel: its runtime may be slow to begin.
pub(crate) const OPEN_WAIT_MAX: Duration = Duration::from_secs(30);
/// A machine that was heard of so lately, and has not taken its leave, keeps its name.
const NAMESAKE_S: i64 = 25;
/// A session that is nowhere may be about to come: its agent lost a master a moment ago.
const ARRIVAL_WAITS_MAX: u32 = 4;
const ARRIVAL_WAIT: Duration = Duration::from_secs(1);

/// The sessions of a master. Cheap to clone.
#[derive(Clone)]
pub struct Sessions(Arc<Inner>);

struct Inner {
    sessions: Mutex<HashMap<String, Arc<Session>>>,
    arrived: Notify,
    parts: Parts,
    /// Turns of those who write reports.
    writes: Semaphore,
    /// This master has lost the others.
    cut_off: AtomicBool,
}

/// What sessions are made of.
pub struct Parts {
    /// Where reports are written, and what is assigned is read.
    pub road: Arc<Road>,
    pub live: Arc<Live>,
    /// The other masters, where there may be others.
    pub peers: Option<Peers>,
    /// Ends all sessions, whose agents go elsewhere.
    pub stop: CancellationToken,
}

/// The session of one node.
pub(crate) struct Session {
    node: String,
    /// Of the machine.
    boot: String,
    began: Instant,
    orders: mpsc::Sender<wire::Open>,
    ended: Ended,
    waiting: Mutex<HashMap<Bytes, oneshot::Sender<Result<Arrived, wire::Refused>>>>,
    places: Arc<Semaphore>,
}

/// A tunnel as the agent has opened it.
pub(super) struct Arrived {
    pub protocol: String,
    pub messages: Streaming<FromTunnel>,
    pub out: mpsc::Sender<Bytes>,
}

/// A session that is open as long as this lives.
pub(super) struct Held {
    sessions: Sessions,
    pub session: Arc<Session>,
    pub orders: mpsc::Receiver<wire::Open>,
}

impl Held {
    /// When it must go: another has taken its place.
    pub fn session_ended(&self) -> impl Future<Output = ()> + use<> {
        self.session.ended()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.session.ended.token.cancel();
        let mut all = self.sessions.0.sessions.lock();
        if let Entry::Occupied(entry) = all.entry(self.session.node.clone())
            && Arc::ptr_eq(entry.get(), &self.session)
        {
            entry.remove();
            let Session { node, boot, .. } = &*self.session;
            self.sessions.live().beats.ended(node, boot);
        }
    }
}

impl Sessions {
    #[must_use]
    pub fn new(parts: Parts) -> Sessions {
        let (sessions, arrived) = (Mutex::default(), Notify::new());
        let writes = Semaphore::new(reports::WRITES_MAX);
        let cut_off = AtomicBool::new(false);
        Sessions(Arc::new(Inner { sessions, arrived, parts, writes, cut_off }))
    }

    /// Hears from the other masters which nodes they hear, and looks whether they are there, as long as it is
    /// polled.
    pub async fn run(&self) {
        tokio::join!(quorum::look(self), async {
            match self.peers() {
                Some(peers) => beats::listen(self, peers).await,
                None => std::future::pending().await,
            }
        });
    }

    /// Whether this master has lost the others: then it holds no sessions.
    pub(super) fn cut_off(&self, is_so: bool) {
        let was_so = self.0.cut_off.swap(is_so, Ordering::SeqCst);
        if is_so && !was_so {
            let all = self.0.sessions.lock();
            tracing::warn!(sessions = all.len(), "the other masters are lost: agents are let go");
            all.values().for_each(|session| session.ended.token.cancel());
        }
    }

    /// Why there is no session here, where that is so.
    pub(super) fn closed(&self) -> Option<tonic::Status> {
        let is_so = self.0.cut_off.load(Ordering::SeqCst);
        is_so.then(|| tonic::Status::unavailable("this master has lost the others; try another"))
    }

    pub(super) fn road(&self) -> &Arc<Road> {
        &self.0.parts.road
    }

    pub(super) fn live(&self) -> &Live {
        &self.0.parts.live
    }

    pub(super) fn writes(&self) -> &Semaphore {
        &self.0.writes
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.sessions.lock().len()
    }

    #[must_use]
    pub fn holds(&self, node: &str) -> bool {
        self.0.sessions.lock().contains_key(node)
    }

    /// When this master goes.
    pub(super) fn stopped(&self) -> impl Future<Output = ()> + use<> {
        self.0.parts.stop.clone().cancelled_owned()
    }

    pub(super) fn peers(&self) -> Option<&Peers> {
        self.0.parts.peers.as_ref()
    }

    /// For how long there has been one.
    pub(super) fn age(&self, node: &str) -> Option<Duration> {
        self.find(node).map(|session| session.began.elapsed())
    }

    fn find(&self, node: &str) -> Option<Arc<Session>> {
        self.0.sessions.lock().get(node).cloned()
    }

    /// The session of a node, for its other streams.
    pub(super) fn of(&self, node: &str) -> Result<Arc<Session>, tonic::Status> {
        let missing =
            || tonic::Status::failed_precondition(format!("node {node:?} has no session here"));
        self.find(node).ok_or_else(missing)
    }

    /// The node's agent lives.
    pub(super) fn heard(&self, session: &Session) {
        let now = self.road().clock().now();
        self.live().beats.heard(&session.node, &session.boot, now, true);
    }

    /// Another machine that goes by this name and was heard lately, by whichever master.
    fn namesake(&self, node: &str, boot: &str) -> Option<tonic::Status> {
        let beat = self.live().beats.of(node)?;
        let age_s = self.road().clock().now().micros_since(beat.at) / 1_000_000;
        if beat.boot.is_empty() || *beat.boot == *boot || age_s >= NAMESAKE_S {
            return None;
        }
        let why = format!(
            "another machine is connected as node {node:?} (boot {}, heard of {age_s} s ago) and \
             this one has boot {boot}: two nodes cannot have one name; join this one with another \
             --name, or stop the other first",
            beat.boot
        );
        Some(tonic::Status::already_exists(why))
    }

    /// Takes in a session; the one that was there ends.
    pub(super) fn begin(&self, node: &str, boot: &str) -> Result<Held, tonic::Status> {
        if let Some(refused) = self.closed().or_else(|| self.namesake(node, boot)) {
            return Err(refused);
        }
        let (orders, given) = mpsc::channel(ORDERS_MAX);
        let session = Arc::new(Session {
            node: node.to_owned(),
            boot: boot.to_owned(),
            began: Instant::now(),
            orders,
            ended: Ended {
                token: CancellationToken::new(),
                what: format!("the session of node \"{node}\" has ended"),
            },
            waiting: Mutex::default(),
            places: Arc::new(Semaphore::new(TUNNELS_MAX)),
        });
        let before = {
            let mut all = self.0.sessions.lock();
            if all.len() >= SESSIONS_MAX && !all.contains_key(node) {
                let why = format!("this master holds {SESSIONS_MAX} sessions and takes no more");
                return Err(tonic::Status::resource_exhausted(why));
            }
            all.insert(node.to_owned(), session.clone())
        };
        if let Some(before) = before {
            tracing::info!(node, "a session is replaced by a newer one");
            before.ended.token.cancel();
        }
        self.heard(&session);
        self.0.arrived.notify_waiters();
        Ok(Held { sessions: self.clone(), session, orders: given })
    }

    /// What an agent says of a tunnel it was told to open.
    pub(super) fn answer(
        &self,
        node: &str,
        key: &Bytes,
        answer: Result<Arrived, wire::Refused>,
    ) -> Result<(), tonic::Status> {
        let waiting = self.find(node).and_then(|it| it.waiting.lock().remove(key));
        let unknown = || tonic::Status::not_found("nobody waits for this tunnel any more");
        waiting.ok_or_else(unknown)?.send(answer).map_err(|_| unknown())
    }

    /// A tunnel through a session that is held here. `None`: there is none.
    pub(super) async fn open_here(
        &self,
        node: &str,
        want: &wire::Want,
    ) -> Option<Result<Tunnel, Status>> {
        let session = self.find(node)?;
        Some(session.open(want.clone()).await)
    }

    async fn open_somewhere(&self, node: &str, want: wire::Want) -> Result<Tunnel, Status> {
        let mut heard = Vec::new();
        for _ in 0..ARRIVAL_WAITS_MAX {
            let arrival = self.0.arrived.notified();
            if let Some(opened) = self.open_here(node, &want).await {
                return opened;
            }
            if let Some(peers) = self.peers() {
                match peers.find(node).await {
                    Place::At(channel) => return peers.open(*channel, node, want).await,
                    Place::Nowhere { unheard } => heard = unheard,
                }
            }
            // Whoever comes may be another: it is looked at again.
            let _ = timeout(ARRIVAL_WAIT, arrival).await;
        }
        if let Some(opened) = self.open_here(node, &want).await {
            return opened;
        }
        let mut why = format!("no agent of node \"{node}\" is connected to any master");
        if !heard.is_empty() {
            why = format!("{why} that answers; {} could not be asked", heard.join(", "));
        }
        Err(Status::internal(format!("error dialing backend: {why}")))
    }
}

impl Nodes for Sessions {
    fn open<'a>(
        &'a self,
        node: &'a str,
        want: wire::Want,
    ) -> BoxFuture<'a, Result<Tunnel, Status>> {
        Box::pin(self.open_somewhere(node, want))
    }
}

/// Takes back a key that nobody has answered.
struct Waiting<'a> {
    session: &'a Session,
    key: Bytes,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.session.waiting.lock().remove(&self.key);
    }
}

impl Session {
    pub(super) fn node(&self) -> &str {
        &self.node
    }

    /// When it is over, whatever ended it.
    pub(super) fn ended(&self) -> impl Future<Output = ()> + use<> {
        self.ended.token.clone().cancelled_owned()
    }

    async fn open(&self, want: wire::Want) -> Result<Tunnel, Status> {
        let node = &self.node;
        let place = self.places.clone().try_acquire_owned().map_err(|_| {
            let why = format!("node \"{node}\" has {TUNNELS_MAX} open streams, which is the most");
            Status::too_many_requests(why, 5)
        })?;
        let key = Bytes::from(rand::rng().random::<[u8; 16]>().to_vec());
        let (answer, answered) = oneshot::channel();
        self.waiting.lock().insert(key.clone(), answer);
        let waiting = Waiting { session: self, key: key.clone() };
        let order = wire::Open { key, want: Some(want) };
        let gone = || Status::internal(format!("error dialing backend: {}", self.ended.what));
        self.orders.try_send(order).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                let why = format!("the agent of node \"{node}\" does not take orders");
                Status::too_many_requests(why, 5)
            }
            mpsc::error::TrySendError::Closed(_) => gone(),
        })?;
        let answer = tokio::select! {
            answer = timeout(OPEN_WAIT_MAX, answered) => answer,
            () = self.ended.token.cancelled() => return Err(gone()),
        };
        drop(waiting);
        match answer {
            Ok(Ok(Ok(arrived))) => Ok(self.tunnel(arrived, place)),
            Ok(Ok(Err(refused))) => Err(refused.into()),
            Ok(Err(_)) => Err(gone()),
            Err(_) => {
                let seconds = OPEN_WAIT_MAX.as_secs();
                let why = format!("the agent of node \"{node}\" opened no stream in {seconds} s");
                Err(Status::new(Reason::Timeout, why))
            }
        }
    }

    fn tunnel(&self, arrived: Arrived, place: OwnedSemaphorePermit) -> Tunnel {
        let Arrived { protocol, messages, out } = arrived;
        let arriving = pipe::arriving(messages, bytes_of, self.ended.clone());
        let arriving = pipe::holding(arriving, place);
        Tunnel { protocol, bytes: pipe::duplex(arriving, out) }
    }
}

pub(super) fn bytes_of(message: FromTunnel) -> Bytes {
    match message.message {
        Some(from_tunnel::Message::Data(data)) => data,
        _ => Bytes::new(),
    }
}
