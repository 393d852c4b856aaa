//! Leases: they end when they should, never before, whoever leads.

use std::time::Duration;

use futures::future::join_all;
use kontiki_storage::LeaseId;

use super::cluster::{Cluster, PATIENCE, put_leased, quick};
use crate::error::Error;
use crate::network::memory::Faults;
use crate::replica::{Config, Freshness, Replica};
use crate::types::NodeId;

async fn gone(replica: &Replica, id: LeaseId) {
    let gone = async {
        while replica.lease_time_to_live(id).await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE * 10, gone).await.expect("the lease ends");
}

#[tokio::test(start_paused = true)]
async fn a_lease_ends_with_its_keys_when_its_time_is_over() {
    let cluster = Cluster::of(3, 40, quick()).await;
    let replica = cluster.replica(2);
    let lease = replica.lease_grant(None, 5).await.unwrap();
    assert!(lease.id.0 > 0);
    replica.propose(put_leased("held", lease.id)).await.unwrap();
    let began = tokio::time::Instant::now();
    gone(replica, lease.id).await;
    assert!(began.elapsed() >= Duration::from_secs(5), "ended after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(7), "ended after {:?}", began.elapsed());
    assert_eq!(cluster.get(1, "held", Freshness::Linearizable).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_kept_alive_through_any_member_stays() {
    let cluster = Cluster::of(3, 41, quick()).await;
    let lease = cluster.replica(1).lease_grant(Some(LeaseId(77)), 4).await.unwrap();
    assert_eq!(lease.id, LeaseId(77));
    for round in 0..12u64 {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let renewed = cluster.replica(round % 3 + 1).lease_keep_alive(lease.id).await.unwrap();
        assert_eq!(renewed, Some(4), "round {round}");
    }
    gone(cluster.replica(1), lease.id).await;
    assert_eq!(cluster.replica(2).lease_keep_alive(lease.id).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn what_is_unknown_is_told_apart_from_what_failed() {
    let cluster = Cluster::of(1, 42, quick()).await;
    let replica = cluster.replica(1);
    assert_eq!(replica.lease_keep_alive(LeaseId(5)).await.unwrap(), None);
    assert_eq!(replica.lease_time_to_live(LeaseId(5)).await.unwrap(), None);
    let revoked = replica.lease_revoke(LeaseId(5)).await;
    assert!(matches!(revoked, Err(Error::Store(kontiki_storage::Error::LeaseNotFound(_)))));
    replica.lease_grant(Some(LeaseId(5)), 60).await.unwrap();
    let twice = replica.lease_grant(Some(LeaseId(5)), 60).await;
    assert!(matches!(twice, Err(Error::Store(kontiki_storage::Error::LeaseExists(_)))));
    replica.lease_revoke(LeaseId(5)).await.unwrap();
    assert_eq!(replica.lease_time_to_live(LeaseId(5)).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn no_lease_is_shorter_than_a_change_of_leader() {
    let mut config = quick();
    config.election_timeout_ms = (1000, 2000);
    let cluster = Cluster::of(1, 43, config).await;
    assert_eq!(cluster.replica(1).lease_grant(None, 1).await.unwrap().ttl_s, 2);
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_counts_no_lease_short() {
    let mut cluster = Cluster::of(3, 44, quick()).await;
    let old = cluster.leader().await;
    let lease = cluster.replica(old).lease_grant(None, 10).await.unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    let renewed = cluster.replica(old).lease_keep_alive(lease.id).await.unwrap();
    assert_eq!(renewed, Some(10));
    let renewed_at = tokio::time::Instant::now();
    cluster.crash(old).await;
    let new = cluster.leader_but(old).await;
    gone(cluster.replica(new), lease.id).await;
    assert!(renewed_at.elapsed() >= Duration::from_secs(10), "{:?}", renewed_at.elapsed());
    assert!(renewed_at.elapsed() < Duration::from_secs(15), "{:?}", renewed_at.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_a_long_lease_survives_the_leader() {
    let mut cluster = Cluster::of(3, 45, quick()).await;
    let old = cluster.leader().await;
    let lease = cluster.replica(old).lease_grant(None, 200).await.unwrap();
    tokio::time::sleep(Duration::from_secs(150)).await;
    cluster.crash(old).await;
    let new = cluster.leader_but(old).await;
    let (granted, left) = cluster.replica(new).lease_time_to_live(lease.id).await.unwrap().unwrap();
    assert_eq!(granted, 200);
    // Written down every 20 s.
    assert!((40..=75).contains(&left), "{left} s are left of 200 after 150");
}

#[tokio::test(start_paused = true)]
async fn a_renewal_is_not_forgotten_for_what_was_written_down_before() {
    let mut cluster = Cluster::of(3, 46, quick()).await;
    let old = cluster.leader().await;
    let lease = cluster.replica(old).lease_grant(None, 200).await.unwrap();
    tokio::time::sleep(Duration::from_secs(150)).await;
    assert_eq!(cluster.replica(old).lease_keep_alive(lease.id).await.unwrap(), Some(200));
    cluster.crash(old).await;
    let new = cluster.leader_but(old).await;
    let (_, left) = cluster.replica(new).lease_time_to_live(lease.id).await.unwrap().unwrap();
    assert!(left >= 190, "{left} s are left of a lease that was renewed for 200 a moment ago");
}

#[tokio::test(start_paused = true)]
async fn thousands_that_end_together_leave_room_for_other_writes() {
    let cluster = Cluster::of(3, 47, quick()).await;
    let leader = cluster.leader().await;
    let replica = cluster.replica(leader);
    let grants = join_all((1..=3000).map(|id| replica.lease_grant(Some(LeaseId(id)), 10))).await;
    assert!(grants.iter().all(Result::is_ok));
    for chunk in (1..=3000i64).collect::<Vec<_>>().chunks(500) {
        let keys: Vec<String> = chunk.iter().map(|id| format!("lease-{id}")).collect();
        let puts =
            chunk.iter().zip(&keys).map(|(id, k)| replica.propose(put_leased(k, LeaseId(*id))));
        assert!(join_all(puts).await.iter().all(Result::is_ok));
    }
    let mut slowest = Duration::ZERO;
    while !replica.store().leases().unwrap().is_empty() {
        let began = tokio::time::Instant::now();
        cluster.put(leader, "other", "v").await.unwrap();
        slowest = slowest.max(began.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(slowest < Duration::from_millis(500), "a write took {slowest:?} meanwhile");
    assert_eq!(cluster.get(1, "lease-1", Freshness::Linearizable).await.unwrap(), None);
    assert_eq!(
        cluster.get(1, "other", Freshness::Linearizable).await.unwrap().as_deref(),
        Some("v")
    );
    cluster.converge().await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_renews_nothing() {
    let cluster = Cluster::of(3, 48, quick()).await;
    let old = cluster.leader().await;
    let lease = cluster.replica(old).lease_grant(None, 60).await.unwrap();
    cluster.isolate(old);
    let renewed = cluster.replica(old).lease_keep_alive(lease.id).await;
    assert!(renewed.is_err(), "renewed by a leader that could not prove it leads: {renewed:?}");
}

/// A slow network, so that there is time between the moment at which what is left of leases is looked at
/// and the moment at which it is written down. Renewals fall before it, between the two, and after it.
#[tokio::test(start_paused = true)]
async fn a_renewal_is_not_undone_by_what_was_on_its_way_to_be_written_down() {
    const TTL: Duration = Duration::from_secs(20);
    let interval = Duration::from_secs(4);
    let config = Config { lease_checkpoint_interval: interval, ..quick() };
    let mut cluster = Cluster::of(3, 49, config).await;
    let old = cluster.leader().await;
    let replica = cluster.replica(old);
    let delay = Duration::from_millis(40)..Duration::from_millis(41);
    cluster.network.set_faults(Faults { delay, ..Faults::default() });
    let ids: Vec<LeaseId> = (1..=300).map(LeaseId).collect();
    let ttl_s = TTL.as_secs() as i64;
    let granted = join_all(ids.iter().map(|id| replica.lease_grant(Some(*id), ttl_s))).await;
    assert!(granted.iter().all(Result::is_ok));
    // From when on all of them are looked at, for longer than it takes until they are looked at again.
    tokio::time::sleep(interval).await;
    let renewals = ids.iter().map(|id| async move {
        tokio::time::sleep(interval / 250 * u32::try_from(id.0).unwrap()).await;
        let asked = tokio::time::Instant::now();
        assert_eq!(replica.lease_keep_alive(*id).await.unwrap(), Some(ttl_s));
        asked + TTL
    });
    let promised = join_all(renewals).await;
    cluster.crash(old).await;
    let new = cluster.leader_but(old).await;
    cluster.network.set_faults(Faults::default());
    let asked = tokio::time::Instant::now();
    let heir = cluster.replica(new);
    let found = join_all(ids.iter().map(|id| heir.lease_time_to_live(*id))).await;
    for ((id, left), until) in ids.iter().zip(found).zip(promised) {
        let left = left.unwrap();
        let (_, left) = left.unwrap_or_else(|| panic!("lease {id} has ended before its time"));
        // Seconds are rounded down.
        let ends = asked + Duration::from_secs(left as u64 + 1);
        assert!(ends >= until, "lease {id} ends {:?} early", until - ends);
    }
}

/// The leader can't know whether the end that it proposed is agreed on, and goes on to lead.
#[tokio::test(start_paused = true)]
async fn a_lease_whose_end_may_be_agreed_on_is_not_renewed() {
    let config =
        Config { election_timeout_ms: (20_000, 40_000), request_timeout_ms: Some(400), ..quick() };
    let cluster = Cluster::of(3, 50, config).await;
    let leader = cluster.leader().await;
    let replica = cluster.replica(leader);
    for round in 0..20 {
        let lease = replica.lease_grant(None, 30).await.unwrap();
        tokio::time::sleep(Duration::from_millis(29_900)).await;
        cluster.isolate(leader);
        tokio::time::sleep(Duration::from_millis(700 + 37 * round)).await;
        cluster.heal();
        let asked = tokio::time::Instant::now();
        let mut renewed = replica.lease_keep_alive(lease.id).await;
        while renewed.is_err() && asked.elapsed() < PATIENCE {
            renewed = replica.lease_keep_alive(lease.id).await;
        }
        if renewed.expect("the leader leads on").is_some() {
            tokio::time::sleep(Duration::from_secs(25)).await;
            let left = replica.lease_time_to_live(lease.id).await.unwrap();
            assert!(left.is_some(), "round {round}: it was renewed and has ended");
            replica.lease_revoke(lease.id).await.unwrap();
        }
        // Until all is whole again.
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    assert_eq!(cluster.leader().await, leader);
    let others = (1..=3).filter(|id| *id != leader);
    for other in others {
        assert_eq!(cluster.replica(other).status().borrow().leader, Some(NodeId(leader)));
    }
}
