//! Checks an archive while its bytes pass by, on their way to or from somewhere else.
//!
//! Keeps: a few pieces in memory, however far the reader is behind. The verdict comes after the last byte.

use std::io::{self, Read};

use bytes::{Buf as _, Bytes};
use kontiki_raft::storage::snapshot::{Manifest, archive};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

const PIECES_AHEAD: usize = 8;

pub struct Check {
    pieces: mpsc::Sender<Bytes>,
    verdict: JoinHandle<Result<Manifest, String>>,
}

impl Check {
    /// Begins at the first byte of an archive.
    #[must_use]
    pub fn begin() -> Check {
        let (pieces, arriving) = mpsc::channel(PIECES_AHEAD);
        let verdict = tokio::task::spawn_blocking(move || {
            let pieces = Pieces { arriving, at: Bytes::new() };
            archive::inspect(io::BufReader::new(pieces)).map_err(|error| error.to_string())
        });
        Check { pieces, verdict }
    }

    /// Looks at what comes next. False where enough was seen to know that it is wrong.
    pub async fn take(&self, piece: Bytes) -> bool {
        self.pieces.send(piece).await.is_ok()
    }

    /// What the archive holds, if all that was taken is one, whole and undamaged.
    pub async fn finish(self) -> Result<Manifest, String> {
        drop(self.pieces);
        self.verdict.await.unwrap_or_else(|gone| Err(gone.to_string()))
    }
}

/// What arrives, as something to read from on a thread that may block.
struct Pieces {
    arriving: mpsc::Receiver<Bytes>,
    at: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at.is_empty() {
            match self.arriving.blocking_recv() {
                Some(next) => self.at = next,
                None => return Ok(0),
            }
        }
        let taken = self.at.len().min(buffer.len());
        self.at.copy_to_slice(&mut buffer[..taken]);
        Ok(taken)
    }
}
