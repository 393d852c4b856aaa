//! What every crash leaves of a data directory.
//!
//! A run is cut before its n-th step, for every n. Two machines are simulated: one whose
//! process was killed (everything done stays done), and two that lost power before what was not
//! synced reached the disk: entries of directories, or also contents of files.

use super::*;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Loss {
    Nothing,
    Entries,
}

/// Cuts the run before its `left`-th step and remembers what is not durable yet.
struct Power {
    left: Mutex<usize>,
    pending: Mutex<Vec<Pending>>,
    /// Files that were synced: to rename others into their place is a mistake.
    synced: Mutex<Vec<PathBuf>>,
}

enum Pending {
    Made(PathBuf),
    Renamed { from: PathBuf, to: PathBuf, replaced: Option<Vec<u8>> },
}

impl Power {
    fn after(steps: usize) -> Arc<Power> {
        let (pending, synced) = (Mutex::default(), Mutex::default());
        Arc::new(Power { left: Mutex::new(steps), pending, synced })
    }

    fn hook(self: &Arc<Self>) -> Arc<Hook> {
        let power = self.clone();
        Arc::new(move |act, path, from| power.step(act, path, from))
    }

    fn step(&self, act: Act, path: &Path, from: Option<&Path>) -> io::Result<()> {
        let mut left = self.left.lock();
        *left = left.checked_sub(1).ok_or_else(|| io::Error::other("power cut"))?;
        match act {
            Act::MakeDirectory | Act::Write => {
                self.pending.lock().push(Pending::Made(path.into()));
            }
            Act::SyncFile => self.synced.lock().push(path.into()),
            Act::SyncDirectory => self.pending.lock().retain(|one| match one {
                Pending::Made(made) => made.parent() != Some(path),
                Pending::Renamed { to, .. } => to.parent() != Some(path),
            }),
            Act::Rename => {
                let from = from.expect("a rename comes from somewhere").to_owned();
                let files = match from.is_dir() {
                    true => listing(&from).into_iter().map(|(file, _)| file).collect(),
                    false => vec![from.clone()],
                };
                let synced = self.synced.lock();
                for file in files {
                    assert!(synced.contains(&file), "{} was not synced", file.display());
                }
                let replaced = path.is_file().then(|| fs::read(path).expect("read"));
                self.pending.lock().push(Pending::Renamed { from, to: path.into(), replaced });
            }
            Act::Remove => {}
        }
        Ok(())
    }

    /// What a disk looks like that kept none of the entries it was not made to keep.
    fn lose(&self) {
        for one in self.pending.lock().drain(..).rev() {
            match one {
                Pending::Made(path) => {
                    Disk::default().remove_tree(&path).expect("removed");
                }
                Pending::Renamed { from, to, replaced } => {
                    if to.exists() {
                        fs::rename(&to, &from).expect("renamed back");
                    }
                    if let Some(bytes) = replaced {
                        fs::write(&to, bytes).expect("written back");
                    }
                }
            }
        }
    }
}

pub(super) fn open_hooked(path: &Path, hook: Arc<Hook>) -> Result<Directory, Error> {
    let disk = Disk { hook: Some(hook) };
    let expect = Expect::default();
    Directory::open_with(path, &expect, || identity(7), &|_| Ok(EXT4), disk)
}

/// Prepares a directory, cuts `run` before each of its steps, and hands what is left to `check`,
/// with whether the run had come to its end. Returns how many cuts there were.
fn cut_everywhere(
    prepare: impl Fn(&Path),
    run: impl Fn(&Path, Arc<Hook>) -> Result<(), Error>,
    check: impl Fn(&Path, bool, &str),
) -> usize {
    for steps in 0.. {
        let mut finished = false;
        for loss in [Loss::Nothing, Loss::Entries] {
            let (_room, path) = room();
            prepare(&path);
            let power = Power::after(steps);
            finished = run(&path, power.hook()).is_ok();
            if loss == Loss::Entries {
                power.lose();
            }
            check(&path, finished, &format!("cut before step {steps}, lost {loss:?}"));
        }
        if finished {
            return steps;
        }
    }
    unreachable!("some number of steps is enough")
}

#[test]
fn a_creation_cut_anywhere_is_empty_or_whole() {
    let cuts = cut_everywhere(
        |_| {},
        |path, hook| open_hooked(path, hook).map(drop),
        |path, finished, when| {
            let found = Directory::inspect(path).unwrap_or_else(|error| panic!("{when}: {error}"));
            assert!(found.is_some() || !finished, "{when}: lost what was created");
            let directory = open(path).unwrap_or_else(|error| panic!("{when}: {error}"));
            assert_eq!(directory.condemned(), Ok(None), "{when}");
            assert_eq!(content(&directory), None, "{when}");
            drop(directory);
            drop(reopen(path).unwrap_or_else(|error| panic!("{when}: {error}")));
        },
    );
    assert!(cuts > 10, "{cuts} cuts");
}

#[test]
fn an_install_cut_anywhere_is_the_old_state_or_the_new_one() {
    let seen = Mutex::new([0, 0]);
    let cuts = cut_everywhere(
        |path| {
            let directory = open(path).expect("created");
            let file = directory.state().expect("a state").join("file");
            fs::write(file, "old").expect("written");
        },
        |path, hook| {
            let directory = open_hooked(path, hook)?;
            let incoming = directory.incoming()?;
            fs::write(incoming.path().join("file"), "new").expect("written");
            directory.adopt(incoming)?;
            directory.sweep()
        },
        |path, finished, when| {
            let directory = reopen(path).unwrap_or_else(|error| panic!("{when}: {error}"));
            assert_eq!(directory.condemned(), Ok(None), "{when}");
            let content = content(&directory).unwrap_or_else(|| panic!("{when}: no state"));
            assert!(["old", "new"].contains(&&*content), "{when}: {content}");
            assert!(!finished || content == "new", "{when}: lost what was adopted");
            seen.lock()[usize::from(content == "new")] += 1;
            let generations = disk::names(&path.join("state")).expect("listed");
            assert_eq!(generations.len(), 2, "{when}: leftovers in {generations:?}");
        },
    );
    let [old, new] = *seen.lock();
    assert!(cuts > 8 && old > 0 && new > 0, "{cuts} cuts, {old} old, {new} new");
}

#[test]
fn a_reset_cut_anywhere_is_condemned_or_empty_under_the_new_id() {
    let seen = Mutex::new([0, 0]);
    let cuts = cut_everywhere(
        |path| {
            let directory = open(path).expect("created");
            fs::write(directory.log().join("0001"), "votes").expect("written");
            let file = directory.state().expect("a state").join("file");
            fs::write(file, "old").expect("written");
            directory.condemn("lost entries").expect("condemned");
        },
        |path, hook| open_hooked(path, hook)?.reset_identity(identity(8)),
        |path, finished, when| {
            let directory = reopen(path).unwrap_or_else(|error| panic!("{when}: {error}"));
            let condemned = directory.condemned().expect("readable");
            let node = directory.identity().node;
            match (node, condemned) {
                (7, Some(_)) => assert!(!finished, "{when}"),
                (8, None) => {
                    assert_eq!(content(&directory), None, "{when}");
                    assert_eq!(disk::names(&directory.log()), Ok(vec![]), "{when}");
                }
                half => panic!("{when}: half alive: {half:?}"),
            }
            seen.lock()[usize::from(node == 8)] += 1;
            // And whatever was left, a second attempt comes through.
            let mut directory = directory;
            directory.reset_identity(identity(9)).expect("reset");
            assert_eq!(directory.condemned(), Ok(None), "{when}");
        },
    );
    let [old, new] = *seen.lock();
    assert!(cuts > 10 && old > 0 && new > 0, "{cuts} cuts, {old} condemned, {new} new");
}

#[test]
fn a_reset_of_a_node_that_was_well_is_never_half_alive() {
    cut_everywhere(
        |path| {
            let directory = open(path).expect("created");
            fs::write(directory.log().join("0001"), "votes").expect("written");
        },
        |path, hook| open_hooked(path, hook)?.reset_identity(identity(8)),
        |path, _, when| {
            let directory = reopen(path).unwrap_or_else(|error| panic!("{when}: {error}"));
            let condemned = directory.condemned().expect("readable").is_some();
            let log = disk::names(&directory.log()).expect("listed");
            match (directory.identity().node, condemned) {
                (7, true) => {}
                // Before the tombstone: nothing has happened yet.
                (7, false) => assert_eq!(log, ["0001"], "{when}"),
                (8, false) => assert_eq!(log, [""; 0], "{when}"),
                half => panic!("{when}: half alive: {half:?}"),
            }
        },
    );
}
