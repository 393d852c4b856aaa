//! Authentication: who may do what, and that nothing gets around it.

use etcd_client::{
    AuthClient, Client, Compare, CompareOp, ConnectOptions, DeleteOptions, GetOptions,
    LeaseTimeToLiveOptions, Permission, PutOptions, Txn, TxnOp, WatchOptions,
};

use super::bed::{self, Bed, refusal};

const DENIED: &str = "PermissionDenied: etcdserver: permission denied";

/// `alice` may do everything below `a/`, `bob` may read there.
async fn guarded() -> Bed {
    let bed = Bed::of(1, |_| {}).await;
    enable(&mut bed.client(0).await).await;
    bed
}

async fn enable(client: &mut Client) {
    let mut auth: AuthClient = client.auth_client();
    for user in ["root", "alice", "bob"] {
        auth.user_add(user, user, None).await.unwrap();
    }
    auth.role_add("root").await.unwrap();
    auth.user_grant_role("root", "root").await.unwrap();
    for (role, user, permission) in [
        ("writer", "alice", Permission::read_write("a/").with_prefix()),
        ("reader", "bob", Permission::read("a/").with_prefix()),
    ] {
        auth.role_add(role).await.unwrap();
        auth.role_grant_permission(role, permission).await.unwrap();
        auth.user_grant_role(user, role).await.unwrap();
    }
    auth.auth_enable().await.unwrap();
}

async fn log_in(bed: &Bed, member: usize, name: &str) -> Client {
    let options = ConnectOptions::new().with_user(name, name);
    bed.client_with(member, options).await.unwrap()
}

#[tokio::test]
async fn who_is_not_known_gets_nothing() {
    let bed = guarded().await;
    let mut nobody = bed.client(0).await;
    let empty = "InvalidArgument: etcdserver: user name is empty";
    assert_eq!(refusal(nobody.get("a/1", None).await), empty);
    assert_eq!(refusal(nobody.put("a/1", "x", None).await), empty);
    assert_eq!(refusal(nobody.lease_grant(60, None).await), empty);
    assert_eq!(refusal(nobody.status().await), empty);
    for (name, password) in [("alice", "wrong"), ("nobody", "alice"), ("alice", "")] {
        let options = ConnectOptions::new().with_user(name, password);
        let refused = bed.client_with(0, options).await.map(drop);
        assert_eq!(
            refusal(refused),
            "InvalidArgument: etcdserver: authentication failed, invalid user ID or password"
        );
    }
}

#[tokio::test]
async fn rights_hold_for_every_way_to_a_key() {
    let bed = guarded().await;
    let mut root = log_in(&bed, 0, "root").await;
    root.put("b/secret", "s", None).await.unwrap();
    root.put("a/1", "x", None).await.unwrap();
    let mut alice = log_in(&bed, 0, "alice").await;
    let mut bob = log_in(&bed, 0, "bob").await;

    alice.put("a/2", "y", None).await.unwrap();
    assert_eq!(bob.get("a/2", None).await.unwrap().count(), 1);
    assert_eq!(refusal(bob.put("a/2", "z", None).await), DENIED);
    assert_eq!(refusal(alice.get("b/secret", None).await), DENIED);
    let all = || Some(GetOptions::new().with_all_keys());
    assert_eq!(refusal(alice.get("", all()).await), DENIED);
    let from = Some(GetOptions::new().with_from_key());
    assert_eq!(refusal(alice.get("a/", from).await), DENIED);
    let across = Some(DeleteOptions::new().with_range("c"));
    assert_eq!(refusal(alice.delete("a/", across).await), DENIED);
    assert_eq!(root.get("", all()).await.unwrap().count(), 3);

    // Comparisons tell what stands in a key, and nothing may hide in a branch that is not taken.
    let peek = Txn::new().when([Compare::value("b/secret", CompareOp::Equal, "s")]);
    assert_eq!(refusal(alice.txn(peek.clone()).await), DENIED);
    let hidden = Txn::new().or_else([TxnOp::put("b/secret", "t", None)]);
    assert_eq!(refusal(alice.txn(hidden.clone()).await), DENIED);
    let deep = Txn::new().and_then([
        TxnOp::put("a/3", "", None),
        TxnOp::txn(Txn::new().and_then([TxnOp::txn(hidden)])),
    ]);
    assert_eq!(refusal(alice.txn(deep).await), DENIED);
    let peek_deep = Txn::new().and_then([TxnOp::txn(peek)]);
    assert_eq!(refusal(alice.txn(peek_deep).await), DENIED);
    assert_eq!(alice.get("a/3", None).await.unwrap().count(), 0);

    // What was there before is a read.
    let mut auth = root.auth_client();
    auth.role_add("blind").await.unwrap();
    auth.role_grant_permission("blind", Permission::write("b/")).await.unwrap();
    auth.user_grant_role("bob", "blind").await.unwrap();
    bob.put("b/", "1", None).await.unwrap();
    let previous = PutOptions::new().with_prev_key();
    assert_eq!(refusal(bob.put("b/", "2", Some(previous)).await), DENIED);
    let previous = DeleteOptions::new().with_prev_key();
    assert_eq!(refusal(bob.delete("b/", Some(previous)).await), DENIED);

    for refused in [
        refusal(alice.compact(2, None).await),
        refusal(alice.member_add(["http://x:1"], None).await),
        refusal(alice.auth_disable().await),
        refusal(alice.user_add("eve", "eve", None).await),
        refusal(alice.user_list().await),
        refusal(alice.user_get("bob").await),
        refusal(alice.role_get("reader").await),
        refusal(alice.defragment().await),
        refusal(alice.snapshot().await),
    ] {
        assert_eq!(refused, DENIED);
    }
    assert_eq!(alice.user_get("alice").await.unwrap().roles(), ["writer"]);
    assert_eq!(alice.role_get("writer").await.unwrap().permissions().len(), 1);
}

#[tokio::test]
async fn a_lease_is_no_way_to_foreign_keys() {
    let bed = guarded().await;
    let mut root = log_in(&bed, 0, "root").await;
    let id = root.lease_grant(60, None).await.unwrap().id();
    let leased = || Some(PutOptions::new().with_lease(id));
    root.put("b/secret", "s", leased()).await.unwrap();
    let mut alice = log_in(&bed, 0, "alice").await;
    assert_eq!(refusal(alice.put("a/1", "x", leased()).await), DENIED);
    let nested = Txn::new().and_then([TxnOp::put("a/1", "x", leased())]);
    assert_eq!(refusal(alice.txn(nested).await), DENIED);
    assert_eq!(refusal(alice.lease_revoke(id).await), DENIED);
    let keys = Some(LeaseTimeToLiveOptions::new().with_keys());
    assert_eq!(refusal(alice.lease_time_to_live(id, keys).await), DENIED);
    assert_eq!(refusal(alice.lease_keep_alive(id).await.map(|_| ())), DENIED);

    let own = alice.lease_grant(60, None).await.unwrap().id();
    let leased = Some(PutOptions::new().with_lease(own));
    alice.put("a/1", "x", leased).await.unwrap();
    alice.lease_revoke(own).await.unwrap();
}

#[tokio::test]
async fn a_watch_ends_when_the_right_to_it_does() {
    let bed = guarded().await;
    let mut root = log_in(&bed, 0, "root").await;
    let mut bob = log_in(&bed, 0, "bob").await;
    let denied = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";

    let from = WatchOptions::new().with_from_key();
    let mut stream = bob.watch("a/", Some(from)).await.unwrap();
    let refused = stream.message().await.unwrap().unwrap();
    assert!(refused.created() && refused.canceled());
    assert_eq!((refused.watch_id(), refused.cancel_reason()), (-1, denied));

    stream.watch("a/", Some(WatchOptions::new().with_prefix())).await.unwrap();
    assert!(stream.message().await.unwrap().unwrap().created());
    root.put("a/1", "seen", None).await.unwrap();
    assert_eq!(stream.message().await.unwrap().unwrap().events().len(), 1);
    root.user_revoke_role("bob", "reader").await.unwrap();
    root.put("a/1", "unseen", None).await.unwrap();
    let ended = stream.message().await.unwrap().unwrap();
    assert!(ended.canceled() && ended.events().is_empty());
    assert_eq!((ended.watch_id(), ended.cancel_reason()), (0, denied));
}

#[tokio::test]
async fn a_token_ends_with_its_time_its_user_and_its_password() {
    let bed = guarded().await;
    let invalid = "Unauthenticated: etcdserver: invalid auth token";
    let mut root = log_in(&bed, 0, "root").await;
    let mut alice = log_in(&bed, 0, "alice").await;
    let later = |seconds| bed.clock.fetch_add(seconds, std::sync::atomic::Ordering::Relaxed);
    alice.get("a/1", None).await.unwrap();
    later(200);
    alice.get("a/1", None).await.unwrap();
    root.user_list().await.unwrap();
    later(200);
    // Used in between, so both are still good.
    alice.get("a/1", None).await.unwrap();
    root.user_change_password("alice", "new").await.unwrap();
    assert_eq!(refusal(alice.get("a/1", None).await), invalid);
    let mut bob = log_in(&bed, 0, "bob").await;
    root.user_delete("bob").await.unwrap();
    assert_eq!(refusal(bob.get("a/1", None).await), invalid);
    later(301);
    assert_eq!(refusal(root.user_list().await), invalid);
}

#[tokio::test]
async fn root_cannot_be_locked_out_and_order_is_kept() {
    let bed = bed::single().await;
    let mut client = bed.client(0).await;
    let of = |text: &str| format!("FailedPrecondition: etcdserver: {text}");
    assert_eq!(refusal(client.auth_enable().await), of("root user does not exist"));
    client.user_add("root", "root", None).await.unwrap();
    assert_eq!(refusal(client.auth_enable().await), of("root user does not have root role"));
    assert_eq!(refusal(client.user_add("root", "x", None).await), of("user name already exists"));
    assert_eq!(refusal(client.user_grant_role("root", "none").await), of("role name not found"));
    assert_eq!(refusal(client.user_grant_role("none", "root").await), of("user name not found"));
    assert_eq!(
        refusal(client.user_revoke_role("root", "root").await),
        of("role is not granted to the user")
    );
    client.role_add("root").await.unwrap();
    assert_eq!(refusal(client.role_add("root").await), of("role name already exists"));
    client.user_grant_role("root", "root").await.unwrap();
    client.role_add("r").await.unwrap();
    let backwards = Permission::read("b").with_range_end("a");
    assert_eq!(
        refusal(client.role_grant_permission("r", backwards).await),
        "InvalidArgument: etcdserver: invalid auth management"
    );
    client.auth_enable().await.unwrap();
    let mut root = log_in(&bed, 0, "root").await;
    let management = "InvalidArgument: etcdserver: invalid auth management";
    assert_eq!(refusal(root.user_delete("root").await), management);
    assert_eq!(refusal(root.user_revoke_role("root", "root").await), management);
    assert_eq!(refusal(root.role_delete("root").await), management);
    root.auth_disable().await.unwrap();
    client.put("free", "again", None).await.unwrap();
}

#[tokio::test]
async fn a_deleted_role_takes_its_rights_with_it() {
    let bed = guarded().await;
    let mut root = log_in(&bed, 0, "root").await;
    let mut bob = log_in(&bed, 0, "bob").await;
    bob.get("a/1", None).await.unwrap();
    root.role_delete("reader").await.unwrap();
    assert_eq!(refusal(bob.get("a/1", None).await), DENIED);
    root.role_add("reader").await.unwrap();
    let permission = Permission::read("a/").with_prefix();
    root.role_grant_permission("reader", permission).await.unwrap();
    // Not granted anew, so not held anew.
    assert_eq!(refusal(bob.get("a/1", None).await), DENIED);
    assert_eq!(root.role_list().await.unwrap().roles(), ["reader", "root", "writer"]);
}

/// However the two are interleaved, what is written was allowed when it was: once the revocation was
/// acknowledged nothing more is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_write_overtakes_the_change_that_forbids_it_on_any_member() {
    let bed = Bed::of(3, |_| {}).await;
    enable(&mut bed.client(0).await).await;
    let mut root = log_in(&bed, 0, "root").await;
    let mut alice = log_in(&bed, 2, "alice").await;
    for round in 0..5 {
        let writing = async {
            let mut written = 0;
            while alice.put("a/k", format!("{round}"), None).await.is_ok() {
                written += 1;
            }
            written
        };
        let revoking = async {
            let before = root.get("a/k", None).await.unwrap().kvs().len();
            let revoked = root.user_revoke_role("alice", "writer").await.unwrap();
            (before, revoked.header().unwrap().revision())
        };
        let (_, (_, revoked)) = tokio::join!(writing, revoking);
        let kept = root.get("a/k", None).await.unwrap();
        let last = kept.kvs().first().map_or(0, |kv| kv.mod_revision());
        assert!(last <= revoked, "written at {last}, forbidden at {revoked}");
        root.user_grant_role("alice", "writer").await.unwrap();
    }
}

#[tokio::test]
async fn a_certificate_stands_for_the_user_it_names() {
    let bed = Bed::shown_certificates_of("alice").await;
    enable(&mut bed.client(0).await).await;
    let mut alice = bed.client(0).await;
    alice.put("a/1", "x", None).await.unwrap();
    assert_eq!(refusal(alice.put("b", "x", None).await), DENIED);
    // A token says more than the certificate of the connection it comes over.
    let mut bob = log_in(&bed, 0, "bob").await;
    assert_eq!(refusal(bob.put("a/1", "y", None).await), DENIED);
}
