//! Writes and reads, whoever leads and whoever is asked.

use std::time::Duration;

use futures::future::join_all;
use kontiki_storage::revision::Revision;

use super::cluster::{Cluster, put, quick};
use crate::error::Error;
use crate::replica::{Config, Freshness, Role};
use crate::types::NodeId;

#[tokio::test(start_paused = true)]
async fn one_member_is_a_cluster_and_keeps_what_it_acknowledged() {
    let mut cluster = Cluster::of(1, 1, quick()).await;
    cluster.put(1, "a", "1").await.unwrap();
    cluster.restart(1).await;
    let began = tokio::time::Instant::now();
    let found = cluster.get(1, "a", Freshness::Linearizable).await.unwrap();
    assert_eq!(found.as_deref(), Some("1"));
    let minimum = Duration::from_millis(cluster.config.election_timeout_ms.0);
    assert!(began.elapsed() < minimum, "it waited for the silence of others that do not exist");
}

#[tokio::test(start_paused = true)]
async fn a_cluster_is_not_made_twice() {
    let cluster = Cluster::of(1, 1, quick()).await;
    let peer = cluster.members[&1].peer.clone();
    let again = cluster.replica(1).bootstrap(peer).await;
    assert!(matches!(again, Err(Error::Directory { .. })), "{again:?}");
}

#[tokio::test(start_paused = true)]
async fn every_member_takes_writes_and_shows_those_of_all_others() {
    let cluster = Cluster::of(3, 2, quick()).await;
    for id in 1..=3u64 {
        cluster.put(id, &format!("from-{id}"), "x").await.unwrap();
        // Who wrote through a member finds it there, without asking anyone.
        let own = cluster.get(id, &format!("from-{id}"), Freshness::Serializable).await.unwrap();
        assert_eq!(own.as_deref(), Some("x"));
        for other in 1..=3u64 {
            let seen =
                cluster.get(other, &format!("from-{id}"), Freshness::Linearizable).await.unwrap();
            assert_eq!(seen.as_deref(), Some("x"), "written through {id}, read through {other}");
        }
    }
    cluster.converge().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_says_where_and_when_it_was_made() {
    let cluster = Cluster::of(1, 3, quick()).await;
    let answer = cluster.put(1, "a", "1").await.unwrap();
    let header = cluster.replica(1).header();
    assert_eq!(header.revision, answer.revision);
    assert_eq!(header.member, NodeId(1));
    assert_eq!(header.cluster, cluster.replica(1).cluster());
    assert!(header.term > 0);
}

/// Every write woke whoever waits for a leader, or for the end of this member.
#[tokio::test(start_paused = true)]
async fn who_watches_a_status_is_told_of_positions_at_a_beat_and_who_asks_hears_of_every_write() {
    let cluster = Cluster::of(1, 5, quick()).await;
    let mut watched = cluster.replica(1).status();
    let began = tokio::time::Instant::now();
    let watching = tokio::spawn(async move {
        let mut told = 0;
        while watched.changed().await.is_ok() {
            if watched.borrow_and_update().applied.0 > 200 {
                break;
            }
            told += 1;
        }
        told
    });
    for i in 0..300 {
        cluster.put(1, &format!("k{i}"), "v").await.unwrap();
    }
    let told = watching.await.unwrap();
    let beats = began.elapsed().as_millis() / 50;
    assert!(told <= beats + 1, "told {told} times of 200 writes in {beats} beats");
    let replica = cluster.replica(1);
    assert_eq!(replica.status().borrow().applied, replica.store().applied().0);
}

#[tokio::test(start_paused = true)]
async fn many_who_write_at_once_share_entries() {
    let cluster = Cluster::of(3, 4, quick()).await;
    let leader = cluster.leader().await;
    let before = cluster.replica(leader).status().borrow().last;
    let writes = (0..1000).map(|i| async move { format!("k{i}") });
    let keys: Vec<String> = join_all(writes).await;
    let replica = cluster.replica(leader);
    let answers = join_all(keys.iter().map(|key| replica.propose(put(key, "v")))).await;
    let mut revisions: Vec<Revision> = answers.into_iter().map(|a| a.unwrap().revision).collect();
    revisions.sort_unstable();
    revisions.dedup();
    assert_eq!(revisions.len(), 1000, "each write has a revision of its own");
    let after = cluster.replica(leader).status().borrow().last;
    assert!(after.0 - before.0 < 100, "1000 writes took {} entries", after.0 - before.0);
    cluster.converge().await;
}

#[tokio::test(start_paused = true)]
async fn many_who_write_through_a_follower_share_messages() {
    let cluster = Cluster::of(3, 5, quick()).await;
    let leader = cluster.leader().await;
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    let before = cluster.replica(leader).status().borrow().last;
    let keys: Vec<String> = (0..500).map(|i| format!("k{i}")).collect();
    let replica = cluster.replica(follower);
    for answer in join_all(keys.iter().map(|key| replica.propose(put(key, "v")))).await {
        answer.unwrap();
    }
    let after = cluster.replica(leader).status().borrow().last;
    assert!(after.0 - before.0 < 50, "500 writes took {} entries", after.0 - before.0);
}

#[tokio::test(start_paused = true)]
async fn more_than_may_wait_is_refused_at_once() {
    let cluster = Cluster::of(1, 6, Config { waiting_max: 8, ..quick() }).await;
    let replica = cluster.replica(1);
    let keys: Vec<String> = (0..64).map(|i| format!("k{i}")).collect();
    let answers = join_all(keys.iter().map(|key| replica.propose(put(key, "v")))).await;
    let refused = answers.iter().filter(|a| matches!(a, Err(Error::Overloaded { .. }))).count();
    let done = answers.iter().filter(|a| a.is_ok()).count();
    assert_eq!((refused, done), (56, 8));
    cluster.put(1, "later", "v").await.expect("it takes writes again");
}

#[tokio::test(start_paused = true)]
async fn a_command_that_is_too_large_is_refused_before_it_is_sent() {
    let cluster = Cluster::of(1, 7, Config { request_bytes_max: 1000, ..quick() }).await;
    let before = cluster.replica(1).status().borrow().last;
    let refused = cluster.put(1, "a", &"x".repeat(2000)).await;
    assert!(matches!(refused, Err(Error::TooLarge { max: 1000, .. })), "{refused:?}");
    assert_eq!(cluster.replica(1).status().borrow().last, before);
}

#[tokio::test(start_paused = true)]
async fn a_read_can_wait_for_a_revision() {
    let cluster = Cluster::of(3, 8, quick()).await;
    let leader = cluster.leader().await;
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    let wanted = cluster.replica(leader).header().revision.next();
    let reading = cluster.get(follower, "a", Freshness::AtLeast(wanted));
    let writing = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        cluster.put(leader, "a", "new").await
    };
    let (read, written) = tokio::join!(reading, writing);
    assert_eq!(written.unwrap().revision, wanted);
    assert_eq!(read.unwrap().as_deref(), Some("new"));
}

#[tokio::test(start_paused = true)]
async fn many_readers_are_served_by_few_rounds() {
    let cluster = Cluster::of(3, 9, quick()).await;
    cluster.put(1, "a", "1").await.unwrap();
    let began = tokio::time::Instant::now();
    for id in 1..=3u64 {
        let replica = cluster.replica(id);
        for passed in join_all((0..2000).map(|_| replica.read_barrier())).await {
            passed.unwrap();
        }
    }
    assert!(began.elapsed() < Duration::from_secs(2), "took {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn leadership_is_handed_to_the_one_who_was_named() {
    let cluster = Cluster::of(3, 10, quick()).await;
    let old = cluster.leader().await;
    let heir = (1..=3).find(|id| *id != old).unwrap();
    let asked = (1..=3).find(|id| *id != old && *id != heir).unwrap();
    cluster.replica(asked).transfer_leader(NodeId(heir)).await.unwrap();
    assert_eq!(cluster.leader().await, heir);
    cluster.put(old, "a", "1").await.unwrap();
    let nobody = cluster.replica(old).transfer_leader(NodeId(99)).await;
    assert!(matches!(nobody, Err(Error::Membership(_))), "{nobody:?}");
}

#[tokio::test(start_paused = true)]
async fn who_shuts_down_hands_over_and_leaves_nothing_to_replay() {
    let mut cluster = Cluster::of(3, 11, quick()).await;
    let old = cluster.leader().await;
    cluster.put(old, "a", "1").await.unwrap();
    let began = tokio::time::Instant::now();
    cluster.stop(old).await;
    cluster.leader_but(old).await;
    let minimum = Duration::from_millis(cluster.config.election_timeout_ms.0);
    assert!(began.elapsed() < minimum, "nobody had to wait for an election timeout");
    cluster.start(old).await.unwrap();
    let status = cluster.until(old, |status| status.ready).await;
    assert_ne!(status.role, Role::Leader);
    cluster.converge().await;
}

#[tokio::test(start_paused = true)]
async fn a_stopped_member_serves_nothing() {
    let cluster = Cluster::of(1, 12, quick()).await;
    let replica = cluster.replica(1).clone();
    replica.shutdown().await;
    assert!(matches!(replica.propose(put("a", "1")).await, Err(Error::Stopped(_))));
    assert!(matches!(replica.read_barrier().await, Err(Error::Stopped(_))));
    let read = super::cluster::get(&replica, "a", Freshness::Serializable).await;
    assert!(matches!(read, Err(Error::Stopped(_))));
}
