//! Damage at rest that nobody reads.

use std::path::Path;
use std::time::Duration;

use super::cluster::put;
use super::real::{PATIENCE, alone, directory, small};
use crate::replica::{Config, Role};
use crate::types::Peer;

/// Changes bytes of the rows in every table of the newest values.
fn damage_rows(root: &Path) -> usize {
    let state = directory(root, 1).state().unwrap();
    let tables = std::fs::read_dir(state).unwrap().map(|entry| entry.unwrap().path());
    let tables = tables.filter(|path| path.extension().is_some_and(|it| it == "sst"));
    let mut damaged = 0;
    for table in tables {
        let mut bytes = std::fs::read(&table).unwrap();
        if bytes.windows(8).any(|it| it == b"namelive") {
            bytes[20] ^= 0x10;
            std::fs::write(table, bytes).unwrap();
            damaged += 1;
        }
    }
    damaged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_that_nobody_reads_is_found_noted_and_told_and_the_member_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let config = Config { scrub_interval: Duration::from_millis(200), ..small() };
    let replica = alone(root.path(), config.clone()).await.unwrap();
    let me = Peer { name: "m1".into(), address: "127.0.0.1:1".into(), client_urls: vec![] };
    replica.bootstrap(me).await.unwrap();
    replica.wait(PATIENCE, |status| status.ready).await.unwrap();
    for key in ["a", "b", "c"] {
        replica.propose(put(key, "value")).await.unwrap();
    }
    replica.wait(PATIENCE, |status| status.durable == status.last).await.unwrap();
    assert_eq!(replica.damage(), None);
    replica.shutdown().await;
    drop(replica);
    assert!(damage_rows(root.path()) > 0);

    let replica = alone(root.path(), config).await.unwrap();
    let began = tokio::time::Instant::now();
    let reason = loop {
        if let Some(reason) = replica.damage() {
            break reason;
        }
        assert!(began.elapsed() < PATIENCE, "no scrub found it");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(reason.contains(".sst"), "it names the file: {reason}");
    while !root.path().join("doubt").exists() {
        assert!(began.elapsed() < PATIENCE, "it is not noted for the next start");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    replica.propose(put("d", "value")).await.unwrap();
    let role = replica.status().borrow().role.clone();
    assert!(!matches!(role, Role::Stopped(_)), "{role:?}");
    replica.shutdown().await;
}
