//! One seed: a cluster is started, worked on and broken, healed, and judged.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use kontiki_faults::check::{self, Verdict, Violation};
use kontiki_faults::history::{Ask, Fault, History, Outcome, Rest, Step};
use kontiki_raft::replica::{Freshness, Role};
use kontiki_raft::runtime::seed_this_thread;
use kontiki_storage::Revision;
use kontiki_storage::request::{Command, KeyRange, Range};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, timeout};

use crate::clients::{Client, Ground};
use crate::cluster::{Cluster, PATIENCE};
use crate::swarm::{self, Kind, Mix};

/// A run that takes longer than this of its own time has come to a stand.
const RUN_MAX: Duration = Duration::from_secs(3600);
const CLIENTS: u32 = 5;
const WITNESSES: u32 = 2;

#[derive(Default)]
pub struct Ended {
    pub verdict: Verdict,
    pub history: History,
    pub simulated: Duration,
    pub faults: u64,
    pub power_cuts: u64,
}

/// Runs one seed on this thread. With `lying`, disks say that they synced and have not: that must be found.
#[must_use]
pub fn seed(seed: u64, lying: bool) -> Ended {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let ran = runtime.map_err(|error| error.to_string()).and_then(|runtime| {
        // What panics below is a finding like any other, and the next seed goes on.
        catch_unwind(AssertUnwindSafe(|| {
            runtime.block_on(async {
                let limited = timeout(RUN_MAX, run(seed, lying)).await;
                limited.unwrap_or_else(|_| Err(format!("it has not ended in {RUN_MAX:?}")))
            })
        }))
        .unwrap_or_else(|_| Err("it panicked".to_owned()))
    });
    ran.unwrap_or_else(|what| {
        let mut ended = Ended::default();
        ended.verdict.violations.push(Violation { promise: "it goes on".into(), what });
        ended
    })
}

async fn run(seed: u64, lying: bool) -> Result<Ended, String> {
    let began = Instant::now();
    seed_this_thread(seed);
    let mut random = StdRng::seed_from_u64(seed);
    let mut mix = Mix::draw(&mut random);
    if lying {
        mix.kinds = vec![Kind::PowerCut, Kind::PowerCutOfAll, Kind::Heal];
        mix.rounds = 20;
    }
    let mut cluster = Cluster::of(mix.members, seed, mix.config.clone(), lying).await?;
    let ground = Ground::new();
    let last = Rc::new(Cell::new(0));
    let local = LocalSet::new();
    for number in 0..CLIENTS {
        local.spawn_local(Client::new(ground.clone(), number, seed).work());
    }
    local.spawn_local(Client::new(ground.clone(), 100, seed).lease());
    let reached: Vec<Rc<Cell<u64>>> = (0..WITNESSES).map(|_| Rc::default()).collect();
    let mut witnesses = Vec::new();
    for (number, reached) in (200..).zip(&reached) {
        let client = Client::new(ground.clone(), number, seed);
        witnesses.push(local.spawn_local(client.witness(last.clone(), reached.clone())));
    }
    let mut faults = 0;
    let ran = local
        .run_until(async {
            for _ in 0..mix.rounds {
                open(&ground, &cluster);
                let kind = mix.kinds[random.random_range(0..mix.kinds.len())];
                let from = ground.now();
                let what = match kind {
                    Kind::Compact => compact(&cluster, &ground, &reached).await,
                    Kind::Replace => replace(&mut cluster, &ground).await?,
                    _ => {
                        if matches!(
                            kind,
                            Kind::PowerCut | Kind::PowerCutOfLeader | Kind::PowerCutOfAll
                        ) {
                            // A member that falls is to be let go of.
                            ground.open(Vec::new());
                        }
                        swarm::befall(kind, &mut cluster, &mut random).await?
                    }
                };
                faults += 1;
                note(&ground, what, from);
                open(&ground, &cluster);
                let pause = random.random_range(10..mix.pause_max_ms);
                sleep(Duration::from_millis(pause)).await;
                for id in cluster.down() {
                    if random.random_bool(mix.start) {
                        start(&mut cluster, id, lying).await?;
                    }
                }
                restart_those_that_stopped(&mut cluster, &ground, lying).await?;
            }
            let rest = settle(&mut cluster, &ground, &last, lying).await?;
            for witness in &mut witnesses {
                if timeout(PATIENCE, witness).await.is_err() {
                    return Err("a witness does not come to the end".to_owned());
                }
            }
            Ok(rest)
        })
        .await;
    let rest = ran?;
    drop(local);
    ground.open(Vec::new());
    let mut history = ground.history.take();
    history.rest = rest;
    let verdict = check::judge(&history);
    let power_cuts = cluster.power_cuts;
    Ok(Ended { verdict, history, simulated: began.elapsed(), faults, power_cuts })
}

fn open(ground: &Ground, cluster: &Cluster) {
    let doors =
        cluster.up().into_iter().filter_map(|id| Some((id, cluster.replica(id).ok()?.clone())));
    ground.open(doors.collect());
}

fn note(ground: &Ground, what: String, from: u64) {
    let fault = Fault { what, members: Vec::new(), from, until: ground.now() };
    ground.history.borrow_mut().faults.push(fault);
}

async fn start(cluster: &mut Cluster, id: u64, lying: bool) -> Result<(), String> {
    match cluster.start(id).await {
        // A log that forgot what it had promised is refused: that a lie is found so is as good.
        Err(error) if lying => Err(format!("the lie was found: {error}")),
        other => other,
    }
}

/// No disk fails here: who stops has found something wrong.
async fn restart_those_that_stopped(
    cluster: &mut Cluster,
    ground: &Ground,
    lying: bool,
) -> Result<(), String> {
    for (id, reason) in cluster.stopped() {
        if !lying {
            return Err(format!("member {id} stopped: {reason}"));
        }
        ground.open(Vec::new());
        cluster.crash(id).await?;
    }
    Ok(())
}

async fn compact(cluster: &Cluster, ground: &Ground, reached: &[Rc<Cell<u64>>]) -> String {
    let to = reached.iter().map(|it| it.get()).min().unwrap_or_default();
    let replica = cluster.leader().and_then(|leader| cluster.replica(leader).ok().cloned());
    let Some(replica) = replica.filter(|_| to > ground.compacted.get() + 1) else {
        return "nothing to forget".into();
    };
    // Noted first: who is not answered may have been heard.
    ground.compacted.set(to);
    timeout(Duration::from_secs(2), replica.propose(Command::Compact(Revision(to)))).await.ok();
    format!("history below {to} is forgotten")
}

/// An operator does this to a cluster that is well.
async fn replace(cluster: &mut Cluster, ground: &Ground) -> Result<String, String> {
    swarm::heal(cluster);
    for id in cluster.down() {
        cluster.start(id).await?;
    }
    open(ground, cluster);
    until_ready(cluster).await?;
    let fresh = cluster.join().await?;
    let old = cluster.members.keys().next().copied().unwrap_or(fresh);
    let doors = cluster.up().into_iter().filter(|id| *id != old);
    let doors = doors.filter_map(|id| Some((id, cluster.replica(id).ok()?.clone())));
    ground.open(doors.collect());
    let until = Instant::now() + PATIENCE;
    while let Err(error) = cluster.leave(old).await {
        if !cluster.members.contains_key(&old) {
            break;
        }
        if Instant::now() > until {
            return Err(format!("{old} was not let go: {error}"));
        }
        sleep(Duration::from_millis(100)).await;
    }
    Ok(format!("{fresh} for {old}"))
}

async fn until_ready(cluster: &Cluster) -> Result<(), String> {
    for id in cluster.up() {
        let replica = cluster.replica(id)?;
        if replica
            .wait(PATIENCE, |status| status.ready && status.role != Role::Learner)
            .await
            .is_none()
        {
            return Err(format!("member {id} stays at {:?}", *replica.status().borrow()));
        }
    }
    Ok(())
}

/// Everything heals; the cluster goes on, comes to rest, and is looked at.
async fn settle(
    cluster: &mut Cluster,
    ground: &Rc<Ground>,
    last: &Cell<u64>,
    lying: bool,
) -> Result<Rest, String> {
    swarm::heal(cluster);
    for id in cluster.down() {
        start(cluster, id, lying).await?;
    }
    restart_those_that_stopped(cluster, ground, lying).await?;
    for id in cluster.down() {
        start(cluster, id, lying).await?;
    }
    until_ready(cluster).await?;
    open(ground, cluster);
    let healed = ground.now();
    sleep(Duration::from_secs(2)).await;
    ground.stop.set(true);
    sleep(Duration::from_secs(8)).await;
    let mut client = Client::new(ground.clone(), 300, 0);
    let until = Instant::now() + PATIENCE;
    let mut attempt = 0;
    let revision = loop {
        attempt += 1;
        let value = format!("last-{attempt}");
        let then = vec![Step::Put { key: "t/last".into(), value, lease: 0 }];
        let outcome = client.ask("mark", Ask { then, ..Ask::default() }).await;
        if let Some(Outcome::Done { revision, .. }) = outcome {
            break revision;
        }
        if Instant::now() > until {
            return Err(format!("nothing is written any more: {outcome:?}"));
        }
        sleep(Duration::from_millis(100)).await;
    };
    last.set(revision);
    let mut rest = Rest { healed, compacted: ground.compacted.get(), ..Rest::default() };
    for id in cluster.up() {
        let replica = cluster.replica(id)?;
        let all = Range::new(KeyRange::prefix("t/"));
        let found = replica.range(&all, Freshness::Linearizable).await;
        let (found, header) = found.map_err(|error| format!("member {id}: {error}"))?;
        rest.revision = header.revision.0;
        rest.keys = found
            .kvs
            .iter()
            .map(|kv| {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let stored = kontiki_faults::history::Stored {
                    value: text(&kv.value),
                    created: kv.created.0,
                    modified: kv.modified.0,
                    version: kv.version,
                    lease: kv.lease.0,
                };
                (text(&kv.key), stored)
            })
            .collect();
        let store = replica.store();
        let digest = format!("{:?}", (store.revision(), store.digest()));
        rest.hashes.push((format!("m{id}: {digest}"), folded(&digest)));
    }
    rest.at = ground.now();
    Ok(rest)
}

/// A number for what is only ever compared.
fn folded(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::seed;

    #[test]
    fn a_few_seeds_hold() {
        for number in 1..=3 {
            let ended = seed(number, false);
            assert!(ended.verdict.holds(), "seed {number}: {:#?}", ended.verdict.violations);
            assert!(ended.verdict.operations > 50, "seed {number}: hardly anything was asked");
        }
    }

    /// The harness is shown a lie before it is believed about anything else.
    #[test]
    fn a_disk_that_lies_is_caught() {
        let caught = (1..=10).any(|number| !seed(number, true).verdict.holds());
        assert!(caught, "power cuts lost what a lying disk had acknowledged, and nobody noticed");
    }
}
