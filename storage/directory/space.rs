//! How much room is left, and what to do when there is none.
//!
//! Keeps: new data is refused while deletes and compaction can still be written. A reserve file
//! holds space back for them; it is given up when the disk is full, and made again when space has
//! returned.
//! Never: asked by `apply`, where every master must decide alike. It is asked before a proposal.
//!
//! ```text
//!     free beyond the reserve
//!     ────────────┬───────────────┬──────────────┬─────────
//!     0        low/4             low           2 × low
//!      reserve is  │ data refused  │ stays as it  │ ample; reserve
//!      given up    │               │ was          │ is made again
//! ```

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::FallocateFlags;

use super::disk::{self, Disk};
use crate::error::Error;

pub(super) const FILE: &str = "reserve";

/// How much is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Size of the reserve file.
    pub reserve_bytes: u64,
    /// Free bytes beyond the reserve below which data is refused.
    pub low_bytes: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options { reserve_bytes: 64 << 20, low_bytes: 256 << 20 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Ample,
    /// Writes that add data are refused.
    Low,
}

/// Free bytes that this user may take on the file system of a directory.
pub type Probe = Arc<dyn Fn(&Path) -> io::Result<u64> + Send + Sync>;

/// The guard over one data directory.
pub struct Space {
    directory: PathBuf,
    reserve: PathBuf,
    options: Options,
    probe: Probe,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    level: Level,
    /// Bytes that the reserve file has on the disk.
    held: u64,
}

/// What the operating system says.
#[must_use]
pub fn statvfs() -> Probe {
    Arc::new(|directory| {
        let found = rustix::fs::statvfs(directory)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    })
}

impl Space {
    /// Guards `directory`, which exists. A full disk is no error: it is what the guard is for.
    pub fn open(directory: &Path, options: Options, probe: Probe) -> Result<Space, Error> {
        assert!(options.low_bytes > 0, "no bytes are kept free: {options:?}");
        let reserve = directory.join(FILE);
        let held = match std::fs::metadata(&reserve) {
            Ok(found) => found.len(),
            Err(error) if error.kind() == ErrorKind::NotFound => 0,
            Err(error) => return Err(disk::failed("look at", &reserve, error)),
        };
        // Low at first, so that the reserve is only made where it leaves enough.
        let state = Mutex::new(State { level: Level::Low, held });
        let space = Space { directory: directory.to_owned(), reserve, options, probe, state };
        let free = space.beyond_reserve(&space.state.lock())?;
        if free >= options.low_bytes {
            space.recover(&mut space.state.lock());
        }
        space.observe()?;
        Ok(space)
    }

    /// Whether `needed` more bytes may be written. The caller is refused, nothing else happens to
    /// it.
    pub fn check(&self, needed: u64) -> Result<(), Error> {
        let (level, free) = self.look()?;
        if level == Level::Ample && free >= self.options.low_bytes.saturating_add(needed) {
            return Ok(());
        }
        Err(Error::NoSpace { path: self.directory.clone(), free, reserved: self.options.low_bytes })
    }

    /// The level when it was last looked at.
    #[must_use]
    pub fn level(&self) -> Level {
        self.state.lock().level
    }

    /// Looks at the disk, gives the reserve up or makes it again. Every [`Space::check`] does; to
    /// be called now and then as well, because a disk also fills and empties while nobody asks.
    pub fn observe(&self) -> Result<Level, Error> {
        self.look().map(|(level, _)| level)
    }

    /// The disk said that it is full, whatever the probe says: gives the reserve up at once.
    pub fn exhausted(&self) -> Result<(), Error> {
        let mut state = self.state.lock();
        state.level = Level::Low;
        self.give_up(&mut state)
    }

    fn look(&self) -> Result<(Level, u64), Error> {
        let mut state = self.state.lock();
        let free = self.beyond_reserve(&state)?;
        let Options { low_bytes, .. } = self.options;
        if free < low_bytes / 4 {
            self.give_up(&mut state)?;
        }
        if free < low_bytes {
            state.level = Level::Low;
        } else if state.level == Level::Low && free >= low_bytes.saturating_mul(2) {
            self.recover(&mut state);
        }
        Ok((state.level, free))
    }

    /// What is free when the reserve is whole: the same number whether or not it is there just
    /// now, so that giving it up does not look like space that returned.
    fn beyond_reserve(&self, state: &State) -> Result<u64, Error> {
        let free = (self.probe)(&self.directory)
            .map_err(|error| disk::failed("look at the space of", &self.directory, error))?;
        let missing = self.options.reserve_bytes.saturating_sub(state.held);
        Ok(free.saturating_sub(missing))
    }

    fn give_up(&self, state: &mut State) -> Result<(), Error> {
        if state.held > 0 {
            tracing::warn!(directory = %self.directory.display(), "disk is full, reserve given up");
        }
        Disk::default().remove_file(&self.reserve)?;
        state.held = 0;
        Ok(())
    }

    /// Makes the reserve whole; only then is there enough again.
    fn recover(&self, state: &mut State) {
        match allocate(&self.reserve, self.options.reserve_bytes) {
            Ok(()) => *state = State { level: Level::Ample, held: self.options.reserve_bytes },
            Err(error) => {
                tracing::warn!(%error, "cannot make {}", self.reserve.display());
                // Half a reserve is none: its space is better used by what is being written.
                let _ = std::fs::remove_file(&self.reserve);
                *state = State { level: Level::Low, held: 0 };
            }
        }
    }
}

impl fmt::Debug for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Space({}, {:?}, {:?})",
            self.directory.display(),
            self.options,
            self.state.lock()
        )
    }
}

/// A file of exactly `bytes` that has its blocks.
fn allocate(path: &Path, bytes: u64) -> io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.set_len(bytes)?;
    if bytes == 0 {
        return Ok(());
    }
    match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) => Ok(()),
        // Not every file system can; writing it out does the same.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => fill(&mut file, bytes),
        Err(error) => Err(error.into()),
    }
}

fn fill(file: &mut File, bytes: u64) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    let mut left = bytes;
    while left > 0 {
        let piece = left.min(zeros.len() as u64);
        let piece_bytes = usize::try_from(piece).expect("at most the buffer's length");
        file.write_all(&zeros[..piece_bytes])?;
        left -= piece;
    }
    Ok(())
}
