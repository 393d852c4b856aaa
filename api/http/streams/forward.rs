//! Port-forward over a WebSocket.
//!
//! Newer clients send the bytes of a SPDY/3.1 connection, which are passed on. Others name the ports in the
//! query and speak in channels: for the first port 0 carries data and 1 errors, for the second 2 and 3, and so
//! on. What the server says first on each is the port's number, in two bytes, the lower one first.

use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use bytes::{Bytes, BytesMut};
use futures::{SinkExt as _, StreamExt as _};
use http::Response;
use http::request::Parts;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::channels::{Client, Dialect, V4, V4_BASE64, read};
use super::raw::{self, node_speaks_last, short};
use super::spdy::{self, Event, Headers};
use super::websocket;
use crate::error::Status;
use crate::pipeline::Connection;
use crate::tunnel::{Duplex, Nodes, want};

const RUNTIME_PROTOCOL: &str = "portforward.k8s.io";
const SPDY_PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";
const PIECE_BYTES: usize = 32 << 10;
const PONGS_MAX: usize = 4;
/// Each takes two channels, whose numbers have eight bits.
const PORTS_MAX: usize = 127;

/// How a client speaks.
#[derive(Clone, Copy)]
enum Way {
    Bytes,
    Channels(Dialect),
}

const WAYS: &[(&str, Way)] = &[
    (SPDY_PROTOCOL, Way::Bytes),
    ("v4.channel.k8s.io", Way::Channels(V4)),
    ("v4.base64.channel.k8s.io", Way::Channels(V4_BASE64)),
];

/// Upgrades to a WebSocket.
pub async fn open(
    nodes: &Arc<dyn Nodes>,
    connection: &Connection,
    parts: &mut Parts,
    stop: CancellationToken,
) -> Result<Response<Body>, Status> {
    let (upgrade, way) = match websocket(parts, WAYS, Some(Way::Channels(V4))).await {
        Ok(upgrade) => upgrade,
        Err(response) => return Ok(response),
    };
    let ports = match way {
        Way::Bytes => Vec::new(),
        Way::Channels(_) => ports(connection)?,
    };
    let wanted = want(connection, &[RUNTIME_PROTOCOL.to_owned()])?;
    let tunnel = nodes.open(connection.node(), wanted).await?;
    Ok(match way {
        Way::Bytes => upgrade.on_upgrade(move |socket| raw::messages(socket, tunnel.bytes, stop)),
        Way::Channels(dialect) => {
            upgrade.on_upgrade(move |socket| run(socket, tunnel.bytes, ports, dialect, stop))
        }
    })
}

/// The ports in the query, in order: `ports=80&ports=443`, or `ports=80,443`.
fn ports(connection: &Connection) -> Result<Vec<u16>, Status> {
    let named = connection.query.iter().filter(|(name, _)| name == "ports");
    let texts = named.flat_map(|(_, value)| value.split(',')).filter(|text| !text.is_empty());
    let ports = texts
        .map(|text| match text.trim().parse() {
            Ok(port) if port != 0 => Ok(port),
            _ => Err(Status::bad_request(format!("unable to parse {text:?} as a port"))),
        })
        .collect::<Result<Vec<u16>, _>>()?;
    match ports.len() {
        0 => Err(Status::bad_request("query parameter \"ports\" is required")),
        1..=PORTS_MAX => Ok(ports),
        _ => Err(Status::bad_request(format!("{PORTS_MAX} ports are the most"))),
    }
}

/// The stream of a channel: each port has its error's stream first and its data's next.
fn stream(channel: u8) -> u32 {
    let (port, is_error) = (u32::from(channel / 2), channel % 2 == 1);
    4 * port + if is_error { 1 } else { 3 }
}

fn channel(stream: u32) -> Option<u8> {
    let place = stream.checked_sub(1)? / 2;
    let port = u8::try_from(place / 2).ok()?;
    port.checked_mul(2)?.checked_add(if place.is_multiple_of(2) { 1 } else { 0 })
}

fn opening(ports: &[u16]) -> BytesMut {
    let mut headers = Headers::default();
    let mut frames = BytesMut::new();
    for (number, port) in (0_u8..).zip(ports) {
        let (port, id) = (port.to_string(), number.to_string());
        for (channel, kind) in [(2 * number + 1, "error"), (2 * number, "data")] {
            let said = [("streamtype", kind), ("port", &port), ("requestid", &id)];
            frames.extend_from_slice(&headers.syn_stream(stream(channel), &said));
        }
    }
    frames
}

async fn run(
    socket: WebSocket,
    node: Box<dyn Duplex>,
    ports: Vec<u16>,
    dialect: Dialect,
    stop: CancellationToken,
) {
    let (sink, mut stream_of_client) = socket.split();
    let (mut reader, mut writer) = tokio::io::split(node);
    let (pong, mut pongs) = mpsc::channel(PONGS_MAX);
    let mut client = Client { sink, dialect };
    let up = async {
        writer.write_all(&opening(&ports)).await?;
        loop {
            let frame = tokio::select! {
                Some(id) = pongs.recv() => spdy::ping(id),
                message = stream_of_client.next() => match message {
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok::<(), io::Error>(()),
                    Some(Ok(message)) => match read(message, dialect) {
                        // Nothing is said by clients on channels of errors.
                        Some((channel, bytes)) if is_data(channel, &ports) && !bytes.is_empty() => {
                            spdy::data(stream(channel), &bytes)
                        }
                        _ => continue,
                    },
                },
            };
            writer.write_all(&frame).await?;
        }
    };
    let down = async {
        for (number, port) in (0_u8..).zip(&ports) {
            for channel in [2 * number, 2 * number + 1] {
                client.send(channel, &port.to_le_bytes()).await?;
            }
        }
        let mut frames = spdy::Reader::default();
        let mut piece = vec![0; PIECE_BYTES];
        let mut open: Vec<u8> =
            (0..ports.len()).map(|it| u8::try_from(2 * it).unwrap_or(0)).collect();
        while !open.is_empty() {
            let length = reader.read(&mut piece).await?;
            if length == 0 {
                break;
            }
            frames.add(&piece[..length]);
            while let Some(event) = frames.next().map_err(io::Error::other)? {
                let (stream, bytes, ended) = match event {
                    Event::Data { stream, bytes, fin } => (stream, bytes, fin),
                    Event::Opened { stream, fin } => (stream, Bytes::new(), fin),
                    Event::Reset { stream } => (stream, Bytes::new(), true),
                    Event::Ping { id } => {
                        // One that finds no place is not answered: the runtime has sent others.
                        let _ = pong.try_send(id);
                        continue;
                    }
                    Event::Going => continue,
                };
                let Some(channel) = channel(stream) else { continue };
                if !bytes.is_empty() {
                    client.send(channel, &bytes).await?;
                }
                if ended {
                    open.retain(|it| *it != channel);
                }
            }
        }
        Ok(())
    };
    let ended = tokio::select! {
        ended = node_speaks_last(up) => ended,
        ended = down => ended,
        () = stop.cancelled() => Ok(()),
    };
    let (code, reason) = match ended {
        Ok(()) => (close_code::NORMAL, String::new()),
        Err(error) => (close_code::ERROR, short(&error.to_string())),
    };
    let frame = CloseFrame { code, reason: reason.into() };
    if let Err(error) = client.sink.send(Message::Close(Some(frame))).await {
        tracing::debug!(%error, "a client went before its stream was closed");
    }
}

fn is_data(channel: u8, ports: &[u16]) -> bool {
    channel.is_multiple_of(2) && usize::from(channel / 2) < ports.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::User;

    #[test]
    fn channels_and_streams_of_a_port_are_the_same_pair() {
        assert_eq!([1, 0, 3, 2].map(stream), [1, 3, 5, 7]);
        for it in 0..=253 {
            assert_eq!(channel(stream(it)), Some(it));
        }
        assert_eq!((channel(0), channel(u32::MAX)), (None, None));
    }

    #[test]
    fn ports_are_named_in_one_parameter_or_in_several() {
        let check = |query: &str| {
            let connection = Connection {
                who: User::default(),
                resource: "pods".into(),
                subresource: "portforward".into(),
                namespace: String::new(),
                name: String::new(),
                object: serde_json::Value::Null,
                query: serde_urlencoded::from_str(query).unwrap(),
            };
            ports(&connection)
        };
        assert_eq!(check("ports=80,443").unwrap(), [80, 443]);
        assert_eq!(check("ports=80&ports=81").unwrap(), [80, 81]);
        for bad in ["", "ports=", "ports=0", "ports=70000", "ports=http"] {
            assert_eq!(check(bad).unwrap_err().code(), 400, "{bad}");
        }
    }
}
