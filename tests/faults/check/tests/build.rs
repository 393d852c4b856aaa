//! Histories of a store that keeps all promises, which a test then spoils.

use crate::check::state::State;
use crate::history::{
    Answer, Ask, Event, Guard, History, Micros, Notice, Operation, Outcome, Rest, Session, Step,
};

/// A store that does one thing after another, and a witness of it.
#[derive(Default)]
pub struct Store {
    pub history: History,
    pub state: State,
    pub revision: u64,
    pub now: Micros,
    events: Vec<Vec<Event>>,
}

pub fn get(key: &str) -> Ask {
    Ask { then: vec![Step::Get { key: key.into(), end: None, at: 0 }], ..Ask::default() }
}

pub fn put(key: &str, value: &str) -> Ask {
    put_leased(key, value, 0)
}

pub fn put_leased(key: &str, value: &str, lease: i64) -> Ask {
    Ask { then: vec![Step::Put { key: key.into(), value: value.into(), lease }], ..Ask::default() }
}

pub fn delete(key: &str) -> Ask {
    Ask { then: vec![Step::Delete { key: key.into(), end: None }], ..Ask::default() }
}

pub fn swap(key: &str, from: &str, to: &str) -> Ask {
    let guards = vec![Guard::Value { key: key.into(), value: from.into() }];
    Ask { guards, ..put(key, to) }
}

pub fn both(one: Ask, other: Ask) -> Ask {
    Ask { then: one.then.into_iter().chain(other.then).collect(), ..Ask::default() }
}

impl Store {
    pub fn new() -> Store {
        Store { revision: 1, ..Store::default() }
    }

    /// Carries something out and returns what a client would have recorded.
    pub fn apply(&mut self, ask: Ask) -> Operation {
        self.now += 10;
        let effect = self.state.effect(&ask, self.revision + 1);
        if !effect.changes.is_empty() {
            self.revision += 1;
            let events = effect.changes.iter().map(|change| Event {
                key: change.key.clone(),
                revision: self.revision,
                now: change.now.clone(),
                previous: self.state.keys.get(&change.key).cloned(),
            });
            self.events.push(events.collect());
            self.state.change(self.revision, &effect.changes);
        }
        Operation {
            workload: "keys".into(),
            client: 1,
            member: 1,
            call: self.now,
            end: self.now + 5,
            ask,
            outcome: Outcome::Done {
                revision: self.revision,
                succeeded: effect.succeeded,
                answers: effect.answers,
            },
        }
    }

    pub fn run(&mut self, ask: Ask) -> &mut Operation {
        let operation = self.apply(ask);
        self.history.operations.push(operation);
        self.history.operations.last_mut().unwrap()
    }

    /// Keys go without a client: as when their lease has ended.
    pub fn expire(&mut self, keys: &[&str]) -> u64 {
        let gone = keys.iter().fold(Ask::default(), |all, key| both(all, delete(key)));
        self.apply(gone);
        self.revision
    }

    /// One notice for each revision.
    pub fn session(&self, from: u64) -> Session {
        let notice = |events: &Vec<Event>| Notice {
            at: self.now,
            revision: events[0].revision,
            events: events.clone(),
            ..Notice::default()
        };
        let shown = self.events.iter().filter(|events| events[0].revision >= from);
        Session {
            watcher: 1,
            member: 1,
            prefix: String::new(),
            from,
            previous: true,
            notices: shown.map(notice).collect(),
            ..Session::default()
        }
    }

    /// The history, with a witness and with the state at the end.
    pub fn finish(&mut self) -> &mut History {
        let witness = Session { watcher: 99, witness: true, ..self.session(1) };
        self.history.sessions.push(witness);
        self.history.rest = Rest {
            at: self.now + 100,
            healed: self.now,
            revision: self.revision,
            keys: self.state.keys.clone().into_iter().collect(),
            ..Rest::default()
        };
        &mut self.history
    }
}

pub fn unknown(operation: &mut Operation) {
    operation.outcome = Outcome::Unknown("no answer".into());
}

/// Lets a read have seen another value.
pub fn saw(operation: &mut Operation, value: &str) {
    let Outcome::Done { answers, .. } = &mut operation.outcome else { return };
    let Some(Answer::Found(found)) = answers.first_mut() else { return };
    found[0].1.value = value.into();
}

pub fn told(operation: &mut Operation, revision: u64) {
    let Outcome::Done { revision: told, .. } = &mut operation.outcome else { return };
    *told = revision;
}
