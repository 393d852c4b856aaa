//! A master's data directory: whose it is, where the log and the state lie, and that no other
//! process has it. The bytes are drawn in `docs/formats/directory.md`.
//!
//! ```text
//! DIR/identity      the owner; written last when the directory is created
//! DIR/lock          held while the directory is open
//! DIR/log/          the Raft log (kontiki-raft)
//! DIR/state/        CURRENT names one generation, an engine's directory; incoming-N are being received
//! DIR/snapshots/    what was taken to be sent; dies with the process
//! DIR/run/          what dies with the process
//! DIR/reserve       space given back to the disk when it is full (`space`)
//! DIR/begun         this node id has begun its log
//! DIR/amnesia       the tombstone of this node id
//! DIR/doubt         its state was found damaged while it was served
//! ```
//!
//! Keeps: at every moment, also after a crash, a directory is empty, or has an owner and a
//! complete state, or is condemned. The state is switched as a whole.
//! Never: writes into a directory that it refuses; serves state that `CURRENT` does not name;
//! reads a clock.

pub mod space;

pub(crate) mod disk;

mod amnesia;
mod begun;
mod doubt;
mod identity;
mod lock;
mod seal;
mod state;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

pub use self::identity::{Expect, FORMAT, Identity, NetworkFileSystem};
pub use self::space::{Level, Space};

use self::amnesia::Tombstone;
use self::disk::Disk;
use self::identity::refused;
use self::lock::Lock;
use self::state::Generation;
use crate::error::Error;

/// Most snapshots that are received at one time. More than one is already a fault of the sender's.
pub const INCOMING_MAX: usize = 4;

/// What others of this process keep in the directory, or operators have put there, perhaps before the master's
/// data is there.
const BESIDE: [&str; 8] =
    ["config.yaml", "images", "kubeconfig", "lost+found", "node", "pki", "run", "snapshots"];

/// An open data directory. Nobody else has it until it is dropped.
pub struct Directory {
    path: PathBuf,
    identity: Identity,
    disk: Disk,
    current: Mutex<Current>,
    receiving: Arc<AtomicUsize>,
    _lock: Lock,
}

/// What the directory holds of the store.
enum Current {
    Generation(Generation),
    /// Something that must be there is not. The node has forgotten what it acknowledged.
    Lost(String),
}

impl Directory {
    /// Opens the directory, or creates it where there is nothing yet. Refused, with nothing
    /// written: a directory of another owner or a newer release, a damaged one, foreign data, one
    /// in use, one on a network file system.
    ///
    /// A directory whose owner is known but whose state is lost does open, and is [`condemned`].
    ///
    /// [`condemned`]: Directory::condemned
    pub fn open_or_create(
        path: &Path,
        expect: &Expect,
        create: impl FnOnce() -> Identity,
    ) -> Result<Directory, Error> {
        Directory::open_with(path, expect, create, &lock::file_system, Disk::default())
    }

    fn open_with(
        path: &Path,
        expect: &Expect,
        create: impl FnOnce() -> Identity,
        file_system: &dyn Fn(&Path) -> Result<u64, Error>,
        disk: Disk,
    ) -> Result<Directory, Error> {
        // Looked at twice: before anything is touched, and again when nobody else can touch it.
        let fresh = match look(path)? {
            Found::Owned(identity) => {
                expect.check(path, &identity)?;
                None
            }
            Found::Nothing => {
                let identity = create();
                identity.check(path)?;
                expect.check(path, &identity)?;
                Some(identity)
            }
        };
        if expect.network_file_system == NetworkFileSystem::Refuse {
            lock::refuse_network(path, file_system)?;
        }
        disk.make_directories(path)?;
        let lock = Lock::take(path)?;
        let identity = match (look(path)?, fresh) {
            (Found::Owned(identity), _) => identity,
            (Found::Nothing, Some(identity)) => {
                fill(&disk, path, &identity)?;
                identity
            }
            (Found::Nothing, None) => {
                return Err(refused(path, "was emptied while it was being opened; start again"));
            }
        };
        expect.check(path, &identity)?;
        let current = settle(&disk, path, &identity)?;
        Ok(Directory {
            path: path.to_owned(),
            identity,
            disk,
            current: Mutex::new(current),
            receiving: Arc::default(),
            _lock: lock,
        })
    }

    /// Whose directory it is, without opening it; `None` when it is absent, empty, or its creation
    /// was cut short. Refused as opening would be.
    pub fn inspect(path: &Path) -> Result<Option<Identity>, Error> {
        match look(path)? {
            Found::Owned(identity) => Ok(Some(identity)),
            Found::Nothing => Ok(None),
        }
    }

    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the engine has its files. An error when the directory is condemned: nothing of it is
    /// served.
    pub fn state(&self) -> Result<PathBuf, Error> {
        if let Some(reason) = self.condemned()? {
            return Err(Error::Damaged(format!("{}: {reason}", self.path.display())));
        }
        match &*self.current.lock() {
            Current::Generation(generation) => Ok(generation.path(&self.state_root())),
            Current::Lost(reason) => Err(Error::Damaged(reason.clone())),
        }
    }

    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    #[must_use]
    pub fn run(&self) -> PathBuf {
        self.path.join("run")
    }

    /// Where snapshots are taken; on the same file system as the state, so that files can be
    /// linked.
    #[must_use]
    pub fn snapshots(&self) -> PathBuf {
        self.path.join("snapshots")
    }

    /// The guard over what is left of the disk.
    pub fn space(&self, options: space::Options) -> Result<Space, Error> {
        Space::open(&self.path, options, space::statvfs())
    }

    /// A fresh directory to receive a snapshot into. It goes away with the value, unless it is
    /// adopted.
    pub fn incoming(&self) -> Result<Incoming, Error> {
        if let Some(reason) = self.condemned()? {
            return Err(Error::Damaged(format!("{}: {reason}", self.path.display())));
        }
        let slot = Slot::take(&self.receiving).ok_or_else(|| Error::Snapshot {
            what: self.path.display().to_string(),
            reason: format!("{INCOMING_MAX} are being received already; try again later"),
        })?;
        // The lock makes the name ours between looking and creating.
        let _current = self.current.lock();
        let path = state::unused_incoming(&self.state_root())?;
        self.disk.make_directory(&path)?;
        Ok(Incoming { path, disk: self.disk.clone(), adopted: false, _slot: slot })
    }

    /// Makes what was received the state, and returns where it now lies. After a crash it is the
    /// old state or the new one. The old one stays until [`Directory::sweep`], for those who still
    /// read it.
    pub fn adopt(&self, mut incoming: Incoming) -> Result<PathBuf, Error> {
        let root = self.state_root();
        assert_eq!(incoming.path.parent(), Some(&*root), "received for another directory");
        if let Some(reason) = self.condemned()? {
            return Err(Error::Damaged(format!("{}: {reason}", self.path.display())));
        }
        incoming.sync()?;
        let mut current = self.current.lock();
        let generation = state::unused(&root)?;
        let path = generation.path(&root);
        self.disk.rename(&incoming.path, &path)?;
        incoming.adopted = true;
        self.disk.sync_directory(&root)?;
        state::switch(&self.disk, &root, generation)?;
        *current = Current::Generation(generation);
        doubt::remove(&self.disk, &self.path)?;
        Ok(path)
    }

    /// Removes generations that are no longer the state. Call it when nobody has them open.
    pub fn sweep(&self) -> Result<(), Error> {
        match &*self.current.lock() {
            Current::Generation(kept) => state::sweep(&self.disk, &self.state_root(), *kept),
            Current::Lost(_) => Ok(()),
        }
    }

    /// Writes the tombstone: this node id lost something it had acknowledged and must never vote
    /// or serve again. The first reason stays.
    pub fn condemn(&self, reason: &str) -> Result<(), Error> {
        let write = || amnesia::write(&self.disk, &self.path, self.identity.node, reason);
        match write() {
            // A full disk must not keep a node alive that has to die: the reserve is for this,
            // too.
            Err(Error::NoSpace { .. }) => {
                self.disk.remove_file(&self.path.join(space::FILE))?;
                write()
            }
            written => written,
        }
    }

    /// Why this node id must not vote or serve, if so: a tombstone, or state that is missing or
    /// damaged.
    pub fn condemned(&self) -> Result<Option<String>, Error> {
        if let Tombstone::Holds(reason) = amnesia::read(&self.path, self.identity.node)? {
            return Ok(Some(reason));
        }
        Ok(match &*self.current.lock() {
            Current::Generation(_) => None,
            Current::Lost(reason) => Some(reason.clone()),
        })
    }

    /// Notes, durably, that damage was met while the state was served; any other error is none of its
    /// concern. The first reason stays.
    pub fn doubt(&self, met: &Error) -> Result<(), Error> {
        let Error::Damaged(reason) = met else {
            return Ok(());
        };
        doubt::write(&self.disk, &self.path, self.identity.node, reason)
    }

    /// Why the state is in doubt: its node id should come back under another, if the others can take
    /// it back. It may start with what it has if they can't.
    pub fn doubted(&self) -> Result<Option<String>, Error> {
        doubt::read(&self.path, self.identity.node)
    }

    /// Notes, durably, that a log was begun under this node id. To be called when there is one, and
    /// before anything in it is acknowledged.
    pub fn note_log_begun(&self) -> Result<(), Error> {
        begun::write(&self.disk, &self.path, self.identity.node)
    }

    /// Whether a log was begun under this node id: then there must be one.
    pub fn log_was_begun(&self) -> Result<bool, Error> {
        begun::read(&self.path, self.identity.node)
    }

    /// Empties log and state and hands the directory to `identity`, a node id that was never used,
    /// of the same cluster. After a crash the directory is condemned under the old id, or empty
    /// under the new one.
    pub fn reset_identity(&mut self, identity: Identity) -> Result<(), Error> {
        assert_ne!(identity.node, self.identity.node, "a node id is never used again");
        assert_eq!(identity.cluster, self.identity.cluster, "a directory stays in its cluster");
        identity.check(&self.path)?;
        // The tombstone first: until the new identity is there, what is left of the old one is not
        // to be trusted. The identity last: its rename is the moment at which the tombstone loses
        // its meaning.
        self.condemn("emptied, to come back under a new node id")?;
        *self.current.get_mut() = Current::Lost("being emptied".to_owned());
        for root in [self.log(), self.snapshots(), self.state_root()] {
            if root.exists() {
                self.disk.empty(&root)?;
            } else {
                self.disk.make_directory(&root)?;
            }
        }
        state::create(&self.disk, &self.state_root())?;
        self.disk.sync_directory(&self.path)?;
        self.disk.replace(&self.path, identity::FILE, &identity.encode())?;
        self.identity = identity;
        *self.current.get_mut() = Current::Generation(Generation::FIRST);
        doubt::remove(&self.disk, &self.path)?;
        amnesia::remove(&self.disk, &self.path)
    }

    fn state_root(&self) -> PathBuf {
        self.path.join("state")
    }
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Directory({}, {:?})", self.path.display(), self.identity)
    }
}

/// A directory in which a state is being received. Dropped, it is removed with what is in it.
#[derive(Debug)]
pub struct Incoming {
    path: PathBuf,
    disk: Disk,
    adopted: bool,
    _slot: Slot,
}

impl Incoming {
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Makes every file in it durable, and its entries.
    fn sync(&self) -> Result<(), Error> {
        for name in disk::names(&self.path)? {
            let path = self.path.join(name);
            if !path.is_file() {
                let what = self.path.display().to_string();
                let reason = format!("{} is no plain file", path.display());
                return Err(Error::Snapshot { what, reason });
            }
            self.disk.sync_file(&path)?;
        }
        self.disk.sync_directory(&self.path)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if self.adopted {
            return;
        }
        // What stays behind is removed when the directory is opened next.
        if let Err(error) = self.disk.remove_tree(&self.path) {
            tracing::warn!(%error, "a snapshot that was not adopted stays on the disk");
        }
    }
}

/// One of [`INCOMING_MAX`].
#[derive(Debug)]
struct Slot(Arc<AtomicUsize>);

impl Slot {
    fn take(receiving: &Arc<AtomicUsize>) -> Option<Slot> {
        let more = |count| (count < INCOMING_MAX).then_some(count + 1);
        receiving.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).ok()?;
        Some(Slot(receiving.clone()))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

enum Found {
    Owned(Identity),
    /// Nothing, or the beginnings of a creation that was cut short.
    Nothing,
}

/// What is at `path`, without touching it.
fn look(path: &Path) -> Result<Found, Error> {
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return Err(refused(path, "is no directory; choose another --data-dir")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(inaccessible(path, error)),
    }
    if let Some(identity) = Identity::read(path)? {
        return Ok(Found::Owned(identity));
    }
    for name in disk::names(path)? {
        if BESIDE.contains(&&*name) {
            continue;
        }
        if !is_beginning(path, &name)? {
            let reason = format!(
                "holds {name:?} but no identity file, so it is no data directory of Kontiki or \
                 has lost its owner; choose an empty directory (--data-dir), or restore identity \
                 from a backup"
            );
            return Err(refused(path, reason));
        }
    }
    Ok(Found::Nothing)
}

/// Whether a creation that was cut short may have left this, with nothing in it yet.
fn is_beginning(path: &Path, name: &str) -> Result<bool, Error> {
    let is_empty = |path: &Path| Ok::<bool, Error>(path.is_dir() && disk::names(path)?.is_empty());
    match name {
        lock::FILE | "identity.new" => Ok(true),
        "log" => is_empty(&path.join(name)),
        "state" => {
            let state = path.join(name);
            if !state.is_dir() {
                return Ok(false);
            }
            for name in disk::names(&state)? {
                let expected = match &*name {
                    state::FILE | "CURRENT.new" => true,
                    name => Generation::parse(name).is_some() && is_empty(&state.join(name))?,
                };
                if !expected {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Creates everything in the empty directory `path`; the identity comes last and makes it valid.
fn fill(disk: &Disk, path: &Path, identity: &Identity) -> Result<(), Error> {
    let state = path.join("state");
    disk.remove_tree(&state)?;
    state::create(disk, &state)?;
    let log = path.join("log");
    if !log.exists() {
        disk.make_directory(&log)?;
    }
    disk.sync_directory(path)?;
    disk.replace(path, identity::FILE, &identity.encode())
}

/// Puts an owned directory in order: finishes a reset, removes leftovers, finds the current
/// generation.
fn settle(disk: &Disk, path: &Path, identity: &Identity) -> Result<Current, Error> {
    disk.remove_file(&path.join("identity.new"))?;
    disk.remove_file(&path.join("amnesia.new"))?;
    disk.remove_file(&path.join("begun.new"))?;
    disk.remove_file(&path.join("doubt.new"))?;
    if amnesia::read(path, identity.node)? == Tombstone::Outlived {
        amnesia::remove(disk, path)?;
    }
    for name in ["run", "snapshots"] {
        let directory = path.join(name);
        if !directory.exists() {
            disk.make_directory(&directory)?;
        }
    }
    disk.empty(&path.join("snapshots"))?;
    if !path.join("log").is_dir() {
        return Ok(Current::Lost(format!("{} is missing", path.join("log").display())));
    }
    let state = path.join("state");
    match state::current(&state)? {
        Ok(generation) => {
            state::sweep_all(disk, &state, generation)?;
            Ok(Current::Generation(generation))
        }
        // Leftovers stay: whoever wants to repair this by hand needs all there is.
        Err(reason) => Ok(Current::Lost(reason)),
    }
}

fn inaccessible(path: &Path, error: std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::PermissionDenied {
        return refused(path, "permission denied; start as the user who owns it");
    }
    disk::failed("look at", path, error)
}
