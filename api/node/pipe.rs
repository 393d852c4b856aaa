//! Messages of a stream as bytes one can read and write.
//!
//! Keeps: what is not read yet stays where it came from, so that flow control reaches the other end: between
//! a writer and the wire are [`PIECES_QUEUED`] pieces of at most [`PIECE_BYTES_MAX`].

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_util::io::{ReaderStream, StreamReader};
use tokio_util::sync::{CancellationToken, PollSender};
use tonic::Streaming;

use crate::tunnel::Duplex;

pub const PIECE_BYTES_MAX: usize = 32 << 10;
pub const PIECES_QUEUED: usize = 2;

/// A queue of pieces on their way out.
#[must_use]
pub fn queue() -> (mpsc::Sender<Bytes>, mpsc::Receiver<Bytes>) {
    mpsc::channel(PIECES_QUEUED)
}

/// What is queued, as a stream.
pub fn queued(pieces: mpsc::Receiver<Bytes>) -> impl Stream<Item = Bytes> + Send + 'static {
    stream::unfold(pieces, |mut pieces| async move { Some((pieces.recv().await?, pieces)) })
}

/// The bytes in the messages that come, until they end, break, or `ended` says why they must not go on.
pub fn arriving<T: Send + 'static>(
    messages: Streaming<T>,
    data: fn(T) -> Bytes,
    ended: Ended,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    stream::unfold(Some((messages, ended)), move |state| async move {
        let (mut messages, ended) = state?;
        tokio::select! {
            biased;
            message = messages.message() => match message {
                Ok(Some(message)) => Some((Ok(data(message)), Some((messages, ended)))),
                Ok(None) => None,
                Err(status) => {
                    let why = if ended.token.is_cancelled() { ended.why() } else { told(&status) };
                    Some((Err(why), None))
                }
            },
            () = ended.token.cancelled() => Some((Err(ended.why()), None)),
        }
    })
}

fn told(status: &tonic::Status) -> io::Error {
    io::Error::new(
        io::ErrorKind::ConnectionReset,
        format!("the connection to the node broke: {}", status.message()),
    )
}

/// What a tunnel cannot outlive.
#[derive(Clone, Default)]
pub struct Ended {
    pub token: CancellationToken,
    pub what: String,
}

impl Ended {
    fn why(&self) -> io::Error {
        io::Error::new(io::ErrorKind::ConnectionAborted, self.what.clone())
    }
}

/// Both ways together.
pub fn duplex(
    arriving: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    out: mpsc::Sender<Bytes>,
) -> Box<dyn Duplex> {
    // An empty piece is no end.
    let arriving = arriving.filter(|piece| {
        let empty = piece.as_ref().is_ok_and(Bytes::is_empty);
        std::future::ready(!empty)
    });
    let reader = StreamReader::new(Box::pin(arriving));
    Box::new(tokio::io::join(reader, Writer(PollSender::new(out))))
}

struct Writer(PollSender<Bytes>);

fn closed<E>(_: E) -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the tunnel is closed")
}

impl AsyncWrite for Writer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(self.0.poll_reserve(context)).map_err(closed)?;
        let piece = &bytes[..bytes.len().min(PIECE_BYTES_MAX)];
        self.0.send_item(Bytes::copy_from_slice(piece)).map_err(closed)?;
        Poll::Ready(Ok(piece.len()))
    }

    /// There is nothing to flush: a piece that was taken is on its way.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.close();
        Poll::Ready(Ok(()))
    }
}

/// The same stream, which keeps something as long as it lives.
pub(super) fn holding<S: Stream + Send + 'static>(
    stream: S,
    kept: impl Send + 'static,
) -> impl Stream<Item = S::Item> + Send + 'static {
    stream.inspect(move |_| {
        let _ = &kept;
    })
}

/// Carries what arrives into a tunnel, while what comes out of the tunnel is the stream that is returned.
/// When either way is over, both are.
pub(super) fn relay(
    tunnel: Box<dyn Duplex>,
    arriving: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let (reader, mut writer) = tokio::io::split(tunnel);
    let into = async move {
        let mut arriving = std::pin::pin!(arriving);
        while let Some(piece) = arriving.next().await {
            writer.write_all(&piece?).await?;
        }
        Ok::<(), io::Error>(())
    };
    let out = ReaderStream::with_capacity(reader, PIECE_BYTES_MAX);
    stream::unfold(Some((Box::pin(into), out)), |state| async move {
        let (mut into, mut out) = state?;
        tokio::select! {
            biased;
            piece = out.next() => Some((piece?, Some((into, out)))),
            ended = &mut into => Some((Err(ended.err()?), None)),
        }
    })
}
