//! Logs: text that goes on as long as the client listens, or until the container's log ends.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{SinkExt as _, Stream, StreamExt as _};
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderValue, Response};
use serde_json::Value;
use tokio_util::io::ReaderStream;
use tokio_util::sync::CancellationToken;

use super::{Upgrade, websocket};
use crate::error::{Reason, Status};
use crate::object::meta;
use crate::pipeline::Connection;
use crate::tunnel::{Nodes, Tunnel, want};

const PIECE_BYTES: usize = 32 << 10;
/// Protocols of WebSockets that carry one stream; whether as base64.
const PROTOCOLS: &[(&str, bool)] = &[("binary.k8s.io", false), ("base64.binary.k8s.io", true)];

/// Answers with the log.
pub async fn open(
    nodes: &Arc<dyn Nodes>,
    connection: &Connection,
    parts: &mut Parts,
    stop: CancellationToken,
) -> Result<Response<Body>, Status> {
    if Upgrade::wanted(&parts.headers) != Upgrade::WebSocket {
        let pieces = pieces(read(nodes, connection).await?, stop);
        let mut response = Response::new(Body::from_stream(pieces));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        return Ok(response);
    }
    let (upgrade, base64) = match websocket(parts, PROTOCOLS, Some(false)).await {
        Ok(upgrade) => upgrade,
        Err(response) => return Ok(response),
    };
    let pieces = pieces(read(nodes, connection).await?, stop);
    Ok(upgrade.on_upgrade(move |socket| messages(socket, pieces, base64)))
}

async fn read(nodes: &Arc<dyn Nodes>, connection: &Connection) -> Result<Tunnel, Status> {
    let wanted = want(connection, &[])?;
    let opened = nodes.open(connection.node(), wanted).await;
    opened.map_err(|status| {
        if !status.is(Reason::NotFound) {
            return status;
        }
        // The node has no such container now; the pod's status tells why.
        let previous = connection.parameter("previous").is_some_and(|it| it == "true" || it == "1");
        match connection.container() {
            Ok(container) => Status::bad_request(missing(&connection.object, container, previous)),
            Err(status) => status,
        }
    })
}

/// Why a container has no log, as clients know it.
fn missing(pod: &Value, container: &str, previous: bool) -> String {
    let name = meta::name(pod);
    let about = format!("container \"{container}\" in pod \"{name}\"");
    if previous {
        return format!("previous terminated {about} not found");
    }
    let state = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"]
        .iter()
        .filter_map(|field| meta::at(pod, &["status", field])?.as_array())
        .flatten()
        .find(|it| meta::text(it, &["name"]) == container);
    let Some(state) = state else { return format!("{about} is not available") };
    match meta::text(state, &["state", "waiting", "reason"]) {
        "ErrImagePull" => format!("{about} is waiting to start: image can't be pulled"),
        "ImagePullBackOff" => {
            format!("{about} is waiting to start: trying and failing to pull image")
        }
        "" if meta::at(state, &["state", "terminated"]).is_some() => {
            format!("{about} is terminated")
        }
        "" => format!("{about} is waiting to start - no logs yet"),
        reason => format!("{about} is waiting to start: {reason}"),
    }
}

/// What comes of the log, until the server goes.
fn pieces(
    tunnel: Tunnel,
    stop: CancellationToken,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    ReaderStream::with_capacity(tunnel.bytes, PIECE_BYTES).take_until(stop.cancelled_owned())
}

async fn messages(
    socket: WebSocket,
    pieces: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    base64: bool,
) {
    let (mut sink, mut stream) = socket.split();
    let mut pieces = std::pin::pin!(pieces);
    // Nothing is expected of the client but that it goes.
    let gone = async { while !matches!(stream.next().await, None | Some(Err(_))) {} };
    let told = async {
        while let Some(Ok(bytes)) = pieces.next().await {
            let message = match base64 {
                true => Message::Text(STANDARD.encode(&bytes).into()),
                false => Message::Binary(bytes),
            };
            sink.send(message).await?;
        }
        let frame = CloseFrame { code: close_code::NORMAL, reason: "".into() };
        sink.send(Message::Close(Some(frame))).await
    };
    tokio::select! {
        () = gone => {}
        told = told => if let Err(error) = told {
            tracing::debug!(%error, "a client went before the end of a log");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_container_without_a_log_is_told_of_in_the_words_that_clients_know() {
        let pod = |state: Value| {
            json!({"metadata": {"name": "p"}, "status": {"containerStatuses": [
                {"name": "c", "state": state}]}})
        };
        let waiting = |reason: &str| pod(json!({"waiting": {"reason": reason}}));
        for (pod, previous, end) in [
            (waiting("ContainerCreating"), false, "is waiting to start: ContainerCreating"),
            (waiting("ErrImagePull"), false, "is waiting to start: image can't be pulled"),
            (pod(json!({"terminated": {}})), false, "is terminated"),
            (pod(json!({})), false, "is waiting to start - no logs yet"),
            (json!({"metadata": {"name": "p"}}), false, "is not available"),
        ] {
            let text = missing(&pod, "c", previous);
            assert_eq!(text, format!("container \"c\" in pod \"p\" {end}"));
        }
        let text = missing(&waiting("x"), "c", true);
        assert_eq!(text, "previous terminated container \"c\" in pod \"p\" not found");
    }
}
