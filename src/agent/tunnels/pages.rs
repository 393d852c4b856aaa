//! The agent's own pages, as `nodes/NAME/proxy` shows them: HTTP/1.1 over a tunnel.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderName};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use kontiki_api::tunnel::Duplex;
use prometheus_client::encoding::text::encode;
use serde_json::Value;

use super::Ends;
use crate::agent::cri::Error;

/// What fits between a page and its reader.
const BUFFER_BYTES: usize = 64 << 10;

const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Of the page that upstream serves in Prometheus' older form.
const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A connection to them.
pub fn open(ends: Ends) -> Box<dyn Duplex> {
    let router = Router::new()
        .route("/healthz", get(health))
        .route("/healthz/ping", get(|| async { "ok" }))
        .route("/metrics", get(measured))
        .route("/metrics/resource", get(resources))
        .route("/stats/summary", get(summary))
        .route("/pods", get(pods))
        .with_state(Arc::new(ends));
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

async fn summary(State(page): State<Arc<Ends>>) -> Result<Json<Value>, (StatusCode, String)> {
    page.stats.summary().await.map(Json).map_err(unknown)
}

async fn resources(
    State(page): State<Arc<Ends>>,
) -> Result<([(HeaderName, &'static str); 1], String), (StatusCode, String)> {
    let text = page.stats.resources().await.map_err(unknown)?;
    Ok(([(CONTENT_TYPE, PLAIN)], text))
}

async fn pods(State(page): State<Arc<Ends>>) -> Json<Value> {
    Json(page.stats.pods())
}

fn unknown(error: Error) -> (StatusCode, String) {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("what is taken is not known: {error}\n"))
}

async fn measured(
    State(page): State<Arc<Ends>>,
) -> Result<([(HeaderName, &'static str); 1], String), StatusCode> {
    let mut text = String::new();
    match encode(&mut text, &page.metrics) {
        Ok(()) => Ok(([(CONTENT_TYPE, METRICS)], text)),
        Err(_) => Err(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

async fn health(State(page): State<Arc<Ends>>) -> (StatusCode, String) {
    match page.runtime.version().await {
        Ok(_) => (StatusCode::OK, "ok".into()),
        Err(error) => {
            let text = format!("node {}: {error}\n", page.node);
            (StatusCode::INTERNAL_SERVER_ERROR, text)
        }
    }
}
