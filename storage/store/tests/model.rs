//! etcd's semantics in the plainest words: a list of everything that ever changed, read from the start
//! for every question. Slow, and short enough to be believed.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::Error;
use crate::lease::Lease;
use crate::record::{Event, EventKind, KeyValue, LeaseId};
use crate::request::{
    Answer, Command, Compare, Condition, Delete, DeleteAnswer, KeyRange, Operand, Operation,
    OperationAnswer, Order, Outcome, Put, PutAnswer, Range, RangeAnswer, Relation, Target,
    Transaction, TransactionAnswer,
};
use crate::revision::Revision;
use crate::watch::Commit;

type Keys = BTreeMap<Bytes, KeyValue>;

#[derive(Clone)]
struct Change {
    revision: Revision,
    kind: EventKind,
    kv: KeyValue,
}

#[derive(Clone)]
pub(super) struct Model {
    changes: Vec<Change>,
    pub(super) revision: Revision,
    pub(super) compacted: Revision,
    pub(super) leases: BTreeMap<LeaseId, Lease>,
}

impl Model {
    pub(super) fn new() -> Model {
        Model {
            changes: Vec::new(),
            revision: Revision::EMPTY,
            compacted: Revision::ZERO,
            leases: BTreeMap::new(),
        }
    }

    pub(super) fn command(&mut self, command: &Command, term: u64) -> Result<Answer, Error> {
        command.check()?;
        let outcome = match command {
            Command::Put(put) => {
                self.check_put(put)?;
                Outcome::Put(self.put(put))
            }
            Command::Delete(delete) => Outcome::Delete(self.delete(delete)),
            Command::Transaction(transaction) => {
                let before = self.clone();
                self.check_transaction(&before, transaction)?;
                Outcome::Transaction(self.transaction(&before, transaction))
            }
            Command::Compact(to) if *to <= self.compacted => {
                return Err(Error::Compacted { asked: *to, oldest: self.compacted });
            }
            Command::Compact(to) if *to > self.revision => {
                return Err(Error::Future { asked: *to, newest: self.revision });
            }
            Command::Compact(to) => {
                self.compacted = *to;
                Outcome::Compacted
            }
            Command::LeaseGrant { id, .. } if self.leases.contains_key(id) => {
                return Err(Error::LeaseExists(*id));
            }
            Command::LeaseGrant { id, ttl_s } => {
                let lease = Lease { id: *id, ttl_s: *ttl_s, remaining_ms: None };
                self.leases.insert(*id, lease);
                Outcome::LeaseGranted { id: *id, ttl_s: *ttl_s }
            }
            Command::LeaseRevoke { id } => {
                if !self.end_lease(*id) {
                    return Err(Error::LeaseNotFound(*id));
                }
                Outcome::LeaseRevoked
            }
            Command::Guarded(guarded) => {
                if !guarded.conditions.iter().all(|condition| self.condition(condition)) {
                    return Err(Error::ConditionFailed);
                }
                return self.command(&guarded.command, term);
            }
            Command::LeaseExpire { ids, term: meant } => {
                let mut ended = 0;
                for id in ids.iter().filter(|_| *meant == term) {
                    ended += u64::from(self.end_lease(*id));
                    self.close();
                }
                Outcome::LeasesExpired(ended)
            }
            Command::LeaseCheckpoint { remaining_ms, term: meant } => {
                for (id, left) in remaining_ms.iter().filter(|_| *meant == term) {
                    if let Some(lease) = self.leases.get_mut(id) {
                        lease.remaining_ms = Some(*left);
                    }
                }
                Outcome::Checkpointed
            }
        };
        self.close();
        Ok(Answer { revision: self.revision, outcome })
    }

    /// The keys as they are in the middle of a command.
    pub(super) fn now(&self) -> Keys {
        self.at(Revision(u64::MAX))
    }

    fn at(&self, revision: Revision) -> Keys {
        let mut keys = Keys::new();
        for change in self.changes.iter().filter(|change| change.revision <= revision) {
            match change.kind {
                EventKind::Put => keys.insert(change.kv.key.clone(), change.kv.clone()),
                EventKind::Delete => keys.remove(&change.kv.key),
            };
        }
        keys
    }

    fn is_changing(&self) -> bool {
        self.changes.last().is_some_and(|change| change.revision > self.revision)
    }

    fn close(&mut self) {
        if self.is_changing() {
            self.revision = self.revision.next();
        }
    }

    fn change(&mut self, kind: EventKind, kv: KeyValue) {
        self.changes.push(Change { revision: self.revision.next(), kind, kv });
    }

    fn check_put(&self, put: &Put) -> Result<(), Error> {
        if !put.lease.is_none() && !self.leases.contains_key(&put.lease) {
            return Err(Error::LeaseNotFound(put.lease));
        }
        if (put.ignore_value || put.ignore_lease) && !self.now().contains_key(&put.key) {
            return Err(Error::KeyNotFound);
        }
        Ok(())
    }

    fn put(&mut self, put: &Put) -> PutAnswer {
        let old = self.now().get(&put.key).cloned();
        let revision = self.revision.next();
        let (created, version) = old.as_ref().map_or((revision, 0), |kv| (kv.created, kv.version));
        let mut kv = KeyValue {
            key: put.key.clone(),
            value: put.value.clone(),
            created,
            modified: revision,
            version: version + 1,
            lease: put.lease,
        };
        if put.ignore_value {
            kv.value = old.as_ref().expect("checked").value.clone();
        }
        if put.ignore_lease {
            kv.lease = old.as_ref().expect("checked").lease;
        }
        self.change(EventKind::Put, kv);
        PutAnswer { previous: old.filter(|_| put.previous) }
    }

    fn delete(&mut self, delete: &Delete) -> DeleteAnswer {
        let mut answer = DeleteAnswer::default();
        for (key, kv) in self.now() {
            if delete.range.contains(&key) {
                self.remove(key);
                answer.deleted += 1;
                if delete.previous {
                    answer.previous.push(kv);
                }
            }
        }
        answer
    }

    fn remove(&mut self, key: Bytes) {
        let modified = self.revision.next();
        self.change(EventKind::Delete, KeyValue { key, modified, ..KeyValue::default() });
    }

    fn end_lease(&mut self, id: LeaseId) -> bool {
        let known = self.leases.remove(&id).is_some();
        if known {
            for (key, _) in self.now().into_iter().filter(|(_, kv)| kv.lease == id) {
                self.remove(key);
            }
        }
        known
    }

    /// Comparisons at every depth look at the state before the transaction.
    fn branch<'t>(before: &Model, transaction: &'t Transaction) -> (bool, &'t [Operation]) {
        let succeeded = transaction.compare.iter().all(|compare| before.compares(compare));
        (succeeded, if succeeded { &transaction.success } else { &transaction.failure })
    }

    fn check_transaction(&self, before: &Model, transaction: &Transaction) -> Result<(), Error> {
        for operation in Model::branch(before, transaction).1 {
            match operation {
                Operation::Range(range) => before.check_revision(range.revision)?,
                Operation::Put(put) => before.check_put(put)?,
                Operation::Delete(_) => {}
                Operation::Transaction(nested) => self.check_transaction(before, nested)?,
            }
        }
        Ok(())
    }

    fn transaction(&mut self, before: &Model, transaction: &Transaction) -> TransactionAnswer {
        let (succeeded, branch) = Model::branch(before, transaction);
        let mut answers = Vec::new();
        for operation in branch {
            answers.push(match operation {
                Operation::Range(range) => {
                    OperationAnswer::Range(self.range(range).expect("checked"))
                }
                Operation::Put(put) => OperationAnswer::Put(self.put(put)),
                Operation::Delete(delete) => OperationAnswer::Delete(self.delete(delete)),
                Operation::Transaction(nested) => {
                    OperationAnswer::Transaction(self.transaction(before, nested))
                }
            });
        }
        TransactionAnswer { succeeded, answers }
    }

    fn condition(&self, condition: &Condition) -> bool {
        match condition {
            Condition::Compare(compare) => self.compares(compare),
            Condition::LeaseWithin { id, ranges } => self
                .lease_keys(*id)
                .iter()
                .all(|key| ranges.iter().any(|range| range.contains(key))),
        }
    }

    fn compares(&self, compare: &Compare) -> bool {
        let keys: Vec<_> =
            self.now().into_values().filter(|kv| compare.range.contains(&kv.key)).collect();
        if keys.is_empty() {
            return !matches!(compare.operand, Operand::Value(_))
                && holds(compare, &KeyValue::default());
        }
        keys.iter().all(|kv| holds(compare, kv))
    }

    fn check_revision(&self, asked: Revision) -> Result<(), Error> {
        let newest = if self.is_changing() { self.revision.next() } else { self.revision };
        if asked > newest {
            return Err(Error::Future { asked, newest });
        }
        if asked != Revision::ZERO && asked < self.compacted {
            return Err(Error::Compacted { asked, oldest: self.compacted });
        }
        Ok(())
    }

    pub(super) fn range(&self, request: &Range) -> Result<RangeAnswer, Error> {
        self.check_revision(request.revision)?;
        let keys = match request.revision {
            Revision::ZERO => self.now(),
            revision => self.at(revision),
        };
        let mut kvs: Vec<_> =
            keys.into_values().filter(|kv| request.range.contains(&kv.key)).collect();
        let count = kvs.len() as u64;
        if request.count_only {
            return Ok(RangeAnswer { count, ..RangeAnswer::default() });
        }
        for (bounds, of) in [
            (request.modified, (|kv| kv.modified) as fn(&KeyValue) -> Revision),
            (request.created, |kv| kv.created),
        ] {
            kvs.retain(|kv| bounds.min == Revision::ZERO || of(kv) >= bounds.min);
            kvs.retain(|kv| bounds.max == Revision::ZERO || of(kv) <= bounds.max);
        }
        kvs.sort_by(|a, b| {
            let order = match request.target {
                Target::Key => a.key.cmp(&b.key),
                Target::Version => a.version.cmp(&b.version),
                Target::Created => a.created.cmp(&b.created),
                Target::Modified => a.modified.cmp(&b.modified),
                Target::Value => a.value.cmp(&b.value),
            };
            if request.order == Order::Descending { order.reverse() } else { order }
        });
        let more = request.limit > 0 && kvs.len() as u64 > request.limit;
        if more {
            kvs.truncate(request.limit as usize);
        }
        if request.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        Ok(RangeAnswer { kvs, more, count })
    }

    /// What a watch of `range` from `from` on is told.
    pub(super) fn events(&self, range: &KeyRange, from: Revision) -> Result<Vec<Commit>, Error> {
        if from < self.compacted {
            return Err(Error::Compacted { asked: from, oldest: self.compacted });
        }
        let mut commits: BTreeMap<Revision, Vec<Arc<Event>>> = BTreeMap::new();
        for (place, change) in self.changes.iter().enumerate() {
            if change.revision < from || !range.contains(&change.kv.key) {
                continue;
            }
            // A put that its own transaction undid is forgotten as soon as its revision is compacted.
            let undone = self.changes[place + 1..]
                .iter()
                .any(|later| later.revision == change.revision && later.kv.key == change.kv.key);
            if change.kind == EventKind::Put && change.revision <= self.compacted && undone {
                continue;
            }
            let before = self.at(change.revision.previous()).remove(&change.kv.key);
            let previous = before.filter(|_| change.revision > self.compacted);
            let event = Event::new(change.kind, change.kv.clone(), previous);
            commits.entry(change.revision).or_default().push(Arc::new(event));
        }
        let commits = commits.into_iter();
        Ok(commits.map(|(revision, events)| Commit { revision, events: events.into() }).collect())
    }

    pub(super) fn lease_keys(&self, id: LeaseId) -> Vec<Bytes> {
        let keys = self.now().into_iter();
        keys.filter(|(_, kv)| kv.lease == id).map(|(key, _)| key).collect()
    }
}

fn holds(compare: &Compare, kv: &KeyValue) -> bool {
    let order = match &compare.operand {
        Operand::Version(version) => kv.version.cmp(version),
        Operand::Created(revision) => kv.created.cmp(revision),
        Operand::Modified(revision) => kv.modified.cmp(revision),
        Operand::Value(value) => kv.value.cmp(value),
        Operand::Lease(lease) => kv.lease.cmp(lease),
    };
    match compare.relation {
        Relation::Equal => order == Ordering::Equal,
        Relation::Greater => order == Ordering::Greater,
        Relation::Less => order == Ordering::Less,
        Relation::NotEqual => order != Ordering::Equal,
    }
}
