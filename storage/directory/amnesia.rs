//! The tombstone: this node id lost something it had acknowledged and must never vote or serve
//! again.
//!
//! Keeps: once written it holds until the directory belongs to another node id. Damage to the
//! tombstone does not lift it.

use std::path::Path;

use super::disk::{self, Disk};
use super::seal::{self, seal, to_line, unseal};
use crate::error::Error;

pub(super) const FILE: &str = "amnesia";
const TITLE: &str = "amnesia";
const FORMAT: u32 = 1;

/// What a tombstone says, if there is one.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Tombstone {
    None,
    /// Speaks of the node that owns the directory, or can't be read and so may.
    Holds(String),
    /// Speaks of the node that owned the directory before: its last reset came to an end.
    Outlived,
}

/// Condemns `node`. A tombstone that holds already stays as it is: the first reason is the cause.
pub(super) fn write(disk: &Disk, path: &Path, node: u64, reason: &str) -> Result<(), Error> {
    if let Tombstone::Holds(_) = read(path, node)? {
        return Ok(());
    }
    let reason = to_line(reason);
    let reason = if reason.is_empty() { "no reason was given" } else { &reason };
    let lines = [("node", &*format!("{node:016x}")), ("reason", reason)];
    disk.replace(path, FILE, &seal(TITLE, FORMAT, &lines))
}

pub(super) fn read(path: &Path, node: u64) -> Result<Tombstone, Error> {
    let file = path.join(FILE);
    let Some(bytes) = disk::read_small(&file, seal::BYTES_MAX)? else {
        return Ok(Tombstone::None);
    };
    let unreadable = |what: String| format!("{} {what}", file.display());
    let sealed = match unseal(TITLE, &bytes) {
        Ok(sealed) => sealed,
        Err(what) => return Ok(Tombstone::Holds(unreadable(what))),
    };
    match (sealed.number("node"), sealed.get("reason")) {
        (Some(other), _) if other != node => Ok(Tombstone::Outlived),
        (Some(_), Some(reason)) => Ok(Tombstone::Holds(reason.to_owned())),
        _ => Ok(Tombstone::Holds(unreadable("is damaged".to_owned()))),
    }
}

pub(super) fn remove(disk: &Disk, path: &Path) -> Result<(), Error> {
    disk.remove_file(&path.join(FILE))?;
    disk.sync_directory(path)
}
