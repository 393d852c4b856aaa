//! Leases, and what hangs on them.

use etcd_client::{LeaseGrantOptions, LeaseTimeToLiveOptions, PutOptions};

use super::bed::{self, Bed, refusal};

#[tokio::test]
async fn a_lease_is_granted_kept_alive_looked_at_and_revoked_with_its_keys() {
    let bed = bed::single().await;
    let mut client = bed.client(0).await;
    let granted = client.lease_grant(60, None).await.unwrap();
    let id = granted.id();
    assert!(id > 0);
    assert_eq!(granted.ttl(), 60);
    client.put("leased", "", Some(PutOptions::new().with_lease(id))).await.unwrap();

    let with_keys = Some(LeaseTimeToLiveOptions::new().with_keys());
    let left = client.lease_time_to_live(id, with_keys).await.unwrap();
    assert_eq!((left.granted_ttl(), left.keys()), (60, [b"leased".to_vec()].as_slice()));
    assert!((1..=60).contains(&left.ttl()));
    assert_eq!(client.leases().await.unwrap().leases()[0].id(), id);

    let (mut keeper, mut answers) = client.lease_keep_alive(id).await.unwrap();
    keeper.keep_alive().await.unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap().ttl(), 60);

    let revoked = client.lease_revoke(id).await.unwrap();
    assert_eq!(revoked.header().unwrap().revision(), 3);
    assert_eq!(client.get("leased", None).await.unwrap().count(), 0);
    assert_eq!(client.lease_time_to_live(id, None).await.unwrap().ttl(), -1);
}

#[tokio::test]
async fn what_cannot_be_is_refused() {
    let bed = bed::single().await;
    let mut client = bed.client(0).await;
    let chosen = || Some(LeaseGrantOptions::new().with_id(7));
    client.lease_grant(60, chosen()).await.unwrap();
    assert_eq!(
        refusal(client.lease_grant(60, chosen()).await),
        "FailedPrecondition: etcdserver: lease already exists"
    );
    assert_eq!(
        refusal(client.lease_grant(9_000_000_001, None).await),
        "OutOfRange: etcdserver: too large lease TTL"
    );
    assert_eq!(
        refusal(client.lease_revoke(8).await),
        "NotFound: etcdserver: requested lease not found"
    );
}

#[tokio::test]
async fn a_follower_keeps_a_lease_alive_with_its_leader() {
    let bed = Bed::of(3, |_| {}).await;
    let mut client = bed.client(2).await;
    let id = client.lease_grant(30, None).await.unwrap().id();
    let (mut keeper, mut answers) = client.lease_keep_alive(id).await.unwrap();
    keeper.keep_alive().await.unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap().ttl(), 30);
    assert_eq!(client.lease_time_to_live(id, None).await.unwrap().granted_ttl(), 30);
}
