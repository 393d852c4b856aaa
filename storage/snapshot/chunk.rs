//! A snapshot in pieces: their order, reading them, and checking them as they arrive.
//!
//! Keeps: chunks come file after file, offset after offset, without a gap and without repeating. A
//! file of length zero has no chunks. One chunk at a time is in memory.
//! Never: takes a chunk out of turn. Whoever resumes asks for the position first.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use super::Snapshot;
use super::manifest::{Manifest, refused};
use crate::directory::disk;
use crate::error::Error;

/// How much a chunk holds unless told otherwise.
pub const BYTES_DEFAULT: usize = 1 << 20;
/// Most bytes of a chunk, sent or received.
pub const BYTES_MAX: usize = 4 << 20;

/// A piece of one file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Which file of the manifest.
    pub file: u32,
    pub offset: u64,
    pub bytes: Bytes,
    /// CRC32C of `bytes`.
    pub checksum: u32,
}

/// Where the next chunk begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub file: u32,
    pub offset: u64,
}

impl Position {
    pub const START: Position = Position { file: 0, offset: 0 };

    /// The same place, at the start of the next file that has bytes where this is the end of one.
    fn settled(mut self, manifest: &Manifest) -> Position {
        while let Some(file) = manifest.files().get(self.file as usize) {
            if self.offset < file.length {
                break;
            }
            self = Position { file: self.file + 1, offset: 0 };
        }
        self
    }

    fn is_end(self, manifest: &Manifest) -> bool {
        self.file as usize >= manifest.files().len()
    }
}

/// The chunks of a snapshot from some position on. It keeps the snapshot on the disk until it is
/// dropped.
pub struct Chunks {
    snapshot: Arc<Snapshot>,
    next: Position,
    bytes: usize,
    open: Option<Reading>,
    failed: bool,
}

/// The file that is being read.
struct Reading {
    file: File,
    /// Of what was read so far; `None` when the reading began in the middle.
    hash: Option<Xxh3>,
}

impl Chunks {
    /// From `start` on, in chunks of `bytes`, which is brought within the bounds.
    pub(super) fn new(
        snapshot: Arc<Snapshot>,
        start: Position,
        bytes: usize,
    ) -> Result<Chunks, Error> {
        let manifest = snapshot.manifest();
        let file = manifest.files().get(start.file as usize);
        let inside = match file {
            Some(file) => start.offset <= file.length,
            None => start.file as usize == manifest.files().len() && start.offset == 0,
        };
        if !inside {
            let reason = format!("has no position {start:?}");
            return Err(refused(&snapshot.path().display(), reason));
        }
        let next = start.settled(manifest);
        Ok(Chunks { snapshot, next, bytes: bytes.clamp(1, BYTES_MAX), open: None, failed: false })
    }

    fn read(&mut self) -> Result<Chunk, Error> {
        let manifest = self.snapshot.manifest();
        let Position { file: number, offset } = self.next;
        let piece = &manifest.files()[number as usize];
        let path = self.snapshot.path().join(&piece.name);
        let reading = match self.open.take() {
            Some(reading) => self.open.insert(reading),
            None => self.open.insert(Reading::open(&path, offset)?),
        };
        let wanted = (self.bytes as u64).min(piece.length - offset);
        let mut buffer = vec![0; usize::try_from(wanted).expect("at most the bytes of a chunk")];
        reading.file.read_exact(&mut buffer).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                Error::Damaged(format!("{} is shorter than it was", path.display()))
            }
            _ => disk::failed("read", &path, error),
        })?;
        if let Some(hash) = &mut reading.hash {
            hash.update(&buffer);
        }
        self.next.offset += wanted;
        if self.next.offset == piece.length {
            // What is on the disk is, by its links, also what the store reads: damage is not only
            // the receiver's affair, and it is told here, where it can be told from damage on the
            // way.
            let found = reading.hash.as_ref().map(Xxh3::digest);
            if found.is_some_and(|found| found != piece.checksum) {
                return Err(Error::Damaged(format!("{} is not what it was", path.display())));
            }
            self.open = None;
            self.next = self.next.settled(manifest);
        }
        let checksum = crc32c::crc32c(&buffer);
        Ok(Chunk { file: number, offset, bytes: buffer.into(), checksum })
    }
}

impl Iterator for Chunks {
    type Item = Result<Chunk, Error>;

    /// The next chunk. After an error there are no more.
    fn next(&mut self) -> Option<Result<Chunk, Error>> {
        if self.failed || self.next.is_end(self.snapshot.manifest()) {
            return None;
        }
        let chunk = self.read();
        self.failed = chunk.is_err();
        Some(chunk)
    }
}

impl Reading {
    fn open(path: &Path, offset: u64) -> Result<Reading, Error> {
        let mut file = File::open(path).map_err(|error| disk::failed("open", path, error))?;
        file.seek(SeekFrom::Start(offset)).map_err(|error| disk::failed("read", path, error))?;
        Ok(Reading { file, hash: (offset == 0).then(Xxh3::new) })
    }
}

/// Checks that chunks come in order, whole, and make up the files of the manifest. Keeps no bytes.
pub(super) struct Checker {
    next: Position,
    hash: Xxh3,
}

impl Checker {
    pub(super) fn new(manifest: &Manifest) -> Checker {
        Checker { next: Position::START.settled(manifest), hash: Xxh3::new() }
    }

    pub(super) fn position(&self) -> Position {
        self.next
    }

    /// Takes the next chunk, or says what is wrong with it. Wrong content of a file is seen at its
    /// end.
    pub(super) fn take(&mut self, manifest: &Manifest, chunk: &Chunk) -> Result<(), String> {
        let Position { file, offset } = self.next;
        if (chunk.file, chunk.offset) != (file, offset) {
            return Err(format!(
                "file {} at {} was sent, file {file} at {offset} was to come",
                chunk.file, chunk.offset
            ));
        }
        let Some(piece) = manifest.files().get(file as usize) else {
            return Err("more was sent than the manifest names".to_owned());
        };
        let length = chunk.bytes.len() as u64;
        if chunk.bytes.is_empty() || chunk.bytes.len() > BYTES_MAX || length > piece.length - offset
        {
            return Err(format!("{} at {offset}: a chunk of {length} bytes", piece.name));
        }
        if crc32c::crc32c(&chunk.bytes) != chunk.checksum {
            return Err(format!("{} at {offset}: the checksum does not match", piece.name));
        }
        self.hash.update(&chunk.bytes);
        self.next.offset += length;
        if self.next.offset == piece.length {
            if self.hash.digest() != piece.checksum {
                return Err(format!("{} is not the file that the manifest names", piece.name));
            }
            self.hash.reset();
            self.next = self.next.settled(manifest);
        }
        Ok(())
    }

    /// Whether everything has come.
    pub(super) fn finish(&self, manifest: &Manifest) -> Result<(), String> {
        match manifest.files().get(self.next.file as usize) {
            None => Ok(()),
            Some(piece) => Err(format!("it ends in {} at {}", piece.name, self.next.offset)),
        }
    }
}
