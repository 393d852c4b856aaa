//! Streams to nodes: allowed by the road, spoken with the client as it likes, carried by [`Nodes`].
//!
//! [`Nodes`]: crate::tunnel::Nodes

use axum::body::Body;
use http::Response;
use http::request::Parts;

use super::Serving;
use super::info::Info;
use super::streams::{self, Upgrade, channels, forward, log, proxy, raw};
use crate::error::Status;
use crate::request::{self, User};

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
        let stop = self.front.stop.child_token();
        let nodes = &self.front.nodes;
        let upgrade = Upgrade::wanted(&parts.headers);
        match (connection.subresource.as_str(), upgrade) {
            ("log", _) => log::open(nodes, &connection, parts, stop).await,
            ("proxy", _) => proxy::open(nodes, &connection, &rest, parts, body, stop).await,
            (_, Upgrade::Spdy) => raw::spdy(nodes, &connection, parts, stop).await,
            ("portforward", Upgrade::WebSocket) => {
                forward::open(nodes, &connection, parts, stop).await
            }
            (_, Upgrade::WebSocket) => channels::open(nodes, &connection, parts, stop).await,
            (_, Upgrade::Not) => Err(streams::not_upgraded()),
        }
    }
}
