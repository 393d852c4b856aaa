//! A snapshot in one file, for backups. The bytes are drawn in `docs/formats/snapshot.md`.
//!
//! Keeps: every byte is covered by the checksum at the end, and each chunk by its own, so that
//! damage is found where it is. The same snapshot gives the same bytes.
//! Never: hands out a snapshot before the trailer was seen, or anything that follows it.

use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use super::chunk::{self, Checker, Chunk, Position};
use super::manifest::{self, Manifest, refused};
use super::{Receiver, Snapshot};
use crate::directory::{Incoming, disk};
use crate::error::Error;

const MAGIC: [u8; 8] = *b"KONTIKI\x1a";
const VERSION: u8 = 1;
const CHUNK: u8 = 1;
const END: u8 = 2;
const WHAT: &str = "archive";

/// Writes `snapshot` as one file and returns its length. Syncing the file is the caller's affair.
pub fn write(snapshot: &Arc<Snapshot>, to: impl Write) -> Result<u64, Error> {
    let mut to = Summed { inner: to, hash: Xxh3::new(), bytes: 0 };
    let failed = |error| disk::failed("write", WHAT.as_ref(), error);
    to.put_head(&snapshot.manifest().encode()).map_err(failed)?;
    for chunk in snapshot.chunks(Position::START, chunk::BYTES_DEFAULT)? {
        to.put_chunk(&chunk?).map_err(failed)?;
    }
    to.put_end(snapshot.manifest().total()).map_err(failed)?;
    Ok(to.bytes)
}

/// Reads an archive into `incoming` and returns what it holds, when all of it was right. After an
/// error nothing is left.
pub fn read(from: impl Read, incoming: Incoming) -> Result<(Manifest, Incoming), Error> {
    let mut archive = Archive::open(from)?;
    let mut receiver = Receiver::new(archive.manifest.clone(), incoming)?;
    while let Some(chunk) = archive.next()? {
        receiver.take(&chunk)?;
    }
    Ok((archive.manifest, receiver.finish()?))
}

/// Checks all of an archive and says what it holds.
pub fn inspect(from: impl Read) -> Result<Manifest, Error> {
    let mut archive = Archive::open(from)?;
    let mut checker = Checker::new(&archive.manifest);
    let wrong = |reason| refused(&WHAT, reason);
    while let Some(chunk) = archive.next()? {
        checker.take(&archive.manifest, &chunk).map_err(wrong)?;
    }
    checker.finish(&archive.manifest).map_err(wrong)?;
    Ok(archive.manifest)
}

/// An archive as far as it was read.
struct Archive<R> {
    from: Summed<R>,
    manifest: Manifest,
}

impl<R: Read> Archive<R> {
    fn open(from: R) -> Result<Archive<R>, Error> {
        let mut from = Summed { inner: from, hash: Xxh3::new(), bytes: 0 };
        if from.get::<8>()? != MAGIC {
            return Err(refused(&WHAT, "is no snapshot of Kontiki".to_owned()));
        }
        let [version] = from.get()?;
        if version != VERSION {
            let reason = format!("is of version {version}, this release knows {VERSION}");
            return Err(refused(&WHAT, reason));
        }
        let bytes = u32::from_le_bytes(from.get()?);
        let manifest = Manifest::decode(&from.get_bytes(bytes, manifest::BYTES_MAX)?)?;
        Ok(Archive { from, manifest })
    }

    /// The next chunk, or `None` after a trailer that is right.
    fn next(&mut self) -> Result<Option<Chunk>, Error> {
        match self.from.get()? {
            [CHUNK] => {
                let file = u32::from_le_bytes(self.from.get()?);
                let offset = u64::from_le_bytes(self.from.get()?);
                let bytes = u32::from_le_bytes(self.from.get()?);
                let checksum = u32::from_le_bytes(self.from.get()?);
                let bytes = self.from.get_bytes(bytes, chunk::BYTES_MAX)?;
                Ok(Some(Chunk { file, offset, bytes, checksum }))
            }
            [END] => self.end().map(|()| None),
            [other] => Err(refused(&WHAT, format!("is damaged: a part of kind {other}"))),
        }
    }

    fn end(&mut self) -> Result<(), Error> {
        let total = u64::from_le_bytes(self.from.get()?);
        let found = self.from.hash.digest();
        let stated = u64::from_le_bytes(self.from.get()?);
        if found != stated || total != self.manifest.total() {
            return Err(refused(&WHAT, "is damaged: the checksum does not match".to_owned()));
        }
        let mut more = [0];
        match self.from.inner.read(&mut more) {
            Ok(0) => Ok(()),
            Ok(_) => Err(refused(&WHAT, "is damaged: something follows its end".to_owned())),
            Err(error) => Err(unreadable(error)),
        }
    }
}

/// A stream with the checksum of all that has passed.
struct Summed<S> {
    inner: S,
    hash: Xxh3,
    bytes: u64,
}

impl<W: Write> Summed<W> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        self.inner.write_all(bytes)
    }

    fn put_head(&mut self, manifest: &[u8]) -> io::Result<()> {
        self.put(&MAGIC)?;
        self.put(&[VERSION])?;
        self.put(&length(manifest.len()).to_le_bytes())?;
        self.put(manifest)
    }

    fn put_chunk(&mut self, chunk: &Chunk) -> io::Result<()> {
        self.put(&[CHUNK])?;
        self.put(&chunk.file.to_le_bytes())?;
        self.put(&chunk.offset.to_le_bytes())?;
        self.put(&length(chunk.bytes.len()).to_le_bytes())?;
        self.put(&chunk.checksum.to_le_bytes())?;
        self.put(&chunk.bytes)
    }

    fn put_end(&mut self, total: u64) -> io::Result<()> {
        self.put(&[END])?;
        self.put(&total.to_le_bytes())?;
        let checksum = self.hash.digest();
        self.put(&checksum.to_le_bytes())?;
        self.inner.flush()
    }
}

impl<R: Read> Summed<R> {
    fn get<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn get_bytes(&mut self, bytes: u32, bytes_max: usize) -> Result<Bytes, Error> {
        let bytes = bytes as usize;
        if bytes > bytes_max {
            let reason = format!("is damaged: a part of {bytes} bytes, at most {bytes_max}");
            return Err(refused(&WHAT, reason));
        }
        let mut buffer = vec![0; bytes];
        self.fill(&mut buffer)?;
        Ok(buffer.into())
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        self.inner.read_exact(buffer).map_err(unreadable)?;
        self.hash.update(buffer);
        self.bytes += buffer.len() as u64;
        Ok(())
    }
}

fn unreadable(error: io::Error) -> Error {
    if error.kind() == ErrorKind::UnexpectedEof {
        return refused(&WHAT, format!("is cut off, or damaged: {error}"));
    }
    refused(&WHAT, format!("cannot be read: {error}"))
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("manifests and chunks are bounded far below")
}
