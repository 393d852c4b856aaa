//! What a key-value store with revisions is: the sequential model that answers are held against.

use std::collections::BTreeMap;

use crate::history::{Answer, Ask, Guard, Step, Stored};

/// One key's change at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub key: String,
    pub now: Option<Stored>,
}

/// All keys at one revision, and how each came to be what it is.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub keys: BTreeMap<String, Stored>,
    /// Every change of each key, by revision.
    past: BTreeMap<String, Vec<(u64, Option<Stored>)>>,
}

/// What a transaction would do to a state.
pub struct Effect {
    pub succeeded: bool,
    pub answers: Vec<Answer>,
    pub changes: Vec<Change>,
}

impl State {
    fn holds(&self, guard: &Guard) -> bool {
        match guard {
            Guard::Modified { key, revision } => {
                self.keys.get(key).map_or(0, |stored| stored.modified) == *revision
            }
            Guard::Created { key, revision } => {
                self.keys.get(key).map_or(0, |stored| stored.created) == *revision
            }
            Guard::Value { key, value } => {
                self.keys.get(key).is_some_and(|stored| stored.value == *value)
            }
        }
    }

    /// What `ask` would answer and change if it were carried out now, at `revision`.
    #[must_use]
    pub fn effect(&self, ask: &Ask, revision: u64) -> Effect {
        let succeeded = ask.guards.iter().all(|guard| self.holds(guard));
        let steps = if succeeded { &ask.then } else { &ask.otherwise };
        let mut changes: Vec<Change> = Vec::new();
        let mut answers = Vec::new();
        for step in steps {
            answers.push(match step {
                Step::Get { key, end, at } if *at > 0 => {
                    Answer::Found(self.range_at(key, end.as_deref(), *at))
                }
                Step::Get { key, end, .. } => {
                    Answer::Found(self.range(&changes, key, end.as_deref()))
                }
                Step::Put { key, value, lease } => {
                    let before = self.with(&changes, key);
                    let now = Stored {
                        value: value.clone(),
                        created: before.as_ref().map_or(revision, |before| before.created),
                        modified: revision,
                        version: before.as_ref().map_or(0, |before| before.version) + 1,
                        lease: *lease,
                    };
                    changes.push(Change { key: key.clone(), now: Some(now) });
                    Answer::Put
                }
                Step::Delete { key, end } => {
                    let found = self.range(&changes, key, end.as_deref());
                    let deleted = found.len() as u64;
                    changes.extend(found.into_iter().map(|(key, _)| Change { key, now: None }));
                    Answer::Deleted(deleted)
                }
            });
        }
        Effect { succeeded, answers, changes }
    }

    fn with(&self, changes: &[Change], key: &str) -> Option<Stored> {
        match changes.iter().rev().find(|change| change.key == key) {
            Some(change) => change.now.clone(),
            None => self.keys.get(key).cloned(),
        }
    }

    fn range(&self, changes: &[Change], key: &str, end: Option<&str>) -> Vec<(String, Stored)> {
        let Some(end) = end else {
            return self.with(changes, key).map(|it| (key.to_owned(), it)).into_iter().collect();
        };
        if end <= key {
            return Vec::new();
        }
        let found = self.keys.range(key.to_owned()..end.to_owned());
        let mut found: BTreeMap<_, _> = found.map(|(k, v)| (k.clone(), v.clone())).collect();
        for change in changes.iter().filter(|it| it.key.as_str() >= key && it.key.as_str() < end) {
            match &change.now {
                Some(stored) => found.insert(change.key.clone(), stored.clone()),
                None => found.remove(&change.key),
            };
        }
        found.into_iter().collect()
    }

    fn range_at(&self, key: &str, end: Option<&str>, at: u64) -> Vec<(String, Stored)> {
        let keys: Vec<&String> = match end {
            None => self.past.get_key_value(key).map(|(key, _)| key).into_iter().collect(),
            Some(end) if end <= key => Vec::new(),
            Some(end) => {
                self.past.range(key.to_owned()..end.to_owned()).map(|(key, _)| key).collect()
            }
        };
        let found = keys.into_iter().map(|key| (key.clone(), self.at(key, at)));
        found.filter_map(|(key, stored)| Some((key, stored?))).collect()
    }

    /// A key as it was at a revision.
    #[must_use]
    pub fn at(&self, key: &str, revision: u64) -> Option<Stored> {
        let past = self.past.get(key)?;
        let upto = past.partition_point(|(changed, _)| *changed <= revision);
        past[..upto].last().and_then(|(_, stored)| stored.clone())
    }

    /// All keys as they were at a revision.
    #[must_use]
    pub fn all_at(&self, revision: u64) -> BTreeMap<String, Stored> {
        let there = self.past.keys().map(|key| (key.clone(), self.at(key, revision)));
        there.filter_map(|(key, stored)| Some((key, stored?))).collect()
    }

    /// The key below a prefix that was created first of those that are there at a revision.
    #[must_use]
    pub fn oldest(&self, prefix: &str, revision: u64) -> Option<(&str, Stored)> {
        let below = self.past.range(prefix.to_owned()..);
        let below = below.take_while(|(key, _)| key.starts_with(prefix));
        let there = below.filter_map(|(key, _)| Some((key.as_str(), self.at(key, revision)?)));
        there.min_by_key(|(_, stored)| stored.created)
    }

    pub fn change(&mut self, revision: u64, changes: &[Change]) {
        for change in changes {
            match &change.now {
                Some(stored) => self.keys.insert(change.key.clone(), stored.clone()),
                None => self.keys.remove(&change.key),
            };
            let past = self.past.entry(change.key.clone()).or_default();
            past.push((revision, change.now.clone()));
        }
    }
}
