//! The way to a master's node front: a connection over TLS, or the front itself in this process.
//!
//! Keeps: windows of streams are far smaller than that of the connection, so that a tunnel nobody reads from
//! does not stop the others.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::{HeaderValue, Request, Response, Uri};
use hyper::client::conn::http2::SendRequest;
use rustls::ClientConfig;
use tonic::body::Body;

use super::service::Service;
use super::{Caller, NODE_HEADER, Sessions};
use crate::client::connection::{self, Server, Windows};
use crate::tunnel::wire::node_client::NodeClient;
use crate::tunnel::wire::node_server::NodeServer;

/// As the listener's, for the other direction.
const WINDOWS: Windows = Windows { stream_bytes: 256 << 10, connection_bytes: 32 << 20 };
/// The largest message is an order with a command's words in it.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// A way to a master. Cheap to clone; all clones share the connection.
#[derive(Clone)]
pub struct Channel(Way);

#[derive(Clone)]
enum Way {
    Wire { authority: String, sender: SendRequest<Body>, speaks_for: Option<HeaderValue> },
    Here { caller: Caller, front: NodeServer<Service> },
}

impl Channel {
    /// Connects to `https://HOST:PORT`; `tls` says who we are and whom we believe.
    pub async fn connect(server: &str, tls: &ClientConfig) -> Result<Channel, String> {
        let server = Server::parse(server)?;
        let mut tls = tls.clone();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let sender = connection::open(&server, &Arc::new(tls), WINDOWS).await?;
        Ok(Channel(Way::Wire { authority: server.authority, sender, speaks_for: None }))
    }

    /// As an administrator who speaks for a node.
    pub fn speaking_for(mut self, node: &str) -> Result<Channel, String> {
        if let Way::Wire { speaks_for, .. } = &mut self.0 {
            let name = HeaderValue::from_str(node);
            *speaks_for = Some(name.map_err(|_| format!("{node:?} is no name of a node"))?);
        }
        Ok(self)
    }

    /// The front of this process, for the agent that is in it.
    #[must_use]
    pub fn here(sessions: &Sessions, node: &str) -> Channel {
        let front = NodeServer::new(Service::new(sessions.clone()));
        Channel(Way::Here { caller: Caller::Node(node.to_owned()), front })
    }

    /// What is said on it.
    #[must_use]
    pub fn client(&self) -> NodeClient<Channel> {
        NodeClient::new(self.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }
}

impl tower::Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Response<Body>, Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match &mut self.0 {
            Way::Wire { sender, .. } => sender.poll_ready(context).map_err(Into::into),
            Way::Here { .. } => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        match &mut self.0 {
            Way::Wire { authority, sender, speaks_for } => {
                if let Some(node) = speaks_for {
                    request.headers_mut().insert(NODE_HEADER, node.clone());
                }
                let path = request.uri().path().to_owned();
                let uri = Uri::builder().scheme("https").authority(authority.as_str());
                match uri.path_and_query(path).build() {
                    Ok(uri) => *request.uri_mut() = uri,
                    Err(error) => return Box::pin(async { Err(error.into()) }),
                }
                let answer = sender.send_request(request);
                Box::pin(async move { Ok(answer.await?.map(Body::new)) })
            }
            Way::Here { caller, front } => {
                request.extensions_mut().insert(caller.clone());
                let answer = front.call(request);
                Box::pin(async move {
                    let answer: Result<_, Infallible> = answer.await;
                    Ok(answer?)
                })
            }
        }
    }
}
