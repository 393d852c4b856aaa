//! Objects over the replicated store: the only place that knows under which key and in which bytes they rest.
//!
//! Keeps: a write holds only against the revision it was made from; several writes of a commit hold
//! together or not at all; a reader of the feed sees every change once, in order, or is told that it was cut.
//! Never: decides who may do what, or what an object means.

pub mod expiry;
pub mod feed;
pub mod key;
pub mod object;
pub mod scan;
mod write;

use bytes::Bytes;
use kontiki_raft::replica::Freshness;
use kontiki_raft::{Error, Replica};
use kontiki_storage::request::{
    Command, KeyRange, OperationAnswer, Outcome, Put, Range, TransactionAnswer,
};
use kontiki_storage::revision::Revision;
use kontiki_storage::view::{Pages, View};
use serde_json::Value;

use crate::error::{Cause, Reason, Status};
use crate::kinds::kind::Stored;
use crate::object::GroupResource;

pub use expiry::Expiry;
pub use feed::{Change, ChangeKind, Feed};
pub use object::Object;
pub use write::Write;

/// Reads and writes objects. Cheap to clone.
#[derive(Clone)]
pub struct Objects {
    replica: Replica,
    expiry: Expiry,
}

/// What came of a commit.
#[derive(Clone, Debug)]
pub enum Committed {
    /// All of it, at this revision.
    At(Revision),
    /// Nothing, because something was changed before. What is there now, for each write.
    Outrun(Vec<Option<Object>>),
}

impl Objects {
    #[must_use]
    pub fn new(replica: Replica) -> Objects {
        Objects { replica, expiry: Expiry::default() }
    }

    #[must_use]
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// The newest revision that this member shows.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.replica.store().revision()
    }

    /// What this member has; linearizable only after [`Objects::barrier`]. `namespace` is empty for cluster
    /// scope.
    pub fn get(&self, of: &Stored, namespace: &str, name: &str) -> Result<Option<Object>, Status> {
        let kv = self.replica.store().view().get(&key::of_object(of, namespace, name));
        Ok(kv.map_err(stored)?.map(Object::from))
    }

    /// All objects of a resource or of one namespace, and the revision at which they were read. For what is
    /// known to be small; else [`Objects::pages`].
    pub fn list(
        &self,
        of: &Stored,
        namespace: Option<&str>,
    ) -> Result<(Vec<Object>, Revision), Status> {
        let view = self.view();
        let answer = view.range(&Range::new(key::range(of, namespace))).map_err(stored)?;
        Ok((answer.kvs.into_iter().map(Object::from).collect(), view.revision()))
    }

    /// The state at this moment. It holds a snapshot of the engine: drop it soon.
    #[must_use]
    pub fn view(&self) -> View {
        self.replica.store().view()
    }

    /// A large range in pieces. `at` zero reads the newest state of `view`.
    #[must_use]
    pub fn pages(&self, view: &View, range: KeyRange, at: Revision) -> Pages {
        view.pages(Range { revision: at, ..Range::new(range) })
    }

    /// Waits until this member has all that was committed before the call.
    pub async fn barrier(&self) -> Result<(), Status> {
        self.replica.read_barrier().await.map_err(proposed)
    }

    /// Waits until this member shows `revision`.
    pub async fn wait_for(&self, revision: Revision) -> Result<(), Status> {
        self.replica.wait_for(revision).await.map_err(proposed)
    }

    /// Writes if the object is still at `expected` (zero: not there).
    pub async fn put(
        &self,
        of: &Stored,
        namespace: &str,
        name: &str,
        value: &Value,
        expected: Revision,
    ) -> Result<Object, Status> {
        let write = Write::put(of, namespace, name, value, expected);
        let (key, rest) = (write.key.clone(), write.rest.clone().unwrap_or_default());
        match self.commit(&[write]).await? {
            Committed::At(revision) => {
                let created = if expected == Revision::ZERO { revision } else { Revision::ZERO };
                Ok(Object::new(key, rest, created, revision))
            }
            Committed::Outrun(_) => Err(outrun(of, name, expected)),
        }
    }

    /// Deletes if the object is still at `expected`; the revision of the delete.
    pub async fn delete(
        &self,
        of: &Stored,
        namespace: &str,
        name: &str,
        expected: Revision,
    ) -> Result<Revision, Status> {
        match self.commit(&[Write::delete(of, namespace, name, expected)]).await? {
            Committed::At(revision) => Ok(revision),
            Committed::Outrun(_) => Err(outrun(of, name, expected)),
        }
    }

    /// All of `writes` at one revision, or nothing.
    pub async fn commit(&self, writes: &[Write]) -> Result<Committed, Status> {
        let command = Command::Transaction(write::transaction(writes));
        let answer = match self.replica.propose(command).await {
            Err(Error::Store(gone @ kontiki_storage::Error::LeaseNotFound(_))) => {
                self.expiry.forget().await;
                return Err(proposed(Error::Store(gone)));
            }
            answer => answer.map_err(proposed)?,
        };
        let Outcome::Transaction(TransactionAnswer { succeeded, answers }) = answer.outcome else {
            return Err(Status::internal("the store answered a transaction with something else"));
        };
        if succeeded {
            return Ok(Committed::At(answer.revision));
        }
        let there = answers.into_iter().map(|answer| match answer {
            OperationAnswer::Range(found) => found.kvs.into_iter().next().map(Object::from),
            _ => None,
        });
        Ok(Committed::Outrun(there.collect()))
    }

    /// Every change of a resource after `from`, in order, each decoded at most once for all readers.
    #[must_use]
    pub fn feed(&self, of: &Stored, from: Revision) -> Feed {
        self.feed_of(key::range(of, None), from)
    }

    /// The same for any range of keys.
    #[must_use]
    pub fn feed_of(&self, range: KeyRange, from: Revision) -> Feed {
        Feed::new(&self.replica, range, from)
    }

    /// Forgets history up to `revision`; what is forgotten already is no error.
    pub async fn compact(&self, revision: Revision) -> Result<(), Status> {
        match self.replica.propose(Command::Compact(revision)).await {
            Ok(_) | Err(Error::Store(kontiki_storage::Error::Compacted { .. })) => Ok(()),
            Err(error) => Err(proposed(error)),
        }
    }

    /// Writes something that is no object, so that there is a newer revision than any list was told of.
    /// Upstream's compactor writes this key.
    pub(crate) async fn go_on(&self) -> Result<Revision, Status> {
        let put = Put { key: Bytes::from_static(b"compact_rev_key"), ..Put::default() };
        self.replica.propose(Command::Put(put)).await.map(|it| it.revision).map_err(proposed)
    }

    /// A lease for objects that go by themselves after `ttl_seconds`; many share one.
    pub(crate) async fn expiring(
        &self,
        ttl_seconds: i64,
    ) -> Result<kontiki_storage::LeaseId, Status> {
        self.expiry.lease(&self.replica, ttl_seconds).await
    }

    /// One key as it is now, read at a stated freshness: what a front without kinds needs.
    pub async fn raw(&self, key: Bytes, freshness: Freshness) -> Result<Option<Object>, Status> {
        let range = Range::new(KeyRange::One(key));
        let (answer, _) = self.replica.range(&range, freshness).await.map_err(proposed)?;
        Ok(answer.kvs.into_iter().next().map(Object::from))
    }
}

fn outrun(of: &Stored, name: &str, expected: Revision) -> Status {
    let resource = GroupResource::new(&of.group, &of.resource);
    if expected == Revision::ZERO {
        Status::already_exists(&resource, name)
    } else {
        Status::modified(&resource, name)
    }
}

/// What the store says no to, in the words of the API.
pub fn stored(error: kontiki_storage::Error) -> Status {
    use kontiki_storage::Error as Store;
    match error {
        Store::Compacted { asked, oldest } => {
            Status::expired(format!("too old resource version: {asked} ({oldest})"))
        }
        Store::Future { asked, newest } => too_large(asked, newest),
        other => Status::internal(other),
    }
}

/// A resourceVersion that this server has not reached yet.
#[must_use]
pub fn too_large(asked: Revision, newest: Revision) -> Status {
    let message = format!("Too large resource version: {asked}, current: {newest}");
    Status::new(Reason::Timeout, message)
        .with_cause(Cause {
            reason: "ResourceVersionTooLarge".into(),
            message: "Too large resource version".into(),
            ..Cause::default()
        })
        .with_retry_after(1)
}

/// Why a proposal or a barrier came to nothing, in the words of the API. What may have been carried out is
/// never called failed: it is a timeout.
fn proposed(error: Error) -> Status {
    match error {
        Error::Store(error) => stored(error),
        Error::NoLeader(_) | Error::ReadTimeout(_) | Error::Stopped(_) => {
            Status::new(Reason::ServiceUnavailable, error.to_string()).with_retry_after(1)
        }
        Error::Unknown(why) => Status::new(
            Reason::Timeout,
            format!("Timeout: the request may or may not have been carried out: {why}"),
        ),
        Error::Overloaded { .. } => Status::too_many_requests(error.to_string(), 1),
        Error::TooLarge { .. } => {
            Status::new(Reason::RequestEntityTooLarge, format!("Request entity too large: {error}"))
        }
        Error::Membership(_) | Error::Directory { .. } => Status::internal(error),
    }
}

#[cfg(test)]
mod tests;
