//! Ranges, puts, deletes, transactions and compaction.

use etcd_client::{
    CompactionOptions, Compare, CompareOp, DeleteOptions, GetOptions, PutOptions, SortOrder,
    SortTarget, Txn, TxnOp, TxnOpResponse,
};

use super::bed::{self, Bed, refusal};

#[tokio::test]
async fn a_key_is_put_read_changed_and_deleted() {
    let bed = bed::single().await;
    let mut client = bed.client(0).await;
    let put = client.put("foo", "bar", None).await.unwrap();
    let header = put.header().unwrap();
    assert_eq!((header.cluster_id(), header.member_id()), (0xc1, 1));
    assert_eq!(header.revision(), 2);
    assert!(header.raft_term() > 0 && put.prev_key().is_none());

    let options = PutOptions::new().with_prev_key();
    let put = client.put("foo", "baz", Some(options)).await.unwrap();
    assert_eq!(put.prev_key().unwrap().value_str().unwrap(), "bar");

    let got = client.get("foo", None).await.unwrap();
    let kv = &got.kvs()[0];
    assert_eq!((kv.key(), kv.value()), (b"foo".as_slice(), b"baz".as_slice()));
    assert_eq!((kv.create_revision(), kv.mod_revision(), kv.version()), (2, 3, 2));
    assert_eq!((got.count(), got.more()), (1, false));

    let old = client.get("foo", Some(GetOptions::new().with_revision(2))).await.unwrap();
    assert_eq!(old.kvs()[0].value(), b"bar");

    let options = DeleteOptions::new().with_prev_key();
    let deleted = client.delete("foo", Some(options)).await.unwrap();
    assert_eq!(deleted.deleted(), 1);
    assert_eq!(deleted.prev_kvs()[0].value(), b"baz");
    assert_eq!(client.get("foo", None).await.unwrap().count(), 0);
    let nothing = client.delete("foo", None).await.unwrap();
    assert_eq!((nothing.deleted(), nothing.header().unwrap().revision()), (0, 4));
}

#[tokio::test]
async fn a_range_is_sorted_limited_counted_and_bounded() {
    let bed = bed::single().await;
    let mut client = bed.client(0).await;
    for (key, value) in [("a", "3"), ("b", "1"), ("c", "2"), ("b", "1")] {
        client.put(key, value, None).await.unwrap();
    }
    let mut get = async |options: GetOptions| {
        let got = client.get("a", Some(options.with_range("d"))).await.unwrap();
        let keys: Vec<_> = got.kvs().iter().map(|kv| kv.key_str().unwrap().to_owned()).collect();
        (keys.join(""), got.count(), got.more())
    };
    assert_eq!(get(GetOptions::new()).await, ("abc".into(), 3, false));
    assert_eq!(get(GetOptions::new().with_limit(2)).await, ("ab".into(), 3, true));
    let by = |target, order| GetOptions::new().with_sort(target, order);
    assert_eq!(get(by(SortTarget::Value, SortOrder::Ascend)).await.0, "bca");
    assert_eq!(get(by(SortTarget::Mod, SortOrder::Descend)).await.0, "bca");
    assert_eq!(get(by(SortTarget::Version, SortOrder::Descend)).await.0, "bac");
    assert_eq!(get(GetOptions::new().with_min_mod_revision(4)).await, ("bc".into(), 3, false));
    assert_eq!(get(GetOptions::new().with_max_create_revision(2)).await, ("a".into(), 3, false));
    assert_eq!(get(GetOptions::new().with_count_only()).await, (String::new(), 3, false));
    let keys = client.get("a", Some(GetOptions::new().with_keys_only())).await.unwrap();
    assert_eq!((keys.kvs()[0].value(), keys.kvs()[0].version()), (b"".as_slice(), 1));
}

#[tokio::test]
async fn all_keys_are_those_of_clients() {
    let bed = bed::single().await;
    let mut client = bed.client(0).await;
    client.user_add("alice", "secret", None).await.unwrap();
    client.put("\u{1}", "first", None).await.unwrap();
    client.put(vec![0xff, 0xff], "late", None).await.unwrap();
    let all = client.get("", Some(GetOptions::new().with_all_keys())).await.unwrap();
    assert_eq!((all.kvs().len(), all.count()), (2, 2));
    let late = client.get(vec![0xff], Some(GetOptions::new().with_from_key())).await.unwrap();
    assert_eq!(late.count(), 1);
    let state = super::super::keys::state();
    assert_eq!(client.get(state.to_vec(), None).await.unwrap().count(), 0);
    assert_eq!(
        refusal(client.put(state.to_vec(), "x", None).await),
        "InvalidArgument: etcdserver: key is reserved for the server itself"
    );
    let all = DeleteOptions::new().with_all_keys();
    assert_eq!(client.delete("", Some(all)).await.unwrap().deleted(), 2);
    assert_eq!(client.user_list().await.unwrap().users(), ["alice"]);
}

#[tokio::test]
async fn a_transaction_compares_branches_and_nests() {
    let bed = bed::single().await;
    let mut client = bed.client(0).await;
    client.put("k", "1", None).await.unwrap();
    let nested = Txn::new()
        .when([Compare::version("new", CompareOp::Equal, 0)])
        .and_then([TxnOp::put("nested", "yes", None)])
        .or_else([TxnOp::put("nested", "no", None)]);
    let txn = Txn::new()
        .when([
            Compare::value("k", CompareOp::Equal, "1"),
            Compare::mod_revision("k", CompareOp::Greater, -1),
            Compare::version("missing", CompareOp::Equal, 0),
        ])
        .and_then([
            TxnOp::put("new", "2", None),
            TxnOp::get("new", None),
            TxnOp::delete("k", None),
            TxnOp::txn(nested),
        ])
        .or_else([TxnOp::get("k", None)]);
    let done = client.txn(txn.clone()).await.unwrap();
    assert!(done.succeeded());
    assert_eq!(done.header().unwrap().revision(), 3);
    let answers = done.op_responses();
    let TxnOpResponse::Get(got) = &answers[1] else { panic!("{answers:?}") };
    assert_eq!(got.kvs()[0].mod_revision(), 3);
    // As in etcd, all comparisons look at what was there before.
    assert_eq!(client.get("nested", None).await.unwrap().kvs()[0].value(), b"yes");
    let again = client.txn(txn).await.unwrap();
    assert!(!again.succeeded() && again.header().unwrap().revision() == 3);
    let read_only = Txn::new().and_then([TxnOp::get("new", None)]);
    assert_eq!(client.txn(read_only).await.unwrap().header().unwrap().revision(), 3);
}

#[tokio::test]
async fn what_cannot_be_is_refused_in_etcds_words() {
    let bed = bed::single().await;
    let mut client = bed.client(0).await;
    client.put("k", "v", None).await.unwrap();
    assert_eq!(
        refusal(client.put("", "v", None).await),
        "InvalidArgument: etcdserver: key is not provided"
    );
    let future = GetOptions::new().with_revision(99);
    assert_eq!(
        refusal(client.get("k", Some(future)).await),
        "OutOfRange: etcdserver: mvcc: required revision is a future revision"
    );
    let missing = PutOptions::new().with_ignore_value();
    assert_eq!(
        refusal(client.put("missing", "", Some(missing)).await),
        "InvalidArgument: etcdserver: key not found"
    );
    let given = PutOptions::new().with_ignore_value();
    assert_eq!(
        refusal(client.put("k", "v", Some(given)).await),
        "InvalidArgument: etcdserver: value is provided"
    );
    let leased = PutOptions::new().with_lease(77);
    assert_eq!(
        refusal(client.put("k", "v", Some(leased)).await),
        "NotFound: etcdserver: requested lease not found"
    );
    let many: Vec<_> = (0..129).map(|i| TxnOp::put(format!("{i}"), "", None)).collect();
    assert_eq!(
        refusal(client.txn(Txn::new().and_then(many)).await),
        "InvalidArgument: etcdserver: too many operations in txn request"
    );
    let twice = [TxnOp::put("a", "", None), TxnOp::put("a", "", None)];
    assert_eq!(
        refusal(client.txn(Txn::new().and_then(twice)).await),
        "InvalidArgument: etcdserver: duplicate key given in txn request"
    );
    assert_eq!(
        refusal(client.put("k", vec![0; (3 << 19) + 1], None).await),
        "InvalidArgument: etcdserver: request is too large"
    );
    // What is too long for a message is refused before it is read, in grpc-go's words.
    let said = refusal(client.put("k", vec![0; 3 << 20], None).await);
    let limit = 2 << 20;
    assert!(
        said.starts_with("ResourceExhausted: grpc: received message larger than max (31457")
            && said.ends_with(&format!(" vs. {limit})")),
        "{said}"
    );
    client.put("k", "still here", None).await.unwrap();
}

#[tokio::test]
async fn compacted_history_is_gone_at_once() {
    let bed = bed::single().await;
    let mut client = bed.client(0).await;
    for value in ["1", "2", "3"] {
        client.put("k", value, None).await.unwrap();
    }
    let compacted = "OutOfRange: etcdserver: mvcc: required revision has been compacted";
    client.compact(3, Some(CompactionOptions::new().with_physical())).await.unwrap();
    let at = |revision| Some(GetOptions::new().with_revision(revision));
    assert_eq!(client.get("k", at(3)).await.unwrap().kvs()[0].value(), b"2");
    assert_eq!(refusal(client.get("k", at(2)).await), compacted);
    assert_eq!(refusal(client.compact(3, None).await), compacted);
    assert_eq!(
        refusal(client.compact(9, None).await),
        "OutOfRange: etcdserver: mvcc: required revision is a future revision"
    );
}

#[tokio::test]
async fn every_member_reads_what_any_member_wrote() {
    let bed = Bed::of(3, |_| {}).await;
    for writer in 0..3 {
        let mut client = bed.client(writer).await;
        let key = format!("from-{writer}");
        client.put(key.as_str(), "here", None).await.unwrap();
        for reader in 0..3 {
            let got = bed.client(reader).await.get(key.as_str(), None).await.unwrap();
            assert_eq!(got.count(), 1, "member {reader} after a write on {writer}");
            assert_eq!(got.header().unwrap().member_id(), reader as u64 + 1);
        }
    }
}
