//! Which of the engine directories under `state/` is the store: the file `CURRENT`.
//!
//! Keeps: `CURRENT` always names a complete generation. It is switched by a rename, after
//! everything in the new generation was synced.
//! Never: takes a generation for the store because it is there. What `CURRENT` does not name is a
//! leftover.

use std::path::{Path, PathBuf};

use super::disk::{self, Disk};
use super::seal::{self, seal, unseal};
use crate::error::Error;

pub(super) const FILE: &str = "CURRENT";
const TITLE: &str = "state";
const FORMAT: u32 = 1;
const INCOMING: &str = "incoming-";

/// The number of an engine directory. Each snapshot that is installed makes the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Generation(pub(super) u64);

impl Generation {
    pub(super) const FIRST: Generation = Generation(1);

    pub(super) fn next(self) -> Generation {
        Generation(self.0 + 1)
    }

    pub(super) fn name(self) -> String {
        format!("{:016x}", self.0)
    }

    /// The generation that goes by this name, if it is such a name.
    pub(super) fn parse(name: &str) -> Option<Generation> {
        let generation = Generation(u64::from_str_radix(name, 16).ok()?);
        (generation.name() == name).then_some(generation)
    }

    pub(super) fn path(self, state: &Path) -> PathBuf {
        state.join(self.name())
    }
}

/// Makes `state` with one empty generation, durable up to the entry of `state` itself.
pub(super) fn create(disk: &Disk, state: &Path) -> Result<(), Error> {
    if !state.exists() {
        disk.make_directory(state)?;
    }
    disk.make_directory(&Generation::FIRST.path(state))?;
    disk.sync_directory(state)?;
    switch(disk, state, Generation::FIRST)
}

/// From here on `generation` is the store.
pub(super) fn switch(disk: &Disk, state: &Path, generation: Generation) -> Result<(), Error> {
    disk.replace(state, FILE, &seal(TITLE, FORMAT, &[("generation", &generation.name())]))
}

/// The generation that is the store; the inner error says why there is none.
pub(super) fn current(state: &Path) -> Result<Result<Generation, String>, Error> {
    let file = state.join(FILE);
    let Some(bytes) = disk::read_small(&file, seal::BYTES_MAX)? else {
        return Ok(Err(format!("{} is missing", file.display())));
    };
    let generation = match decode(&bytes) {
        Ok(generation) => generation,
        Err(reason) => return Ok(Err(format!("{} {reason}", file.display()))),
    };
    let path = generation.path(state);
    if !path.is_dir() {
        return Ok(Err(format!("{} names {}, which is missing", file.display(), path.display())));
    }
    Ok(Ok(generation))
}

fn decode(bytes: &[u8]) -> Result<Generation, String> {
    let sealed = unseal(TITLE, bytes)?;
    if sealed.format != FORMAT {
        return Err(format!("is of format {}, this release knows {FORMAT}", sealed.format));
    }
    sealed
        .get("generation")
        .and_then(Generation::parse)
        .filter(|it| seal(TITLE, FORMAT, &[("generation", &it.name())]) == bytes)
        .ok_or_else(|| "is damaged".to_owned())
}

/// A generation number that no directory has.
pub(super) fn unused(state: &Path) -> Result<Generation, Error> {
    let newest = disk::names(state)?.iter().filter_map(|name| Generation::parse(name)).max();
    Ok(newest.unwrap_or(Generation(0)).next())
}

/// A directory name for something to be received, that no directory has.
pub(super) fn unused_incoming(state: &Path) -> Result<PathBuf, Error> {
    let number = |name: &String| name.strip_prefix(INCOMING)?.parse::<u64>().ok();
    let newest = disk::names(state)?.iter().filter_map(number).max();
    Ok(state.join(format!("{INCOMING}{}", newest.unwrap_or(0) + 1)))
}

/// Removes generations other than `kept`.
pub(super) fn sweep(disk: &Disk, state: &Path, kept: Generation) -> Result<(), Error> {
    let stale = |name: &str| Generation::parse(name).is_some_and(|it| it != kept);
    remove(disk, state, stale)
}

/// Removes what an interrupted install left, when nothing is being received.
pub(super) fn sweep_all(disk: &Disk, state: &Path, kept: Generation) -> Result<(), Error> {
    sweep(disk, state, kept)?;
    remove(disk, state, |name| name.starts_with(INCOMING) || name == "CURRENT.new")
}

fn remove(disk: &Disk, state: &Path, stale: impl Fn(&str) -> bool) -> Result<(), Error> {
    for name in disk::names(state)?.into_iter().filter(|name| stale(name)) {
        disk.remove_tree(&state.join(name))?;
    }
    Ok(())
}
