//! Hands agreed entries to the store in groups, and its answers to those who wait.
//!
//! openraft offers a run of committed entries as a stream. As many as fit the bounds become one call of
//! [`Store::apply`], which is one batch: data, revision and applied mark together.
//!
//! Keeps: entries are applied once each and in order; the store refuses anything else, and that ends this
//! member. An answer leaves after its batch is written, and a change of members is known to the whole of
//! this member by then; never before.
//! Never: tells openraft of a snapshot that goes further than what is durable. The log is purged up to
//! there.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{Stream, StreamExt};
use kontiki_storage::Store;
use kontiki_storage::request::{Entry, EntryAnswers};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, RaftSnapshotBuilder};
use parking_lot::Mutex;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::batcher::Decoded;
use crate::encoding::{Mark, unreadable};
use crate::progress::{Applied, Progress};
use crate::runtime::aside;
pub(crate) use crate::snapshots::{SnapshotData, Snapshots};
use crate::types::{
    LogId, NodeId, RaftEntry, Response, SnapshotMeta, StoredMembership, TypeConfig, position,
};

type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotData>;

/// A group of entries is handed to the store when it has so many bytes, or so many entries.
const GROUP_BYTES_MAX: usize = 4 << 20;
const GROUP_ENTRIES_MAX: usize = 1024;

/// A group larger than this is applied where it does not hold up other tasks.
const GROUP_BYTES_INLINE_MAX: usize = 64 << 10;

/// Who belongs to the cluster, by what was applied.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    pub agreed: Arc<StoredMembership>,
    pub removed: Vec<NodeId>,
}

impl Roster {
    fn of(mark: &Mark) -> Roster {
        Roster { agreed: Arc::new(mark.membership.clone()), removed: mark.removed.clone() }
    }
}

pub(crate) struct StateMachine {
    store: Store,
    mark: Mark,
    /// The mark's unchanging part, encoded.
    members: Bytes,
    decoded: Arc<Decoded>,
    progress: Arc<Progress>,
    snapshots: Arc<Snapshots>,
    /// What the rest of the member knows of who belongs to the cluster.
    roster: Arc<Mutex<Roster>>,
    /// Stopping waits until openraft has let go of this.
    _present: TaskTrackerToken,
}

/// Entries on their way into the store.
#[derive(Default)]
struct Group {
    entries: Vec<Entry>,
    waiting: Vec<Option<ApplyResponder<TypeConfig>>>,
    bytes: usize,
}

impl StateMachine {
    pub(crate) fn new(
        store: Store,
        decoded: Arc<Decoded>,
        progress: Arc<Progress>,
        snapshots: Arc<Snapshots>,
        roster: Arc<Mutex<Roster>>,
        present: TaskTrackerToken,
    ) -> io::Result<StateMachine> {
        let (_, mark) = store.applied();
        let mark = Mark::decode(&mark).map_err(unreadable)?;
        let members = mark.encode_members();
        *roster.lock() = Roster::of(&mark);
        let _present = present;
        Ok(StateMachine { store, mark, members, decoded, progress, snapshots, roster, _present })
    }

    pub(crate) fn last_applied(&self) -> Option<LogId> {
        self.mark.log_id
    }

    /// Applies entries that are known to be agreed on: at start, before openraft is there.
    pub(crate) fn replay(&mut self, entries: Vec<RaftEntry>) -> io::Result<()> {
        let mut group = Group::default();
        for entry in entries {
            self.gather(&mut group, entry, None)?;
        }
        self.apply_group(group)
    }

    fn gather(
        &mut self,
        group: &mut Group,
        entry: RaftEntry,
        responder: Option<ApplyResponder<TypeConfig>>,
    ) -> io::Result<()> {
        let commands = match &entry.payload {
            EntryPayload::Blank => Arc::default(),
            EntryPayload::Normal(payload) => {
                group.bytes += payload.0.len();
                self.decoded.commands(&payload.0).map_err(io::Error::other)?
            }
            EntryPayload::Membership(membership) => {
                let stored = StoredMembership::new(Some(entry.log_id), membership.clone());
                self.mark.change_membership(stored);
                self.members = self.mark.encode_members();
                *self.roster.lock() = Roster::of(&self.mark);
                Arc::default()
            }
        };
        self.mark.log_id = Some(entry.log_id);
        group.entries.push(Entry {
            index: position(entry.log_id.index),
            term: entry.log_id.leader_id.term,
            mark: Mark::encode(&entry.log_id, &self.members),
            commands,
        });
        group.waiting.push(responder);
        Ok(())
    }

    fn apply_group(&mut self, group: Group) -> io::Result<()> {
        let Some(last) = group.entries.last() else {
            return Ok(());
        };
        let index = last.index;
        let answers = self.write(&group)?;
        assert_eq!(answers.len(), group.waiting.len(), "one set of answers for each entry");
        let applied = Applied { index, revision: self.store.revision() };
        self.progress.note_applied(applied, group.bytes as u64);
        for (waiting, answers) in group.waiting.into_iter().zip(answers) {
            if let Some(responder) = waiting {
                responder.send(Response(Arc::new(answers)));
            }
        }
        Ok(())
    }

    fn write(&self, group: &Group) -> io::Result<Vec<EntryAnswers>> {
        let apply = || {
            let answers = self.store.apply(&group.entries);
            answers.inspect_err(|error| self.snapshots.doubt(error)).map_err(io::Error::other)
        };
        if group.bytes > GROUP_BYTES_INLINE_MAX { aside(apply) } else { apply() }
    }

    /// The snapshot openraft may count on: what is durable, by name only.
    fn durable(&self) -> io::Result<Option<Snapshot>> {
        let (_, mark) = self.store.durable_mark();
        let mark = Mark::decode(&mark).map_err(unreadable)?;
        let Some(last) = mark.log_id else {
            return Ok(None);
        };
        Ok(Some(Snapshot {
            meta: SnapshotMeta { last_log_id: Some(last), last_membership: mark.membership },
            snapshot: SnapshotData::Present,
        }))
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.mark.log_id, self.mark.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        let mut group = Group::default();
        while let Some(entry) = entries.next().await {
            let (entry, responder) = entry?;
            self.gather(&mut group, entry, responder)?;
            if group.bytes >= GROUP_BYTES_MAX || group.entries.len() >= GROUP_ENTRIES_MAX {
                self.apply_group(std::mem::take(&mut group))?;
            }
        }
        self.apply_group(group)
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Builder> {
        // Nothing durable yet is nothing to tell.
        self.durable().transpose().map(Builder)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let empty = || io::Error::other("nothing is durable yet");
        Builder(self.durable().and_then(|snapshot| snapshot.ok_or_else(empty)))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> io::Result<()> {
        let SnapshotData::Received(received) = snapshot else {
            return Err(io::Error::other("there is nothing to install in what is present here"));
        };
        let mark = self.snapshots.install(received).await.map_err(io::Error::other)?;
        assert_eq!(mark.log_id, meta.last_log_id, "the snapshot was checked when it was received");
        let (index, _) = self.store.applied();
        self.mark = mark;
        self.members = self.mark.encode_members();
        *self.roster.lock() = Roster::of(&self.mark);
        let applied = Applied { index, revision: self.store.revision() };
        self.progress.note_applied(applied, 0);
        self.progress.note_durable(index);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        self.durable()
    }
}

/// A "snapshot" that is made of what is durable already.
pub(crate) struct Builder(io::Result<Snapshot>);

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        std::mem::replace(&mut self.0, Err(io::Error::other("the snapshot is handed out already")))
    }
}
