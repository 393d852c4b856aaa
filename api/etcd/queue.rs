//! Keys under one prefix as a queue: who created its key first has its turn.
//!
//! What etcd's clients do by themselves for locks and elections, done here for those that cannot.
//!
//! Keeps: all of it is done in the caller's name and by its rights, lease by lease; nobody waits for more
//! than the one key before its own, so the end of one wakes one.
//! Keeps: who gives up waiting leaves the queue.

use bytes::Bytes;
use kontiki_storage::LeaseId;
use kontiki_storage::record::KeyValue;
use kontiki_storage::request::{
    Answer, Bounds, Command, Compare, Delete, KeyRange, Operand, Operation, OperationAnswer, Order,
    Outcome, Put, Range, Relation, Target, Transaction, TransactionAnswer,
};
use kontiki_storage::revision::Revision;
use kontiki_storage::watch::{Cut, Request as WatchRequest};
use tonic::Status;

use super::front::{Caller, Front};
use super::{keys, kv, status};

/// How long a lease lives that was granted because none was given. etcd's.
const LEASE_TTL_S: i64 = 60;

/// The queue of one name, for one caller.
pub(crate) struct Queue {
    front: Front,
    caller: Caller,
    prefix: Bytes,
}

/// A place in the queue: the key that holds it, and the revision at which that was created.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) key: Bytes,
    pub(crate) created: Revision,
    pub(crate) lease: LeaseId,
    /// At which the place was taken, or found to be taken already.
    pub(crate) revision: Revision,
    /// What stood in the key, if it was there already.
    pub(crate) found: Option<Bytes>,
}

impl Queue {
    pub(crate) fn new(front: Front, caller: Caller, name: &[u8]) -> Result<Queue, Status> {
        let prefix: Bytes = [name, b"/"].concat().into();
        if keys::is_reserved(&prefix) {
            return Err(status::reserved_key());
        }
        Ok(Queue { front, caller, prefix })
    }

    /// The lease that was given, or a new one.
    pub(crate) async fn lease(&self, given: i64) -> Result<LeaseId, Status> {
        match given {
            0 => {
                let granted = self.front.grant(&self.caller, LeaseId::NONE, LEASE_TTL_S).await?;
                Ok(granted.id)
            }
            id => Ok(LeaseId(id)),
        }
    }

    /// Enters the queue. A lease has one place in it, however often it asks.
    pub(crate) async fn enter(&self, lease: LeaseId, value: Bytes) -> Result<Place, Status> {
        let key: Bytes =
            [self.prefix.as_ref(), format!("{:x}", lease.0).as_bytes()].concat().into();
        let put = Put { key: key.clone(), value, lease, ..Put::default() };
        let get = Range::new(KeyRange::One(key.clone()));
        let transaction = Transaction {
            compare: vec![created(&key, Revision::ZERO)],
            success: vec![Operation::Put(put)],
            failure: vec![Operation::Range(get)],
        };
        let (revision, answer) = self.transaction(transaction).await?;
        let found = match answer.answers.into_iter().next() {
            Some(OperationAnswer::Range(mut range)) => range.kvs.pop(),
            _ => None,
        };
        let created = found.as_ref().map_or(revision, |kv| kv.created);
        Ok(Place { key, created, lease, revision, found: found.map(|kv| kv.value) })
    }

    /// Waits until nobody is before `place`. Who stops waiting leaves the queue.
    pub(crate) async fn wait(&self, place: &Place) -> Result<(), Status> {
        let leaving = Leaving { queue: Some(self), place };
        let waited = self.wait_for_those_before(place.created).await;
        if waited.is_ok() {
            leaving.stay();
        }
        waited
    }

    async fn wait_for_those_before(&self, created: Revision) -> Result<(), Status> {
        loop {
            let bounds = Bounds { min: Revision::ZERO, max: created.previous() };
            let (last, seen) = self.find(Order::Descending, bounds).await?;
            let Some(last) = last else {
                return Ok(());
            };
            self.wait_for_end(last.key, seen.next()).await?;
        }
    }

    async fn wait_for_end(&self, key: Bytes, from: Revision) -> Result<(), Status> {
        let request =
            WatchRequest { puts: false, ..WatchRequest::new(KeyRange::One(key)).from(from) };
        let mut watcher = self.front.replica().watch(request);
        match watcher.next().await {
            Ok(_) => Ok(()),
            // Looked at anew: what happened meanwhile can be seen in the keys themselves.
            Err(Cut::Compacted { .. } | Cut::TooOld { .. }) => Ok(()),
            Err(Cut::Closed) => Err(status::stopped()),
            Err(Cut::Failed(error)) => Err(status::of_store(error)),
        }
    }

    /// Who has its turn, and the revision at which that was so.
    pub(crate) async fn first(&self) -> Result<(Option<KeyValue>, Revision), Status> {
        self.find(Order::Ascending, Bounds::default()).await
    }

    async fn find(
        &self,
        order: Order,
        created: Bounds,
    ) -> Result<(Option<KeyValue>, Revision), Status> {
        let range = Range {
            limit: 1,
            order,
            target: Target::Created,
            created,
            ..Range::new(KeyRange::prefix(self.prefix.clone()))
        };
        let view = self.front.view(false).await?;
        let (_, who) = self.front.judge(&self.caller, &view)?;
        who.may_read(&range.range)?;
        let mut found = kv::aside(false, || view.range(&range)).map_err(status::of_store)?;
        Ok((found.kvs.pop(), view.revision()))
    }

    /// The key of a place, as long as it is the one that was entered.
    pub(crate) async fn still_there(&self, place: &Place) -> Result<bool, Status> {
        let view = self.front.view(false).await?;
        let kv = view.get(&place.key).map_err(status::of_store)?;
        Ok(kv.is_some_and(|kv| kv.created == place.created))
    }

    /// Changes what stands in the key, if the place is still held.
    pub(crate) async fn announce(
        &self,
        place: &Place,
        value: Bytes,
    ) -> Result<Option<Revision>, Status> {
        let put = Put { key: place.key.clone(), value, lease: place.lease, ..Put::default() };
        self.while_held(place, Operation::Put(put)).await
    }

    /// Leaves the queue. The revision after that, whether or not the place was still held.
    pub(crate) async fn leave(&self, place: &Place) -> Result<Revision, Status> {
        let range = KeyRange::One(place.key.clone());
        let delete = Operation::Delete(Delete { range, previous: false });
        let left = self.while_held(place, delete).await?;
        Ok(left.unwrap_or_else(|| self.front.replica().store().revision()))
    }

    async fn while_held(
        &self,
        place: &Place,
        operation: Operation,
    ) -> Result<Option<Revision>, Status> {
        if keys::is_reserved(&place.key) {
            return Err(status::reserved_key());
        }
        let transaction = Transaction {
            compare: vec![created(&place.key, place.created)],
            success: vec![operation],
            failure: Vec::new(),
        };
        let (revision, answer) = self.transaction(transaction).await?;
        Ok(answer.succeeded.then_some(revision))
    }

    async fn transaction(
        &self,
        transaction: Transaction,
    ) -> Result<(Revision, TransactionAnswer), Status> {
        match self.front.write(&self.caller, Command::Transaction(transaction)).await? {
            Answer { revision, outcome: Outcome::Transaction(answer) } => Ok((revision, answer)),
            other => Err(kv::unfit(&other)),
        }
    }

    /// What is announced in the queue's first key, from `from` on, until that key ends.
    pub(crate) fn follow(&self, key: Bytes, from: Revision) -> kontiki_storage::watch::Watcher {
        let request = WatchRequest::new(KeyRange::One(key)).from(from);
        self.front.replica().watch(request)
    }

    /// Waits until somebody enters the queue, after `from`.
    pub(crate) async fn wait_for_anyone(&self, from: Revision) -> Result<(), Status> {
        let range = KeyRange::prefix(self.prefix.clone());
        let request = WatchRequest { deletes: false, ..WatchRequest::new(range).from(from) };
        match self.front.replica().watch(request).next().await {
            Ok(_) => Ok(()),
            Err(Cut::Compacted { .. } | Cut::TooOld { .. }) => Ok(()),
            Err(Cut::Closed) => Err(status::stopped()),
            Err(Cut::Failed(error)) => Err(status::of_store(error)),
        }
    }

    pub(crate) fn may_read(&self, key: &Bytes) -> Result<(), Status> {
        let view = self.front.replica().store().view();
        let (_, who) = self.front.judge(&self.caller, &view)?;
        who.may_read(&KeyRange::One(key.clone()))
    }

    fn again(&self) -> Queue {
        Queue {
            front: self.front.clone(),
            caller: self.caller.clone(),
            prefix: self.prefix.clone(),
        }
    }
}

fn created(key: &Bytes, revision: Revision) -> Compare {
    Compare {
        range: KeyRange::One(key.clone()),
        relation: Relation::Equal,
        operand: Operand::Created(revision),
    }
}

/// Takes a place back, unless it was reached: of a client that went away while it waited, too.
struct Leaving<'q> {
    queue: Option<&'q Queue>,
    place: &'q Place,
}

impl Leaving<'_> {
    fn stay(mut self) {
        self.queue = None;
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let Some(queue) = self.queue.map(Queue::again) else {
            return;
        };
        let place = self.place.clone();
        // The request is over, and with it whoever could wait for this. It takes one proposal, which has
        // its own deadline; should it fail, the lease ends the place.
        tokio::spawn(async move { queue.leave(&place).await });
    }
}
