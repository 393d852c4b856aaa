//! One group of log entries against the state: what it answers, which rows it writes, what it tells.
//!
//! Pure and deterministic: a function of the rows below and the entries, and of nothing else. No clock, no
//! randomness, no map whose order could show. Every member runs it on the same entries, in groups of
//! whatever size, and comes to the same rows.
//!
//! Keeps: a command changes all it should or nothing; a revision is given here and nowhere else, one to
//! each command that changes a key; later commands of a group see what earlier ones did.
//! Never: writes. Rows go into a batch, and only when the store has written that does anything count.

mod digest;
mod guard;
mod leases;
mod pending;
pub(crate) mod transaction;

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use crate::engine::{Batch, Read, Table};
use crate::error::Error;
use crate::keys;
use crate::lease::LeaseChange;
use crate::record::{Event, EventKind, KeyValue, LeaseId};
use crate::request::{
    Answer, Command, Delete, DeleteAnswer, Entry, EntryAnswers, KeyRange, Outcome, Put, PutAnswer,
    Range, RangeAnswer,
};
use crate::revision::{Index, Revision};
use crate::row::{self, Head, State};
use crate::view::{At, Gathered, Moment, range, scan};
use crate::watch::Commit;

use pending::{Overlay, Pending};

pub use digest::Digest;
pub(crate) use digest::Digester;

/// What is needed to work on groups, one after the other. Its buffers are used again and again.
pub(crate) struct Applier {
    batch: Batch,
    digester: Digester,
    row_key: Vec<u8>,
}

/// What came of a group, once its batch is written.
pub(crate) struct Applied {
    pub(crate) answers: Vec<EntryAnswers>,
    pub(crate) state: State,
    pub(crate) commits: Vec<Commit>,
    pub(crate) lease_changes: Vec<LeaseChange>,
}

/// A buffer larger than this is given back after a group that needed it.
const BATCH_KEPT_BYTES: usize = 16 << 20;

impl Applier {
    pub(crate) fn new() -> Applier {
        Applier { batch: Batch::new(), digester: Digester::new(), row_key: Vec::new() }
    }

    /// Works out what `entries` do to `base`, a store that is at `state`. What must be written is in
    /// [`Applier::batch`] afterwards. An error here leaves nothing to write.
    pub(crate) fn apply(
        &mut self,
        base: &dyn Read,
        state: State,
        entries: &[Entry],
    ) -> Result<Applied, Error> {
        if self.batch.weight() > BATCH_KEPT_BYTES {
            self.batch = Batch::new();
        }
        self.batch.clear();
        let mut group = Group {
            base,
            batch: &mut self.batch,
            digester: &mut self.digester,
            row_key: &mut self.row_key,
            state,
            pending: Pending::default(),
            open: Vec::new(),
            commits: Vec::new(),
            lease_changes: Vec::new(),
        };
        let answers = entries.iter().map(|entry| group.entry(entry)).collect::<Result<_, _>>();
        match answers {
            Ok(answers) => {
                group.batch.put(
                    Table::Meta,
                    &[keys::STATE],
                    &[&group.state.head(), &group.state.mark],
                );
                let Group { state, commits, lease_changes, .. } = group;
                Ok(Applied { answers, state, commits, lease_changes })
            }
            Err(error) => {
                self.batch.clear();
                Err(error)
            }
        }
    }

    pub(crate) fn batch(&self) -> &Batch {
        &self.batch
    }
}

/// A group while it is being worked on.
pub(crate) struct Group<'g> {
    base: &'g dyn Read,
    batch: &'g mut Batch,
    digester: &'g mut Digester,
    /// Room to build a row key in.
    row_key: &'g mut Vec<u8>,
    /// After the commands so far; its revision is the newest that is closed.
    state: State,
    pending: Pending,
    /// The changes of the revision that is being made, in sub order.
    open: Vec<Arc<Event>>,
    commits: Vec<Commit>,
    lease_changes: Vec<LeaseChange>,
}

impl Group<'_> {
    fn entry(&mut self, entry: &Entry) -> Result<EntryAnswers, Error> {
        // A log may begin at 0 or at 1; from then on there is no choice.
        let follows = match self.state.applied {
            Some(applied) => entry.index == applied.next(),
            None => entry.index <= Index(1),
        };
        if !follows {
            let applied = self.state.applied.unwrap_or_default();
            return Err(Error::OutOfOrder { given: entry.index, applied });
        }
        let mut answers = Vec::with_capacity(entry.commands.len());
        for command in entry.commands.iter() {
            let answer = self.command(command, entry.term);
            match answer {
                Err(error) if error.is_fatal() => return Err(error),
                Ok(_) | Err(_) => {}
            }
            assert!(self.open.is_empty(), "a command left revision {} open", self.revision());
            answers.push(answer);
        }
        self.state.applied = Some(entry.index);
        self.state.mark = entry.mark.clone();
        Ok(answers)
    }

    fn command(&mut self, command: &Command, term: u64) -> Result<Answer, Error> {
        command.check()?;
        let command = match command {
            Command::Guarded(guarded) => guard::passed(self, guarded)?,
            command => command,
        };
        let outcome = match command {
            Command::Put(put) => {
                transaction::check_put(self, put)?;
                Outcome::Put(self.put(put)?)
            }
            Command::Delete(delete) => Outcome::Delete(self.delete(delete)?),
            Command::Transaction(transaction) => {
                Outcome::Transaction(transaction::apply(self, transaction)?)
            }
            Command::Compact(revision) => self.compact(*revision)?,
            Command::LeaseGrant { id, ttl_s } => self.lease_grant(*id, *ttl_s)?,
            Command::LeaseRevoke { id } => self.lease_revoke(*id)?,
            Command::LeaseExpire { ids, term: meant } => {
                self.lease_expire(if *meant == term { ids } else { &[] })?
            }
            Command::LeaseCheckpoint { remaining_ms, term: meant } => {
                self.lease_checkpoint(if *meant == term { remaining_ms } else { &[] })?
            }
            Command::Guarded(_) => unreachable!("a guard within a guard was refused above"),
        };
        self.close();
        Ok(Answer { revision: self.state.revision, outcome })
    }

    fn put(&mut self, put: &Put) -> Result<PutAnswer, Error> {
        let slot = self.pending.slot(self.base, &put.key)?;
        let now = slot.now();
        let revision = self.begin();
        let kept = |ignored: bool| ignored.then(|| now.ok_or(Error::KeyNotFound)).transpose();
        let kv = KeyValue {
            key: put.key.clone(),
            value: kept(put.ignore_value)?.map_or_else(|| put.value.clone(), |kv| kv.value.clone()),
            created: now.map_or(revision, |kv| kv.created),
            modified: revision,
            version: now.map_or(0, |kv| kv.version) + 1,
            lease: kept(put.ignore_lease)?.map_or(put.lease, |kv| kv.lease),
        };
        self.batch.put(Table::Live, &[&kv.key], &[&Head::of(&kv).live(), &kv.value]);
        self.supersede(now, revision);
        let old_lease = now.map_or(LeaseId::NONE, |kv| kv.lease);
        if old_lease != kv.lease {
            self.detach(old_lease, &kv.key);
            self.attach(kv.lease, &kv.key);
        }
        self.tell(EventKind::Put, kv, slot.before(revision).cloned());
        Ok(PutAnswer { previous: now.filter(|_| put.previous).cloned() })
    }

    fn delete(&mut self, delete: &Delete) -> Result<DeleteAnswer, Error> {
        let victims = match &delete.range {
            KeyRange::One(key) => {
                let slot = self.pending.slot(self.base, key)?;
                slot.now().cloned().into_iter().collect()
            }
            range => {
                let mut victims = Gathered::default();
                let overlay = Overlay { base: self.base, pending: &self.pending };
                scan(&overlay, range, At::Newest, |key, head, value| {
                    victims.push(key, head, value);
                    ControlFlow::Continue(())
                })?;
                victims.finish()
            }
        };
        for victim in &victims {
            self.delete_key(victim);
        }
        Ok(DeleteAnswer {
            deleted: victims.len() as u64,
            previous: if delete.previous { victims } else { Vec::new() },
        })
    }

    /// `victim` is the newest version of its key.
    fn delete_key(&mut self, victim: &KeyValue) {
        let revision = self.begin();
        let before = match self.pending.known(&victim.key) {
            Some(slot) => slot.before(revision).cloned(),
            None => Some(victim.clone()),
        };
        self.batch.delete(Table::Live, &[&victim.key]);
        self.supersede(Some(victim), revision);
        self.detach(victim.lease, &victim.key);
        let gone = KeyValue { key: victim.key.clone(), modified: revision, ..KeyValue::default() };
        self.tell(EventKind::Delete, gone, before);
    }

    fn range(&mut self, request: &Range) -> Result<RangeAnswer, Error> {
        let overlay = Overlay { base: self.base, pending: &self.pending };
        range(&overlay, transaction::State::moment(self), request)
    }

    fn compact(&mut self, to: Revision) -> Result<Outcome, Error> {
        let State { revision, compacted, .. } = self.state;
        if to <= compacted {
            return Err(Error::Compacted { asked: to, oldest: compacted });
        }
        if to > revision {
            return Err(Error::Future { asked: to, newest: revision });
        }
        self.state.compacted = to;
        Ok(Outcome::Compacted)
    }

    /// The revision that is being made.
    fn begin(&mut self) -> Revision {
        let revision = self.state.revision.next();
        if self.open.is_empty() {
            self.digester.begin(self.state.digest, revision);
        }
        revision
    }

    /// Moves a version that is the newest no more to Past.
    fn supersede(&mut self, old: Option<&KeyValue>, revision: Revision) {
        let Some(old) = old else { return };
        self.row_key.clear();
        keys::past(&old.key, old.modified, self.row_key);
        let head = Head::of(old).past(revision);
        self.batch.put(Table::Past, &[self.row_key], &[&head, &old.value]);
    }

    /// Notes a change for whoever asks: the table of changes, later commands, the digest, the watchers.
    fn tell(&mut self, kind: EventKind, kv: KeyValue, previous: Option<KeyValue>) {
        let sub = u32::try_from(self.open.len()).expect("a transaction fits into memory");
        let before = previous.as_ref().map_or(Revision::ZERO, |kv| kv.modified);
        self.batch.put(
            Table::Changes,
            &[&keys::change(kv.modified, sub)],
            &[&row::change(kind, before), &kv.key],
        );
        let event = Arc::new(Event::new(kind, kv, previous));
        self.digester.change(&event);
        self.pending.changed(&event);
        self.open.push(event);
    }

    fn attach(&mut self, id: LeaseId, key: &[u8]) {
        if !id.is_none() {
            self.batch.put(Table::LeaseKeys, &[&keys::lease(id), key], &[]);
            self.pending.set_attached(id, key, true);
        }
    }

    fn detach(&mut self, id: LeaseId, key: &[u8]) {
        if !id.is_none() {
            self.batch.delete(Table::LeaseKeys, &[&keys::lease(id), key]);
            self.pending.set_attached(id, key, false);
        }
    }

    /// Ends the revision that is being made, if there is one.
    fn close(&mut self) {
        if self.open.is_empty() {
            return;
        }
        self.state.revision = self.state.revision.next();
        self.state.digest = self.digester.end();
        let events = self.open.drain(..).collect();
        self.commits.push(Commit { revision: self.state.revision, events });
    }

    /// The newest revision, the one being made included.
    fn revision(&self) -> Revision {
        if self.open.is_empty() { self.state.revision } else { self.state.revision.next() }
    }
}

impl transaction::State for Group<'_> {
    fn moment(&self) -> Moment {
        Moment { revision: self.revision(), compacted: self.state.compacted }
    }

    fn newest(&mut self, key: &Bytes) -> Result<Option<KeyValue>, Error> {
        Ok(self.pending.slot(self.base, key)?.now().cloned())
    }

    fn has_lease(&mut self, id: LeaseId) -> Result<bool, Error> {
        Ok(self.pending.lease(self.base, id)?.is_some())
    }

    fn range(&mut self, request: &Range) -> Result<RangeAnswer, Error> {
        Group::range(self, request)
    }

    fn scan_newest(
        &mut self,
        range: &KeyRange,
        visit: &mut dyn FnMut(Head, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let overlay = Overlay { base: self.base, pending: &self.pending };
        scan(&overlay, range, At::Newest, |_, head, value| visit(head, value))
    }
}
