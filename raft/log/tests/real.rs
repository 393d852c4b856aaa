//! Threads and a real file system.

use std::fs;
use std::sync::mpsc;

use tempfile::TempDir;

use super::workload::{Dice, View};
use super::*;

fn threaded() -> Options {
    Options { flusher: FlusherMode::Thread, ..small() }
}

fn open_at(path: &std::path::Path, options: Options) -> Result<(Log, Opened), OpenError> {
    Log::open(Arc::new(RealDisk::new(path).unwrap()), OURS, options)
}

/// Appends one by one, many in flight, and waits for all of them.
fn fill(log: &Log, indexes: std::ops::RangeInclusive<u64>, bytes: usize) {
    let (heard, hears) = mpsc::channel();
    for index in indexes.clone() {
        let heard = heard.clone();
        let done: Done = Box::new(move |result| heard.send((index, result)).unwrap());
        log.append(vec![record(index, bytes)], done);
    }
    for index in indexes {
        let (heard, result) = hears.recv().unwrap();
        assert_eq!(heard, index, "acknowledged out of order");
        result.unwrap();
    }
}

#[test]
fn what_was_written_by_threads_is_there_after_reopening() {
    let directory = TempDir::new().unwrap();
    let (log, _) = open_at(directory.path(), threaded()).unwrap();
    fill(&log, 1..=500, 300);
    log.purge(100, record(100, 0).id, ignored());
    log.save_vote(Bytes::from_static(b"vote"), ignored());
    let before = View::of(&log);
    drop(log);
    let (log, opened) = open_at(directory.path(), threaded()).unwrap();
    assert_eq!((View::of(&log), opened.truncated_tail_bytes), (before, 0));
    assert!(log.metrics().sync_seconds().count == 0);
    fill(&log, 501..=600, 300);
    let metrics = log.metrics();
    assert_eq!(metrics.records.load(Ordering::Relaxed), 100 + carried(&metrics));
    assert_eq!(metrics.sync_seconds().count, metrics.groups.load(Ordering::Relaxed));
}

/// Each rotation writes one record of its own.
fn carried(metrics: &Metrics) -> u64 {
    metrics.rotations.load(Ordering::Relaxed)
}

/// ext4 loses the first write to a block that was only reserved, and says that it synced it, when it fails in
/// the midst.
#[test]
fn every_byte_of_a_segment_was_written_before_it_is_used() {
    let directory = TempDir::new().unwrap();
    let (log, _) = open_at(directory.path(), Options::default()).unwrap();
    let whole = |name: &str| {
        let file = fs::File::open(directory.path().join(name)).unwrap();
        let hole = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(0)).unwrap();
        assert_eq!(hole, file.metadata().unwrap().len(), "{name} has a part that is reserved only");
        hole
    };
    assert!(whole("0000000000000001.segment") < Options::default().segment_bytes, "a start waits");
    whole("anchor");
    // More than the first one holds: the next is there in time, or is made so as well.
    fill(&log, 1..=100, 100_000);
    assert_eq!(whole("0000000000000002.segment"), Options::default().segment_bytes);
}

#[test]
fn readers_see_entries_while_they_are_written_evicted_and_purged() {
    let directory = TempDir::new().unwrap();
    let (log, _) = open_at(directory.path(), threaded()).unwrap();
    let reader = log.clone();
    let (stop, stopped) = mpsc::channel::<()>();
    let reading = thread::spawn(move || {
        let mut reads = 0_u64;
        while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
            let state = reader.state();
            let found = reader.read(state.first, u64::MAX, 5000).unwrap();
            for (record, next) in found.iter().zip(&found[1.min(found.len())..]) {
                assert_eq!(record.index + 1, next.index);
            }
            for found in &found {
                assert_eq!(found, &record(found.index, 200));
            }
            reads += 1;
        }
        reads
    });
    for round in 0..20 {
        fill(&log, round * 50 + 1..=round * 50 + 50, 200);
        let purged = round * 50 + 20;
        log.purge(purged, record(purged, 0).id, ignored());
    }
    drop(stop);
    assert!(reading.join().unwrap() > 0);
}

#[test]
fn an_idle_log_is_vouched_for_without_being_closed() {
    let directory = TempDir::new().unwrap();
    let options = Options { vouch_after: Duration::from_millis(1), ..threaded() };
    let (log, _) = open_at(directory.path(), options).unwrap();
    fill(&log, 1..=3, 300);
    let metrics = log.metrics();
    while metrics.syncs.load(Ordering::Relaxed) <= metrics.groups.load(Ordering::Relaxed) {
        thread::yield_now();
    }
}

#[test]
fn a_directory_in_use_is_refused() {
    let directory = TempDir::new().unwrap();
    let (_log, _) = open_at(directory.path(), threaded()).unwrap();
    let refused = open_at(directory.path(), threaded());
    assert!(matches!(refused, Err(OpenError::Refused { .. })));
}

#[test]
fn sampled_damage_on_a_real_disk_is_noticed_or_harmless() {
    let original = TempDir::new().unwrap();
    let (log, _) = open_at(original.path(), small()).unwrap();
    log.append(records(1..=60, 500), durable());
    log.save_vote(Bytes::from_static(b"vote"), durable());
    let expected = View::of(&log);
    drop(log);
    let names: Vec<String> = RealDisk::new(original.path()).unwrap().list().unwrap();
    let (mut opened, mut amnesia) = (0, 0);
    for seed in 0..300 {
        let mut dice = Dice(seed);
        let copy = TempDir::new().unwrap();
        for name in &names {
            fs::copy(original.path().join(name), copy.path().join(name)).unwrap();
        }
        let name = &names[dice.below(names.len() as u64) as usize];
        let path = copy.path().join(name);
        let mut bytes = fs::read(&path).unwrap();
        let at = dice.below(bytes.len() as u64) as usize;
        let kind = dice.below(4);
        match kind {
            0 => bytes[at] ^= 1 << dice.below(8),
            1 => bytes.truncate(at),
            2 => bytes[at / 4096 * 4096..].iter_mut().take(4096).for_each(|byte| *byte = 0),
            _ => (),
        }
        match kind {
            3 => fs::remove_file(&path).unwrap(),
            _ => fs::write(&path, &bytes).unwrap(),
        }
        match open_at(copy.path(), small()) {
            Ok((log, _)) => {
                assert_eq!(View::of(&log), expected, "seed {seed}: {kind} at {at} of {name}");
                opened += 1;
            }
            Err(OpenError::Amnesia { .. }) => amnesia += 1,
            Err(error) => panic!("seed {seed}: {kind} at {at} of {name}: {error}"),
        }
    }
    assert!(opened > 20 && amnesia > 20, "{opened} opened, {amnesia} amnesia");
}
