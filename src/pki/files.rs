//! Files of certificates and keys.
//!
//! Keeps: a file is replaced as a whole and is durable when the call returns; one that others must not
//! read is never readable by them, not even while it is written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::Error;

/// Larger than any certificate, bundle or key of ours.
const BYTES_MAX: u64 = 1 << 20;

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    Everyone,
    Owner,
}

/// Puts `content` in the place of the file at `path`.
pub fn replace(path: &Path, content: impl AsRef<[u8]>, readers: Readers) -> Result<(), Error> {
    let fresh = path.with_extension("new");
    let write = || -> io::Result<()> {
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mode = if readers == Readers::Owner { 0o600 } else { 0o644 };
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&fresh)?;
        file.write_all(content.as_ref())?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        if let Some(folder) = path.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    };
    write().map_err(|source| Error::File { what: "write", path: path.to_owned(), source })
}

pub fn read(path: &Path) -> Result<String, Error> {
    let failed = |source| Error::File { what: "read", path: path.to_owned(), source };
    let length = fs::metadata(path).map_err(failed)?.len();
    if length > BYTES_MAX {
        return Err(failed(io::Error::other(format!("{length} bytes, at most {BYTES_MAX}"))));
    }
    fs::read_to_string(path).map_err(failed)
}

/// Makes a folder, and those above it, that only the owner enters.
pub fn make_folder(path: &Path) -> Result<(), Error> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| Error::File {
        what: "create",
        path: path.to_owned(),
        source,
    })
}
