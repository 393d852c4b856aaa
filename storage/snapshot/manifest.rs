//! What a snapshot consists of: its files with their checksums, and the moment it shows.
//!
//! Keeps: a manifest that decodes was written by us and is whole (CRC32C over all of it), and the
//! file names in it are plain names. The bytes are drawn in `docs/formats/snapshot.md`.
//! Never: panics on bytes from elsewhere, or lets them choose how much is allocated.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use xxhash_rust::xxh3::Xxh3;

use crate::directory::disk;
use crate::error::Error;
use crate::revision::{Index, Revision};

/// Most files of a snapshot.
pub const FILES_MAX: usize = 65_536;
/// Most bytes of an encoded manifest: it travels in one message.
pub const BYTES_MAX: usize = 4 << 20;
/// Most bytes of consensus' mark.
const MARK_BYTES_MAX: usize = 1 << 20;
const VERSION: u8 = 1;
/// The version byte and the checksum.
const HEAD_BYTES: usize = 5;

/// The moment that a snapshot shows, as its own rows tell it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The last entry of the log that is in it; `None` before the first.
    pub applied: Option<Index>,
    /// What consensus keeps with the state. Opaque.
    pub mark: Bytes,
    pub revision: Revision,
    pub compacted: Revision,
    /// The store's rolling digest.
    pub digest: u128,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    facts: Facts,
    files: Vec<Piece>,
}

/// One file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub name: String,
    pub length: u64,
    /// XXH3 (64 bits) of the content.
    pub checksum: u64,
}

impl Manifest {
    /// Describes what lies in `directory`. Reads all of it.
    pub(super) fn describe(directory: &Path, facts: Facts) -> Result<Manifest, Error> {
        let describe = |name: String| {
            let (length, checksum) = digest(&directory.join(&name))?;
            Ok(Piece { name, length, checksum })
        };
        let files =
            disk::names(directory)?.into_iter().map(describe).collect::<Result<_, Error>>()?;
        Manifest::new(facts, files).map_err(|reason| refused(&directory.display(), reason))
    }

    pub(super) fn new(facts: Facts, files: Vec<Piece>) -> Result<Manifest, String> {
        if files.len() > FILES_MAX {
            return Err(format!("{} files, at most {FILES_MAX}", files.len()));
        }
        if facts.mark.len() > MARK_BYTES_MAX {
            return Err(format!("a mark of {} bytes, at most {MARK_BYTES_MAX}", facts.mark.len()));
        }
        let mut names = BTreeSet::new();
        let mut total = 0_u64;
        for file in &files {
            if !is_plain(&file.name) {
                return Err(format!("{:?} is no plain file name", file.name));
            }
            if !names.insert(&*file.name) {
                return Err(format!("two files are called {:?}", file.name));
            }
            // So that no sum of lengths and offsets can overflow later on.
            total = total
                .checked_add(file.length)
                .filter(|total| *total <= i64::MAX.cast_unsigned())
                .ok_or("more bytes than a file system holds")?;
        }
        let manifest = Manifest { facts, files };
        let bytes = HEAD_BYTES + manifest.message().encoded_len();
        if bytes > BYTES_MAX {
            return Err(format!("a manifest of {bytes} bytes, at most {BYTES_MAX}"));
        }
        Ok(manifest)
    }

    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    #[must_use]
    pub fn files(&self) -> &[Piece] {
        &self.files
    }

    /// Bytes of all files together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.files.iter().map(|file| file.length).sum()
    }

    #[must_use]
    pub fn encode(&self) -> Bytes {
        let message = self.message();
        let mut body = BytesMut::with_capacity(HEAD_BYTES + message.encoded_len());
        body.put_u8(VERSION);
        body.put_u32_le(0);
        message.encode(&mut body).expect("the buffer grows");
        let checksum = checksum(VERSION, &body[HEAD_BYTES..]);
        body[1..HEAD_BYTES].copy_from_slice(&checksum.to_le_bytes());
        assert!(body.len() <= BYTES_MAX, "a manifest of {} bytes", body.len());
        body.freeze()
    }

    /// Reads what [`Manifest::encode`] wrote; anything else is an error.
    pub fn decode(bytes: &[u8]) -> Result<Manifest, Error> {
        Manifest::parse(bytes).map_err(|reason| refused(&"manifest", reason))
    }

    fn parse(bytes: &[u8]) -> Result<Manifest, String> {
        if bytes.len() > BYTES_MAX {
            return Err(format!("{} bytes, at most {BYTES_MAX}", bytes.len()));
        }
        let Some((head, body)) = bytes.split_first_chunk::<HEAD_BYTES>() else {
            return Err(format!("{} bytes are too few", bytes.len()));
        };
        let [version, stated @ ..] = *head;
        if version != VERSION {
            return Err(format!("version {version}, this release knows {VERSION}"));
        }
        if u32::from_le_bytes(stated) != checksum(version, body) {
            return Err("its checksum does not match".to_owned());
        }
        let message = Stored::decode(body).map_err(|error| error.to_string())?;
        let file = |file: StoredFile| Piece {
            name: file.name,
            length: file.length,
            checksum: file.checksum,
        };
        let facts = Facts {
            applied: message.next.checked_sub(1).map(Index),
            mark: message.mark,
            revision: Revision(message.revision),
            compacted: Revision(message.compacted),
            digest: u128::from(message.digest_high) << 64 | u128::from(message.digest_low),
        };
        Manifest::new(facts, message.files.into_iter().map(file).collect())
    }

    fn message(&self) -> Stored {
        let file = |file: &Piece| StoredFile {
            name: file.name.clone(),
            length: file.length,
            checksum: file.checksum,
        };
        let [high, low] = [64, 0].map(|shift| (self.facts.digest >> shift) as u64);
        Stored {
            next: self.facts.applied.map_or(0, |index| index.next().0),
            mark: self.facts.mark.clone(),
            revision: self.facts.revision.0,
            compacted: self.facts.compacted.0,
            digest_high: high,
            digest_low: low,
            files: self.files.iter().map(file).collect(),
        }
    }
}

#[derive(Clone, PartialEq, Message)]
struct Stored {
    /// The index of the first entry that is not in it.
    #[prost(uint64, tag = "1")]
    next: u64,
    #[prost(bytes = "bytes", tag = "2")]
    mark: Bytes,
    #[prost(uint64, tag = "3")]
    revision: u64,
    #[prost(uint64, tag = "4")]
    compacted: u64,
    #[prost(fixed64, tag = "5")]
    digest_high: u64,
    #[prost(fixed64, tag = "6")]
    digest_low: u64,
    #[prost(message, repeated, tag = "7")]
    files: Vec<StoredFile>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredFile {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint64, tag = "2")]
    length: u64,
    #[prost(fixed64, tag = "3")]
    checksum: u64,
}

/// The checksum covers the version too: a flipped version byte is no other version.
fn checksum(version: u8, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&[version]), body)
}

/// Whether a name can only mean a file in the directory it is joined to.
fn is_plain(name: &str) -> bool {
    let fits = (1..=255).contains(&name.len()) && !name.starts_with('.');
    fits && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// Length and checksum of a file.
fn digest(path: &Path) -> Result<(u64, u64), Error> {
    let failed = |error| disk::failed("read", path, error);
    if !std::fs::symlink_metadata(path).map_err(failed)?.is_file() {
        return Err(refused(&path.display(), "is no plain file".to_owned()));
    }
    let mut file = File::open(path).map_err(failed)?;
    let mut buffer = vec![0; 1 << 18];
    let mut hash = Xxh3::new();
    let mut length = 0;
    loop {
        let read = file.read(&mut buffer).map_err(failed)?;
        if read == 0 {
            return Ok((length, hash.digest()));
        }
        hash.update(&buffer[..read]);
        length += read as u64;
    }
}

pub(super) fn refused(what: &dyn std::fmt::Display, reason: String) -> Error {
    Error::Snapshot { what: what.to_string(), reason }
}
