//! What the audit log is told of a request, at the points at which it is known.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use http::header::USER_AGENT;
use http::request::Parts;
use http::{HeaderMap, Response};
use http_body::Body as _;
use http_body_util::{BodyExt, Collected};

use super::held;
use super::info::{Info, What};
use crate::audit::{Audit, Facts, Record, Stage};
use crate::auth::{Attributes, Authorizer, Remote};
use crate::pipeline::asking;
use crate::request::User;

/// Hands on the request as the authorizer and the audit policy are told of it.
fn asked<R>(who: &User, parts: &Parts, info: &Info, then: impl FnOnce(&Attributes<'_>) -> R) -> R {
    match &info.what {
        What::Resource { request, .. } => asking(who, request, request.verb.name(), then),
        What::Path(path) => {
            let verb = parts.method.as_str().to_ascii_lowercase();
            then(&Attributes { path, ..Attributes::of(who, &verb) })
        }
    }
}

/// Begins the record of a request, where there is an audit log that wants it.
pub(super) fn begin(
    audit: Option<&Arc<Audit>>,
    id: &str,
    who: &User,
    parts: &Parts,
    info: &Info,
) -> Option<Record> {
    let audit = audit?;
    let addresses = addresses(parts);
    let agent = parts.headers.get(USER_AGENT).and_then(|it| it.to_str().ok());
    asked(who, parts, info, |attributes| {
        let uri = parts.uri.path_and_query().map_or("/", |it| it.as_str());
        let user_agent = agent.unwrap_or_default();
        audit.begin(&Facts { id, uri, user_agent, addresses: &addresses, attributes })
    })
}

/// Notes what the authorizer says to it.
pub(super) fn decide(
    record: &mut Record,
    authorizer: &dyn Authorizer,
    who: &User,
    parts: &Parts,
    info: &Info,
) {
    record.decided(&asked(who, parts, info, |attributes| authorizer.decide(attributes)));
}

/// Notes what a request came to. The record of one that goes on ends with its body.
pub(super) async fn finish(
    record: Option<Record>,
    goes_on: bool,
    response: Response<Body>,
) -> Response<Body> {
    let Some(mut record) = record else { return response };
    let code = response.status().as_u16();
    if goes_on && code < 400 {
        record.answered(code, None);
        record.stage(Stage::ResponseStarted);
        return held::holding(response, record);
    }
    // A list that is sent as it is read is not known as a whole.
    if response.body().size_hint().exact().is_none() || !record.wants_answer(code) {
        record.answered(code, None);
        return response;
    }
    let (parts, body) = response.into_parts();
    // What is in memory as a whole can be had without fail.
    let bytes = body.collect().await.map(Collected::to_bytes).unwrap_or_default();
    record.answered(code, Some(&bytes));
    Response::from_parts(parts, Body::from(bytes))
}

/// Where a request comes from, as it says and as it is seen.
fn addresses(parts: &Parts) -> Vec<String> {
    let said = |name| text(&parts.headers, name).split(',').map(str::trim);
    let mut all: Vec<String> = Vec::new();
    let seen = parts.extensions.get::<Remote>().map(|remote| remote.0.ip().to_string());
    for address in said("x-forwarded-for").chain(said("x-real-ip")).chain(seen.as_deref()) {
        if address.parse::<IpAddr>().is_ok() && all.last().is_none_or(|it| it != address) {
            all.push(address.to_owned());
        }
    }
    all
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|it| it.to_str().ok()).unwrap_or_default()
}
