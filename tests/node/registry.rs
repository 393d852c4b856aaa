//! A registry that gives one image to whoever knows the word. In the network of a machine, over plain HTTP.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

pub const USER: &str = "user";
pub const WORD: &str = "word";
/// Both, as a client sends them.
const BASIC: &str = "Basic dXNlcjp3b3Jk";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// What the image is made of, by digest.
struct Image {
    blobs: BTreeMap<String, Vec<u8>>,
    manifest: String,
}

impl Image {
    /// Of an archive as `kontiki` makes them.
    fn read(archive: &[u8]) -> Image {
        let mut image = Image { blobs: BTreeMap::new(), manifest: String::new() };
        for entry in tar::Archive::new(archive).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            if path == "index.json" {
                let index: Value = serde_json::from_slice(&bytes).unwrap();
                image.manifest = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
            } else if let Some(digest) = path.strip_prefix("blobs/") {
                image.blobs.insert(digest.replace('/', ":"), bytes);
            }
        }
        image
    }
}

/// Serves the image, under whatever name it is asked for, until the test ends. Returns the port.
pub async fn serve(inside: i32, archive: &[u8]) -> u16 {
    let namespace = std::fs::File::open(format!("/proc/{inside}/ns/net")).unwrap();
    // A socket stays in the network that it was made in; the thread is not needed any more.
    let bound = std::thread::spawn(move || {
        let network = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), network).unwrap();
        std::net::TcpListener::bind("127.0.0.1:0").unwrap()
    });
    let listener = bound.join().unwrap();
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let port = listener.local_addr().unwrap().port();
    let router = Router::new().fallback(answer).with_state(Arc::new(Image::read(archive)));
    tokio::spawn(async move { axum::serve(listener, router).await });
    port
}

async fn answer(State(image): State<Arc<Image>>, headers: HeaderMap, uri: Uri) -> Response {
    if headers.get(AUTHORIZATION).is_none_or(|it| it != BASIC) {
        let asks = [(WWW_AUTHENTICATE, "Basic realm=\"test\"")];
        return (StatusCode::UNAUTHORIZED, asks, "who are you?").into_response();
    }
    let path = uri.path();
    if path.trim_end_matches('/') == "/v2" {
        return "{}".into_response();
    }
    let named = path.rsplit('/').next().unwrap_or_default();
    let (digest, media) = match path.contains("/manifests/") {
        true if !named.starts_with("sha256:") => (image.manifest.as_str(), MANIFEST),
        true => (named, MANIFEST),
        false => (named, "application/octet-stream"),
    };
    match image.blobs.get(digest) {
        Some(bytes) => {
            let headers = [(CONTENT_TYPE.as_str(), media), ("docker-content-digest", digest)];
            (headers, Body::from(bytes.clone())).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
