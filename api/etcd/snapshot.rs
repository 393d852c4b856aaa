//! The whole store as one stream, as etcd's clients save it.
//!
//! What comes out is Kontiki's own archive (`docs/formats/snapshot.md`) in a wrapping that etcd's clients
//! take for one of etcd's, and [`saved`] takes off again:
//!
//! ```text
//! archive | zeros | length of the archive (8, little endian) | SHA-256 of all before it (32)
//! ```
//! All but the checksum fills whole sectors of 512 bytes: by the odd 32 bytes etcdctl tells that there is
//! a checksum.
//!
//! Never: holds more than a few pieces in memory; whoever reads slowly holds up the writing of its own
//! stream alone.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Take, Write};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, Stream};
use kontiki_storage::snapshot::{Snapshot, archive};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tonic::Status;

use super::front::Front;
use super::wire::etcdserverpb::SnapshotResponse;
use super::{VERSION, status};

const PIECE_BYTES: usize = 256 << 10;
const PIECES_AHEAD: usize = 4;
const SECTOR_BYTES: u64 = 512;
const LENGTH_BYTES: u64 = 8;
const CHECKSUM_BYTES: u64 = 32;

pub(crate) async fn stream(
    front: &Front,
) -> Result<impl Stream<Item = Result<SnapshotResponse, Status>> + Send + use<>, Status> {
    let snapshot = front.replica().take_snapshot().await.map_err(status::of)?;
    let left = snapshot.manifest().total();
    let (pieces, receiver) = mpsc::channel(PIECES_AHEAD);
    tokio::task::spawn_blocking(move || send(&snapshot, pieces));
    let ahead = (receiver, left);
    Ok(stream::unfold(ahead, |(mut receiver, left)| async move {
        let piece: Result<Bytes, Status> = receiver.recv().await?;
        let left = piece.as_ref().map_or(0, |piece| left.saturating_sub(piece.len() as u64));
        let response = piece.map(|blob| SnapshotResponse {
            header: None,
            remaining_bytes: left,
            blob,
            version: VERSION.to_owned(),
        });
        Some((response, (receiver, left)))
    }))
}

fn send(snapshot: &Arc<Snapshot>, pieces: mpsc::Sender<Result<Bytes, Status>>) {
    let mut out = Pieces { pieces, gathered: BytesMut::new(), checksum: Sha256::new() };
    let written = archive::write(snapshot, &mut out);
    let ended = match written {
        Ok(bytes) => out.end(bytes),
        Err(error) => out.pieces.blocking_send(Err(status::of_store(error))).map_err(gone),
    };
    if ended.is_err() {
        tracing::debug!("a snapshot was not read to its end");
    }
}

/// Cuts what is written into pieces.
struct Pieces {
    pieces: mpsc::Sender<Result<Bytes, Status>>,
    gathered: BytesMut,
    checksum: Sha256,
}

impl Pieces {
    fn end(mut self, archive_bytes: u64) -> io::Result<()> {
        let unpadded = archive_bytes + LENGTH_BYTES;
        let zeros = unpadded.next_multiple_of(SECTOR_BYTES) - unpadded;
        io::copy(&mut io::repeat(0).take(zeros), &mut self)?;
        self.write_all(&archive_bytes.to_le_bytes())?;
        self.pass()?;
        let checksum = self.checksum.finalize().to_vec();
        self.pieces.blocking_send(Ok(checksum.into())).map_err(gone)
    }

    fn pass(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let piece = self.gathered.split().freeze();
        self.checksum.update(&piece);
        self.pieces.blocking_send(Ok(piece)).map_err(gone)
    }
}

fn gone<T>(_: T) -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "nobody reads the snapshot any more")
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = PIECE_BYTES - self.gathered.len();
        let taken = bytes.len().min(room);
        self.gathered.extend_from_slice(&bytes[..taken]);
        if self.gathered.len() == PIECE_BYTES {
            self.pass()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The archive in a file that a client of this front saved, once its checksum was found to be right.
pub fn saved(mut file: File) -> io::Result<Take<File>> {
    let bytes = file.metadata()?.len();
    let body = bytes.checked_sub(CHECKSUM_BYTES).filter(|body| *body >= LENGTH_BYTES);
    let body = body.ok_or_else(|| damaged("it is too short"))?;
    let mut checksum = Sha256::new();
    let mut buffer = vec![0; PIECE_BYTES];
    let mut left = body;
    while left > 0 {
        let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        file.read_exact(&mut buffer[..wanted])?;
        checksum.update(&buffer[..wanted]);
        left -= wanted as u64;
    }
    let mut stated = [0; CHECKSUM_BYTES as usize];
    file.read_exact(&mut stated)?;
    if checksum.finalize().as_slice() != stated {
        return Err(damaged("its checksum does not match"));
    }
    let mut length = [0; LENGTH_BYTES as usize];
    file.seek(SeekFrom::Start(body - LENGTH_BYTES))?;
    file.read_exact(&mut length)?;
    let archive_bytes = u64::from_le_bytes(length);
    if archive_bytes > body - LENGTH_BYTES {
        return Err(damaged("it is no snapshot of Kontiki"));
    }
    file.seek(SeekFrom::Start(0))?;
    Ok(file.take(archive_bytes))
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the saved snapshot is damaged: {what}"))
}
