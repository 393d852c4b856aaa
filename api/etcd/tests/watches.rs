//! Watches: what is told, in which order, and how they end.

use std::time::Duration;

use etcd_client::{
    Client, ConnectOptions, EventType, GetOptions, PutOptions, Txn, TxnOp, WatchFilterType,
    WatchOptions, WatchResponse, WatchStream,
};

use super::bed::{self, Bed};

async fn next(stream: &mut WatchStream) -> WatchResponse {
    let response = tokio::time::timeout(Duration::from_secs(20), stream.message()).await;
    response.expect("a response").expect("no error").expect("not the end")
}

/// A stream whose first watch was created.
async fn watch(
    client: &mut Client,
    key: &str,
    options: impl Into<Option<WatchOptions>>,
) -> WatchStream {
    let mut stream = client.watch(key, options.into()).await.unwrap();
    let created = next(&mut stream).await;
    assert!(created.created() && !created.canceled(), "{created:?}");
    stream
}

/// Kind, key and value of each event, in order.
fn told(response: &WatchResponse) -> String {
    let event = |event: &etcd_client::Event| {
        let kv = event.kv().unwrap();
        let kind = if event.event_type() == EventType::Put { "put" } else { "delete" };
        let previous =
            event.prev_kv().map_or(String::new(), |kv| format!(" was {}", kv.value_str().unwrap()));
        format!("{kind} {}={}{previous}", kv.key_str().unwrap(), kv.value_str().unwrap())
    };
    response.events().iter().map(event).collect::<Vec<_>>().join(", ")
}

#[tokio::test]
async fn a_watch_tells_what_happens_in_its_range() {
    let bed = bed::single().await;
    let mut client = bed.client(0).await;
    let options = WatchOptions::new().with_prefix().with_prev_key();
    let mut stream = watch(&mut client, "a/", Some(options)).await;
    client.put("b", "no", None).await.unwrap();
    client.put("a/1", "x", None).await.unwrap();
    assert_eq!(told(&next(&mut stream).await), "put a/1=x");
    client.put("a/1", "y", None).await.unwrap();
    assert_eq!(told(&next(&mut stream).await), "put a/1=y was x");
    let both = Txn::new().and_then([TxnOp::put("a/2", "z", None), TxnOp::delete("a/1", None)]);
    client.txn(both).await.unwrap();
    let response = next(&mut stream).await;
    assert_eq!(told(&response), "put a/2=z, delete a/1= was y");
    assert_eq!(response.header().unwrap().revision(), 5);
}

#[tokio::test]
async fn history_is_told_from_the_revision_asked_for() {
    let bed = bed::single().await;
    let mut client = bed.client(0).await;
    for value in ["1", "2", "3"] {
        client.put("k", value, None).await.unwrap();
    }
    let from = |revision| Some(WatchOptions::new().with_start_revision(revision));
    let mut stream = watch(&mut client, "k", from(3)).await;
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let response = next(&mut stream).await;
        seen.extend(response.events().iter().map(|it| it.kv().unwrap().value().to_vec()));
    }
    assert_eq!(seen, [b"2", b"3"]);

    client.compact(4, None).await.unwrap();
    let mut stream = watch(&mut client, "k", from(2)).await;
    let response = next(&mut stream).await;
    assert!(response.canceled());
    assert_eq!(response.compact_revision(), 4);
    let mut stream = watch(&mut client, "k", from(4)).await;
    assert_eq!(told(&next(&mut stream).await), "put k=3");
}

#[tokio::test]
async fn one_stream_has_many_watches_each_with_its_filters() {
    let bed = bed::single().await;
    let mut client = bed.client(0).await;
    let options = WatchOptions::new().with_watch_id(5).with_filters([WatchFilterType::NoPut]);
    let mut stream = watch(&mut client, "k", Some(options)).await;
    let options = WatchOptions::new().with_filters([WatchFilterType::NoDelete]);
    stream.watch("k", Some(options)).await.unwrap();
    let created = next(&mut stream).await;
    assert!(created.created());
    assert_eq!(created.watch_id(), 0);
    stream.watch("k", Some(WatchOptions::new().with_watch_id(5))).await.unwrap();
    let duplicate = next(&mut stream).await;
    assert!(duplicate.created() && duplicate.canceled());
    assert_eq!(duplicate.watch_id(), -1);
    assert_eq!(duplicate.cancel_reason(), "mvcc: duplicate watch ID provided on the WatchStream");
    client.put("k", "v", None).await.unwrap();
    let put = next(&mut stream).await;
    assert_eq!((put.watch_id(), told(&put).as_str()), (0, "put k=v"));
    client.delete("k", None).await.unwrap();
    let delete = next(&mut stream).await;
    assert_eq!((delete.watch_id(), told(&delete).as_str()), (5, "delete k="));
    stream.cancel(5).await.unwrap();
    let canceled = next(&mut stream).await;
    assert!(canceled.canceled() && canceled.watch_id() == 5);
    client.put("k", "w", None).await.unwrap();
    assert_eq!(told(&next(&mut stream).await), "put k=w");
}

#[tokio::test]
async fn progress_is_told_once_all_was_told() {
    let bed = bed::single().await;
    let mut client = bed.client(0).await;
    for _ in 0..3 {
        client.put("other", "x", None).await.unwrap();
    }
    let options = WatchOptions::new().with_start_revision(1);
    let mut stream = watch(&mut client, "k", Some(options)).await;
    stream.request_progress().await.unwrap();
    let progress = next(&mut stream).await;
    assert_eq!((progress.watch_id(), progress.events().len()), (-1, 0));
    assert_eq!(progress.header().unwrap().revision(), 4);
}

#[tokio::test]
async fn progress_is_told_to_those_who_want_it_and_heard_nothing() {
    let quick = |config: &mut crate::etcd::Config| {
        config.progress_interval = Duration::from_millis(100);
    };
    let bed = Bed::of(1, quick).await;
    let mut client = bed.client(0).await;
    client.put("other", "x", None).await.unwrap();
    let options = WatchOptions::new().with_progress_notify();
    let mut stream = watch(&mut client, "k", Some(options)).await;
    let progress = next(&mut stream).await;
    assert_eq!((progress.watch_id(), progress.events().len()), (0, 0));
    assert_eq!(progress.header().unwrap().revision(), 2);
}

#[tokio::test]
async fn a_large_revision_is_split_for_those_who_can_put_it_together() {
    let bed = bed::single().await;
    let mut client = bed.client(0).await;
    let large = vec![b'x'; 700_000];
    let put = |key: &str| TxnOp::put(key, large.clone(), None);
    let both = Txn::new().and_then([put("a/1"), put("a/2")]);
    client.txn(both).await.unwrap();
    let both = Txn::new().and_then([put("a/1"), put("a/2")]);
    client.txn(both).await.unwrap();
    let options =
        WatchOptions::new().with_prefix().with_prev_key().with_fragment().with_start_revision(3);
    let mut stream = watch(&mut client, "a/", Some(options)).await;
    // Four values of 700 kB do not fit into 2 MiB.
    let first = next(&mut stream).await;
    let second = next(&mut stream).await;
    assert_eq!((first.events().len(), second.events().len()), (1, 1));
    assert_eq!(second.events()[0].kv().unwrap().key(), b"a/2");
}

#[tokio::test]
async fn an_event_of_a_lease_that_ended_is_told() {
    let bed = bed::single().await;
    let mut client = bed.client(0).await;
    let id = client.lease_grant(60, None).await.unwrap().id();
    for key in ["l/1", "l/2"] {
        client.put(key, "", Some(PutOptions::new().with_lease(id))).await.unwrap();
    }
    let options = WatchOptions::new().with_prefix();
    let mut stream = watch(&mut client, "l/", Some(options)).await;
    client.lease_revoke(id).await.unwrap();
    assert_eq!(told(&next(&mut stream).await), "delete l/1=, delete l/2=");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_nothing_costs_no_memory_and_misses_nothing() {
    let bed = bed::single().await;
    let mut client = bed.client(0).await;
    let mut stream = watch(&mut client, "k", WatchOptions::new()).await;
    const PUTS: usize = 250;
    for i in 0..PUTS {
        let mut value = vec![b'x'; 100_000];
        value.extend_from_slice(i.to_string().as_bytes());
        client.put("k", value, None).await.unwrap();
    }
    let stats = bed.store().hub().stats();
    assert!(stats.ring_bytes <= 16 << 20, "{stats:?}");
    assert!(stats.ring_commits < PUTS, "the ring holds less than was written");
    let mut seen = 0;
    while seen < PUTS {
        for event in next(&mut stream).await.events() {
            let value = event.kv().unwrap().value();
            assert_eq!(value[100_000..], *seen.to_string().as_bytes());
            seen += 1;
        }
    }
}

#[tokio::test]
async fn a_member_that_is_cut_off_sends_those_away_who_want_a_leader() {
    let quick = |config: &mut crate::etcd::Config| {
        config.leaderless_for = Duration::from_millis(100);
    };
    let bed = Bed::of(3, quick).await;
    let leader = bed.members[0].replica.status().borrow().leader.unwrap().0;
    let cut_off = (1..=3).find(|id| *id != leader).unwrap();
    let options = ConnectOptions::new().with_require_leader(true);
    let mut client = bed.client_with(cut_off as usize - 1, options).await.unwrap();
    let mut stream = watch(&mut client, "k", None).await;
    bed.isolate(cut_off);
    let no_leader = "Unavailable: etcdserver: no leader";
    let ended = tokio::time::timeout(bed::PATIENCE, stream.message()).await.expect("it ends");
    assert_eq!(bed::refusal(ended), no_leader);
    assert_eq!(bed::refusal(client.put("k", "v", None).await), no_leader);
}

#[tokio::test]
async fn a_learner_serves_what_it_has_and_nothing_else() {
    let mut bed = bed::single().await;
    bed.client(0).await.put("k", "v", None).await.unwrap();
    bed.add(2, |_| {}).await;
    let mut learner = bed.client(1).await;
    let stale = Some(GetOptions::new().with_serializable());
    assert_eq!(learner.get("k", stale).await.unwrap().count(), 1);
    assert!(learner.status().await.unwrap().is_learner());
    let refused = "FailedPrecondition: etcdserver: rpc not supported for learner";
    assert_eq!(bed::refusal(learner.get("k", None).await), refused);
    assert_eq!(bed::refusal(learner.put("k", "w", None).await), refused);
    assert_eq!(bed::refusal(learner.watch("k", None).await.map(|_| ())), refused);
}
