//! A long log behind a store that has kept nothing of it.

use std::path::Path;
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use kontiki_storage::codec;
use kontiki_storage::request::{Command, Put};
use tokio::time::Instant;

use super::real::{PATIENCE, alone, directory, parts, small};
use crate::encoding::{encode_entry, log_id};
use crate::log::{self, Log, Record};
use crate::network::convert::{self, EntryPayload};
use crate::network::memory::Network;
use crate::replica::{Config, Freshness};
use crate::types::{NodeId, Payload, Peer, RaftEntry, position};

/// Entries, in groups as they would have come.
const ENTRIES: u64 = 1_000_000;
const GROUP: u64 = 5_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_small_entries_are_applied_again_before_the_member_serves() {
    let root = tempfile::tempdir().unwrap();
    // Nothing is synced by time, so nothing of this is in the store.
    let config = Config { flush_interval: PATIENCE * 10, ..small() };
    let replica = alone(root.path(), config.clone()).await.unwrap();
    let me = Peer { name: "m1".into(), address: "127.0.0.1:1".into(), client_urls: vec![] };
    replica.bootstrap(me).await.unwrap();
    let before = replica.wait(PATIENCE, |status| status.ready).await.unwrap();
    let revision = replica.header().revision;
    replica.kill().await;
    drop(replica);

    let began = Instant::now();
    let (first, term) = (before.last.0, before.term);
    append(root.path(), &config, first, term);
    let (wrote, began) = (began.elapsed(), Instant::now());
    let replica = alone(root.path(), config).await.unwrap();
    println!("{ENTRIES} entries: written in {wrote:?}, opened in {:?}", began.elapsed());
    assert_eq!(replica.header().revision.0, revision.0 + ENTRIES);
    assert_eq!(replica.store().applied().0, position(first + ENTRIES - 1));
    let last = super::cluster::get(&replica, "k999", Freshness::Linearizable).await.unwrap();
    assert_eq!(last, Some((ENTRIES - 1).to_string()));
    replica.kill().await;
}

/// Writes entries behind the last, all of them agreed on.
fn append(path: &Path, config: &Config, first: u64, term: u64) {
    let directory = Arc::new(directory(path, 1));
    let transport = Network::new(0).transport(super::real::CLUSTER, NodeId(1));
    let parts = parts(directory.clone(), transport, config);
    let identity = directory.identity();
    let owner = log::Identity { cluster: identity.cluster, node: identity.node };
    let (log, _) = Log::open(parts.log_disk, owner, parts.log).unwrap();
    let (told, durable) = mpsc::channel();
    for group in 0..ENTRIES / GROUP {
        let records: Vec<Record> = (group * GROUP..(group + 1) * GROUP)
            .map(|number| {
                let put = Put {
                    key: format!("k{}", number % 1000).into(),
                    value: number.to_string().into(),
                    ..Put::default()
                };
                let payload: Bytes = codec::encode_commands(&[Command::Put(put)]);
                let log_id = log_id(term, first + number);
                let payload = EntryPayload::Normal(Payload(payload));
                let (id, payload) = encode_entry(&RaftEntry { log_id, payload });
                Record { index: position(first + number).0, id, payload }
            })
            .collect();
        let told = told.clone();
        log.save_committed(convert::encode_log_id(&log_id(term, first + (group + 1) * GROUP - 1)));
        log.append(records, Box::new(move |result| told.send(result).unwrap()));
        durable.recv().unwrap().unwrap();
    }
}
