//! What clients do. Each workload is a loop that asks, and learns from the answers what to ask next.
//!
//! Keeps: a value is written once in a run, so that what is found says who wrote it. Keys lie below `t/`.

mod keys;
mod leases;
mod watches;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::sleep;

pub use watches::Witnesses;

use crate::client::{Client, Doors};
use crate::history::Recorder;

pub const PREFIX: &str = "t/";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Workload {
    /// Single keys: read, written, compared and swapped. Searched without revisions.
    Register,
    /// Keys that are only ever added.
    Set,
    /// Lists that grow, several in one transaction.
    Append,
    /// Everything over a few keys: ranges, deletions, guarded writes of many, the past, stale reads.
    Transaction,
    /// Watchers that come and go, from now, from the past and from the future.
    Watch,
    /// Many watchers on one stream, which is read slowly.
    Crowd,
    /// Leases with keys, renewed, let go and revoked.
    Lease,
    /// Locks, waited for and lost.
    Lock,
}

impl Workload {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Workload::Register => crate::check::search::REGISTERS,
            Workload::Set => crate::check::elements::SET,
            Workload::Append => crate::check::elements::LISTS,
            Workload::Transaction => "transaction",
            Workload::Watch => "watch",
            Workload::Crowd => "crowd",
            Workload::Lease => "lease",
            Workload::Lock => "lock",
        }
    }

    fn clients(self) -> u32 {
        match self {
            Workload::Register | Workload::Transaction => 4,
            Workload::Append | Workload::Watch | Workload::Lock => 3,
            Workload::Set | Workload::Lease => 2,
            Workload::Crowd => 1,
        }
    }
}

/// What all clients of a run know together.
pub struct Ground {
    pub doors: Doors,
    pub recorder: Recorder,
    pub seed: u64,
    /// "No leader" is a refusal.
    pub refuses: bool,
    /// How long a client rests between two requests, at most.
    pub rest_max: Duration,
    /// Writers stop; watchers go on until they have seen the end.
    pub stop: AtomicBool,
    /// The newest revision that anybody was told.
    pub newest: AtomicU64,
    /// History below this was forgotten.
    pub compacted: AtomicU64,
    /// Not 0: the revision up to which watchers have to come.
    pub last: AtomicU64,
    counter: AtomicU64,
}

impl Ground {
    #[must_use]
    pub fn new(
        doors: Doors,
        recorder: Recorder,
        seed: u64,
        refuses: bool,
        rest_max: Duration,
    ) -> Ground {
        Ground {
            doors,
            recorder,
            seed,
            refuses,
            rest_max,
            stop: AtomicBool::new(false),
            newest: AtomicU64::new(1),
            compacted: AtomicU64::new(0),
            last: AtomicU64::new(0),
            counter: AtomicU64::new(0),
        }
    }

    #[must_use]
    pub fn client(&self, number: u32) -> Client {
        let random = StdRng::seed_from_u64(self.seed ^ u64::from(number) << 32);
        Client::new(number, random, self.doors.clone(), self.recorder.clone(), self.refuses)
    }

    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn next(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }

    fn note(&self, revision: u64) {
        self.newest.fetch_max(revision, Ordering::Relaxed);
    }

    async fn rest(&self, client: &mut Client) {
        sleep(self.rest_max.mul_f64(client.random.random_range(0.0..1.0))).await;
    }
}

/// Starts the clients of all workloads; they end when `ground.stop` is set. What did not is said.
pub fn start(ground: &Arc<Ground>, workloads: &[Workload]) -> JoinSet<Option<String>> {
    let mut clients = JoinSet::new();
    let mut number = 0;
    for workload in workloads {
        for nth in 0..workload.clients() {
            number += 1;
            let ground = ground.clone();
            let client = ground.client(number);
            match workload {
                Workload::Register => drop(clients.spawn(keys::registers(ground, client))),
                Workload::Set => drop(clients.spawn(keys::set(ground, client))),
                Workload::Append => drop(clients.spawn(keys::append(ground, client))),
                Workload::Transaction => drop(clients.spawn(keys::transactions(ground, client))),
                Workload::Watch => drop(clients.spawn(watches::watch(ground, client, nth))),
                Workload::Crowd => drop(clients.spawn(watches::crowd(ground, client))),
                Workload::Lease => drop(clients.spawn(leases::leases(ground, client))),
                Workload::Lock => drop(clients.spawn(leases::locks(ground, client))),
            }
        }
    }
    clients
}
