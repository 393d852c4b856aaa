//! The few things this crate does to files itself, each one step.
//!
//! Keeps: what is created is readable by its owner alone (0700, 0600); a file is replaced by
//! writing another, syncing it, renaming it over the old one and syncing the directory.
//! Never: repeats a sync that failed. After an error the kernel may have dropped the dirty pages
//! and marked them clean, so a second success would be a lie.
//!
//! Every step passes [`Disk::step`], where tests cut the power.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::Error;

/// Hands on to the operating system. A value, so that tests can hand it a hook.
#[derive(Clone, Default)]
pub(crate) struct Disk {
    #[cfg(test)]
    pub(crate) hook: Option<std::sync::Arc<Hook>>,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Disk")
    }
}

/// Asked before each step: the act, the path it changes, and for a rename the path it comes from.
/// An error means that the process died before the step.
#[cfg(test)]
pub(crate) type Hook = dyn Fn(Act, &Path, Option<&Path>) -> io::Result<()> + Send + Sync;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    MakeDirectory,
    Write,
    SyncFile,
    SyncDirectory,
    Rename,
    Remove,
}

impl Disk {
    /// A directory that did not exist; its entry is durable once the parent is synced.
    pub(crate) fn make_directory(&self, path: &Path) -> Result<(), Error> {
        self.step(Act::MakeDirectory, path, None)
            .and_then(|()| DirBuilder::new().mode(0o700).create(path))
            .map_err(|error| failed("create directory", path, error))
    }

    /// The directory and what is missing above it, durable when it returns.
    pub(crate) fn make_directories(&self, path: &Path) -> Result<(), Error> {
        let mut missing: Vec<&Path> = path
            .ancestors()
            .take_while(|one| !one.as_os_str().is_empty() && !one.exists())
            .collect();
        while let Some(one) = missing.pop() {
            self.make_directory(one)?;
            if let Some(parent) = one.parent() {
                let here = Path::new(".");
                self.sync_directory(if parent.as_os_str().is_empty() { here } else { parent })?;
            }
        }
        Ok(())
    }

    /// Puts `bytes` in place of the file `name` in `directory`: after a crash the old or the new
    /// is there.
    pub(crate) fn replace(&self, directory: &Path, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let target = directory.join(name);
        let fresh = directory.join(format!("{name}.new"));
        self.remove_file(&fresh)?;
        self.write(&fresh, bytes)?;
        self.rename(&fresh, &target)?;
        self.sync_directory(directory)
    }

    /// A file that did not exist, durable but for its directory entry.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let written = self.step(Act::Write, path, None).and_then(|()| {
            let mut file = create_new(path)?;
            file.write_all(bytes)?;
            self.step(Act::SyncFile, path, None)?;
            file.sync_all()
        });
        written.map_err(|error| failed("write", path, error))
    }

    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        self.step(Act::Rename, to, Some(from))
            .and_then(|()| fs::rename(from, to))
            .map_err(|error| failed("rename to", to, error))
    }

    pub(crate) fn sync_file(&self, path: &Path) -> Result<(), Error> {
        self.step(Act::SyncFile, path, None)
            .and_then(|()| File::open(path)?.sync_all())
            .map_err(|error| failed("sync", path, error))
    }

    pub(crate) fn sync_directory(&self, path: &Path) -> Result<(), Error> {
        self.step(Act::SyncDirectory, path, None)
            .and_then(|()| File::open(path)?.sync_all())
            .map_err(|error| failed("sync directory", path, error))
    }

    /// A file that is not there is as good as removed.
    pub(crate) fn remove_file(&self, path: &Path) -> Result<(), Error> {
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            _ => self.step(Act::Remove, path, None),
        }
        .and_then(|()| fs::remove_file(path))
        .map_err(|error| failed("remove", path, error))
    }

    /// A file or a whole tree. Links are removed, not followed.
    pub(crate) fn remove_tree(&self, path: &Path) -> Result<(), Error> {
        let removed = match fs::symlink_metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => Err(error),
            Ok(found) => self.step(Act::Remove, path, None).and_then(|()| {
                if found.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
            }),
        };
        removed.map_err(|error| failed("remove", path, error))
    }

    /// Everything in a directory but not the directory, which may be where a disk is mounted.
    pub(crate) fn empty(&self, directory: &Path) -> Result<(), Error> {
        for name in names(directory)? {
            if name != "lost+found" {
                self.remove_tree(&directory.join(name))?;
            }
        }
        self.sync_directory(directory)
    }

    #[cfg(not(test))]
    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "the hook exists in tests only"
    )]
    fn step(&self, _act: Act, _path: &Path, _from: Option<&Path>) -> io::Result<()> {
        Ok(())
    }

    #[cfg(test)]
    fn step(&self, act: Act, path: &Path, from: Option<&Path>) -> io::Result<()> {
        self.hook.as_ref().map_or(Ok(()), |hook| hook(act, path, from))
    }
}

/// A file that did not exist, for its owner alone.
pub(crate) fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// The names in a directory, sorted. Names that are no UTF-8 are not ours and appear with marks in
/// them.
pub(crate) fn names(directory: &Path) -> Result<Vec<String>, Error> {
    let listed: io::Result<Vec<String>> = fs::read_dir(directory).and_then(|entries| {
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    });
    let mut listed = listed.map_err(|error| failed("list", directory, error))?;
    listed.sort();
    Ok(listed)
}

/// A small file, or `None` where there is none. What is longer than `bytes_max` is cut there: it
/// cannot be right, and whoever checks its seal will see that.
pub(crate) fn read_small(path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, Error> {
    use std::io::Read;
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|error| failed("open", path, error))?,
    };
    let mut bytes = Vec::new();
    file.take(bytes_max).read_to_end(&mut bytes).map_err(|error| failed("read", path, error))?;
    Ok(Some(bytes))
}

/// An error of the operating system, with what was being done to which path.
pub(crate) fn failed(doing: &str, path: &Path, error: io::Error) -> Error {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Error::NoSpace { path: PathBuf::from(path), free: 0, reserved: 0 }
        }
        _ => Error::engine(format!("{doing} {}: {error}", path.display()), error),
    }
}
