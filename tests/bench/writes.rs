//! Puts of new keys and of old ones, the transaction that Kubernetes writes by, and the same while history
//! is being forgotten.

use std::sync::Arc;

use bytes::Bytes;
use kontiki_raft::Replica;
use kontiki_raft::storage::compaction::Floor;
use kontiki_raft::storage::engine::Open;
use kontiki_raft::storage::engine::rocks::RocksFactory;
use kontiki_raft::storage::request::{
    Compare, Entry, KeyRange, Operand, Operation, Outcome, Put, Range, Relation, Transaction,
};
use kontiki_raft::storage::revision::{Index, Revision};
use kontiki_raft::storage::{self, Command, Store};
use parking_lot::Mutex;
use tokio::time::sleep;

use crate::Failure;
use crate::ground::Cluster;
use crate::load::{self, AT_ONCE, drive, key, values};
use crate::meter::Meter;
use crate::options::Options;
use crate::report::{Figure, Goal, Measured, Report};

/// Keys that are there before old ones are put again.
const KEYS: u64 = 50_000;

pub fn put(key: Bytes, value: Bytes) -> Command {
    Command::Put(Put { key, value, ..Put::default() })
}

pub async fn measure(
    options: &Options,
    members: usize,
    value_bytes: usize,
    report: &mut Report,
) -> Result<(), Failure> {
    if !options.wants("put") && !options.wants("transaction") {
        return Ok(());
    }
    let cluster = Cluster::of(members, options).await?;
    fill(cluster.leader(), KEYS, value_bytes).await?;
    for at_once in AT_ONCE {
        if options.quick && at_once == 64 && value_bytes == 4096 {
            continue;
        }
        let mut add = |what: &str, done: load::Done, goal| {
            let measured = Measured::rate(done.count, done.spent, Some(&done.latency));
            let what = what.into();
            report.figure(Figure { what, members, at_once, value_bytes, measured, goal });
        };
        let goal = goal(members, at_once, value_bytes);
        if options.wants("put") {
            let first = KEYS * (at_once as u64 + 1) * 10_000;
            let done = puts(options, cluster.leader(), at_once, value_bytes, move |number| {
                key(first + number)
            });
            add("put, new keys", done.await?, goal);
            let done = puts(options, cluster.leader(), at_once, value_bytes, |number| {
                key(scattered(number))
            });
            add("put, old keys", done.await?, goal);
        }
        if options.wants("transaction") {
            let done = transactions(options, cluster.leader(), at_once, value_bytes);
            add("transaction", done.await?, None);
        }
    }
    cluster.stop().await;
    Ok(())
}

fn goal(members: usize, at_once: usize, value_bytes: usize) -> Option<Goal> {
    match (members, at_once, value_bytes) {
        (1, 1, _) => Some(Goal::OfLimit(0.75)),
        (1, 64, _) => Some(Goal::OfLimit(0.45)),
        (1, 1000, 256) => Some(Goal::PerSecond(120_000.0)),
        (3, 1000, 256) => Some(Goal::PerSecond(40_000.0)),
        _ => None,
    }
}

/// One of the keys that are there, in an order without runs.
fn scattered(number: u64) -> u64 {
    number.wrapping_mul(7919) % KEYS
}

pub async fn fill(replica: &Replica, keys: u64, value_bytes: usize) -> Result<(), Failure> {
    let values = values(value_bytes);
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..256 {
        let (replica, values) = (replica.clone(), values.clone());
        tasks.spawn(async move {
            for number in (task..keys).step_by(256) {
                let value = values[number as usize % values.len()].clone();
                replica.propose(put(key(number), value)).await?;
            }
            Ok::<_, kontiki_raft::Error>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(replica.flush().await?)
}

async fn puts(
    options: &Options,
    replica: &Replica,
    at_once: usize,
    value_bytes: usize,
    key: impl Fn(u64) -> Bytes + Send + Sync + 'static,
) -> Result<load::Done, Failure> {
    let (replica, values) = (replica.clone(), values(value_bytes));
    drive(options, at_once, move |number| {
        let value = values[number as usize % values.len()].clone();
        let (replica, command) = (replica.clone(), put(key(number), value));
        async move {
            replica.propose(command).await?;
            Ok(())
        }
    })
    .await
}

/// If the key is as it was seen last, put it; else read it. Each asker has keys of its own, as each
/// controller has its objects, so nearly all succeed.
async fn transactions(
    options: &Options,
    replica: &Replica,
    at_once: usize,
    value_bytes: usize,
) -> Result<load::Done, Failure> {
    let (replica, values) = (replica.clone(), values(value_bytes));
    let seen: Arc<[Mutex<Revision>]> = (0..KEYS).map(|_| Mutex::new(Revision::ZERO)).collect();
    drive(options, at_once, move |number| {
        let place = scattered(number);
        let (replica, seen) = (replica.clone(), seen.clone());
        let value = values[number as usize % values.len()].clone();
        async move {
            let last = *seen[place as usize].lock();
            let answer = replica.propose(update(key(place), last, value)).await?;
            let Outcome::Transaction(outcome) = answer.outcome else {
                return Err("a transaction is answered as one".into());
            };
            let now = match (outcome.succeeded, outcome.answers.into_iter().next()) {
                (true, _) => answer.revision,
                (false, Some(storage::request::OperationAnswer::Range(found))) => {
                    found.kvs.first().map_or(Revision::ZERO, |kv| kv.modified)
                }
                (false, _) => return Err("a transaction that lost its compare reads".into()),
            };
            *seen[place as usize].lock() = now;
            Ok(())
        }
    })
    .await
}

fn update(key: Bytes, seen: Revision, value: Bytes) -> Command {
    let range = KeyRange::One(key.clone());
    Command::Transaction(Transaction {
        compare: vec![Compare {
            range: range.clone(),
            relation: Relation::Equal,
            operand: Operand::Modified(seen),
        }],
        success: vec![Operation::Put(Put { key, value, ..Put::default() })],
        failure: vec![Operation::Range(Range::new(range))],
    })
}

/// The store without consensus above it: what a put costs below the log.
pub fn apply_alone(
    options: &Options,
    value_bytes: usize,
    report: &mut Report,
) -> Result<(), Failure> {
    const GROUP: u64 = 512;
    let directory = tempfile::Builder::new().prefix("apply-").tempdir_in(&options.directory)?;
    let floor = Floor::new();
    let engine = RocksFactory::default().open(&directory.path().join("state"), floor.retain())?;
    let store = Store::open(engine, floor, storage::Options::default())?;
    let values = values(value_bytes);
    let mut index = 0;
    let mut apply = |keys: &dyn Fn(u64) -> Bytes, groups: u64| -> Result<_, Failure> {
        let meter = Meter::start();
        for group in 0..groups {
            let commands = (group * GROUP..(group + 1) * GROUP)
                .map(|number| put(keys(number), values[number as usize % values.len()].clone()));
            index += 1;
            let mark = Bytes::from_static(b"mark");
            let entry = Entry { index: Index(index), term: 1, mark, commands: commands.collect() };
            store.apply(&[entry])?;
            // As the flusher of a member does, by bytes.
            if store.size().unsynced > 256 << 20 {
                store.sync()?;
            }
        }
        Ok(meter.stop())
    };
    let groups = if options.quick { 200 } else { 800 } * 1024 / (value_bytes as u64 + 768);
    for (what, keys) in [
        ("apply, new keys", &key as &dyn Fn(u64) -> Bytes),
        ("apply, old keys", &|number| key(scattered(number))),
    ] {
        let spent = apply(keys, groups)?;
        let measured = Measured::rate(groups * GROUP, spent, None);
        let at_once = GROUP as usize;
        let what = what.into();
        report.figure(Figure { what, members: 1, at_once, value_bytes, measured, goal: None });
    }
    Ok(())
}

/// Rounds of a while without and a while with a compaction; the median of what is lost.
pub async fn while_compacting(options: &Options, report: &mut Report) -> Result<(), Failure> {
    if !options.wants("compact") {
        return Ok(());
    }
    let rounds = if options.quick { 3 } else { 7 };
    let cluster = Cluster::of(1, options).await?;
    let replica = cluster.leader().clone();
    fill(&replica, KEYS, 256).await?;
    let mut lost = Vec::new();
    for _ in 0..rounds {
        let before = puts(options, &replica, 64, 256, |number| key(scattered(number))).await?;
        let compacting = {
            let (replica, pause) = (replica.clone(), options.warm_up());
            tokio::spawn(async move {
                sleep(pause).await;
                let revision = replica.store().revision();
                replica.propose(Command::Compact(revision)).await?;
                // Durable, and so the background may begin to give the space back.
                replica.flush().await
            })
        };
        let during = puts(options, &replica, 64, 256, |number| key(scattered(number))).await?;
        compacting.await??;
        lost.push(100.0 * (1.0 - during.count as f64 / before.count as f64));
    }
    lost.sort_by(f64::total_cmp);
    report.figure(Figure {
        what: "writes lost while compacting".into(),
        members: 1,
        at_once: 64,
        value_bytes: 256,
        measured: Measured::Share(lost[lost.len() / 2].max(0.0)),
        goal: Some(Goal::ShareBelow(5.0)),
    });
    cluster.stop().await;
    Ok(())
}
