//! The whole store in one file, for whoever keeps it elsewhere.
//!
//! Keeps: few archives at a time (the shelf's bound), and a few pieces of each in memory. What one shows
//! is one moment, and it says itself whether it is whole (`docs/formats/snapshot.md`).
//! Never: holds up writes, or leaves files behind when nobody reads on.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode};
use axum::response::IntoResponse;
use bytes::Bytes;
use kontiki_raft::storage;
use kontiki_raft::storage::compaction::Floor;
use kontiki_raft::storage::directory::Directory;
use kontiki_raft::storage::engine::Open;
use kontiki_raft::storage::snapshot::{Facts, Shelf, Snapshot, archive};
use kontiki_raft::storage::{Options, Store};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use super::wire::SNAPSHOT_BYTES;
use super::{Error, Front};

/// Where archives are made from, below `snapshots/`, beside those that are sent to members.
const ROOM: &str = "archive";
const PIECE_BYTES: usize = 256 << 10;
const PIECES_AHEAD: usize = 4;

pub(super) async fn download(State(front): State<Arc<Front>>) -> Result<impl IntoResponse, Error> {
    front.replica.read_barrier().await?;
    let taken = tokio::task::spawn_blocking(move || take(&front)).await;
    let snapshot = match taken {
        Ok(Ok(snapshot)) => snapshot,
        Ok(Err(error)) => {
            return Err(Error::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()));
        }
        Err(panic) => return Err(Error::new(StatusCode::INTERNAL_SERVER_ERROR, panic.to_string())),
    };
    let bytes = snapshot.manifest().total();
    let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut pieces = Pieces { sender, buffer: Vec::with_capacity(PIECE_BYTES) };
        if let Err(error) = archive::write(&snapshot, &mut pieces) {
            // The reader sees the stream break off, and would notice by the checksum.
            let _ = pieces.sender.blocking_send(Err(io::Error::other(error)));
        }
    });
    let stream = ReceiverStream::new(receiver).map(|piece: io::Result<Bytes>| piece);
    let size = HeaderName::from_static(SNAPSHOT_BYTES);
    Ok(([(size, bytes.to_string())], Body::from_stream(stream)))
}

/// Writes an archive of the present state. Returns its length.
pub fn write_archive(front: &Front, to: impl Write) -> Result<u64, storage::Error> {
    archive::write(&take(front)?, to)
}

/// Where archives are made from, in a directory whose replica has been started.
pub(super) fn shelf(directory: &Directory) -> Result<Shelf, storage::Error> {
    let room = directory.snapshots().join(ROOM);
    std::fs::create_dir_all(&room)
        .map_err(|error| storage::Error::engine(format!("create {}", room.display()), error))?;
    Shelf::open(&room)
}

fn take(front: &Front) -> Result<Arc<Snapshot>, storage::Error> {
    let facts = |path: &Path| read_facts(&*front.engine, path);
    let taken = front.shelf.take(&*front.replica.store().engine(), &facts)?;
    // Whoever asks next wants a newer one: its files go when this one has been read.
    front.shelf.clear();
    Ok(taken)
}

/// Which moment the files of a snapshot show: read from themselves.
fn read_facts(engine: &dyn Open, path: &Path) -> Result<Facts, storage::Error> {
    let floor = Floor::default();
    let engine = engine.open(path, floor.retain())?;
    Ok(Store::open(engine, floor, Options::default())?.facts())
}

/// A writer whose bytes are read by a request.
struct Pieces {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl Pieces {
    fn send(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE_BYTES));
        self.sender
            .blocking_send(Ok(piece.into()))
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "nobody reads on"))
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == PIECE_BYTES {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() { Ok(()) } else { self.send() }
    }
}
