//! Gathers what waits into few entries, and brings every proposer its own answer.
//!
//! One loop per member. It takes everything that waits (bounded by bytes and by number), encodes it
//! once into one payload and sends that off: into the log where this member leads, to the leader where
//! it does not. A few payloads are under way at a time; while they are, the next one grows. Who comes
//! alone waits for nobody.
//!
//! Keeps: a payload is sent a second time only when the first was certainly not carried out. Whatever
//! may have been carried out is answered `Unknown`, never as failed.
//! Never: holds more than `waiting_max` proposals; the next is refused at once (`Overloaded`).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kontiki_storage::codec;
use kontiki_storage::request::{Answer, Command, EntryAnswers};
use openraft::error::{ClientWriteError, Fatal};
use openraft::raft::ClientWriteResult;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use crate::error::{Error, MembershipError};
use crate::leader::LeaderSearch;
use crate::network::{Forward, Forwarded, LinkError};
use crate::replica::Inner;
use crate::types::{Callback, NodeId, Payload, TypeConfig};

type AnswerSender = oneshot::Sender<Result<Answer, Error>>;

/// One command on its way.
struct Proposal {
    command: Command,
    weight: usize,
    answer: AnswerSender,
    deadline: Instant,
}

/// The way in, held by the replica.
pub(crate) struct Proposer {
    queue: mpsc::UnboundedSender<Proposal>,
    waiting: Arc<AtomicUsize>,
    waiting_max: usize,
}

/// What the loop works with.
pub(crate) struct Batcher {
    queue: mpsc::UnboundedReceiver<Proposal>,
    waiting: Arc<AtomicUsize>,
}

/// The queue itself needs no bound of its own: `waiting` is counted before anything is put into it.
pub(crate) fn new(waiting_max: usize) -> (Proposer, Batcher) {
    let (sender, queue) = mpsc::unbounded_channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    (Proposer { queue: sender, waiting: waiting.clone(), waiting_max }, Batcher { queue, waiting })
}

/// Takes a proposal out of the count when it is answered or given up.
struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Proposer {
    pub(crate) async fn propose(
        &self,
        command: Command,
        weight: usize,
        timeout: Duration,
    ) -> Result<Answer, Error> {
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _counted = Counted(&self.waiting);
        if waiting >= self.waiting_max {
            return Err(Error::Overloaded { waiting, max: self.waiting_max });
        }
        let (answer, answered) = oneshot::channel();
        let deadline = Instant::now() + timeout;
        self.queue
            .send(Proposal { command, weight, answer, deadline })
            .map_err(|_| Error::Stopped("it takes no more requests".into()))?;
        // The batcher answers before the deadline whatever was certainly not sent. What is still
        // without an answer some time later was sent.
        match tokio::time::timeout_at(deadline + timeout / 4, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Error::Unknown("this member stopped before the answer".into())),
            Err(_) => Err(Error::Unknown(format!("no answer in {} ms", timeout.as_millis()))),
        }
    }
}

/// A payload, and what is in it.
type Known = (Bytes, Arc<[Command]>);

/// Commands under way that this member has encoded or decoded itself, so that it need not decode them
/// again when it applies them. Found by the address of their bytes, which each record keeps alive: as
/// long as a record is here no other bytes can lie at that address.
#[derive(Default)]
pub(crate) struct Decoded {
    under_way: Mutex<HashMap<usize, Known>>,
}

impl Decoded {
    fn insert(&self, payload: &Bytes, commands: &Arc<[Command]>) {
        if !payload.is_empty() {
            self.under_way
                .lock()
                .insert(payload.as_ptr() as usize, (payload.clone(), commands.clone()));
        }
    }

    fn remove(&self, payload: &Bytes) {
        self.under_way.lock().remove(&(payload.as_ptr() as usize));
    }

    /// The commands in `payload`, from here if they are here.
    pub(crate) fn commands(
        &self,
        payload: &Bytes,
    ) -> Result<Arc<[Command]>, kontiki_storage::Error> {
        let known =
            self.under_way.lock().get(&(payload.as_ptr() as usize)).and_then(
                |(bytes, commands)| (bytes.len() == payload.len()).then(|| commands.clone()),
            );
        match known {
            Some(commands) => Ok(commands),
            None => Ok(codec::decode_commands(payload.clone())?.into()),
        }
    }
}

/// One payload under way, with those who wait for it.
struct Flight {
    payload: Bytes,
    commands: Arc<[Command]>,
    waiters: Vec<AnswerSender>,
    /// After this it is not sent (again).
    deadline: Instant,
    _permit: OwnedSemaphorePermit,
}

/// What became of sending a payload.
pub(crate) enum Sent {
    Answered(EntryAnswers),
    /// Certainly not carried out.
    TurnedAway(String),
    Unknown(String),
}

impl Flight {
    fn answer(self, answers: EntryAnswers) {
        if answers.len() != self.waiters.len() {
            // An entry of ours that was replaced by a snapshot has no answers.
            return self.fail(|| Error::Unknown("it was applied without an answer".into()));
        }
        for (waiter, answer) in self.waiters.into_iter().zip(answers) {
            waiter.send(answer.map_err(Error::Store)).ok();
        }
    }

    fn fail(self, error: impl Fn() -> Error) {
        for waiter in self.waiters {
            waiter.send(Err(error())).ok();
        }
    }
}

impl Batcher {
    /// Runs until the replica stops.
    pub(crate) async fn run(mut self, replica: Arc<Inner>) {
        let permits = Arc::new(Semaphore::new(replica.config.entries_in_flight_max));
        let mut next: Option<Proposal> = None;
        loop {
            let first = match next.take() {
                Some(proposal) => proposal,
                None => tokio::select! {
                    biased;
                    proposal = self.queue.recv() => match proposal {
                        Some(proposal) => proposal,
                        None => return,
                    },
                    () = replica.stop.cancelled() => return self.refuse(None, &replica),
                },
            };
            let permit = tokio::select! {
                biased;
                permit = permits.clone().acquire_owned() => {
                    permit.expect("the semaphore is never closed")
                }
                () = tokio::time::sleep_until(first.deadline) => {
                    first.answer.send(Err(replica.no_leader())).ok();
                    continue;
                }
                () = replica.stop.cancelled() => return self.refuse(Some(first), &replica),
            };
            let mut flight = Gathering::new(first);
            while flight.commands.len() < replica.config.batch_commands_max {
                match self.queue.try_recv() {
                    Ok(more) if flight.weight + more.weight > replica.config.batch_bytes_max => {
                        next = Some(more);
                        break;
                    }
                    Ok(more) => flight.push(more),
                    Err(_) => break,
                }
            }
            if replica.stop.is_cancelled() {
                let error = replica.stopped();
                flight.waiters.into_iter().for_each(|w| drop(w.send(Err(error.clone()))));
                continue;
            }
            if let Some(flight) = flight.seal(&replica, permit) {
                launch(replica.clone(), flight).await;
            }
        }
    }

    fn refuse(mut self, first: Option<Proposal>, replica: &Inner) {
        self.queue.close();
        let error = replica.stopped();
        if let Some(first) = first {
            first.answer.send(Err(error.clone())).ok();
        }
        while let Ok(proposal) = self.queue.try_recv() {
            proposal.answer.send(Err(error.clone())).ok();
        }
        tracing::debug!(waiting = self.waiting.load(Ordering::Relaxed), "proposals refused");
    }
}

/// A payload in the making.
struct Gathering {
    commands: Vec<Command>,
    waiters: Vec<AnswerSender>,
    weight: usize,
    deadline: Instant,
}

impl Gathering {
    fn new(first: Proposal) -> Gathering {
        Gathering {
            commands: vec![first.command],
            waiters: vec![first.answer],
            weight: first.weight,
            deadline: first.deadline,
        }
    }

    fn push(&mut self, proposal: Proposal) {
        self.commands.push(proposal.command);
        self.waiters.push(proposal.answer);
        self.weight += proposal.weight;
        self.deadline = self.deadline.min(proposal.deadline);
    }

    /// Encodes what was gathered. Where this member leads and has no space left, what would add data is
    /// answered here and left out.
    fn seal(self, replica: &Inner, permit: OwnedSemaphorePermit) -> Option<Flight> {
        let Gathering { mut commands, mut waiters, deadline, .. } = self;
        if replica.is_leader()
            && let Err(full) = replica.room()
        {
            let (kept, kept_waiters) = leave_out_additions(commands, waiters, &full);
            (commands, waiters) = (kept, kept_waiters);
            if commands.is_empty() {
                return None;
            }
        }
        let payload = codec::encode_commands(&commands);
        Some(Flight { payload, commands: commands.into(), waiters, deadline, _permit: permit })
    }
}

fn leave_out_additions(
    commands: Vec<Command>,
    waiters: Vec<AnswerSender>,
    full: &kontiki_storage::Error,
) -> (Vec<Command>, Vec<AnswerSender>) {
    let mut kept = (Vec::new(), Vec::new());
    for (command, waiter) in commands.into_iter().zip(waiters) {
        if command.adds_data() {
            waiter.send(Err(Error::Store(full.clone()))).ok();
        } else {
            kept.0.push(command);
            kept.1.push(waiter);
        }
    }
    kept
}

/// Sends a payload on its way. Where this member leads that is one message to openraft, and the answer
/// goes from the task that applies it straight to the waiters; else a task of its own asks the leader.
async fn launch(replica: Arc<Inner>, flight: Flight) {
    if replica.is_leader() {
        propose_here(replica, flight).await;
    } else {
        let tasks = replica.clone();
        tasks.spawn(fly(replica, flight));
    }
}

async fn propose_here(replica: Arc<Inner>, flight: Flight) {
    replica.decoded.insert(&flight.payload, &flight.commands);
    let payload = flight.payload.clone();
    let landing = replica.clone();
    let callback = Callback::new(move |result: ClientWriteResult<TypeConfig>| {
        landing.decoded.remove(&flight.payload);
        match outcome(result) {
            Sent::Answered(answers) => flight.answer(answers),
            Sent::Unknown(reason) => flight.fail(|| Error::Unknown(reason.clone())),
            Sent::TurnedAway(_) => {
                let tasks = landing.clone();
                tasks.spawn(fly(landing, flight));
            }
        }
    });
    if let Err(fatal) =
        replica.raft().client_write_ff(Payload(payload.clone()), Some(callback)).await
    {
        // The callback went down with the message: its waiters hear of it by themselves.
        replica.decoded.remove(&payload);
        replica.note_fatal(&fatal);
    }
}

/// Looks for the leader until one takes the payload, it may have been carried out, or time is over.
async fn fly(replica: Arc<Inner>, flight: Flight) {
    let mut search = LeaderSearch::new(&replica, flight.deadline);
    loop {
        let leader = match search.next().await {
            Ok(leader) => leader,
            Err(gave_up) => {
                let error = gave_up.not_done(&replica);
                return flight.fail(|| error.clone());
            }
        };
        let sent = if leader == replica.id {
            propose_bytes(&replica, flight.payload.clone(), flight.commands.clone()).await
        } else {
            forward(&replica, leader, &flight).await
        };
        match sent {
            Sent::Answered(answers) => {
                // Who wrote through this member finds it written when asking this member next.
                let newest =
                    answers.iter().filter_map(|a| a.as_ref().ok().map(|a| a.revision)).max();
                if let Some(revision) = newest {
                    let limit = replica.config.election_timeout_ms.1;
                    let level = replica.progress.reached_revision(revision);
                    tokio::time::timeout(Duration::from_millis(limit), level).await.ok();
                }
                return flight.answer(answers);
            }
            Sent::Unknown(reason) => return flight.fail(|| Error::Unknown(reason.clone())),
            Sent::TurnedAway(reason) => search.turned_away(leader, reason),
        }
    }
}

async fn forward(replica: &Inner, leader: NodeId, flight: &Flight) -> Sent {
    let Some(link) = replica.link(leader) else {
        return Sent::TurnedAway(format!("{leader} is no member"));
    };
    let left = flight.deadline.saturating_duration_since(Instant::now());
    match link.forward(Forward::Propose(flight.payload.clone()), left).await {
        Ok(Forwarded::Proposed(answers)) => Sent::Answered(answers),
        Ok(Forwarded::NotLeader { .. }) => Sent::TurnedAway("it does not lead".into()),
        Ok(Forwarded::Unknown(reason)) => Sent::Unknown(reason),
        Ok(Forwarded::Refused(reason)) => Sent::TurnedAway(reason.to_string()),
        Ok(other) => Sent::Unknown(format!("an answer that does not fit: {other:?}")),
        Err(LinkError::NotSent { reason, .. } | LinkError::Refused { reason, .. }) => {
            Sent::TurnedAway(reason)
        }
        Err(unknown @ LinkError::Unknown { .. }) => Sent::Unknown(unknown.to_string()),
    }
}

/// Proposes bytes that are encoded already, on the leader, and waits for what comes of them.
pub(crate) async fn propose_bytes(
    replica: &Arc<Inner>,
    payload: Bytes,
    commands: Arc<[Command]>,
) -> Sent {
    replica.decoded.insert(&payload, &commands);
    let (sender, answered) = oneshot::channel();
    let (landing, key) = (replica.clone(), payload.clone());
    let callback = Callback::new(move |result: ClientWriteResult<TypeConfig>| {
        landing.decoded.remove(&key);
        sender.send(outcome(result)).ok();
    });
    if let Err(fatal) =
        replica.raft().client_write_ff(Payload(payload.clone()), Some(callback)).await
    {
        replica.decoded.remove(&payload);
        replica.note_fatal(&fatal);
    }
    let timeout = replica.config.request_timeout();
    match tokio::time::timeout(timeout, answered).await {
        Ok(Ok(sent)) => sent,
        Ok(Err(_)) => Sent::Unknown("the leader stopped before the answer".into()),
        Err(_) => Sent::Unknown(format!("no quorum in {} ms", timeout.as_millis())),
    }
}

/// What openraft says of an entry, in our words. Only `ForwardToLeader` is said before the entry is
/// appended; everything else leaves open whether it is, or will be, carried out.
fn outcome(result: ClientWriteResult<TypeConfig>) -> Sent {
    match result {
        Ok(done) => {
            Sent::Answered(Arc::try_unwrap(done.data.0).unwrap_or_else(|shared| (*shared).clone()))
        }
        Err(ClientWriteError::ForwardToLeader(elsewhere)) => {
            Sent::TurnedAway(elsewhere.to_string())
        }
        Err(ClientWriteError::LogEntryDiscarded(_)) => {
            Sent::Unknown("the leader changed before it was agreed on".into())
        }
        Err(other) => Sent::Unknown(other.to_string()),
    }
}

/// A proposal forwarded by a follower.
pub(crate) async fn propose_forwarded(replica: &Arc<Inner>, payload: Bytes) -> Forwarded {
    if !replica.is_leader() {
        return Forwarded::NotLeader { leader: replica.leader() };
    }
    let refused = |reason| Forwarded::Refused(MembershipError::Other(reason));
    let (bytes, max) = (payload.len(), replica.config.entry_bytes_max());
    if bytes > max {
        return refused(format!("{bytes} bytes are forwarded at once, at most {max} are taken"));
    }
    let commands: Arc<[Command]> = match codec::decode_commands(payload.clone()) {
        Ok(commands) => commands.into(),
        Err(error) => return refused(format!("the forwarded commands cannot be read: {error}")),
    };
    if let Err(full) = replica.room()
        && commands.iter().any(Command::adds_data)
    {
        return propose_without_additions(replica, &commands, &full).await;
    }
    match propose_bytes(replica, payload, commands).await {
        Sent::Answered(answers) => Forwarded::Proposed(answers),
        Sent::TurnedAway(_) => Forwarded::NotLeader { leader: replica.leader() },
        Sent::Unknown(reason) => Forwarded::Unknown(reason),
    }
}

/// No space is left: what adds data is refused, the rest goes its way.
async fn propose_without_additions(
    replica: &Arc<Inner>,
    commands: &Arc<[Command]>,
    full: &kontiki_storage::Error,
) -> Forwarded {
    let kept: Vec<Command> = commands.iter().filter(|c| !c.adds_data()).cloned().collect();
    let mut answers = Vec::new();
    if !kept.is_empty() {
        let payload = codec::encode_commands(&kept);
        match propose_bytes(replica, payload, kept.into()).await {
            Sent::Answered(kept_answers) => answers = kept_answers,
            Sent::TurnedAway(_) => {
                return Forwarded::NotLeader { leader: replica.leader() };
            }
            Sent::Unknown(reason) => return Forwarded::Unknown(reason),
        }
    }
    let mut answers = answers.into_iter();
    let merged = commands
        .iter()
        .map(|command| {
            if command.adds_data() {
                Err(full.clone())
            } else {
                answers.next().expect("one answer for each command that was kept")
            }
        })
        .collect();
    Forwarded::Proposed(merged)
}

pub(crate) type RaftFatal = Fatal<TypeConfig>;
