//! Leaders that fall, are cut off or come back, and disks that fail.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use kontiki_storage::codec;
use kontiki_storage::engine::memory;
use kontiki_storage::request::{Command, Delete, KeyRange};

use super::cluster::{Cluster, put, quick};
use crate::error::Error;
use crate::log;
use crate::network::memory::Faults;
use crate::network::{AppendRequest, Forward, Forwarded, LinkError};
use crate::replica::{Freshness, Role};
use crate::types::{NodeId, Vote};

#[tokio::test(start_paused = true)]
async fn nothing_acknowledged_is_lost_with_the_leader() {
    let mut cluster = Cluster::of(3, 20, quick()).await;
    let old = cluster.leader().await;
    for i in 0..20 {
        cluster.put(old, &format!("k{i}"), "v").await.unwrap();
    }
    cluster.crash(old).await;
    let new = cluster.leader_but(old).await;
    for i in 0..20 {
        let found = cluster.get(new, &format!("k{i}"), Freshness::Linearizable).await.unwrap();
        assert_eq!(found.as_deref(), Some("v"), "k{i}");
    }
    cluster.put(new, "after", "v").await.unwrap();
    cluster.start(old).await.unwrap();
    cluster.until(old, |status| status.ready).await;
    cluster.converge().await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_acknowledges_nothing_and_reads_nothing() {
    let cluster = Cluster::of(3, 21, quick()).await;
    let old = cluster.leader().await;
    cluster.put(old, "a", "1").await.unwrap();
    cluster.isolate(old);
    // It does not know yet that it is alone.
    assert_eq!(cluster.replica(old).status().borrow().role, Role::Leader);
    let (write, read, new) = tokio::join!(
        cluster.put(old, "a", "lost"),
        cluster.get(old, "a", Freshness::Linearizable),
        async {
            let new = cluster.leader_but(old).await;
            cluster.put(new, "a", "2").await.unwrap();
            new
        }
    );
    assert!(
        matches!(write, Err(Error::Unknown(_) | Error::NoLeader(_))),
        "a write that no quorum saw: {write:?}"
    );
    assert!(read.is_err(), "a read that no quorum confirmed: {read:?}");
    cluster.heal();
    // It hears of its successor, and shows what was written meanwhile.
    cluster.until(old, |status| status.role != Role::Leader).await;
    let seen = cluster.get(old, "a", Freshness::Linearizable).await.unwrap();
    assert_eq!(seen.as_deref(), Some("2"));
    assert_eq!(cluster.leader().await, new);
    cluster.converge().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_quorum_nothing_is_acknowledged_and_with_one_everything_goes_on() {
    let mut cluster = Cluster::of(3, 22, quick()).await;
    cluster.put(1, "a", "1").await.unwrap();
    cluster.crash(2).await;
    cluster.crash(3).await;
    let alone = cluster.put(1, "b", "2").await;
    assert!(matches!(alone, Err(Error::NoLeader(_) | Error::Unknown(_))), "{alone:?}");
    let read = cluster.get(1, "a", Freshness::Linearizable).await;
    assert!(read.is_err(), "{read:?}");
    let stale = cluster.get(1, "a", Freshness::Serializable).await.unwrap();
    assert_eq!(stale.as_deref(), Some("1"), "what it has it shows to who asks for no more");
    cluster.start(2).await.unwrap();
    cluster.leader().await;
    cluster.put(1, "c", "3").await.unwrap();
    cluster.start(3).await.unwrap();
    cluster.until(3, |status| status.ready).await;
    cluster.converge().await;
}

#[tokio::test(start_paused = true)]
async fn five_members_survive_two() {
    let mut cluster = Cluster::of(5, 23, quick()).await;
    cluster.put(1, "a", "1").await.unwrap();
    let first = cluster.leader().await;
    cluster.crash(first).await;
    let second = cluster.leader_but(first).await;
    cluster.crash(second).await;
    let third = cluster.leader().await;
    assert_eq!(
        cluster.get(third, "a", Freshness::Linearizable).await.unwrap().as_deref(),
        Some("1")
    );
    cluster.put(third, "b", "2").await.unwrap();
    cluster.start(first).await.unwrap();
    cluster.start(second).await.unwrap();
    for id in 1..=5 {
        cluster.until(id, |status| status.ready).await;
    }
    cluster.converge().await;
}

#[tokio::test(start_paused = true)]
async fn a_log_that_fails_stops_the_member_and_only_it() {
    let cluster = Cluster::of(3, 24, quick()).await;
    let old = cluster.leader().await;
    cluster.put(old, "a", "1").await.unwrap();
    cluster.members[&old]
        .log_disk
        .set_faults(log::Faults { fail_sync: Some(1), ..log::Faults::default() });
    let writes: Vec<String> = (0..10).map(|i| format!("k{i}")).collect();
    let replica = cluster.replica(old);
    for answer in join_all(writes.iter().map(|key| replica.propose(put(key, "v")))).await {
        assert!(
            matches!(answer, Ok(_) | Err(Error::Unknown(_) | Error::Stopped(_))),
            "a write whose fate nobody knows was called failed: {answer:?}"
        );
    }
    cluster.until(old, |status| matches!(status.role, Role::Stopped(_))).await;
    assert!(matches!(cluster.put(old, "b", "1").await, Err(Error::Stopped(_))));
    let new = cluster.leader_but(old).await;
    cluster.put(new, "b", "2").await.unwrap();
    assert_eq!(cluster.get(new, "a", Freshness::Linearizable).await.unwrap().as_deref(), Some("1"));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_stops_the_member() {
    let cluster = Cluster::of(3, 25, quick()).await;
    let follower = {
        let leader = cluster.leader().await;
        (1..=3).find(|id| *id != leader).unwrap()
    };
    cluster.put(1, "a", "1").await.unwrap();
    let disk = cluster.members[&follower].engines.disk();
    disk.set_faults(memory::Faults { full_at_bytes: Some(1), ..memory::Faults::default() });
    cluster.put(1, "b", "2").await.unwrap();
    let status = cluster.until(follower, |s| matches!(s.role, Role::Stopped(_))).await;
    assert!(matches!(status.role, Role::Stopped(reason) if !reason.is_empty()));
    cluster.put(cluster.leader().await, "c", "3").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_be_made_durable_stops_the_member() {
    let cluster = Cluster::of(1, 26, quick()).await;
    cluster.put(1, "a", "1").await.unwrap();
    cluster.until(1, |status| status.durable == status.applied).await;
    let disk = cluster.members[&1].engines.disk();
    disk.set_faults(memory::Faults { failing_sync: Some(100), ..memory::Faults::default() });
    for _ in 0..100 {
        if cluster.replica(1).flush().await.is_err() {
            break;
        }
    }
    let status = cluster.until(1, |s| matches!(s.role, Role::Stopped(_))).await;
    assert!(matches!(status.role, Role::Stopped(reason) if reason.contains("durable")));
}

#[tokio::test(start_paused = true)]
async fn who_is_slow_to_answer_is_not_taken_for_one_who_refused() {
    let cluster = Cluster::of(3, 27, quick()).await;
    let leader = cluster.leader().await;
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    let writing = cluster.put(follower, "a", "1");
    let cutting = async {
        // The command is under way, or not yet: either is right, but not to call it failed when it came.
        tokio::task::yield_now().await;
        cluster.isolate(follower);
    };
    let (written, ()) = tokio::join!(writing, cutting);
    cluster.heal();
    let found = cluster.get(leader, "a", Freshness::Linearizable).await.unwrap();
    match written {
        Ok(_) => assert_eq!(found.as_deref(), Some("1")),
        Err(Error::Unknown(_)) => {}
        Err(Error::NoLeader(_)) => assert_eq!(found, None, "said not to be carried out, and was"),
        Err(other) => panic!("{other}"),
    }
}

/// In real time, with the log's own thread: a disk that hangs is not an error that is returned.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_stalls_hands_leadership_over() {
    let mut cluster = Cluster::new(28, quick());
    cluster.flusher = log::FlusherMode::Thread;
    cluster.grow(3).await;
    let old = cluster.leader().await;
    cluster.put(old, "a", "1").await.unwrap();
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    cluster.members[&old].log_disk.set_faults(log::Faults {
        on_sync: Some(std::sync::Arc::new(move |_: &str| {
            // Held until the test is over with it, or for so long that the test has failed.
            held.lock().unwrap().recv_timeout(Duration::from_secs(8)).ok();
        })),
        ..log::Faults::default()
    });
    let stalled = cluster.put(old, "b", "2");
    let (stalled, new) = tokio::join!(stalled, cluster.leader_but(old));
    assert!(matches!(stalled, Ok(_) | Err(Error::Unknown(_))), "{stalled:?}");
    let written = cluster.put(new, "c", "3").await;
    drop(release);
    written.unwrap();
    assert_eq!(cluster.get(new, "a", Freshness::Linearizable).await.unwrap().as_deref(), Some("1"));
    for id in [1, 2, 3] {
        cluster.replica(id).kill().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_verdict_from_an_earlier_term_holds_no_more() {
    let cluster = Cluster::of(3, 29, quick()).await;
    let old = cluster.leader().await;
    let stale = cluster.replica(old).header().term;
    let lease = cluster.replica(old).lease_grant(None, 60).await.unwrap();
    let heir = (1..=3).find(|id| *id != old).unwrap();
    let heir_id = cluster.members[&heir].id;
    cluster.replica(old).transfer_leader(heir_id).await.unwrap();
    let verdict = Command::LeaseExpire { ids: vec![lease.id], term: stale };
    cluster.replica(old).propose(verdict).await.unwrap();
    let left = cluster.replica(old).lease_time_to_live(lease.id).await.unwrap();
    assert!(left.is_some(), "the lease was ended by a keeper that no longer leads");
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_refuses_what_adds_data_and_nothing_else() {
    use std::sync::atomic::Ordering;
    let cluster = Cluster::of(3, 30, quick()).await;
    let leader = cluster.leader().await;
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    cluster.put(leader, "a", "1").await.unwrap();
    cluster.members[&leader].free_bytes.store(1000, Ordering::Relaxed);
    for id in [leader, follower] {
        let refused = cluster.put(id, "b", "2").await;
        assert!(
            matches!(refused, Err(Error::Store(kontiki_storage::Error::NoSpace { .. }))),
            "through {id}: {refused:?}"
        );
        let read = cluster.get(id, "a", Freshness::Linearizable).await.unwrap();
        assert_eq!(read.as_deref(), Some("1"));
    }
    // What frees space passes, also beside what does not, through whomever.
    for id in [leader, follower] {
        let replica = cluster.replica(id);
        let delete = Command::Delete(Delete {
            range: KeyRange::One(Bytes::from_static(b"a")),
            previous: false,
        });
        let both = join_all([replica.propose(delete), replica.propose(put("c", "3"))]).await;
        assert!(both[0].is_ok(), "{:?}", both[0]);
        assert!(both[1].is_err(), "{:?}", both[1]);
    }
    assert_eq!(cluster.get(1, "a", Freshness::Linearizable).await.unwrap(), None);
    cluster.members[&leader].free_bytes.store(u64::MAX / 2, Ordering::Relaxed);
    cluster.put(follower, "b", "2").await.expect("there is space again");
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_disk_is_nearly_full_forgets_all_but_the_newest_history() {
    use std::sync::atomic::Ordering;
    let cluster = Cluster::of(3, 42, quick()).await;
    let leader = cluster.leader().await;
    let old = cluster.put(leader, "a", "1").await.unwrap().revision;
    tokio::time::sleep(Duration::from_secs(600)).await;
    let newest = cluster.put(leader, "a", "2").await.unwrap().revision;
    let compacted = |id: u64| cluster.replica(id).store().compacted();
    assert!(compacted(leader) < old, "nobody asked for it, and there is space");
    cluster.members[&leader].free_bytes.store(1000, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(compacted(leader) < newest, "the newest stays for a while");
    tokio::time::sleep(Duration::from_secs(60)).await;
    for id in 1..=3 {
        assert_eq!(compacted(id), newest, "member {id}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_that_can_get_no_more_space_refuses_data_before_it_fails() {
    let cluster = Cluster::of(1, 31, quick()).await;
    let value = "x".repeat(100_000);
    cluster.put(1, "a", &value).await.unwrap();
    cluster.members[&1]
        .log_disk
        .set_faults(log::Faults { capacity_bytes: Some(14 << 20), ..log::Faults::default() });
    let mut refused = false;
    for i in 0..200 {
        match cluster.put(1, &format!("k{}", i % 5), &value).await {
            Ok(_) => {}
            Err(Error::Store(kontiki_storage::Error::NoSpace { .. })) => {
                refused = true;
                break;
            }
            Err(other) => panic!("write {i}: {other}"),
        }
    }
    assert!(refused, "20 MB went into 14");
    let delete = Command::Delete(Delete { range: KeyRange::all(), previous: false });
    cluster.replica(1).propose(delete).await.expect("what frees space passes");
    cluster.members[&1].log_disk.set_faults(log::Faults::default());
    let mut writable = false;
    for _ in 0..10 {
        // Without a thread of its own the log looks for space when it writes.
        let nothing = Command::Delete(Delete { range: KeyRange::all(), previous: false });
        cluster.replica(1).propose(nothing).await.unwrap();
        writable |= cluster.put(1, "a", "1").await.is_ok();
    }
    assert!(writable, "there is space again");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_loses_a_message_breaks_and_does_not_end_as_if_all_were_well() {
    let cluster = Cluster::of(1, 33, quick()).await;
    let link = cluster
        .network
        .transport(cluster.replica(1).cluster(), NodeId(9))
        .link(NodeId(1), &cluster.members[&1].peer);
    let vote = Vote::new_committed(99, NodeId(9));
    let request =
        || AppendRequest { vote, prev_log_id: None, entries: vec![], leader_commit: None };
    cluster.network.set_faults(Faults { lost: 1.0, ..Faults::default() });
    let requests = futures::stream::iter([request(), request()]).boxed();
    let mut answers = link.append_stream(requests, Duration::from_secs(1)).await.unwrap();
    let answer = answers.next().await;
    assert!(matches!(answer, Some(Err(LinkError::Unknown { .. }))), "{answer:?}");
    assert!(answers.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_member_that_stops_breaks_off_what_peers_have_under_way() {
    let mut cluster = Cluster::of(3, 34, quick()).await;
    let leader = cluster.leader().await;
    let inbound = cluster.replica(leader).inbound();
    // No quorum hears of it, so it waits for its answer.
    cluster.isolate(leader);
    let payload = codec::encode_commands(&[put("a", "1")]);
    let waiting = tokio::spawn(inbound.forward(Forward::Propose(payload)));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished());
    // Restarting finds the directory free; it would not if the request lived on.
    cluster.restart(leader).await;
    let answer = waiting.await.unwrap();
    assert!(matches!(answer, Forwarded::Unknown(_)), "{answer:?}");
    let closed = inbound.forward(Forward::ReadIndex).await;
    assert!(matches!(closed, Forwarded::NotLeader { .. }), "the old door is shut: {closed:?}");
    cluster.heal();
    cluster.converge().await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_process_is_gone_is_followed_by_another_before_its_time() {
    for seed in 35..40 {
        let mut cluster = Cluster::of(3, seed, quick()).await;
        let old = cluster.leader().await;
        cluster.put(old, "a", "1").await.unwrap();
        // Both have all of the log, and hear the leader at the same moments.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let lost = tokio::time::Instant::now();
        cluster.crash(old).await;
        let new = cluster.leader_but(old).await;
        let shortest = Duration::from_millis(cluster.config.election_timeout_ms.0);
        assert!(lost.elapsed() < shortest, "seed {seed}: {new} led after {:?}", lost.elapsed());
        cluster.put(new, "a", "2").await.unwrap();
        cluster.start(old).await.unwrap();
        cluster.until(old, |status| status.ready).await;
        cluster.converge().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_stands_still_is_given_its_time() {
    let cluster = Cluster::of(3, 40, quick()).await;
    let leader = cluster.leader().await;
    cluster.put(leader, "a", "1").await.unwrap();
    let term = cluster.replica(leader).header().term;
    cluster.network.pause(NodeId(leader));
    tokio::time::sleep(Duration::from_millis(cluster.config.election_timeout_ms.0)).await;
    cluster.network.resume(NodeId(leader));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(cluster.leader().await, leader);
    for id in 1..=3 {
        assert_eq!(cluster.replica(id).header().term, term, "as member {id} sees it");
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_heard_leads_on_where_nobody_seems_to_listen() {
    let cluster = Cluster::of(3, 41, quick()).await;
    let leader = cluster.leader().await;
    cluster.put(leader, "a", "1").await.unwrap();
    let term = cluster.replica(leader).header().term;
    cluster.network.close(NodeId(leader));
    tokio::time::sleep(Duration::from_secs(5)).await;
    cluster.put(leader, "a", "2").await.unwrap();
    assert_eq!(cluster.replica(leader).header().term, term);
}
