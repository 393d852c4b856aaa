//! The agent's own pages, as `nodes/NAME/proxy` shows them: HTTP/1.1 over a tunnel.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderName};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use kontiki_api::tunnel::Duplex;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use crate::agent::cri::Runtime;

/// What fits between a page and its reader.
const BUFFER_BYTES: usize = 64 << 10;

const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone)]
struct Page {
    node: String,
    runtime: Arc<dyn Runtime>,
    metrics: Arc<Registry>,
}

/// A connection to them.
pub fn open(node: String, runtime: Arc<dyn Runtime>, metrics: Arc<Registry>) -> Box<dyn Duplex> {
    let router = Router::new()
        .route("/healthz", get(health))
        .route("/healthz/ping", get(|| async { "ok" }))
        .route("/metrics", get(measured))
        .with_state(Page { node, runtime, metrics });
    let (ours, theirs) = tokio::io::duplex(BUFFER_BYTES);
    // Ends when the tunnel's end is dropped.
    tokio::spawn(async move {
        let serving = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(ours), TowerToHyperService::new(router));
        if let Err(error) = serving.await {
            tracing::debug!(%error, "a reader of the agent's pages went");
        }
    });
    Box::new(theirs)
}

async fn measured(
    State(page): State<Page>,
) -> Result<([(HeaderName, &'static str); 1], String), StatusCode> {
    let mut text = String::new();
    match encode(&mut text, &page.metrics) {
        Ok(()) => Ok(([(CONTENT_TYPE, METRICS)], text)),
        Err(_) => Err(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

async fn health(State(page): State<Page>) -> (StatusCode, String) {
    match page.runtime.version().await {
        Ok(_) => (StatusCode::OK, "ok".into()),
        Err(error) => {
            let text = format!("node {}: {error}\n", page.node);
            (StatusCode::INTERNAL_SERVER_ERROR, text)
        }
    }
}
