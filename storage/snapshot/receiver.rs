//! Writes a snapshot that arrives in chunks into a directory, or leaves nothing.
//!
//! Keeps: what [`Receiver::finish`] hands out is every byte of the manifest's files, durable.
//! Never: goes on after an error. The files are dropped; the sender starts over.

use std::fs::File;
use std::io::Write;

use super::chunk::{Checker, Chunk, Position};
use super::manifest::{Manifest, refused};
use crate::directory::{Incoming, disk};
use crate::error::Error;

pub struct Receiver {
    manifest: Manifest,
    incoming: Incoming,
    checker: Checker,
    /// The file that is being written, with its number.
    open: Option<(u32, File)>,
    failed: bool,
}

impl Receiver {
    /// Begins to receive what `manifest` describes into `incoming`, which is empty.
    pub fn new(manifest: Manifest, incoming: Incoming) -> Result<Receiver, Error> {
        let found = disk::names(incoming.path())?;
        assert!(found.is_empty(), "{} is not empty: {found:?}", incoming.path().display());
        // Files without bytes have no chunks, so they are made now.
        for file in manifest.files().iter().filter(|file| file.length == 0) {
            let path = incoming.path().join(&file.name);
            if file.checksum != xxhash_rust::xxh3::xxh3_64(&[]) {
                let reason = format!("{} has no bytes but a checksum of some", file.name);
                return Err(refused(&"manifest", reason));
            }
            disk::create_new(&path)
                .and_then(|file| file.sync_all())
                .map_err(|error| disk::failed("write", &path, error))?;
        }
        let checker = Checker::new(&manifest);
        Ok(Receiver { manifest, incoming, checker, open: None, failed: false })
    }

    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where the next chunk must begin: here a stream that broke is resumed.
    #[must_use]
    pub fn position(&self) -> Position {
        self.checker.position()
    }

    /// Writes the next chunk. After an error nothing more is taken: drop the receiver.
    pub fn take(&mut self, chunk: &Chunk) -> Result<(), Error> {
        assert!(!self.failed, "a chunk after an error");
        let taken = self.write(chunk);
        self.failed = taken.is_err();
        taken
    }

    fn write(&mut self, chunk: &Chunk) -> Result<(), Error> {
        let here = self.incoming.path();
        self.checker
            .take(&self.manifest, chunk)
            .map_err(|reason| refused(&here.display(), reason))?;
        let path = here.join(&self.manifest.files()[chunk.file as usize].name);
        let failed = |error| disk::failed("write", &path, error);
        let (number, mut file) = match self.open.take() {
            Some(open) => open,
            None => (chunk.file, disk::create_new(&path).map_err(failed)?),
        };
        assert_eq!(number, chunk.file, "a file was left before its end");
        file.write_all(&chunk.bytes).map_err(failed)?;
        if self.checker.position().file == chunk.file {
            self.open = Some((number, file));
            return Ok(());
        }
        // Synced one by one, so that the last step is not one long sync of everything.
        file.sync_all().map_err(failed)
    }

    /// Everything has come: checks what lies on the disk, makes it durable and hands it out.
    pub fn finish(self) -> Result<Incoming, Error> {
        assert!(!self.failed, "finished after an error");
        let here = self.incoming.path();
        self.checker.finish(&self.manifest).map_err(|reason| refused(&here.display(), reason))?;
        for file in self.manifest.files() {
            let path = here.join(&file.name);
            let found =
                std::fs::metadata(&path).map_err(|error| disk::failed("read", &path, error))?;
            if found.len() != file.length {
                let reason =
                    format!("{} bytes were written, {} are there", file.length, found.len());
                return Err(refused(&path.display(), reason));
            }
        }
        self.incoming.disk().sync_directory(here)?;
        Ok(self.incoming)
    }
}
