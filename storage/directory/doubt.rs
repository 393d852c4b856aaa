//! The note that damage was met while the state was served.
//!
//! It is weaker than a tombstone: what was read is damaged, what was acknowledged may all still be there in
//! the log, and without the others' quorum this copy is better than none. So who finds it asks for a place
//! under a new node id before it starts with what it has.
//!
//! Keeps: it stands until the directory belongs to another node id, or another state is adopted.

use std::path::Path;

use super::disk::{self, Disk};
use super::seal::{self, seal, to_line, unseal};
use crate::error::Error;

pub(super) const FILE: &str = "doubt";
const TITLE: &str = "doubt";
const FORMAT: u32 = 1;

/// The first reason stays.
pub(super) fn write(disk: &Disk, path: &Path, node: u64, reason: &str) -> Result<(), Error> {
    if read(path, node)?.is_some() {
        return Ok(());
    }
    let lines = [("node", &*format!("{node:016x}")), ("reason", &to_line(reason))];
    disk.replace(path, FILE, &seal(TITLE, FORMAT, &lines))
}

/// Why `node`'s state is in doubt. What can't be read may say so.
pub(super) fn read(path: &Path, node: u64) -> Result<Option<String>, Error> {
    let file = path.join(FILE);
    let Some(bytes) = disk::read_small(&file, seal::BYTES_MAX)? else {
        return Ok(None);
    };
    let sealed = match unseal(TITLE, &bytes) {
        Ok(sealed) => sealed,
        Err(what) => return Ok(Some(format!("{} {what}", file.display()))),
    };
    let of = sealed.number("node");
    Ok((of == Some(node)).then(|| sealed.get("reason").unwrap_or_default().to_owned()))
}

pub(super) fn remove(disk: &Disk, path: &Path) -> Result<(), Error> {
    if !path.join(FILE).exists() {
        return Ok(());
    }
    disk.remove_file(&path.join(FILE))?;
    disk.sync_directory(path)
}
