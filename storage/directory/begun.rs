//! The note that this node id has begun a log.
//!
//! A log that is gone altogether looks like one that never was. Until the store is durable for the first
//! time nothing else in the directory would tell a member that lost its first votes from a new one.
//!
//! Keeps: once written it holds until the directory belongs to another node id. Damage to it does not
//! lift it.

use std::path::Path;

use super::disk::{self, Disk};
use super::seal::{self, seal, unseal};
use crate::error::Error;

pub(super) const FILE: &str = "begun";
const TITLE: &str = "begun";
const FORMAT: u32 = 1;

/// Written only where it does not stand yet.
pub(super) fn write(disk: &Disk, path: &Path, node: u64) -> Result<(), Error> {
    if read(path, node)? {
        return Ok(());
    }
    disk.replace(path, FILE, &seal(TITLE, FORMAT, &[("node", &*format!("{node:016x}"))]))
}

/// Whether `node` has begun a log here. What can't be read may say so.
pub(super) fn read(path: &Path, node: u64) -> Result<bool, Error> {
    let Some(bytes) = disk::read_small(&path.join(FILE), seal::BYTES_MAX)? else {
        return Ok(false);
    };
    let of = unseal(TITLE, &bytes).ok().and_then(|sealed| sealed.number("node"));
    Ok(of.is_none_or(|of| of == node))
}
