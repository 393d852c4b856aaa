//! Clusters in one process: members over a network and disks that can fail, on time that can stand still.
//!
//! Under paused time nothing runs by itself: the log writes inline, and time goes on when all tasks wait.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use kontiki_storage::directory::{Directory, Expect, Identity, Space, space};
use kontiki_storage::engine::memory::{MemoryDisk, MemoryFactory};
use kontiki_storage::engine::{Engine, Open, Retain};
use kontiki_storage::request::{Answer, Command, KeyRange, Put, Range};
use kontiki_storage::{LeaseId, Options};
use parking_lot::Mutex;

use crate::error::Error;
use crate::lifecycle;
use crate::log::{self, FlusherMode, SimDisk};
use crate::network::memory::Network;
use crate::recovery::Offline;
use crate::replica::{Config, Freshness, Inner, Parts, Replica, Role, Status};
use crate::types::{ClusterId, NodeId, Peer};

pub(super) const PATIENCE: Duration = Duration::from_secs(30);
const CLUSTER: ClusterId = ClusterId(0xc1);

/// A state's disk survives the process; what is opened to look at a snapshot is new each time.
pub(super) struct Engines {
    states: MemoryFactory,
    seed: u64,
    opened: Mutex<Option<PathBuf>>,
}

impl Engines {
    pub(super) fn new(seed: u64) -> Engines {
        Engines { states: MemoryFactory::new(seed), seed, opened: Mutex::new(None) }
    }

    /// The disk under the state that was opened last.
    pub(super) fn disk(&self) -> MemoryDisk {
        let opened = self.opened.lock();
        let path = opened.as_ref().expect("the state was opened");
        self.states.disk(path).expect("what was opened has a disk")
    }
}

impl Open for Engines {
    fn open(
        &self,
        directory: &Path,
        retain: Retain,
    ) -> Result<Arc<dyn Engine>, kontiki_storage::Error> {
        if directory.parent().is_some_and(|parent| parent.ends_with("snapshots")) {
            return MemoryFactory::new(self.seed).open(directory, retain);
        }
        *self.opened.lock() = Some(directory.to_owned());
        self.states.open(directory, retain)
    }
}

pub(super) struct Member {
    pub id: NodeId,
    pub peer: Peer,
    pub path: PathBuf,
    pub log_disk: SimDisk,
    pub engines: Arc<Engines>,
    /// What the disk says is free.
    pub free_bytes: Arc<AtomicU64>,
    pub replica: Option<Replica>,
}

pub(super) struct Cluster {
    pub network: Network,
    pub members: BTreeMap<u64, Member>,
    pub config: Config,
    pub flusher: FlusherMode,
    pub seed: u64,
    crashes: u64,
    root: tempfile::TempDir,
}

/// Quick timers, and little kept, so that everything happens soon.
pub(super) fn quick() -> Config {
    Config {
        election_timeout_ms: (300, 600),
        heartbeat_ms: 50,
        request_timeout_ms: Some(3000),
        flush_interval: Duration::from_millis(500),
        lease_checkpoint_interval: Duration::from_secs(20),
        ..Config::default()
    }
}

pub(super) fn put(key: &str, value: &str) -> Command {
    Command::Put(Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ..Put::default()
    })
}

pub(super) fn put_leased(key: &str, lease: LeaseId) -> Command {
    Command::Put(Put { key: Bytes::copy_from_slice(key.as_bytes()), lease, ..Put::default() })
}

/// What may be left of a member that was stopped.
struct Rest(Weak<Inner>);

impl Replica {
    fn rest(&self) -> Rest {
        Rest(Arc::downgrade(&self.0))
    }
}

impl Rest {
    /// Stopping has waited for everything but for those who hold the replica themselves: clients, which
    /// let go as soon as they have their answer.
    async fn gone(self, id: u64) {
        for _ in 0..10_000 {
            if self.0.strong_count() == 0 {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("member {id} was stopped, and {} still hold it", self.0.strong_count());
    }
}

impl Cluster {
    pub(super) fn new(seed: u64, config: Config) -> Cluster {
        println!("seed {seed}");
        Cluster {
            network: Network::new(seed),
            members: BTreeMap::new(),
            config,
            flusher: FlusherMode::Inline,
            seed,
            crashes: 0,
            root: tempfile::tempdir().unwrap(),
        }
    }

    /// A cluster of `size` voters, all of them up.
    pub(super) async fn of(size: u64, seed: u64, config: Config) -> Cluster {
        let mut cluster = Cluster::new(seed, config);
        cluster.grow(size).await;
        cluster
    }

    pub(super) async fn grow(&mut self, size: u64) {
        for id in 1..=size {
            self.prepare(id);
            self.start(id).await.unwrap();
            if id == 1 {
                let peer = self.members[&1].peer.clone();
                self.replica(1).bootstrap(peer).await.unwrap();
            } else {
                self.join(id).await;
            }
        }
        for id in 1..=size {
            self.until(id, |status| status.ready).await;
        }
    }

    /// Adds a started member and waits until it votes.
    pub(super) async fn join(&self, id: u64) {
        let peer = self.members[&id].peer.clone();
        let helper = self.leader().await;
        self.replica(helper).add_learner(NodeId(id), peer).await.unwrap();
        loop {
            let helper = self.leader().await;
            match self.replica(helper).promote(NodeId(id)).await {
                Ok(()) => break,
                Err(Error::Membership(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
                Err(other) => panic!("promote: {other}"),
            }
        }
        self.until(id, |status| status.role != Role::Learner).await;
    }

    /// Gives a member its disks and its directory, without starting it.
    pub(super) fn prepare(&mut self, id: u64) {
        let path = self.root.path().join(id.to_string());
        let peer = Peer {
            name: format!("m{id}"),
            address: format!("10.0.0.{id}:2380"),
            client_urls: vec![],
        };
        let member = Member {
            id: NodeId(id),
            peer,
            path,
            log_disk: SimDisk::new(self.seed + id),
            engines: Arc::new(Engines::new(self.seed + id)),
            free_bytes: Arc::new(AtomicU64::new(u64::MAX / 2)),
            replica: None,
        };
        self.members.insert(id, member);
    }

    pub(super) fn directory(&self, id: u64) -> Directory {
        let member = &self.members[&id];
        let identity = Identity {
            cluster: CLUSTER.0,
            node: id,
            name: member.peer.name.clone(),
            release: "test".into(),
        };
        Directory::open_or_create(&member.path, &Expect::default(), || identity).unwrap()
    }

    fn log_options(&self) -> log::Options {
        log::Options {
            segment_bytes: 4 << 20,
            flusher: self.flusher,
            zeros_written_ahead: false,
            ..log::Options::default()
        }
    }

    /// A member's disks while it is down.
    pub(super) fn offline<'a>(&'a self, id: u64, directory: &'a Directory) -> Offline<'a> {
        let member = &self.members[&id];
        let log_disk = Arc::new(member.log_disk.clone());
        Offline { directory, engine: &*member.engines, log_disk, log: self.log_options() }
    }

    /// A member that lost its data, or was told that it is none any more, comes back under a new id.
    pub(super) async fn come_back(&mut self, old: u64, new: u64) {
        let mut directory = self.directory(old);
        let identity = Identity { node: new, ..directory.identity().clone() };
        let me = self.members[&old].peer.clone();
        let others = self.members.values().filter(|m| m.id != NodeId(old));
        let peers = others.map(|m| (m.id, m.peer.clone())).collect();
        let network = self.network.clone();
        let transport_as = move |id| network.transport(CLUSTER, id);
        lifecycle::rejoin(&mut directory, identity, me, &peers, &transport_as, PATIENCE)
            .await
            .unwrap();
        drop(directory);
        let mut member = self.members.remove(&old).unwrap();
        member.id = NodeId(new);
        member.log_disk = SimDisk::new(self.seed + new);
        member.engines = Arc::new(Engines::new(self.seed + new));
        self.members.insert(new, member);
        self.start(new).await.unwrap();
    }

    pub(super) async fn start(&mut self, id: u64) -> Result<(), Error> {
        let directory = Arc::new(self.directory(id));
        let member = &self.members[&id];
        let free_bytes = member.free_bytes.clone();
        let probe: space::Probe = Arc::new(move |_| Ok(free_bytes.load(Ordering::Relaxed)));
        let options = space::Options { reserve_bytes: 4096, low_bytes: 1 << 20 };
        let space = Space::open(directory.path(), options, probe).unwrap();
        let parts = Parts {
            directory,
            engine: member.engines.clone(),
            store: Options::default(),
            log_disk: Arc::new(member.log_disk.clone()),
            log: self.log_options(),
            transport: self.network.transport(CLUSTER, NodeId(id)),
            space: Some(Arc::new(space)),
        };
        let replica = Replica::start(parts, self.config.clone()).await?;
        self.network.listen(NodeId(id), replica.inbound());
        self.members.get_mut(&id).unwrap().replica = Some(replica);
        Ok(())
    }

    /// The power of one machine goes: what was not synced may be lost.
    pub(super) async fn crash(&mut self, id: u64) {
        self.crashes += 1;
        let seed = self.seed ^ self.crashes;
        let member = self.members.get_mut(&id).unwrap();
        self.network.close(NodeId(id));
        let replica = member.replica.take().expect("it is up");
        member.log_disk.cut_power_after(1);
        replica.kill().await;
        let rest = replica.rest();
        drop(replica);
        rest.gone(id).await;
        let member = self.members.get_mut(&id).unwrap();
        member.log_disk.crash(seed);
        member.engines.disk().crash();
    }

    pub(super) async fn stop(&mut self, id: u64) {
        let member = self.members.get_mut(&id).unwrap();
        let replica = member.replica.take().expect("it is up");
        replica.shutdown().await;
        self.network.close(NodeId(id));
        let rest = replica.rest();
        drop(replica);
        rest.gone(id).await;
        self.members.get_mut(&id).unwrap().log_disk.restart();
    }

    pub(super) async fn restart(&mut self, id: u64) {
        self.crash(id).await;
        self.start(id).await.unwrap();
    }

    pub(super) fn replica(&self, id: u64) -> &Replica {
        self.members[&id].replica.as_ref().unwrap_or_else(|| panic!("member {id} is down"))
    }

    pub(super) fn up(&self) -> Vec<u64> {
        self.members.iter().filter(|(_, m)| m.replica.is_some()).map(|(id, _)| *id).collect()
    }

    pub(super) async fn until(&self, id: u64, what: impl Fn(&Status) -> bool) -> Status {
        match self.replica(id).wait(PATIENCE, what).await {
            Some(status) => status,
            None => panic!("member {id} stays at {:?}", *self.replica(id).status().borrow()),
        }
    }

    /// A member that is up and leads as the others see it, in the newest term.
    pub(super) async fn leader(&self) -> u64 {
        self.leader_but(0).await
    }

    /// The same, another one than `not`.
    pub(super) async fn leader_but(&self, not: u64) -> u64 {
        let look = async {
            loop {
                let newest = self
                    .up()
                    .into_iter()
                    .map(|id| (self.replica(id).status().borrow().clone(), id))
                    .filter(|(status, id)| *id != not && status.role == Role::Leader)
                    .max_by_key(|(status, _)| status.term);
                if let Some((_, id)) = newest {
                    return id;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, look).await.expect("somebody leads")
    }

    pub(super) async fn put(&self, id: u64, key: &str, value: &str) -> Result<Answer, Error> {
        self.replica(id).propose(put(key, value)).await
    }

    pub(super) async fn get(
        &self,
        id: u64,
        key: &str,
        freshness: Freshness,
    ) -> Result<Option<String>, Error> {
        get(self.replica(id), key, freshness).await
    }

    /// Cuts a member off from all others.
    pub(super) fn isolate(&self, id: u64) {
        for other in self.members.keys().filter(|other| **other != id) {
            self.network.cut(NodeId(id), NodeId(*other));
        }
    }

    pub(super) fn heal(&self) {
        self.network.heal();
    }

    /// All members that are up come to hold the same.
    pub(super) async fn converge(&self) {
        let leader = self.leader().await;
        self.replica(leader).read_barrier().await.unwrap();
        let target = self.replica(leader).status().borrow().applied;
        for id in self.up() {
            let reached = self.until(id, |status| status.applied >= target).await;
            assert!(reached.applied >= target);
        }
        let digests: Vec<_> = self
            .up()
            .into_iter()
            .map(|id| {
                let store = self.replica(id).store();
                (store.revision(), store.digest())
            })
            .collect();
        assert!(digests.windows(2).all(|two| two[0] == two[1]), "members differ: {digests:?}");
    }
}

pub(super) async fn get(
    replica: &Replica,
    key: &str,
    freshness: Freshness,
) -> Result<Option<String>, Error> {
    let range = Range::new(KeyRange::One(Bytes::copy_from_slice(key.as_bytes())));
    let (answer, _) = replica.range(&range, freshness).await?;
    Ok(answer.kvs.first().map(|kv| String::from_utf8(kv.value.to_vec()).unwrap()))
}
