//! Single keys, linearizable and not, and lists of ten thousand keys.

use std::sync::Arc;

use kontiki_raft::Replica;
use kontiki_raft::replica::Freshness;
use kontiki_raft::storage::request::{KeyRange, Range};
use kontiki_raft::storage::revision::Revision;

use crate::Failure;
use crate::ground::Cluster;
use crate::load::{AT_ONCE, drive, key, value};
use crate::options::Options;
use crate::report::{Figure, Goal, Measured, Report};
use crate::writes::{fill, put};

const KEYS: u64 = 100_000;
const LISTED: u64 = 10_000;
const VALUE_BYTES: usize = 256;

pub async fn measure(
    options: &Options,
    members: usize,
    report: &mut Report,
) -> Result<(), Failure> {
    if !options.wants("read") && !options.wants("list") {
        return Ok(());
    }
    let cluster = Cluster::of(members, options).await?;
    let replica = cluster.leader();
    fill(replica, KEYS, VALUE_BYTES).await?;
    if options.wants("read") {
        for at_once in AT_ONCE {
            for (what, freshness) in [
                ("read, linearizable", Freshness::Linearizable),
                ("read, local", Freshness::Serializable),
            ] {
                let replica = replica.clone();
                let done = drive(options, at_once, move |number| {
                    let replica = replica.clone();
                    let wanted = number.wrapping_mul(7919) % KEYS;
                    async move {
                        let request = Range::new(KeyRange::One(key(wanted)));
                        let (answer, _) = replica.range(&request, freshness).await?;
                        if answer.kvs.len() == 1 { Ok(()) } else { Err("a key is gone".into()) }
                    }
                })
                .await?;
                let measured = Measured::rate(done.count, done.spent, Some(&done.latency));
                let what = what.into();
                let value_bytes = VALUE_BYTES;
                report.figure(Figure { what, members, at_once, value_bytes, measured, goal: None });
            }
        }
    }
    if options.wants("list") && members == 1 {
        list(options, replica, report).await?;
    }
    cluster.stop().await;
    Ok(())
}

/// Keys per second, not lists.
async fn list(options: &Options, replica: &Replica, report: &mut Report) -> Result<(), Failure> {
    for number in 0..LISTED {
        let key = format!("/registry/configmaps/default/{number:010}");
        let command = put(key.into(), value(VALUE_BYTES, number));
        if number % 64 == 0 {
            replica.propose(command).await?;
        } else {
            // What is not waited for comes before what is: the log has one order.
            tokio::spawn({
                let replica = replica.clone();
                async move { replica.propose(command).await }
            });
        }
    }
    let whole = Range::new(KeyRange::prefix("/registry/configmaps/default/"));
    let then = loop {
        let (answer, header) = replica.range(&whole, Freshness::Linearizable).await?;
        if answer.count == LISTED {
            break header.revision;
        }
    };
    replica.flush().await?;
    let keys_only = Range { keys_only: true, ..whole.clone() };
    let count_only = Range { count_only: true, ..whole.clone() };
    let goal = Some(Goal::PerSecond(1_000_000.0));
    for (what, request, at_once, goal) in [
        ("list, keys", whole.clone(), 1, goal),
        ("list, keys", whole.clone(), 64, goal),
        ("list, without values", keys_only, 1, None),
        ("list, count alone", count_only, 1, None),
    ] {
        lists(options, replica, what, request, at_once, goal, report).await?;
    }
    // Each key changes once more, so that what was there before is history.
    for number in 0..LISTED {
        let key = format!("/registry/configmaps/default/{number:010}");
        let command = put(key.into(), value(VALUE_BYTES, number + 1));
        let replica = replica.clone();
        let sent = tokio::spawn(async move { replica.propose(command).await });
        if number % 512 == 511 || number + 1 == LISTED {
            sent.await??;
        }
    }
    let past = Range { revision: Revision(then.0), ..whole };
    lists(options, replica, "list, keys as they were", past, 1, None, report).await?;
    Ok(())
}

async fn lists(
    options: &Options,
    replica: &Replica,
    what: &str,
    request: Range,
    at_once: usize,
    goal: Option<Goal>,
    report: &mut Report,
) -> Result<(), Failure> {
    let (replica, request) = (replica.clone(), Arc::new(request));
    let done = drive(options, at_once, move |_| {
        let (replica, request) = (replica.clone(), request.clone());
        async move {
            let (answer, _) = replica.range(&request, Freshness::Serializable).await?;
            if answer.count == LISTED { Ok(()) } else { Err("a list is not whole".into()) }
        }
    })
    .await?;
    let measured = Measured::rate(done.count * LISTED, done.spent, Some(&done.latency));
    let (what, value_bytes) = (what.into(), VALUE_BYTES);
    report.figure(Figure { what, members: 1, at_once, value_bytes, measured, goal });
    Ok(())
}
