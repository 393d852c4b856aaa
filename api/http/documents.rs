//! Discovery, OpenAPI and `/version`: documents that change only when the registry does.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::header::{
    ACCEPT, CACHE_CONTROL, ETAG, EXPIRES, HeaderValue, IF_NONE_MATCH, LOCATION, VARY,
};
use http::{Response, StatusCode};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::negotiate::Media;
use super::respond::Wish;
use crate::discovery::{self, AGGREGATED_TYPE, Half};
use crate::document::Document;
use crate::error::{Reason, Status};
use crate::kinds::Registry;
use crate::openapi::{OpenApi, V2_PROTOBUF_TYPE, V2_PROTOBUF_TYPE_ASKED};

/// A document that is not the API's own.
#[derive(Clone)]
pub struct Page {
    pub path: String,
    pub content_type: &'static str,
    pub body: Arc<dyn Fn() -> Bytes + Send + Sync>,
}

impl Page {
    pub(super) fn answer(&self) -> Response<Body> {
        let mut response = Response::new(Body::from((self.body)()));
        let kind = HeaderValue::from_static(self.content_type);
        response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
        response
    }
}

pub(super) struct Documents {
    registry: Arc<Registry>,
    address: String,
    /// Both halves of aggregated discovery as of so many changes of the registry.
    openapi: OpenApi,
    aggregated: Mutex<Option<(u64, Arc<Document>, Arc<Document>)>>,
}

impl Documents {
    pub(super) fn new(registry: Arc<Registry>, address: String) -> Documents {
        let openapi = OpenApi::new(&git_version());
        Documents { registry, address, openapi, aggregated: Mutex::new(None) }
    }

    /// `None`: there is no such document.
    pub(super) fn answer(
        &self,
        path: &str,
        wish: &Wish<'_>,
    ) -> Result<Option<Response<Body>>, Status> {
        let path = path.trim_end_matches('/');
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let rows = self.registry.snapshot();
        let value = match parts.as_slice() {
            ["version"] => Some(version()),
            ["api"] if wants_aggregated(wish) => {
                return Ok(Some(self.aggregated(wish, Half::Core)));
            }
            ["apis"] if wants_aggregated(wish) => {
                return Ok(Some(self.aggregated(wish, Half::Groups)));
            }
            ["api"] => Some(discovery::core_versions(&self.address)),
            ["apis"] => Some(discovery::groups(&rows)),
            ["apis", group] => discovery::group(&rows, group),
            ["api", version] => discovery::resources(&rows, "", version),
            ["apis", group, version] => discovery::resources(&rows, group, version),
            ["openapi", "v2"] => return self.v2(wish).map(Some),
            ["openapi", "v3", name @ ..] => return Ok(self.v3(&name.join("/"), wish)),
            [""] => Some(self.paths()),
            _ => None,
        };
        value.map(|value| wish.document(&value)).transpose()
    }

    fn aggregated(&self, wish: &Wish<'_>, half: Half) -> Response<Body> {
        let document = {
            let mut kept = self.aggregated.lock();
            let rows = self.registry.snapshot();
            let fresh = kept.take().filter(|(changes, ..)| *changes == rows.changes());
            let (changes, core, groups) = fresh.unwrap_or_else(|| {
                let one = |half| Arc::new(discovery::aggregated(&rows, half));
                (rows.changes(), one(Half::Core), one(Half::Groups))
            });
            let document = if half == Half::Core { core.clone() } else { groups.clone() };
            *kept = Some((changes, core, groups));
            document
        };
        tagged(wish, &document, AGGREGATED_TYPE)
    }

    fn v2(&self, wish: &Wish<'_>) -> Result<Response<Body>, Status> {
        let rows = self.registry.snapshot();
        for clause in accepted(wish) {
            let media = clause.split(';').next().unwrap_or_default().trim();
            if media == V2_PROTOBUF_TYPE || media == V2_PROTOBUF_TYPE_ASKED {
                return Ok(tagged(wish, &self.openapi.v2_protobuf(&rows), V2_PROTOBUF_TYPE));
            }
            if is_json(media) {
                return Ok(tagged(wish, &self.openapi.v2(&rows), "application/json"));
            }
        }
        Err(not_acceptable())
    }

    /// All of version 3, or one of its documents. With the right hash it may be kept for ever.
    fn v3(&self, name: &str, wish: &Wish<'_>) -> Option<Response<Body>> {
        let rows = self.registry.snapshot();
        if !accepted(wish).iter().any(|it| is_json(it.split(';').next().unwrap_or_default().trim()))
        {
            return Some(super::respond::error(wish.headers, &not_acceptable()));
        }
        if name.is_empty() {
            return Some(tagged(wish, &self.openapi.v3_root(&rows), "application/json"));
        }
        let hash = wish.query.get("hash").filter(|it| !it.is_empty());
        let document = self.openapi.v3(&rows, name)?;
        let Some(hash) = hash else {
            return Some(tagged(wish, &document, "application/json"));
        };
        if hash != document.etag {
            let url = format!("/openapi/v3/{name}?hash={}", document.etag);
            let mut moved = Response::new(Body::empty());
            *moved.status_mut() = StatusCode::MOVED_PERMANENTLY;
            let url = HeaderValue::try_from(url).expect("a name that is known is plain text");
            moved.headers_mut().insert(LOCATION, url);
            return Some(moved);
        }
        let mut response = tagged(wish, &document, "application/json");
        let for_ever = HeaderValue::from_static("public, immutable");
        response.headers_mut().insert(CACHE_CONTROL, for_ever);
        let expires = wish.now.plus_seconds(365 * 24 * 3600);
        let expires = expires.moment().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        if let Ok(expires) = HeaderValue::try_from(expires) {
            response.headers_mut().insert(EXPIRES, expires);
        }
        Some(response)
    }

    /// `/`: what there is to ask for.
    fn paths(&self) -> Value {
        let rows = self.registry.snapshot();
        let mut paths = vec!["/api".to_owned(), "/api/v1".into(), "/apis".into()];
        for group in rows.groups().iter().filter(|group| !group.name.is_empty()) {
            paths.push(format!("/apis/{}", group.name));
            for version in &group.versions {
                paths.push(format!("/apis/{}/{}", group.name, version.name));
            }
        }
        paths.extend(
            ["/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]
                .map(str::to_owned),
        );
        json!({"paths": paths})
    }
}

/// A document by whose tag a client knows that it has it already.
pub(super) fn tagged(wish: &Wish<'_>, document: &Document, content_type: &str) -> Response<Body> {
    let tag = format!("\"{}\"", document.etag);
    let known = wish.headers.get(IF_NONE_MATCH).and_then(|it| it.to_str().ok());
    let mut response = if known.is_some_and(|it| it.split(',').any(|it| it.trim() == tag)) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        wish.typed(StatusCode::OK, content_type, document.bytes.clone())
    };
    let headers = response.headers_mut();
    headers.insert(ETAG, HeaderValue::try_from(tag).expect("a tag is plain text"));
    headers.append(VARY, HeaderValue::from_static("Accept"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public"));
    response
}

/// The clauses of an Accept header; nothing said means JSON.
fn accepted<'a>(wish: &Wish<'a>) -> Vec<&'a str> {
    let accept = wish.headers.get(ACCEPT).and_then(|it| it.to_str().ok()).unwrap_or_default();
    if accept.trim().is_empty() { vec!["*/*"] } else { accept.split(',').collect() }
}

fn is_json(media: &str) -> bool {
    matches!(media, "application/json" | "*/*" | "application/*")
}

fn not_acceptable() -> Status {
    Status::new(Reason::NotAcceptable, "only JSON and, of version 2, protobuf can be had")
}

/// Whether the first clause that can be served asks for all of discovery at once.
fn wants_aggregated(wish: &Wish<'_>) -> bool {
    for clause in accepted(wish) {
        let mut parts = clause.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let parameters: Vec<&str> = parts.collect();
        let has = |it: &str| parameters.contains(&it);
        if media == Media::Json.content_type() && has("as=APIGroupDiscoveryList") {
            if has("g=apidiscovery.k8s.io") && has("v=v2") {
                return true;
            }
        } else if matches!(media, "application/json" | "*/*" | "application/*" | "application/yaml")
            || media == Media::Protobuf.content_type()
        {
            return false;
        }
    }
    false
}

/// The Kubernetes release whose API is served.
pub const KUBERNETES: (&str, &str, &str) = ("1", "37", "0");

/// The release, as clients read it.
fn git_version() -> String {
    let (major, minor, patch) = KUBERNETES;
    format!("v{major}.{minor}.{patch}+kontiki{}", env!("CARGO_PKG_VERSION"))
}

/// What this server is to clients.
pub(super) fn version() -> Value {
    let (major, minor, _) = KUBERNETES;
    json!({
        "major": major, "minor": minor, "emulationMajor": major, "emulationMinor": minor,
        "minCompatibilityMajor": "1", "minCompatibilityMinor": "36",
        "gitVersion": git_version(),
        "gitCommit": "0000000000000000000000000000000000000000",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "rust", "compiler": "rustc",
        "platform": format!("linux/{}", architecture()),
    })
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
