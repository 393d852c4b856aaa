//! What must hold whatever the bytes are. Each function takes any bytes and panics where it does not hold.
//!
//! `tests/fuzz` runs them on the kept seeds and on mutations of these; `fuzz/` on whatever libFuzzer
//! finds.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use kontiki_raft::log::{self, FlusherMode, Log, SimDisk};
use kontiki_storage::compaction::Floor;
use kontiki_storage::engine::Open as _;
use kontiki_storage::engine::memory::MemoryFactory;
use kontiki_storage::record::LeaseId;
use kontiki_storage::request::{
    Command, Compare, Delete, Entry, KeyRange, Operand, Operation, Put, Range, Relation,
    Transaction,
};
use kontiki_storage::revision::{Index, Revision};
use kontiki_storage::snapshot::{Manifest, archive};
use kontiki_storage::{Options, Store, codec, keys, row};

/// By name, as the folders of seeds are called.
pub const ALL: &[(&str, fn(&[u8]))] = &[
    ("commands", commands),
    ("transaction", transaction),
    ("manifest", manifest),
    ("rows", rows),
    ("log", log_segment),
];

/// Commands of the replicated log: read or refused, the same when written again, and carried out or
/// refused without a trace.
pub fn commands(bytes: &[u8]) {
    let Ok(commands) = codec::decode_commands(Bytes::copy_from_slice(bytes)) else { return };
    let again = codec::decode_commands(codec::encode_commands(&commands));
    assert_eq!(again.as_ref(), Ok(&commands));
    let store = Tried::new();
    // More of them say nothing more, and would only take longer.
    for command in commands.into_iter().take(64) {
        store.carry_out(command);
    }
}

/// The checker of transactions: what it lets through can be carried out to the end, and what it refuses
/// changes nothing. Unlike [`commands`] every input is a transaction.
pub fn transaction(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let transaction = choices.transaction(0);
    let encoded = codec::encode_commands(&[Command::Transaction(transaction.clone())]);
    let decoded = codec::decode_commands(encoded).expect("what was encoded can be decoded");
    assert_eq!(decoded, [Command::Transaction(transaction.clone())]);
    let store = Tried::new();
    let before = store.store.revision();
    store.carry_out(Command::Transaction(transaction.clone()));
    if transaction.is_read_only() {
        assert_eq!(store.store.revision(), before, "{transaction:?}");
    }
}

/// What a snapshot says of itself, and a snapshot as a whole.
pub fn manifest(bytes: &[u8]) {
    if let Ok(read) = Manifest::decode(bytes) {
        let again = Manifest::decode(&read.encode()).expect("what was written can be read");
        assert_eq!(again.encode(), read.encode());
    }
    let _ = archive::inspect(bytes);
}

/// Rows of every table, keys and values.
pub fn rows(bytes: &[u8]) {
    let shared = Bytes::copy_from_slice(bytes);
    let mut key = Vec::new();
    let _ = keys::read_past(bytes, &mut key);
    let _ = keys::past_prefix(bytes);
    let _ = keys::read_change(bytes);
    let _ = keys::read_lease(bytes);
    let _ = keys::read_lease_key(bytes);
    let _ = row::read_live(bytes);
    let _ = row::read_past(bytes);
    let _ = row::read_change(bytes);
    let _ = row::read_lease(LeaseId(1), bytes);
    let _ = row::read_format(bytes);
    if let Ok(state) = row::State::read(&shared) {
        let written: Vec<u8> = [state.head().as_slice(), &state.mark].concat();
        assert_eq!(row::State::read(&written.into()).as_ref(), Ok(&state));
    }
    // What is escaped comes back, and says where it ends.
    let (mut row_key, mut key) = (Vec::new(), Vec::new());
    keys::past(bytes, Revision(7), &mut row_key);
    assert_eq!(keys::read_past(&row_key, &mut key), Ok(Revision(7)));
    assert_eq!(key, bytes);
}

/// A log of which one segment holds anything: it opens or is refused.
pub fn log_segment(bytes: &[u8]) {
    let disk = SimDisk::new(1);
    let options = log::Options {
        segment_bytes: 1 << 20,
        flusher: FlusherMode::Inline,
        zeros_written_ahead: false,
        ..log::Options::default()
    };
    let owner = log::Identity { cluster: 1, node: 1 };
    let open = || Log::open(Arc::new(disk.fork()), owner, options.clone());
    // What a first start leaves, of which one file is then another.
    let (log, _) = Log::open(Arc::new(disk.clone()), owner, options.clone()).expect("a new log");
    log.close();
    let names = log::Disk::list(&disk).expect("it lists its files");
    for name in names {
        let before = disk.contents(&name);
        let mut damaged = before.clone();
        let length = bytes.len().min(damaged.len());
        damaged[..length].copy_from_slice(&bytes[..length]);
        disk.set_contents(&name, &damaged);
        if let Ok((log, _)) = open() {
            let _ = log.read(0, u64::MAX, 1 << 20);
            log.close();
        }
        disk.set_contents(&name, &before);
    }
}

/// A store that holds a little, and is asked one command after the other.
struct Tried {
    store: Store,
}

impl Tried {
    fn new() -> Tried {
        let floor = Floor::default();
        let factory = MemoryFactory::new(1);
        let folder = tempfile::tempdir().expect("a folder");
        let engine = factory.open(folder.path(), floor.retain()).expect("memory");
        let options = Options { directory: Path::new("memory").to_owned(), ..Options::default() };
        let tried = Tried { store: Store::open(engine, floor, options).expect("empty") };
        tried.apply(Command::LeaseGrant { id: LeaseId(1), ttl_s: 60 }).expect("a lease");
        for (key, lease) in [("a", 0), ("b", 1), ("b", 1), ("c", 0)] {
            let (key, lease) = (Bytes::from(key), LeaseId(lease));
            let put = Put { key, value: "v".into(), lease, ..Put::default() };
            tried.apply(Command::Put(put)).expect("a put");
        }
        tried
    }

    fn apply(&self, command: Command) -> Result<(), kontiki_storage::Error> {
        let (Index(applied), _) = self.store.applied();
        let entry = Entry {
            index: Index(applied + 1),
            term: 7,
            mark: Bytes::new(),
            commands: vec![command].into(),
        };
        let answers = self.store.apply(&[entry]).expect("no command harms the store");
        let answer = answers.into_iter().flatten().next();
        answer.expect("one answer for one command").map(|_| ())
    }

    fn carry_out(&self, command: Command) {
        let checked = command.check();
        let _ = command.weight();
        let (before, digest) = (self.store.revision(), self.store.digest());
        let applied = self.apply(command.clone());
        if checked.is_err() {
            assert_eq!(applied, checked, "{command:?}");
        }
        if applied.is_err() {
            assert_eq!(self.store.revision(), before, "{command:?} was refused: {applied:?}");
            assert_eq!(self.store.digest(), digest, "{command:?} was refused: {applied:?}");
        }
    }
}

/// Bytes as decisions. Where they end, every decision is the first.
struct Choices<'b>(&'b [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn one_of(&mut self, count: u8) -> u8 {
        self.byte() % count
    }

    /// Few keys, so that they meet.
    fn key(&mut self) -> Bytes {
        const KEYS: [&str; 6] = ["a", "b", "c", "bb", "", "d"];
        Bytes::from(KEYS[usize::from(self.one_of(6))])
    }

    fn range(&mut self) -> KeyRange {
        match self.one_of(4) {
            0 | 1 => KeyRange::One(self.key()),
            2 => KeyRange::Between { start: self.key(), end: self.key() },
            _ => KeyRange::From(self.key()),
        }
    }

    fn number(&mut self) -> u64 {
        match self.one_of(8) {
            7 => u64::MAX,
            small => u64::from(small),
        }
    }

    fn put(&mut self) -> Put {
        let flags = self.byte();
        let value = if flags & 8 == 0 { Bytes::from("w") } else { Bytes::new() };
        Put {
            key: self.key(),
            value,
            lease: LeaseId(i64::from(self.one_of(3))),
            previous: flags & 1 != 0,
            ignore_value: flags & 2 != 0,
            ignore_lease: flags & 4 != 0,
        }
    }

    fn compare(&mut self) -> Compare {
        let relations = [Relation::Equal, Relation::Greater, Relation::Less, Relation::NotEqual];
        let relation = relations[usize::from(self.one_of(4))];
        let range = self.range();
        let operand = match self.one_of(5) {
            0 => Operand::Version(self.number()),
            1 => Operand::Created(Revision(self.number())),
            2 => Operand::Modified(Revision(self.number())),
            3 => Operand::Value(self.key()),
            _ => Operand::Lease(LeaseId(i64::from(self.one_of(3)))),
        };
        Compare { range, relation, operand }
    }

    fn operation(&mut self, depth: usize) -> Operation {
        match self.one_of(8) {
            0..=2 => Operation::Put(self.put()),
            3 | 4 => {
                let previous = self.byte() % 2 == 1;
                Operation::Delete(Delete { range: self.range(), previous })
            }
            5 => {
                let revision = Revision(self.number());
                let limit = self.number();
                Operation::Range(Range { revision, limit, ..Range::new(self.range()) })
            }
            _ => Operation::Transaction(self.transaction(depth + 1)),
        }
    }

    fn transaction(&mut self, depth: usize) -> Transaction {
        if depth > 40 || self.0.is_empty() {
            return Transaction::default();
        }
        // Mostly few; now and then more than there may be.
        let mut count = || match self.one_of(16) {
            15 => 129,
            few => few / 4,
        };
        let (compare, success, failure) = (count(), count(), count());
        Transaction {
            compare: (0..compare).map(|_| self.compare()).collect(),
            success: (0..success).map(|_| self.operation(depth)).collect(),
            failure: (0..failure).map(|_| self.operation(depth)).collect(),
        }
    }
}
