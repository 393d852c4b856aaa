//! What the front counts, under the names that dashboards of Kubernetes know.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use axum::body::Body;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Response};
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::info::{Info, What};
use crate::kinds::{Kind, Registry as Rows};
use crate::request::Verb;

const SECONDS: [f64; 22] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0,
    10.0, 15.0, 20.0, 30.0, 60.0,
];

/// What a request is counted under.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Label {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: String,
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestKind {
    request_kind: &'static str,
}

impl Label {
    pub(super) fn of(method: &Method, info: Option<&Info>, rows: &Rows) -> Label {
        let request = match info {
            Some(Info { what: What::Resource { request, .. }, .. }) => request,
            _ => {
                let known = matches!(
                    *method,
                    Method::GET | Method::POST | Method::PUT | Method::PATCH | Method::DELETE
                );
                let verb = if known { method.as_str() } else { "OTHER" };
                return Label { verb: verb.into(), ..Label::default() };
            }
        };
        let of = &request.resource;
        let row = rows.find(&of.group, &of.version, &of.resource);
        let verb = match request.verb {
            Verb::Get => "GET",
            Verb::List => "LIST",
            Verb::Watch => "WATCH",
            Verb::Create => "POST",
            Verb::Update => "PUT",
            Verb::Patch => "PATCH",
            Verb::Delete => "DELETE",
            Verb::DeleteCollection => "DELETECOLLECTION",
        };
        let scope = match (&request.name, &request.namespace) {
            (Some(_), _) => "resource",
            (None, Some(_)) => "namespace",
            (None, None) => "cluster",
        };
        // What is not there is not counted by name: anybody may make up names.
        let name = |part: &dyn Fn(&Kind) -> &Arc<str>| {
            row.as_ref().map(|row| part(row).to_string()).unwrap_or_default()
        };
        let sub = request
            .subresource
            .as_deref()
            .filter(|sub| row.as_ref().is_some_and(|row| row.subresource(sub).is_some()));
        Label {
            verb: verb.into(),
            group: name(&|row| &row.group),
            version: name(&|row| &row.version),
            resource: name(&|row| &row.resource),
            subresource: sub.unwrap_or_default().to_owned(),
            scope: scope.into(),
        }
    }
}

/// Counters of the front, and whatever else registers with them.
pub struct Metrics {
    registry: Mutex<Registry>,
    requests: Family<Answered, Counter>,
    durations: Family<Label, Histogram>,
    running: Family<Label, Gauge>,
    in_flight: Family<RequestKind, Gauge>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let metrics = Metrics {
            registry: Mutex::new(Registry::default()),
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            running: Family::default(),
            in_flight: Family::default(),
        };
        metrics.register(|registry| {
            registry.register(
                "apiserver_request",
                "Counter of apiserver requests broken out for each verb, resource and code",
                metrics.requests.clone(),
            );
            registry.register(
                "apiserver_request_duration_seconds",
                "Response latency distribution in seconds for each verb and resource",
                metrics.durations.clone(),
            );
            registry.register(
                "apiserver_longrunning_requests",
                "Gauge of all active long-running apiserver requests",
                metrics.running.clone(),
            );
            registry.register(
                "apiserver_current_inflight_requests",
                "Requests that are served now, by kind",
                metrics.in_flight.clone(),
            );
        });
        metrics
    }
}

impl Metrics {
    /// Lets another room add what it counts.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.lock());
    }

    pub(super) fn answered(&self, label: &Label, code: u16, took: Duration) {
        let Label { verb, group, version, resource, subresource, scope } = label.clone();
        let code = code.to_string();
        self.requests
            .get_or_create(&Answered { verb, group, version, resource, subresource, scope, code })
            .inc();
        if label.verb != "WATCH" {
            self.durations.get_or_create(label).observe(took.as_secs_f64());
        }
    }

    pub(super) fn running(&self, label: &Label) -> Running {
        Running::new(self.running.get_or_create(label).clone())
    }

    pub(super) fn in_flight(&self, verb: Verb) -> Running {
        let reads = matches!(verb, Verb::Get | Verb::List | Verb::Watch);
        let request_kind = if reads { "readOnly" } else { "mutating" };
        Running::new(self.in_flight.get_or_create(&RequestKind { request_kind }).clone())
    }

    pub(super) fn page(&self) -> Response<Body> {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry.lock());
        let mut response = Response::new(Body::from(text));
        response.headers_mut().insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8"),
        );
        response
    }
}

/// Counted as long as it lives.
pub(super) struct Running(Gauge<i64, AtomicI64>);

impl Running {
    fn new(gauge: Gauge<i64, AtomicI64>) -> Running {
        gauge.inc();
        Running(gauge)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The type of counters that other rooms register.
pub type Count = Counter<u64, AtomicU64>;
