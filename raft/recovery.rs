//! What is done to a data directory while no member runs on it: a cluster begun anew from an archive, or
//! from the one directory that is left of it.
//!
//! Both leave a directory whose member is the only voter and leads as soon as it is started. The others
//! come as learners, with empty directories and ids of their own.
//!
//! Keeps: nothing is served from a directory on which this broke off half-way. It starts as it was
//! before, it starts as it is meant to be, or it refuses to start and says why.
//! Never: decides that it is time for this. Whoever calls has made sure that no other member of the old
//! cluster runs, or ever runs again on its old directory: two clusters of one name would each be right.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use kontiki_storage::compaction::Floor;
use kontiki_storage::directory::Directory;
use kontiki_storage::engine::{Batch, Open, Table};
use kontiki_storage::revision::{Index, Revision};
use kontiki_storage::row::State;
use kontiki_storage::snapshot::archive;
use kontiki_storage::{Options, Store, keys};
use openraft::EntryPayload;

use crate::encoding::{self, Mark, log_id};
use crate::error::Error;
use crate::lifecycle::Stage;
use crate::log::{self, Done, Log, Record};
use crate::log_store::LogStore;
use crate::network::convert;
use crate::types::{LogId, Membership, NodeId, Peer, RaftEntry, StoredMembership, Vote, position};

/// How far revisions jump when a store is restored, where nobody asks for anything else. Clients that saw
/// the lost cluster hold revisions of it; all that they can have seen must lie below those to come.
pub const REVISION_BUMP: u64 = 1_000_000_000;

/// A directory on which no member runs, and what its files are opened with.
pub struct Offline<'a> {
    pub directory: &'a Directory,
    pub engine: &'a dyn Open,
    pub log_disk: Arc<dyn log::Disk>,
    pub log: log::Options,
}

/// Where a store stands that was restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The newest revision. All below it counts as compacted, so that whoever watched the lost cluster
    /// is told to look anew instead of being shown another history under numbers it knows.
    pub revision: Revision,
    /// The newest revision in the archive.
    pub archived: Revision,
}

/// Where a directory stands that was made a cluster of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forced {
    /// The newest entry it held. All of its log counts as agreed on: some of it may have been
    /// acknowledged by members that are gone.
    pub last: Index,
    /// The first term of the cluster that begins.
    pub term: u64,
}

/// Fills a fresh directory, which has an identity that was never used, with the archive `from`. Its
/// revisions go on `bump` above those of the archive.
///
/// If it breaks off, empty the directory and begin again; it does not start before.
pub fn restore(
    offline: &Offline<'_>,
    me: Peer,
    from: impl Read,
    bump: u64,
) -> Result<Restored, Error> {
    let directory = offline.directory;
    if offline.stage()? != Stage::Blank {
        let reason = "holds a member's data; restore into an empty directory";
        return Err(refused(directory, reason));
    }
    let (_, incoming) = archive::read(from, directory.incoming()?)?;
    let rebased = rebase(offline, incoming.path(), me, bump)?;
    let (log, found) = offline.open_log()?;
    if !found.created {
        return Err(refused(directory, "holds a log; restore into an empty directory"));
    }
    // The log begins behind the store, as after a snapshot: who joins is filled by a snapshot, because
    // the history before is in no log.
    let at = rebased.at;
    submit(directory, |done| log.save_vote(vote(&at, directory), done))?;
    log.save_committed(convert::encode_log_id(&at));
    submit(directory, |done| log.purge(position(at.index).0, encoding::encode_place(&at), done))?;
    log.close();
    directory.adopt(incoming)?;
    directory.sweep()?;
    Ok(rebased.restored)
}

/// Makes the member of this directory the only voter of its cluster, which goes on with what it holds.
/// For when a quorum is lost for good: what only the lost members held is lost with them.
///
/// All others count as removed. Their directories must not be started among themselves; they come back
/// as `lifecycle::rejoin` brings them, under new ids.
pub fn force_new_cluster(offline: &Offline<'_>, me: Peer) -> Result<Forced, Error> {
    let directory = offline.directory;
    let stage = offline.stage()?;
    if let Some(reason) = stage.refusal() {
        return Err(refused(directory, reason));
    }
    let (log, _) = offline.open_log()?;
    let store = LogStore::new(log.clone()).map_err(|error| damaged(directory, &error))?;
    let last = store.last().map_err(|error| damaged(directory, &error))?;
    // A standby has never voted, but what it holds was agreed on.
    let Some(last) = last else {
        return Err(refused(directory, "holds no cluster; there is nothing to go on with"));
    };
    let voted = store.vote().map_or(0, |vote| vote.leader_id.term);
    let term = voted.max(last.leader_id.term) + 1;
    let at = log_id(term, last.index + 1);
    // The vote first: whatever happens after, this term is never anybody else's.
    submit(directory, |done| log.save_vote(vote(&at, directory), done))?;
    let entry = RaftEntry {
        log_id: at,
        payload: EntryPayload::Membership(only(NodeId(directory.identity().node), me)),
    };
    let (id, payload) = encoding::encode_entry(&entry);
    log.save_committed(convert::encode_log_id(&at));
    let record = Record { index: position(at.index).0, id, payload };
    submit(directory, |done| log.append(vec![record], done))?;
    log.close();
    Ok(Forced { last: position(last.index), term })
}

impl Offline<'_> {
    fn stage(&self) -> Result<Stage, Error> {
        let id = NodeId(self.directory.identity().node);
        if let Some(reason) = self.directory.condemned()? {
            return Ok(Stage::of(id, Some(reason), &Mark::default()));
        }
        let floor = Floor::default();
        let engine = self.engine.open(&self.directory.state()?, floor.retain())?;
        let (_, mark) = Store::open(engine, floor, Options::default())?.applied();
        let mark = Mark::decode(&mark).map_err(|error| damaged(self.directory, &error))?;
        Ok(Stage::of(id, None, &mark))
    }

    fn open_log(&self) -> Result<(Log, log::Opened), Error> {
        let identity = self.directory.identity();
        let owner = log::Identity { cluster: identity.cluster, node: identity.node };
        Log::open(self.log_disk.clone(), owner, self.log.clone())
            .map_err(|error| refused(self.directory, error.to_string()))
    }
}

struct Rebased {
    at: LogId,
    restored: Restored,
}

/// Makes the state in `path` that of a cluster which begins: at the archive's place in history, with one
/// member, and with revisions above all that were ever shown.
fn rebase(offline: &Offline<'_>, path: &Path, me: Peer, bump: u64) -> Result<Rebased, Error> {
    let engine = offline.engine.open(path, Floor::default().retain())?;
    let row = engine.get(Table::Meta, keys::STATE)?;
    let row = row.ok_or_else(|| refused(offline.directory, "the archive holds no store"))?;
    let mut state = State::read(&row)?;
    let archived = state.revision;
    let mark = Mark::decode(&state.mark).map_err(|error| damaged(offline.directory, &error))?;
    let at = mark.log_id.unwrap_or_else(|| log_id(1, 0));
    let membership = only(NodeId(offline.directory.identity().node), me);
    let mark = Mark {
        log_id: Some(at),
        membership: StoredMembership::new(Some(at), membership),
        removed: Vec::new(),
    };
    let revision = archived.0.checked_add(bump).map(Revision).ok_or_else(|| {
        refused(offline.directory, format!("revision {archived} cannot be raised by {bump}"))
    })?;
    state.applied = Some(position(at.index));
    state.mark = Mark::encode(&at, &mark.encode_members());
    (state.revision, state.compacted) = (revision, revision);
    let mut batch = Batch::new();
    batch.put(Table::Meta, &[keys::STATE], &[&state.head(), &state.mark]);
    engine.write(&batch)?;
    engine.sync()?;
    Ok(Rebased { at, restored: Restored { revision, archived } })
}

/// A membership of one voter and nobody else.
fn only(id: NodeId, peer: Peer) -> Membership {
    Membership::new(vec![BTreeSet::from([id])], BTreeMap::from([(id, peer)]))
        .expect("one voter, who is described")
}

/// Up to the term of `at` this member has voted for itself, and can be elected in the next.
fn vote(at: &LogId, directory: &Directory) -> Bytes {
    convert::encode_vote(&Vote::new(at.leader_id.term, NodeId(directory.identity().node)))
}

/// Hands an operation to the log and waits until it is durable.
fn submit(directory: &Directory, operation: impl FnOnce(Done)) -> Result<(), Error> {
    let (told, result) = mpsc::channel();
    operation(Box::new(move |result| drop(told.send(result))));
    let stopped = || Err(io::Error::other("the log has stopped"));
    result.recv().unwrap_or_else(|_| stopped()).map_err(|error| damaged(directory, &error))
}

fn refused(directory: &Directory, reason: impl Into<String>) -> Error {
    Error::Directory { path: directory.path().to_owned(), reason: reason.into() }
}

fn damaged(directory: &Directory, error: &dyn std::error::Error) -> Error {
    refused(directory, error.to_string())
}
