//! Cluster and Maintenance, locks and elections.

use std::time::Duration;

use etcd_client::{
    AlarmAction, AlarmType, LockOptions, MemberAddOptions, ProclaimOptions, ResignOptions,
};

use super::bed::{self, Bed, refusal};

#[tokio::test]
async fn a_member_says_what_it_is() {
    let bed = Bed::of(3, |_| {}).await;
    let mut client = bed.client(1).await;
    client.put("k", "v", None).await.unwrap();
    let status = client.status().await.unwrap();
    assert_eq!(status.version(), crate::etcd::VERSION);
    let leader = bed.members[1].replica.status().borrow().leader.unwrap();
    assert_eq!(status.leader(), leader.0);
    assert!(status.raft_index() >= status.raft_applied_index());
    assert!(status.raft_applied_index() > 0 && status.raft_term() > 0);
    assert!(status.errors().is_empty() && !status.is_learner());

    let members = client.member_list().await.unwrap();
    let names: Vec<_> = members.members().iter().map(|member| member.name()).collect();
    assert_eq!(names, ["m1", "m2", "m3"]);
    assert_eq!(members.members()[0].peer_urls(), ["https://10.0.0.1:2380"]);
    let address = format!("http://{}", bed.members[0].address);
    assert_eq!(members.members()[0].client_urls(), [address]);
}

#[tokio::test]
async fn members_come_and_go() {
    let bed = Bed::of(3, |_| {}).await;
    let mut client = bed.client(0).await;
    let learner = Some(MemberAddOptions::new().with_is_learner());
    let added = client.member_add(["http://10.0.0.9:2380"], learner).await.unwrap();
    let id = added.member().unwrap().id();
    assert_eq!(added.member_list().len(), 4);
    assert_eq!(
        refusal(client.member_add(["http://10.0.0.9:2380"], None).await),
        "FailedPrecondition: etcdserver: Peer URLs already exists"
    );
    assert_eq!(
        refusal(client.member_promote(id).await),
        "FailedPrecondition: etcdserver: can only promote a learner member which is in sync with \
         leader"
    );
    assert_eq!(
        refusal(client.member_promote(1).await),
        "FailedPrecondition: etcdserver: can only promote a learner member"
    );
    client.member_update(id, ["http://10.0.0.8:2380".to_owned()]).await.unwrap();
    let members = client.member_list().await.unwrap();
    let updated = members.members().iter().find(|member| member.id() == id).unwrap();
    assert_eq!(updated.peer_urls(), ["https://10.0.0.8:2380"]);
    assert_eq!(client.member_remove(id).await.unwrap().members().len(), 3);
    let missing = "NotFound: etcdserver: member not found";
    assert_eq!(refusal(client.member_remove(id).await), missing);
    assert_eq!(
        refusal(client.member_add(["nonsense"], None).await),
        "InvalidArgument: etcdserver: given member URLs are invalid"
    );
}

#[tokio::test]
async fn leadership_is_handed_over_by_whoever_leads() {
    let bed = Bed::of(3, |_| {}).await;
    let leader = bed.members[0].replica.status().borrow().leader.unwrap().0;
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    let mut client = bed.client(follower as usize - 1).await;
    assert_eq!(
        refusal(client.move_leader(follower).await),
        "FailedPrecondition: etcdserver: not leader"
    );
    let mut client = bed.client(leader as usize - 1).await;
    assert_eq!(
        refusal(client.move_leader(99).await),
        "FailedPrecondition: etcdserver: bad leader transferee"
    );
    client.move_leader(follower).await.unwrap();
    assert_eq!(client.status().await.unwrap().leader(), follower);
}

#[tokio::test]
async fn all_members_have_one_hash() {
    let bed = Bed::of(3, |_| {}).await;
    let mut client = bed.client(0).await;
    for i in 0..5 {
        client.put(format!("k{}", i % 2), "v", None).await.unwrap();
    }
    let mut hashes = Vec::new();
    for member in 0..3 {
        let mut client = bed.client(member).await;
        client.get("k0", None).await.unwrap();
        let hash = client.hash_kv(5).await.unwrap();
        assert_eq!(hash.compact_version(), -1);
        hashes.push((hash.hash(), client.hash().await.unwrap().hash()));
    }
    assert!(hashes.windows(2).all(|two| two[0] == two[1]), "{hashes:?}");
}

#[tokio::test]
async fn an_alarm_stops_what_adds_data_until_it_is_taken_back() {
    let bed = Bed::of(1, |config| config.quota_bytes = Some(40_000)).await;
    let mut client = bed.client(0).await;
    let full = "ResourceExhausted: etcdserver: mvcc: database space exceeded";
    let mut refused = None;
    for i in 0..100 {
        if let Err(error) = client.put(format!("k{i}"), vec![b'x'; 1000], None).await {
            refused = Some(refusal::<()>(Err(error)));
            break;
        }
    }
    assert_eq!(refused.as_deref(), Some(full));
    assert_eq!(client.status().await.unwrap().errors(), ["memberID:1 alarm:NOSPACE"]);
    assert_eq!(refusal(client.put("small", "x", None).await), full);
    assert_eq!(refusal(client.lease_grant(60, None).await), full);
    client.delete("k0", None).await.unwrap();
    assert_eq!(client.get("k1", None).await.unwrap().count(), 1);

    let get = client.alarm(AlarmAction::Get, AlarmType::None, None).await.unwrap();
    assert_eq!(get.alarms().len(), 1);
    let back = client.alarm(AlarmAction::Deactivate, AlarmType::Nospace, None).await.unwrap();
    assert_eq!(back.alarms().len(), 1);
    client.alarm(AlarmAction::Activate, AlarmType::Corrupt, None).await.unwrap();
    assert_eq!(refusal(client.get("k1", None).await), "DataLoss: etcdserver: corrupt cluster");
}

#[tokio::test]
async fn a_saved_snapshot_is_the_archive_behind_its_checksum() {
    let bed = bed::single().await;
    let mut client = bed.client(0).await;
    client.put("k", vec![b'x'; 700_000], None).await.unwrap();
    let mut stream = client.snapshot().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("saved");
    let mut saved = Vec::new();
    while let Some(piece) = stream.message().await.unwrap() {
        saved.extend_from_slice(piece.blob());
    }
    std::fs::write(&path, &saved).unwrap();
    let archive = crate::etcd::saved(std::fs::File::open(&path).unwrap()).unwrap();
    let manifest = kontiki_storage::snapshot::archive::inspect(archive).unwrap();
    assert_eq!(manifest.facts().revision.0, 2);
    saved[1000] ^= 1;
    std::fs::write(&path, &saved).unwrap();
    let damaged = crate::etcd::saved(std::fs::File::open(&path).unwrap()).unwrap_err();
    assert!(damaged.to_string().contains("checksum"), "{damaged}");
}

#[tokio::test]
async fn a_lock_is_held_by_one_and_passed_on() {
    let bed = bed::single().await;
    let mut client = bed.client(0).await;
    let first = client.lock("l", None).await.unwrap();
    let second_lease = client.lease_grant(60, None).await.unwrap().id();
    let mut waiting = bed.client(0).await;
    let options = LockOptions::new().with_lease(second_lease);
    let mut second = tokio::spawn(async move { waiting.lock("l", Some(options)).await.unwrap() });
    let places = Some(etcd_client::GetOptions::new().with_prefix().with_count_only());
    while client.get("l/", places.clone()).await.unwrap().count() < 2 {}
    assert!(futures::poll!(&mut second).is_pending());
    client.unlock(first.key()).await.unwrap();
    let second = second.await.unwrap();
    assert_eq!(second.key(), format!("l/{second_lease:x}").as_bytes());
    // The end of the lease ends the lock.
    client.lease_revoke(second_lease).await.unwrap();
    client.lock("l", None).await.unwrap();
}

#[tokio::test]
async fn who_gives_up_waiting_for_a_lock_leaves_the_queue() {
    let bed = bed::single().await;
    let mut client = bed.client(0).await;
    client.lock("l", None).await.unwrap();
    let mut waiting = bed.client(0).await;
    let giving_up = tokio::spawn(async move { waiting.lock("l", None).await });
    let places = Some(etcd_client::GetOptions::new().with_prefix().with_count_only());
    while client.get("l/", places.clone()).await.unwrap().count() < 2 {}
    giving_up.abort();
    let left = async { while client.get("l/", places.clone()).await.unwrap().count() > 1 {} };
    tokio::time::timeout(Duration::from_secs(20), left).await.expect("its place is given back");
}

#[tokio::test]
async fn one_leads_until_it_resigns() {
    let bed = bed::single().await;
    let mut client = bed.client(0).await;
    assert_eq!(refusal(client.leader("e").await), "Unknown: election: no leader");
    let lease = client.lease_grant(60, None).await.unwrap().id();
    let mut observing = bed.client(0).await.observe("e").await.unwrap();
    let campaign = client.campaign("e", "one", lease).await.unwrap();
    let leader = campaign.leader().unwrap().clone();
    assert_eq!(leader.key(), format!("e/{lease:x}").as_bytes());
    let seen = observing.message().await.unwrap().unwrap();
    assert_eq!(seen.kv().unwrap().value(), b"one");

    let proclaim = ProclaimOptions::new().with_leader(leader.clone());
    client.proclaim("two", Some(proclaim)).await.unwrap();
    assert_eq!(client.leader("e").await.unwrap().kv().unwrap().value(), b"two");
    let seen = observing.message().await.unwrap().unwrap();
    assert_eq!(seen.kv().unwrap().value(), b"two");

    let next_lease = client.lease_grant(60, None).await.unwrap().id();
    let mut candidate = bed.client(0).await;
    let next = tokio::spawn(async move { candidate.campaign("e", "next", next_lease).await });
    client.resign(Some(ResignOptions::new().with_leader(leader.clone()))).await.unwrap();
    next.await.unwrap().unwrap();
    assert_eq!(client.leader("e").await.unwrap().kv().unwrap().value(), b"next");
    let late = ProclaimOptions::new().with_leader(leader);
    assert_eq!(refusal(client.proclaim("late", Some(late)).await), "Unknown: election: not leader");
}
