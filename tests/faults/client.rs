//! A client of one member at a time, which writes down everything it asks and hears.
//!
//! Keeps: nothing is asked twice. What was not answered in time stays unknown.

mod crowd;

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{
    Client as Connection, Compare, CompareOp, DeleteOptions, Error, Event as WireEvent, EventType,
    GetOptions, KeyValue, LeaseGrantOptions, LockOptions, PutOptions, Txn, TxnOp, TxnOpResponse,
    WatchOptions, WatchResponse,
};
use parking_lot::Mutex;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::time::timeout;

use crate::cluster::Door;
use crate::history::{
    Answer, Ask, Event, Guard, LeaseAsk, LeaseOperation, LeaseOutcome, Notice, Operation, Outcome,
    Record, Recorder, Session, Step, Stored,
};

/// How long a client waits for an answer.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// Where the members are that clients may ask. Changes as members come and go.
pub type Doors = Arc<Mutex<Vec<Door>>>;

pub struct Client {
    pub number: u32,
    pub random: StdRng,
    doors: Doors,
    recorder: Recorder,
    connection: Option<(Door, Connection)>,
    /// "No leader" is a refusal, and not a guess.
    refuses: bool,
}

impl Client {
    #[must_use]
    pub fn new(
        number: u32,
        random: StdRng,
        doors: Doors,
        recorder: Recorder,
        refuses: bool,
    ) -> Client {
        Client { number, random, doors, recorder, connection: None, refuses }
    }

    /// A connection to some member; after a failure to another one, perhaps.
    async fn connection(&mut self) -> Result<(u32, Connection), Error> {
        if self.connection.is_none() {
            let door = {
                let doors = self.doors.lock();
                doors.get(self.random.random_range(0..doors.len().max(1))).cloned()
            };
            let door = door.ok_or_else(|| Error::EndpointError("nobody is there".into()))?;
            let made = door.connect().await.map_err(Error::EndpointError)?;
            self.connection = Some((door, made));
        }
        let (door, connection) = self.connection.as_ref().expect("just made");
        Ok((door.member, connection.clone()))
    }

    pub async fn ask(&mut self, workload: &str, ask: Ask) -> Outcome {
        let call = self.recorder.now();
        let (member, outcome) = match self.connection().await {
            Err(error) => (0, self.failed(&error)),
            Ok((member, mut connection)) => {
                match timeout(PATIENCE, perform(&mut connection, &ask)).await {
                    Ok(Ok(outcome)) => (member, outcome),
                    Ok(Err(error)) => (member, self.failed(&error)),
                    Err(_) => {
                        self.connection = None;
                        (member, Outcome::Unknown("no answer".into()))
                    }
                }
            }
        };
        let operation = Operation {
            workload: workload.to_owned(),
            client: self.number,
            member,
            call,
            end: self.recorder.now(),
            ask,
            outcome: outcome.clone(),
        };
        self.recorder.add(&Record::Operation(operation));
        outcome
    }

    fn failed(&mut self, error: &Error) -> Outcome {
        self.connection = None;
        let Error::GRpcStatus(status) = error else {
            return Outcome::Unknown(error.to_string());
        };
        let said = status.message().to_owned();
        // By their numbers in gRPC: an argument, a thing that is not there, too much, a condition, a range.
        let certain = matches!(status.code() as i32, 3 | 5 | 8 | 9 | 11);
        if certain || (self.refuses && said == "etcdserver: no leader") {
            Outcome::Refused(said)
        } else {
            Outcome::Unknown(said)
        }
    }

    /// Asks about a lease; what is recorded begins when it is asked and not when one connects.
    pub async fn lease(&mut self, lease: i64, ask: LeaseAsk) -> LeaseOutcome {
        let mut call = self.recorder.now();
        let (member, outcome) = match self.connection().await {
            Err(error) => (0, LeaseOutcome::Unknown(error.to_string())),
            Ok((member, mut connection)) => {
                let now = || self.recorder.now();
                let asked = about_lease(&mut connection, lease, &ask, &mut call, now);
                match timeout(PATIENCE, asked).await {
                    Ok(Ok(outcome)) => (member, outcome),
                    Ok(Err(error)) => {
                        self.connection = None;
                        let gone = error.to_string().contains("lease not found");
                        let unknown = LeaseOutcome::Unknown(error.to_string());
                        (member, if gone { LeaseOutcome::Gone } else { unknown })
                    }
                    Err(_) => {
                        self.connection = None;
                        (member, LeaseOutcome::Unknown("no answer".into()))
                    }
                }
            }
        };
        let operation = LeaseOperation {
            client: self.number,
            member,
            call,
            end: self.recorder.now(),
            lease,
            ask,
            outcome: outcome.clone(),
        };
        self.recorder.add(&Record::Lease(operation));
        outcome
    }

    /// History below `revision` is to be forgotten.
    pub async fn compact(&mut self, revision: u64) -> bool {
        let Ok((_, mut connection)) = self.connection().await else { return false };
        let asked = connection.compact(signed(revision), None);
        let done = matches!(timeout(PATIENCE, asked).await, Ok(Ok(_)));
        if !done {
            self.connection = None;
        }
        done
    }

    /// Watches for `life` at most, and until `enough` says so of the newest notice. Returns the session.
    pub async fn watch(
        &mut self,
        mut session: Session,
        life: Duration,
        mut enough: impl FnMut(&Notice) -> bool,
    ) -> Session {
        let Ok((member, mut connection)) = self.connection().await else { return session };
        session.member = member;
        let options = watch_options(&session);
        let key = session.prefix.clone();
        let watching = async {
            let Ok(mut stream) = connection.watch(key, Some(options)).await else { return true };
            let mut ask = tokio::time::interval(Duration::from_secs(1));
            loop {
                tokio::select! {
                    message = stream.message() => {
                        let Ok(Some(message)) = message else { return true };
                        let notice = notice(&message, self.recorder.now());
                        let end = notice.canceled || enough(&notice);
                        session.notices.push(notice);
                        if end {
                            return false;
                        }
                    }
                    _ = ask.tick() => {
                        if stream.request_progress().await.is_err() {
                            return true;
                        }
                    }
                }
            }
        };
        if timeout(life, watching).await != Ok(false) {
            self.connection = None;
        }
        session
    }

    fn forget_connection(&mut self) {
        self.connection = None;
    }

    pub fn record(&self, session: Session) {
        if !session.notices.is_empty() {
            self.recorder.add(&Record::Session(session));
        }
    }
}

fn notice(message: &WatchResponse, at: u64) -> Notice {
    Notice {
        at,
        revision: unsigned(message.header().map_or(0, |it| it.revision())),
        created: message.created(),
        canceled: message.canceled(),
        compacted: unsigned(message.compact_revision()),
        events: message.events().iter().filter_map(event).collect(),
    }
}

fn watch_options(session: &Session) -> WatchOptions {
    let mut options = WatchOptions::new().with_prefix().with_start_revision(signed(session.from));
    if session.previous {
        options = options.with_prev_key();
    }
    let mut filters = Vec::new();
    if session.no_put {
        filters.push(etcd_client::WatchFilterType::NoPut);
    }
    if session.no_delete {
        filters.push(etcd_client::WatchFilterType::NoDelete);
    }
    options.with_filters(filters)
}

pub(crate) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(crate) fn stored(kv: &KeyValue) -> (String, Stored) {
    let stored = Stored {
        value: text(kv.value()),
        created: unsigned(kv.create_revision()),
        modified: unsigned(kv.mod_revision()),
        version: unsigned(kv.version()),
        lease: kv.lease(),
    };
    (text(kv.key()), stored)
}

fn event(event: &WireEvent) -> Option<Event> {
    let (key, now) = stored(event.kv()?);
    let revision = now.modified;
    let now = (event.event_type() == EventType::Put).then_some(now);
    let previous = event.prev_kv().map(|kv| stored(kv).1);
    Some(Event { key, revision, now, previous })
}

fn get_options(end: Option<&str>, at: u64, stale: bool) -> GetOptions {
    let mut options = GetOptions::new().with_revision(signed(at));
    if let Some(end) = end {
        options = options.with_range(end);
    }
    if stale { options.with_serializable() } else { options }
}

fn delete_options(end: Option<&str>) -> DeleteOptions {
    match end {
        Some(end) => DeleteOptions::new().with_range(end),
        None => DeleteOptions::new(),
    }
}

/// Carries out what stands for itself by a request of its own, and everything else as a transaction.
async fn perform(connection: &mut Connection, ask: &Ask) -> Result<Outcome, Error> {
    let done = |revision: Option<i64>, succeeded, answers| Outcome::Done {
        revision: unsigned(revision.unwrap_or_default()),
        succeeded,
        answers,
    };
    if let ([], [step]) = (ask.guards.as_slice(), ask.then.as_slice()) {
        match step {
            Step::Get { key, end, at } => {
                let options = get_options(end.as_deref(), *at, ask.stale);
                let got = connection.get(key.as_str(), Some(options)).await?;
                let found = got.kvs().iter().map(stored).collect();
                let revision = got.header().map(|header| header.revision());
                return Ok(done(revision, true, vec![Answer::Found(found)]));
            }
            Step::Put { key, value, lease } => {
                let options = PutOptions::new().with_lease(*lease);
                let put = connection.put(key.as_str(), value.as_str(), Some(options)).await?;
                let revision = put.header().map(|header| header.revision());
                return Ok(done(revision, true, vec![Answer::Put]));
            }
            Step::Delete { key, end } => {
                let options = delete_options(end.as_deref());
                let deleted = connection.delete(key.as_str(), Some(options)).await?;
                let count = unsigned(deleted.deleted());
                let revision = deleted.header().map(|header| header.revision());
                return Ok(done(revision, true, vec![Answer::Deleted(count)]));
            }
        }
    }
    let steps = |steps: &[Step]| steps.iter().map(|it| step(it, ask.stale)).collect::<Vec<_>>();
    let transaction = Txn::new()
        .when(ask.guards.iter().map(guard).collect::<Vec<_>>())
        .and_then(steps(&ask.then))
        .or_else(steps(&ask.otherwise));
    let response = connection.txn(transaction).await?;
    let answers = response.op_responses().iter().filter_map(answer).collect();
    let revision = response.header().map(|header| header.revision());
    Ok(done(revision, response.succeeded(), answers))
}

fn step(step: &Step, stale: bool) -> TxnOp {
    match step {
        Step::Get { key, end, at } => {
            TxnOp::get(key.as_str(), Some(get_options(end.as_deref(), *at, stale)))
        }
        Step::Put { key, value, lease } => {
            let options = PutOptions::new().with_lease(*lease);
            TxnOp::put(key.as_str(), value.as_str(), Some(options))
        }
        Step::Delete { key, end } => {
            TxnOp::delete(key.as_str(), Some(delete_options(end.as_deref())))
        }
    }
}

fn guard(guard: &Guard) -> Compare {
    match guard {
        Guard::Modified { key, revision } => {
            Compare::mod_revision(key.as_str(), CompareOp::Equal, signed(*revision))
        }
        Guard::Created { key, revision } => {
            Compare::create_revision(key.as_str(), CompareOp::Equal, signed(*revision))
        }
        Guard::Value { key, value } => {
            Compare::value(key.as_str(), CompareOp::Equal, value.as_str())
        }
    }
}

fn answer(response: &TxnOpResponse) -> Option<Answer> {
    Some(match response {
        TxnOpResponse::Get(got) => Answer::Found(got.kvs().iter().map(stored).collect()),
        TxnOpResponse::Put(_) => Answer::Put,
        TxnOpResponse::Delete(deleted) => Answer::Deleted(unsigned(deleted.deleted())),
        TxnOpResponse::Txn(_) => return None,
    })
}

async fn about_lease(
    connection: &mut Connection,
    lease: i64,
    ask: &LeaseAsk,
    call: &mut u64,
    now: impl Fn() -> u64,
) -> Result<LeaseOutcome, Error> {
    Ok(match ask {
        LeaseAsk::Grant { ttl_s } => {
            let options = LeaseGrantOptions::new().with_id(lease);
            let granted = connection.lease_grant(*ttl_s, Some(options)).await?;
            LeaseOutcome::Done { ttl_s: granted.ttl() }
        }
        LeaseAsk::KeepAlive => {
            // The first beat opens the stream; the second says how long.
            let (mut keeper, mut stream) = connection.lease_keep_alive(lease).await?;
            *call = now();
            keeper.keep_alive().await?;
            match stream.message().await? {
                Some(kept) if kept.ttl() > 0 => LeaseOutcome::Done { ttl_s: kept.ttl() },
                Some(_) => LeaseOutcome::Gone,
                None => LeaseOutcome::Unknown("the stream ended".into()),
            }
        }
        LeaseAsk::Revoke => {
            connection.lease_revoke(lease).await?;
            LeaseOutcome::Done { ttl_s: 0 }
        }
        LeaseAsk::Lock { name } => {
            let options = LockOptions::new().with_lease(lease);
            let held = connection.lock(name.as_str(), Some(options)).await?;
            let revision = unsigned(held.header().map_or(0, |header| header.revision()));
            LeaseOutcome::Held { key: text(held.key()), revision }
        }
    })
}
