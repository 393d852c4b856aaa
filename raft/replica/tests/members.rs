//! Members that come, are promoted, change and go.

use std::time::Duration;

use super::cluster::{Cluster, quick};
use crate::error::{Error, MembershipError};
use crate::network::memory::Faults;
use crate::replica::{Config, Freshness, Role};
use crate::types::{NodeId, Peer};

fn refused<T: std::fmt::Debug>(result: Result<T, Error>) -> MembershipError {
    match result {
        Err(Error::Membership(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

fn peer(name: &str) -> Peer {
    Peer { name: name.into(), address: format!("{name}:2380"), client_urls: vec![] }
}

#[tokio::test(start_paused = true)]
async fn a_learner_follows_and_votes_only_when_it_was_promoted() {
    let mut cluster = Cluster::of(1, 60, quick()).await;
    cluster.put(1, "a", "1").await.unwrap();
    cluster.prepare(2);
    cluster.start(2).await.unwrap();
    let joining = cluster.members[&2].peer.clone();
    cluster.replica(1).add_learner(NodeId(2), joining.clone()).await.unwrap();
    let status = cluster.until(2, |status| status.ready).await;
    assert_eq!(status.role, Role::Learner);
    assert_eq!(cluster.get(2, "a", Freshness::Linearizable).await.unwrap().as_deref(), Some("1"));
    let members = cluster.replica(2).members();
    assert_eq!(members.iter().map(|m| m.voter).collect::<Vec<_>>(), [true, false]);
    assert_eq!(members[1].peer, joining);
    cluster.replica(2).promote(NodeId(2)).await.unwrap();
    cluster.until(2, |status| status.role == Role::Follower).await;
    assert!(cluster.replica(1).members().iter().all(|m| m.voter));
}

#[tokio::test(start_paused = true)]
async fn changes_that_make_no_sense_are_refused_by_name() {
    let cluster = Cluster::of(1, 61, quick()).await;
    let replica = cluster.replica(1);
    let own = cluster.members[&1].peer.clone();
    let exists = refused(replica.add_learner(NodeId(1), peer("x")).await);
    assert_eq!(exists, MembershipError::Exists(NodeId(1)));
    let same_address = Peer { address: own.address.clone(), ..peer("x") };
    let taken = refused(replica.add_learner(NodeId(9), same_address).await);
    assert_eq!(taken, MembershipError::AddressTaken(own.address.clone()));
    let same_name = Peer { name: own.name.clone(), ..peer("x") };
    let taken = refused(replica.add_learner(NodeId(9), same_name).await);
    assert_eq!(taken, MembershipError::NameTaken(own.name.clone()));
    let absent = NodeId(9);
    assert_eq!(refused(replica.promote(absent).await), MembershipError::NotFound(absent));
    assert_eq!(refused(replica.remove(absent).await), MembershipError::NotFound(absent));
    assert_eq!(refused(replica.update(absent, peer("y")).await), MembershipError::NotFound(absent));
    assert_eq!(refused(replica.promote(NodeId(1)).await), MembershipError::NotLearner(NodeId(1)));
    assert!(matches!(refused(replica.remove(NodeId(1)).await), MembershipError::Other(_)));
}

#[tokio::test(start_paused = true)]
async fn there_are_two_learners_at_most_and_none_that_is_down_is_promoted() {
    let cluster = Cluster::of(1, 62, quick()).await;
    let replica = cluster.replica(1);
    replica.add_learner(NodeId(7), peer("seven")).await.unwrap();
    replica.add_learner(NodeId(7), peer("seven")).await.expect("asking twice does no harm");
    replica.add_learner(NodeId(8), peer("eight")).await.unwrap();
    let third = refused(replica.add_learner(NodeId(9), peer("nine")).await);
    assert_eq!(third, MembershipError::TooManyLearners(2));
    let behind = refused(replica.promote(NodeId(7)).await);
    assert!(matches!(behind, MembershipError::NotCaughtUp { id: NodeId(7), .. }), "{behind}");
    replica.remove(NodeId(8)).await.unwrap();
    replica.add_learner(NodeId(9), peer("nine")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_known_of_a_member_can_change() {
    let cluster = Cluster::of(3, 63, quick()).await;
    let new =
        Peer { client_urls: vec!["https://m2:2379".into()], ..cluster.members[&2].peer.clone() };
    cluster.replica(3).update(NodeId(2), new.clone()).await.unwrap();
    cluster.converge().await;
    for id in 1..=3 {
        let members = cluster.replica(id).members();
        let two = members.iter().find(|m| m.id == NodeId(2)).unwrap();
        assert_eq!(two.peer, new, "as member {id} sees it");
    }
}

/// openraft publishes a membership a moment after it was agreed on, and followers hear of it later still.
#[tokio::test(start_paused = true)]
async fn who_was_asked_for_a_change_of_members_lists_it_at_once() {
    for (turn, asked) in (1..=3).enumerate() {
        let cluster = Cluster::of(3, 73 + turn as u64, quick()).await;
        let delay = Duration::from_millis(1)..Duration::from_millis(30);
        cluster.network.set_faults(Faults { delay, ..Faults::default() });
        let replica = cluster.replica(asked);
        let has = |id: u64| replica.members().iter().any(|member| member.id == NodeId(id));
        replica.add_learner(NodeId(9), peer("nine")).await.unwrap();
        assert!(has(9), "member {asked} lists what it was asked to add");
        let moved = Peer { address: "10.9.9.9:2380".into(), ..peer("nine") };
        replica.update(NodeId(9), moved.clone()).await.unwrap();
        assert!(replica.members().iter().any(|member| member.peer == moved));
        replica.remove(NodeId(9)).await.unwrap();
        assert!(!has(9), "member {asked} lists no more what it was asked to remove");
    }
}

/// A member that was restored elsewhere tells where it is while another joins: whichever is agreed on
/// first, and whether the joiner is filled before or after.
#[tokio::test(start_paused = true)]
async fn who_joins_hears_where_a_member_has_moved_meanwhile() {
    for wait_ms in (0..200).step_by(20) {
        let config = Config { become_voter: true, log_entries_kept: 10, ..quick() };
        let mut cluster = Cluster::of(1, 72, config).await;
        for i in 0..100 {
            cluster.put(1, &format!("k{i}"), "v").await.unwrap();
        }
        // Who joins is filled by a snapshot: the log begins later.
        cluster.until(1, |status| status.purged.0 > 0).await;
        let delay = Duration::from_millis(1)..Duration::from_millis(30);
        cluster.network.set_faults(Faults { delay, ..Faults::default() });
        cluster.prepare(2);
        cluster.start(2).await.unwrap();
        let joins = cluster.members[&2].peer.clone();
        let moved = Peer { address: "10.9.9.9:2380".into(), ..cluster.members[&1].peer.clone() };
        let replica = cluster.replica(1);
        let telling = async {
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
            while let Err(error) = replica.update(NodeId(1), moved.clone()).await {
                assert_eq!(refused::<()>(Err(error)), MembershipError::InProgress);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let joining = async {
            while let Err(error) = replica.add_learner(NodeId(2), joins.clone()).await {
                assert_eq!(refused::<()>(Err(error)), MembershipError::InProgress);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::join!(telling, joining);
        cluster.until(2, |status| status.role == Role::Follower).await;
        cluster.converge().await;
        for id in [1, 2] {
            let members = cluster.replica(id).members();
            let one = members.iter().find(|member| member.id == NodeId(1)).unwrap();
            assert_eq!(one.peer, moved, "as member {id} sees it, told after {wait_ms} ms");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_removed_hears_of_it_and_stays_out() {
    let mut cluster = Cluster::of(3, 64, quick()).await;
    cluster.put(1, "a", "1").await.unwrap();
    let leader = cluster.leader().await;
    let goer = (1..=3).find(|id| *id != leader).unwrap();
    cluster.replica(leader).remove(NodeId(goer)).await.unwrap();
    cluster.until(goer, |status| status.role == Role::Removed).await;
    assert_eq!(cluster.replica(leader).members().len(), 2);
    let term = cluster.replica(leader).header().term;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(cluster.leader().await, leader);
    assert_eq!(cluster.replica(leader).header().term, term, "it disturbed those who stayed");
    cluster.crash(goer).await;
    let again = cluster.start(goer).await;
    assert!(matches!(&again, Err(Error::Directory { reason, .. }) if reason.contains("removed")));
    let back = refused(cluster.replica(leader).add_learner(NodeId(goer), peer("back")).await);
    assert_eq!(back, MembershipError::Removed(NodeId(goer)));
}

#[tokio::test(start_paused = true)]
async fn who_was_away_when_it_was_removed_is_told_by_those_it_asks() {
    let mut cluster = Cluster::of(3, 65, quick()).await;
    let leader = cluster.leader().await;
    let goer = (1..=3).find(|id| *id != leader).unwrap();
    cluster.crash(goer).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster.replica(leader).remove(NodeId(goer)).await.unwrap();
    cluster.put(leader, "a", "1").await.unwrap();
    cluster.start(goer).await.unwrap();
    cluster.until(goer, |status| status.role == Role::Removed).await;
    assert_eq!(cluster.leader().await, leader);
}

#[tokio::test(start_paused = true)]
async fn a_leader_can_be_removed_and_another_takes_over() {
    let cluster = Cluster::of(3, 66, quick()).await;
    let leader = cluster.leader().await;
    cluster.put(leader, "a", "1").await.unwrap();
    cluster.replica(leader).remove(NodeId(leader)).await.unwrap();
    let new = cluster.leader_but(leader).await;
    cluster.until(leader, |status| status.role == Role::Removed).await;
    assert_eq!(cluster.replica(new).members().len(), 2);
    assert_eq!(cluster.get(new, "a", Freshness::Linearizable).await.unwrap().as_deref(), Some("1"));
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_would_leave_no_quorum_is_refused() {
    let mut cluster = Cluster::of(3, 67, quick()).await;
    let leader = cluster.leader().await;
    let mut others = (1..=3).filter(|id| *id != leader);
    let (dead, alive) = (others.next().unwrap(), others.next().unwrap());
    cluster.crash(dead).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let refusal = refused(cluster.replica(leader).remove(NodeId(alive)).await);
    assert_eq!(refusal, MembershipError::LosesQuorum { id: NodeId(alive), healthy: 1, voters: 2 });
    cluster.replica(leader).remove(NodeId(dead)).await.expect("the dead one may go");
    cluster.put(leader, "a", "1").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_leads_since_a_moment_hears_from_the_others_before_it_refuses_a_removal() {
    let mut cluster = Cluster::of(3, 71, quick()).await;
    let old = cluster.leader().await;
    // Answers take a while, so that there is a moment at which it has none.
    let delay = Duration::from_millis(40)..Duration::from_millis(50);
    cluster.network.set_faults(Faults { delay, ..Faults::default() });
    cluster.crash(old).await;
    let new = cluster.leader_but(old).await;
    let other = (1..=3).find(|id| *id != old && *id != new).unwrap();
    assert!(!cluster.replica(new).0.is_healthy(NodeId(other)), "it has heard nothing yet");
    cluster.replica(new).remove(NodeId(old)).await.unwrap();
    assert_eq!(cluster.replica(new).members().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn one_grows_to_five_and_shrinks_to_one() {
    let mut cluster = Cluster::of(1, 68, Config { become_voter: true, ..quick() }).await;
    for id in 2..=5 {
        cluster.prepare(id);
        cluster.start(id).await.unwrap();
        let peer = cluster.members[&id].peer.clone();
        let helper = cluster.leader().await;
        cluster.replica(helper).add_learner(NodeId(id), peer).await.unwrap();
        // It asks to vote by itself.
        cluster.until(id, |status| status.role == Role::Follower).await;
        cluster.put(id, &format!("k{id}"), "v").await.unwrap();
    }
    for id in [1, 2, 3, 4] {
        cluster.replica(5).remove(NodeId(id)).await.unwrap();
        cluster.until(id, |status| status.role == Role::Removed).await;
        cluster.stop(id).await;
    }
    cluster.until(5, |status| status.role == Role::Leader).await;
    for id in 2..=5 {
        let found = cluster.get(5, &format!("k{id}"), Freshness::Linearizable).await.unwrap();
        assert_eq!(found.as_deref(), Some("v"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_of_another_cluster_is_turned_away() {
    let cluster = Cluster::of(1, 69, quick()).await;
    let inbound = cluster.replica(1).inbound();
    let reason = inbound.admit(crate::ClusterId(0xbad), NodeId(2)).unwrap_err();
    assert!(reason.contains("bad") && reason.contains("c1"), "{reason}");
    inbound.admit(cluster.replica(1).cluster(), NodeId(2)).unwrap();
    assert!(inbound.admit(cluster.replica(1).cluster(), NodeId(1)).is_err(), "a twin");
}

#[tokio::test(start_paused = true)]
async fn who_lost_its_log_neither_votes_nor_serves_and_comes_back_under_a_new_id() {
    let mut cluster = Cluster::of(3, 70, Config { become_voter: true, ..quick() }).await;
    cluster.put(1, "a", "1").await.unwrap();
    let leader = cluster.leader().await;
    let lost = (1..=3).find(|id| *id != leader).unwrap();
    cluster.until(lost, |status| status.durable.0 > 0).await;
    cluster.crash(lost).await;
    cluster.members.get_mut(&lost).unwrap().log_disk = crate::log::SimDisk::new(1);
    let refusal = cluster.start(lost).await;
    assert!(matches!(&refusal, Err(Error::Directory { .. })), "{refusal:?}");
    let again = cluster.start(lost).await;
    assert!(matches!(&again, Err(Error::Directory { .. })), "once condemned, condemned");

    cluster.come_back(lost, 44).await;
    cluster.until(44, |status| status.role == Role::Follower).await;
    let members = cluster.replica(leader).members();
    assert!(members.iter().all(|m| m.voter && m.id != NodeId(lost)) && members.len() == 3);
    assert_eq!(cluster.get(44, "a", Freshness::Linearizable).await.unwrap().as_deref(), Some("1"));
    cluster.converge().await;
}

/// It had voted, and its store had not been made durable yet: nothing in it tells that there was a log.
#[tokio::test(start_paused = true)]
async fn who_lost_a_log_of_which_its_store_knows_nothing_is_found_out() {
    let config = Config { flush_interval: Duration::from_secs(3600), ..quick() };
    let mut cluster = Cluster::of(3, 73, config).await;
    let leader = cluster.leader().await;
    let lost = (1..=3).find(|id| *id != leader).unwrap();
    cluster.put(leader, "a", "1").await.unwrap();
    assert_eq!(cluster.replica(lost).status().borrow().durable.0, 0);
    cluster.crash(lost).await;
    cluster.members.get_mut(&lost).unwrap().log_disk = crate::log::SimDisk::new(1);
    let refusal = cluster.start(lost).await.expect_err("it has forgotten what it voted for");
    assert!(refusal.to_string().contains("the log is gone"), "{refusal}");
}
