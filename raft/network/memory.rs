//! A network inside one process, for tests and simulation. It can cut, delay, lose, repeat, reorder and
//! hold messages, by a seed.
//!
//! Keeps: what it tells the sender is honest. A message that found no way was [`LinkError::NotSent`]; one
//! that vanished on the way, or whose answer did, is [`LinkError::Unknown`], and only when the time is up,
//! as with a real peer that falls silent.
//! Keeps: what it does follows from the seed and from the order in which it is called. Time is tokio's.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use futures::StreamExt;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::pipeline::{Pipeline, Window};
use super::*;

/// How long a snapshot may take; other messages bring their own deadline. One that vanishes is missed
/// after about as long as a real connection's keep-alive takes to find out.
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(10);

/// What befalls messages. The default is a network without faults or delay.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Faults {
    /// Time on the way, each way, drawn for each message; so they overtake one another.
    pub delay: Range<Duration>,
    /// Share of messages that vanish on the way there, 0 to 1.
    pub lost: f64,
    /// Share of answers that vanish on the way back.
    pub unanswered: f64,
    /// Share of messages that arrive twice. Only such as a real network could repeat unseen: entries and
    /// votes, not what a follower asks of its leader.
    pub repeated: f64,
}

/// The network. Clones are the same one.
#[derive(Clone)]
pub struct Network(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Told whenever a cut, a pause or a door changed.
    changed: watch::Sender<()>,
}

struct State {
    doors: BTreeMap<NodeId, Arc<dyn Inbound>>,
    /// Directed: from, to.
    cut: BTreeSet<(NodeId, NodeId)>,
    paused: BTreeSet<NodeId>,
    faults: Faults,
    random: StdRng,
}

impl Network {
    #[must_use]
    pub fn new(seed: u64) -> Network {
        Network(Arc::new(Shared {
            state: Mutex::new(State {
                doors: BTreeMap::new(),
                cut: BTreeSet::new(),
                paused: BTreeSet::new(),
                faults: Faults::default(),
                random: StdRng::seed_from_u64(seed),
            }),
            changed: watch::Sender::new(()),
        }))
    }

    /// The network as the member `from` of `cluster` sees it.
    #[must_use]
    pub fn transport(&self, cluster: ClusterId, from: NodeId) -> Arc<dyn Transport> {
        Arc::new(Seat { network: self.clone(), cluster, from })
    }

    /// From now on messages to `id` arrive at `door`.
    pub fn listen(&self, id: NodeId, door: Arc<dyn Inbound>) {
        self.change(|state| drop(state.doors.insert(id, door)));
    }

    /// Nobody listens as `id` any more: its process has ended.
    pub fn close(&self, id: NodeId) {
        self.change(|state| drop(state.doors.remove(&id)));
    }

    /// Messages from `from` to `to` no longer arrive; the other way is untouched.
    pub fn cut_one_way(&self, from: NodeId, to: NodeId) {
        self.change(|state| state.cut.extend([(from, to)]));
    }

    /// Nothing passes between the two.
    pub fn cut(&self, a: NodeId, b: NodeId) {
        self.change(|state| state.cut.extend([(a, b), (b, a)]));
    }

    /// Everybody can reach everybody again.
    pub fn heal(&self) {
        self.change(|state| state.cut.clear());
    }

    /// What is on its way to `id` waits, as before a process that is stopped and may go on.
    pub fn pause(&self, id: NodeId) {
        self.change(|state| state.paused.extend([id]));
    }

    pub fn resume(&self, id: NodeId) {
        self.change(|state| state.paused.retain(|paused| *paused != id));
    }

    pub fn set_faults(&self, faults: Faults) {
        self.change(|state| state.faults = faults);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.state.lock());
        self.0.changed.send_replace(());
    }
}

struct Seat {
    network: Network,
    cluster: ClusterId,
    from: NodeId,
}

impl Transport for Seat {
    fn link(&self, target: NodeId, _peer: &Peer) -> Arc<dyn Link> {
        let Seat { network, cluster, from } = self;
        Arc::new(Way { network: network.clone(), cluster: *cluster, from: *from, to: target })
    }
}

/// The way from one member to another.
#[derive(Clone)]
struct Way {
    network: Network,
    cluster: ClusterId,
    from: NodeId,
    to: NodeId,
}

/// What was drawn for one message.
struct Fate {
    there: Duration,
    back: Duration,
    lost: bool,
    unanswered: bool,
    repeated: bool,
}

impl Way {
    fn door(&self) -> Result<Arc<dyn Inbound>, LinkError> {
        let door = {
            let state = self.network.0.state.lock();
            if state.cut.contains(&(self.from, self.to)) {
                return Err(self.not_sent("the network is cut"));
            }
            state.doors.get(&self.to).cloned().ok_or_else(|| self.not_sent("nobody listens"))?
        };
        let admitted = door.admit(self.cluster, self.from);
        admitted.map_err(|reason| self.refused(reason))?;
        Ok(door)
    }

    fn draw(&self) -> Fate {
        let mut state = self.network.0.state.lock();
        let faults = state.faults.clone();
        let mut time = || match faults.delay.is_empty() {
            true => faults.delay.start,
            false => state.random.random_range(faults.delay.clone()),
        };
        let (there, back) = (time(), time());
        let mut happens = |share: f64| share > 0.0 && state.random.random_bool(share);
        let lost = happens(faults.lost);
        let unanswered = happens(faults.unanswered);
        let repeated = happens(faults.repeated);
        Fate { there, back, lost, unanswered, repeated }
    }

    fn is_cut(&self) -> bool {
        self.network.0.state.lock().cut.contains(&(self.from, self.to))
    }

    fn is_cut_back(&self) -> bool {
        self.network.0.state.lock().cut.contains(&(self.to, self.from))
    }

    /// Until the receiver and the sender are both running.
    async fn running(&self) {
        let mut changed = self.network.0.changed.subscribe();
        loop {
            {
                let state = self.network.0.state.lock();
                if !state.paused.contains(&self.to) && !state.paused.contains(&self.from) {
                    return;
                }
            }
            // The sender is in `self`, so the channel cannot have closed.
            let _ = changed.changed().await;
        }
    }

    /// Carries one message there and its answer back.
    async fn call<R, F>(
        self,
        deadline: Duration,
        repeatable: bool,
        deliver: impl Fn(Arc<dyn Inbound>) -> F + Send + Sync,
    ) -> Result<R, LinkError>
    where
        R: Send + 'static,
        F: Future<Output = Result<R, String>> + Send + 'static,
    {
        let door = self.door()?;
        let fate = self.draw();
        let carried = async {
            travel(fate.there).await;
            self.running().await;
            if fate.lost || self.is_cut() {
                return std::future::pending().await;
            }
            // Tasks of their own: the receiver goes on with it even if the sender gives up.
            let answer = tokio::spawn(deliver(door.clone()));
            if fate.repeated && repeatable {
                drop(tokio::spawn(deliver(door)));
            }
            let answer = answer.await.map_err(|error| self.unknown(error.to_string()))?;
            travel(fate.back).await;
            self.running().await;
            if fate.unanswered || self.is_cut_back() {
                return std::future::pending().await;
            }
            answer.map_err(|reason| self.refused(reason))
        };
        match timeout(deadline, carried).await {
            Ok(answer) => answer,
            Err(_) => Err(self.unknown("the time is up")),
        }
    }

    async fn stream(
        self,
        requests: BoxStream<'static, AppendRequest>,
        deadline: Duration,
    ) -> Result<BoxStream<'static, Result<AppendResult, LinkError>>, LinkError> {
        let door = self.door()?;
        let peer = self.to.to_string();
        let (there, back) = (self.clone(), self);
        let pipeline = Pipeline::new(Window::APPENDS);
        // In order, as in one connection, and many on the way at once.
        let arriving = pipeline
            .outgoing(requests)
            .map(move |request| {
                let (way, fate) = (there.clone(), there.draw());
                let at = (!fate.there.is_zero()).then(|| Instant::now() + fate.there);
                async move {
                    // tokio rounds a time up to the next millisecond, one that has passed as well.
                    match at {
                        Some(at) => sleep_until(at).await,
                        None => tokio::task::yield_now().await,
                    }
                    way.running().await;
                    // A connection does not lose one message, it breaks.
                    (!fate.lost && !way.is_cut()).then_some(request)
                }
            })
            .buffered(Window::APPENDS.messages)
            .take_while(|request| std::future::ready(request.is_some()))
            .filter_map(std::future::ready)
            .boxed();
        let answers = door.append_stream(arriving).map(move |answer| {
            if back.is_cut() || back.is_cut_back() {
                return Err(back.unknown("the network is cut"));
            }
            answer.map_err(|reason| back.refused(reason))
        });
        Ok(pipeline.answers(answers, deadline, peer))
    }

    fn not_sent(&self, reason: &str) -> LinkError {
        LinkError::NotSent { peer: self.to.to_string(), reason: reason.to_owned() }
    }

    fn unknown(&self, reason: impl Into<String>) -> LinkError {
        LinkError::Unknown { peer: self.to.to_string(), reason: reason.into() }
    }

    fn refused(&self, reason: String) -> LinkError {
        LinkError::Refused { peer: self.to.to_string(), reason }
    }
}

/// A message without delay still gives others a turn.
async fn travel(time: Duration) {
    if time.is_zero() { tokio::task::yield_now().await } else { sleep(time).await }
}

impl Link for Way {
    fn is_deserted(&self, patience: Duration) -> BoxFuture<'static, bool> {
        let (way, fate) = (self.clone(), self.draw());
        let asked = async move {
            travel(fate.there).await;
            // Also a process that stands still has a machine that listens for it.
            let gone = !way.network.0.state.lock().doors.contains_key(&way.to);
            travel(fate.back).await;
            gone && !fate.lost && !fate.unanswered && !way.is_cut() && !way.is_cut_back()
        };
        Box::pin(async move { timeout(patience, asked).await.unwrap_or(false) })
    }

    fn append(
        &self,
        request: AppendRequest,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<AppendResponse, LinkError>> {
        let way = self.clone();
        Box::pin(way.call(deadline, true, move |door| door.append(request.clone())))
    }

    fn append_stream(
        &self,
        requests: BoxStream<'static, AppendRequest>,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<AppendResult, LinkError>>, LinkError>>
    {
        Box::pin(self.clone().stream(requests, deadline))
    }

    fn vote(
        &self,
        request: VoteRequest,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<VoteResponse, LinkError>> {
        let way = self.clone();
        Box::pin(way.call(deadline, true, move |door| door.vote(request.clone())))
    }

    fn pre_vote(
        &self,
        request: VoteRequest,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<VoteResponse, LinkError>> {
        let way = self.clone();
        Box::pin(way.call(deadline, true, move |door| door.pre_vote(request.clone())))
    }

    fn transfer_leader(
        &self,
        request: TransferRequest,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<TransferResponse, LinkError>> {
        let way = self.clone();
        Box::pin(way.call(deadline, false, move |door| door.transfer_leader(request.clone())))
    }

    fn snapshot(
        &self,
        header: SnapshotHeader,
        chunks: BoxStream<'static, std::io::Result<SnapshotChunk>>,
    ) -> BoxFuture<'static, Result<SnapshotResponse, LinkError>> {
        let way = self.clone();
        // A stream can be handed on once only, and `call` delivers once where nothing is repeatable.
        let chunks = Mutex::new(Some(chunks));
        let deliver = move |door: Arc<dyn Inbound>| {
            let chunks = chunks.lock().take().unwrap_or_else(|| futures::stream::empty().boxed());
            door.snapshot(header.clone(), chunks)
        };
        Box::pin(way.call(SNAPSHOT_DEADLINE, false, deliver))
    }

    fn forward(
        &self,
        request: Forward,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Forwarded, LinkError>> {
        let way = self.clone();
        let deliver = move |door: Arc<dyn Inbound>| {
            let answer = door.forward(request.clone());
            async move { Ok(answer.await) }
        };
        Box::pin(way.call(deadline, false, deliver))
    }

    fn fetch_snapshot(
        &self,
    ) -> BoxFuture<
        'static,
        Result<(SnapshotHeader, BoxStream<'static, std::io::Result<SnapshotChunk>>), LinkError>,
    > {
        let way = self.clone();
        Box::pin(way.call(SNAPSHOT_DEADLINE, false, |door| door.fetch_snapshot()))
    }
}
