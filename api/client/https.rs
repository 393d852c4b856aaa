//! The transport to API servers elsewhere: one HTTP/2 connection over TLS, all requests and watches
//! on it.
//!
//! Keeps: any of several servers does; when the connection breaks, the next request goes to the
//! next one that answers. Requests have a deadline, answers and events a bound; a watch has none,
//! as long as the other side answers pings.
//! Never: sends a request twice. Whether one whose connection broke was carried out is for the
//! caller to find out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::stream;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderValue, Method, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::ClientConfig;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::connection::{self, Server, Windows};
use super::{Event, EventKind, Events, Served, Transport};
use crate::error::{Reason, Status};
use crate::object::GroupVersionResource;
use crate::request::{Body, Options, Request, Verb};

/// A little longer than servers give themselves.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(70);
const ANSWER_BYTES_MAX: usize = 512 << 20;
/// An object is at most some megabytes.
const EVENT_BYTES_MAX: usize = 32 << 20;
const WINDOWS: Windows = Windows { stream_bytes: 1 << 20, connection_bytes: 8 << 20 };
/// What may stand in a part of a path as it is.
const PART: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');

/// Several servers of one cluster. Cheap to clone.
#[derive(Clone)]
pub struct Https(Arc<Inner>);

struct Inner {
    servers: Vec<Server>,
    tls: Arc<ClientConfig>,
    bearer: Option<HeaderValue>,
    /// The server that is used.
    at: AtomicUsize,
    connection: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

impl Https {
    /// `servers` are `https://HOST:PORT`; `tls` says who we are and whom we believe, `bearer` who
    /// we are where no certificate does.
    pub fn new(
        servers: &[String],
        tls: &ClientConfig,
        bearer: Option<&str>,
    ) -> Result<Https, String> {
        let parsed: Vec<Server> =
            servers.iter().map(|it| Server::parse(it)).collect::<Result<_, _>>()?;
        if parsed.is_empty() {
            return Err("there is no server to ask".into());
        }
        let bearer = match bearer {
            None => None,
            Some(token) => {
                let value = HeaderValue::from_str(&format!("Bearer {token}"));
                let mut value = value.map_err(|_| "the token is no plain text".to_owned())?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        let mut tls = tls.clone();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Https(Arc::new(Inner {
            servers: parsed,
            tls: Arc::new(tls),
            bearer,
            at: AtomicUsize::new(0),
            connection: Mutex::new(None),
        })))
    }

    async fn send(&self, request: Request) -> Result<Response<Incoming>, Status> {
        let request = self.0.http(request)?;
        let mut sender = self.0.sender().await?;
        let answer = match timeout(ANSWER_WAIT_MAX, sender.send_request(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(unavailable(&error)),
            Err(_) => return Err(Status::new(Reason::Timeout, "no answer in time")),
        };
        if answer.status().is_success() {
            return Ok(answer);
        }
        let code = answer.status().as_u16();
        let bytes = collect(answer).await?;
        Err(refused(code, &bytes))
    }
}

fn unavailable(error: &dyn std::fmt::Display) -> Status {
    Status::new(Reason::ServiceUnavailable, format!("the API server cannot be reached: {error}"))
}

/// What a server says that refuses: a Status, or whatever else it has.
fn refused(code: u16, bytes: &[u8]) -> Status {
    status_of(bytes).unwrap_or_else(|| {
        let reason = match code {
            401 => Reason::Unauthorized,
            403 => Reason::Forbidden,
            404 => Reason::NotFound,
            429 => Reason::TooManyRequests,
            503 => Reason::ServiceUnavailable,
            _ => Reason::Unknown,
        };
        let text = String::from_utf8_lossy(bytes);
        Status::new(reason, format!("the server answered {code}: {}", text.trim())).with_code(code)
    })
}

fn status_of(bytes: &[u8]) -> Option<Status> {
    #[derive(Deserialize)]
    struct Said {
        kind: String,
        #[serde(default)]
        reason: Value,
        #[serde(default)]
        message: String,
        #[serde(default)]
        code: Option<u16>,
    }
    let said: Said = serde_json::from_slice(bytes).ok().filter(|it: &Said| it.kind == "Status")?;
    let reason = serde_json::from_value(said.reason).unwrap_or(Reason::Unknown);
    let status = Status::new(reason, said.message);
    Some(match said.code {
        Some(code) => status.with_code(code),
        None => status,
    })
}

async fn collect(answer: Response<Incoming>) -> Result<Bytes, Status> {
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect();
    match timeout(ANSWER_WAIT_MAX, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) => Err(unavailable(&error)),
        Err(_) => Err(Status::new(Reason::Timeout, "the answer does not come to an end")),
    }
}

impl Inner {
    /// The connection, made anew if there is none.
    async fn sender(&self) -> Result<SendRequest<Full<Bytes>>, Status> {
        let mut connection = self.connection.lock().await;
        if let Some(sender) = connection.as_mut()
            && !sender.is_closed()
            && sender.ready().await.is_ok()
        {
            return Ok(sender.clone());
        }
        *connection = None;
        let first = self.at.load(Ordering::Relaxed);
        let mut last = String::new();
        for turn in 0..self.servers.len() {
            let at = (first + turn) % self.servers.len();
            let server = &self.servers[at];
            match connection::open(server, &self.tls, WINDOWS).await {
                Ok(sender) => {
                    self.at.store(at, Ordering::Relaxed);
                    *connection = Some(sender.clone());
                    return Ok(sender);
                }
                Err(why) => last = format!("{}: {why}", server.authority),
            }
        }
        Err(unavailable(&last))
    }

    fn http(&self, request: Request) -> Result<http::Request<Full<Bytes>>, Status> {
        let authority = &self.servers[self.at.load(Ordering::Relaxed)].authority;
        let uri = format!("https://{authority}{}", path(&request));
        let method = match request.verb {
            Verb::Get | Verb::List | Verb::Watch => Method::GET,
            Verb::Create => Method::POST,
            Verb::Update => Method::PUT,
            Verb::Patch => Method::PATCH,
            Verb::Delete | Verb::DeleteCollection => Method::DELETE,
        };
        let (kind, bytes) = match request.body {
            Body::None => (String::new(), Bytes::new()),
            Body::Bytes { content_type, bytes } => (content_type, bytes),
            Body::Object(value) => (String::new(), value.to_string().into()),
        };
        let kind = if kind.is_empty() { "application/json" } else { &kind };
        let mut http = http::Request::builder()
            .method(method)
            .uri(uri)
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, kind)
            .header(USER_AGENT, &request.options.user_agent);
        if let Some(bearer) = &self.bearer {
            http = http.header(AUTHORIZATION, bearer);
        }
        http.body(Full::new(bytes)).map_err(|error| Status::bad_request(error.to_string()))
    }
}

/// Where a request goes: path and query.
/// The URL of a request behind the server's.
pub(crate) fn path(request: &Request) -> String {
    let GroupVersionResource { group, version, resource } = &request.resource;
    let mut path = match &**group {
        "" => format!("/api/{version}"),
        group => format!("/apis/{group}/{version}"),
    };
    let mut part = |text: &str| {
        path.push('/');
        path.extend(utf8_percent_encode(text, PART));
    };
    if let Some(namespace) = &request.namespace {
        part("namespaces");
        part(namespace);
    }
    part(resource);
    if let Some(name) = &request.name {
        part(name);
    }
    if let Some(subresource) = &request.subresource {
        part(subresource);
    }
    let query = query(&request.options, request.verb);
    if query.is_empty() { path } else { format!("{path}?{query}") }
}

fn query(options: &Options, verb: Verb) -> String {
    let mut pairs: Vec<(&str, String)> = Vec::new();
    let mut text = |name: &'static str, value: &Option<String>| {
        pairs.extend(value.iter().map(|it| (name, it.clone())));
    };
    text("labelSelector", &options.label_selector);
    text("fieldSelector", &options.field_selector);
    text("resourceVersion", &options.resource_version);
    text("resourceVersionMatch", &options.resource_version_match);
    text("continue", &options.go_on);
    text("fieldManager", &options.field_manager);
    text("fieldValidation", &options.field_validation);
    text("propagationPolicy", &options.propagation_policy);
    let mut said = |name: &'static str, value: Option<String>| {
        pairs.extend(value.map(|it| (name, it)));
    };
    said("limit", options.limit.map(|it| it.to_string()));
    said("timeoutSeconds", options.timeout_seconds.map(|it| it.to_string()));
    said("sendInitialEvents", options.send_initial_events.map(|it| it.to_string()));
    said("force", options.force.map(|it| it.to_string()));
    said("gracePeriodSeconds", options.grace_period_seconds.map(|it| it.to_string()));
    said("orphanDependents", options.orphan_dependents.map(|it| it.to_string()));
    said("allowWatchBookmarks", options.allow_watch_bookmarks.then(|| "true".to_owned()));
    said("watch", (verb == Verb::Watch).then(|| "true".to_owned()));
    options.dry_run.iter().for_each(|it| said("dryRun", Some(it.clone())));
    serde_urlencoded::to_string(pairs).unwrap_or_default()
}

impl Transport for Https {
    fn call(&self, request: Request) -> BoxFuture<'static, Result<Bytes, Status>> {
        let this = self.clone();
        Box::pin(async move { collect(this.send(request).await?).await })
    }

    fn watch(&self, request: Request) -> BoxFuture<'static, Result<Events, Status>> {
        let this = self.clone();
        Box::pin(async move {
            let request = Request { verb: Verb::Watch, ..request };
            let lines =
                Lines { body: this.send(request).await?.into_body(), held: BytesMut::new() };
            let events: Events = Box::pin(stream::unfold(Some(lines), |lines| async {
                let mut lines = lines?;
                match lines.next().await {
                    Ok(None) => None,
                    Ok(Some(line)) => match event(&line) {
                        Ok(event) => Some((Ok(event), Some(lines))),
                        Err(status) => Some((Err(status), None)),
                    },
                    Err(status) => Some((Err(status), None)),
                }
            }));
            Ok(events)
        })
    }

    fn resources(&self) -> BoxFuture<'static, Result<Vec<Served>, Status>> {
        let this = self.clone();
        Box::pin(async move {
            let mut all = Vec::new();
            for root in ["/api", "/apis"] {
                all.extend(this.discover(root).await?);
            }
            Ok(all)
        })
    }
}

/// An answer of a watch: a JSON object a line.
struct Lines {
    body: Incoming,
    held: BytesMut,
}

impl Lines {
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        let mut looked = 0;
        loop {
            if let Some(end) = self.held[looked..].iter().position(|byte| *byte == b'\n') {
                let line = self.held.split_to(looked + end + 1).freeze();
                if !line.trim_ascii().is_empty() {
                    return Ok(Some(line));
                }
                looked = 0;
                continue;
            }
            looked = self.held.len();
            if looked > EVENT_BYTES_MAX {
                return Err(Status::internal("an event of a watch is too large"));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.held.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(unavailable(&error)),
                None => return Ok(None),
            }
        }
    }
}

fn event(line: &[u8]) -> Result<Event, Status> {
    #[derive(Deserialize)]
    struct Said<'a> {
        r#type: String,
        #[serde(borrow)]
        object: &'a RawValue,
    }
    let said: Said<'_> = serde_json::from_slice(line).map_err(|error| {
        Status::internal(format!("an event of a watch cannot be read: {error}"))
    })?;
    let kind = match said.r#type.as_str() {
        "ADDED" => EventKind::Added,
        "MODIFIED" => EventKind::Modified,
        "DELETED" => EventKind::Deleted,
        "BOOKMARK" => EventKind::Bookmark,
        _ => {
            let status = status_of(said.object.get().as_bytes());
            return Err(status.unwrap_or_else(|| Status::internal("a watch ended by an error")));
        }
    };
    Ok(Event { kind, object: Bytes::copy_from_slice(said.object.get().as_bytes()) })
}

impl Https {
    /// Everything below a root, by aggregated discovery.
    async fn discover(&self, root: &str) -> Result<Vec<Served>, Status> {
        const AGGREGATED: &str =
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let authority = &self.0.servers[self.0.at.load(Ordering::Relaxed)].authority;
        let mut http =
            http::Request::get(format!("https://{authority}{root}")).header(ACCEPT, AGGREGATED);
        if let Some(bearer) = &self.0.bearer {
            http = http.header(AUTHORIZATION, bearer);
        }
        let http =
            http.body(Full::default()).map_err(|error| Status::bad_request(error.to_string()))?;
        let mut sender = self.0.sender().await?;
        let answer = timeout(ANSWER_WAIT_MAX, sender.send_request(http)).await;
        let answer = answer.map_err(|_| Status::new(Reason::Timeout, "no answer in time"))?;
        let answer = answer.map_err(|error| unavailable(&error))?;
        let code = answer.status().as_u16();
        let bytes = collect(answer).await?;
        if code != 200 {
            return Err(refused(code, &bytes));
        }
        let list: Value = serde_json::from_slice(&bytes).map_err(Status::internal)?;
        Ok(served(&list))
    }
}

fn served(list: &Value) -> Vec<Served> {
    let each = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut all = Vec::new();
    for group in each(&list["items"]) {
        for (number, version) in each(&group["versions"]).iter().enumerate() {
            for it in each(&version["resources"]) {
                all.push(Served {
                    resource: GroupVersionResource::new(
                        &text(&group["metadata"]["name"]),
                        &text(&version["version"]),
                        &text(&it["resource"]),
                    ),
                    kind: text(&it["responseKind"]["kind"]),
                    namespaced: it["scope"] == "Namespaced",
                    verbs: each(&it["verbs"]).iter().map(text).collect(),
                    preferred: number == 0,
                });
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(verb: Verb) -> Request {
        Request {
            verb,
            resource: GroupVersionResource::new("", "v1", "pods"),
            subresource: None,
            namespace: Some("a".into()),
            name: None,
            options: Options::default(),
            body: Body::None,
        }
    }

    #[test]
    fn a_request_has_one_address() {
        let mut watch = request(Verb::Watch);
        watch.options.field_selector = Some("spec.nodeName=n".into());
        watch.options.allow_watch_bookmarks = true;
        let query = "fieldSelector=spec.nodeName%3Dn&allowWatchBookmarks=true&watch=true";
        assert_eq!(path(&watch), format!("/api/v1/namespaces/a/pods?{query}"));
        let mut status = request(Verb::Patch);
        status.resource = GroupVersionResource::new("apps", "v1", "deployments");
        (status.name, status.subresource) = (Some("x/y".into()), Some("status".into()));
        assert_eq!(path(&status), "/apis/apps/v1/namespaces/a/deployments/x%2Fy/status");
    }

    #[test]
    fn an_error_event_ends_a_watch_with_its_status() {
        let gone = br#"{"type":"ERROR","object":{"kind":"Status","reason":"Expired","code":410}}"#;
        let status = event(gone).unwrap_err();
        assert!(status.is(Reason::Expired) && status.code() == 410);
        let added = event(br#"{"type":"ADDED","object":{"kind":"Pod"}}"#).unwrap();
        assert_eq!((added.kind, &added.object[..]), (EventKind::Added, &b"{\"kind\":\"Pod\"}"[..]));
    }

    #[test]
    fn what_is_no_status_is_told_by_its_code() {
        assert!(refused(401, b"no").is(Reason::Unauthorized));
        let odd = refused(502, b"<html>");
        assert!(odd.message().contains("<html>") && odd.code() == 502);
    }
}
