//! The face of the log when nothing goes wrong.

use super::workload::View;
use super::*;

#[test]
fn a_new_log_is_empty_and_says_so() {
    let disk = SimDisk::new(1);
    let (log, opened) = open(&disk).unwrap();
    assert!(opened.created);
    assert_eq!((opened.first, opened.last, opened.vote), (1, None, None));
    assert_eq!(everything(&log), vec![]);
    drop(log);
    assert!(!open(&disk).unwrap().1.created);
}

#[test]
fn what_was_written_is_there_after_reopening() {
    let disk = SimDisk::new(1);
    let (log, _) = open(&disk).unwrap();
    log.append(records(1..=40, 700), durable());
    log.save_vote(Bytes::from_static(b"vote"), durable());
    log.save_committed(Bytes::from_static(b"committed"));
    log.truncate_after(30, durable());
    log.append(records(31..=50, 900), durable());
    log.purge(3, Bytes::from_static(b"id 3"), durable());
    let before = View::of(&log);
    assert_eq!(before.entries.len(), 47);
    drop(log);
    let (log, opened) = open(&disk).unwrap();
    assert!(opened.segments > 1);
    assert_eq!(opened.committed, Some(Bytes::from_static(b"committed")));
    assert_eq!(View::of(&log), before);
    log.append(records(51..=52, 10), durable());
    assert_eq!(everything(&log).last(), Some(&record(52, 10)));
}

#[test]
fn reads_are_bounded_by_bytes_and_give_at_least_one() {
    let (log, _) = open(&SimDisk::new(1)).unwrap();
    log.append(records(1..=60, 300), durable());
    let indexes = |from, to, bytes| {
        let found = log.read(from, to, bytes).unwrap();
        found.iter().map(|record| record.index).collect::<Vec<_>>()
    };
    assert_eq!(indexes(1, 100, 0), vec![1]);
    assert_eq!(indexes(60, 61, 0), vec![60]);
    assert_eq!(indexes(1, 100, 700), vec![1, 2, 3]);
    assert_eq!(indexes(50, 53, usize::MAX), vec![50, 51, 52]);
    assert_eq!(indexes(0, 100, usize::MAX), (1..=60).collect::<Vec<_>>());
    assert_eq!(indexes(61, 100, usize::MAX), Vec::<u64>::new());
    assert_eq!(indexes(9, 9, usize::MAX), Vec::<u64>::new());
}

#[test]
fn one_batch_is_one_group_and_one_sync() {
    let (log, _) = open(&SimDisk::new(1)).unwrap();
    log.append(records(1..=1, 10), durable());
    let before = log.metrics().groups.load(Ordering::Relaxed);
    as_one_batch(&log, |log| {
        log.append(records(2..=2, 10), durable());
        log.save_vote(Bytes::from_static(b"v"), durable());
        log.append(records(3..=3, 10), durable());
    });
    assert_eq!(log.metrics().groups.load(Ordering::Relaxed), before + 1);
}

#[test]
fn entries_can_be_read_before_they_are_durable() {
    let (log, _) = open(&SimDisk::new(1)).unwrap();
    as_one_batch(&log, |log| {
        log.append(records(1..=20, 500), durable());
        assert_eq!(everything(log).len(), 20);
        assert_eq!(log.state().durable_index, 0);
        assert!(log.pending_bytes() > 20 * 500);
    });
    assert_eq!((log.state().durable_index, log.pending_bytes()), (20, 0));
}

#[test]
fn a_purge_beyond_the_end_moves_the_end() {
    let disk = SimDisk::new(1);
    let (log, _) = open(&disk).unwrap();
    log.append(records(1..=5, 10), durable());
    log.purge(100, Bytes::from_static(b"id 100"), durable());
    assert_eq!(log.state().last, Some((100, Bytes::from_static(b"id 100"))));
    log.append(records(101..=103, 10), durable());
    drop(log);
    let (log, opened) = open(&disk).unwrap();
    assert_eq!((opened.first, everything(&log).len()), (101, 3));
    log.truncate_after(100, durable());
    assert_eq!(log.state().last, Some((100, Bytes::from_static(b"id 100"))));
}

#[test]
fn nothing_is_kept_after_truncating_to_zero() {
    let disk = SimDisk::new(1);
    let (log, _) = open(&disk).unwrap();
    log.append(records(1..=50, 500), durable());
    log.truncate_after(0, durable());
    assert_eq!(log.state().last, None);
    log.append(records(1..=2, 77), durable());
    drop(log);
    assert_eq!(everything(&open(&disk).unwrap().0), records(1..=2, 77));
}

#[test]
fn purged_segments_are_removed_and_the_vote_outlives_them() {
    let disk = SimDisk::new(1);
    let (log, _) = open(&disk).unwrap();
    log.save_vote(Bytes::from_static(b"vote"), durable());
    log.append(records(1..=200, 500), durable());
    let segments = || disk.list().unwrap().iter().filter(|n| n.ends_with(".segment")).count();
    let before = segments();
    log.purge(199, Bytes::from_static(b"id 199"), durable());
    assert!(before > 5 && segments() == 1, "{before} then {}", segments());
    drop(log);
    let (log, opened) = open(&disk).unwrap();
    assert_eq!(opened.vote, Some(Bytes::from_static(b"vote")));
    assert_eq!(opened.purged, Some((199, Bytes::from_static(b"id 199"))));
    assert_eq!(everything(&log), records(200..=200, 500));
}

#[test]
fn a_committed_mark_never_causes_a_sync() {
    let disk = SimDisk::new(1);
    let (log, _) = open(&disk).unwrap();
    log.append(records(1..=1, 10), durable());
    let before = disk.operations();
    log.save_committed(Bytes::from_static(b"a"));
    log.save_committed(Bytes::from_static(b"b"));
    assert_eq!(disk.operations(), before);
    log.append(records(2..=2, 10), durable());
    disk.restart();
    assert_eq!(open(&disk).unwrap().1.committed, Some(Bytes::from_static(b"b")));
}

#[test]
fn a_callback_may_submit_more() {
    let (log, _) = open(&SimDisk::new(1)).unwrap();
    let again = log.clone();
    log.append(
        records(1..=1, 10),
        Box::new(move |result| {
            result.unwrap();
            again.append(records(2..=2, 10), durable());
        }),
    );
    assert_eq!(log.state().durable_index, 2);
}

#[test]
fn a_log_is_opened_by_one_at_a_time() {
    let disk = SimDisk::new(1);
    let (log, _) = open(&disk).unwrap();
    assert!(matches!(open(&disk), Err(OpenError::Refused { .. })));
    let clone = log.clone();
    log.close();
    assert!(open(&disk).is_ok());
    clone.append(records(1..=1, 10), Box::new(|result| assert!(result.is_err())));
}

#[test]
fn another_members_log_is_refused_and_left_alone() {
    let disk = SimDisk::new(1);
    drop(open(&disk).unwrap());
    let before = disk.operations();
    for other in [Identity { node: 1, ..OURS }, Identity { cluster: 1, ..OURS }] {
        let refused = Log::open(Arc::new(disk.clone()), other, small());
        assert!(matches!(refused, Err(OpenError::Refused { .. })));
        disk.delete("nothing");
    }
    assert_eq!(disk.operations(), before);
}

#[test]
#[should_panic(expected = "entries must follow each other")]
fn a_gap_between_entries_is_our_own_bug() {
    let (log, _) = open(&SimDisk::new(1)).unwrap();
    log.append(records(2..=2, 10), ignored());
}

#[test]
fn segments_of_another_size_are_read_and_followed_by_the_new_size() {
    let disk = SimDisk::new(1);
    let (log, _) = open(&disk).unwrap();
    log.append(records(1..=30, 500), durable());
    drop(log);
    let larger = Options { segment_bytes: 20 * PAGE_BYTES, ..small() };
    let (log, _) = Log::open(Arc::new(disk.clone()), OURS, larger.clone()).unwrap();
    log.append(records(31..=90, 500), durable());
    drop(log);
    let (log, _) = Log::open(Arc::new(disk.clone()), OURS, larger).unwrap();
    assert_eq!(everything(&log), records(1..=90, 500));
}
