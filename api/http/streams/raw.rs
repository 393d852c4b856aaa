//! Bytes carried as they are, between an upgraded connection or a WebSocket and a node.

use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio_util::sync::CancellationToken;

use super::not_upgraded;
use crate::error::Status;
use crate::pipeline::Connection;
use crate::tunnel::{Duplex, Nodes, want};

const PROTOCOL_HEADER: &str = "x-stream-protocol-version";
/// Most protocols that a client can offer, and the longest name of one.
const OFFERS_MAX: usize = 16;
const OFFER_BYTES_MAX: usize = 64;
const PIECE_BYTES: usize = 32 << 10;

/// An upgrade to SPDY/3.1: what the client says is what the runtime hears.
pub async fn spdy(
    nodes: &Arc<dyn Nodes>,
    connection: &Connection,
    parts: &mut Parts,
    stop: CancellationToken,
) -> Result<Response<Body>, Status> {
    let upgrade = parts.extensions.remove::<OnUpgrade>().ok_or_else(not_upgraded)?;
    let wanted = want(connection, &offered(&parts.headers))?;
    let tunnel = nodes.open(connection.node(), wanted).await?;
    let protocol = HeaderValue::from_str(&tunnel.protocol).ok().filter(|it| !it.is_empty());
    tokio::spawn(async move {
        match upgrade.await {
            Ok(client) => relay(TokioIo::new(client), tunnel.bytes, stop).await,
            Err(error) => tracing::debug!(%error, "a connection was not upgraded"),
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert("connection", HeaderValue::from_static("Upgrade"));
    headers.insert("upgrade", HeaderValue::from_static("SPDY/3.1"));
    if let Some(protocol) = protocol {
        headers.insert(PROTOCOL_HEADER, protocol);
    }
    Ok(response)
}

/// Protocols of streams that a client offers, the preferred first.
fn offered(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(PROTOCOL_HEADER).iter().filter_map(|it| it.to_str().ok());
    let names = values.flat_map(|value| value.split(',').map(str::trim));
    let names = names.filter(|it| !it.is_empty() && it.len() <= OFFER_BYTES_MAX);
    names.take(OFFERS_MAX).map(str::to_owned).collect()
}

/// Until either side ends, or the server does. What a node said before it ended still arrives.
async fn relay(client: impl Duplex, node: Box<dyn Duplex>, stop: CancellationToken) {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_node, mut to_node) = tokio::io::split(node);
    let ended = tokio::select! {
        ended = copy(&mut from_node, &mut to_client) => ended,
        ended = node_speaks_last(copy(&mut from_client, &mut to_node)) => ended,
        () = stop.cancelled() => Ok(0),
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a stream to a node broke");
    }
    if let Err(error) = to_client.shutdown().await {
        tracing::debug!(%error, "a client went before its stream was closed");
    }
}

/// A node that takes nothing more has said all it will say, and some of that may still be on its way: then the
/// other direction decides when it is over.
pub(super) async fn node_speaks_last<T>(up: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match up.await {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::future::pending().await,
        ended => ended,
    }
}

/// A WebSocket whose messages are bytes.
pub(super) async fn messages(socket: WebSocket, node: Box<dyn Duplex>, stop: CancellationToken) {
    let (mut sink, mut stream) = socket.split();
    let (mut from_node, mut to_node) = tokio::io::split(node);
    let up = async {
        while let Some(Ok(message)) = stream.next().await {
            match message {
                Message::Binary(bytes) => to_node.write_all(&bytes).await?,
                Message::Close(_) => break,
                _ => {}
            }
        }
        Ok::<(), io::Error>(())
    };
    let down = async {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let length = from_node.read(&mut piece).await?;
            if length == 0 {
                return Ok(());
            }
            let message = Message::Binary(Bytes::copy_from_slice(&piece[..length]));
            sink.send(message).await.map_err(io::Error::other)?;
        }
    };
    let ended = tokio::select! {
        ended = node_speaks_last(up) => ended,
        ended = down => ended,
        () = stop.cancelled() => Ok(()),
    };
    let frame = match ended {
        Ok(()) => CloseFrame { code: close_code::NORMAL, reason: "".into() },
        Err(error) => {
            CloseFrame { code: close_code::ERROR, reason: short(&error.to_string()).into() }
        }
    };
    if let Err(error) = sink.send(Message::Close(Some(frame))).await {
        tracing::debug!(%error, "a client went before its stream was closed");
    }
}

/// A reason for closing fits into a control frame.
pub(super) fn short(text: &str) -> String {
    let mut end = text.len().min(120);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_offered_in_one_header_or_in_several() {
        let mut headers = HeaderMap::new();
        headers.append(PROTOCOL_HEADER, "v4.channel.k8s.io, v3.channel.k8s.io".parse().unwrap());
        headers.append(PROTOCOL_HEADER, "channel.k8s.io".parse().unwrap());
        assert_eq!(offered(&headers), ["v4.channel.k8s.io", "v3.channel.k8s.io", "channel.k8s.io"]);
        assert_eq!(offered(&HeaderMap::new()), [""; 0]);
    }

    #[test]
    fn a_reason_is_cut_between_letters() {
        assert_eq!(short(&"é".repeat(100)).len(), 120);
        assert_eq!(short("x"), "x");
    }
}
