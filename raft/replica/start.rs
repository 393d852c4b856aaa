//! How a member begins and ends.
//!
//! The store is opened at what was durable, the log behind it is checked, and what is known to be agreed
//! on is applied before openraft is there: a long tail in large groups, not in openraft's small ones.
//!
//! Keeps: nothing votes or serves from a directory that is condemned, and what shows at opening that
//! something acknowledged is lost condemns it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use kontiki_storage::compaction::Floor;
use kontiki_storage::directory::{Directory, Space};
use kontiki_storage::engine::Open;
use kontiki_storage::revision::Index;
use kontiki_storage::{Options, Store};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::batcher;
use crate::carry::Awaited;
use crate::duties::{self, disk_watch, flusher, leader_watch, lease_keeper::Leases, scrubber};
use crate::encoding::Mark;
use crate::error::Error;
use crate::lifecycle::Stage;
use crate::log::{self, Log, OpenError};
use crate::log_store::LogStore;
use crate::membership;
use crate::network::{Forward, Forwarded, LinkError, Transport};
use crate::outbound::{Outbound, WAS_REMOVED};
use crate::progress::{Applied, Progress};
use crate::read::{self, Barriers};
use crate::replica::{Config, Inner, Role, Status, status};
use crate::runtime::aside;
use crate::snapshots::Snapshots;
use crate::state_machine::{Roster, StateMachine};
use crate::types::{ClusterId, NodeId, Peer, Raft};

/// Bytes of log that are read and applied at a time while a member starts.
const REPLAY_BYTES: usize = 8 << 20;

/// What still runs so long after everything was told to end hangs, most likely at the disk.
const HALT_WAIT_MAX: Duration = Duration::from_secs(15);

/// What a replica is made of. The ids are those of the directory.
pub struct Parts {
    pub directory: Arc<Directory>,
    pub engine: Arc<dyn Open>,
    pub store: Options,
    pub log_disk: Arc<dyn log::Disk>,
    pub log: log::Options,
    pub transport: Arc<dyn Transport>,
    /// Guards what is left of the disk; without it only the disk itself says when it is full.
    pub space: Option<Arc<Space>>,
}

pub(crate) async fn start(parts: Parts, config: Config) -> Result<Arc<Inner>, Error> {
    let identity = parts.directory.identity().clone();
    let (id, cluster) = (NodeId(identity.node), ClusterId(identity.cluster));
    let settings = Arc::new(config.openraft()?);
    config.fit(&parts.log)?;

    let Opened { store, log, segments, mark } = aside(|| open(&parts, id))?;
    let log_store =
        LogStore::new(log.clone()).map_err(|error| condemn(&parts.directory, error.to_string()))?;

    let (index, _) = store.applied();
    let applied = Applied { index, revision: store.revision() };
    let progress = Arc::new(Progress::new(applied, index, config.flush_bytes));
    let decoded = Arc::default();
    let roster: Arc<Mutex<Roster>> = Arc::default();
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let snapshots = Snapshots::open(
        parts.directory.clone(),
        store.clone(),
        parts.engine.clone(),
        stop.clone(),
        tasks.clone(),
    )?;
    let mut machine = StateMachine::new(
        store.clone(),
        Arc::clone(&decoded),
        progress.clone(),
        snapshots.clone(),
        roster.clone(),
        tasks.token(),
    )
    .map_err(|error| condemn(&parts.directory, error.to_string()))?;
    aside(|| replay(&mut machine, &log_store)).map_err(|error| {
        Error::Stopped(format!("what was agreed on cannot be applied again: {error}"))
    })?;

    let awaited = Awaited::default();
    let (proposer, batcher) = batcher::new(config.waiting_max);
    let inner = Arc::new(Inner {
        id,
        cluster,
        stop: stop.clone(),
        awaited: awaited.clone(),
        progress,
        decoded,
        snapshots: snapshots.clone(),
        barriers: Barriers::new(config.waiting_max),
        leases: Leases::default(),
        changing: tokio::sync::Mutex::new(()),
        flushing: tokio::sync::Mutex::new(()),
        store,
        log,
        log_segments: segments,
        log_segment_bytes: parts.log.segment_bytes,
        space: parts.space,
        directory: parts.directory,
        transport: parts.transport.clone(),
        raft: OnceLock::new(),
        proposer,
        links: Mutex::default(),
        roster: roster.clone(),
        status: watch::Sender::new(Status::default()),
        failure: Mutex::default(),
        tasks: tasks.clone(),
        config,
    });
    let told = Arc::downgrade(&inner);
    let outbound = Outbound {
        transport: parts.transport,
        snapshots,
        on_removed: Arc::new(move |reason| {
            if let Some(inner) = told.upgrade() {
                inner.note_removed(reason);
            }
        }),
        patience: Duration::from_millis(inner.config.election_timeout_ms.0),
        stop,
        awaited,
        tasks,
    };
    let raft = Raft::build(id, settings, outbound, log_store, machine)
        .await
        .map_err(|fatal| Error::Stopped(format!("consensus cannot start: {fatal}")))?;
    assert!(inner.raft.set(raft).is_ok(), "openraft is built once");
    if Stage::of(id, None, &mark) == Stage::Removed {
        inner.note_removed("its own store says so");
    }
    run(&inner, batcher);
    Ok(inner)
}

/// Starts openraft and everything that runs beside it.
fn run(inner: &Arc<Inner>, batcher: batcher::Batcher) {
    inner.raft().run();
    inner.spawn(elect_oneself(inner.clone()));
    inner.spawn(batcher.run(inner.clone()));
    inner.spawn(read::run(inner.clone()));
    inner.spawn(status::run(inner.clone()));
    inner.spawn(status::become_ready(inner.clone()));
    inner.spawn(duties::run(inner.clone()));
    inner.spawn(flusher::run(inner.clone()));
    inner.spawn(disk_watch::run(inner.clone()));
    inner.spawn(leader_watch::run(inner.clone()));
    inner.spawn(scrubber::run(inner.clone()));
    inner.spawn(watch_log(inner.clone()));
    inner.spawn(follow(inner.clone()));
}

struct Opened {
    store: Store,
    log: Log,
    segments: usize,
    mark: Mark,
}

fn open(parts: &Parts, id: NodeId) -> Result<Opened, Error> {
    let directory = &parts.directory;
    let condemned = directory.condemned()?;
    if let Some(reason) = Stage::of(id, condemned, &Mark::default()).refusal() {
        return Err(Error::Directory { path: directory.path().to_owned(), reason });
    }
    let store = open_store(parts)?;
    let (index, mark) = store.applied();
    let mark = Mark::decode(&mark).map_err(|error| condemn(directory, error.to_string()))?;
    let identity = directory.identity();
    let owner = log::Identity { cluster: identity.cluster, node: identity.node };
    let (log, found) = match Log::open(parts.log_disk.clone(), owner, parts.log.clone()) {
        Ok(opened) => opened,
        Err(lost @ OpenError::Amnesia { .. }) => return Err(condemn(directory, lost.to_string())),
        Err(error) => {
            let path = directory.log();
            return Err(Error::Directory { path, reason: error.to_string() });
        }
    };
    let purged = log.state().purged.map(|(index, _)| Index(index));
    if let Some(purged) = purged
        && purged > index
    {
        let reason =
            format!("the store ends at entry {index}, but the log before {purged} is gone");
        return Err(condemn(directory, reason));
    }
    // An emptied log directory is a lost log, unless nothing was ever there. The store alone would not
    // know: it is made durable later than the first vote and the first entries.
    if found.created && (index > Index(0) || directory.log_was_begun()?) {
        return Err(condemn(directory, "the log is gone".into()));
    }
    note_log_begun(directory, found.created)?;
    Ok(Opened { store, log, segments: found.segments, mark })
}

/// Before anything in the log is acknowledged. A log that has been there for long can wait for it.
fn note_log_begun(directory: &Directory, created: bool) -> Result<(), Error> {
    match directory.note_log_begun() {
        Err(error) if !created => {
            tracing::warn!(%error, "that there is a log is not noted yet");
            Ok(())
        }
        noted => noted.map_err(Error::from),
    }
}

fn open_store(parts: &Parts) -> Result<Store, Error> {
    let directory = &parts.directory;
    let floor = Floor::default();
    let opened = directory
        .state()
        .and_then(|path| parts.engine.open(&path, floor.retain()))
        .and_then(|engine| Store::open(engine, floor, parts.store.clone()));
    opened.map_err(|error| match error {
        damaged @ kontiki_storage::Error::Damaged(_) => condemn(directory, damaged.to_string()),
        other => other.into(),
    })
}

/// Writes the tombstone, and says what it says.
fn condemn(directory: &Directory, reason: String) -> Error {
    if let Err(error) = directory.condemn(&reason) {
        tracing::error!(%error, "the directory cannot be marked as condemned");
    }
    let reason = Stage::Condemned(reason).refusal().expect("a condemned directory is refused");
    Error::Directory { path: directory.path().to_owned(), reason }
}

/// Applies what the log knows to be agreed on and the store does not hold yet.
fn replay(machine: &mut StateMachine, log: &LogStore) -> std::io::Result<()> {
    let Some(committed) = log.committed()? else {
        return Ok(());
    };
    let mut next = machine.last_applied().map_or(0, |id| id.index + 1);
    let (first, began) = (next, tokio::time::Instant::now());
    while next <= committed.index {
        let entries = log.entries(next, committed.index + 1, REPLAY_BYTES)?;
        let Some(last) = entries.last() else {
            return Err(std::io::Error::other(format!("the log does not hold entry {next}")));
        };
        next = last.log_id.index + 1;
        machine.replay(entries)?;
    }
    if next > first {
        let took_ms = began.elapsed().as_millis() as u64;
        tracing::info!(entries = next - first, took_ms, "applied what the store had not kept");
    }
    Ok(())
}

/// Makes a cluster of one.
pub(crate) async fn bootstrap(inner: &Arc<Inner>, peer: Peer) -> Result<(), Error> {
    use openraft::error::RaftError;
    let members = std::collections::BTreeMap::from([(inner.id, peer)]);
    match inner.raft().initialize(members).await {
        Ok(()) => {}
        Err(RaftError::Fatal(fatal)) => return Err(inner.note_fatal(&fatal)),
        Err(RaftError::APIError(_)) => {
            return Err(Error::Directory {
                path: inner.directory.path().to_owned(),
                reason: "holds a cluster already; start without asking for a new one, or use an \
                         empty directory"
                    .into(),
            });
        }
    }
    // It leads, and has agreed with itself on the membership, when it can serve a read.
    inner.read_barrier().await
}

pub(crate) async fn shutdown(inner: &Arc<Inner>) {
    if inner.stop.is_cancelled() {
        return halt(inner).await;
    }
    if inner.is_leader()
        && let Some(successor) = membership::successor(inner)
        && let Err(error) = membership::transfer_leader(inner, successor).await
    {
        tracing::debug!(%error, "leadership was not handed over");
    }
    if inner.progress.applied() > inner.progress.durable() {
        flusher::flush(inner).await;
    }
    halt(inner).await;
}

pub(crate) async fn halt(inner: &Arc<Inner>) {
    inner.stop.cancel();
    inner.status.send_modify(|status| {
        if !matches!(status.role, Role::Stopped(_)) {
            status.role = Role::Stopped("it was shut down".into());
        }
    });
    if let Err(error) = inner.raft().shutdown().await {
        tracing::warn!(%error, "consensus did not end well");
    }
    // Not only our own tasks: openraft's that hold something of ours, and what peers had under way.
    inner.tasks.close();
    if tokio::time::timeout(HALT_WAIT_MAX, inner.tasks.wait()).await.is_err() {
        let left = inner.tasks.len();
        tracing::error!(
            left,
            "not everything of this member has ended; its directory stays in use"
        );
    }
    aside(|| inner.log.close());
}

/// A log that failed ends the member: what it was writing may or may not be there.
async fn watch_log(inner: Arc<Inner>) {
    let mut failed = inner.log.failed();
    let reason = tokio::select! {
        biased;
        failed = failed.wait_for(Option::is_some) => match failed {
            Ok(reason) => reason.as_ref().map_or_else(String::new, ToString::to_string),
            Err(_) => "it was closed".into(),
        },
        () = inner.stop.cancelled() => return,
    };
    inner.fail(format!("the log failed: {reason}"));
}

/// The only voter there is need not wait for anybody's silence.
async fn elect_oneself(inner: Arc<Inner>) {
    let id = inner.id;
    let alone = inner.raft().with_raft_state(move |state| {
        let mut voters = state.membership_state.effective().voter_ids();
        voters.next() == Some(id) && voters.next().is_none()
    });
    let elected = match alone.await {
        Ok(true) if !inner.was_removed(id) => inner.raft().trigger().elect(false).await,
        Ok(_) => Ok(()),
        Err(fatal) => Err(fatal),
    };
    if let Err(fatal) = elected
        && !inner.stop.is_cancelled()
    {
        inner.note_fatal(&fatal);
    }
}

/// What a member does that does not vote: asks to, where it is meant to, and notices when it was let go.
async fn follow(inner: Arc<Inner>) {
    let pause = Duration::from_millis(inner.config.election_timeout_ms.0 / 2);
    loop {
        tokio::select! {
            biased;
            () = tokio::time::sleep(pause) => {}
            () = inner.stop.cancelled() => return,
        }
        let status = inner.status.borrow().clone();
        if status.role != Role::Learner || inner.membership().nodes().next().is_none() {
            continue;
        }
        let member = inner.membership().get_node(&inner.id).is_some();
        let request = if inner.config.become_voter && member && status.applied.0 > 0 {
            Forward::Promote(inner.id)
        } else {
            Forward::ReadIndex
        };
        ask_members(&inner, request, pause).await;
    }
}

/// Asks the leader, or anybody where none is known. All that matters here is being turned away.
async fn ask_members(inner: &Arc<Inner>, request: Forward, patience: Duration) {
    let membership = inner.membership();
    let leader = inner.leader();
    let others = membership.nodes().map(|(id, _)| *id).filter(|id| Some(*id) != leader);
    for id in leader.into_iter().chain(others).filter(|id| *id != inner.id) {
        let Some(link) = inner.link(id) else { continue };
        match link.forward(request.clone(), patience).await {
            Err(LinkError::Refused { reason, .. }) if reason.contains(WAS_REMOVED) => {
                return inner.note_removed(&reason);
            }
            Ok(Forwarded::NotLeader { .. }) | Err(_) => {}
            Ok(Forwarded::Refused(reason)) => {
                return tracing::debug!(%reason, "not a voter yet");
            }
            Ok(_) => return,
        }
    }
}

impl Inner {
    /// The cluster has let go of this member: it calls no more elections, now or after a restart.
    pub(crate) fn note_removed(&self, reason: &str) {
        {
            let mut roster = self.roster.lock();
            if roster.removed.contains(&self.id) && self.status.borrow().role == Role::Removed {
                return;
            }
            if !roster.removed.contains(&self.id) {
                roster.removed.push(self.id);
            }
        }
        tracing::warn!(%reason, member = %self.id, "this member is no longer part of the cluster");
        if let Some(raft) = self.raft.get() {
            raft.runtime_config().elect(false);
        }
        if let Err(error) = self.directory.condemn(&format!("this member {WAS_REMOVED}")) {
            tracing::error!(%error, "the directory cannot be marked as removed");
        }
        self.status.send_modify(|status| {
            if !matches!(status.role, Role::Stopped(_)) {
                status.role = Role::Removed;
                status.leader = None;
            }
        });
    }
}
