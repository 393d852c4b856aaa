//! The whole store at one moment, as files: taken, sent, received, kept in one file.
//!
//! A snapshot is what the engine's checkpoint wrote (links, where the file system can) with a
//! [`Manifest`].
//! [`Chunks`] reads it in pieces, [`Receiver`] puts the pieces into a directory that
//! [`Directory::adopt`](crate::directory::Directory::adopt) makes the state, [`archive`] is the
//! one-file form. The bytes are drawn in `docs/formats/snapshot.md`.
//!
//! Keeps: what a snapshot says of itself was read from its own files, not from the store that went
//! on meanwhile. It stays on the disk while somebody reads it, and goes when nobody does.
//! Never: holds more than a chunk in memory, or holds up writes.

pub mod archive;
pub mod chunk;
pub mod manifest;

mod receiver;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

pub use self::chunk::{Chunk, Chunks, Position};
pub use self::manifest::{Facts, Manifest, Piece};
pub use self::receiver::Receiver;

use self::manifest::refused;
use crate::directory::disk::Disk;
use crate::engine::Engine;
use crate::error::Error;

/// Most snapshots that are on the disk at one time: the newest, the next one while it is taken,
/// and one that a slow peer still reads.
pub const KEPT_MAX: usize = 3;

/// Reads from the files of a snapshot which moment they show.
pub type ReadFacts<'f> = &'f dyn Fn(&Path) -> Result<Facts, Error>;

/// A snapshot on the disk. Removed when the last who has it lets go.
pub struct Snapshot {
    path: PathBuf,
    manifest: Manifest,
}

impl Snapshot {
    /// Takes a snapshot of `engine` into `directory`, which must not exist and is left complete or
    /// not at all. Reads all of it once, for the checksums.
    pub fn take(
        engine: &dyn Engine,
        directory: &Path,
        facts: ReadFacts,
    ) -> Result<Manifest, Error> {
        let manifest = engine
            .checkpoint(directory)
            .and_then(|()| facts(directory))
            .and_then(|facts| Manifest::describe(directory, facts));
        if manifest.is_err() {
            Disk::default().remove_tree(directory)?;
        }
        manifest
    }

    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its chunks from `start` on, `bytes` in each (see [`chunk::BYTES_DEFAULT`]).
    pub fn chunks(self: &Arc<Self>, start: Position, bytes: usize) -> Result<Chunks, Error> {
        Chunks::new(self.clone(), start, bytes)
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let facts = self.manifest.facts();
        write!(f, "Snapshot({}, applied {:?})", self.path.display(), facts.applied)
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        // What stays behind is removed when the data directory is opened next.
        if let Err(error) = Disk::default().remove_tree(&self.path) {
            tracing::warn!(%error, "a snapshot stays on the disk");
        }
    }
}

/// The snapshots of one store: the newest, and those that are still being read.
pub struct Shelf {
    root: PathBuf,
    /// Held while a snapshot is taken: one at a time.
    taking: Mutex<u64>,
    shelf: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    newest: Option<Arc<Snapshot>>,
    on_disk: Vec<Weak<Snapshot>>,
}

impl Shelf {
    /// A shelf in `root`, which exists
    /// ([`Directory::snapshots`](crate::directory::Directory::snapshots)). What lies there was
    /// left by an earlier process and is removed.
    pub fn open(root: &Path) -> Result<Shelf, Error> {
        Disk::default().empty(root)?;
        Ok(Shelf { root: root.to_owned(), taking: Mutex::new(0), shelf: Mutex::default() })
    }

    #[must_use]
    pub fn newest(&self) -> Option<Arc<Snapshot>> {
        self.shelf.lock().newest.clone()
    }

    /// Takes a snapshot and keeps it in place of the newest. Refused while [`KEPT_MAX`] would be
    /// exceeded.
    pub fn take(&self, engine: &dyn Engine, facts: ReadFacts) -> Result<Arc<Snapshot>, Error> {
        let mut number = self.taking.lock();
        let on_disk = self.shelf.lock().count();
        if on_disk >= KEPT_MAX {
            let reason =
                format!("{on_disk} are there and still read, at most {KEPT_MAX}; try later");
            return Err(refused(&self.root.display(), reason));
        }
        *number += 1;
        let path = self.root.join(number.to_string());
        let manifest = Snapshot::take(engine, &path, facts)?;
        let taken = Arc::new(Snapshot { path, manifest });
        let replaced = {
            let mut shelf = self.shelf.lock();
            shelf.on_disk.push(Arc::downgrade(&taken));
            shelf.newest.replace(taken.clone())
        };
        // Its files go here, if nobody reads them, and not under the lock.
        drop(replaced);
        Ok(taken)
    }

    /// Lets go of the newest, to give its space back or because the store was replaced.
    pub fn clear(&self) {
        let newest = self.shelf.lock().newest.take();
        drop(newest);
    }
}

impl Kept {
    fn count(&mut self) -> usize {
        self.on_disk.retain(|one| one.strong_count() > 0);
        self.on_disk.len()
    }
}

impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shelf({}, newest {:?})", self.root.display(), self.newest())
    }
}
