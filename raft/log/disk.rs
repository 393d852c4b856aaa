//! What the log asks of a disk, and the real one.
//!
//! Two small traits, so that the same log runs over [`RealDisk`] and, in simulation, over
//! [`SimDisk`](super::sim_disk::SimDisk), which loses what was not synced.
//! Never: retries, caches or decides anything; each call is one or two system calls.

use std::any::Any;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FlockOperation};

/// One flat directory of files.
pub trait Disk: Send + Sync {
    /// Keeps every other opener out until the guard is dropped or the process dies.
    /// An error of kind `WouldBlock` means that somebody else has it.
    fn lock(&self) -> io::Result<Box<dyn Any + Send + Sync>>;
    /// Creates a file, or empties the one that is there.
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;
    /// Replaces `to` when it is there. Durable after [`Disk::sync_directory`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Open handles stay readable.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Names, sorted.
    fn list(&self) -> io::Result<Vec<String>>;
    fn sync_directory(&self) -> io::Result<()>;
}

pub trait File: Send + Sync {
    /// Fills the buffer or fails; past the end is `UnexpectedEof`.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of it or fails.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Reserves space and sets the length, so that writes below it can't run out of space.
    fn allocate(&self, bytes: u64) -> io::Result<()>;
    fn length(&self) -> io::Result<u64>;
    fn sync_data(&self) -> io::Result<()>;
}

/// A directory of the local file system.
#[derive(Debug)]
pub struct RealDisk {
    path: PathBuf,
}

const LOCK_NAME: &str = "lock";

impl RealDisk {
    /// Creates the directory when it isn't there.
    pub fn new(path: impl Into<PathBuf>) -> io::Result<RealDisk> {
        let path = path.into();
        if !path.is_dir() {
            fs::create_dir_all(&path)?;
            if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                fs::File::open(parent)?.sync_all()?;
            }
        }
        Ok(RealDisk { path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Disk for RealDisk {
    fn lock(&self) -> io::Result<Box<dyn Any + Send + Sync>> {
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.path.join(LOCK_NAME))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(file))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(self.path.join(name))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new().read(true).write(true).open(self.path.join(name))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            // A name that isn't text is none of ours.
            if let Ok(name) = entry?.file_name().into_string()
                && name != LOCK_NAME
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn sync_directory(&self) -> io::Result<()> {
        fs::File::open(&self.path)?.sync_all()
    }
}

struct RealFile(fs::File);

impl File for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => Ok(()),
            // Some file systems can't reserve; writing zeros reserves on all of them.
            Err(rustix::io::Errno::OPNOTSUPP) => {
                let zeros = vec![0; 1 << 20];
                let mut offset = 0;
                while offset < bytes {
                    let count = zeros.len().min((bytes - offset) as usize);
                    self.0.write_all_at(&zeros[..count], offset)?;
                    offset += count as u64;
                }
                Ok(())
            }
            Err(errno) => Err(errno.into()),
        }
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
