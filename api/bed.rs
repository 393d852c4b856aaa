//! Clusters in one process for tests: members over engines and a network in memory.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kontiki_raft::log::{self, FlusherMode, SimDisk};
use kontiki_raft::network::memory::Network;
use kontiki_raft::replica::{Parts, Role, Status};
use kontiki_raft::{ClusterId, NodeId, Peer, Replica};
use kontiki_storage::directory::{Directory, Expect, Identity};
use kontiki_storage::engine::memory::MemoryFactory;
use kontiki_storage::revision::Revision;
use serde_json::Value;

use crate::live;
use crate::objects::{Object, Objects};

const CLUSTER: ClusterId = ClusterId(0xc1);
const PATIENCE: Duration = Duration::from_secs(30);

/// As many members as were asked for, all ready.
pub(crate) struct Bed {
    pub(crate) members: Vec<Objects>,
    _network: Network,
    _root: tempfile::TempDir,
}

impl Bed {
    pub(crate) async fn of(size: u64) -> Bed {
        let root = tempfile::tempdir().unwrap();
        let network = Network::new(7);
        let mut replicas: Vec<Replica> = Vec::new();
        for id in 1..=size {
            let replica = start(&network, &root.path().join(id.to_string()), id).await;
            network.listen(NodeId(id), replica.inbound());
            let peer = Peer {
                name: format!("m{id}"),
                address: format!("10.0.0.{id}:2380"),
                client_urls: Vec::new(),
            };
            match replicas.first() {
                None => replica.bootstrap(peer).await.unwrap(),
                Some(first) => {
                    first.add_learner(NodeId(id), peer).await.unwrap();
                    // A learner is promoted once it has caught up.
                    while first.promote(NodeId(id)).await.is_err() {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            }
            replicas.push(replica);
        }
        for replica in &replicas {
            let ready = |status: &Status| {
                status.ready && matches!(status.role, Role::Leader | Role::Follower)
            };
            replica.wait(PATIENCE, ready).await.expect("ready");
        }
        let members = replicas.into_iter().map(Objects::new).collect();
        Bed { members, _network: network, _root: root }
    }

    pub(crate) fn objects(&self) -> Objects {
        self.members[0].clone()
    }

    /// Makes an object as it is, past everything that would check it.
    pub(crate) async fn put(&self, group: &str, resource: &str, value: &Value) -> Object {
        let kind = value["kind"].as_str().expect("a kind");
        let of = live::stored(group, resource, "v1", kind);
        let text = |field: &str| value["metadata"][field].as_str().unwrap_or_default();
        let objects = &self.members[0];
        objects.barrier().await.unwrap();
        let there = objects.get(&of, text("namespace"), text("name")).unwrap();
        let expected = there.map_or(Revision::ZERO, |there| there.revision());
        objects.put(&of, text("namespace"), text("name"), value, expected).await.unwrap()
    }

    pub(crate) async fn delete(&self, group: &str, resource: &str, namespace: &str, name: &str) {
        let of = live::stored(group, resource, "v1", "");
        let objects = &self.members[0];
        objects.barrier().await.unwrap();
        let there = objects.get(&of, namespace, name).unwrap().expect("it is there");
        objects.delete(&of, namespace, name, there.revision()).await.unwrap();
    }
}

/// Waits until `holds`, looking again and again.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let seen = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, seen).await.unwrap_or_else(|_| panic!("it never came: {what}"));
}

/// One member, which has joined nothing yet.
pub(crate) async fn start(network: &Network, path: &Path, id: u64) -> Replica {
    let identity =
        Identity { cluster: CLUSTER.0, node: id, name: format!("m{id}"), release: "test".into() };
    let directory = Directory::open_or_create(path, &Expect::default(), || identity).unwrap();
    let parts = Parts {
        directory: Arc::new(directory),
        engine: Arc::new(MemoryFactory::new(id)),
        store: kontiki_storage::Options::default(),
        log_disk: Arc::new(SimDisk::new(id)),
        log: log::Options {
            segment_bytes: 16 << 20,
            flusher: FlusherMode::Inline,
            zeros_written_ahead: false,
            ..log::Options::default()
        },
        transport: network.transport(CLUSTER, NodeId(id)),
        space: None,
    };
    let config = kontiki_raft::Config {
        election_timeout_ms: (300, 600),
        heartbeat_ms: 50,
        request_timeout_ms: Some(5000),
        ..kontiki_raft::Config::default()
    };
    Replica::start(parts, config).await.unwrap()
}
