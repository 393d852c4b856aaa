//! What the road answered becomes bytes.
//!
//! Keeps: an object is not encoded again where its bytes are what is asked for. A list goes out as it is read.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures::stream;
use http::header::{ACCEPT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, Response, StatusCode};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use super::compress::Gzip;
use super::info::Query;
use super::negotiate::{self, Form, Media, Offer, Shape};
use super::table::{Include, Tables, partial, shaped, write_partial};
use crate::codec;
use crate::error::{Reason, Status};
use crate::kinds::Kind;
use crate::object::time::Timestamp;
use crate::pipeline::{Answer, Listing, Reply, Shown};

/// A body this large is compressed for who can take it.
const COMPRESSED_FROM: usize = 128 << 10;
/// How much of a list goes out at a time, about.
const CHUNK_BYTES: usize = 64 << 10;

/// What a client said about the answer it wants.
pub(super) struct Wish<'a> {
    pub headers: &'a HeaderMap,
    pub query: &'a Query,
    pub now: Timestamp,
}

pub(super) fn offer(kind: &Kind) -> Offer {
    let gvk = kind.gvk();
    let protobuf = !kind.custom && codec::knows(&gvk.group_version().to_string(), &gvk.kind);
    Offer { protobuf, shapes: true }
}

impl Wish<'_> {
    pub(super) fn form(&self, offer: Offer) -> Result<Form, Status> {
        negotiate::form(self.headers, self.query, offer)
    }

    pub(super) fn include(&self) -> Result<Include, Status> {
        Include::read(self.query.get("includeObject"))
    }

    pub(super) fn takes_gzip(&self) -> bool {
        let accepted = self.headers.get(ACCEPT_ENCODING).and_then(|it| it.to_str().ok());
        accepted.unwrap_or_default().split(',').any(|it| {
            let mut parts = it.split(';').map(str::trim);
            parts.next() == Some("gzip") && !parts.any(|it| it == "q=0")
        })
    }

    /// The answer to a call.
    pub(super) fn reply(&self, reply: Reply) -> Result<Response<Body>, Status> {
        let Reply { code, answer, .. } = reply;
        let code = StatusCode::from_u16(code).unwrap_or(StatusCode::OK);
        match answer {
            Answer::Object(shown) => {
                let kind = shown.kind().clone();
                let form = self.form(offer(&kind))?;
                if form == plain() {
                    return Ok(self.whole(code, Media::Json, shown.json()?));
                }
                let tables = self.tables(&kind, form.shape)?;
                let value = shaped(form.shape, &tables, &shown)?;
                self.value(code, form, &value)
            }
            Answer::Value(value) => {
                let is_status = value["kind"] == "Status";
                let known = codec::knows(text(&value, "apiVersion"), text(&value, "kind"));
                let offer = Offer { protobuf: known, shapes: false };
                let form = if is_status {
                    let media = negotiate::error_media(self.headers);
                    Form { media, ..plain() }
                } else {
                    self.form(offer)?
                };
                self.value(code, form, &value)
            }
            Answer::List(listing) => self.list(code, listing),
        }
    }

    /// What is not an object of the road: a document of discovery.
    pub(super) fn document(&self, value: &Value) -> Result<Response<Body>, Status> {
        let known = codec::knows(text(value, "apiVersion"), text(value, "kind"));
        let form = self.form(Offer { protobuf: known, shapes: false })?;
        self.value(StatusCode::OK, form, value)
    }

    fn tables(&self, kind: &Arc<Kind>, shape: Shape) -> Result<Tables, Status> {
        let version = match shape {
            Shape::Table(version) | Shape::Partial(version) => version,
            Shape::Whole => "v1",
        };
        Ok(Tables { kind: kind.clone(), version, include: self.include()?, now: self.now })
    }

    fn value(&self, code: StatusCode, form: Form, value: &Value) -> Result<Response<Body>, Status> {
        let bytes = encode(form, value)?;
        Ok(self.whole(code, form.media, bytes))
    }

    /// A body that is there as a whole.
    pub(super) fn whole(&self, code: StatusCode, media: Media, bytes: Bytes) -> Response<Body> {
        self.typed(code, media.content_type(), bytes)
    }

    pub(super) fn typed(
        &self,
        code: StatusCode,
        content_type: &str,
        bytes: Bytes,
    ) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = code;
        let content_type = content_type.parse().expect("media types are plain text");
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        *response.body_mut() = if bytes.len() >= COMPRESSED_FROM && self.takes_gzip() {
            Gzip::mark(response.headers_mut());
            Body::from(Gzip::whole(&bytes))
        } else {
            Body::from(bytes)
        };
        response
    }

    fn list(&self, code: StatusCode, listing: Listing) -> Result<Response<Body>, Status> {
        let kind = listing.kind().clone();
        let form = self.form(offer(&kind))?;
        let tables = self.tables(&kind, form.shape)?;
        if form.media == Media::Json && !form.pretty {
            return self.stream(code, Chunks::new(listing, form.shape, tables));
        }
        // These need the whole list at once.
        let mut listing = listing;
        let metadata = listing.metadata();
        let mut items = Vec::new();
        while let Some(page) = listing.next_page()? {
            for shown in page {
                items.push(match form.shape {
                    Shape::Whole => shown.item()?.into_owned(),
                    Shape::Table(_) => tables.row(&shown)?,
                    Shape::Partial(version) => partial(shown.value()?, version),
                });
            }
        }
        let value = match form.shape {
            Shape::Table(_) => tables.table(metadata, true, items),
            Shape::Partial(version) => json!({
                "kind": "PartialObjectMetadataList",
                "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": metadata, "items": items,
            }),
            Shape::Whole => json!({
                "kind": kind.list_kind.as_ref(), "apiVersion": kind.group_version().to_string(),
                "metadata": metadata, "items": items,
            }),
        };
        self.value(code, form, &value)
    }

    /// A list as JSON: what is small as a whole, what is large as it is read.
    fn stream(&self, code: StatusCode, mut chunks: Chunks) -> Result<Response<Body>, Status> {
        let mut first = Vec::new();
        while first.len() < COMPRESSED_FROM {
            match chunks.next(COMPRESSED_FROM)? {
                Some(chunk) => first.extend_from_slice(&chunk),
                None => return Ok(self.whole(code, Media::Json, first.into())),
            }
        }
        let mut response = Response::new(Body::empty());
        *response.status_mut() = code;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, "application/json".parse().expect("a media type"));
        let mut gzip = self.takes_gzip().then(Gzip::new);
        if gzip.is_some() {
            Gzip::mark(headers);
        }
        let first: Bytes = match &mut gzip {
            Some(gzip) => gzip.part(&first),
            None => first.into(),
        };
        let rest = stream::unfold(Some((Lent::new(chunks), gzip)), |state| async {
            let (lent, mut gzip) = state?;
            // Others get a turn between two readings of the store.
            tokio::task::yield_now().await;
            match lent.next() {
                Ok(Some(chunk)) => {
                    let chunk = match &mut gzip {
                        Some(gzip) => gzip.part(&chunk),
                        None => chunk,
                    };
                    Some((Ok(chunk), Some((lent, gzip))))
                }
                Ok(None) => Some((Ok(gzip.map(Gzip::end).unwrap_or_default()), None)),
                // The list cannot be finished: a body that breaks off is no list.
                Err(error) => Some((Err(std::io::Error::other(error)), None)),
            }
        });
        let first = stream::once(async move { Ok::<_, std::io::Error>(first) });
        *response.body_mut() = Body::from_stream(futures::StreamExt::chain(first, rest));
        Ok(response)
    }
}

/// A list that is taken back when its reader is too slow: it holds a snapshot of the store.
struct Lent {
    chunks: Arc<Mutex<Option<Chunks>>>,
    _taker: AbortOnDropHandle<()>,
}

impl Lent {
    fn new(chunks: Chunks) -> Lent {
        let chunks = Arc::new(Mutex::new(Some(chunks)));
        let lent = chunks.clone();
        let taker = tokio::spawn(async move {
            tokio::time::sleep(super::DEADLINE).await;
            lent.lock().take();
        });
        Lent { chunks, _taker: AbortOnDropHandle::new(taker) }
    }

    fn next(&self) -> Result<Option<Bytes>, Status> {
        match self.chunks.lock().as_mut() {
            Some(chunks) => chunks.next(CHUNK_BYTES),
            None => Err(Status::new(Reason::Timeout, "the list was not read in time")),
        }
    }
}

/// The pieces of a list's JSON.
struct Chunks {
    listing: Listing,
    shape: Shape,
    tables: Tables,
    page: std::vec::IntoIter<Shown>,
    begun: bool,
    has_item: bool,
    ended: bool,
}

impl Chunks {
    fn new(listing: Listing, shape: Shape, tables: Tables) -> Chunks {
        let page = Vec::new().into_iter();
        Chunks { listing, shape, tables, page, begun: false, has_item: false, ended: false }
    }

    /// Up to and including the bracket of the items.
    fn opening(&self) -> String {
        let metadata = self.listing.metadata();
        match self.shape {
            Shape::Whole => self.listing.opening(),
            Shape::Table(version) => format!(
                "{{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/{version}\",\
                 \"metadata\":{metadata},\
                 \"columnDefinitions\":{},\"rows\":[",
                self.tables.columns()
            ),
            Shape::Partial(version) => format!(
                "{{\"kind\":\"PartialObjectMetadataList\",\"apiVersion\":\"meta.k8s.io/{version}\",\
                 \"metadata\":{metadata},\"items\":["
            ),
        }
    }

    fn write(&self, item: &Shown, out: &mut Vec<u8>) -> Result<(), Status> {
        match self.shape {
            Shape::Whole => item.write_item(out),
            Shape::Table(_) => self.tables.write_row(item, out),
            Shape::Partial(version) => write_partial(item, version, out),
        }
    }

    fn next(&mut self, bytes_max: usize) -> Result<Option<Bytes>, Status> {
        if self.ended {
            return Ok(None);
        }
        let mut out = Vec::with_capacity(bytes_max + 4096);
        if !std::mem::replace(&mut self.begun, true) {
            out.extend_from_slice(self.opening().as_bytes());
        }
        while out.len() < bytes_max {
            let item = match self.page.next() {
                Some(item) => item,
                None => match self.listing.next_page()? {
                    Some(page) => {
                        self.page = page.into_iter();
                        continue;
                    }
                    None => {
                        out.extend_from_slice(b"]}");
                        self.ended = true;
                        break;
                    }
                },
            };
            if std::mem::replace(&mut self.has_item, true) {
                out.push(b',');
            }
            self.write(&item, &mut out)?;
        }
        Ok(Some(out.into()))
    }
}

pub(super) fn plain() -> Form {
    Form { media: Media::Json, shape: Shape::Whole, pretty: false }
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// A value in its form.
pub(super) fn encode(form: Form, value: &Value) -> Result<Bytes, Status> {
    match form.media {
        Media::Json if form.pretty => {
            let mut text = Vec::new();
            let style = serde_json::ser::PrettyFormatter::with_indent(b"  ");
            let mut serializer = serde_json::Serializer::with_formatter(&mut text, style);
            serde::Serialize::serialize(value, &mut serializer).map_err(Status::internal)?;
            text.push(b'\n');
            Ok(text.into())
        }
        Media::Json => Ok(value.to_string().into()),
        Media::Yaml => Ok(serde_saphyr::to_string(value).map_err(Status::internal)?.into()),
        Media::Protobuf => Ok(codec::encode(value)?.into()),
    }
}

/// An error as the client can read it.
pub(super) fn error(headers: &HeaderMap, status: &Status) -> Response<Body> {
    let media = negotiate::error_media(headers);
    let value = status.to_json();
    let form = Form { media, ..plain() };
    let (media, bytes) = match encode(form, &value) {
        Ok(bytes) => (media, bytes),
        Err(_) => (Media::Json, value.to_string().into()),
    };
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() =
        StatusCode::from_u16(status.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, media.content_type().parse().expect("a media type"));
    let seconds = status.details().map_or(0, |it| it.retry_after_seconds);
    if seconds > 0 {
        headers.insert("retry-after", seconds.into());
    }
    response
}
