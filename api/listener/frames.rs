//! Bodies on their way out: never an empty frame.
//!
//! HTTP/2 clients count empty DATA frames that end nothing, over a whole connection, and cut one that has
//! sent too many as an attack (CVE-2019-9518; Rust's h2 after a hundred). A body that is made piece by piece
//! easily has an empty piece: where a compressor has nothing to say yet, or at the end of a list.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};

/// A body, and what is kept until it is out or given up.
pub(super) struct Full<K> {
    pub body: Body,
    pub _kept: K,
}

impl<K: Unpin> http_body::Body for Full<K> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        loop {
            let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
            let is_empty =
                matches!(&frame, Some(Ok(frame)) if frame.data_ref().is_some_and(Bytes::is_empty));
            if !is_empty {
                return Poll::Ready(frame);
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
