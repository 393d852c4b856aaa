//! The store through its door: edges one by one, and random histories against a plain model.

mod edges;
mod model;
mod properties;

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::engine::memory::{Faults, Memory, MemoryDisk};
use crate::record::KeyValue;
use crate::request::{Answer, Command, Delete, Outcome, Put};

/// A store over a disk in memory, with the log it is fed from.
pub(super) struct Bench {
    pub(super) disk: MemoryDisk,
    pub(super) store: Store,
    pub(super) log: Vec<Entry>,
}

impl Bench {
    pub(super) fn new() -> Bench {
        Bench::with(1, Faults::default())
    }

    pub(super) fn with(seed: u64, faults: Faults) -> Bench {
        let disk = MemoryDisk::new(seed, faults);
        let store = open(&disk);
        Bench { disk, store, log: Vec::new() }
    }

    /// One entry with these commands.
    pub(super) fn entry(&mut self, commands: Vec<Command>) -> EntryAnswers {
        let mut answers = self.group(vec![commands]);
        answers.remove(0)
    }

    /// One group of entries.
    pub(super) fn group(&mut self, entries: Vec<Vec<Command>>) -> Vec<EntryAnswers> {
        let first = self.log.len();
        for commands in entries {
            let index = Index(self.log.len() as u64 + 1);
            self.log.push(entry(index, commands));
        }
        self.store.apply(&self.log[first..]).expect("the engine works")
    }

    pub(super) fn command(&mut self, command: Command) -> Result<Answer, Error> {
        self.entry(vec![command]).remove(0)
    }

    #[track_caller]
    pub(super) fn put(&mut self, key: &str, value: &str) -> Revision {
        self.command(put(key, value)).expect("a plain put").revision
    }

    #[track_caller]
    pub(super) fn delete(&mut self, key: &str) -> Revision {
        self.command(delete(KeyRange::One(bytes(key)))).expect("a plain delete").revision
    }

    #[track_caller]
    pub(super) fn compact(&mut self, revision: u64) {
        let answer = self.command(Command::Compact(Revision(revision))).expect("in range");
        assert_eq!(answer.outcome, Outcome::Compacted);
    }

    /// Opens the store again and feeds it what it lacks.
    pub(super) fn reopen(&mut self) {
        self.store = open(&self.disk);
        let applied = self.store.applied().0.0 as usize;
        self.store.apply(&self.log[applied..]).expect("the engine works");
    }
}

pub(super) fn open(disk: &MemoryDisk) -> Store {
    let floor = Floor::new();
    let engine = Memory::open(disk, floor.retain());
    Store::open(engine, floor, Options::default()).expect("nothing is damaged")
}

pub(super) fn entry(index: Index, commands: Vec<Command>) -> Entry {
    let mark = Bytes::from(format!("mark {index}"));
    Entry { index, term: TERM, mark, commands: commands.into() }
}

pub(super) const TERM: u64 = 7;

pub(super) fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub(super) fn put(key: &str, value: &str) -> Command {
    Command::Put(Put { key: bytes(key), value: bytes(value), ..Put::default() })
}

pub(super) fn put_leased(key: &str, lease: i64) -> Command {
    Command::Put(Put { key: bytes(key), lease: LeaseId(lease), ..Put::default() })
}

pub(super) fn delete(range: KeyRange) -> Command {
    Command::Delete(Delete { range, previous: true })
}

pub(super) fn keys_of(kvs: &[KeyValue]) -> Vec<&str> {
    kvs.iter().map(|kv| std::str::from_utf8(&kv.key).expect("text")).collect()
}
