//! What is measured: the same requests to both sides, in turns.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use etcd_client::{
    Client, Compare, CompareOp, GetOptions, Txn, TxnOp, TxnOpResponse, WatchOptions,
};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::Failure;
use crate::load::{Done, drive, key, value};
use crate::options::Options;
use crate::report::Report;
use crate::servers::{Server, Side};

const VALUE_BYTES: usize = 256;
/// How many keys there are to be overwritten and read.
const KEYS: u64 = 10_000;
const LISTED: &str = "/registry/listed/";
const WATCHERS: usize = 1000;
/// Which the watchers share.
const CONNECTIONS: usize = 50;
const WATCHED: &str = "/registry/watched/";

pub async fn measure(
    options: &Options,
    members: usize,
    servers: &[Server],
    report: &mut Report,
) -> Result<(), Failure> {
    for server in servers {
        fill(options, server).await?;
    }
    for &clients in &options.clients {
        if options.wants("put") {
            let done = in_turns(options, servers, |server| puts(options, server, clients)).await?;
            report.rates("put", members, clients, done);
        }
        if options.wants("transaction") {
            let done =
                in_turns(options, servers, |server| transactions(options, server, clients)).await?;
            report.rates("transaction", members, clients, done);
        }
        if options.wants("read") {
            let fresh = |server| reads(options, server, clients, false);
            report.rates("read", members, clients, in_turns(options, servers, fresh).await?);
            let any = |server| reads(options, server, clients, true);
            let done = in_turns(options, servers, any).await?;
            report.rates("read, serializable", members, clients, done);
        }
    }
    if members == 1 {
        if options.wants("list") {
            let done = in_turns(options, servers, |server| lists(options, server)).await?;
            report.rates("list of 10,000", members, 4, done);
        }
        if options.wants("watch") {
            let done = in_turns(options, servers, |server| watches(options, server, 1)).await?;
            report.rates("watch: events told", members, WATCHERS, done);
            let many = |server| watches(options, server, WATCHERS / CONNECTIONS);
            let done = in_turns(options, servers, many).await?;
            report.rates("watch, 20 on a stream", members, WATCHERS, done);
        }
        if options.wants("lease") {
            let done = in_turns(options, servers, |server| leases(options, server)).await?;
            report.rates("lease: grant and revoke", members, 64, done);
        }
    }
    Ok(())
}

/// One side, then the other, and back again.
async fn in_turns<'s, F: Future<Output = Result<Done, Failure>> + 's>(
    options: &Options,
    servers: &'s [Server],
    measure: impl Fn(&'s Server) -> F,
) -> Result<Vec<(Side, Done)>, Failure> {
    let mut done: Vec<(Side, Done)> =
        servers.iter().map(|server| (server.side, Done::default())).collect();
    let there = 0..servers.len();
    let order: Vec<usize> =
        if options.quick { there.collect() } else { there.clone().chain(there.rev()).collect() };
    for at in order {
        if options.side.as_ref().is_none_or(|side| side == servers[at].side.name()) {
            done[at].1.add(&measure(&servers[at]).await?);
        }
    }
    Ok(done)
}

/// The keys that are overwritten and read, and those that are listed.
async fn fill(options: &Options, server: &Server) -> Result<(), Failure> {
    let next = Arc::new(AtomicU64::new(0));
    let listed = if options.wants("list") { KEYS } else { 0 };
    let mut tasks = tokio::task::JoinSet::new();
    for mut client in server.clients(64).await? {
        let next = next.clone();
        tasks.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let key = match number.checked_sub(KEYS) {
                    None => key(number),
                    Some(number) if number < listed => format!("{LISTED}{number:010}"),
                    Some(_) => return Ok::<_, Failure>(()),
                };
                client.put(key, value(VALUE_BYTES), None).await?;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// Overwrites, each client's keys its own.
async fn puts(options: &Options, server: &Server, clients: usize) -> Result<Done, Failure> {
    let workers = server.clients(clients).await?.into_iter().enumerate();
    let workers = workers.map(|(at, client)| (client, at as u64)).collect();
    let (value, step) = (value(VALUE_BYTES), clients as u64);
    drive(options, server, workers, move |(mut client, at): (Client, u64)| {
        let value = value.clone();
        async move {
            client.put(key(at % KEYS), value, None).await?;
            Ok((client, at + step))
        }
    })
    .await
}

/// What Kubernetes writes by: if the key is at the revision seen last, put it, else read it.
async fn transactions(options: &Options, server: &Server, clients: usize) -> Result<Done, Failure> {
    let workers = server.clients(clients).await?.into_iter().enumerate();
    let workers = workers.map(|(at, client)| (client, key(at as u64), 0)).collect();
    let value = value(VALUE_BYTES);
    drive(options, server, workers, move |(mut client, key, seen): (Client, String, i64)| {
        let value = value.clone();
        async move {
            let txn = Txn::new()
                .when([Compare::mod_revision(key.as_str(), CompareOp::Equal, seen)])
                .and_then([TxnOp::put(key.as_str(), value, None)])
                .or_else([TxnOp::get(key.as_str(), None)]);
            let done = client.txn(txn).await?;
            let seen = match done.op_responses().first() {
                Some(TxnOpResponse::Get(got)) => {
                    got.kvs().first().map_or(0, etcd_client::KeyValue::mod_revision)
                }
                _ => done.header().map_or(0, etcd_client::ResponseHeader::revision),
            };
            Ok((client, key, seen))
        }
    })
    .await
}

async fn reads(
    options: &Options,
    server: &Server,
    clients: usize,
    serializable: bool,
) -> Result<Done, Failure> {
    let workers = server.clients(clients).await?.into_iter().enumerate();
    let workers = workers.map(|(at, client)| (client, at as u64)).collect();
    let step = clients as u64;
    drive(options, server, workers, move |(mut client, at): (Client, u64)| async move {
        let how = serializable.then(|| GetOptions::new().with_serializable());
        let got = client.get(key(at % KEYS), how).await?;
        if got.kvs().is_empty() {
            return Err("a key is missing".into());
        }
        Ok((client, at + step))
    })
    .await
}

/// Keys, not lists, are counted.
async fn lists(options: &Options, server: &Server) -> Result<Done, Failure> {
    let workers = server.connections(4).await?;
    let mut done = drive(options, server, workers, |mut client: Client| async move {
        let got = client.get(LISTED, Some(GetOptions::new().with_prefix())).await?;
        if got.kvs().len() as u64 != KEYS {
            return Err(format!("{} keys", got.kvs().len()).into());
        }
        Ok(client)
    })
    .await?;
    done.count *= KEYS;
    Ok(done)
}

/// One put after the other, each told to all watchers before the next; so many watchers have a stream in
/// common.
async fn watches(options: &Options, server: &Server, on_stream: usize) -> Result<Done, Failure> {
    let (told, all) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
    let mut tasks = tokio::task::JoinSet::new();
    let connections = server.connections(CONNECTIONS).await?;
    for at in 0..WATCHERS / on_stream {
        let mut client = connections[at % connections.len()].clone();
        let watch = || Some(WatchOptions::new().with_prefix());
        let mut stream = client.watch(WATCHED, watch()).await?;
        for _ in 1..on_stream {
            stream.watch(WATCHED, watch()).await?;
        }
        for _ in 0..on_stream {
            stream.message().await?.filter(|told| told.created()).ok_or("a watch is refused")?;
        }
        let (told, all) = (told.clone(), all.clone());
        tasks.spawn(async move {
            while let Ok(Some(response)) = stream.message().await {
                let events = response.events().len() as u64;
                let before = told.fetch_add(events, Ordering::Relaxed);
                if (before + events) / WATCHERS as u64 > before / WATCHERS as u64 {
                    all.notify_one();
                }
            }
        });
    }
    let writer = server.connections(1).await?.remove(0);
    let before = told.load(Ordering::Relaxed);
    let value = value(VALUE_BYTES);
    let began = Instant::now();
    let mut done = drive(options, server, vec![(writer, before)], {
        let (told, all) = (told.clone(), all.clone());
        move |(mut client, before): (Client, u64)| {
            let (told, all, value) = (told.clone(), all.clone(), value.clone());
            async move {
                client.put(format!("{WATCHED}k"), value, None).await?;
                let wanted = before + WATCHERS as u64;
                while told.load(Ordering::Relaxed) < wanted {
                    if began.elapsed().as_secs() > 120 {
                        return Err("a watcher was not told".into());
                    }
                    all.notified().await;
                }
                Ok((client, wanted))
            }
        }
    })
    .await?;
    tasks.abort_all();
    done.count *= WATCHERS as u64;
    Ok(done)
}

async fn leases(options: &Options, server: &Server) -> Result<Done, Failure> {
    let workers = server.clients(64).await?;
    drive(options, server, workers, |mut client: Client| async move {
        let id = client.lease_grant(60, None).await?.id();
        client.lease_revoke(id).await?;
        Ok(client)
    })
    .await
}
