//! Clusters that are lost, and what is left of them: archives, and single directories.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use kontiki_storage::directory::{Directory, Expect, Identity};
use kontiki_storage::request::{KeyRange, Range};
use kontiki_storage::revision::Revision;
use kontiki_storage::snapshot::{Snapshot, archive};
use kontiki_storage::watch;

use super::cluster::{Cluster, get, put, quick};
use super::real::{PATIENCE, alone, parts, small};
use crate::error::Error;
use crate::log;
use crate::network::memory::Network;
use crate::recovery::{self, Offline, REVISION_BUMP, Restored};
use crate::replica::{Config, Freshness, Replica, Role};
use crate::types::{ClusterId, NodeId, Peer};

const NEW_CLUSTER: ClusterId = ClusterId(0xc2);

fn peer(name: &str) -> Peer {
    Peer { name: name.into(), address: format!("{name}:2380"), client_urls: vec![] }
}

fn archived(snapshot: &Arc<Snapshot>) -> Vec<u8> {
    let mut bytes = Vec::new();
    archive::write(snapshot, &mut bytes).unwrap();
    bytes
}

/// A directory of the cluster that is to begin.
fn fresh(path: &Path, node: u64) -> Directory {
    let owner = || Identity {
        cluster: NEW_CLUSTER.0,
        node,
        name: format!("n{node}"),
        release: "test".into(),
    };
    Directory::open_or_create(path, &Expect::default(), owner).unwrap()
}

fn restore(directory: Directory, archive: &[u8]) -> Result<Restored, Error> {
    let directory = Arc::new(directory);
    let transport = Network::new(0).transport(NEW_CLUSTER, NodeId(7));
    let parts = parts(directory.clone(), transport, &small());
    let offline = Offline {
        directory: &directory,
        engine: &*parts.engine,
        log_disk: parts.log_disk,
        log: parts.log,
    };
    recovery::restore(&offline, peer("seven"), archive, REVISION_BUMP)
}

async fn start(network: &Network, path: &Path, node: u64) -> Replica {
    let transport = network.transport(NEW_CLUSTER, NodeId(node));
    let config = Config { become_voter: true, ..small() };
    let parts = parts(Arc::new(fresh(path, node)), transport, &config);
    let replica = Replica::start(parts, config).await.unwrap();
    network.listen(NodeId(node), replica.inbound());
    replica
}

/// A member that has written, its archive, and its newest revision.
async fn written(path: &Path) -> (Vec<u8>, Revision) {
    let replica = alone(path, small()).await.unwrap();
    replica.bootstrap(peer("one")).await.unwrap();
    for number in 0..100 {
        replica.propose(put(&format!("k{}", number % 50), &number.to_string())).await.unwrap();
    }
    let lease = replica.lease_grant(None, 600).await.unwrap();
    assert_eq!(replica.leases().await.unwrap()[0].id, lease.id);
    let archive = archived(&replica.take_snapshot().await.unwrap());
    let revision = replica.header().revision;
    replica.propose(put("later", "v")).await.unwrap();
    replica.kill().await;
    (archive, revision)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_becomes_a_cluster_of_its_own_that_others_join() {
    let root = tempfile::tempdir().unwrap();
    let (archive, revision) = written(&root.path().join("old")).await;
    let path = root.path().join("new");
    let restored = restore(fresh(&path, 7), &archive).unwrap();
    assert_eq!(restored.archived, revision);
    assert_eq!(restored.revision.0, revision.0 + REVISION_BUMP);

    let network = Network::new(0);
    let replica = start(&network, &path, 7).await;
    replica.wait(PATIENCE, |status| status.ready).await.expect("it leads without being told");
    assert_eq!((replica.cluster(), replica.id()), (NEW_CLUSTER, NodeId(7)));
    assert_eq!(replica.members().iter().map(|m| m.id).collect::<Vec<_>>(), [NodeId(7)]);
    for number in 0..50 {
        let found = get(&replica, &format!("k{number}"), Freshness::Linearizable).await.unwrap();
        assert_eq!(found, Some((number + 50).to_string()));
    }
    assert_eq!(get(&replica, "later", Freshness::Linearizable).await.unwrap(), None);
    assert_eq!(replica.leases().await.unwrap().len(), 1);
    // Nobody is shown another history under revisions of the old one.
    let old = Range { revision, ..Range::new(KeyRange::One(Bytes::from_static(b"k1"))) };
    let refusal = replica.range(&old, Freshness::Linearizable).await.unwrap_err();
    assert!(
        matches!(refusal, Error::Store(kontiki_storage::Error::Compacted { oldest, .. })
            if oldest == restored.revision),
        "{refusal}"
    );
    let request = watch::Request {
        start: revision.next(),
        ..watch::Request::new(KeyRange::One(Bytes::from_static(b"k1")))
    };
    let told = replica.watch(request).next().await;
    assert!(format!("{told:?}").contains("Compacted"), "{told:?}");
    let answer = replica.propose(put("k1", "new")).await.unwrap();
    assert_eq!(answer.revision, restored.revision.next());

    let joiner = start(&network, &root.path().join("joiner"), 8).await;
    replica.add_learner(NodeId(8), peer("eight")).await.unwrap();
    joiner.wait(PATIENCE, |s| s.role == Role::Follower && s.ready).await.expect("it is filled");
    assert_eq!(joiner.store().digest(), replica.store().digest());
    let found = get(&joiner, "k2", Freshness::Serializable).await.unwrap();
    assert_eq!(found.as_deref(), Some("52"));
    joiner.kill().await;
    replica.kill().await;
    drop((joiner, replica));
    // It is an ordinary directory from now on.
    let replica = start(&network, &path, 7).await;
    let found = get(&replica, "k1", Freshness::Serializable).await.unwrap();
    assert_eq!(found.as_deref(), Some("new"));
    replica.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_restored_over_data_or_from_a_damaged_archive() {
    let root = tempfile::tempdir().unwrap();
    let (archive, _) = written(&root.path().join("old")).await;
    let path = root.path().join("new");
    let mut damaged = archive.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    let refusal = restore(fresh(&path, 7), &damaged).unwrap_err().to_string();
    assert!(refusal.contains("damaged") || refusal.contains("checksum"), "{refusal}");
    restore(fresh(&path, 7), &archive).expect("the refusal has left the directory as it was");
    let refusal = restore(fresh(&path, 7), &archive).unwrap_err().to_string();
    assert!(refusal.contains("restore into an empty directory"), "{refusal}");
}

#[tokio::test(start_paused = true)]
async fn every_member_can_be_archived_and_says_how_far_it_was() {
    let cluster = Cluster::of(3, 90, quick()).await;
    let answer = cluster.put(2, "a", "1").await.unwrap();
    for id in 1..=3 {
        let replica = cluster.replica(id);
        replica.wait_for(answer.revision).await.unwrap();
        let snapshot = replica.take_snapshot().await.unwrap();
        let manifest = archive::inspect(&archived(&snapshot)[..]).unwrap();
        assert_eq!(manifest.facts().revision, answer.revision, "member {id}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_of_three_directories_becomes_the_cluster_and_the_others_come_back_to_it() {
    let mut cluster = Cluster::of(3, 91, quick()).await;
    for number in 0..20 {
        cluster.put(1, &format!("k{number}"), "v").await.unwrap();
    }
    cluster.converge().await;
    let (revision, term) = (cluster.replica(1).header().revision, cluster.replica(1).header().term);
    for id in 1..=3 {
        cluster.crash(id).await;
    }
    let directory = cluster.directory(1);
    let me = cluster.members[&1].peer.clone();
    let forced = recovery::force_new_cluster(&cluster.offline(1, &directory), me).unwrap();
    assert!(forced.term > term);
    drop(directory);
    cluster.start(1).await.unwrap();
    cluster.until(1, |status| status.ready && status.role == Role::Leader).await;
    assert_eq!(cluster.replica(1).header().revision, revision);
    assert_eq!(cluster.replica(1).members().len(), 1);
    for number in 0..20 {
        let found = cluster.get(1, &format!("k{number}"), Freshness::Linearizable).await.unwrap();
        assert_eq!(found.as_deref(), Some("v"), "k{number}");
    }
    cluster.put(1, "alone", "v").await.unwrap();

    // One that is started as it was hears that it is no member any more.
    cluster.start(2).await.unwrap();
    cluster.until(2, |status| status.role == Role::Removed).await;
    cluster.stop(2).await;
    cluster.config.become_voter = true;
    for (old, new) in [(2, 12), (3, 13)] {
        cluster.come_back(old, new).await;
        cluster.until(new, |status| status.role == Role::Follower && status.ready).await;
    }
    cluster.put(12, "together", "v").await.unwrap();
    cluster.converge().await;
    cluster.crash(1).await;
    let found = cluster.get(13, "alone", Freshness::Linearizable).await.unwrap();
    assert_eq!(found.as_deref(), Some("v"), "what it wrote alone is on all of them");
}

#[tokio::test(start_paused = true)]
async fn a_directory_without_a_cluster_is_not_made_one_by_force() {
    let mut cluster = Cluster::new(92, quick());
    cluster.prepare(1);
    let directory = cluster.directory(1);
    let me = cluster.members[&1].peer.clone();
    let refusal = recovery::force_new_cluster(&cluster.offline(1, &directory), me.clone());
    assert!(refusal.unwrap_err().to_string().contains("holds no cluster"));
    directory.condemn("its log is shorter than it was").unwrap();
    let refusal = recovery::force_new_cluster(&cluster.offline(1, &directory), me);
    assert!(refusal.unwrap_err().to_string().contains("its log is shorter"));
}

#[tokio::test(start_paused = true)]
async fn settings_under_which_an_entry_would_not_fit_are_refused() {
    let mut cluster = Cluster::new(93, Config { request_bytes_max: 4 << 20, ..quick() });
    cluster.prepare(1);
    let refusal = cluster.start(1).await.unwrap_err().to_string();
    assert!(refusal.contains("segment of the log has 4194304"), "{refusal}");
    assert!(log::Options::default().segment_bytes > Config::default().entry_bytes_max() as u64);
}
