//! What is assigned to the node: its pods, with all that they need.
//!
//! Keeps: a change holds as a whole or not at all. The digest that a master sent with a change is that of
//! the set afterwards, or the set is asked for anew.
//! Never: drops anything because no master answers.

use std::collections::BTreeMap;

use bytes::Bytes;
use kontiki_api::node::digest;
use kontiki_api::tunnel::wire::{self, Assigned, Item};
use parking_lot::Mutex;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

/// A change is larger than this only by mistake.
const CHANGE_BYTES_MAX: usize = 256 << 20;

/// `pods`, a namespace (empty for what has none), a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    pub resource: String,
    pub namespace: String,
    pub name: String,
}

/// An object of the set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub uid: String,
    pub version: String,
    /// Its JSON.
    pub object: Bytes,
    digest: u64,
}

impl Held {
    /// The object as its type.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, String> {
        serde_json::from_slice(&self.object)
            .map_err(|error| format!("an object that was assigned cannot be read: {error}"))
    }
}

/// Who says that the set is so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Nobody yet.
    #[default]
    Nobody,
    /// It was so when a master answered last.
    Kept,
    Master,
}

/// The set as it is now.
#[derive(Debug)]
pub struct Set {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    revision: u64,
    digest: u64,
    objects: BTreeMap<Name, Held>,
    origin: Origin,
}

impl Default for Set {
    fn default() -> Set {
        Set { state: Mutex::default(), changed: watch::Sender::new(0) }
    }
}

/// Whether both sides have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Agreed,
    Differs,
}

/// That nothing is held.
pub(super) fn nothing() -> wire::Held {
    wire::Held::default()
}

/// Gathers the messages of one change.
#[derive(Default)]
pub(super) struct Incoming {
    change: Assigned,
    bytes: usize,
}

impl Incoming {
    /// The change, once its last message is there.
    pub fn add(&mut self, message: Assigned) -> Result<Option<Assigned>, String> {
        self.bytes += message.put.iter().map(|item| item.object.len()).sum::<usize>();
        if self.bytes > CHANGE_BYTES_MAX {
            return Err(format!("a change of the set is larger than {CHANGE_BYTES_MAX} bytes"));
        }
        let whole = self.change.whole || message.whole;
        let Assigned { mut put, mut removed, .. } = std::mem::take(&mut self.change);
        put.extend(message.put.iter().cloned());
        removed.extend(message.removed.iter().cloned());
        let more = message.more;
        let change = Assigned { whole, put, removed, ..message };
        if more {
            self.change = change;
            return Ok(None);
        }
        self.bytes = 0;
        Ok(Some(change))
    }
}

#[derive(Deserialize)]
struct Known {
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    uid: String,
    resource_version: String,
}

fn read(item: Item) -> Result<(Name, Held), String> {
    let Item { resource, namespace, name, object } = item;
    let Known { metadata } = serde_json::from_slice(&object)
        .map_err(|error| format!("{resource} {namespace}/{name} cannot be read: {error}"))?;
    let Metadata { uid, resource_version: version } = metadata;
    let digest = digest(&resource, &uid, &version);
    Ok((Name { resource, namespace, name }, Held { uid, version, object, digest }))
}

impl Set {
    /// Changes with the set.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        let mut changes = self.changed.subscribe();
        changes.mark_changed();
        changes
    }

    #[must_use]
    pub fn origin(&self) -> Origin {
        self.state.lock().origin
    }

    #[must_use]
    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Held> {
        let (resource, namespace, name) = (resource.into(), namespace.into(), name.into());
        self.state.lock().objects.get(&Name { resource, namespace, name }).cloned()
    }

    /// All of a resource, or those of one namespace; and who says so.
    #[must_use]
    pub fn list(&self, resource: &str, namespace: &str) -> (Vec<(Name, Held)>, Origin) {
        let from =
            Name { resource: resource.into(), namespace: namespace.into(), name: String::new() };
        let state = self.state.lock();
        let all = state.objects.range(from..).take_while(|(name, _)| {
            name.resource == resource && (namespace.is_empty() || name.namespace == namespace)
        });
        let all = all.map(|(name, held)| (name.clone(), held.clone()));
        (all.collect(), state.origin)
    }

    /// What a master is told that is held.
    pub(super) fn held(&self) -> wire::Held {
        let state = self.state.lock();
        wire::Held { revision: state.revision, digest: state.digest }
    }

    /// Takes over a change by a master.
    pub(super) fn take(&self, change: Assigned) -> Result<Taken, String> {
        let put = change.put.into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let mut state = self.state.lock();
        let mut objects = if change.whole { BTreeMap::new() } else { state.objects.clone() };
        for Item { resource, namespace, name, .. } in change.removed {
            objects.remove(&Name { resource, namespace, name });
        }
        objects.extend(put);
        let sum = |sum: u64, held: &Held| sum.wrapping_add(held.digest);
        let digest = objects.values().fold(0, sum);
        if digest != change.digest {
            // What was there stays until all of it has come.
            (state.revision, state.digest) = (0, 0);
            return Ok(Taken::Differs);
        }
        *state = State { revision: change.revision, digest, objects, origin: Origin::Master };
        drop(state);
        self.changed.send_modify(|number| *number += 1);
        Ok(Taken::Agreed)
    }

    /// What was there before this process, for which nobody vouches yet.
    pub(super) fn remember(&self, kept: Assigned) -> Result<(), String> {
        let objects = kept.put.into_iter().map(read).collect::<Result<BTreeMap<_, _>, _>>()?;
        let mut state = self.state.lock();
        (state.revision, state.digest, state.objects) = (kept.revision, kept.digest, objects);
        Ok(())
    }

    /// Takes what was remembered for true, unless a master has said anything. Whether there is something.
    pub(super) fn trust(&self) -> bool {
        let mut state = self.state.lock();
        let trusts = state.origin == Origin::Nobody && state.revision != 0;
        if trusts {
            state.origin = Origin::Kept;
            drop(state);
            self.changed.send_modify(|number| *number += 1);
        }
        trusts
    }

    /// All of it as one change, to be remembered; `None` while no master has said anything.
    pub(super) fn whole(&self) -> Option<Assigned> {
        let state = self.state.lock();
        if state.origin != Origin::Master || state.revision == 0 {
            return None;
        }
        let put = state.objects.iter().map(|(name, held)| Item {
            resource: name.resource.clone(),
            namespace: name.namespace.clone(),
            name: name.name.clone(),
            object: held.object.clone(),
        });
        let (revision, digest) = (state.revision, state.digest);
        Some(Assigned { revision, digest, whole: true, put: put.collect(), ..Assigned::default() })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    pub fn item(name: &str, version: &str) -> Item {
        let object = json!({"metadata": {"name": name, "uid": name, "resourceVersion": version}});
        Item {
            resource: "pods".into(),
            namespace: "n".into(),
            name: name.into(),
            object: object.to_string().into(),
        }
    }

    pub fn sum(of: &[(&str, &str)]) -> u64 {
        of.iter().fold(0, |sum: u64, (uid, version)| sum.wrapping_add(digest("pods", uid, version)))
    }

    fn names(set: &Set) -> Vec<String> {
        set.list("pods", "").0.into_iter().map(|(name, _)| name.name).collect()
    }

    #[test]
    fn a_change_of_several_messages_holds_once_the_last_is_there() {
        let (set, mut incoming) = (Set::default(), Incoming::default());
        let first =
            Assigned { whole: true, more: true, put: vec![item("a", "1")], ..Assigned::default() };
        let last = Assigned {
            whole: true,
            revision: 9,
            put: vec![item("b", "2")],
            digest: sum(&[("a", "1"), ("b", "2")]),
            ..Assigned::default()
        };
        assert_eq!(incoming.add(first).unwrap(), None);
        let change = incoming.add(last).unwrap().unwrap();
        assert_eq!(set.take(change), Ok(Taken::Agreed));
        assert_eq!((names(&set), set.origin()), (vec!["a".into(), "b".into()], Origin::Master));
        assert_eq!(set.held().revision, 9);
        let removed = Assigned {
            revision: 10,
            removed: vec![item("a", "")],
            digest: sum(&[("b", "2")]),
            ..Assigned::default()
        };
        let change = incoming.add(removed).unwrap().unwrap();
        assert_eq!(set.take(change), Ok(Taken::Agreed));
        assert_eq!(names(&set), ["b"]);
    }

    #[test]
    fn a_set_with_another_digest_is_asked_for_anew() {
        let set = Set::default();
        let change = Assigned { revision: 3, put: vec![item("a", "1")], ..Assigned::default() };
        assert_eq!(set.take(change), Ok(Taken::Differs));
        assert_eq!((set.held().revision, set.origin()), (0, Origin::Nobody));
        let garbage = Item { object: "no".into(), ..item("a", "1") };
        let change = Assigned { put: vec![garbage], ..Assigned::default() };
        assert!(set.take(change).unwrap_err().contains("pods n/a cannot be read"));
    }

    #[test]
    fn what_is_remembered_counts_only_when_no_master_speaks() {
        let change = |revision, version| Assigned {
            revision,
            whole: true,
            put: vec![item("a", version)],
            digest: sum(&[("a", version)]),
            ..Assigned::default()
        };
        let set = Set::default();
        assert!(!set.trust(), "there is nothing");
        set.remember(change(7, "1")).unwrap();
        assert_eq!((set.origin(), set.held().revision, set.whole()), (Origin::Nobody, 7, None));
        assert!(set.trust());
        assert_eq!(set.origin(), Origin::Kept);
        assert_eq!(set.take(change(8, "2")), Ok(Taken::Agreed));
        assert!(!set.trust());
        assert_eq!(set.whole().unwrap(), change(8, "2"));
    }
}
