//! The REST front: what Kubernetes' clients speak to.
//!
//! One handler for every path, because paths are data: what there is is asked of the registry, not of a table
//! of routes. Order, outermost first: audit id, in-flight limit, authentication, impersonation,
//! authorization, the road.
//!
//! Keeps: every answer has the headers that clients rely on; every error is a `Status`, but for a path that
//! is unknown. Never: rules of a kind.

mod beat;
mod compress;
mod connect;
mod documents;
mod health;
mod held;
mod info;
mod limits;
pub mod metrics;
mod negotiate;
mod record;
mod respond;
mod streams;
mod table;
mod watch;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{FromRequestParts, State};
use axum::response::IntoResponse;
use futures::FutureExt;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, USER_AGENT, WARNING};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::audit::{Audit, Record, Stage};
use crate::auth::authorize::forbidden;
use crate::auth::{self, Attributes, Authenticator, Decision, impersonate};
use crate::error::{Reason, Status};
use crate::pipeline::{Road, connects, is_unknown_path};
use crate::request::{self, User, Verb};
use crate::tunnel::Nodes;

pub use documents::{KUBERNETES, Page};
pub use health::{Check, Health};
pub use limits::Limits;
pub use metrics::Metrics;

use beat::Beat;
use documents::Documents;
use info::{Info, What};
use limits::Places;
use respond::Wish;
use watch::Frames;

/// Largest body of a request.
const BODY_BYTES_MAX: usize = 3 << 20;
/// Longest a request may take that is not long-running.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// Warnings of one answer, together.
const WARNING_RUNES_MAX: usize = 4096;
const WARNING_RUNES_CUT: usize = 256;

/// What the front is made of.
pub struct Front {
    pub road: Arc<Road>,
    pub authenticator: Arc<dyn Authenticator>,
    pub health: Arc<Health>,
    pub metrics: Arc<Metrics>,
    pub limits: Limits,
    /// Reaches nodes: what ends there goes through it.
    pub nodes: Arc<dyn Nodes>,
    /// Further documents: keys of service accounts, `.well-known`.
    pub pages: Vec<Page>,
    /// Where clients reach this server, as discovery says it.
    pub address: String,
    /// What is asked and answered is written down there.
    pub audit: Option<Arc<Audit>>,
    /// Ends watches when the server goes.
    pub stop: CancellationToken,
}

struct Serving {
    front: Arc<Front>,
    documents: Documents,
    places: Places,
    beat: Arc<Beat>,
}

/// All of the API. The listener has put the client's certificates into the request.
pub fn router(front: Arc<Front>) -> Router {
    let documents = Documents::new(front.road.registry().clone(), front.address.clone());
    let places = Places::new(&front.limits);
    let serving = Arc::new(Serving { front, documents, places, beat: Beat::new() });
    Router::new().fallback(handle).with_state(serving)
}

async fn handle(State(serving): State<Arc<Serving>>, request: Request<Body>) -> Response<Body> {
    let begun = Instant::now();
    let (mut parts, body) = request.into_parts();
    auth::introduce(&mut parts.extensions);
    let id = audit_id(&parts.headers);
    let agent = parts.headers.get(USER_AGENT).and_then(|it| it.to_str().ok());
    let info = Info::read(&parts.method, &parts.uri, agent.unwrap_or_default());
    let headers = parts.headers.clone();
    let registry = serving.front.road.registry();
    let label = metrics::Label::of(&parts.method, info.as_ref().ok(), registry);
    let mut response = match info {
        Ok(info) => {
            let id = id.to_str().unwrap_or_default();
            let answering = serving.serve(id, &mut parts, body, info, &label);
            // One request that goes wrong must not end the connection, and with it a client's watches.
            let answered = AssertUnwindSafe(answering).catch_unwind().await;
            let answered = answered.unwrap_or_else(|_| {
                tracing::error!(?label, "a request ended in a panic");
                Err(Status::internal("the request could not be carried out"))
            });
            answered.unwrap_or_else(|status| refuse(&headers, &status))
        }
        Err(status) => respond::error(&headers, &status),
    };
    serving.front.metrics.answered(&label, response.status().as_u16(), begun.elapsed());
    complete(&mut response, &id);
    response
}

fn refuse(headers: &HeaderMap, status: &Status) -> Response<Body> {
    if is_unknown_path(status) { not_found() } else { respond::error(headers, status) }
}

/// A path that is nothing: plain text, by which clients know it.
fn not_found() -> Response<Body> {
    let mut response = Response::new(Body::from("404 page not found\n"));
    *response.status_mut() = StatusCode::NOT_FOUND;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, text);
    let plain = HeaderValue::from_static("nosniff");
    response.headers_mut().insert("x-content-type-options", plain);
    response
}

fn audit_id(headers: &HeaderMap) -> HeaderValue {
    let given = headers.get("audit-id").filter(|it| it.len() <= 64);
    given.cloned().unwrap_or_else(|| {
        let id = uuid::Uuid::new_v4().to_string();
        HeaderValue::try_from(id).unwrap_or_else(|_| HeaderValue::from_static("-"))
    })
}

/// Headers that every answer has.
fn complete(response: &mut Response<Body>, id: &HeaderValue) {
    // There is one queue for all, and it has the name of upstream's for everybody.
    const FLOW: &str = "00000000-0000-0000-0000-000000000000";
    let headers = response.headers_mut();
    headers.insert("audit-id", id.clone());
    headers.entry("cache-control").or_insert(HeaderValue::from_static("no-cache, private"));
    headers.insert("x-kubernetes-pf-flowschema-uid", HeaderValue::from_static(FLOW));
    headers.insert("x-kubernetes-pf-prioritylevel-uid", HeaderValue::from_static(FLOW));
}

impl Serving {
    async fn serve(
        &self,
        id: &str,
        parts: &mut Parts,
        body: Body,
        info: Info,
        label: &metrics::Label,
    ) -> Result<Response<Body>, Status> {
        let audit = self.front.audit.as_ref();
        let headers = parts.headers.clone();
        let goes_on = matches!(&info.what, What::Resource { request, .. } if is_long(request));
        let found = self.front.authenticator.authenticate(parts).await;
        let real = match found.and_then(|real| real.ok_or_else(Status::unauthorized)) {
            Ok(real) => real,
            Err(status) => {
                let record = record::begin(audit, id, &User::default(), parts, &info);
                let response = refuse(&headers, &status);
                return Ok(record::finish(record, false, response).await);
            }
        };
        let mut record = record::begin(audit, id, &real, parts, &info);
        if let Some(record) = &mut record {
            record.stage(Stage::RequestReceived);
        }
        let answered = self.permitted(real, parts, body, info, label, &mut record).await;
        let response = answered.unwrap_or_else(|status| refuse(&headers, &status));
        Ok(record::finish(record, goes_on, response).await)
    }

    async fn permitted(
        &self,
        real: User,
        parts: &mut Parts,
        body: Body,
        info: Info,
        label: &metrics::Label,
        record: &mut Option<Record>,
    ) -> Result<Response<Body>, Status> {
        let impersonated = self.impersonated(&real, parts)?;
        if let (Some(record), Some(user)) = (record.as_mut(), &impersonated) {
            record.impersonates(user);
        }
        let who = impersonated.unwrap_or(real);
        if let Some(record) = record {
            record::decide(record, &**self.front.road.authorizer(), &who, parts, &info);
        }
        self.answer(who, parts, body, info, label, record).await
    }

    async fn answer(
        &self,
        who: User,
        parts: &mut Parts,
        body: Body,
        info: Info,
        label: &metrics::Label,
        record: &mut Option<Record>,
    ) -> Result<Response<Body>, Status> {
        match &info.what {
            What::Path(path) => {
                // Health is asked by those who know nothing else: it never waits for a place.
                let path = path.clone();
                self.permit_path(&who, &parts.method, &path)?;
                self.path(parts, &path, &info).await
            }
            What::Resource { request, .. } if is_long(request) => {
                let running = self.front.metrics.running(label);
                self.long(who, parts, body, info, running).await
            }
            What::Resource { request, .. } => {
                let place = self.places.take(request.verb).await?;
                let running = self.front.metrics.in_flight(request.verb);
                let call = self.call(&who, parts, body, info, record);
                match tokio::time::timeout(DEADLINE, call).await {
                    // A large list is sent after this: until then it takes its place.
                    Ok(answered) => Ok(held::holding(answered?, (place, running))),
                    Err(_) => Err(Status::new(
                        Reason::Timeout,
                        "request did not complete within the allotted timeout",
                    )),
                }
            }
        }
    }

    /// In whose name it is asked, if that is another's.
    fn impersonated(&self, real: &User, parts: &Parts) -> Result<Option<User>, Status> {
        let Some(wanted) = impersonate::read(&parts.headers)? else { return Ok(None) };
        for check in &wanted.checks {
            let attributes = check.attributes(real);
            match self.front.road.authorizer().decide(&attributes) {
                Decision::Allow(_) => {}
                Decision::Deny(why) | Decision::NoOpinion(why) => {
                    return Err(forbidden(&attributes, &why));
                }
            }
        }
        Ok(Some(wanted.user))
    }

    fn permit_path(&self, who: &User, method: &Method, path: &str) -> Result<(), Status> {
        let verb = method.as_str().to_ascii_lowercase();
        let attributes = Attributes { path, ..Attributes::of(who, &verb) };
        match self.front.road.authorizer().decide(&attributes) {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(why) | Decision::NoOpinion(why) => Err(forbidden(&attributes, &why)),
        }
    }

    async fn path(&self, parts: &Parts, path: &str, info: &Info) -> Result<Response<Body>, Status> {
        if !matches!(parts.method, Method::GET | Method::HEAD) {
            return Ok(not_found());
        }
        if let Some(response) = self.front.health.answer(path, &info.query).await {
            return Ok(response);
        }
        if path == "/metrics" {
            return Ok(self.front.metrics.page());
        }
        if let Some(page) = self.front.pages.iter().find(|page| page.path == path) {
            return Ok(page.answer());
        }
        let wish = self.wish(parts, info);
        self.documents.answer(path, &wish)?.map_or_else(|| Ok(not_found()), Ok)
    }

    fn wish<'a>(&self, parts: &'a Parts, info: &'a Info) -> Wish<'a> {
        let now = self.front.road.clock().now();
        Wish { headers: &parts.headers, query: &info.query, now }
    }

    async fn call(
        &self,
        who: &User,
        parts: &Parts,
        body: Body,
        info: Info,
        record: &mut Option<Record>,
    ) -> Result<Response<Body>, Status> {
        let wish = self.wish(parts, &info);
        let What::Resource { request, rest } = &info.what else {
            return Ok(not_found());
        };
        if !rest.is_empty() {
            return Ok(not_found());
        }
        let mut request = request::Request::clone(request);
        if matches!(request.verb, Verb::Get | Verb::List) {
            // What cannot be told in any form that is wanted need not be looked up.
            self.acceptable(&request, &wish)?;
        } else {
            request.body = read(&parts.headers, body).await?;
            if let Some(record) = record {
                record.request(&request.body);
            }
        }
        let reply = self.front.road.call(who, request).await?;
        if let Some(record) = record {
            for (key, value) in &reply.annotations {
                record.annotate(key, value);
            }
        }
        let warnings = reply.warnings.clone();
        let mut response = wish.reply(reply)?;
        for warning in warning_values(&warnings) {
            response.headers_mut().append(WARNING, warning);
        }
        Ok(response)
    }

    fn acceptable(&self, request: &request::Request, wish: &Wish<'_>) -> Result<(), Status> {
        let of = &request.resource;
        let kind = self.front.road.registry().find(&of.group, &of.version, &of.resource);
        match kind {
            Some(kind) if request.subresource.is_none() => {
                wish.form(respond::offer(&kind)).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// What takes as long as it takes: watches, and streams to nodes.
    async fn long(
        &self,
        who: User,
        parts: &mut Parts,
        body: Body,
        info: Info,
        running: metrics::Running,
    ) -> Result<Response<Body>, Status> {
        let What::Resource { request, rest } = info.what.clone() else {
            return Ok(not_found());
        };
        if connects(&request) {
            return self.connect(who, parts, body, *request, rest, &info).await;
        }
        let of = &request.resource;
        let kind = self.front.road.registry().find(&of.group, &of.version, &of.resource);
        let wish = self.wish(parts, &info);
        let form = match kind {
            Some(kind) => wish.form(respond::offer(&kind))?,
            None => respond::plain(),
        };
        let frames = Frames {
            form,
            include: wish.include()?,
            clock: self.front.road.clock().clone(),
            told_columns: false,
            beating: self.beat.join(),
            _running: running,
        };
        let watch = self.front.road.watch(&who, *request).await?;
        let stop = self.front.stop.child_token();
        if parts
            .headers
            .get("upgrade")
            .is_some_and(|it| it.as_bytes().eq_ignore_ascii_case(b"websocket"))
        {
            let upgrade = WebSocketUpgrade::from_request_parts(parts, &()).await;
            return Ok(match upgrade {
                Ok(upgrade) => upgrade
                    .on_upgrade(move |socket| watch::socket(socket, watch, frames, stop))
                    .into_response(),
                Err(rejected) => rejected.into_response(),
            });
        }
        Ok(watch::body(watch, frames, stop))
    }
}

fn is_long(request: &request::Request) -> bool {
    request.verb == Verb::Watch || connects(request)
}

/// The whole body, if it is not too large.
async fn read(headers: &HeaderMap, body: Body) -> Result<request::Body, Status> {
    let too_large = || {
        Status::new(
            Reason::RequestEntityTooLarge,
            format!("Request entity too large: limit is {BODY_BYTES_MAX}"),
        )
    };
    let length = headers.get(CONTENT_LENGTH).and_then(|it| it.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > BODY_BYTES_MAX) {
        return Err(too_large());
    }
    let bytes = match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Err(too_large()),
        Err(error) => {
            return Err(Status::bad_request(format!("the body cannot be read: {error}")));
        }
    };
    if bytes.is_empty() {
        return Ok(request::Body::None);
    }
    let content_type = headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok());
    Ok(request::Body::Bytes { content_type: content_type.unwrap_or_default().to_owned(), bytes })
}

/// Warnings as headers: all of them while they are few, shortened when they are long.
fn warning_values(warnings: &[String]) -> Vec<HeaderValue> {
    let mut seen: Vec<&String> = Vec::new();
    for warning in warnings {
        if !seen.contains(&warning) {
            seen.push(warning);
        }
    }
    let total: usize = seen.iter().map(|it| it.chars().count()).sum();
    let cut = total > WARNING_RUNES_MAX;
    let mut left = WARNING_RUNES_MAX;
    let mut values = Vec::new();
    for warning in seen {
        let limit = if cut { WARNING_RUNES_CUT } else { usize::MAX };
        let text: String = warning.chars().filter(|it| !it.is_control()).take(limit).collect();
        let length = text.chars().count();
        if length > left {
            break;
        }
        left -= length;
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        values.extend(HeaderValue::try_from(format!("299 - \"{quoted}\"")).ok());
    }
    values
}
