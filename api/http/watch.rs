//! A watch on the wire: one frame per event, sent as soon as it is known, or at the next beat when many watch.
//!
//! Keeps: an event that many watch in the same form is encoded once and shared. An error is the last frame;
//! after it, at the deadline and when the server goes, the stream simply ends, and the client resumes.

use std::pin::Pin;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::ws::{Message, WebSocket};
use bytes::Bytes;
use futures::stream;
use http::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use serde_json::{Value, json};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::beat::Beating;
use super::metrics::Running;
use super::negotiate::{Form, Media, Shape};
use super::table::{Include, Tables, partial, write_partial};
use crate::client::EventKind;
use crate::codec;
use crate::error::{Reason, Status};
use crate::kinds::Kind;
use crate::object::time::Clock;
use crate::objects::feed;
use crate::pipeline::{Event, Shown, Watch, bookmark};

/// Frames that are at hand go out together, up to about so much.
const CHUNK_BYTES: usize = 64 << 10;

/// How one client wants to be told.
pub(super) struct Frames {
    pub form: Form,
    pub include: Include,
    pub clock: Clock,
    /// Only the first table has its columns.
    pub told_columns: bool,
    pub beating: Beating,
    /// Counts the watch as long as it lasts.
    pub _running: Running,
}

fn name(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Added => "ADDED",
        EventKind::Modified => "MODIFIED",
        EventKind::Deleted => "DELETED",
        EventKind::Bookmark => "BOOKMARK",
    }
}

impl Frames {
    fn frame(&mut self, watch: &Watch, event: &Event) -> Result<Bytes, Status> {
        match event {
            Event::Object { kind, shown, change } => {
                let encoding = match self.form {
                    Form { media: Media::Json, shape: Shape::Whole, pretty: false } => 0,
                    Form { media: Media::Protobuf, shape: Shape::Whole, .. } => 1,
                    Form { media: Media::Json, shape: Shape::Partial("v1"), .. } => 2,
                    _ => return self.shaped(*kind, shown),
                };
                let make = || match encoding {
                    0 => json_frame(name(*kind), &shown.json()?),
                    1 => Ok(codec::encode_event(name(*kind), shown.value()?)?.into()),
                    _ => {
                        let mut metadata = Vec::new();
                        write_partial(shown, "v1", &mut metadata)?;
                        json_frame(name(*kind), &metadata)
                    }
                };
                match change {
                    Some(change) => {
                        let kind = shown.kind();
                        let form = feed::Form {
                            group: kind.group.clone(),
                            version: kind.version.clone(),
                            encoding,
                        };
                        change.encoded(form, make)
                    }
                    None => make(),
                }
            }
            Event::Bookmark { revision, initial } => {
                let mut object = bookmark(watch.kind(), *revision, *initial);
                match self.form.shape {
                    Shape::Whole => {}
                    Shape::Partial(version) => object = partial(&object, version),
                    Shape::Table(version) => {
                        let metadata = object["metadata"].clone();
                        let tables = self.tables(watch.kind(), version);
                        object = tables.table(metadata, !self.told_columns, Vec::new());
                        self.told_columns = true;
                    }
                }
                self.encode("BOOKMARK", &object)
            }
        }
    }

    fn tables(&self, kind: &Arc<Kind>, version: &'static str) -> Tables {
        Tables { kind: kind.clone(), version, include: self.include, now: self.clock.now() }
    }

    fn shaped(&mut self, kind: EventKind, shown: &Shown) -> Result<Bytes, Status> {
        let object = match self.form.shape {
            Shape::Whole => shown.value()?.clone(),
            Shape::Partial(version) => partial(shown.value()?, version),
            Shape::Table(version) => {
                let tables = self.tables(shown.kind(), version);
                let metadata = json!({"resourceVersion": shown.revision().to_string()});
                let table = tables.table(metadata, !self.told_columns, vec![tables.row(shown)?]);
                self.told_columns = true;
                table
            }
        };
        self.encode(name(kind), &object)
    }

    fn encode(&self, kind: &str, object: &Value) -> Result<Bytes, Status> {
        match self.form.media {
            Media::Protobuf => Ok(codec::encode_event(kind, object)?.into()),
            Media::Json => json_frame(kind, object.to_string().as_bytes()),
            Media::Yaml => {
                let event = json!({"type": kind, "object": object});
                let text = serde_saphyr::to_string(&event).map_err(Status::internal)?;
                Ok(format!("---\n{text}").into())
            }
        }
    }

    fn error(&self, status: &Status) -> Bytes {
        self.encode("ERROR", &status.to_json()).unwrap_or_default()
    }

    fn content_type(&self) -> &'static str {
        match self.form.media {
            Media::Json => "application/json",
            Media::Yaml => "application/yaml",
            Media::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        }
    }
}

fn json_frame(kind: &str, object: &[u8]) -> Result<Bytes, Status> {
    let mut frame = Vec::with_capacity(object.len() + 40);
    frame.extend_from_slice(b"{\"type\":\"");
    frame.extend_from_slice(kind.as_bytes());
    frame.extend_from_slice(b"\",\"object\":");
    frame.extend_from_slice(object);
    frame.extend_from_slice(b"}\n");
    Ok(frame.into())
}

/// What comes of waiting once: frames, or the end.
struct Stage {
    watch: Watch,
    frames: Frames,
    /// The server goes. It is waited for once and not anew for each event: all watches wait for the same,
    /// and would meet at one lock.
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    /// It was told something, and is not told more before the next beat.
    rests: bool,
    /// Kept from beat to beat.
    clock: Pin<Box<Sleep>>,
}

impl Stage {
    fn new(watch: Watch, frames: Frames, stop: CancellationToken) -> Stage {
        let stop = Box::pin(stop.cancelled_owned());
        let clock = Box::pin(sleep_until(Instant::now()));
        Stage { watch, frames, stop, rests: false, clock }
    }

    /// The frames that are there now, waiting for the first. `None` at the end. Cancel safe.
    async fn next(&mut self) -> Option<(Vec<Bytes>, bool)> {
        if self.rests {
            tokio::select! {
                biased;
                () = self.stop.as_mut() => return None,
                () = self.clock.as_mut() => self.rests = false,
            }
        }
        let first = tokio::select! {
            biased;
            () = self.stop.as_mut() => return None,
            first = self.watch.next() => first?,
        };
        let mut frames = Vec::new();
        let mut bytes = 0;
        let mut event = Some(first);
        while let Some(one) = event.take() {
            let made = one.and_then(|event| self.frames.frame(&self.watch, &event));
            match made {
                Ok(frame) => {
                    bytes += frame.len();
                    frames.push(frame);
                }
                // The server goes: the client asks another one, from where it is.
                Err(status) if status.is(Reason::ServiceUnavailable) => {
                    return Some((frames, true));
                }
                Err(status) => {
                    frames.push(self.frames.error(&status));
                    return Some((frames, true));
                }
            }
            if bytes < CHUNK_BYTES {
                event = self.watch.next_ready().map(Ok);
            }
        }
        let rest = self.frames.beating.rest(Instant::now());
        if let Some(until) = rest.filter(|_| self.watch.is_level()) {
            self.clock.as_mut().reset(until);
            self.rests = true;
        }
        Some((frames, false))
    }
}

/// A watch as a body without end.
pub(super) fn body(watch: Watch, frames: Frames, stop: CancellationToken) -> Response<Body> {
    let content_type = frames.content_type();
    let stage = Stage::new(watch, frames, stop);
    let chunks = stream::unfold(Some(stage), |stage| async {
        let mut stage = stage?;
        let (frames, last) = stage.next().await?;
        let chunk = stage.frames.beating.join(frames);
        Some((Ok::<_, std::convert::Infallible>(chunk), (!last).then_some(stage)))
    });
    let mut response = Response::new(Body::from_stream(chunks));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A watch over a WebSocket: one message per event.
pub(super) async fn socket(
    mut socket: WebSocket,
    watch: Watch,
    frames: Frames,
    stop: CancellationToken,
) {
    let binary = frames.form.media == Media::Protobuf;
    let mut stage = Stage::new(watch, frames, stop);
    loop {
        let (frames, last) = tokio::select! {
            // Nothing is expected from the client but that it goes.
            received = socket.recv() => match received {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => continue,
            },
            next = stage.next() => match next {
                Some(next) => next,
                None => break,
            },
        };
        for frame in frames {
            let message = if binary {
                Message::Binary(frame)
            } else {
                let text = String::from_utf8_lossy(&frame).trim_end().to_owned();
                Message::Text(text.into())
            };
            if socket.send(message).await.is_err() {
                return;
            }
        }
        if last {
            break;
        }
    }
    let _ = socket.send(Message::Close(None)).await;
}
