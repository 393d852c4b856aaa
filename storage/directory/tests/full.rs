//! A disk that is really full: a small file system in memory, mounted for the test. Mounting needs root; a
//! test without it says so and ends.

use std::process::Command as Process;

use bytes::Bytes;

use super::*;
use crate::compaction::Floor;
use crate::directory::space::{Options as SpaceOptions, statvfs};
use crate::engine::rocks::{self, Rocks};
use crate::request::{Command, Delete, Entry, EntryAnswers, KeyRange, Put};
use crate::revision::{Index, Revision};
use crate::{Options, Store};

const DISK_MIB: u64 = 24;
const SPACE: SpaceOptions = SpaceOptions { reserve_bytes: 4 << 20, low_bytes: 4 << 20 };

/// A mounted file system; it goes with the value.
struct Mount(PathBuf);

impl Mount {
    /// `None` where this user may not mount.
    fn new(at: &Path) -> Option<Mount> {
        fs::create_dir_all(at).expect("created");
        let size = format!("size={DISK_MIB}m");
        let mut mount = Process::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at);
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        if !mounted {
            println!("this user may not mount a file system: nothing is tested here");
        }
        mounted.then(|| Mount(at.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        Process::new("umount").arg("--lazy").arg(&self.0).output().ok();
    }
}

struct Bench {
    store: Store,
    rocks: Arc<Rocks>,
    directory: Directory,
    applied: u64,
}

impl Bench {
    fn open(path: &Path) -> Bench {
        let directory = open(path).expect("opened");
        let floor = Floor::new();
        // As small beside the disk as it is in earnest.
        let options = rocks::Options { write_buffer_bytes: 512 << 10, ..rocks::Options::default() };
        let state = directory.state().expect("a state");
        let rocks = Rocks::open(&state, &options, floor.retain()).expect("opened");
        let store = Store::open(rocks.clone(), floor, Options::default()).expect("opened");
        let applied = store.applied().0.0;
        Bench { store, rocks, directory, applied }
    }

    fn apply(&mut self, command: Command) -> Result<EntryAnswers, Error> {
        let index = Index(self.applied + 1);
        let commands = vec![command].into();
        let entry = Entry { index, term: 1, mark: Bytes::new(), commands };
        let mut answers = self.store.apply(&[entry])?;
        self.applied += 1;
        Ok(answers.remove(0))
    }

    fn put(&mut self, number: u64) -> Result<EntryAnswers, Error> {
        // Not to be compressed, so that the disk fills as fast as it seems to.
        let mut random = number | 1;
        let value: Vec<u8> = std::iter::repeat_with(|| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random as u8
        })
        .take(16 << 10)
        .collect();
        self.apply(Command::Put(Put { key: key(number), value: value.into(), ..Put::default() }))
    }

    fn delete(&mut self, number: u64) -> Result<EntryAnswers, Error> {
        let range = KeyRange::One(key(number));
        self.apply(Command::Delete(Delete { range, previous: false }))
    }

    fn compact(&mut self) -> Result<EntryAnswers, Error> {
        let revision = self.store.revision();
        self.apply(Command::Compact(revision))
    }

    /// Makes all durable, and waits until the background has given back what is not needed.
    fn settle(&mut self, space: &Space) {
        self.store.sync().expect("syncs go on");
        self.store.reclaim();
        self.rocks.settle();
        space.observe().expect("probed");
    }

    fn count(&self) -> u64 {
        self.store.view().count(&KeyRange::all()).expect("reads go on")
    }
}

fn key(number: u64) -> Bytes {
    format!("key-{number:06}").into()
}

#[test]
fn a_guarded_store_refuses_data_before_the_disk_is_full_and_takes_it_again_when_there_is_space() {
    let room = tempfile::tempdir().expect("a temporary directory");
    let Some(mount) = Mount::new(&room.path().join("disk")) else { return };
    let path = mount.0.join("data");
    let mut bench = Bench::open(&path);
    let space = Space::open(bench.directory.path(), SPACE, statvfs()).expect("guarded");
    let mut written = 0;
    let refused = loop {
        match space.check(16 << 10) {
            Ok(()) => {}
            Err(refused) => break refused,
        }
        bench.put(written).expect("there is space");
        written += 1;
        if written % 16 == 0 {
            bench.store.sync().expect("there is space");
        }
        assert!(written < DISK_MIB * 64, "more was written than the disk holds");
    };
    assert!(matches!(refused, Error::NoSpace { .. }), "{refused}");
    assert!(written > 100, "refused after {written} already");
    // Reads go on, and so do deletes, compaction and syncs. A deleted value is kept for those who read
    // history, so it takes space until it is compacted.
    assert_eq!(bench.count(), written);
    for number in 10..written {
        bench.delete(number).expect("deletes go on");
        if number % 32 == 0 {
            bench.compact().expect("compaction goes on");
            bench.settle(&space);
        }
    }
    bench.compact().expect("compaction goes on");
    assert_eq!(bench.count(), 10);
    bench.settle(&space);
    space.check(16 << 10).expect("there is space again");
    bench.put(written).expect("there is space again");
    bench.store.sync().expect("there is space again");
    assert_eq!(bench.count(), 11);
}

#[test]
fn an_unguarded_store_stops_at_once_on_a_full_disk_and_has_all_that_was_synced_afterwards() {
    let room = tempfile::tempdir().expect("a temporary directory");
    let Some(mount) = Mount::new(&room.path().join("disk")) else { return };
    let path = mount.0.join("data");
    let mut bench = Bench::open(&path);
    let ballast = mount.0.join("ballast");
    fs::write(&ballast, vec![1; 16 << 20]).expect("written");
    let (mut written, mut synced) = (0, 0);
    let failed = loop {
        let done = bench.put(written).map(|_| ()).and_then(|()| {
            written += 1;
            if written % 8 == 0 {
                bench.store.sync()?;
                synced = written;
            }
            Ok(())
        });
        if let Err(failed) = done {
            break failed;
        }
        assert!(written < DISK_MIB * 64, "more was written than the disk holds");
    };
    let Error::Engine { source, .. } = &failed else { panic!("{failed:?}") };
    assert!(failed.is_fatal());
    assert_eq!(source.kind(), io::ErrorKind::StorageFull, "{failed:?}");
    assert!(synced > 100, "full after {synced} already");
    // From here on nothing is written, also when there is space again: what the failed sync left on the
    // disk nobody knows. Reads go on.
    fs::remove_file(&ballast).expect("removed");
    let again = bench.put(written).expect_err("nothing is written any more");
    assert!(again.is_fatal(), "{again:?}");
    assert!(bench.store.sync().is_err() && bench.count() >= synced);
    drop(bench);
    let mut bench = Bench::open(&path);
    let kept = bench.count();
    assert!(synced <= kept && kept <= written + 1, "{synced} <= {kept} <= {written}");
    assert_eq!(bench.store.revision(), Revision(kept + 1));
    bench.put(kept).expect("a new process goes on");
    bench.store.sync().expect("a new process goes on");
}
