//! The objects of a small resource, as this member's store has them at this very moment.
//!
//! A table follows its feed in a task of its own, and may be behind. To be sure, one would read the store for
//! each request, which finds nothing nearly always, and costs more than everything else a plugin does. Here
//! whoever asks takes in what the feed has first.
//!
//! Keeps: what was answered to somebody who wrote on this member is there. Never: waits.

use std::collections::BTreeMap;

use futures::FutureExt as _;
use parking_lot::Mutex;
use tokio::task::coop::unconstrained;

use crate::error::Status;
use crate::kinds::kind::Stored;
use crate::objects::{ChangeKind, Feed, Object, Objects, key};

/// How often it is read anew because its feed was cut, before the store itself is asked.
const READS_MAX: usize = 2;

pub struct Current {
    objects: Objects,
    of: Stored,
    state: Mutex<Option<State>>,
}

struct State {
    feed: Feed,
    /// By namespace and name.
    rows: BTreeMap<String, BTreeMap<String, Object>>,
}

impl Current {
    #[must_use]
    pub fn new(objects: Objects, of: Stored) -> Current {
        Current { objects, of, state: Mutex::default() }
    }

    /// All of one namespace, in the order of their names.
    pub fn within(&self, namespace: &str) -> Result<Vec<Object>, Status> {
        let mut state = self.state.lock();
        for _ in 0..READS_MAX {
            let mut now = match state.take() {
                Some(state) => state,
                None => self.read()?,
            };
            if now.take_in(&self.of) {
                let found = now.rows.get(namespace).into_iter().flat_map(BTreeMap::values);
                let found = found.cloned().collect();
                *state = Some(now);
                return Ok(found);
            }
        }
        Ok(self.objects.list(&self.of, Some(namespace))?.0)
    }

    fn read(&self) -> Result<State, Status> {
        let (objects, revision) = self.objects.list(&self.of, None)?;
        let mut state =
            State { feed: self.objects.feed(&self.of, revision), rows: BTreeMap::new() };
        objects.into_iter().for_each(|object| state.is(&self.of, object));
        Ok(state)
    }
}

impl State {
    /// Takes in all that has changed; false where the feed was cut.
    fn take_in(&mut self, of: &Stored) -> bool {
        // Without a budget: that a task has used up its own must not look as if nothing had changed.
        while let Some(changes) = unconstrained(self.feed.next()).now_or_never() {
            let Ok(changes) = changes else { return false };
            for change in changes {
                match change.kind {
                    ChangeKind::Deleted => self.is_gone(of, &change.object),
                    _ => self.is(of, change.object.clone()),
                }
            }
        }
        true
    }

    fn is(&mut self, of: &Stored, object: Object) {
        if let Some((namespace, name)) = place(of, &object) {
            self.rows.entry(namespace).or_default().insert(name, object);
        }
    }

    fn is_gone(&mut self, of: &Stored, object: &Object) {
        let Some((namespace, name)) = place(of, object) else { return };
        if let Some(rows) = self.rows.get_mut(&namespace) {
            rows.remove(&name);
            if rows.is_empty() {
                self.rows.remove(&namespace);
            }
        }
    }
}

fn place(of: &Stored, object: &Object) -> Option<(String, String)> {
    let within = key::within(of, object.key())?;
    let (namespace, name) = within.split_once('/').unwrap_or(("", within));
    Some((namespace.to_owned(), name.to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::bed::Bed;
    use crate::object::meta;

    #[tokio::test]
    async fn what_was_written_is_there_at_once_and_what_was_deleted_is_not() {
        let bed = Bed::of(1).await;
        let range = |namespace: &str, name: &str| -> Value {
            json!({"kind": "LimitRange", "apiVersion": "v1",
                "metadata": {"namespace": namespace, "name": name}})
        };
        bed.put("", "limitranges", &range("a", "before")).await;
        let of = crate::live::stored("", "limitranges", "v1", "LimitRange");
        let current = Current::new(bed.objects(), of);
        let names = |namespace: &str| -> Vec<String> {
            let found = current.within(namespace).unwrap();
            found.iter().map(|it| meta::name(it.value().unwrap()).to_owned()).collect()
        };
        assert_eq!((names("a"), names("b")), (vec!["before".to_owned()], vec![]));
        // Many more than a task may do before it has to give way.
        for number in 0..200 {
            bed.put("", "limitranges", &range("b", &format!("r{number:03}"))).await;
            assert_eq!(names("b").len(), number + 1);
        }
        assert_eq!(names("b")[7], "r007");
        bed.delete("", "limitranges", "a", "before").await;
        assert_eq!(names("a"), Vec::<String>::new());
    }
}
