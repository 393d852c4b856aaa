//! What holds of the guard over a disk's space.

use std::sync::atomic::AtomicU64;

use super::*;
use crate::directory::space::{self, Options, Probe};

const OPTIONS: Options = Options { reserve_bytes: 1 << 20, low_bytes: 8 << 20 };

/// A disk of a settable size, on which the reserve takes its room.
fn small_disk(path: &Path, free: &Arc<AtomicU64>) -> Space {
    let free = free.clone();
    let probe: Probe = Arc::new(move |directory| {
        let reserve = fs::metadata(directory.join("reserve")).map_or(0, |found| found.len());
        Ok(free.load(Ordering::SeqCst).saturating_sub(reserve))
    });
    Space::open(path, OPTIONS, probe).expect("guarded")
}

#[test]
fn data_is_refused_before_the_disk_is_full_and_welcome_when_space_is_back() {
    let (room, _) = room();
    let reserve = room.path().join("reserve");
    let free = Arc::new(AtomicU64::new(100 << 20));
    let space = small_disk(room.path(), &free);
    let at = |mib: u64| {
        free.store(mib << 20, Ordering::SeqCst);
        let level = space.observe().expect("probed");
        (level, space.check(1 << 20).is_ok(), reserve.exists())
    };
    assert_eq!(at(100), (Level::Ample, true, true));
    assert_eq!(at(10), (Level::Ample, true, true), "9 MiB beyond the reserve");
    assert_eq!(at(9), (Level::Ample, false, true), "too little for one more");
    assert_eq!(at(8), (Level::Low, false, true));
    assert_eq!(at(12), (Level::Low, false, true), "not yet enough to go on");
    assert_eq!(at(2), (Level::Low, false, false), "full: the reserve is given up");
    assert_eq!(at(12), (Level::Low, false, false));
    assert_eq!(at(16), (Level::Low, false, false), "15 MiB once the reserve is made");
    assert_eq!(at(17), (Level::Ample, true, true), "space has returned");
    let taken = fs::metadata(&reserve).expect("there");
    assert_eq!((taken.len(), taken.permissions().mode() & 0o777), (1 << 20, 0o600));
    assert!(std::os::unix::fs::MetadataExt::blocks(&taken) * 512 >= 1 << 20, "it has its blocks");
}

#[test]
fn a_refusal_names_the_directory_and_is_not_fatal() {
    let (room, _) = room();
    let space = small_disk(room.path(), &Arc::new(AtomicU64::new(4 << 20)));
    let error = space.check(1).expect_err("too little");
    assert_eq!(
        error,
        Error::NoSpace { path: room.path().into(), free: 3 << 20, reserved: 8 << 20 }
    );
    assert!(!error.is_fatal());
}

#[test]
fn a_full_disk_opens_without_a_reserve() {
    let (room, _) = room();
    let free = Arc::new(AtomicU64::new(0));
    let space = small_disk(room.path(), &free);
    assert_eq!((space.level(), room.path().join("reserve").exists()), (Level::Low, false));
    free.store(100 << 20, Ordering::SeqCst);
    assert_eq!(space.observe(), Ok(Level::Ample));
    drop(space);
    free.store(0, Ordering::SeqCst);
    let space = small_disk(room.path(), &free);
    assert_eq!((space.level(), room.path().join("reserve").exists()), (Level::Low, false));
}

#[test]
fn a_disk_that_says_it_is_full_is_believed_at_once() {
    let (room, _) = room();
    let space = small_disk(room.path(), &Arc::new(AtomicU64::new(100 << 20)));
    space.exhausted().expect("given up");
    assert_eq!((space.level(), room.path().join("reserve").exists()), (Level::Low, false));
    assert_eq!(space.observe(), Ok(Level::Ample), "the next look sees that there is room");
}

#[test]
fn the_size_of_the_reserve_follows_the_options() {
    let (room, _) = room();
    fs::write(room.path().join("reserve"), vec![0; 3 << 20]).expect("written");
    let _space = small_disk(room.path(), &Arc::new(AtomicU64::new(100 << 20)));
    assert_eq!(fs::metadata(room.path().join("reserve")).expect("there").len(), 1 << 20);
}

#[test]
fn a_real_disk_can_be_probed() {
    let (room, _) = room();
    assert!(space::statvfs()(room.path()).expect("probed") > 0);
    assert!(space::statvfs()(&room.path().join("missing")).is_err());
}
