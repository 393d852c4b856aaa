//! The disk refuses, is full or hangs.

use std::sync::mpsc;

use super::workload::{History, Step, View, steps};
use super::*;

/// Runs steps with faults set; then: after any error everything failed, and what was acknowledged
/// is there after the process was restarted, and after the power failed as well.
fn survives(seed: u64, context: &str, faults: Faults) -> bool {
    let disk = SimDisk::new(seed);
    let (log, _) = open(&disk).unwrap();
    let mut history = History::default();
    disk.set_faults(faults);
    for step in steps(seed, 30).iter().filter(|step| !matches!(step, Step::Reopen)) {
        history.submit(&log, step);
        if log.failed().borrow().is_some() {
            break;
        }
    }
    let failed = log.failed().borrow().is_some();
    if failed {
        let (heard, hears) = mpsc::channel();
        let before = disk.operations();
        let next = log.state().last.map_or(0, |(last, _)| last) + 1;
        log.append(records(next..=next, 10), Box::new(move |r| heard.send(r).unwrap()));
        assert!(hears.recv().unwrap().is_err(), "{context}");
        assert!(log.health().is_err());
        log.close();
        assert_eq!(disk.operations(), before, "{context}: nothing is written after an error");
    }
    drop(log);
    disk.set_faults(Faults::default());
    disk.restart();
    let (log, opened) = open(&disk).unwrap_or_else(|e| panic!("{context}: {e}"));
    history.check_open(&log, &opened).unwrap_or_else(|e| panic!("{context}: {e}"));
    // What it kept it now stands for, although the kernel may have lost the pages of a failed
    // sync.
    let kept = View::of(&log);
    disk.crash(seed);
    let (log, _) = open(&disk).unwrap_or_else(|e| panic!("{context}: {e}"));
    assert_eq!(View::of(&log), kept, "{context}");
    failed
}

#[test]
fn any_failed_sync_is_final_and_loses_nothing_acknowledged() {
    let mut failures = 0;
    for seed in 0..15 {
        for nth in 1..60 {
            let faults = Faults { fail_sync: Some(nth), ..Faults::default() };
            failures += u64::from(survives(seed, &format!("seed {seed}, sync {nth}"), faults));
        }
    }
    assert!(failures > 300, "{failures}");
}

#[test]
fn any_failed_write_is_final_and_loses_nothing_acknowledged() {
    let mut failures = 0;
    for seed in 0..15 {
        for nth in 1..90 {
            let faults = Faults { fail_write: Some(nth), ..Faults::default() };
            failures += u64::from(survives(seed, &format!("seed {seed}, write {nth}"), faults));
        }
    }
    assert!(failures > 300, "{failures}");
}

#[test]
fn a_failed_rename_or_directory_sync_is_final() {
    assert!(survives(1, "names", Faults { fail_names: true, ..Faults::default() }));
}

#[test]
fn an_unreadable_file_is_an_error_of_the_disk_and_not_amnesia() {
    let disk = SimDisk::new(1);
    drop(open(&disk).unwrap());
    let name = "0000000000000001.segment".to_owned();
    disk.set_faults(Faults { fail_reads_of: Some(name), ..Faults::default() });
    assert!(matches!(open(&disk), Err(OpenError::Io { .. })));
}

#[test]
fn want_of_space_is_seen_before_a_write_fails() {
    let disk = SimDisk::new(1);
    let segment = small().segment_bytes;
    let (log, _) = open(&disk).unwrap();
    log.append(records(1..=1, 10), durable());
    let roomy = log.room();
    // Two segments and the anchor, and not quite a third.
    let capacity = |segments: u64| Faults {
        capacity_bytes: Some(segments * segment + 3 * PAGE_BYTES),
        ..Faults::default()
    };
    disk.set_faults(capacity(2));
    let mut next = 2;
    while log.metrics().prepare_failures.load(Ordering::Relaxed) == 0 {
        log.append(records(next..=next, 500), durable());
        next += 1;
    }
    assert!(log.room() < roomy && log.room() > 0);
    assert!(log.health().is_ok());
    // Everything that there is room for can be written.
    while log.room() > 1024 {
        log.append(records(next..=next, 500), durable());
        next += 1;
    }
    // Space comes back and is noticed with the next group.
    disk.set_faults(capacity(4));
    log.append(records(next..=next, 10), durable());
    assert!(log.room() > segment / 4);
    // And gone again: at the very end the write fails, and that is final.
    disk.set_faults(capacity(2));
    let failed = log.failed();
    while failed.borrow().is_none() {
        next += 1;
        log.append(records(next..=next, 500), ignored());
    }
    assert_eq!(failed.borrow().as_ref().unwrap().kind(), io::ErrorKind::StorageFull);
}

#[test]
fn a_sync_that_hangs_is_a_failure_of_the_log() {
    let disk = SimDisk::new(1);
    // Opened again, the segment's handle has the segment's name, which the hook goes by.
    drop(open(&disk).unwrap());
    let options =
        Options { flusher: FlusherMode::Thread, stall_max: Duration::from_millis(20), ..small() };
    let (log, _) = Log::open(Arc::new(disk.clone()), OURS, options).unwrap();
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let hang = move |name: &str| {
        if name.ends_with(".segment") {
            let _ = released.lock().recv();
        }
    };
    disk.set_faults(Faults { on_sync: Some(Arc::new(hang)), ..Faults::default() });
    let (heard, hears) = mpsc::channel();
    log.append(records(1..=1, 10), Box::new(move |result| heard.send(result).unwrap()));
    let error = loop {
        match log.health() {
            Ok(()) => thread::yield_now(),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(log.metrics().stall_micros.load(Ordering::Relaxed) >= 20_000);
    drop(release);
    let result = hears.recv().unwrap();
    assert_eq!(result.unwrap_err().kind(), io::ErrorKind::TimedOut);
}

#[test]
fn an_entry_that_fits_no_segment_ends_the_log_by_name_and_not_by_a_panic() {
    let disk = SimDisk::new(3);
    let (log, _) = open(&disk).unwrap();
    log.append(records(1..=1, 10), durable());
    let (heard, hears) = mpsc::channel();
    let long = small().segment_bytes as usize;
    log.append(records(2..=2, long), Box::new(move |r| heard.send(r).unwrap()));
    let error = hears.recv().unwrap().unwrap_err().to_string();
    assert!(error.contains("entry 2 does not fit into a segment"), "{error}");
    assert!(log.health().is_err());
    drop(log);
    disk.restart();
    let (log, _) = open(&disk).unwrap();
    assert_eq!(everything(&log), records(1..=1, 10), "what was there before is there still");
}
