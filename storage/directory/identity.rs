//! Whose data a directory holds: the file `identity`, drawn in `docs/formats/directory.md`.
//!
//! Keeps: a directory has one owner, written when all else is in place and never half-written.
//! Never: guesses. What cannot be read in full is refused, with what to do about it.

use std::path::Path;

use super::disk;
use super::seal::{self, is_line, seal, unseal};
use crate::error::Error;

/// Format of data directories that this release writes; it reads every earlier one.
pub const FORMAT: u32 = 1;

pub(super) const FILE: &str = "identity";
const TITLE: &str = "directory";
const NAME_BYTES_MAX: usize = 255;

/// The owner of a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's id, never zero.
    pub cluster: u64,
    /// The master's id, never zero and never used for other data.
    pub node: u64,
    /// The master's name when the directory was created.
    pub name: String,
    /// The release that created the directory.
    pub release: String,
}

/// What whoever opens a directory knows about it already; `None` is satisfied by anything.
#[derive(Clone, Debug, Default)]
pub struct Expect {
    pub cluster: Option<u64>,
    pub node: Option<u64>,
    /// A name that was asked for, not one that was made up from the host's.
    pub name: Option<String>,
    pub network_file_system: NetworkFileSystem,
}

/// What to do about data on a network file system: locks and syncs may not mean there what they
/// must.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NetworkFileSystem {
    #[default]
    Refuse,
    Accept,
}

impl Identity {
    /// Whether it can be written at all. A name comes from the user, so it may be unusable.
    pub(super) fn check(&self, path: &Path) -> Result<(), Error> {
        assert!(self.cluster != 0 && self.node != 0, "ids are never zero: {self:?}");
        if self.name.is_empty() || self.name.len() > NAME_BYTES_MAX || !is_line(&self.name) {
            let reason = format!(
                "the name {:?} cannot be used; give one of 1 to {NAME_BYTES_MAX} bytes without \
                 control characters (--name)",
                self.name
            );
            return Err(refused(path, reason));
        }
        assert!(is_line(&self.release), "release {:?}", self.release);
        Ok(())
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let lines = [
            ("cluster", &*format!("{:016x}", self.cluster)),
            ("node", &*format!("{:016x}", self.node)),
            ("name", &*self.name),
            ("release", &*self.release),
        ];
        seal(TITLE, FORMAT, &lines)
    }

    /// The identity in the directory `path`, or `None` where there is no such file.
    pub(super) fn read(path: &Path) -> Result<Option<Identity>, Error> {
        let file = path.join(FILE);
        let Some(bytes) = disk::read_small(&file, seal::BYTES_MAX)? else {
            return Ok(None);
        };
        match Identity::decode(&bytes) {
            Ok(identity) => Ok(Some(identity)),
            Err(reason) => Err(refused(&file, reason)),
        }
    }

    fn decode(bytes: &[u8]) -> Result<Identity, String> {
        let remedy =
            "restore this file from a backup, or start with an empty directory as a new member";
        let sealed = unseal(TITLE, bytes).map_err(|what| format!("{what}; {remedy}"))?;
        if sealed.format != FORMAT {
            let by =
                sealed.get("release").map(|it| format!(" by release {it}")).unwrap_or_default();
            return Err(format!(
                "was written in format {}{by}, this release knows up to {FORMAT}; start that \
                 release or a newer one",
                sealed.format
            ));
        }
        let id = |name| sealed.number(name).filter(|id| *id != 0);
        let text = |name| sealed.get(name).filter(|text| is_line(text)).map(str::to_owned);
        let whole = || {
            Some(Identity {
                cluster: id("cluster")?,
                node: id("node")?,
                name: text("name")?,
                release: text("release")?,
            })
        };
        // Only one encoding is ours: anything else was not written by us, whatever its checksum
        // says.
        whole()
            .filter(|identity| identity.encode() == bytes)
            .ok_or_else(|| format!("is damaged; {remedy}"))
    }
}

impl Expect {
    pub(super) fn check(&self, path: &Path, found: &Identity) -> Result<(), Error> {
        if let Some(cluster) = self.cluster.filter(|cluster| *cluster != found.cluster) {
            let reason = format!(
                "belongs to cluster {:x}, not to cluster {cluster:x}; use another --data-dir, or \
                 start with the settings of cluster {:x}",
                found.cluster, found.cluster
            );
            return Err(refused(path, reason));
        }
        if let Some(node) = self.node.filter(|node| *node != found.node) {
            let reason = format!(
                "belongs to node {:x} ({}), not to node {node:x}; a directory is never handed on, \
                 use the one of node {node:x} or an empty one",
                found.node, found.name
            );
            return Err(refused(path, reason));
        }
        if let Some(name) = self.name.as_ref().filter(|name| **name != found.name) {
            let reason = format!(
                "belongs to {:?}, not to {name:?}; start with --name {} or use another --data-dir",
                found.name, found.name
            );
            return Err(refused(path, reason));
        }
        Ok(())
    }
}

pub(super) fn refused(path: &Path, reason: impl Into<String>) -> Error {
    Error::Refused { path: path.to_owned(), reason: reason.into() }
}
