//! Exec and attach over a WebSocket: channels of a client, streams of a runtime.
//!
//! ```text
//! message  channel:8 bytes        0 stdin · 1 stdout · 2 stderr · 3 error · 4 resize · 255 close of a channel
//! ```
//! Keeps: the last thing a client hears is how it ended, after all output. A client that goes ends the
//! process' streams.
//! Never: closes stdin because the client is quiet; only version 5 can close it.

use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use http::Response;
use http::request::Parts;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::raw::node_speaks_last;
use super::spdy::{self, Event, Headers};
use super::websocket;
use crate::error::Status;
use crate::pipeline::Connection;
use crate::tunnel::wire::want::Kind;
use crate::tunnel::wire::{Streams, Want};
use crate::tunnel::{Nodes, Tunnel, want};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// What is spoken with the runtime, whatever the client speaks.
const RUNTIME_PROTOCOL: &str = "v4.channel.k8s.io";
const PIECE_BYTES: usize = 32 << 10;
/// How a process ended is told in some hundred bytes.
const STATUS_BYTES_MAX: usize = 64 << 10;
/// Pings of the runtime that are not answered yet; more are not answered.
const PONGS_MAX: usize = 4;

/// How a client's messages are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dialect {
    /// The end is told as a Status, also where all is well.
    statuses: bool,
    /// Text, each message base64 behind its channel's digit.
    base64: bool,
    /// Channels can be closed.
    closes: bool,
}

pub(super) const V1: Dialect = Dialect { statuses: false, base64: false, closes: false };
pub(super) const V4: Dialect = Dialect { statuses: true, base64: false, closes: false };
pub(super) const V4_BASE64: Dialect = Dialect { base64: true, ..V4 };
const V5: Dialect = Dialect { statuses: true, base64: false, closes: true };
const DIALECTS: &[(&str, Dialect)] = &[
    ("v5.channel.k8s.io", V5),
    ("v4.channel.k8s.io", V4),
    ("v4.base64.channel.k8s.io", V4_BASE64),
    ("channel.k8s.io", V1),
    ("base64.channel.k8s.io", Dialect { base64: true, ..V1 }),
];

/// Upgrades to a WebSocket.
pub async fn open(
    nodes: &Arc<dyn Nodes>,
    connection: &Connection,
    parts: &mut Parts,
    stop: CancellationToken,
) -> Result<Response<Body>, Status> {
    let (upgrade, dialect) = match websocket(parts, DIALECTS, Some(V1)).await {
        Ok(upgrade) => upgrade,
        Err(response) => return Ok(response),
    };
    let wanted = want(connection, &[RUNTIME_PROTOCOL.to_owned()])?;
    let streams = streams_of(&wanted);
    let tunnel = nodes.open(connection.node(), wanted).await?;
    Ok(upgrade.on_upgrade(move |socket| run(socket, tunnel, streams, dialect, stop)))
}

fn streams_of(want: &Want) -> Streams {
    match &want.kind {
        Some(Kind::Exec(exec)) => exec.streams.unwrap_or_default(),
        Some(Kind::Attach(attach)) => attach.streams.unwrap_or_default(),
        _ => Streams::default(),
    }
}

/// Which stream of the runtime is which channel of the client: numbers in the order in which they are opened.
struct Numbers(Vec<(u32, u8)>);

impl Numbers {
    fn new(streams: Streams) -> Numbers {
        let wanted = [
            (true, ERROR),
            (streams.stdin, STDIN),
            (streams.stdout, STDOUT),
            (streams.stderr, STDERR),
            (streams.tty, RESIZE),
        ];
        let channels = wanted.into_iter().filter(|(wanted, _)| *wanted).map(|(_, it)| it);
        Numbers((0..).map(|number| 2 * number + 1).zip(channels).collect())
    }

    fn channel(&self, stream: u32) -> Option<u8> {
        self.0.iter().find(|(number, _)| *number == stream).map(|(_, channel)| *channel)
    }

    fn stream(&self, channel: u8) -> Option<u32> {
        self.0.iter().find(|(_, it)| *it == channel).map(|(number, _)| *number)
    }

    /// The frames that open them.
    fn opening(&self) -> BytesMut {
        let mut headers = Headers::default();
        let mut frames = BytesMut::new();
        for (number, channel) in &self.0 {
            let name = match *channel {
                ERROR => "error",
                STDIN => "stdin",
                STDOUT => "stdout",
                STDERR => "stderr",
                _ => "resize",
            };
            frames.extend_from_slice(&headers.syn_stream(*number, &[("streamtype", name)]));
        }
        frames
    }
}

async fn run(
    socket: WebSocket,
    tunnel: Tunnel,
    streams: Streams,
    dialect: Dialect,
    stop: CancellationToken,
) {
    let (sink, stream) = socket.split();
    let (reader, writer) = tokio::io::split(tunnel.bytes);
    let numbers = Numbers::new(streams);
    let (pong, pongs) = mpsc::channel(PONGS_MAX);
    let mut client = Client { sink, dialect };
    // By this clients know that they are connected.
    let first = [STDOUT, STDERR, ERROR].into_iter().find(|it| numbers.stream(*it).is_some());
    if client.send(first.unwrap_or(ERROR), &[]).await.is_err() {
        return;
    }
    let up = Up { stream, writer, numbers: &numbers, dialect, pongs };
    let down = down(&mut client, reader, &numbers, pong);
    let ended = tokio::select! {
        ended = node_speaks_last(up.run()) => ended.map(|()| None),
        ended = down => ended.map(Some),
        () = stop.cancelled() => Err(io::Error::other("the server is going down")),
    };
    match ended {
        // The client has gone, and hears nothing more.
        Ok(None) => {}
        Ok(Some(status)) => client.end(&status).await,
        Err(error) => {
            let status = Status::internal(error.to_string());
            client.end(status.to_json().to_string().as_bytes()).await;
        }
    }
}

/// From the client to the runtime.
struct Up<'a, W> {
    stream: SplitStream<WebSocket>,
    writer: W,
    numbers: &'a Numbers,
    dialect: Dialect,
    pongs: mpsc::Receiver<u32>,
}

impl<W: AsyncWrite + Unpin> Up<'_, W> {
    /// Ends when the client has gone.
    async fn run(mut self) -> io::Result<()> {
        self.writer.write_all(&self.numbers.opening()).await?;
        loop {
            let frame = tokio::select! {
                Some(id) = self.pongs.recv() => Some(spdy::ping(id)),
                message = self.stream.next() => match message {
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(()),
                    Some(Ok(message)) => self.frame(message),
                },
            };
            if let Some(frame) = frame {
                self.writer.write_all(&frame).await?;
            }
        }
    }

    /// What a message is for the runtime, if it is anything.
    fn frame(&self, message: Message) -> Option<Bytes> {
        let (channel, bytes) = read(message, self.dialect)?;
        match channel {
            STDIN | RESIZE if !bytes.is_empty() => {
                Some(spdy::data(self.numbers.stream(channel)?, &bytes))
            }
            CLOSE if self.dialect.closes && bytes.first() == Some(&STDIN) => {
                Some(spdy::fin(self.numbers.stream(STDIN)?))
            }
            _ => None,
        }
    }
}

/// A client's message: a channel, and what is on it.
pub(super) fn read(message: Message, dialect: Dialect) -> Option<(u8, Bytes)> {
    match message {
        Message::Text(text) if dialect.base64 => {
            let (digit, rest) = text.as_bytes().split_first()?;
            let channel = digit.checked_sub(b'0')?;
            Some((channel, STANDARD.decode(rest).ok()?.into()))
        }
        Message::Text(text) => {
            let (channel, rest) = text.as_bytes().split_first()?;
            Some((*channel, Bytes::copy_from_slice(rest)))
        }
        Message::Binary(mut bytes) if !bytes.is_empty() => {
            let rest = bytes.split_off(1);
            Some((bytes[0], rest))
        }
        _ => None,
    }
}

/// From the runtime to the client. Answers how the process ended, as the runtime says it.
async fn down(
    client: &mut Client,
    mut reader: impl AsyncRead + Unpin,
    numbers: &Numbers,
    pong: mpsc::Sender<u32>,
) -> io::Result<Vec<u8>> {
    let mut frames = spdy::Reader::default();
    let mut piece = vec![0; PIECE_BYTES];
    let mut status = Vec::new();
    let mut open: Vec<u8> =
        [ERROR, STDOUT, STDERR].into_iter().filter(|it| numbers.stream(*it).is_some()).collect();
    while !open.is_empty() {
        let length = match reader.read(&mut piece).await {
            Ok(0) => break,
            Ok(length) => length,
            // How it ended has been told already; that the way to the node broke then is no matter.
            Err(_) if !status.is_empty() => break,
            Err(error) => return Err(error),
        };
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
            let Some(channel) = numbers.channel(stream) else { continue };
            match channel {
                ERROR if status.len() + bytes.len() <= STATUS_BYTES_MAX => {
                    status.extend_from_slice(&bytes);
                }
                STDOUT | STDERR if !bytes.is_empty() => client.send(channel, &bytes).await?,
                _ => {}
            }
            if ended {
                open.retain(|it| *it != channel);
            }
        }
    }
    if status.is_empty() {
        return Err(io::Error::other("the container runtime ended without saying how"));
    }
    Ok(status)
}

/// The client, as it is spoken to.
pub(super) struct Client {
    pub sink: SplitSink<WebSocket, Message>,
    pub dialect: Dialect,
}

impl Client {
    pub async fn send(&mut self, channel: u8, bytes: &[u8]) -> io::Result<()> {
        let message = if self.dialect.base64 {
            let digit = char::from(b'0' + channel);
            Message::Text(format!("{digit}{}", STANDARD.encode(bytes)).into())
        } else {
            let mut message = BytesMut::with_capacity(1 + bytes.len());
            message.put_u8(channel);
            message.extend_from_slice(bytes);
            Message::Binary(message.freeze())
        };
        self.sink.send(message).await.map_err(io::Error::other)
    }

    /// Tells how it ended, and closes.
    async fn end(&mut self, status: &[u8]) {
        let told = if self.dialect.statuses { Some(status.to_vec()) } else { plain(status) };
        let said = match told {
            Some(told) => self.send(ERROR, &told).await,
            None => Ok(()),
        };
        let frame = CloseFrame { code: close_code::NORMAL, reason: "".into() };
        let closed = self.sink.send(Message::Close(Some(frame))).await.map_err(io::Error::other);
        if let Err(error) = said.and(closed) {
            tracing::debug!(%error, "a client went before it heard how it ended");
        }
    }
}

/// An end as clients of version 1 know it: nothing where all is well, a sentence where not.
fn plain(status: &[u8]) -> Option<Vec<u8>> {
    match serde_json::from_slice::<Value>(status) {
        Ok(status) if status["status"] == "Success" => None,
        Ok(status) => Some(status["message"].as_str().unwrap_or_default().as_bytes().to_vec()),
        Err(_) => Some(status.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_numbered_in_the_order_in_which_a_runtime_expects_them() {
        let all = Streams { stdin: true, stdout: true, stderr: true, tty: false };
        let numbers = Numbers::new(all);
        assert_eq!(numbers.0, [(1, ERROR), (3, STDIN), (5, STDOUT), (7, STDERR)]);
        let terminal = Streams { stdin: false, stdout: true, stderr: false, tty: true };
        assert_eq!(Numbers::new(terminal).0, [(1, ERROR), (3, STDOUT), (5, RESIZE)]);
    }

    #[test]
    fn a_message_is_read_as_its_protocol_means_it() {
        let binary = |bytes: &'static [u8]| Message::Binary(Bytes::from_static(bytes));
        let base64 = Dialect { base64: true, ..V1 };
        for (message, dialect, wanted) in [
            (binary(b"\0ab"), V4, Some((STDIN, &b"ab"[..]))),
            (binary(b"\xff\0"), V5, Some((CLOSE, &b"\0"[..]))),
            (binary(b""), V4, None),
            (Message::Text("0YWI=".into()), base64, Some((STDIN, &b"ab"[..]))),
            (Message::Text("0%%".into()), base64, None),
            (Message::Text("\u{4}{}".into()), V4, Some((RESIZE, &b"{}"[..]))),
        ] {
            let read = read(message.clone(), dialect);
            assert_eq!(read.as_ref().map(|(at, it)| (*at, &it[..])), wanted, "{message:?}");
        }
    }

    #[test]
    fn version_1_hears_of_failures_alone() {
        assert_eq!(plain(br#"{"status":"Success"}"#), None);
        let failed = plain(br#"{"status":"Failure","message":"no such file"}"#).unwrap();
        assert_eq!(failed, b"no such file");
    }
}
