//! What is kept, what is let go, and what a member finds when it comes back.

use std::time::Duration;

use super::cluster::{Cluster, quick};
use crate::replica::{Config, Freshness};

fn keeps_little() -> Config {
    Config { log_entries_kept: 20, flush_interval: Duration::from_millis(200), ..quick() }
}

#[tokio::test(start_paused = true)]
async fn the_log_is_let_go_up_to_what_is_durable_and_never_further() {
    let cluster = Cluster::of(3, 80, keeps_little()).await;
    let watching = async {
        let mut status = cluster.replica(2).status();
        loop {
            {
                let s = status.borrow_and_update();
                assert!(
                    s.purged <= s.durable && s.durable <= s.applied && s.applied <= s.last,
                    "purged <= durable <= applied <= last does not hold: {s:?}"
                );
            }
            if status.changed().await.is_err() {
                return;
            }
        }
    };
    let writing = async {
        for i in 0..300 {
            cluster.put(1, &format!("k{}", i % 10), "v").await.unwrap();
            if i % 20 == 0 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        cluster.until(2, |status| status.purged.0 > 100).await;
    };
    tokio::select! {
        () = watching => unreachable!("the status does not end"),
        () = writing => {}
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_store_had_not_kept_is_applied_again() {
    let mut config = quick();
    config.flush_interval = Duration::from_secs(3600);
    let mut cluster = Cluster::of(1, 81, config).await;
    for i in 0..500 {
        cluster.put(1, &format!("k{i}"), "v").await.unwrap();
    }
    let revision = cluster.replica(1).header().revision;
    cluster.restart(1).await;
    cluster.until(1, |status| status.ready).await;
    assert_eq!(cluster.replica(1).header().revision, revision);
    for i in [0, 250, 499] {
        let found = cluster.get(1, &format!("k{i}"), Freshness::Linearizable).await.unwrap();
        assert_eq!(found.as_deref(), Some("v"));
    }
}

#[tokio::test(start_paused = true)]
async fn all_can_fall_at_once_again_and_again() {
    let mut cluster = Cluster::of(3, 82, keeps_little()).await;
    for round in 0..5 {
        for i in 0..30 {
            cluster.put(i % 3 + 1, &format!("k{round}-{i}"), "v").await.unwrap();
        }
        for id in 1..=3 {
            cluster.crash(id).await;
        }
        for id in 1..=3 {
            cluster.start(id).await.unwrap();
        }
        for id in 1..=3 {
            cluster.until(id, |status| status.ready).await;
        }
        for i in 0..30 {
            let key = format!("k{round}-{i}");
            let found = cluster.get(1, &key, Freshness::Linearizable).await.unwrap();
            assert_eq!(found.as_deref(), Some("v"), "{key}");
        }
    }
    cluster.converge().await;
}

/// Three members, and which of them has just come back, too late for the log of the others.
async fn left_behind(seed: u64) -> (Cluster, u64) {
    let mut cluster = Cluster::of(3, seed, keeps_little()).await;
    let leader = cluster.leader().await;
    let behind = (1..=3).find(|id| *id != leader).unwrap();
    cluster.crash(behind).await;
    let reached = cluster.replica(leader).status().borrow().last;
    for i in 0..200 {
        cluster.put(leader, &format!("k{i}"), "v").await.unwrap();
    }
    cluster.until(leader, |status| status.purged > reached).await;
    cluster.start(behind).await.unwrap();
    (cluster, behind)
}

#[tokio::test(start_paused = true)]
async fn who_is_too_far_behind_for_the_log_gets_the_whole_store() {
    let (mut cluster, behind) = left_behind(83).await;
    cluster.until(behind, |status| status.ready).await;
    for i in [0, 100, 199] {
        let found = cluster.get(behind, &format!("k{i}"), Freshness::Serializable).await.unwrap();
        assert_eq!(found.as_deref(), Some("v"));
    }
    cluster.converge().await;
    // What it was sent is its own now, and it goes on from there.
    cluster.put(behind, "after", "v").await.unwrap();
    cluster.restart(behind).await;
    cluster.until(behind, |status| status.ready).await;
    cluster.converge().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_member_is_filled_by_a_snapshot_when_the_log_has_gone() {
    let mut cluster = Cluster::of(1, 84, keeps_little()).await;
    for i in 0..200 {
        cluster.put(1, &format!("k{i}"), "v").await.unwrap();
    }
    cluster.until(1, |status| status.purged.0 > 50).await;
    cluster.prepare(2);
    cluster.start(2).await.unwrap();
    cluster.join(2).await;
    cluster.converge().await;
    let found = cluster.get(2, "k0", Freshness::Serializable).await.unwrap();
    assert_eq!(found.as_deref(), Some("v"));
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_breaks_off_is_sent_again() {
    let (cluster, behind) = left_behind(85).await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        cluster.isolate(behind);
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.heal();
    }
    cluster.until(behind, |status| status.ready).await;
    cluster.converge().await;
}

#[tokio::test(start_paused = true)]
async fn how_much_is_applied_again_is_bounded_by_what_may_wait_for_a_sync() {
    const VALUE_BYTES: usize = 4 << 10;
    let flush_bytes = 128 << 10;
    // By bytes alone: time never comes.
    let config = Config { flush_bytes, flush_interval: Duration::from_secs(3600), ..quick() };
    let mut cluster = Cluster::of(1, 86, config).await;
    let value = "v".repeat(VALUE_BYTES);
    for i in 0..500 {
        cluster.put(1, &format!("k{}", i % 50), &value).await.unwrap();
    }
    let last = cluster.replica(1).status().borrow().last;
    cluster.restart(1).await;
    let replayed = last.0 - cluster.replica(1).0.progress.durable().0;
    cluster.until(1, |status| status.ready).await;
    assert!(cluster.replica(1).0.progress.applied() >= last);
    // One bound's worth that waits, and one that came while it was synced.
    let most = 2 * flush_bytes / VALUE_BYTES as u64;
    assert!(replayed <= most, "{replayed} entries were applied again, {most} at most");
}
