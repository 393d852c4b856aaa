//! A body that keeps something until it is sent or given up: a place among those that are served.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use http::Response;
use http_body::{Frame, SizeHint};

struct Held<K> {
    body: Body,
    _kept: K,
}

/// The response, with `kept` dropped no sooner than its body.
pub(super) fn holding<K>(response: Response<Body>, kept: K) -> Response<Body>
where
    K: Send + Unpin + 'static,
{
    response.map(|body| Body::new(Held { body, _kept: kept }))
}

impl<K: Unpin> http_body::Body for Held<K> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn what_is_kept_goes_with_the_body() {
        let kept = Arc::new(());
        let response = holding(Response::new(Body::from("text")), kept.clone());
        assert_eq!(Arc::strong_count(&kept), 2);
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!((bytes, Arc::strong_count(&kept)), (Bytes::from("text"), 1));
    }
}
