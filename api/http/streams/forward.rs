//! Port-forward over a WebSocket: the bytes of a SPDY/3.1 connection, as newer clients send them.

use std::sync::Arc;

use axum::body::Body;
use http::Response;
use http::request::Parts;
use tokio_util::sync::CancellationToken;

use super::raw;
use crate::error::Status;
use crate::pipeline::Connection;
use crate::tunnel::Nodes;

const RUNTIME_PROTOCOL: &str = "portforward.k8s.io";
const SPDY_PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";

/// Upgrades to a WebSocket.
pub async fn open(
    nodes: &Arc<dyn Nodes>,
    connection: &Connection,
    parts: &mut Parts,
    stop: CancellationToken,
) -> Result<Response<Body>, Status> {
    raw::spdy_in_websocket(nodes, connection, parts, RUNTIME_PROTOCOL, SPDY_PROTOCOL, stop).await
}
