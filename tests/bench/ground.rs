//! Clusters of one or three real members, in one process, on one disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kontiki_raft::log::{self, RealDisk};
use kontiki_raft::network::memory::Network;
use kontiki_raft::replica::Parts;
use kontiki_raft::storage::directory::{Directory, Expect, Identity};
use kontiki_raft::storage::engine::rocks::RocksFactory;
use kontiki_raft::storage::{self};
use kontiki_raft::{ClusterId, Config, NodeId, Peer, Replica};

use crate::Failure;
use crate::options::Options;

const CLUSTER: ClusterId = ClusterId(0xbe);
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Cluster {
    network: Network,
    members: Vec<Replica>,
    /// Removed with what is in it when the cluster goes.
    root: tempfile::TempDir,
}

impl Cluster {
    /// So many voters that are ready; the first one leads.
    pub async fn of(size: usize, options: &Options) -> Result<Cluster, Failure> {
        let root = tempfile::Builder::new().prefix("bench-").tempdir_in(&options.directory)?;
        let mut cluster = Cluster { network: Network::new(1), members: Vec::new(), root };
        for number in 1..=size {
            let replica = cluster.open(number).await?;
            cluster.members.push(replica);
            let leader = &cluster.members[0];
            if number == 1 {
                leader.bootstrap(peer(number)).await?;
                continue;
            }
            let id = NodeId(number as u64);
            leader.add_learner(id, peer(number)).await?;
            while let Err(error) = leader.promote(id).await {
                if !matches!(error, kontiki_raft::Error::Membership(_)) {
                    return Err(error.into());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        for replica in &cluster.members {
            replica.wait(PATIENCE, |status| status.ready).await.ok_or("a member is not ready")?;
        }
        Ok(cluster)
    }

    async fn open(&self, number: usize) -> Result<Replica, Failure> {
        let id = NodeId(number as u64);
        let directory = directory(&self.path(number), id)?;
        let parts = Parts {
            log_disk: Arc::new(RealDisk::new(directory.log())?),
            directory: Arc::new(directory),
            engine: Arc::new(RocksFactory::default()),
            store: storage::Options::default(),
            log: log::Options::default(),
            transport: self.network.transport(CLUSTER, id),
            space: None,
        };
        let replica = Replica::start(parts, Config::default()).await?;
        self.network.listen(id, replica.inbound());
        Ok(replica)
    }

    fn path(&self, number: usize) -> PathBuf {
        self.root.path().join(number.to_string())
    }

    pub fn leader(&self) -> &Replica {
        &self.members[0]
    }

    pub async fn stop(self) {
        for replica in &self.members {
            // The network holds who listens, and they hold the network.
            self.network.close(replica.id());
            replica.kill().await;
        }
    }

    /// Kills the only member, as a crash would, and opens it again. Returns once it can be read from.
    pub async fn restart(&mut self) -> Result<(), Failure> {
        let replica = self.members.pop().ok_or("nobody is there")?;
        let id = replica.id();
        self.network.close(id);
        replica.kill().await;
        drop(replica);
        let replica = self.open(id.0 as usize).await?;
        replica.wait(PATIENCE, |status| status.ready).await.ok_or("it does not become ready")?;
        self.members.push(replica);
        Ok(())
    }
}

fn directory(path: &Path, id: NodeId) -> Result<Directory, Failure> {
    let identity = Identity {
        cluster: CLUSTER.0,
        node: id.0,
        name: format!("bench-{}", id.0),
        release: env!("CARGO_PKG_VERSION").into(),
    };
    Ok(Directory::open_or_create(path, &Expect::default(), || identity)?)
}

fn peer(number: usize) -> Peer {
    Peer {
        name: format!("bench-{number}"),
        address: format!("127.0.0.{number}:2380"),
        client_urls: Vec::new(),
    }
}
