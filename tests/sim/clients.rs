//! Clients of simulated members, which ask what the clients of real ones ask and write it down alike.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use kontiki_faults::history::{
    Answer, Ask, Guard, History, LeaseAsk, LeaseOperation, LeaseOutcome, Micros, Operation,
    Outcome, Step, Stored,
};
use kontiki_raft::Error;
use kontiki_raft::replica::{Freshness, Replica};
use kontiki_storage::record::KeyValue;
use kontiki_storage::request::{
    Command, Compare, Delete, KeyRange, Operand, Operation as StoreOperation, OperationAnswer,
    Outcome as StoreOutcome, Put, Range, Relation, Transaction,
};
use kontiki_storage::{LeaseId, Revision};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, sleep, timeout};

pub const PREFIX: &str = "t/";
const KEYS: u64 = 8;
/// A register's operations are searched: its history stays short.
const REGISTER_LIFE: u64 = 150;
const LIST_LIFE: u64 = 200;

/// What all clients of a run share.
pub struct Ground {
    pub history: RefCell<History>,
    doors: RefCell<Vec<(u64, Replica)>>,
    began: Instant,
    counter: Cell<u64>,
    /// How long a client rests between two requests, at most, while anything befalls the cluster. Watches last
    /// as long by it in peace, too: what is on a member that fell shows nothing any more.
    pub(crate) rest_busy: Duration,
    /// How long it waits for an answer.
    patience: Duration,
    /// So many times as long it rests in peace; 1 while anything befalls the cluster.
    pub slow: Cell<u32>,
    pub newest: Cell<u64>,
    pub compacted: Cell<u64>,
    pub snapshots: Cell<u64>,
    pub stop: Cell<bool>,
}

impl Ground {
    #[must_use]
    pub fn new(rest_busy: Duration, patience: Duration) -> Rc<Ground> {
        Rc::new(Ground {
            history: RefCell::default(),
            doors: RefCell::default(),
            began: Instant::now(),
            counter: Cell::new(0),
            rest_busy,
            patience,
            slow: Cell::new(1),
            newest: Cell::new(1),
            compacted: Cell::new(0),
            snapshots: Cell::new(0),
            stop: Cell::new(false),
        })
    }

    #[must_use]
    pub fn now(&self) -> Micros {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(Micros::MAX)
    }

    /// How long a client rests at most, as things are.
    #[must_use]
    pub fn rest_max(&self) -> Duration {
        self.rest_busy * self.slow.get()
    }

    /// Which members clients may ask from now on.
    pub fn open(&self, doors: Vec<(u64, Replica)>) {
        *self.doors.borrow_mut() = doors;
    }

    pub(crate) fn door(&self, random: &mut StdRng) -> Option<(u64, Replica)> {
        let doors = self.doors.borrow();
        (!doors.is_empty()).then(|| doors[random.random_range(0..doors.len())].clone())
    }

    fn next(&self) -> u64 {
        self.counter.set(self.counter.get() + 1);
        self.counter.get()
    }

    fn note(&self, revision: u64) {
        self.newest.set(self.newest.get().max(revision));
    }
}

fn range(key: &str, end: Option<&str>) -> KeyRange {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    match end {
        None => KeyRange::One(bytes(key)),
        Some(end) => KeyRange::Between { start: bytes(key), end: bytes(end) },
    }
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(crate) fn stored(kv: &KeyValue) -> (String, Stored) {
    let stored = Stored {
        value: text(&kv.value),
        created: kv.created.0,
        modified: kv.modified.0,
        version: kv.version,
        lease: kv.lease.0,
    };
    (text(&kv.key), stored)
}

fn operation(step: &Step) -> StoreOperation {
    match step {
        Step::Get { key, end, at } => {
            let range = Range::new(range(key, end.as_deref()));
            StoreOperation::Range(Range { revision: Revision(*at), ..range })
        }
        Step::Put { key, value, lease } => StoreOperation::Put(Put {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: Bytes::copy_from_slice(value.as_bytes()),
            lease: LeaseId(*lease),
            ..Put::default()
        }),
        Step::Delete { key, end } => {
            StoreOperation::Delete(Delete { range: range(key, end.as_deref()), previous: false })
        }
    }
}

fn compare(guard: &Guard) -> Compare {
    let (key, operand) = match guard {
        Guard::Modified { key, revision } => (key, Operand::Modified(Revision(*revision))),
        Guard::Created { key, revision } => (key, Operand::Created(Revision(*revision))),
        Guard::Value { key, value } => {
            (key, Operand::Value(Bytes::copy_from_slice(value.as_bytes())))
        }
    };
    Compare { range: range(key, None), relation: Relation::Equal, operand }
}

async fn perform(replica: &Replica, ask: &Ask) -> Result<Outcome, Error> {
    if let ([], [Step::Get { key, end, at }]) = (ask.guards.as_slice(), ask.then.as_slice()) {
        let freshness = if ask.stale { Freshness::Serializable } else { Freshness::Linearizable };
        let asked = Range { revision: Revision(*at), ..Range::new(range(key, end.as_deref())) };
        let (answer, header) = replica.range(&asked, freshness).await?;
        let found = answer.kvs.iter().map(stored).collect();
        let (revision, answers) = (header.revision.0, vec![Answer::Found(found)]);
        return Ok(Outcome::Done { revision, succeeded: true, answers });
    }
    let transaction = Transaction {
        compare: ask.guards.iter().map(compare).collect(),
        success: ask.then.iter().map(operation).collect(),
        failure: ask.otherwise.iter().map(operation).collect(),
    };
    let answer = replica.propose(Command::Transaction(transaction)).await?;
    let StoreOutcome::Transaction(outcome) = answer.outcome else {
        return Err(Error::Unknown("another answer".into()));
    };
    let answers = outcome.answers.iter().map(|answer| match answer {
        OperationAnswer::Range(found) => Answer::Found(found.kvs.iter().map(stored).collect()),
        OperationAnswer::Put(_) | OperationAnswer::Transaction(_) => Answer::Put,
        OperationAnswer::Delete(deleted) => Answer::Deleted(deleted.deleted),
    });
    let answers = answers.collect();
    Ok(Outcome::Done { revision: answer.revision.0, succeeded: outcome.succeeded, answers })
}

fn failed(error: &Error) -> Outcome {
    match error {
        Error::NoLeader(_)
        | Error::Overloaded { .. }
        | Error::TooLarge { .. }
        | Error::Store(_) => Outcome::Refused(error.to_string()),
        _ => Outcome::Unknown(error.to_string()),
    }
}

pub struct Client {
    pub(crate) ground: Rc<Ground>,
    pub(crate) number: u32,
    pub(crate) random: StdRng,
}

impl Client {
    #[must_use]
    pub fn new(ground: Rc<Ground>, number: u32, seed: u64) -> Client {
        let random = StdRng::seed_from_u64(seed.wrapping_mul(1000) + u64::from(number));
        Client { ground, number, random }
    }

    pub async fn ask(&mut self, workload: &str, ask: Ask) -> Option<Outcome> {
        let (member, replica) = self.ground.door(&mut self.random)?;
        let call = self.ground.now();
        let outcome = match timeout(self.ground.patience, perform(&replica, &ask)).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => failed(&error),
            Err(_) => Outcome::Unknown("no answer".into()),
        };
        drop(replica);
        if let Outcome::Done { revision, .. } = &outcome {
            self.ground.note(*revision);
        }
        let operation = Operation {
            workload: workload.to_owned(),
            client: self.number,
            member: u32::try_from(member).unwrap_or_default(),
            call,
            end: self.ground.now(),
            ask,
            outcome: outcome.clone(),
        };
        self.ground.history.borrow_mut().operations.push(operation);
        Some(outcome)
    }

    pub(crate) async fn rest(&mut self) {
        sleep(self.ground.rest_max().mul_f64(self.random.random_range(0.02..1.0))).await;
    }

    /// Everything there is to do with keys, drawn anew each time.
    pub async fn work(mut self) {
        let mut register: Option<(String, String)> = None;
        let mut lists: Vec<(String, Stored)> = Vec::new();
        while !self.ground.stop.get() {
            let number = self.ground.next();
            let (workload, ask) = self.draw(number, register.as_ref(), &lists);
            let outcome = self.ask(workload, ask).await;
            if let Some(Outcome::Done { answers, .. }) = outcome {
                let found = answers.into_iter().filter_map(|answer| match answer {
                    Answer::Found(found) => Some(found),
                    _ => None,
                });
                let mut found = found.flatten();
                match workload {
                    "register" => {
                        let first = found.next().map(|(key, stored)| (key, stored.value));
                        register = first.or(register);
                    }
                    "append" => lists = found.collect(),
                    _ => {}
                }
            }
            self.rest().await;
        }
    }

    fn draw(
        &mut self,
        number: u64,
        register: Option<&(String, String)>,
        lists: &[(String, Stored)],
    ) -> (&'static str, Ask) {
        let random = &mut self.random;
        let alone = |step| Ask { then: vec![step], ..Ask::default() };
        let get = |key: &str| Step::Get { key: key.into(), end: None, at: 0 };
        let put = |key: &str, value: String| Step::Put { key: key.into(), value, lease: 0 };
        let key = format!("t/x/{}", random.random_range(0..KEYS));
        let other = format!("t/x/{}", random.random_range(0..KEYS));
        let all = |at| Step::Get { key: "t/x/".into(), end: Some("t/x0".into()), at };
        match random.random_range(0..26) {
            0..3 => ("set", alone(put(&format!("t/s/{number}"), format!("s{number}")))),
            kind @ 3..10 => {
                let key = format!("t/r/{}", number / REGISTER_LIFE);
                let ask = match register {
                    Some((of, from)) if kind < 5 && *of == key => Ask {
                        guards: vec![Guard::Value { key: key.clone(), value: from.clone() }],
                        ..alone(put(&key, format!("r{number}")))
                    },
                    _ if kind < 7 => alone(put(&key, format!("r{number}"))),
                    _ => alone(get(&key)),
                };
                ("register", ask)
            }
            10..15 => {
                let group = number / LIST_LIFE;
                let first = random.random_range(0..3);
                let keys = [first, (first + 1) % 3].map(|at| format!("t/a/{group}-{at}"));
                let mut ask = Ask::default();
                for (nth, key) in keys.iter().enumerate() {
                    let known = lists.iter().find(|(it, _)| it == key).map(|(_, stored)| stored);
                    let revision = known.map_or(0, |stored| stored.modified);
                    ask.guards.push(Guard::Modified { key: key.clone(), revision });
                    ask.then.push(get(key));
                    ask.otherwise.push(get(key));
                    if nth == 0 || random.random_bool(0.5) {
                        let before = known.map_or("", |stored| stored.value.as_str());
                        let value = format!("{before} {number}.{nth}");
                        ask.then.push(put(key, value.trim().to_owned()));
                    }
                }
                ("append", ask)
            }
            15..18 => ("transaction", alone(put(&key, format!("x{number}")))),
            18 => ("transaction", alone(Step::Delete { key, end: None })),
            19 => ("transaction", alone(all(0))),
            20 => ("transaction", Ask { stale: true, ..alone(all(0)) }),
            21 => {
                let newest = self.ground.newest.get();
                let oldest = self.ground.compacted.get().max(2).min(newest);
                ("transaction", alone(all(random.random_range(oldest..=newest))))
            }
            // The past, read where something is written too: members must agree whether it is forgotten.
            22..24 => {
                let newest = self.ground.newest.get();
                let oldest = self.ground.compacted.get().saturating_sub(20).max(2).min(newest);
                let then = vec![
                    put(&key, format!("x{number}")),
                    all(random.random_range(oldest..=newest)),
                ];
                ("transaction", Ask { then, ..Ask::default() })
            }
            _ if key != other => {
                let then = vec![
                    put(&key, format!("x{number}")),
                    get(&other),
                    put(&other, format!("y{number}")),
                    all(0),
                ];
                ("transaction", Ask { then, ..Ask::default() })
            }
            _ => ("transaction", alone(get(&key))),
        }
    }

    async fn about(&mut self, lease: i64, ask: LeaseAsk) -> Option<LeaseOutcome> {
        let (member, replica) = self.ground.door(&mut self.random)?;
        let call = self.ground.now();
        let id = LeaseId(lease);
        let asked = async {
            Ok::<_, Error>(match &ask {
                LeaseAsk::Grant { ttl_s } => {
                    let granted = replica.lease_grant(Some(id), *ttl_s).await?;
                    LeaseOutcome::Done { ttl_s: granted.ttl_s }
                }
                LeaseAsk::KeepAlive => match replica.lease_keep_alive(id).await? {
                    Some(ttl_s) => LeaseOutcome::Done { ttl_s },
                    None => LeaseOutcome::Gone,
                },
                LeaseAsk::Revoke | LeaseAsk::Lock { .. } => {
                    replica.lease_revoke(id).await?;
                    LeaseOutcome::Done { ttl_s: 0 }
                }
            })
        };
        let outcome = match timeout(self.ground.patience, asked).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => LeaseOutcome::Unknown(error.to_string()),
            Err(_) => LeaseOutcome::Unknown("no answer".into()),
        };
        drop(replica);
        let member = u32::try_from(member).unwrap_or_default();
        let end = self.ground.now();
        let (client, recorded) = (self.number, outcome.clone());
        let operation = LeaseOperation { client, member, call, end, lease, ask, outcome: recorded };
        self.ground.history.borrow_mut().leases.push(operation);
        Some(outcome)
    }

    /// Leases with two keys each, renewed a few times and then left to end.
    pub async fn lease(mut self) {
        while !self.ground.stop.get() {
            let lease = i64::try_from(self.ground.next()).unwrap_or(i64::MAX);
            let ttl_s = self.random.random_range(2..6);
            let granted = self.about(lease, LeaseAsk::Grant { ttl_s }).await;
            if let Some(LeaseOutcome::Done { ttl_s }) = granted {
                for name in ["a", "b"] {
                    let key = format!("t/l/{lease}/{name}");
                    let value = format!("l{}", self.ground.next());
                    let then = vec![Step::Put { key, value, lease }];
                    self.ask("lease", Ask { then, ..Ask::default() }).await;
                }
                for _ in 0..self.random.random_range(0..5) {
                    sleep(Duration::from_millis(ttl_s.unsigned_abs() * 400)).await;
                    self.about(lease, LeaseAsk::KeepAlive).await;
                }
                if self.random.random_bool(0.2) {
                    self.about(lease, LeaseAsk::Revoke).await;
                }
            }
            self.rest().await;
        }
    }
}
