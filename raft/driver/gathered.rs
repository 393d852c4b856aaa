//! What a connection has to say, gathered until it has nothing more to say for now.
//!
//! HTTP/2 hands over frames one by one and flushes after each that is not small. Under TLS each of these
//! is a record and a system call, which cost more than the answer to a small request. Here they wait
//! until whoever drives the connection says so ([`Outlet::flush`]), which it does after every turn. What fills
//! records becomes records at once, and is copied nowhere else on its way.
//!
//! The outlet stays where the connection is driven, also when the protocol hands the stream on to somebody
//! else, as HTTP/1 does for a shell: from there it can still be cut ([`Outlet::cut`]).
//!
//! Keeps: bytes in their order; at most [`GATHERED_BYTES_MAX`] of them in records and less than one record's
//! besides, then they go out first.
//! Never: holds memory while there is nothing to be sent, or says that a stream is shut down before all
//! of it has gone out.

use std::io::{self, ErrorKind, IoSlice, Write as _};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use kontiki_storage::append::{PIECE_BYTES, append};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio_rustls::{client, server};

/// The most that a record carries.
const RECORD_BYTES: usize = 16 << 10;
/// Four of the largest records.
const GATHERED_BYTES_MAX: usize = 4 * RECORD_BYTES;

/// A stream that makes records of what it takes and sends them when it is flushed.
pub trait Records: AsyncRead + AsyncWrite + Unpin {
    /// Takes all of `parts`, however much it holds already.
    fn take(&mut self, parts: &[IoSlice<'_>]) -> io::Result<()>;
}

impl<S: AsyncRead + AsyncWrite + Unpin> Records for server::TlsStream<S> {
    fn take(&mut self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        seal(self.get_mut().1, parts)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Records for client::TlsStream<S> {
    fn take(&mut self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        seal(self.get_mut().1, parts)
    }
}

fn seal<D>(session: &mut rustls::ConnectionCommon<D>, parts: &[IoSlice<'_>]) -> io::Result<()> {
    // It has a bound of its own, near ours and counted in other bytes.
    session.set_buffer_limit(None);
    match session.writer().write_vectored(parts)? {
        all if all == length(parts) => Ok(()),
        _ => Err(ErrorKind::WriteZero.into()),
    }
}

/// When what was written goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// When [`Outlet::flush`] says so, or when it becomes much.
    ByOutlet,
    /// As the writer wishes. For connections that may be handed on to somebody else.
    ByWriter,
}

/// The stream as the protocol sees it.
pub struct Gathered<S> {
    shared: Arc<Mutex<Shared<S>>>,
    /// Dropped with this.
    _held: oneshot::Sender<()>,
}

/// The way for what was gathered to go out.
pub struct Outlet<S> {
    shared: Arc<Mutex<Shared<S>>>,
    held: oneshot::Receiver<()>,
}

struct Shared<S> {
    stream: S,
    flush: Flush,
    /// Less than fills a record.
    waiting: Vec<u8>,
    /// How much the stream has taken since it was flushed last.
    taken: usize,
    cut: bool,
    /// Who waits for the stream where nobody drives it, to hear that it is cut.
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl<S> Gathered<S> {
    #[must_use]
    pub fn new(stream: S, flush: Flush) -> (Gathered<S>, Outlet<S>) {
        let shared = Shared {
            stream,
            flush,
            waiting: Vec::new(),
            taken: 0,
            cut: false,
            reader: None,
            writer: None,
        };
        let shared = Arc::new(Mutex::new(shared));
        let (_held, held) = oneshot::channel();
        (Gathered { shared: shared.clone(), _held }, Outlet { shared, held })
    }
}

impl<S> Outlet<S> {
    /// Returns when nobody holds the stream any more.
    pub async fn let_go(&mut self) {
        let _ = (&mut self.held).await;
    }

    /// Nothing is read or written from now on, whoever holds the stream.
    pub fn cut(&self) {
        let mut shared = self.shared.lock();
        shared.cut = true;
        let waiting = [shared.reader.take(), shared.writer.take()];
        drop(shared);
        waiting.into_iter().flatten().for_each(Waker::wake);
    }
}

impl<S: Records> Outlet<S> {
    /// Sends what waits. `Pending` where the other end is slow to take it.
    pub fn flush(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.lock().flush(context)
    }
}

impl<S> Shared<S> {
    fn check(&self) -> io::Result<()> {
        match self.cut {
            true => Err(io::Error::new(ErrorKind::ConnectionAborted, "the connection is cut")),
            false => Ok(()),
        }
    }
}

impl<S: Records> Shared<S> {
    fn flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        if !self.waiting.is_empty() {
            if self.taken + self.waiting.len() > GATHERED_BYTES_MAX {
                ready!(self.send(context))?;
            }
            // Most connections are at rest most of the time.
            let waiting = std::mem::take(&mut self.waiting);
            self.stream.take(&pieces(&waiting, &[], waiting.len()))?;
            self.taken += waiting.len();
        }
        self.send(context)
    }

    /// Sends what the stream has taken.
    fn send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.taken == 0 {
            return Poll::Ready(Ok(()));
        }
        let sent = Pin::new(&mut self.stream).poll_flush(context);
        match sent {
            Poll::Ready(_) => self.taken = 0,
            Poll::Pending => to_hear(self.flush, &mut self.writer, context),
        }
        sent
    }

    fn write(
        &mut self,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        let (waiting, bytes) = (self.waiting.len(), length(parts));
        let full = (waiting + bytes) / RECORD_BYTES * RECORD_BYTES;
        if full == 0 {
            parts.iter().for_each(|part| append(&mut self.waiting, part));
            return Poll::Ready(Ok(bytes));
        }
        let room = |taken: usize| GATHERED_BYTES_MAX.saturating_sub(taken) / RECORD_BYTES;
        if room(self.taken) * RECORD_BYTES < full {
            ready!(self.send(context))?;
        }
        let full = full.min(room(self.taken) * RECORD_BYTES);
        let taken = self.stream.take(&pieces(&self.waiting, parts, full));
        self.waiting = Vec::new();
        taken?;
        self.taken += full;
        let (mut written, rest) = (full - waiting, bytes - (full - waiting));
        if rest < RECORD_BYTES {
            rest_of(parts, written).for_each(|part| append(&mut self.waiting, part));
            written = bytes;
        }
        Poll::Ready(Ok(written))
    }
}

fn length(parts: &[IoSlice<'_>]) -> usize {
    parts.iter().map(|part| part.len()).sum()
}

/// The first `bytes` of `first` and `parts`, in pieces as they are copied fast.
fn pieces<'a>(first: &'a [u8], parts: &'a [IoSlice<'_>], bytes: usize) -> Vec<IoSlice<'a>> {
    let mut pieces = Vec::with_capacity(bytes / PIECE_BYTES + parts.len() + 2);
    let mut left = bytes;
    for part in std::iter::once(first).chain(parts.iter().map(|part| &**part)) {
        let part = &part[..part.len().min(left)];
        pieces.extend(part.chunks(PIECE_BYTES).map(IoSlice::new));
        left -= part.len();
    }
    pieces
}

/// What of `parts` is behind their first `bytes`.
fn rest_of<'a>(parts: &'a [IoSlice<'_>], bytes: usize) -> impl Iterator<Item = &'a [u8]> {
    let mut left = bytes;
    parts.iter().map(move |part| {
        let passed = part.len().min(left);
        left -= passed;
        &part[passed..]
    })
}

/// Notes who is to hear of a cut. Where the outlet drives the connection, that one knows.
fn to_hear(flush: Flush, place: &mut Option<Waker>, context: &Context<'_>) {
    let known = place.as_ref().is_some_and(|waker| waker.will_wake(context.waker()));
    if flush == Flush::ByWriter && !known {
        *place = Some(context.waker().clone());
    }
}

impl<S: Records> AsyncRead for Gathered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut shared = self.shared.lock();
        let shared = &mut *shared;
        shared.check()?;
        let read = Pin::new(&mut shared.stream).poll_read(context, buffer);
        if read.is_pending() {
            to_hear(shared.flush, &mut shared.reader, context);
        }
        read
    }
}

impl<S: Records> AsyncWrite for Gathered<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.shared.lock().write(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.shared.lock().write(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.shared.lock();
        match shared.flush {
            Flush::ByOutlet => Poll::Ready(Ok(())),
            Flush::ByWriter => shared.flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.shared.lock();
        ready!(shared.flush(context))?;
        Pin::new(&mut shared.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use futures::future::poll_fn;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::*;

    /// Its records are the bytes themselves.
    struct Plain {
        stream: DuplexStream,
        taken: VecDeque<u8>,
        /// How long each record was.
        records: Vec<usize>,
    }

    impl Records for Plain {
        fn take(&mut self, parts: &[IoSlice<'_>]) -> io::Result<()> {
            parts.iter().for_each(|part| self.taken.extend(&**part));
            self.records.push(length(parts));
            assert!(self.taken.len() <= GATHERED_BYTES_MAX);
            Ok(())
        }
    }

    impl AsyncRead for Plain {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_read(context, buffer)
        }
    }

    impl AsyncWrite for Plain {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            panic!("what is gathered is taken, not written")
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            let Plain { stream, taken, .. } = &mut *self;
            while !taken.is_empty() {
                let sent = ready!(Pin::new(&mut *stream).poll_write(context, taken.as_slices().0))?;
                taken.drain(..sent);
            }
            Pin::new(stream).poll_flush(context)
        }

        fn poll_shutdown(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_shutdown(context)
        }
    }

    /// A stream whose other end takes `bytes` at a time.
    fn pair(bytes: usize, flush: Flush) -> (Gathered<Plain>, Sides) {
        let (stream, theirs) = tokio::io::duplex(bytes);
        let ours = Plain { stream, taken: VecDeque::new(), records: Vec::new() };
        let (stream, outlet) = Gathered::new(ours, flush);
        (stream, Sides { outlet, theirs })
    }

    struct Sides {
        outlet: Outlet<Plain>,
        theirs: DuplexStream,
    }

    impl Sides {
        /// What has gone out by now.
        fn arrived(&mut self) -> Vec<u8> {
            let mut all = Vec::new();
            let mut buffer = [0; 4096];
            let mut context = Context::from_waker(std::task::Waker::noop());
            loop {
                let mut read = ReadBuf::new(&mut buffer);
                let polled = Pin::new(&mut self.theirs).poll_read(&mut context, &mut read);
                if polled.is_pending() || read.filled().is_empty() {
                    return all;
                }
                all.extend_from_slice(read.filled());
            }
        }
    }

    #[tokio::test]
    async fn what_was_written_and_flushed_in_pieces_goes_out_at_once_and_leaves_no_memory() {
        let (mut stream, mut sides) = pair(1 << 10, Flush::ByOutlet);
        for piece in ["a", "bc", "def"] {
            stream.write_all(piece.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
        }
        assert_eq!(sides.arrived(), b"");
        poll_fn(|context| sides.outlet.flush(context)).await.unwrap();
        assert_eq!(sides.arrived(), b"abcdef");
        assert_eq!(stream.shared.lock().waiting.capacity(), 0);
    }

    #[tokio::test]
    async fn who_wants_each_flush_gets_it() {
        let (mut stream, mut sides) = pair(1 << 10, Flush::ByWriter);
        stream.write_all(b"a").await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(sides.arrived(), b"a");
    }

    #[tokio::test]
    async fn a_slow_reader_holds_the_writer_up_and_loses_nothing() {
        let (mut stream, sides) = pair(7, Flush::ByOutlet);
        let sent: Vec<u8> = (0..300_000_u32).map(|number| (number % 251) as u8).collect();
        let Sides { outlet, mut theirs } = sides;
        let mut received = Vec::new();
        let write = async {
            // Small and large ones, and some that are larger than all that may wait.
            for (number, piece) in [1000, 40_000, 70_000].iter().cycle().enumerate() {
                let from = sent.len().min(number / 3 * 111_000 + [0, 1000, 41_000][number % 3]);
                let to = sent.len().min(from + piece);
                if from == to {
                    break;
                }
                stream.write_all(&sent[from..to]).await.unwrap();
                assert!(stream.shared.lock().waiting.len() < RECORD_BYTES);
            }
            poll_fn(|context| outlet.flush(context)).await.unwrap();
            stream.shutdown().await.unwrap();
        };
        let (_, read) = tokio::join!(write, theirs.read_to_end(&mut received));
        read.unwrap();
        assert!(received == sent, "{} of {} bytes", received.len(), sent.len());
    }

    #[tokio::test]
    async fn what_fills_records_fills_them_whatever_pieces_it_comes_in() {
        let (mut stream, mut sides) = pair(1 << 20, Flush::ByOutlet);
        let sent: Vec<u8> = (0..3 * RECORD_BYTES + 30).map(|at| (at % 251) as u8).collect();
        // Frames as HTTP/2 makes them: a head, and as much as fills a record.
        let mut rest = &sent[..];
        while !rest.is_empty() {
            let (frame, behind) = rest.split_at(rest.len().min(9 + RECORD_BYTES));
            let (head, body) = frame.split_at(frame.len().min(9));
            let parts = [IoSlice::new(head), IoSlice::new(body)];
            let written =
                poll_fn(|context| Pin::new(&mut stream).poll_write_vectored(context, &parts));
            assert_eq!(written.await.unwrap(), frame.len());
            rest = behind;
        }
        poll_fn(|context| sides.outlet.flush(context)).await.unwrap();
        let records = stream.shared.lock().stream.records.clone();
        assert_eq!(records, [RECORD_BYTES, RECORD_BYTES, RECORD_BYTES, 30]);
        assert!(sides.arrived() == sent);
    }

    #[tokio::test]
    async fn who_flushes_what_nobody_reads_is_held_up_as_well() {
        let (mut stream, sides) = pair(7, Flush::ByOutlet);
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut written = 0;
        while let Poll::Ready(some) = Pin::new(&mut stream).poll_write(&mut context, &[0; 1000]) {
            written += some.unwrap();
            assert!(written <= GATHERED_BYTES_MAX + RECORD_BYTES);
            assert!(sides.outlet.flush(&mut context).is_pending());
        }
        assert!(written > GATHERED_BYTES_MAX - RECORD_BYTES);
    }

    #[tokio::test]
    async fn a_shutdown_sends_what_waits_first() {
        let (mut stream, mut sides) = pair(1 << 10, Flush::ByOutlet);
        stream.write_all(b"last words").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut all = String::new();
        sides.theirs.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "last words");
    }

    #[tokio::test]
    async fn whoever_waits_for_a_stream_hears_that_it_is_cut() {
        let (mut stream, mut sides) = pair(4, Flush::ByWriter);
        stream.write_all(b"more than there is room for").await.unwrap();
        let handed_on = tokio::spawn(async move {
            let mut buffer = [0; 10];
            let (mut reader, mut writer) = tokio::io::split(stream);
            tokio::join!(reader.read(&mut buffer), writer.flush())
        });
        tokio::task::yield_now().await;
        sides.outlet.cut();
        let (read, written) = handed_on.await.unwrap();
        assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionAborted);
        assert_eq!(written.unwrap_err().kind(), ErrorKind::ConnectionAborted);
        // And it is known when it is given up.
        sides.outlet.let_go().await;
    }

    #[tokio::test]
    async fn an_end_that_is_gone_is_told_of() {
        let (mut stream, sides) = pair(1 << 10, Flush::ByOutlet);
        drop(sides.theirs);
        stream.write_all(b"a").await.unwrap();
        assert!(poll_fn(|context| sides.outlet.flush(context)).await.is_err());
    }
}
