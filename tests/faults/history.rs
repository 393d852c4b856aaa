//! What clients did and saw, and what was done to the cluster meanwhile: one record a line, as JSON.
//!
//! Keeps: a record says what was observed and nothing that was concluded. An operation of which it is not
//! known whether it was carried out is `Unknown`; only what the cluster says it did not do is `Refused`.
//! Times are microseconds since the run began, of one monotonic clock in one process.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// Microseconds since the run began.
pub type Micros = u64;

/// A key's value with what the store keeps about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    pub value: String,
    pub created: u64,
    pub modified: u64,
    pub version: u64,
    pub lease: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Guard {
    /// The key was last changed at this revision; 0 means that it is not there.
    Modified { key: String, revision: u64 },
    /// The key was created at this revision; 0 means that it is not there.
    Created { key: String, revision: u64 },
    /// The key is there with this value.
    Value { key: String, value: String },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// One key, or all from it and before `end`; at a past revision if `at` is not 0.
    Get {
        key: String,
        end: Option<String>,
        at: u64,
    },
    Put {
        key: String,
        value: String,
        lease: i64,
    },
    Delete {
        key: String,
        end: Option<String>,
    },
}

/// Everything a client can ask of keys, as one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    pub guards: Vec<Guard>,
    pub then: Vec<Step>,
    pub otherwise: Vec<Step>,
    /// The member may answer from what it has.
    pub stale: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    Found(Vec<(String, Stored)>),
    Put,
    Deleted(u64),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    Done { revision: u64, succeeded: bool, answers: Vec<Answer> },
    Refused(String),
    Unknown(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    pub workload: String,
    pub client: u32,
    pub member: u32,
    pub call: Micros,
    pub end: Micros,
    pub ask: Ask,
    pub outcome: Outcome,
}

/// A change as a watcher is told of it. `now` is nothing where the key went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub key: String,
    pub revision: u64,
    pub now: Option<Stored>,
    pub previous: Option<Stored>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    pub at: Micros,
    /// Of the header.
    pub revision: u64,
    pub created: bool,
    pub canceled: bool,
    /// Not 0: what was asked for is compacted up to here.
    pub compacted: u64,
    pub events: Vec<Event>,
}

/// One watch on one stream, from its creation to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Sessions of one watcher follow each other: each goes on where the last one ended.
    pub watcher: u32,
    pub member: u32,
    pub prefix: String,
    /// 0 is "from now on".
    pub from: u64,
    pub previous: bool,
    pub no_put: bool,
    pub no_delete: bool,
    /// Its events are those that everything else is held against.
    pub witness: bool,
    pub notices: Vec<Notice>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeaseAsk {
    Grant {
        ttl_s: i64,
    },
    KeepAlive,
    Revoke,
    /// A lock of this name, held while the lease lives.
    Lock {
        name: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeaseOutcome {
    Done {
        ttl_s: i64,
    },
    /// Held by this key as of this revision.
    Held {
        key: String,
        revision: u64,
    },
    /// There is no such lease.
    Gone,
    Unknown(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseOperation {
    pub client: u32,
    pub member: u32,
    pub call: Micros,
    pub end: Micros,
    pub lease: i64,
    pub ask: LeaseAsk,
    pub outcome: LeaseOutcome,
}

/// Something that was done to the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    pub what: String,
    pub members: Vec<u32>,
    pub from: Micros,
    pub until: Micros,
}

/// How the cluster was when everything had healed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rest {
    pub at: Micros,
    /// When the last fault had ended and all members served again.
    pub healed: Micros,
    pub revision: u64,
    pub keys: Vec<(String, Stored)>,
    /// Name and hash of each member at one revision.
    pub hashes: Vec<(String, u64)>,
    /// History below this was forgotten on request.
    pub compacted: u64,
    /// Of a cluster restored from a copy: what it held, and the revision of the copy.
    pub restored: Option<(u64, Vec<(String, Stored)>)>,
    /// What did not come back in time.
    pub stuck: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    pub target: String,
    pub version: String,
    pub seed: u64,
    pub members: u32,
    pub seconds: u64,
    pub faults: Vec<String>,
    pub workloads: Vec<String>,
    /// Keys are watched and judged below this.
    pub prefix: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    Run(Run),
    Operation(Operation),
    Session(Session),
    Lease(LeaseOperation),
    Fault(Fault),
    Rest(Rest),
}

/// All records of a run, sorted by kind.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub run: Option<Run>,
    pub operations: Vec<Operation>,
    pub sessions: Vec<Session>,
    pub leases: Vec<LeaseOperation>,
    pub faults: Vec<Fault>,
    pub rest: Rest,
}

impl History {
    pub fn add(&mut self, record: Record) {
        match record {
            Record::Run(run) => self.run = Some(run),
            Record::Operation(operation) => self.operations.push(operation),
            Record::Session(session) => self.sessions.push(session),
            Record::Lease(lease) => self.leases.push(lease),
            Record::Fault(fault) => self.faults.push(fault),
            Record::Rest(rest) => self.rest = rest,
        }
    }

    /// Writes all records, to be read again.
    pub fn write(&self, path: &Path) -> Result<(), String> {
        let recorder = Recorder::create(path)?;
        let History { run, operations, sessions, leases, faults, rest } = self.clone();
        run.into_iter().for_each(|run| recorder.add(&Record::Run(run)));
        operations.into_iter().for_each(|it| recorder.add(&Record::Operation(it)));
        sessions.into_iter().for_each(|it| recorder.add(&Record::Session(it)));
        leases.into_iter().for_each(|it| recorder.add(&Record::Lease(it)));
        faults.into_iter().for_each(|it| recorder.add(&Record::Fault(it)));
        recorder.add(&Record::Rest(rest));
        recorder.finish();
        Ok(())
    }

    pub fn read(path: &Path) -> Result<History, String> {
        let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let mut history = History::default();
        for line in BufReader::new(File::open(path).map_err(|error| wrong(&error))?).lines() {
            let line = line.map_err(|error| wrong(&error))?;
            history.add(serde_json::from_str(&line).map_err(|error| wrong(&error))?);
        }
        Ok(history)
    }
}

/// Writes records as they come. Clones write to the same file.
#[derive(Clone)]
pub struct Recorder {
    began: Instant,
    file: Arc<Mutex<BufWriter<File>>>,
}

impl Recorder {
    pub fn create(path: &Path) -> Result<Recorder, String> {
        let file = File::create(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Recorder { began: Instant::now(), file: Arc::new(Mutex::new(BufWriter::new(file))) })
    }

    #[must_use]
    pub fn now(&self) -> Micros {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(Micros::MAX)
    }

    /// A history that cannot be written is none: the run ends.
    pub fn add(&self, record: &Record) {
        let mut file = self.file.lock();
        serde_json::to_writer(&mut *file, record).expect("the history can be written");
        file.write_all(b"\n").expect("the history can be written");
    }

    pub fn finish(&self) {
        self.file.lock().flush().expect("the history can be written");
    }
}
