//! Members over disks in memory and a network in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kontiki_raft::log::{self, FlusherMode, SimDisk};
use kontiki_raft::network::memory::{Faults, Network};
use kontiki_raft::replica::{Config, Parts, Replica, Role};
use kontiki_raft::{ClusterId, Error, NodeId, Peer};
use kontiki_storage::directory::{Directory, Expect, Identity};
use kontiki_storage::engine::memory::{self, MemoryDisk, MemoryFactory};
use kontiki_storage::engine::{Engine, Open, Retain};
use kontiki_storage::watch;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use crate::swarm::Mix;

pub const PATIENCE: Duration = Duration::from_secs(180);
const CLUSTER: ClusterId = ClusterId(0xc1);

/// A state's disk outlives the process; what is opened to look at a snapshot is new each time.
struct Engines {
    states: MemoryFactory,
    seed: u64,
    /// As in [`memory::Faults`].
    reclaim_one_in: u32,
    opened: Mutex<Option<PathBuf>>,
}

impl Engines {
    fn disk(&self) -> Option<MemoryDisk> {
        self.opened.lock().as_ref().and_then(|path| self.states.disk(path))
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
        let engine = self.states.open(directory, retain)?;
        if let Some(disk) = self.states.disk(directory) {
            let reclaim_one_in = self.reclaim_one_in;
            disk.set_faults(memory::Faults { reclaim_one_in, ..memory::Faults::default() });
        }
        Ok(engine)
    }
}

pub struct Member {
    peer: Peer,
    path: PathBuf,
    pub log_disk: SimDisk,
    engines: Arc<Engines>,
    pub replica: Option<Replica>,
}

pub struct Cluster {
    pub network: Network,
    pub members: BTreeMap<u64, Member>,
    config: Config,
    seed: u64,
    /// Disks say that they have synced what they have not.
    lying: bool,
    reclaim_one_in: u32,
    ring_bytes: usize,
    segment_bytes: u64,
    distance: Duration,
    delayed: bool,
    next: u64,
    pub power_cuts: u64,
    /// Whose disks were made to fail: they are to stop.
    pub failing: BTreeSet<u64>,
    root: tempfile::TempDir,
}

/// In memory where there is such a place: what is synced here costs nothing and proves nothing.
fn root() -> Result<tempfile::TempDir, String> {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.map_err(|error| format!("a directory for members: {error}"))
}

fn told<T>(result: Result<T, Error>, what: &str) -> Result<T, String> {
    result.map_err(|error| format!("{what}: {error}"))
}

impl Cluster {
    pub async fn of(mix: &Mix, seed: u64, lying: bool) -> Result<Cluster, String> {
        let mut cluster = Cluster {
            network: Network::new(seed),
            members: BTreeMap::new(),
            config: mix.config.clone(),
            seed,
            lying,
            reclaim_one_in: mix.reclaim_one_in,
            ring_bytes: mix.ring_bytes,
            segment_bytes: mix.segment_bytes,
            distance: mix.distance,
            delayed: false,
            next: 1,
            power_cuts: 0,
            failing: BTreeSet::new(),
            root: root()?,
        };
        let first = cluster.prepare();
        cluster.start(first).await?;
        let member = &cluster.members[&first];
        let replica = cluster.replica(first)?.clone();
        told(replica.bootstrap(member.peer.clone()).await, "bootstrap")?;
        drop(replica);
        for _ in 1..mix.members {
            cluster.join().await?;
        }
        cluster.heal();
        Ok(cluster)
    }

    /// A member that was never there before.
    fn prepare(&mut self) -> u64 {
        let id = self.next;
        self.next += 1;
        let log_disk = SimDisk::new(self.seed + id);
        log_disk.set_faults(self.disk_faults());
        let engines = Engines {
            states: MemoryFactory::new(self.seed + id),
            seed: self.seed + id,
            reclaim_one_in: self.reclaim_one_in,
            opened: Mutex::new(None),
        };
        let member = Member {
            peer: Peer {
                name: format!("m{id}"),
                address: format!("10.0.0.{id}:2380"),
                client_urls: vec![],
            },
            path: self.root.path().join(id.to_string()),
            log_disk,
            engines: Arc::new(engines),
            replica: None,
        };
        self.members.insert(id, member);
        id
    }

    fn disk_faults(&self) -> log::Faults {
        log::Faults { lying_sync: self.lying, ..log::Faults::default() }
    }

    /// From now on the log of a member meets this.
    pub fn fail_disk(&mut self, id: u64, faults: log::Faults) {
        self.failing.insert(id);
        self.members[&id].log_disk.set_faults(faults);
    }

    /// What a member's own directory says is wrong with it.
    pub fn condemned(&self, id: u64) -> Result<Option<String>, String> {
        let condemned = self.directory(id)?.condemned();
        condemned.map_err(|error| format!("member {id}: {error}"))
    }

    fn directory(&self, id: u64) -> Result<Directory, String> {
        let member = &self.members[&id];
        let identity = Identity {
            cluster: CLUSTER.0,
            node: id,
            name: member.peer.name.clone(),
            release: "sim".into(),
        };
        Directory::open_or_create(&member.path, &Expect::default(), || identity)
            .map_err(|error| format!("member {id}: {error}"))
    }

    pub async fn start(&mut self, id: u64) -> Result<(), String> {
        let directory = Arc::new(self.directory(id)?);
        let member = &self.members[&id];
        let parts = Parts {
            directory,
            engine: member.engines.clone(),
            store: kontiki_storage::Options {
                watch: watch::Options { ring_bytes: self.ring_bytes, ..watch::Options::default() },
                ..kontiki_storage::Options::default()
            },
            log_disk: Arc::new(member.log_disk.clone()),
            log: log::Options {
                segment_bytes: self.segment_bytes,
                flusher: FlusherMode::Inline,
                zeros_written_ahead: false,
                ..log::Options::default()
            },
            transport: self.network.transport(CLUSTER, NodeId(id)),
            space: None,
        };
        let replica = told(Replica::start(parts, self.config.clone()).await, "start")?;
        self.network.listen(NodeId(id), replica.inbound());
        if let Some(member) = self.members.get_mut(&id) {
            member.replica = Some(replica);
        }
        Ok(())
    }

    /// A new member comes in and votes.
    pub async fn join(&mut self) -> Result<u64, String> {
        let id = self.prepare();
        self.start(id).await?;
        let peer = self.members[&id].peer.clone();
        let until = Instant::now() + PATIENCE;
        loop {
            let asked = match self.leader() {
                Some(leader) => {
                    let leader = self.replica(leader)?.clone();
                    match leader.add_learner(NodeId(id), peer.clone()).await {
                        // Asked before, and not answered.
                        Ok(()) | Err(Error::Membership(_)) => leader.promote(NodeId(id)).await,
                        other => other,
                    }
                }
                None => Err(Error::NoLeader("nobody leads".into())),
            };
            let votes = |role: &Role| matches!(role, Role::Leader | Role::Follower);
            if asked.is_ok() || votes(&self.replica(id)?.status().borrow().role) {
                return Ok(id);
            }
            if Instant::now() > until {
                return Err(format!("member {id} does not vote: {asked:?}"));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// A member leaves for good.
    pub async fn leave(&mut self, id: u64) -> Result<(), String> {
        let helper = self.up().into_iter().find(|other| *other != id);
        let helper = self.replica(helper.ok_or("nobody is left")?)?.clone();
        if let Err(error) = helper.remove(NodeId(id)).await
            // Asked before, not answered, and done.
            && helper.members().iter().any(|member| member.id == NodeId(id))
        {
            return Err(format!("remove: {error}"));
        }
        drop(helper);
        if self.members[&id].replica.is_some() {
            self.crash(id).await?;
        }
        self.members.remove(&id);
        Ok(())
    }

    /// Nothing is cut any more, and messages take the time that the way takes.
    pub fn heal(&mut self) {
        self.network.heal();
        self.slow(Faults { delay: Duration::ZERO..self.distance, ..Faults::default() });
    }

    /// From now on messages meet this.
    pub fn slow(&mut self, faults: Faults) {
        self.delayed = !faults.delay.is_empty();
        self.network.set_faults(faults);
    }

    #[must_use]
    pub fn is_delayed(&self) -> bool {
        self.delayed
    }

    /// The power of one machine goes: what was not synced may be lost.
    pub async fn crash(&mut self, id: u64) -> Result<(), String> {
        self.network.close(NodeId(id));
        let Some(member) = self.members.get_mut(&id) else { return Ok(()) };
        let Some(replica) = member.replica.take() else { return Ok(()) };
        self.power_cuts += 1;
        let seed = self.seed ^ self.power_cuts;
        member.log_disk.cut_power_after(1);
        replica.kill().await;
        drop(replica);
        // Clients let go of it when they have their answers.
        let until = Instant::now() + PATIENCE;
        while let Err(error) = self.directory(id) {
            if Instant::now() > until {
                return Err(format!("stopped, and still held: {error}"));
            }
            sleep(Duration::from_millis(1)).await;
        }
        let member = &self.members[&id];
        member.log_disk.crash(seed);
        member.log_disk.set_faults(self.disk_faults());
        self.failing.remove(&id);
        let member = &self.members[&id];
        if let Some(disk) = member.engines.disk() {
            disk.crash();
        }
        Ok(())
    }

    /// How long a member looks for an answer to a request.
    #[must_use]
    pub fn request_timeout(&self) -> Duration {
        self.config.request_timeout()
    }

    #[must_use]
    pub fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.config.heartbeat_ms)
    }

    pub fn replica(&self, id: u64) -> Result<&Replica, String> {
        let member = self.members.get(&id).and_then(|member| member.replica.as_ref());
        member.ok_or_else(|| format!("member {id} is down"))
    }

    #[must_use]
    pub fn up(&self) -> Vec<u64> {
        self.members.iter().filter(|(_, it)| it.replica.is_some()).map(|(id, _)| *id).collect()
    }

    #[must_use]
    pub fn down(&self) -> Vec<u64> {
        self.members.iter().filter(|(_, it)| it.replica.is_none()).map(|(id, _)| *id).collect()
    }

    /// Who leads in the newest term, as members say of themselves.
    #[must_use]
    pub fn leader(&self) -> Option<u64> {
        let all = self.members.iter().filter_map(|(id, it)| Some((*id, it.replica.as_ref()?)));
        all.map(|(id, replica)| (replica.status().borrow().clone(), id))
            .filter(|(status, _)| status.role == Role::Leader)
            .max_by_key(|(status, _)| status.term)
            .map(|(_, id)| id)
    }

    pub fn isolate(&self, id: u64) {
        for other in self.members.keys().filter(|other| **other != id) {
            self.network.cut(NodeId(id), NodeId(*other));
        }
    }

    /// Members that stopped by themselves, and what they said.
    #[must_use]
    pub fn stopped(&self) -> Vec<(u64, String)> {
        let all = self.members.iter().filter_map(|(id, it)| Some((*id, it.replica.as_ref()?)));
        all.filter_map(|(id, replica)| match &replica.status().borrow().role {
            Role::Stopped(reason) => Some((id, reason.clone())),
            _ => None,
        })
        .collect()
    }
}
