//! Clients of etcd from the registries, unmodified, at the store port of the real binary, over mutual TLS.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, EventType, GetOptions, LockOptions, ProclaimOptions,
    PutOptions, ResignOptions, Txn, TxnOp, WatchOptions,
};
use tokio::process::Command;

use crate::store::{client, pki};
use crate::support::{Cluster, Master, PATIENCE, text};

/// Needs Python; `.ci/setup` makes the environment.
#[tokio::test]
async fn pythons_client_walks_through_everything() {
    let cluster = Cluster::of_one().await;
    let master = &cluster.masters[0];
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python =
        Command::new(top.join(".ci/python")).arg("tests/etcd/python").output().await.unwrap();
    assert!(python.status.success(), "{}", text(&python.stderr));
    let mut tour = Command::new(text(&python.stdout).trim());
    tour.arg(top.join("tests/etcd/python/tour.py"))
        .arg(format!("localhost:{}", master.port("store")))
        .args([pki(master, "ca.crt"), pki(master, "client.crt"), pki(master, "client.key")])
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let ended = tokio::time::timeout(PATIENCE * 2, tour.output()).await;
    let output = ended.expect("the tour ends").unwrap();
    let said = format!("{}\n{}", text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && said.contains("\ndone\n"), "{said}\n{}", master.log());
}

#[tokio::test]
async fn rusts_client_walks_through_everything_on_three_masters() {
    let cluster = Cluster::of(3).await;
    let masters: Vec<&Master> = cluster.masters.iter().collect();
    masters[0].until_voters(3).await;
    let mut client = client(&masters).await;
    keys_and_transactions(&mut client).await;
    watches(&mut client).await;
    leases(&mut client).await;
    locks_and_elections(&mut client).await;
    users(&mut client).await;
    members(&mut client).await;
}

async fn keys_and_transactions(client: &mut Client) {
    client.put("a/1", "one", None).await.unwrap();
    let previous = PutOptions::new().with_prev_key();
    let put = client.put("a/1", "two", Some(previous)).await.unwrap();
    assert_eq!(put.prev_key().unwrap().value(), b"one");
    client.put("a/2", "three", None).await.unwrap();
    let got = client.get("a/", Some(GetOptions::new().with_prefix())).await.unwrap();
    let keys: Vec<&[u8]> = got.kvs().iter().map(etcd_client::KeyValue::key).collect();
    assert_eq!(keys, [b"a/1".as_slice(), b"a/2"]);
    let txn = Txn::new()
        .when([Compare::value("a/1", CompareOp::Equal, "two")])
        .and_then([TxnOp::put("a/3", "four", None), TxnOp::delete("a/2", None)])
        .or_else([TxnOp::get("a/1", None)]);
    assert!(client.txn(txn.clone()).await.unwrap().succeeded());
    client.put("a/1", "five", None).await.unwrap();
    assert!(!client.txn(txn).await.unwrap().succeeded());
    let revision = client.get("a/1", None).await.unwrap().header().unwrap().revision();
    client.compact(revision - 1, None).await.unwrap();
    let old = GetOptions::new().with_revision(revision - 2);
    let error = client.get("a/1", Some(old)).await.unwrap_err();
    assert!(error.to_string().contains("has been compacted"), "{error}");
    let all = DeleteOptions::new().with_prefix();
    assert_eq!(client.delete("a/", Some(all)).await.unwrap().deleted(), 2);
}

async fn watches(client: &mut Client) {
    let from = client.put("w/1", "x", None).await.unwrap().header().unwrap().revision();
    let options = WatchOptions::new().with_prefix().with_start_revision(from).with_prev_key();
    let mut stream = client.watch("w/", Some(options)).await.unwrap();
    client.put("w/1", "y", None).await.unwrap();
    client.delete("w/1", None).await.unwrap();
    let (mut seen, mut id) = (Vec::new(), 0);
    while seen.len() < 3 {
        let told = tokio::time::timeout(PATIENCE, stream.message()).await.expect("it is told");
        let told = told.unwrap().expect("the stream goes on");
        id = told.watch_id();
        for event in told.events() {
            let before = event.prev_kv().map(|kv| kv.value().to_vec());
            seen.push((event.event_type(), before));
        }
    }
    let expected = [
        (EventType::Put, None),
        (EventType::Put, Some(b"x".to_vec())),
        (EventType::Delete, Some(b"y".to_vec())),
    ];
    assert_eq!(seen, expected);
    stream.request_progress().await.unwrap();
    stream.cancel(id).await.unwrap();
    while let Some(told) = stream.message().await.unwrap() {
        if told.canceled() {
            return;
        }
    }
    panic!("the end of the watch was not told");
}

async fn leases(client: &mut Client) {
    let id = client.lease_grant(60, None).await.unwrap().id();
    client.put("leased", "x", Some(PutOptions::new().with_lease(id))).await.unwrap();
    let (mut keeper, mut kept) = client.lease_keep_alive(id).await.unwrap();
    keeper.keep_alive().await.unwrap();
    assert_eq!(kept.message().await.unwrap().unwrap().ttl(), 60);
    assert!(client.leases().await.unwrap().leases().iter().any(|lease| lease.id() == id));
    client.lease_revoke(id).await.unwrap();
    assert_eq!(client.get("leased", None).await.unwrap().count(), 0);
    // One that nobody keeps alive ends by itself.
    let short = client.lease_grant(1, None).await.unwrap().id();
    client.put("short", "x", Some(PutOptions::new().with_lease(short))).await.unwrap();
    let gone = async {
        while client.get("short", None).await.unwrap().count() > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("the lease ends");
}

async fn locks_and_elections(client: &mut Client) {
    let id = client.lease_grant(60, None).await.unwrap().id();
    let lock = client.lock("l", Some(LockOptions::new().with_lease(id))).await.unwrap();
    client.unlock(lock.key()).await.unwrap();
    let campaign = client.campaign("e", "me", id).await.unwrap();
    let leader = campaign.leader().unwrap().clone();
    let proclaim = ProclaimOptions::new().with_leader(leader.clone());
    client.proclaim("still me", Some(proclaim)).await.unwrap();
    assert_eq!(client.leader("e").await.unwrap().kv().unwrap().value(), b"still me");
    client.resign(Some(ResignOptions::new().with_leader(leader))).await.unwrap();
}

async fn users(client: &mut Client) {
    client.user_add("tourist", "secret", None).await.unwrap();
    client.role_add("reader").await.unwrap();
    let permission = etcd_client::Permission::read("a/").with_prefix();
    client.role_grant_permission("reader", permission).await.unwrap();
    client.user_grant_role("tourist", "reader").await.unwrap();
    assert_eq!(client.user_get("tourist").await.unwrap().roles(), ["reader"]);
    client.user_delete("tourist").await.unwrap();
    client.role_delete("reader").await.unwrap();
}

async fn members(client: &mut Client) {
    let members = client.member_list().await.unwrap();
    let mut names: Vec<&str> = members.members().iter().map(|member| member.name()).collect();
    names.sort_unstable();
    assert_eq!(names, ["m1", "m2", "m3"]);
    assert!(client.status().await.unwrap().leader() > 0);
    client.defragment().await.unwrap();
    let mut saved = client.snapshot().await.unwrap();
    let mut bytes = 0;
    while let Some(piece) = saved.message().await.unwrap() {
        bytes += piece.blob().len();
    }
    assert!(bytes > 10_000, "{bytes}");
}
