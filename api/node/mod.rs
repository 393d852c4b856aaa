//! The front for node agents: sessions that agents open, and the tunnels that go through them.
//!
//! An agent dials any master and holds one session there ([`service`]); nobody dials an agent. Whoever wants
//! something of a node asks [`Sessions`], which tells the agent to open a tunnel, or has the master do it that
//! holds the session ([`peers`]). `docs/node-protocol.md` tells the whole.
//!
//! Keeps: an agent speaks for the node in its certificate and for no other. A node has one session per master;
//! a new one takes the old one's place. What ends a session ends its tunnels, with the reason.
//! What an agent reports is written in its node's name by the road that all requests take ([`reports`]); what
//! it is to run is what the Node authorizer lets it read ([`assignments`]). That it lives is written nowhere:
//! masters tell each other ([`beats`]), and leases of nodes are answered from that.
//! Never: looks at what a tunnel carries.

mod assignments;
mod beats;
mod channel;
mod counts;
mod peers;
pub mod pipe;
mod quorum;
mod reports;
mod service;
mod sessions;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;

use crate::auth::{self, Authenticator};
use crate::tunnel::wire::node_server::NodeServer;

pub use assignments::digest;
pub use channel::Channel;
pub(crate) use counts::register as count;
pub use peers::Peers;
pub use sessions::{Parts, Sessions};

/// The version of the protocol that this release speaks: those of one major version understand each other.
pub const PROTOCOL: u32 = 1;
pub const MINOR: u32 = 0;
/// By which an administrator says for which node it speaks.
pub const NODE_HEADER: &str = "kontiki-node";

const NODE_PREFIX: &str = "system:node:";
const NODES: &str = "system:nodes";
const ADMINISTRATORS: &str = "system:masters";

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    Node(String),
    /// Another master, by an administrator's certificate.
    Master,
}

/// What belongs on the API's port.
pub(crate) fn router(sessions: &Sessions, authenticator: Arc<dyn Authenticator>) -> Router {
    let service = NodeServer::new(service::Service::new(sessions.clone()));
    Router::new()
        .route_service("/kontiki.node.v1.Node/{*call}", service)
        .layer(middleware::from_fn_with_state(authenticator, identify))
}

/// Lets in who is a node or a master.
async fn identify(
    State(authenticator): State<Arc<dyn Authenticator>>,
    request: Request,
    next: Next,
) -> Response {
    let (mut parts, body) = request.into_parts();
    auth::introduce(&mut parts.extensions);
    let user = match authenticator.authenticate(&parts).await {
        Ok(user) => user.unwrap_or_default(),
        Err(status) => return tonic::Status::unauthenticated(status.message()).into_http(),
    };
    let is = |group: &str| user.groups.iter().any(|it| it == group);
    let caller = match user.name.strip_prefix(NODE_PREFIX) {
        Some(node) if is(NODES) && !node.is_empty() => Caller::Node(node.to_owned()),
        _ if is(ADMINISTRATORS) => Caller::Master,
        _ => {
            let why = "this takes a node's certificate, which `kontiki start node --join` asks for";
            return tonic::Status::permission_denied(why).into_http();
        }
    };
    parts.extensions.insert(caller);
    next.run(Request::from_parts(parts, body)).await
}
