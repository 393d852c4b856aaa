//! Many clients, random faults, and one rule for everything they saw.
//!
//! Each client writes keys of its own, once each, and reads a counter that only grows. Afterwards: what was
//! acknowledged is there, what was called failed is not, and no linearizable read went back in time.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::cluster::{Cluster, get, put, quick};
use crate::error::Error;
use crate::replica::{Config, Freshness, Replica};

#[derive(Default)]
struct History {
    acknowledged: Vec<String>,
    failed: Vec<String>,
    unknown: usize,
    /// The newest revision that any linearizable read, or write, has ended with.
    newest: u64,
}

/// Replicas as clients find them: they come and go.
type Doors = Rc<RefCell<Vec<Replica>>>;

async fn client(name: usize, doors: Doors, history: Rc<RefCell<History>>, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    for number in 0.. {
        let door = {
            let doors = doors.borrow();
            if doors.is_empty() {
                None
            } else {
                Some(doors[random.random_range(0..doors.len())].clone())
            }
        };
        let Some(door) = door else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        if random.random_bool(0.6) {
            let key = format!("c{name}-{number}");
            match door.propose(put(&key, "v")).await {
                Ok(answer) => {
                    let mut history = history.borrow_mut();
                    history.acknowledged.push(key);
                    history.newest = history.newest.max(answer.revision.0);
                }
                Err(Error::Unknown(_)) => history.borrow_mut().unknown += 1,
                Err(Error::NoLeader(_) | Error::Overloaded { .. }) => {
                    history.borrow_mut().failed.push(key);
                }
                // Stopped while it waited: it may have been on its way.
                Err(Error::Stopped(_)) => history.borrow_mut().unknown += 1,
                Err(other) => panic!("seed {seed}: {other}"),
            }
        } else {
            let before = history.borrow().newest;
            if door.read_barrier().await.is_ok() {
                let seen = door.store().revision().0;
                assert!(
                    seen >= before,
                    "seed {seed}: a read shows revision {seen}, {before} was seen before it began"
                );
                let mut history = history.borrow_mut();
                history.newest = history.newest.max(seen);
            }
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..30))).await;
    }
}

async fn run(seed: u64, members: u64, rounds: usize) {
    let config = Config { log_entries_kept: 50, ..quick() };
    let mut cluster = Cluster::of(members, seed, config).await;
    let mut random = StdRng::seed_from_u64(seed);
    let history: Rc<RefCell<History>> = Rc::default();
    let doors: Doors = Rc::default();
    let local = tokio::task::LocalSet::new();
    for name in 0..6 {
        let task = client(name, doors.clone(), history.clone(), seed * 100 + name as u64);
        local.spawn_local(task);
    }
    let open = |cluster: &Cluster| {
        *doors.borrow_mut() = cluster.up().iter().map(|id| cluster.replica(*id).clone()).collect();
    };
    local
        .run_until(async {
            for _ in 0..rounds {
                open(&cluster);
                let victim = random.random_range(1..=members);
                match random.random_range(0..4) {
                    0 => cluster.isolate(victim),
                    1 => cluster.heal(),
                    2 if cluster.members[&victim].replica.is_some() => {
                        doors.borrow_mut().clear();
                        cluster.crash(victim).await;
                    }
                    2 => {}
                    _ => {
                        let leader = cluster.up().into_iter().find(|id| {
                            cluster.replica(*id).status().borrow().role
                                == crate::replica::Role::Leader
                        });
                        if let Some(leader) = leader {
                            cluster.isolate(leader);
                        }
                    }
                }
                open(&cluster);
                tokio::time::sleep(Duration::from_millis(random.random_range(50..1500))).await;
                let down: Vec<u64> =
                    (1..=members).filter(|id| !cluster.up().contains(id)).collect();
                for id in down {
                    if random.random_bool(0.6) {
                        cluster.start(id).await.unwrap();
                    }
                }
            }
            cluster.heal();
            let down: Vec<u64> = (1..=members).filter(|id| !cluster.up().contains(id)).collect();
            for id in down {
                cluster.start(id).await.unwrap();
            }
            open(&cluster);
            tokio::time::sleep(Duration::from_secs(2)).await;
            doors.borrow_mut().clear();
            tokio::time::sleep(Duration::from_secs(8)).await;
        })
        .await;
    drop(local);
    cluster.converge().await;
    let leader = cluster.leader().await;
    let replica = cluster.replica(leader);
    let history = history.take();
    println!(
        "seed {seed}: {} acknowledged, {} failed, {} unknown",
        history.acknowledged.len(),
        history.failed.len(),
        history.unknown
    );
    assert!(history.acknowledged.len() > 20, "seed {seed}: hardly anything was written");
    for key in &history.acknowledged {
        let found = get(replica, key, Freshness::Linearizable).await.unwrap();
        assert!(found.is_some(), "seed {seed}: {key} was acknowledged and is gone");
    }
    for key in &history.failed {
        let found = get(replica, key, Freshness::Linearizable).await.unwrap();
        assert!(found.is_none(), "seed {seed}: {key} was called failed and is there");
    }
}

/// `KONTIKI_SEED` runs one seed, `KONTIKI_SEEDS` another number of them.
fn seeds(first: u64, count: u64) -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    match number("KONTIKI_SEED") {
        Some(seed) => seed..seed + 1,
        None => first..first + number("KONTIKI_SEEDS").unwrap_or(count),
    }
}

#[tokio::test(start_paused = true)]
async fn five_members_keep_the_rule_under_random_faults() {
    for seed in seeds(200, 2) {
        run(seed, 5, 12).await;
    }
}
