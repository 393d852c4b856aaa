//! What a node is to run, with all that it needs for that, sent to its agent: the whole set, then changes
//! of it.
//!
//! The set is read from the store when something in it has changed; what was sent is known by a row of numbers
//! for each object. So an agent that is slow costs itself: however much has changed meanwhile, it is sent the
//! difference to what it has.
//!
//! Keeps: the first set of a stream is not older than what was committed before, nor than the set that the
//! agent shows. Both sides agree on a digest of uids and resourceVersions; an agent that finds another asks
//! for all. An object is sent only while a pod of the node names it, as the Node authorizer has it.
//! Never: decides what is allowed, or holds more of the set than one change of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kontiki_storage::revision::Revision;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::Streaming;

use super::sessions::{Session, Sessions};
use crate::error::Status;
use crate::kinds::kind::Stored;
use crate::live;
use crate::live::nodes::Item;
use crate::object::meta;
use crate::objects::{Object, Objects};
use crate::tunnel::wire::{self, Assigned, Held};

/// A message goes on in the next one when it is larger than this, but for a single object.
const MESSAGE_BYTES: usize = 1 << 20;
/// Until this master is as far as the store and the agent.
const CATCH_UP_MAX: Duration = Duration::from_secs(5);
/// What changes in quick succession is sent together.
const PAUSE: Duration = Duration::from_millis(50);

/// What an object is to the digest of a set. The digest is the sum of those, whatever their order.
#[must_use]
pub fn digest(resource: &str, uid: &str, resource_version: &str) -> u64 {
    let mut hash = Sha256::new();
    for part in [resource, uid, resource_version] {
        hash.update(part);
        hash.update([0]);
    }
    let hash = hash.finalize();
    u64::from_be_bytes(hash[..8].try_into().expect("it is longer"))
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    resource: &'static str,
    namespace: String,
    name: String,
}

impl Name {
    fn item(&self, object: Bytes) -> wire::Item {
        wire::Item {
            resource: self.resource.into(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            object,
        }
    }
}

/// An object that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sent {
    revision: Revision,
    digest: u64,
}

/// The stream of one agent.
pub(super) struct Assignments {
    sessions: Sessions,
    session: Arc<Session>,
    node: String,
    asked: Streaming<Held>,
    changes: watch::Receiver<u64>,
    sent: BTreeMap<Name, Sent>,
    /// The rest of a change that is being sent.
    pending: VecDeque<Assigned>,
    /// The agent has what is in `sent`; else the next change is all of it.
    agreed: bool,
    not_before: Instant,
}

impl Assignments {
    /// Ready to send what the agent has not.
    pub async fn begin(
        sessions: Sessions,
        session: Arc<Session>,
        held: Held,
        asked: Streaming<Held>,
    ) -> Result<Assignments, tonic::Status> {
        let node = session.node().to_owned();
        timeout(CATCH_UP_MAX, catch_up(&sessions, Revision(held.revision)))
            .await
            .unwrap_or_else(|_| Err("it is not as far as the others".into()))
            .map_err(|why| {
                let why = format!("this master cannot say what node \"{node}\" runs: {why}");
                tonic::Status::unavailable(why)
            })?;
        let changes = sessions.live().nodes.changes(&node);
        let mut begun = Assignments {
            sessions,
            session,
            node,
            asked,
            changes,
            sent: BTreeMap::new(),
            pending: VecDeque::new(),
            agreed: false,
            not_before: Instant::now(),
        };
        begun.changes.mark_unchanged();
        let (revision, set) = begun.read()?;
        let (change, sent) = difference(&BTreeMap::new(), &set)?;
        begun.sent = sent;
        if held.revision != 0 && held.digest == total(&begun.sent) {
            begun.pending.push_back(begun.last(revision, Assigned::default()));
        } else {
            begun.queue(revision, change, true);
        }
        begun.agreed = true;
        Ok(begun)
    }

    /// What is sent next; `None` when the agent has ended the stream.
    pub async fn next(&mut self) -> Option<Result<Assigned, tonic::Status>> {
        loop {
            if let Some(message) = self.pending.pop_front() {
                return Some(Ok(message));
            }
            tokio::select! {
                biased;
                () = self.session.ended() => {
                    return Some(Err(tonic::Status::aborted("the session has ended")));
                }
                asked = self.asked.message() => match asked {
                    // It has found another digest.
                    Ok(Some(_)) => self.agreed = false,
                    Ok(None) | Err(_) => return None,
                },
                changed = self.changes.changed() => {
                    if changed.is_err() {
                        return None;
                    }
                }
            }
            sleep_until(self.not_before).await;
            self.not_before = Instant::now() + PAUSE;
            if let Err(status) = self.look() {
                return Some(Err(status));
            }
        }
    }

    fn look(&mut self) -> Result<(), tonic::Status> {
        self.changes.mark_unchanged();
        let (revision, set) = self.read()?;
        if !self.agreed {
            tracing::warn!(node = self.node, "an agent has another set than was sent; all is sent");
            self.sent.clear();
        }
        let (change, sent) = difference(&self.sent, &set)?;
        self.sent = sent;
        if !self.agreed || !change.is_empty() {
            self.queue(revision, change, !self.agreed);
        }
        self.agreed = true;
        Ok(())
    }

    fn read(&self) -> Result<(Revision, BTreeMap<Name, Object>), tonic::Status> {
        let read = gather(&self.sessions, &self.node);
        read.map_err(|status| tonic::Status::internal(status.to_string()))
    }

    fn last(&self, revision: Revision, message: Assigned) -> Assigned {
        Assigned { revision: revision.0, digest: total(&self.sent), more: false, ..message }
    }

    fn queue(&mut self, revision: Revision, change: Change, whole: bool) {
        let mut message = Assigned { whole, more: true, ..Assigned::default() };
        let mut bytes = 0;
        for item in change.put {
            if bytes > 0 && bytes + item.object.len() > MESSAGE_BYTES {
                let next = Assigned { whole, more: true, ..Assigned::default() };
                self.pending.push_back(std::mem::replace(&mut message, next));
                bytes = 0;
            }
            bytes += item.object.len();
            message.put.push(item);
        }
        message.removed = change.removed;
        let last = self.last(revision, message);
        self.pending.push_back(last);
    }
}

/// Waits until this master has what was committed before, and all that the agent has.
async fn catch_up(sessions: &Sessions, revision: Revision) -> Result<(), String> {
    let objects = sessions.road().objects();
    let told = |status: Status| status.to_string();
    objects.barrier().await.map_err(told)?;
    objects.wait_for(revision).await.map_err(told)?;
    sessions.live().ready().await;
    sessions.live().pods_seen(objects.revision()).await;
    Ok(())
}

/// What has to be sent.
#[derive(Debug, Default)]
struct Change {
    put: Vec<wire::Item>,
    removed: Vec<wire::Item>,
}

impl Change {
    fn is_empty(&self) -> bool {
        self.put.is_empty() && self.removed.is_empty()
    }
}

fn total(sent: &BTreeMap<Name, Sent>) -> u64 {
    sent.values().fold(0, |sum: u64, it| sum.wrapping_add(it.digest))
}

/// What was sent of the set, and what is in it now: what differs, and what will have been sent.
fn difference(
    sent: &BTreeMap<Name, Sent>,
    set: &BTreeMap<Name, Object>,
) -> Result<(Change, BTreeMap<Name, Sent>), tonic::Status> {
    let unreadable = |status: Status| tonic::Status::internal(status.to_string());
    let mut change = Change::default();
    let mut now = BTreeMap::new();
    for (name, object) in set {
        let revision = object.revision();
        let same = sent.get(name).filter(|it| it.revision == revision);
        let it = match same {
            Some(same) => *same,
            None => {
                let uid = meta::uid(object.value().map_err(unreadable)?);
                let digest = digest(name.resource, uid, &revision.to_string());
                change.put.push(name.item(object.json().map_err(unreadable)?));
                Sent { revision, digest }
            }
        };
        now.insert(name.clone(), it);
    }
    let gone = sent.keys().filter(|name| !set.contains_key(name));
    change.removed = gone.map(|name| name.item(Bytes::new())).collect();
    Ok((change, now))
}

/// Everything that the node needs, as this master has it now, and a revision that it is not older than.
fn gather(sessions: &Sessions, node: &str) -> Result<(Revision, BTreeMap<Name, Object>), Status> {
    let objects = sessions.road().objects();
    let revision = objects.revision();
    let mut gathered = Gathered { objects, set: BTreeMap::new() };
    gathered.one("nodes", "Node", "", node)?;
    let mut namespaces = BTreeSet::new();
    for (item, namespace, name) in sessions.live().nodes.needs(node) {
        match item {
            Item::Pod => gathered.one("pods", "Pod", &namespace, &name)?,
            Item::Secret => gathered.one("secrets", "Secret", &namespace, &name)?,
            Item::ConfigMap => gathered.one("configmaps", "ConfigMap", &namespace, &name)?,
            Item::Claim => gathered.claim(&namespace, &name)?,
            Item::Namespace => drop(namespaces.insert(name)),
            _ => {}
        }
    }
    if !namespaces.is_empty() {
        gathered.one("services", "Service", "default", "kubernetes")?;
    }
    for namespace in namespaces {
        gathered.services(&namespace)?;
    }
    Ok((revision, gathered.set))
}

struct Gathered<'a> {
    objects: &'a Objects,
    set: BTreeMap<Name, Object>,
}

impl Gathered<'_> {
    fn of(resource: &str, kind: &str) -> Stored {
        live::stored("", resource, "v1", kind)
    }

    fn one(
        &mut self,
        resource: &'static str,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> Result<(), Status> {
        if let Some(found) = self.objects.get(&Self::of(resource, kind), namespace, name)? {
            let name = Name { resource, namespace: namespace.into(), name: name.into() };
            self.set.insert(name, found);
        }
        Ok(())
    }

    /// A claim, and the volume that it is bound to.
    fn claim(&mut self, namespace: &str, name: &str) -> Result<(), Status> {
        let of = Self::of("persistentvolumeclaims", "PersistentVolumeClaim");
        let Some(claim) = self.objects.get(&of, namespace, name)? else { return Ok(()) };
        let volume = claim.value()?["spec"]["volumeName"].as_str().unwrap_or_default().to_owned();
        let resource = "persistentvolumeclaims";
        let name = Name { resource, namespace: namespace.into(), name: name.into() };
        self.set.insert(name, claim);
        if !volume.is_empty() {
            self.one("persistentvolumes", "PersistentVolume", "", &volume)?;
        }
        Ok(())
    }

    fn services(&mut self, namespace: &str) -> Result<(), Status> {
        let of = Self::of("services", "Service");
        let (found, _) = self.objects.list(&of, Some(namespace))?;
        for service in found {
            let name = meta::name(service.value()?).to_owned();
            let name = Name { resource: "services", namespace: namespace.into(), name };
            self.set.insert(name, service);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::objects::object::encode;

    fn object(uid: &str, revision: u64) -> Object {
        let value = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"uid": uid}});
        Object::new("/k".into(), encode(&value), Revision(1), Revision(revision))
    }

    fn name(name: &str) -> Name {
        Name { resource: "pods", namespace: "n".into(), name: name.into() }
    }

    fn names(items: &[wire::Item]) -> Vec<&str> {
        items.iter().map(|item| item.name.as_str()).collect()
    }

    #[test]
    fn what_is_sent_is_the_difference_to_what_was_sent() {
        let one = BTreeMap::from([(name("a"), object("1", 5)), (name("b"), object("2", 6))]);
        let (change, sent) = difference(&BTreeMap::new(), &one).unwrap();
        assert_eq!((names(&change.put), names(&change.removed)), (vec!["a", "b"], vec![]));
        let expected = digest("pods", "1", "5").wrapping_add(digest("pods", "2", "6"));
        assert_eq!(total(&sent), expected);
        let (change, same) = difference(&sent, &one).unwrap();
        assert!(change.is_empty() && same == sent);
        let other = BTreeMap::from([(name("b"), object("2", 7)), (name("c"), object("3", 8))]);
        let (change, sent) = difference(&sent, &other).unwrap();
        assert_eq!((names(&change.put), names(&change.removed)), (vec!["b", "c"], vec!["a"]));
        assert_eq!(change.put[0].object, object("2", 7).json().unwrap());
        let expected = digest("pods", "2", "7").wrapping_add(digest("pods", "3", "8"));
        assert_eq!(total(&sent), expected);
    }
}
