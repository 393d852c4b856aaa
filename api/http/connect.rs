//! Streams to nodes: allowed here, carried by a [`Tunnel`].

use axum::body::Body;
use futures::future::BoxFuture;
use http::request::Parts;
use http::{Request, Response};

use super::Serving;
use super::info::Info;
use crate::error::Status;
use crate::pipeline::Connection;
use crate::request::{self, User};

/// Carries logs, exec, attach, port-forward and proxy to where they end.
pub trait Tunnel: Send + Sync {
    /// `request` is as it came in, upgrade and all; `rest` what stands behind `proxy/` in its path.
    fn open(
        &self,
        connection: Connection,
        rest: String,
        request: Request<Body>,
    ) -> BoxFuture<'static, Result<Response<Body>, Status>>;
}

impl Serving {
    pub(super) async fn connect(
        &self,
        who: User,
        parts: &mut Parts,
        body: Body,
        request: request::Request,
        rest: String,
        info: &Info,
    ) -> Result<Response<Body>, Status> {
        let query = info.query.0.clone();
        let connection = self.front.road.connect(&who, request, query).await?;
        let Some(tunnel) = &self.front.tunnel else {
            return Err(unreachable(&connection));
        };
        let mut whole = Request::new(body);
        *whole.method_mut() = parts.method.clone();
        *whole.uri_mut() = parts.uri.clone();
        *whole.version_mut() = parts.version;
        *whole.headers_mut() = parts.headers.clone();
        *whole.extensions_mut() = std::mem::take(&mut parts.extensions);
        tunnel.open(connection, rest, whole).await
    }
}

/// No agent of the node is connected here.
fn unreachable(connection: &Connection) -> Status {
    let node = connection.node();
    let why = if node.is_empty() {
        format!("{} \"{}\" is on no node", connection.resource, connection.name)
    } else {
        format!("no agent of node \"{node}\" is connected")
    };
    Status::internal(format!("error dialing backend: {why}"))
}
