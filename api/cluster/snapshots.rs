//! The whole store in one file, for whoever keeps it elsewhere.
//!
//! Keeps: few archives at a time (the replica's bound), and a few pieces of each in memory. What one shows
//! is one moment, and it says itself whether it is whole (`docs/formats/snapshot.md`).
//! Never: holds up writes, or leaves files behind when nobody reads on.

use std::io::{self, Write};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderName;
use axum::response::IntoResponse;
use bytes::Bytes;
use kontiki_raft::storage::snapshot::archive;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::wire::{SNAPSHOT_BYTES, SNAPSHOT_REVISION};
use super::{Error, Front};

const PIECE_BYTES: usize = 256 << 10;
const PIECES_AHEAD: usize = 4;

pub(super) async fn download(State(front): State<Arc<Front>>) -> Result<impl IntoResponse, Error> {
    front.replica.read_barrier().await?;
    let snapshot = front.replica.take_snapshot().await?;
    let bytes = snapshot.manifest().total();
    let revision = snapshot.manifest().facts().revision.0;
    let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut pieces = Pieces { sender, buffer: Vec::with_capacity(PIECE_BYTES) };
        if let Err(error) = archive::write(&snapshot, &mut pieces) {
            // The reader sees the stream break off, and would notice by the checksum.
            let _ = pieces.sender.blocking_send(Err(io::Error::other(error)));
        }
    });
    let told = [(SNAPSHOT_BYTES, bytes), (SNAPSHOT_REVISION, revision)];
    let told = told.map(|(name, value)| (HeaderName::from_static(name), value.to_string()));
    Ok((told, Body::from_stream(ReceiverStream::new(receiver))))
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
