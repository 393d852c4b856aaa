//! Counts gRPC calls by method and outcome, under the names that go-grpc-prometheus gave them.
//!
//! A layer around all services: a call begins when its headers have come, and is handled when its trailers
//! are sent or nobody waits for them any more. What is refused before a service sees it is put into
//! etcd's words here ([`oversized`]).

use std::collections::HashMap;
use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use prost_reflect::DescriptorPool;

use super::front::Front;
use super::metrics::head;
use super::oversized;
use super::wire::DESCRIPTORS;

/// Codes by number, as they are written in labels.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];
const CANCELED: usize = 1;
const UNKNOWN: usize = 2;

pub(crate) struct Calls {
    by_path: HashMap<String, Arc<Method>>,
}

struct Method {
    labels: String,
    started: AtomicU64,
    handled: [AtomicU64; CODES.len()],
}

impl Default for Calls {
    fn default() -> Calls {
        let pool = DescriptorPool::decode(DESCRIPTORS).expect("the build script made them");
        let methods = pool.services().flat_map(|service| service.methods().collect::<Vec<_>>());
        let by_path = methods.map(|method| {
            let service = method.parent_service().full_name().to_owned();
            let kind = match (method.is_client_streaming(), method.is_server_streaming()) {
                (false, false) => "unary",
                (false, true) => "server_stream",
                (true, false) => "client_stream",
                (true, true) => "bidi_stream",
            };
            let name = method.name();
            let labels =
                format!("grpc_method=\"{name}\",grpc_service=\"{service}\",grpc_type=\"{kind}\"");
            let counts = Method { labels, started: AtomicU64::new(0), handled: Default::default() };
            (format!("/{service}/{name}"), Arc::new(counts))
        });
        Calls { by_path: by_path.collect() }
    }
}

impl Calls {
    pub(crate) fn write(&self, page: &mut String) {
        let mut methods: Vec<_> = self.by_path.values().collect();
        methods.sort_by(|a, b| a.labels.cmp(&b.labels));
        const STARTED: &str = "grpc_server_started_total";
        const HANDLED: &str = "grpc_server_handled_total";
        const FITS: &str = "a string takes everything";
        head(page, "counter", STARTED, "calls that were begun");
        for method in &methods {
            let started = method.started.load(Ordering::Relaxed);
            writeln!(page, "{STARTED}{{{}}} {started}", method.labels).expect(FITS);
        }
        head(page, "counter", HANDLED, "calls that were answered, by code");
        for method in &methods {
            for (code, count) in CODES.iter().zip(&method.handled) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    let labels = &method.labels;
                    writeln!(page, "{HANDLED}{{{labels},grpc_code=\"{code}\"}} {count}")
                        .expect(FITS);
                }
            }
        }
    }
}

/// The layer.
pub(crate) async fn count(State(front): State<Front>, request: Request, next: Next) -> Response {
    let Some(method) = front.metrics().calls.by_path.get(request.uri().path()).cloned() else {
        return next.run(request).await;
    };
    method.started.fetch_add(1, Ordering::Relaxed);
    let outcome = Outcome { method, code: None };
    let response = next.run(request).await;
    let (mut parts, body) = response.into_parts();
    let mut outcome = outcome;
    // A refusal without a message has its code in the headers.
    oversized::reword(&mut parts.headers);
    outcome.note(&parts.headers);
    Response::from_parts(parts, Body::new(Counted { body, outcome }))
}

/// Counts a call when it goes.
struct Outcome {
    method: Arc<Method>,
    code: Option<usize>,
}

impl Outcome {
    fn note(&mut self, headers: &HeaderMap) {
        if let Some(code) = headers.get("grpc-status") {
            let code = code.to_str().ok().and_then(|code| code.parse().ok());
            self.code = Some(code.filter(|code| *code < CODES.len()).unwrap_or(UNKNOWN));
        }
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        let code = self.code.unwrap_or(CANCELED);
        self.method.handled[code].fetch_add(1, Ordering::Relaxed);
    }
}

struct Counted {
    body: Body,
    outcome: Outcome,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            oversized::reword(trailers);
            self.outcome.note(trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
