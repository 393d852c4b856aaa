//! What no honest client does, against the real binary: it answers clearly or closes, and its memory has
//! a bound.

use etcd_client::{GetOptions, WatchOptions};
use futures::StreamExt as _;
use futures::stream;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::store::{bare, client};
use crate::support::{Cluster, Master, PATIENCE, wait_for};

const MIB: u64 = 1 << 20;

/// Resident memory of a master.
fn resident(master: &Master) -> u64 {
    let path = format!("/proc/{}/status", master.pid());
    let status = std::fs::read_to_string(path).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Lets this process, and those it starts, have many files open. Returns how many.
fn many_files() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    limit.current.unwrap_or(u64::MAX)
}

fn noise(seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..500).map(|_| next()).collect()
}

#[tokio::test]
async fn garbage_on_each_port_is_closed_on_and_harms_nobody() {
    let cluster = Cluster::of_one().await;
    let master = &cluster.masters[0];
    // Looks like the beginning of a handshake, then not.
    let hello = [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03];
    for port in ["api", "peer", "store"] {
        for round in 0..20 {
            let mut stream = TcpStream::connect(("127.0.0.1", master.port(port))).await.unwrap();
            if round % 2 == 0 {
                stream.write_all(&hello).await.ok();
            }
            stream.write_all(&noise(round)).await.ok();
            stream.shutdown().await.ok();
            let mut answer = Vec::new();
            let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer));
            read.await.expect("the connection ends").ok();
        }
    }
    // The same behind a handshake that is in order, where the port lets us in.
    let shown = bare(master);
    for round in 0..20 {
        let mut stream = shown.connect(master.port("store")).await.unwrap();
        if round % 2 == 0 {
            stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.ok();
        }
        stream.write_all(&noise(round)).await.ok();
        stream.shutdown().await.ok();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer));
        read.await.expect("the connection ends").ok();
    }
    client(&[master]).await.put("k", "still here", None).await.unwrap();
    master.until_ready().await;
    assert!(!master.log().contains("panicked"), "{}", master.log());
}

#[tokio::test]
async fn ten_thousand_idle_connections_leave_room_for_an_honest_one() {
    let files = many_files();
    let cluster = Cluster::of_one().await;
    let master = &cluster.masters[0];
    let before = resident(master);
    // Where a process may not have as many files open, as many as it may.
    let count = files.saturating_sub(500).min(10_000);
    let port = master.port("store");
    let connected = stream::iter(0..count)
        .map(|_| async move { TcpStream::connect(("127.0.0.1", port)).await })
        .buffer_unordered(100);
    let idle: Vec<TcpStream> = connected.filter_map(|one| async { one.ok() }).collect().await;
    assert!(idle.len() as u64 > count / 2, "{} of {count}", idle.len());

    let mut honest = client(&[master]).await;
    honest.put("k", "v", None).await.unwrap();
    // Of those that have proved who they are, each may stay for a while and say nothing.
    let shown = bare(master);
    let shown = &shown;
    let proved =
        stream::iter(0..300).map(|_| async move { shown.connect(port).await }).buffer_unordered(20);
    let proved: Vec<_> = proved.filter_map(|one| async { one.ok() }).collect().await;
    assert!(proved.len() > 200, "{}", proved.len());
    honest.put("k", "w", None).await.unwrap();
    assert!(!honest.get("k", None).await.unwrap().kvs().is_empty());
    let grown = resident(master).saturating_sub(before);
    println!("{} idle connections, {} proved: {} MiB", idle.len(), proved.len(), grown / MIB);
    assert!(grown < 300 * MIB, "{} MiB for {count} connections", grown / MIB);
    drop((idle, proved));
    master.until_ready().await;
}

#[tokio::test]
async fn watchers_that_read_nothing_cost_the_server_next_to_nothing() {
    const WATCHERS: usize = 40;
    const VALUE: usize = 100_000;
    const PUTS: usize = 100;
    let cluster = Cluster::of_one().await;
    let master = &cluster.masters[0];
    let mut writer = client(&[master]).await;
    writer.put("w", vec![b'x'; VALUE], None).await.unwrap();
    let mut deaf = Vec::new();
    for _ in 0..WATCHERS {
        // A connection each, of which nothing is read but what the window takes.
        let mut own = client(&[master]).await;
        let options = WatchOptions::new().with_start_revision(1);
        deaf.push((own.watch("w", Some(options)).await.unwrap(), own));
    }
    let before = resident(master);
    for _ in 0..PUTS {
        writer.put("w", vec![b'y'; VALUE], None).await.unwrap();
    }
    let last = writer.get("w", None).await.unwrap().kvs()[0].mod_revision();
    let grown = resident(master).saturating_sub(before);
    let told = (WATCHERS * PUTS * VALUE) as u64 / MIB;
    println!("{told} MiB of events for watchers that read nothing: {} MiB", grown / MIB);
    assert!(grown < 250 * MIB, "{} MiB grown for {told} MiB of events", grown / MIB);
    // Who begins to read after all is told everything.
    let (stream, _own) = &mut deaf[0];
    let mut seen = 0;
    while seen < last {
        let told = tokio::time::timeout(PATIENCE, stream.message()).await.expect("it is told");
        let told = told.unwrap().expect("the stream goes on");
        assert!(!told.canceled(), "{told:?}");
        seen = told.events().iter().filter_map(|e| e.kv()).fold(seen, |_, kv| kv.mod_revision());
    }
}

#[tokio::test]
async fn answers_that_nobody_reads_are_not_kept_for_ever() {
    let cluster = Cluster::of_one().await;
    let master = &cluster.masters[0];
    let mut writer = client(&[master]).await;
    for number in 0..10 {
        writer.put(format!("big/{number}"), vec![b'x'; 100_000], None).await.unwrap();
    }
    let before = resident(master);
    let asking: Vec<_> = (0..50)
        .map(|_| {
            let mut asker = writer.clone();
            tokio::spawn(async move {
                asker.get("big/", Some(GetOptions::new().with_prefix())).await.map(|_| ())
            })
        })
        .collect();
    // Given up in the middle.
    for ask in &asking {
        ask.abort();
    }
    wait_for("its memory back", || async {
        let grown = resident(master).saturating_sub(before) / MIB;
        if grown < 150 { Ok(()) } else { Err(format!("{grown} MiB")) }
    })
    .await;
    let answered = tokio::time::timeout(PATIENCE, writer.get("big/0", None)).await;
    assert_eq!(answered.unwrap().unwrap().count(), 1);
}
