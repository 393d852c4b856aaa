//! What every engine must hold, proved on each of them by the same tests.
//!
//! A test takes a [`Bench`] and never asks which engine is on it. What only one engine can do wrong stands
//! beside that engine.

use std::collections::BTreeMap;
use std::fs;
use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;

use super::memory::{Faults, Memory, MemoryDisk, MemoryFactory};
use super::rocks::{self, Rocks, RocksFactory};
use super::{Batch, Cursor, Engine, Open, Read, Retain, Span, Table};
use crate::error::Error;

mod properties;

type Rows = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

/// One engine, and the disk under it.
struct Bench {
    engine: Option<Arc<dyn Engine>>,
    disk: Disk,
    retain: Retain,
    root: TempDir,
}

enum Disk {
    Rocks { at: PathBuf, crashes: u64, options: rocks::Options, rocks: Option<Arc<Rocks>> },
    Memory(MemoryDisk),
}

/// Runs a test on each engine, in a world in which nothing fails.
fn each(test: impl Fn(&mut Bench)) {
    each_with(Arc::new(|_, _, _| true), Faults::default(), test);
}

/// Runs a test on each engine. The faults are for the one that can have them made.
fn each_with(retain: Retain, faults: Faults, test: impl Fn(&mut Bench)) {
    for memory in [true, false] {
        println!("engine: {}", if memory { "memory" } else { "rocks" });
        let root = tempfile::tempdir().unwrap();
        let disk = if memory {
            Disk::Memory(MemoryDisk::new(7, faults.clone()))
        } else {
            // A buffer so small that it is flushed while the test runs.
            let options = rocks::Options { write_buffer_bytes: 64 << 10, ..Default::default() };
            Disk::Rocks { at: root.path().join("store"), crashes: 0, options, rocks: None }
        };
        let mut bench = Bench { engine: None, disk, retain: retain.clone(), root };
        bench.open();
        test(&mut bench);
    }
}

impl Bench {
    fn open(&mut self) {
        self.engine = None;
        self.engine = Some(match &mut self.disk {
            Disk::Memory(disk) => Memory::open(disk, self.retain.clone()),
            Disk::Rocks { at, options, rocks, .. } => {
                *rocks = None;
                let opened = Rocks::open(at, options, self.retain.clone()).unwrap();
                rocks.insert(opened).clone()
            }
        });
    }

    fn engine(&self) -> &dyn Engine {
        &**self.engine.as_ref().expect("the bench has an engine")
    }

    /// The power goes and comes back. For the engine on disk that is a copy of its files while it runs.
    fn crash(&mut self) {
        match &mut self.disk {
            Disk::Memory(disk) => disk.crash(),
            Disk::Rocks { at, crashes, .. } => {
                *crashes += 1;
                let copy = self.root.path().join(format!("store-{crashes}"));
                copy_at_rest(at, &copy);
                *at = copy;
            }
        }
        self.open();
    }

    /// Opens what a checkpoint holds, by the kind of engine that wrote it.
    fn open_checkpoint(&self, directory: &Path) -> Arc<dyn Engine> {
        let factory: &dyn Open = match &self.disk {
            Disk::Memory(_) => &MemoryFactory::new(11),
            Disk::Rocks { options, .. } => &RocksFactory(options.clone()),
        };
        factory.open(directory, Arc::new(|_, _, _| true)).unwrap()
    }

    /// Waits until everything that was hinted at is done. An engine without such work is at rest.
    fn settle(&self) {
        if let Disk::Rocks { rocks: Some(rocks), .. } = &self.disk {
            rocks.settle();
        }
    }

    fn put(&self, rows: &[(Table, &str, &str)]) {
        let mut batch = Batch::new();
        for (table, key, value) in rows {
            batch.put(*table, &[key.as_bytes()], &[value.as_bytes()]);
        }
        self.engine().write(&batch).unwrap();
    }

    fn delete(&self, table: Table, key: &str) {
        let mut batch = Batch::new();
        batch.delete(table, &[key.as_bytes()]);
        self.engine().write(&batch).unwrap();
    }

    fn get(&self, table: Table, key: &str) -> Option<String> {
        text(self.engine(), table, key)
    }
}

/// Copies a directory in which a flush or a compaction may be at work, at a moment at which its files
/// stand together: when nothing came or went meanwhile.
fn copy_at_rest(from: &Path, to: &Path) {
    let listing = || -> Option<Vec<(PathBuf, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            files.push((entry.path(), entry.metadata().ok()?.len()));
        }
        files.sort();
        Some(files)
    };
    for _ in 0..1000 {
        let Some(before) = listing() else { continue };
        fs::create_dir(to).unwrap();
        let copied = before.iter().all(|(path, _)| {
            fs::copy(path, to.join(path.file_name().expect("a file has a name"))).is_ok()
        });
        if copied && listing().as_ref() == Some(&before) {
            return;
        }
        fs::remove_dir_all(to).unwrap();
    }
    panic!("{} does not come to rest", from.display());
}

fn text(read: &(impl Read + ?Sized), table: Table, key: &str) -> Option<String> {
    let value = read.get(table, key.as_bytes()).unwrap();
    value.map(|value| String::from_utf8(value.to_vec()).unwrap())
}

fn contents(read: &(impl Read + ?Sized)) -> Result<Rows, Error> {
    let mut rows = Rows::new();
    for table in Table::ALL {
        let mut cursor = read.cursor(table, Span { lower: b"", upper: None })?;
        while let Some((key, value)) = cursor.next()? {
            rows.insert((table, key.to_vec()), value.to_vec());
        }
    }
    Ok(rows)
}

fn keys(read: &(impl Read + ?Sized), lower: &str, upper: Option<&str>) -> String {
    let span = Span { lower: lower.as_bytes(), upper: upper.map(str::as_bytes) };
    let all = |mut cursor: Box<dyn Cursor + '_>| {
        let mut keys = Vec::new();
        while let Some((key, _)) = cursor.next().unwrap() {
            keys.push(String::from_utf8(key.to_vec()).unwrap());
        }
        keys.join(" ")
    };
    let shown = all(read.cursor(Table::Live, span).unwrap());
    assert_eq!(all(read.passing_cursor(Table::Live, span).unwrap()), shown, "what passes by");
    shown
}

#[test]
fn a_written_batch_is_read_at_once_from_all_its_tables() {
    each(|bench| {
        let rows = Table::ALL.map(|table| (table, "key", table.name()));
        bench.put(&rows);
        for table in Table::ALL {
            assert_eq!(bench.get(table, "key").as_deref(), Some(table.name()));
            assert_eq!(bench.get(table, "other"), None);
        }
        bench.delete(Table::Past, "key");
        assert_eq!(bench.get(Table::Past, "key"), None);
        assert_eq!(contents(bench.engine()).unwrap().len(), Table::ALL.len() - 1);
    });
}

#[test]
fn the_last_change_of_a_key_in_a_batch_wins() {
    each(|bench| {
        let mut batch = Batch::new();
        batch.put(Table::Live, &[b"put"], &[b"1"]);
        batch.put(Table::Live, &[b"put"], &[b"2"]);
        batch.put(Table::Live, &[b"deleted"], &[b"1"]);
        batch.delete(Table::Live, &[b"deleted"]);
        batch.delete(Table::Live, &[b"back"]);
        batch.put(Table::Live, &[b"back"], &[b"1"]);
        bench.engine().write(&batch).unwrap();
        assert_eq!(bench.get(Table::Live, "put").as_deref(), Some("2"));
        assert_eq!(bench.get(Table::Live, "deleted"), None);
        assert_eq!(bench.get(Table::Live, "back").as_deref(), Some("1"));
        assert_eq!(keys(bench.engine(), "", None), "back put");
    });
}

#[test]
fn an_empty_batch_changes_nothing() {
    each(|bench| {
        bench.engine().write(&Batch::new()).unwrap();
        bench.engine().sync().unwrap();
        assert_eq!(contents(bench.engine()).unwrap(), Rows::new());
        bench.crash();
        assert_eq!(contents(bench.engine()).unwrap(), Rows::new());
    });
}

#[test]
fn any_bytes_are_a_key_and_any_bytes_a_value() {
    each(|bench| {
        let mut rows = Rows::new();
        for key in [&b""[..], b"\0", b"\0\0", b"\xff", b"\xff\xff", b"a\0b", &[7; 4096]] {
            rows.insert((Table::Live, key.to_vec()), key.to_vec());
        }
        rows.insert((Table::Live, b"empty".to_vec()), Vec::new());
        rows.insert((Table::Live, b"large".to_vec()), vec![0xa5; 3 << 20]);
        let mut batch = Batch::new();
        for ((table, key), value) in &rows {
            let (head, tail) = key.split_at(key.len() / 2);
            batch.put(*table, &[head, tail], &[b"", value]);
        }
        bench.engine().write(&batch).unwrap();
        assert_eq!(contents(bench.engine()).unwrap(), rows);
        bench.engine().sync().unwrap();
        bench.crash();
        assert_eq!(contents(bench.engine()).unwrap(), rows);
        assert_eq!(bench.get(Table::Live, "empty").as_deref(), Some(""));
        assert_eq!(bench.get(Table::Live, "").as_deref(), Some(""));
    });
}

#[test]
fn what_was_synced_survives_a_crash() {
    each(|bench| {
        bench.put(&[(Table::Live, "a", "1"), (Table::Meta, "m", "1")]);
        bench.engine().sync().unwrap();
        bench.crash();
        assert_eq!(bench.get(Table::Live, "a").as_deref(), Some("1"));
        // A delete is as durable as a put, and so is a second life.
        bench.delete(Table::Live, "a");
        bench.put(&[(Table::Meta, "m", "2")]);
        bench.engine().sync().unwrap();
        bench.engine().sync().unwrap();
        bench.crash();
        bench.crash();
        assert_eq!(bench.get(Table::Live, "a"), None);
        assert_eq!(bench.get(Table::Meta, "m").as_deref(), Some("2"));
    });
}

#[test]
fn a_crash_leaves_whole_batches_in_order_and_at_least_what_was_synced() {
    each(|bench| {
        let mut random = StdRng::seed_from_u64(21);
        let mut number = 0_u64;
        let mut lost = 0;
        for _ in 0..8 {
            let mut synced = number;
            for _ in 0..random.random_range(0..150) {
                number += 1;
                let mut batch = Batch::new();
                let row = number.to_be_bytes();
                for table in Table::ALL {
                    batch.put(table, &[b"newest"], &[&row]);
                    batch.put(table, &[&row], &[&[number as u8; 300]]);
                    batch.delete(table, &[&(number.wrapping_sub(2)).to_be_bytes()]);
                }
                bench.engine().write(&batch).unwrap();
                if random.random_ratio(1, 60) {
                    bench.engine().sync().unwrap();
                    synced = number;
                }
            }
            bench.crash();
            let newest = bench.engine().get(Table::Live, b"newest").unwrap();
            let kept = newest.map_or(0, |row| u64::from_be_bytes((*row).try_into().unwrap()));
            assert!(synced <= kept && kept <= number, "{synced} <= {kept} <= {number}");
            let mut rows = Rows::new();
            for table in Table::ALL {
                for row in (kept.max(1) - 1..=kept).filter(|row| *row > 0) {
                    rows.insert((table, row.to_be_bytes().to_vec()), vec![row as u8; 300]);
                }
                if kept > 0 {
                    rows.insert((table, b"newest".to_vec()), kept.to_be_bytes().to_vec());
                }
            }
            assert_eq!(contents(bench.engine()).unwrap(), rows, "after batch {kept}");
            lost += number - kept;
            number = kept;
        }
        assert!(lost > 0, "a test in which no crash loses anything proves nothing");
    });
}

#[test]
fn a_snapshot_stays_as_it_was() {
    each(|bench| {
        bench.put(&[(Table::Live, "a", "1"), (Table::Live, "b", "1"), (Table::Live, "c", "1")]);
        let before = bench.engine().snapshot();
        let rows = contents(&*before).unwrap();
        for round in 2..40 {
            bench.put(&[(Table::Live, "a", &round.to_string()), (Table::Live, "bb", "new")]);
            bench.delete(Table::Live, "c");
            if round % 10 == 0 {
                bench.engine().sync().unwrap();
                bench.engine().reclaim(Table::Live, Span { lower: b"", upper: None });
                bench.settle();
            }
        }
        assert_eq!(contents(&*before).unwrap(), rows);
        assert_eq!(text(&*before, Table::Live, "a").as_deref(), Some("1"));
        assert_eq!(text(&*before, Table::Live, "bb"), None);
        assert_eq!(keys(&*before, "", None), "a b c");
        let after = bench.engine().snapshot();
        assert_eq!(keys(&*after, "", None), "a b bb");
        drop(before);
        assert_eq!(text(&*after, Table::Live, "a").as_deref(), Some("39"));
    });
}

#[test]
fn a_snapshot_outlives_its_engine() {
    each(|bench| {
        bench.put(&[(Table::Live, "a", "1")]);
        let snapshot = bench.engine().snapshot();
        bench.engine = None;
        if let Disk::Rocks { rocks, .. } = &mut bench.disk {
            *rocks = None;
        }
        assert_eq!(keys(&*snapshot, "", None), "a");
        assert_eq!(text(&*snapshot, Table::Live, "a").as_deref(), Some("1"));
    });
}

#[test]
fn a_cursor_stays_at_the_moment_it_was_made() {
    each(|bench| {
        bench.put(&[(Table::Live, "a", "1"), (Table::Live, "c", "1"), (Table::Live, "e", "1")]);
        let span = Span { lower: b"", upper: None };
        let mut cursor = bench.engine().cursor(Table::Live, span).unwrap();
        assert_eq!(cursor.next().unwrap(), Some((&b"a"[..], &b"1"[..])));
        bench.put(&[(Table::Live, "b", "2"), (Table::Live, "c", "2"), (Table::Live, "f", "2")]);
        bench.delete(Table::Live, "e");
        assert_eq!(cursor.next().unwrap(), Some((&b"c"[..], &b"1"[..])));
        assert_eq!(cursor.seek(b"d").unwrap(), Some((&b"e"[..], &b"1"[..])));
        assert_eq!(cursor.next().unwrap(), None);
    });
}

#[test]
fn a_cursor_shows_its_span_and_nothing_else() {
    each(|bench| {
        bench.put(&[
            (Table::Live, "a", ""),
            (Table::Live, "b", ""),
            (Table::Live, "bb", ""),
            (Table::Live, "d", ""),
            (Table::Meta, "b0", ""),
            (Table::Past, "a", ""),
        ]);
        let rounds: [&dyn Fn(); 3] =
            [&|| (), &|| bench.engine().sync().unwrap(), &|| bench.put(&[(Table::Live, "d", "2")])];
        for round in rounds {
            round();
            for read in [bench.engine() as &dyn Read, &*bench.engine().snapshot()] {
                assert_eq!(keys(read, "", None), "a b bb d");
                assert_eq!(keys(read, "a", Some("d")), "a b bb");
                assert_eq!(keys(read, "aa", Some("bb")), "b");
                assert_eq!(keys(read, "bb", Some("bb\0")), "bb");
                assert_eq!(keys(read, "c", None), "d");
                assert_eq!(keys(read, "c", Some("d")), "");
                assert_eq!(keys(read, "e", None), "");
                assert_eq!(keys(read, "", Some("")), "", "empty");
                assert_eq!(keys(read, "b", Some("b")), "", "empty");
                assert_eq!(keys(read, "d", Some("a")), "", "upside down");
            }
        }
    });
}

#[test]
fn a_cursor_seeks_within_its_span_in_any_order() {
    each(|bench| {
        for key in ["a", "b", "c", "d", "e"] {
            bench.put(&[(Table::Live, key, key)]);
        }
        let span = Span { lower: b"b", upper: Some(b"e") };
        let mut cursor = bench.engine().cursor(Table::Live, span).unwrap();
        let mut seek = |key: &[u8]| {
            let row = cursor.seek(key).unwrap();
            let key = row.map(|(key, _)| key[0] as char);
            let next = cursor.next().unwrap().map(|(key, _)| key[0] as char);
            (key, next)
        };
        assert_eq!(seek(b"c"), (Some('c'), Some('d')));
        assert_eq!(seek(b""), (Some('b'), Some('c')), "never before the span");
        assert_eq!(seek(b"a"), (Some('b'), Some('c')));
        assert_eq!(seek(b"d"), (Some('d'), None), "never past the span");
        assert_eq!(seek(b"e"), (None, None));
        assert_eq!(seek(b"z"), (None, None));
        assert_eq!(seek(b"bb"), (Some('c'), Some('d')), "back again");
    });
}

#[test]
fn a_cursor_at_its_end_stays_there() {
    each(|bench| {
        bench.put(&[(Table::Live, "a", ""), (Table::Live, "b", "")]);
        for upper in [None, Some(&b"b"[..])] {
            let span = Span { lower: b"", upper };
            let mut cursor = bench.engine().cursor(Table::Live, span).unwrap();
            while cursor.next().unwrap().is_some() {}
            for _ in 0..3 {
                assert_eq!(cursor.next().unwrap(), None);
            }
            assert_eq!(cursor.seek(b"zz").unwrap(), None);
            assert_eq!(cursor.next().unwrap(), None);
            assert_eq!(cursor.seek(b"a").unwrap(), Some((&b"a"[..], &b""[..])));
        }
    });
}

#[test]
fn a_checkpoint_is_what_was_there_and_stays_so() {
    each(|bench| {
        bench.put(&[(Table::Live, "synced", "1")]);
        bench.engine().sync().unwrap();
        bench.put(&[(Table::Live, "not synced", "1"), (Table::Meta, "m", "1")]);
        let rows = contents(bench.engine()).unwrap();
        let directory = bench.root.path().join("checkpoint");
        bench.engine().checkpoint(&directory).unwrap();
        for round in 0..50 {
            bench.put(&[(Table::Live, "synced", &round.to_string()), (Table::Past, "p", "1")]);
        }
        bench.engine().sync().unwrap();
        bench.engine().reclaim(Table::Live, Span { lower: b"", upper: None });
        bench.settle();

        let copy = bench.open_checkpoint(&directory);
        assert_eq!(contents(&*copy).unwrap(), rows);
        let mut batch = Batch::new();
        batch.put(Table::Live, &[b"theirs"], &[b"1"]);
        copy.write(&batch).unwrap();
        copy.sync().unwrap();
        assert_eq!(bench.get(Table::Live, "theirs"), None);
        assert_eq!(bench.get(Table::Live, "synced").as_deref(), Some("49"));
        bench.crash();
        assert_eq!(bench.get(Table::Live, "synced").as_deref(), Some("49"));
    });
}

#[test]
fn a_checkpoint_never_takes_a_name_that_is_taken() {
    each(|bench| {
        bench.put(&[(Table::Live, "a", "1")]);
        let directory = bench.root.path().join("taken");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("theirs"), "precious").unwrap();
        let refused = bench.engine().checkpoint(&directory);
        assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
        assert_eq!(fs::read(directory.join("theirs")).unwrap(), b"precious");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        // It was the caller's mistake and not the engine's: work goes on.
        bench.put(&[(Table::Live, "a", "2")]);
        bench.engine().sync().unwrap();
        bench.engine().checkpoint(&bench.root.path().join("free")).unwrap();
    });
}

#[test]
fn a_row_goes_only_if_it_is_not_retained_and_never_comes_back_changed() {
    const ROUNDS: u64 = 8;
    let floor = Arc::new(AtomicU64::new(0));
    let retain: Retain = {
        let floor = floor.clone();
        // What is retained in these tables goes by the number that keys begin with; other tables would
        // lose everything if they were asked about.
        Arc::new(move |table, key, _| {
            table.forgets()
                && u64::from_be_bytes(key[..8].try_into().unwrap()) >= floor.load(Ordering::Acquire)
        })
    };
    each_with(retain, Faults { reclaim_one_in: 3, ..Faults::default() }, |bench| {
        floor.store(0, Ordering::Release);
        let value = |number: u64| number.to_string().repeat(50).into_bytes();
        for round in 0..ROUNDS {
            for number in round * 100..(round + 1) * 100 {
                let mut batch = Batch::new();
                for table in Table::ALL {
                    batch.put(table, &[&number.to_be_bytes()], &[&value(number)]);
                }
                bench.engine().write(&batch).unwrap();
            }
            bench.engine().sync().unwrap();
            let floor_now = (round + 1) * 90;
            floor.store(floor_now, Ordering::Release);
            for table in [Table::Past, Table::Changes, Table::Live] {
                // Far too wide a hint takes nothing that is needed.
                let upper = (floor_now * 2).to_be_bytes();
                bench.engine().reclaim(table, Span { lower: b"", upper: Some(&upper) });
                bench.engine().reclaim(table, Span { lower: b"", upper: None });
            }
            if round % 4 == 2 {
                bench.settle();
                bench.crash();
            }
            let rows = contents(bench.engine()).unwrap();
            for table in Table::ALL {
                for number in 0..(round + 1) * 100 {
                    let found = rows.get(&(table, number.to_be_bytes().to_vec()));
                    match found {
                        Some(found) => assert_eq!(*found, value(number)),
                        None => assert!(
                            table.forgets() && number < floor_now,
                            "{table:?} {number} is gone, the floor is {floor_now}"
                        ),
                    }
                }
            }
        }
        for _attempt in 0..1000 {
            // A hint may meet a flush or a compaction at work; what it leaves is for the next.
            bench.engine().reclaim(Table::Past, Span { lower: b"", upper: None });
            bench.engine().reclaim(Table::Changes, Span { lower: b"", upper: None });
            bench.settle();
            bench.put(&[(Table::Meta, "turn", "the wheel")]);
            let rows = contents(bench.engine()).unwrap();
            let left = |table| rows.keys().filter(|(of, _)| *of == table).count() as u64;
            if left(Table::Past) == ROUNDS * 10 && left(Table::Changes) == ROUNDS * 10 {
                return;
            }
        }
        panic!("what is not retained never goes");
    });
}

#[test]
fn readers_never_see_half_a_batch() {
    each(|bench| {
        let engine = bench.engine();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let write = || {
                for number in 0..400_u64 {
                    let mut batch = Batch::new();
                    for table in Table::ALL {
                        batch.put(table, &[b"number"], &[&number.to_be_bytes()]);
                    }
                    engine.write(&batch).unwrap();
                    if number % 100 == 50 {
                        engine.sync().unwrap();
                    }
                }
                done.store(true, Ordering::Release);
            };
            let read = || {
                let mut newest = None;
                while !done.load(Ordering::Acquire) {
                    let moment = engine.snapshot();
                    let seen = Table::ALL.map(|table| moment.get(table, b"number").unwrap());
                    assert!(seen.iter().all(|number| *number == seen[0]), "{seen:?}");
                    assert!(seen[0] >= newest, "time goes one way");
                    newest = seen[0].clone();
                }
            };
            scope.spawn(write);
            scope.spawn(read);
            scope.spawn(read);
        });
    });
}

#[test]
fn the_size_tells_what_a_restart_would_replay() {
    each(|bench| {
        assert_eq!(bench.engine().size().unsynced, 0);
        bench.put(&[(Table::Live, "key", "value")]);
        bench.put(&[(Table::Live, "key", "other")]);
        assert_eq!(bench.engine().size().unsynced, 16);
        bench.engine().sync().unwrap();
        let size = bench.engine().size();
        assert_eq!(size.unsynced, 0);
        assert!(size.disk > 0, "{size:?}");
    });
}

#[test]
fn a_scrub_reads_everything_and_can_be_broken_off() {
    each(|bench| {
        let mut batch = Batch::new();
        for number in 0..40_u64 {
            batch.put(Table::Live, &[&number.to_be_bytes()], &[&vec![1; 100 << 10]]);
            batch.put(Table::Past, &[&number.to_be_bytes()], &[b"0123456789"]);
        }
        bench.engine().write(&batch).unwrap();
        bench.engine().sync().unwrap();
        let mut read_bytes = 0;
        let mut steps = 0;
        let mut pace = |bytes| {
            steps += 1;
            read_bytes += bytes;
            ControlFlow::Continue(())
        };
        bench.engine().scrub(&mut pace).unwrap();
        assert_eq!(read_bytes, batch.weight() as u64);
        assert!(steps > 3);
        let mut paced = 0;
        let mut stop = |_| {
            paced += 1;
            ControlFlow::Break(())
        };
        bench.engine().scrub(&mut stop).unwrap();
        assert_eq!(paced, 1);
    });
}

/// Everything that may be there after a run in which `fail` made the engine fail.
fn check_poisoned(bench: &mut Bench, failed: &Result<(), Error>, may_be: &[Rows]) {
    let engine = bench.engine();
    let error = failed.as_ref().expect_err("the fault must show");
    assert!(matches!(error, Error::Engine { .. }) || error.is_fatal(), "{error:?}");
    let mut batch = Batch::new();
    batch.put(Table::Live, &[b"later"], &[b"1"]);
    for _ in 0..2 {
        assert!(engine.write(&batch).is_err());
        assert!(engine.sync().is_err());
        assert!(engine.checkpoint(&bench.root.path().join("never")).is_err());
    }
    assert!(!bench.root.path().join("never").exists());
    assert_eq!(text(engine, Table::Live, "later"), None);
    assert_eq!(text(engine, Table::Live, "a").as_deref(), Some("1"), "reads go on");
    bench.crash();
    let rows = contents(bench.engine()).unwrap();
    assert!(may_be.contains(&rows), "{rows:?} is none of {may_be:?}");
    bench.put(&[(Table::Live, "b", "2")]);
    bench.engine().sync().unwrap();
}

fn rows(rows: &[(&str, &str)]) -> Rows {
    rows.iter()
        .map(|(key, value)| ((Table::Live, key.as_bytes().to_vec()), value.as_bytes().to_vec()))
        .collect()
}

#[test]
fn after_a_failed_sync_nothing_is_written_until_the_engine_is_opened_again() {
    let faults = Faults { failing_sync: Some(2), ..Faults::default() };
    each_with(Arc::new(|_, _, _| true), faults, |bench| {
        bench.put(&[(Table::Live, "a", "1")]);
        bench.engine().sync().unwrap();
        bench.put(&[(Table::Live, "b", "1")]);
        let failed = match &bench.disk {
            Disk::Memory(_) => bench.engine().sync(),
            Disk::Rocks { at, .. } => {
                // Files cannot be made in a directory that is not where it was.
                let away = at.with_extension("away");
                fs::rename(at, &away).unwrap();
                let failed = bench.engine().sync();
                fs::rename(&away, at).unwrap();
                failed
            }
        };
        let may_be = [rows(&[("a", "1")]), rows(&[("a", "1"), ("b", "1")])];
        check_poisoned(bench, &failed, &may_be);
    });
}

#[test]
fn a_full_disk_lets_deletes_through_and_fails_a_put_for_good() {
    let faults = Faults { full_at_bytes: Some(100), ..Faults::default() };
    let disk = MemoryDisk::new(3, faults);
    let root = tempfile::tempdir().unwrap();
    let retain: Retain = Arc::new(|_, _, _| true);
    let mut bench = Bench { engine: None, disk: Disk::Memory(disk), retain, root };
    bench.open();
    bench.put(&[(Table::Live, "a", "1"), (Table::Live, "big", &"x".repeat(95))]);
    bench.engine().sync().unwrap();
    bench.delete(Table::Live, "nothing");
    let mut batch = Batch::new();
    batch.put(Table::Live, &[b"b"], &[b"1"]);
    let failed = bench.engine().write(&batch);
    let Err(Error::Engine { source, .. }) = &failed else { panic!("{failed:?}") };
    assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
    assert!(bench.engine().write(&Batch::new()).is_err(), "for good");
    bench.crash();
    bench.delete(Table::Live, "big");
    bench.engine().sync().unwrap();
    bench.engine().write(&batch).unwrap();
    assert_eq!(keys(bench.engine(), "", None), "a b");
}

#[test]
fn after_a_failed_write_its_batch_is_there_as_a_whole_or_not_at_all() {
    let mut seen = [false; 2];
    for seed in 0..40 {
        let faults = Faults { failing_write: Some(2), ..Faults::default() };
        let disk = MemoryDisk::new(seed, faults);
        let root = tempfile::tempdir().unwrap();
        let retain: Retain = Arc::new(|_, _, _| true);
        let mut bench = Bench { engine: None, disk: Disk::Memory(disk), retain, root };
        bench.open();
        bench.put(&[(Table::Live, "a", "1")]);
        bench.engine().sync().unwrap();
        let mut batch = Batch::new();
        batch.put(Table::Live, &[b"b"], &[b"1"]);
        batch.put(Table::Live, &[b"c"], &[b"1"]);
        let failed = bench.engine().write(&batch);
        assert_eq!(text(bench.engine(), Table::Live, "b"), None);
        let may_be = [rows(&[("a", "1")]), rows(&[("a", "1"), ("b", "1"), ("c", "1")])];
        check_poisoned(&mut bench, &failed, &may_be);
        seen[usize::from(text(bench.engine(), Table::Live, "c").is_some())] = true;
    }
    assert_eq!(seen, [true; 2], "both happen");
}

#[test]
fn an_engine_that_lost_its_disk_to_another_can_do_no_harm() {
    let disk = MemoryDisk::new(5, Faults::default());
    let retain: Retain = Arc::new(|_, _, _| true);
    let earlier = Memory::open(&disk, retain.clone());
    let later = Memory::open(&disk, retain);
    let mut batch = Batch::new();
    batch.put(Table::Live, &[b"a"], &[b"1"]);
    assert!(earlier.write(&batch).is_err());
    assert!(earlier.sync().is_err());
    later.write(&batch).unwrap();
    assert_eq!(keys(&*earlier, "", None), "");
}

#[test]
fn a_factory_opens_what_a_directory_holds_now() {
    each(|bench| {
        let factory: &dyn Open = match &bench.disk {
            Disk::Memory(_) => &MemoryFactory::new(1),
            Disk::Rocks { options, .. } => &RocksFactory(options.clone()),
        };
        let retain: Retain = Arc::new(|_, _, _| true);
        let directory = bench.root.path().join("by").join("name");
        let engine = factory.open(&directory, retain.clone()).unwrap();
        let mut batch = Batch::new();
        batch.put(Table::Live, &[b"first"], &[b"1"]);
        engine.write(&batch).unwrap();
        engine.sync().unwrap();
        drop(engine);
        let engine = factory.open(&directory, retain.clone()).unwrap();
        assert_eq!(keys(&*engine, "", None), "first");
        drop(engine);

        // Another store takes the place of the first, as a received snapshot does.
        bench.put(&[(Table::Live, "second", "1")]);
        let incoming = bench.root.path().join("by").join("incoming");
        bench.engine().checkpoint(&incoming).unwrap();
        fs::remove_dir_all(&directory).unwrap();
        fs::rename(&incoming, &directory).unwrap();
        let engine = factory.open(&directory, retain.clone()).unwrap();
        assert_eq!(keys(&*engine, "", None), "second");
        drop(engine);

        fs::remove_dir_all(&directory).unwrap();
        let engine = factory.open(&directory, retain).unwrap();
        assert_eq!(keys(&*engine, "", None), "");
    });
}
