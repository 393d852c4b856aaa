//! Every byte flipped, every cut, pages zeroed and swapped, files deleted, duplicated and put
//! back.
//!
//! Whatever was done: opening fails with amnesia or a refusal, or everything acknowledged is
//! there, unaltered.

use std::collections::BTreeMap;

use super::workload::{Dice, History, View, steps};
use super::*;

/// A log, and all that was ever in its files.
struct Sample {
    disk: SimDisk,
    expected: View,
    /// Each file's content after every operation it changed in.
    past: BTreeMap<String, Vec<Vec<u8>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Closed: ring and anchor vouch for all of it.
    Closed,
    /// The process died after the last acknowledgement.
    Killed,
    /// The power failed right after the last sync: nothing vouches for the last group.
    Unvouched,
}

fn sample(seed: u64, end: End) -> Sample {
    let disk = SimDisk::new(seed);
    let mut past: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    let mut remember = || {
        for name in disk.list().unwrap() {
            let contents = disk.contents(&name);
            let versions = past.entry(name).or_default();
            if versions.last() != Some(&contents) {
                versions.push(contents);
            }
        }
    };
    let (log, _) = open(&disk).unwrap();
    let mut history = History::default();
    for step in steps(seed, 28) {
        if !matches!(step, super::workload::Step::Reopen) {
            history.submit(&log, &step);
            remember();
        }
    }
    let next = |log: &Log| log.state().last.map_or(0, |(last, _)| last) + 1;
    // The last group must not begin a segment.
    while log.handle.core.active_room.load(Ordering::Relaxed) < 2 * PAGE_BYTES {
        history.submit(&log, &super::workload::Step::Append(vec![record(next(&log), 900)]));
        remember();
    }
    let next = next(&log);
    // The last group is of several sectors, one of them zeros.
    let mut payload = vec![7; 2000];
    payload[600..1500].fill(0);
    let last = Record { index: next, id: Bytes::from_static(b"last"), payload: payload.into() };
    if end == End::Unvouched {
        // Its write, its slot and its sync; the vouching slot is not written any more.
        disk.cut_power_after(4);
    }
    log.append(vec![last], durable());
    assert!(history.all_acknowledged());
    let expected = View::of(&log);
    assert_eq!(log.failed().borrow().is_some(), end == End::Unvouched);
    match end {
        End::Closed => drop(log),
        End::Killed => disk.restart(),
        End::Unvouched => disk.crash(seed),
    }
    remember();
    Sample { disk, expected, past }
}

#[derive(Debug, Default)]
struct Tally {
    opened: u64,
    amnesia: u64,
    refused: u64,
}

impl Sample {
    fn names(&self) -> Vec<String> {
        let names = self.disk.list().unwrap();
        names.into_iter().filter(|name| !name.ends_with(".prepared")).collect()
    }

    fn segments(&self) -> Vec<String> {
        self.names().into_iter().filter(|name| name.ends_with(".segment")).collect()
    }

    /// Damages a copy and judges what opening makes of it.
    fn check(&self, tally: &mut Tally, what: impl Fn() -> String, damage: impl FnOnce(&SimDisk)) {
        let disk = self.disk.fork();
        damage(&disk);
        match open(&disk) {
            Ok((log, _)) => {
                assert_eq!(View::of(&log), self.expected, "{}", what());
                tally.opened += 1;
            }
            Err(OpenError::Amnesia { .. }) => tally.amnesia += 1,
            Err(OpenError::Refused { .. }) => tally.refused += 1,
            Err(error) => panic!("{}: {error}", what()),
        }
    }

    fn change(
        &self,
        tally: &mut Tally,
        name: &str,
        what: impl Fn() -> String,
        change: impl FnOnce(&mut Vec<u8>),
    ) {
        self.check(tally, what, |disk| {
            let mut contents = disk.contents(name);
            change(&mut contents);
            disk.set_contents(name, &contents);
        });
    }
}

fn flip_every_byte(end: End) {
    let sample = sample(3, end);
    for name in sample.names() {
        let mut tally = Tally::default();
        for at in 0..sample.disk.contents(&name).len() {
            let bit = 1 << Dice(at as u64).below(8);
            let what = || format!("{end:?}: {name} byte {at} ^ {bit:#x}");
            sample.change(&mut tally, &name, what, |bytes| bytes[at] ^= bit);
        }
        let amnesia_expected = name != "anchor";
        assert_eq!(tally.amnesia > 0, amnesia_expected, "{name}: {tally:?}");
        println!("{end:?} {name}: {tally:?}");
    }
}

#[test]
fn any_flipped_byte_of_a_closed_log_is_noticed_or_harmless() {
    flip_every_byte(End::Closed);
}

#[test]
fn any_flipped_byte_of_a_killed_log_is_noticed_or_harmless() {
    flip_every_byte(End::Killed);
}

#[test]
fn any_flipped_byte_is_noticed_or_harmless_even_when_nothing_vouches_for_the_last_group() {
    flip_every_byte(End::Unvouched);
}

#[test]
fn any_cut_is_noticed_or_harmless() {
    for end in [End::Closed, End::Killed, End::Unvouched] {
        let sample = sample(5, end);
        for name in sample.names() {
            let mut tally = Tally::default();
            for at in 0..sample.disk.contents(&name).len() {
                let what = || format!("{end:?}: {name} cut at {at}");
                sample.change(&mut tally, &name, what, |bytes| bytes.truncate(at));
            }
            let only_amnesia = tally.opened == 0 && tally.refused == 0;
            assert!(only_amnesia || name == "anchor", "{name}: {tally:?}");
            let what = || format!("{end:?}: {name} longer");
            sample.change(&mut tally, &name, what, |bytes| bytes.push(1));
        }
    }
}

fn ranges(length: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let by = |size: usize| (0..length).step_by(size).map(move |at| at..(at + size).min(length));
    by(4096).chain(by(512))
}

#[test]
fn any_zeroed_page_or_sector_is_noticed_or_harmless() {
    for end in [End::Closed, End::Killed] {
        for seed in 0..8 {
            let sample = sample(seed, end);
            let mut tally = Tally::default();
            for name in sample.names() {
                for range in ranges(sample.disk.contents(&name).len()) {
                    let what = || format!("{end:?} seed {seed}: {name} {range:?} zeroed");
                    let change = |bytes: &mut Vec<u8>| bytes[range.clone()].fill(0);
                    sample.change(&mut tally, &name, what, change);
                }
            }
            assert!(tally.opened > 0 && tally.amnesia > 0, "{tally:?}");
        }
    }
}

/// The window that can't be closed: see `verdict`. It is exactly one group.
#[test]
fn only_the_unvouched_last_group_can_be_mistaken_for_a_torn_one_and_only_when_zeroed() {
    let sample = sample(5, End::Unvouched);
    let last = sample.segments().pop().unwrap();
    let mut without_last = sample.expected.clone();
    without_last.entries.pop();
    without_last.last = without_last.entries.last().map(|last| (last.index, last.id.clone()));
    let mut mistaken = 0;
    for name in sample.names() {
        for range in ranges(sample.disk.contents(&name).len()) {
            let disk = sample.disk.fork();
            let mut contents = disk.contents(&name);
            contents[range.clone()].fill(0);
            disk.set_contents(&name, &contents);
            match open(&disk) {
                Ok((log, opened)) if View::of(&log) != sample.expected => {
                    assert_eq!(View::of(&log), without_last, "{name} {range:?}");
                    assert!(name == last && opened.truncated_tail_bytes > 0);
                    mistaken += 1;
                }
                Ok(_) | Err(OpenError::Amnesia { .. }) => (),
                Err(error) => panic!("{name} {range:?}: {error}"),
            }
        }
    }
    // A group of five sectors on two pages, one of them zeros by nature.
    assert!((1..=6).contains(&mistaken), "{mistaken}");
}

#[test]
fn any_deleted_file_is_noticed_or_harmless() {
    for end in [End::Closed, End::Killed, End::Unvouched] {
        for seed in 0..20 {
            let sample = sample(seed, end);
            let (mut segments, mut anchor) = (Tally::default(), Tally::default());
            for name in sample.names() {
                let tally = if name == "anchor" { &mut anchor } else { &mut segments };
                let what = || format!("{end:?} seed {seed}: {name} deleted");
                sample.check(tally, what, |disk| disk.delete(&name));
            }
            assert_eq!(anchor.opened, 1, "the records are whole without their second witness");
            assert!(segments.amnesia > 0);
            let what = || format!("{end:?} seed {seed}: all segments deleted");
            let mut tally = Tally::default();
            sample.check(&mut tally, what, |disk| {
                sample.segments().iter().for_each(|name| disk.delete(name));
            });
            assert_eq!(tally.amnesia, 1);
        }
    }
}

#[test]
fn any_two_pages_swapped_are_noticed_or_harmless() {
    for end in [End::Closed, End::Killed, End::Unvouched] {
        let sample = sample(6, end);
        let files: Vec<(String, Vec<u8>)> =
            sample.names().into_iter().map(|n| (n.clone(), sample.disk.contents(&n))).collect();
        let pages: Vec<(usize, usize)> = files
            .iter()
            .enumerate()
            .flat_map(|(file, (_, bytes))| (0..bytes.len() / 4096).map(move |page| (file, page)))
            .collect();
        let mut tally = Tally::default();
        for (at, a) in pages.iter().enumerate() {
            for b in &pages[at + 1..] {
                let what = || format!("{end:?}: pages {a:?} and {b:?} swapped");
                sample.check(&mut tally, what, |disk| {
                    let mut files = files.clone();
                    let page = |(file, page): &(usize, usize)| (*file, page * 4096);
                    let ((fa, a), (fb, b)) = (page(a), page(b));
                    let first = files[fa].1[a..a + 4096].to_vec();
                    let second = files[fb].1[b..b + 4096].to_vec();
                    files[fa].1[a..a + 4096].copy_from_slice(&second);
                    files[fb].1[b..b + 4096].copy_from_slice(&first);
                    for file in [fa, fb] {
                        disk.set_contents(&files[file].0, &files[file].1);
                    }
                });
            }
        }
        assert!(tally.amnesia > 100, "{tally:?}");
    }
}

#[test]
fn any_file_in_anothers_place_is_noticed_or_harmless() {
    for end in [End::Closed, End::Killed, End::Unvouched] {
        for seed in 0..10 {
            let sample = sample(seed, end);
            let mut tally = Tally::default();
            for from in sample.names() {
                let contents = sample.disk.contents(&from);
                let next = format!("{:016x}.segment", sample.past.len() as u64);
                for to in sample.names().into_iter().chain([next]).filter(|to| *to != from) {
                    let what = || format!("{end:?} seed {seed}: {from} copied over {to}");
                    sample.check(&mut tally, what, |disk| disk.set_contents(&to, &contents));
                }
            }
            assert!(tally.amnesia > 0, "{tally:?}");
        }
    }
}

/// Segments that had been removed, and older versions of those that are there.
#[test]
fn any_old_file_put_back_is_noticed_or_harmless() {
    for end in [End::Closed, End::Killed] {
        for seed in 0..10 {
            let sample = sample(seed, end);
            let mut tally = Tally::default();
            for (name, versions) in &sample.past {
                for (at, version) in versions.iter().enumerate() {
                    let what = || format!("{end:?} seed {seed}: version {at} of {name} put back");
                    sample.check(&mut tally, what, |disk| disk.set_contents(name, version));
                }
            }
            assert!(tally.opened > 0 && tally.amnesia > 0, "{tally:?}");
        }
    }
}

#[test]
fn a_ring_that_is_damaged_whole_is_amnesia_and_in_part_is_repaired() {
    let sample = sample(3, End::Closed);
    let last = sample.segments().pop().unwrap();
    let disk = sample.disk.fork();
    let mut contents = disk.contents(&last);
    contents[4096..5 * 4096].fill(0);
    disk.set_contents(&last, &contents);
    assert!(matches!(open(&disk), Err(OpenError::Amnesia { .. })));

    let disk = sample.disk.fork();
    let mut contents = disk.contents(&last);
    contents[4096 + 100] ^= 1;
    disk.set_contents(&last, &contents);
    let (log, opened) = open(&disk).unwrap();
    assert!(opened.repaired[0].contains("ring"), "{opened:?}");
    drop(log);
    assert_eq!(open(&disk).unwrap().1.repaired, Vec::<String>::new());
}

#[test]
fn a_newer_format_is_refused() {
    let sample = sample(3, End::Closed);
    for name in sample.names() {
        let disk = sample.disk.fork();
        let mut contents = disk.contents(&name);
        for sector in contents.chunks_mut(512).filter(|sector| sector.starts_with(b"KTK")) {
            sector[8] += 1;
            let checksum = crc32c::crc32c(&sector[..508]);
            sector[508..].copy_from_slice(&checksum.to_le_bytes());
        }
        disk.set_contents(&name, &contents);
        let error = open(&disk).map(drop).expect_err("not ours");
        assert!(matches!(error, OpenError::Refused { .. }), "{name}: {error}");
    }
}

#[test]
fn damage_found_while_reading_names_the_place() {
    let disk = SimDisk::new(1);
    let (log, _) = open(&disk).unwrap();
    log.append(records(1..=50, 500), durable());
    let name = "0000000000000001.segment";
    let file = disk.open(name).unwrap();
    file.write_at(&[0xff], DATA_OFFSET + 5000).unwrap();
    let error = log.read(1, 51, usize::MAX).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(error.to_string().contains(name), "{error}");
    assert_eq!(log.read(1, 5, usize::MAX).unwrap(), records(1..=4, 500));
}

#[test]
fn a_misdirected_write_is_noticed_or_harmless() {
    let mut amnesia = 0;
    for seed in 0..20 {
        for nth in 1..40 {
            for by in [512, 4096] {
                let disk = SimDisk::new(seed);
                let (log, _) = open(&disk).unwrap();
                let mut history = History::default();
                let steps = steps(seed, 25);
                disk.set_faults(Faults { misdirect_write: Some((nth, by)), ..Faults::default() });
                let runnable =
                    |s: &&super::workload::Step| !matches!(s, super::workload::Step::Reopen);
                for step in steps.iter().filter(runnable) {
                    history.submit(&log, step);
                }
                disk.set_faults(Faults::default());
                drop(log);
                match open(&disk) {
                    Ok((log, opened)) => match log.read(0, u64::MAX, usize::MAX) {
                        Ok(_) => history
                            .check_open(&log, &opened)
                            .unwrap_or_else(|e| panic!("seed {seed}, write {nth} by {by}: {e}")),
                        Err(error) => panic!("seed {seed}, write {nth} by {by}: {error}"),
                    },
                    Err(OpenError::Amnesia { .. }) => amnesia += 1,
                    Err(error) => panic!("seed {seed}, write {nth} by {by}: {error}"),
                }
            }
        }
    }
    assert!(amnesia > 100, "{amnesia}");
}
