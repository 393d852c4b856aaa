//! Leases granted, kept alive, and ended with many keys on them.

use std::sync::Arc;

use kontiki_raft::storage::request::Put;
use kontiki_raft::storage::{Command, LeaseId};

use crate::Failure;
use crate::ground::Cluster;
use crate::load::{drive, key};
use crate::meter::Meter;
use crate::options::Options;
use crate::report::{Figure, Measured, Report};

/// Kept alive in turn.
const LEASES: u64 = 10_000;
/// On the lease that is revoked.
const KEYS: u64 = 10_000;
const TTL_S: i64 = 3600;

pub async fn measure(options: &Options, report: &mut Report) -> Result<(), Failure> {
    if !options.wants("lease") {
        return Ok(());
    }
    let cluster = Cluster::of(1, options).await?;
    let replica = cluster.leader().clone();
    let figure = |what: &str, at_once, measured| Figure {
        what: what.into(),
        members: 1,
        at_once,
        value_bytes: 0,
        measured,
        goal: None,
    };
    for at_once in [1, 1000] {
        let granting = replica.clone();
        let done = drive(options, at_once, move |_| {
            let replica = granting.clone();
            async move {
                replica.lease_grant(None, TTL_S).await?;
                Ok(())
            }
        })
        .await?;
        let measured = Measured::rate(done.count, done.spent, Some(&done.latency));
        report.figure(figure("lease, grant", at_once, measured));
    }
    let mut ids = Vec::new();
    for _ in 0..LEASES / 100 {
        ids.push(replica.lease_grant(None, TTL_S).await?.id);
    }
    let ids: Arc<[LeaseId]> = ids.into();
    for at_once in [1, 1000] {
        let (keeping, ids) = (replica.clone(), ids.clone());
        let done = drive(options, at_once, move |number| {
            let (replica, id) = (keeping.clone(), ids[number as usize % ids.len()]);
            async move {
                let left = replica.lease_keep_alive(id).await?;
                left.map(drop).ok_or_else(|| "a lease is gone".into())
            }
        })
        .await?;
        let measured = Measured::rate(done.count, done.spent, Some(&done.latency));
        report.figure(figure("lease, keep alive", at_once, measured));
    }
    let lease = replica.lease_grant(None, TTL_S).await?.id;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..KEYS {
        let replica = replica.clone();
        let put = Put { key: key(number), value: key(number), lease, ..Put::default() };
        tasks.spawn(async move { replica.propose(Command::Put(put)).await });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let meter = Meter::start();
    replica.lease_revoke(lease).await?;
    let took = Measured::Took(meter.stop().wall);
    report.figure(figure("lease, revoked with 10,000 keys", 1, took));
    cluster.stop().await;
    Ok(())
}
