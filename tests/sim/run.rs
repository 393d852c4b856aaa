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
use serde::{Deserialize, Serialize};
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, timeout};
use xxhash_rust::xxh3::Xxh3;

use crate::clients::{Client, Ground};
use crate::cluster::{Cluster, PATIENCE};
use crate::damage;
use crate::swarm::{self, Kind, Mix};

/// A run that takes longer than this of its own time has come to a stand.
const RUN_MAX: Duration = Duration::from_secs(4 * 3600);
const CLIENTS: u32 = 5;
/// How likely peace follows on a fault, in clusters that have any.
const CALM_SHARE: f64 = 0.2;
/// In peace clients are so many times as slow.
const CALM_SLOW: u32 = 30;
const READERS: u32 = 3;
const WATCHERS: u32 = 3;
const WITNESSES: u32 = 2;

/// What befell a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub faults: u64,
    pub power_cuts: u64,
    /// Damaged logs, and how many of them their members refused; the others held nothing that counted.
    pub damages: u64,
    pub found: u64,
    /// Disks that failed under a member that ran.
    pub failed_disks: u64,
    /// Members that came or went for good.
    pub changes: u64,
    /// Watchers that were cut because a snapshot took the place of their member's state.
    pub snapshots: u64,
}

#[derive(Default)]
pub struct Ended {
    pub verdict: Verdict,
    pub history: History,
    pub simulated: Duration,
    pub counts: Counts,
}

impl Ended {
    /// A number that is the same for runs in which everybody asked and saw the same at the same time.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut hash = Xxh3::new();
        let History { operations, sessions, leases, faults, .. } = &self.history;
        for part in [
            serde_json::to_vec(operations),
            serde_json::to_vec(sessions),
            serde_json::to_vec(leases),
            serde_json::to_vec(faults),
        ] {
            hash.update(&part.unwrap_or_default());
        }
        hash.digest()
    }
}

/// What is decided beforehand and not drawn by the seed.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Disks say that they synced and have not: that must be found.
    pub lying: bool,
    /// These faults alone.
    pub only: Vec<Kind>,
    pub members: Option<u64>,
    pub rounds: Option<usize>,
    /// Entries of log that members keep behind what is durable; who lags further is sent a snapshot.
    pub kept: Option<u64>,
}

/// Runs one seed on this thread.
#[must_use]
pub fn seed(seed: u64, choice: &Choice) -> Ended {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let ran = runtime.map_err(|error| error.to_string()).and_then(|runtime| {
        // What panics below is a finding like any other, and the next seed goes on.
        catch_unwind(AssertUnwindSafe(|| {
            runtime.block_on(async {
                let limited = timeout(RUN_MAX, run(seed, choice)).await;
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

async fn run(seed: u64, choice: &Choice) -> Result<Ended, String> {
    let began = Instant::now();
    seed_this_thread(seed);
    let mut random = StdRng::seed_from_u64(seed);
    let mut mix = Mix::draw(&mut random);
    let lying = choice.lying;
    if lying {
        mix.kinds = vec![Kind::PowerCut, Kind::PowerCutOfAll, Kind::Heal];
        mix.rounds = 20;
        mix.calm_max = None;
    }
    if !choice.only.is_empty() {
        mix.kinds.clone_from(&choice.only);
        mix.calm_max = None;
    }
    mix.members = choice.members.unwrap_or(mix.members);
    mix.rounds = choice.rounds.unwrap_or(mix.rounds);
    if let Some(kept) = choice.kept {
        mix.config.log_entries_kept = kept;
        mix.config.flush_interval = mix.config.flush_interval.min(Duration::from_millis(200));
    }
    let mut cluster = Cluster::of(&mix, seed, lying).await?;
    let ground = Ground::new(mix.rest_max, mix.patience());
    let last = Rc::new(Cell::new(0));
    let local = LocalSet::new();
    for number in 0..CLIENTS {
        local.spawn_local(Client::new(ground.clone(), number, seed).work());
    }
    local.spawn_local(Client::new(ground.clone(), 100, seed).lease());
    for number in 0..READERS {
        local.spawn_local(Client::new(ground.clone(), 50 + number, seed).read());
    }
    for number in 0..WATCHERS {
        local.spawn_local(Client::new(ground.clone(), 150 + number, seed).watch());
    }
    let reached: Vec<Rc<Cell<u64>>> = (0..WITNESSES).map(|_| Rc::default()).collect();
    let mut witnesses = Vec::new();
    for (number, reached) in (200..).zip(&reached) {
        let client = Client::new(ground.clone(), number, seed);
        witnesses.push(local.spawn_local(client.witness(last.clone(), reached.clone())));
    }
    let mut counts = Counts::default();
    let ran = local
        .run_until(async {
            for _ in 0..mix.rounds {
                round(&mix, &mut cluster, &ground, &reached, &mut random, &mut counts).await?;
                let pause = random.random_range(10..mix.pause_max_ms);
                sleep(Duration::from_millis(pause)).await;
                for id in cluster.down() {
                    if random.random_bool(mix.start) {
                        start(&mut cluster, id, lying).await?;
                    }
                }
                restart_those_that_stopped(&mut cluster, &ground, &mut counts, lying).await?;
                if let Some(longest) = mix.calm_max
                    && random.random_bool(CALM_SHARE)
                {
                    let time = longest.mul_f64(random.random_range(0.1..1.0));
                    calm(&mut cluster, &ground, time).await?;
                }
            }
            let rest = settle(&mut cluster, &ground, &last, &mut counts, lying).await?;
            for witness in &mut witnesses {
                if timeout(PATIENCE, witness).await.is_err() {
                    return Err("a witness does not come to the end".to_owned());
                }
            }
            Ok(rest)
        })
        .await;
    drop(local);
    ground.open(Vec::new());
    let history = ground.history.take();
    counts.power_cuts = cluster.power_cuts;
    counts.snapshots = ground.snapshots.get();
    let simulated = began.elapsed();
    let mut ended = Ended { history, simulated, counts, ..Ended::default() };
    match ran {
        Ok(rest) => {
            ended.history.rest = rest;
            ended.verdict = check::judge(&ended.history);
        }
        Err(what) => {
            ended.verdict.violations.push(Violation { promise: "it goes on".into(), what })
        }
    }
    Ok(ended)
}

/// All but the leader lose their power, for longer than clients of it are kept waiting.
async fn leave_alone(cluster: &mut Cluster, ground: &Ground) -> Result<String, String> {
    let Some(leader) = cluster.leader() else { return Ok(String::new()) };
    ground.open(Vec::new());
    let others: Vec<u64> = cluster.up().into_iter().filter(|id| *id != leader).collect();
    for id in &others {
        cluster.crash(*id).await?;
    }
    open(ground, cluster);
    sleep(cluster.request_timeout().mul_f64(1.5)).await;
    for id in &others {
        cluster.start(*id).await?;
    }
    Ok(format!("power cut of all but {leader}, which leads"))
}

/// The cluster is made whole and nothing befalls it for a while.
async fn calm(cluster: &mut Cluster, ground: &Ground, time: Duration) -> Result<(), String> {
    let from = ground.now();
    whole(cluster, ground).await?;
    ground.delayed.set(false);
    ground.slow.set(CALM_SLOW);
    sleep(time).await;
    ground.slow.set(1);
    note(ground, format!("peace for {} s", time.as_secs()), from);
    Ok(())
}

/// One fault, or an operator's deed.
async fn round(
    mix: &Mix,
    cluster: &mut Cluster,
    ground: &Rc<Ground>,
    reached: &[Rc<Cell<u64>>],
    random: &mut StdRng,
    counts: &mut Counts,
) -> Result<(), String> {
    open(ground, cluster);
    let kind = mix.kinds[random.random_range(0..mix.kinds.len())];
    let from = ground.now();
    let what = match kind {
        Kind::Compact => compact(cluster, ground, reached).await,
        Kind::Replace => {
            whole(cluster, ground).await?;
            let old = cluster.members.keys().next().copied().unwrap_or_default();
            let fresh = stand_in(cluster, ground, old).await?;
            counts.changes += 2;
            format!("{fresh} for {old}")
        }
        Kind::PowerCutOfOthers => leave_alone(cluster, ground).await?,
        Kind::Damage => damage::befall(cluster, ground, random, counts).await?,
        Kind::PowerCut | Kind::PowerCutOfLeader | Kind::PowerCutOfAll | Kind::Blink => {
            // A member that falls is to be let go of.
            ground.open(Vec::new());
            swarm::befall(kind, cluster, random).await?
        }
        _ => swarm::befall(kind, cluster, random).await?,
    };
    ground.delayed.set(cluster.is_delayed());
    if !what.is_empty() {
        counts.faults += 1;
        note(ground, what, from);
    }
    open(ground, cluster);
    Ok(())
}

pub(crate) fn open(ground: &Ground, cluster: &Cluster) {
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

/// Who stops though its disk did not fail has found something wrong.
async fn restart_those_that_stopped(
    cluster: &mut Cluster,
    ground: &Ground,
    counts: &mut Counts,
    lying: bool,
) -> Result<(), String> {
    for (id, reason) in cluster.stopped() {
        let failed = cluster.failing.contains(&id);
        if !lying && !failed {
            return Err(format!("member {id} stopped: {reason}"));
        }
        counts.failed_disks += u64::from(failed);
        ground.open(Vec::new());
        cluster.crash(id).await?;
        if failed {
            cluster.start(id).await?;
        }
        open(ground, cluster);
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

/// Makes everything whole and waits until all members serve. Who they are.
pub(crate) async fn whole(cluster: &mut Cluster, ground: &Ground) -> Result<Vec<u64>, String> {
    cluster.heal();
    for id in cluster.failing.clone() {
        ground.open(Vec::new());
        cluster.crash(id).await?;
    }
    for id in cluster.down() {
        cluster.start(id).await?;
    }
    open(ground, cluster);
    until_ready(cluster).await?;
    Ok(cluster.up())
}

/// A new member comes in and `old` leaves for good, as an operator does it where all others are well.
pub(crate) async fn stand_in(
    cluster: &mut Cluster,
    ground: &Ground,
    old: u64,
) -> Result<u64, String> {
    until_ready(cluster).await?;
    let fresh = cluster.join().await?;
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
    Ok(fresh)
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
    counts: &mut Counts,
    lying: bool,
) -> Result<Rest, String> {
    cluster.heal();
    for id in cluster.failing.clone() {
        ground.open(Vec::new());
        cluster.crash(id).await?;
    }
    for id in cluster.down() {
        start(cluster, id, lying).await?;
    }
    restart_those_that_stopped(cluster, ground, counts, lying).await?;
    for id in cluster.down() {
        start(cluster, id, lying).await?;
    }
    until_ready(cluster).await?;
    open(ground, cluster);
    let healed = ground.now();
    sleep(Duration::from_secs(2)).await;
    ground.stop.set(true);
    // Clients finish what they were about, and the last leases end.
    sleep(Duration::from_secs(30)).await;
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
        let digest = format!("{:?}", (store.revision(), store.digest(), &rest.keys));
        let digest = format!("{:?}, keys and all {:x}", store.digest(), folded(&digest));
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
    use super::*;

    #[test]
    fn a_few_seeds_hold() {
        for number in 1..=3 {
            let ended = seed(number, &Choice::default());
            assert!(ended.verdict.holds(), "seed {number}: {:#?}", ended.verdict.violations);
            assert!(ended.verdict.operations > 50, "seed {number}: hardly anything was asked");
        }
    }

    #[test]
    fn damaged_logs_are_known_and_cost_nothing_that_was_acknowledged() {
        let choice = Choice {
            only: vec![Kind::Damage],
            members: Some(3),
            rounds: Some(8),
            ..Choice::default()
        };
        let ended = seed(1, &choice);
        assert!(ended.verdict.holds(), "{:#?}", ended.verdict.violations);
        assert!(ended.counts.damages == 8 && ended.counts.found > 2, "{:?}", ended.counts);
    }

    /// etcd #18055: a member fell over two snapshots in a row.
    #[test]
    fn snapshot_upon_snapshot_leaves_all_members_equal() {
        let choice = Choice {
            only: vec![Kind::Isolate, Kind::IsolateLeader, Kind::Blink, Kind::Heal],
            members: Some(3),
            rounds: Some(25),
            kept: Some(2),
            ..Choice::default()
        };
        let ended = seed(1, &choice);
        assert!(ended.verdict.holds(), "{:#?}", ended.verdict.violations);
        assert!(ended.counts.snapshots >= 2, "{:?}", ended.counts);
    }

    /// The harness is shown a lie before it is believed about anything else.
    #[test]
    fn a_disk_that_lies_is_caught() {
        let lying = Choice { lying: true, ..Choice::default() };
        let caught = (1..=10).any(|number| !seed(number, &lying).verdict.holds());
        assert!(caught, "power cuts lost what a lying disk had acknowledged, and nobody noticed");
    }
}
