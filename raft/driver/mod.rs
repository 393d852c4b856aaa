//! Drives a connection of HTTP/2, or of HTTP/1, so that what it has to say at a time goes out at once.
//!
//! What the protocol writes is [`gathered`], and goes out once for each [`turn`] in which the connection is
//! driven. It serves every port of a master, and what masters have to say to one another.
//!
//! Keeps: whoever is alone on a connection waits for nobody.

mod gathered;
mod turn;

pub use gathered::{Flush, Gathered, Outlet, Records};

use turn::Turn;

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

/// What it takes to drive one connection.
pub struct Driver<S> {
    outlet: Outlet<S>,
    turn: Turn,
}

impl<S: Records> Driver<S> {
    /// With the stream for the protocol to speak on.
    #[must_use]
    pub fn new(stream: S, flush: Flush) -> (Gathered<S>, Driver<S>) {
        let (stream, outlet) = Gathered::new(stream, flush);
        (stream, Driver { outlet, turn: Turn::new() })
    }

    /// Drives `connection` if something has happened to it, and sends what it has said.
    pub fn poll<C, T, E>(
        &mut self,
        context: &mut Context<'_>,
        calls: &Calls,
        connection: Pin<&mut C>,
    ) -> Poll<Result<T, Box<dyn Error + Send + Sync>>>
    where
        C: Future<Output = Result<T, E>>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let Driver { outlet, turn } = self;
        turn.poll(context, calls.are_several(), |context| {
            let ended = connection.poll(context).map_err(Into::into);
            match outlet.flush(context) {
                Poll::Ready(Err(error)) if ended.is_pending() => Poll::Ready(Err(error.into())),
                _ => ended,
            }
        })
    }

    /// Has the connection driven although nothing has happened to it.
    pub fn ring(&self) {
        self.turn.ring();
    }

    /// The way out, once the connection is not driven any more.
    #[must_use]
    pub fn into_outlet(self) -> Outlet<S> {
        self.outlet
    }
}

/// The calls under way on one connection. When they are several, some may have something to say at the same
/// moment.
#[derive(Clone, Debug, Default)]
pub struct Calls(Arc<AtomicUsize>);

/// One of them, for as long as it lives.
pub struct Call(Arc<AtomicUsize>);

impl Calls {
    #[must_use]
    pub fn begin(&self) -> Call {
        self.0.fetch_add(1, Ordering::Relaxed);
        Call(Arc::clone(&self.0))
    }

    fn are_several(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 1
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
