//! HTTP/1.1 through a tunnel: one request, its answer, and that is all.
//!
//! Keeps: links and redirections from the root of the page's server lead through the proxy. A page that is too
//! large to be looked through, or compressed in a way that is not known here, goes as it is.

use std::io::Read;
use std::sync::Arc;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::read::{DeflateDecoder, DeflateEncoder, GzDecoder, GzEncoder};
use futures::{StreamExt as _, stream};
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH,
    CONTENT_TYPE, HOST, HeaderName, LOCATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::links::Shown;
use crate::error::{Reason, Status};
use crate::object::meta;
use crate::pipeline::Connection;
use crate::tunnel::{Duplex, Nodes, anyone, want};

/// What concerns a connection and not what goes over it, and who asks, which is nobody's business there.
static NOT_PASSED_ON: [HeaderName; 7] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    AUTHORIZATION,
];

/// Who may read this server's answers is not for a page to say.
static NOT_SAID_BACK: [HeaderName; 4] = [
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN,
];
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
/// What a page's server is called by us.
const LOCALHOST: &str = "localhost";
/// Of a page that is looked through for links, compressed or not.
const PAGE_BYTES_MAX: usize = 4 << 20;

/// Asks the agent of a node for one of its pages, or a pod for what it serves; `rest` is the path behind
/// `proxy`.
pub async fn open(
    nodes: &Arc<dyn Nodes>,
    connection: &Connection,
    rest: &str,
    parts: &Parts,
    body: Body,
    stop: CancellationToken,
) -> Result<Response<Body>, Status> {
    if let Some(elsewhere) = folder(rest, parts) {
        return Ok(elsewhere);
    }
    let request = request(rest, parts, body)?;
    let wanted = want(connection, &[])?;
    if connection.node().is_empty() {
        let (what, name) = (&connection.resource, meta::name(&connection.object));
        let why = format!("{what} \"{name}\" cannot be reached: it is on no node");
        return Err(Status::new(Reason::ServiceUnavailable, why));
    }
    let tunnel = nodes.open(connection.node(), wanted).await?;
    let failed = |error: hyper::Error| {
        let why = format!("error trying to reach service: {error}");
        Status::new(Reason::ServiceUnavailable, why)
    };
    let bytes = if connection.name.starts_with("https:") {
        secured(tunnel.bytes).await?
    } else {
        tunnel.bytes
    };
    let (mut sender, exchange) =
        hyper::client::conn::http1::handshake(TokioIo::new(bytes)).await.map_err(failed)?;
    // Ends with the answer, whose body keeps it going, or with the server.
    tokio::spawn(async move {
        tokio::select! {
            ended = exchange => if let Err(error) = ended {
                tracing::debug!(%error, "a request to a node broke");
            },
            () = stop.cancelled() => {}
        }
    });
    let mut response = sender.send_request(request).await.map_err(failed)?.map(Body::new);
    forget(response.headers_mut(), &NOT_PASSED_ON);
    forget(response.headers_mut(), &NOT_SAID_BACK);
    Ok(shown(rest, parts, response).await)
}

/// The answer as it is to be seen under the path of the proxy.
async fn shown(rest: &str, parts: &Parts, mut response: Response<Body>) -> Response<Body> {
    let path = parts.uri.path();
    let prefix = path.strip_suffix(rest).unwrap_or(path).trim_end_matches('/');
    let called = parts.headers.get(HOST).and_then(|it| it.to_str().ok());
    let called = called.or(parts.uri.authority().map(|it| it.as_str())).unwrap_or_default();
    let shown = Shown { prefix, hosts: [called, LOCALHOST] };
    if let Some(location) = response.headers().get(LOCATION) {
        let led = location.to_str().ok().and_then(|link| shown.link(link));
        if let Some(led) = led.and_then(|link| HeaderValue::try_from(link).ok()) {
            response.headers_mut().insert(LOCATION, led);
        }
        return response;
    }
    let packing = Packing::of_page(response.headers());
    let Some(packing) = packing.filter(|_| parts.method != Method::HEAD) else { return response };
    let (mut head, body) = response.into_parts();
    let body = match whole(body).await {
        Ok(page) => {
            let unpacked = packing.unpack(&page);
            let page = unpacked.map_or(page, |page| packing.pack(&shown.page(&page)));
            head.headers.remove(CONTENT_LENGTH);
            Body::from(page)
        }
        Err(body) => body,
    };
    Response::from_parts(head, body)
}

/// A body that is not too large; otherwise it goes on from its beginning.
async fn whole(mut body: Body) -> Result<Bytes, Body> {
    let mut held = BytesMut::new();
    let mut broken = None;
    while let Some(frame) = body.frame().await {
        match frame.map(http_body::Frame::into_data) {
            Ok(Ok(data)) => held.extend_from_slice(&data),
            // Trailers.
            Ok(Err(_)) => {}
            Err(error) => broken = Some(Err(error)),
        }
        if held.len() > PAGE_BYTES_MAX || broken.is_some() {
            let begun = stream::once(async move { Ok(held.freeze()) }).chain(stream::iter(broken));
            return Err(Body::from_stream(begun.chain(body.into_data_stream())));
        }
    }
    Ok(held.freeze())
}

/// How a page is compressed.
#[derive(Clone, Copy)]
enum Packing {
    Not,
    Gzip,
    Deflate,
}

impl Packing {
    /// `None`: it is no page, or compressed in a way that is not known here.
    fn of_page(headers: &HeaderMap) -> Option<Packing> {
        let said = |name| headers.get(name).and_then(|it| it.to_str().ok()).unwrap_or_default();
        let media = said(CONTENT_TYPE).split(';').next().unwrap_or_default();
        if media.trim() != "text/html" {
            return None;
        }
        match said(CONTENT_ENCODING) {
            "" => Some(Packing::Not),
            "gzip" => Some(Packing::Gzip),
            "deflate" => Some(Packing::Deflate),
            _ => None,
        }
    }

    /// `None`: it cannot be, or is too large.
    fn unpack(self, bytes: &[u8]) -> Option<Vec<u8>> {
        match self {
            Packing::Not => read(bytes),
            Packing::Gzip => read(GzDecoder::new(bytes)),
            Packing::Deflate => read(DeflateDecoder::new(bytes)),
        }
    }

    fn pack(self, bytes: &[u8]) -> Bytes {
        let mut packed = Vec::new();
        let level = Compression::fast();
        let read = match self {
            Packing::Not => (&mut &*bytes).read_to_end(&mut packed),
            Packing::Gzip => GzEncoder::new(bytes, level).read_to_end(&mut packed),
            Packing::Deflate => DeflateEncoder::new(bytes, level).read_to_end(&mut packed),
        };
        read.expect("memory can be read");
        packed.into()
    }
}

fn read(from: impl Read) -> Option<Vec<u8>> {
    let mut page = Vec::new();
    from.take(PAGE_BYTES_MAX as u64 + 1).read_to_end(&mut page).ok()?;
    (page.len() <= PAGE_BYTES_MAX).then_some(page)
}

/// Links on a page are meant from its folder: who asks for the root without its stroke is sent there.
fn folder(rest: &str, parts: &Parts) -> Option<Response<Body>> {
    let path = parts.uri.path();
    let reads = matches!(parts.method, Method::GET | Method::HEAD);
    if !rest.is_empty() || !reads || path.ends_with('/') {
        return None;
    }
    let query = parts.uri.query().map(|it| format!("?{it}")).unwrap_or_default();
    let answer = Response::builder().status(StatusCode::MOVED_PERMANENTLY);
    answer.header(LOCATION, format!("{path}/{query}")).body(Body::empty()).ok()
}

async fn secured(bytes: Box<dyn Duplex>) -> Result<Box<dyn Duplex>, Status> {
    let name = ServerName::try_from(LOCALHOST).expect("it is a name");
    let tls = TlsConnector::from(anyone::config()).connect(name, bytes).await;
    let tls = tls.map_err(|error| {
        let why = format!("error trying to reach service: tls: {error}");
        Status::new(Reason::ServiceUnavailable, why)
    })?;
    Ok(Box::new(tls))
}

fn request(rest: &str, parts: &Parts, body: Body) -> Result<Request<Body>, Status> {
    let query = parts.uri.query().map(|it| format!("?{it}")).unwrap_or_default();
    let path = format!("/{}{query}", rest.trim_start_matches('/'));
    let uri: Uri = path.parse().map_err(|_| Status::bad_request("the path is none"))?;
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_11;
    *request.headers_mut() = parts.headers.clone();
    forget(request.headers_mut(), &NOT_PASSED_ON);
    request.headers_mut().insert(HOST, HeaderValue::from_static(LOCALHOST));
    if let Ok(path) = HeaderValue::try_from(parts.uri.path()) {
        request.headers_mut().insert(FORWARDED_URI, path);
    }
    Ok(request)
}

fn forget(headers: &mut HeaderMap, names: &[HeaderName]) {
    for name in names {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_a_folder_for_those_who_read() {
        let sent = |method: Method, uri: &str, rest: &str| {
            let parts = Request::builder().method(method).uri(uri).body(()).unwrap().into_parts().0;
            folder(rest, &parts).map(|it| it.headers()[LOCATION].to_str().unwrap().to_owned())
        };
        assert_eq!(sent(Method::GET, "/x/proxy?a=b", ""), Some("/x/proxy/?a=b".into()));
        assert_eq!(sent(Method::GET, "/x/proxy/", ""), None);
        assert_eq!(sent(Method::GET, "/x/proxy/y", "y"), None);
        assert_eq!(sent(Method::POST, "/x/proxy", ""), None);
    }

    #[test]
    fn a_page_is_asked_for_by_its_path_alone_and_in_nobodys_name() {
        let given = Request::get("/api/v1/nodes/n/proxy/stats/summary?only=cpu")
            .header(AUTHORIZATION, "Bearer x")
            .header("accept", "text/plain")
            .body(())
            .unwrap();
        let parts = given.into_parts().0;
        let asked = request("stats/summary", &parts, Body::empty()).unwrap();
        assert_eq!(asked.uri(), "/stats/summary?only=cpu");
        assert!(!asked.headers().contains_key(AUTHORIZATION));
        assert_eq!(asked.headers()[FORWARDED_URI], "/api/v1/nodes/n/proxy/stats/summary");
        assert_eq!(asked.headers()["accept"], "text/plain");
    }

    async fn through(headers: &[(HeaderName, &'static str)], body: Body) -> (HeaderMap, Bytes) {
        let parts =
            Request::get("https://api.example/x/proxy/a/b").body(()).unwrap().into_parts().0;
        let mut response = Response::new(body);
        for (name, value) in headers {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        let (head, body) = shown("a/b", &parts, response).await.into_parts();
        (head.headers, body.collect().await.unwrap().to_bytes())
    }

    fn html() -> (HeaderName, &'static str) {
        (CONTENT_TYPE, "text/html; charset=utf-8")
    }

    const PAGE: &str = "<a href='/c'>c</a>";
    const LED: &str = "<a href='/x/proxy/c'>c</a>";

    #[tokio::test]
    async fn a_page_is_led_through_the_proxy_whatever_it_is_compressed_by() {
        let length = (CONTENT_LENGTH, "18");
        let (headers, page) = through(&[html(), length.clone()], Body::from(PAGE)).await;
        assert_eq!((page, headers.get(CONTENT_LENGTH)), (Bytes::from(LED), None));
        for (name, packing) in [("gzip", Packing::Gzip), ("deflate", Packing::Deflate)] {
            let body = Body::from(packing.pack(PAGE.as_bytes()));
            let (headers, page) = through(&[html(), (CONTENT_ENCODING, name)], body).await;
            assert_eq!(headers[CONTENT_ENCODING], name);
            assert_eq!(packing.unpack(&page).unwrap(), LED.as_bytes());
        }
        for other in [(CONTENT_ENCODING, "br"), (CONTENT_TYPE, "text/plain")] {
            let (headers, page) = through(&[html(), length.clone(), other], Body::from(PAGE)).await;
            assert_eq!(
                (page, &headers[CONTENT_LENGTH]),
                (Bytes::from(PAGE), &length.1.parse().unwrap())
            );
        }
        let (_, page) = through(&[html(), (CONTENT_ENCODING, "gzip")], Body::from(PAGE)).await;
        assert_eq!(page, PAGE, "what it says it is, and is not, stays as it came");
    }

    #[tokio::test]
    async fn a_page_that_is_too_large_goes_as_it_is() {
        let piece = Bytes::from(PAGE.repeat(1000));
        let pieces = PAGE_BYTES_MAX / piece.len() + 10;
        let all = vec![piece.clone(); pieces].into_iter().map(Ok::<_, std::io::Error>);
        let all = stream::iter(all);
        let (_, page) = through(&[html()], Body::from_stream(all)).await;
        assert!(page == piece.repeat(pieces), "{} bytes", page.len());
        let bomb = Packing::Gzip.pack(&vec![b' '; PAGE_BYTES_MAX + 1]);
        let headers = [html(), (CONTENT_ENCODING, "gzip")];
        let (_, page) = through(&headers, Body::from(bomb.clone())).await;
        assert_eq!(page, bomb);
    }

    #[tokio::test]
    async fn a_redirection_leads_through_the_proxy_and_a_page_opens_the_server_to_nobody() {
        let (headers, page) = through(&[html(), (LOCATION, "/login?to=/")], Body::from(PAGE)).await;
        assert_eq!(
            (&headers[LOCATION], page),
            (&"/x/proxy/login?to=/".parse().unwrap(), PAGE.into())
        );
        let (headers, _) = through(&[(LOCATION, "https://other.example/")], Body::empty()).await;
        assert_eq!(headers[LOCATION], "https://other.example/");
        let mut headers = HeaderMap::new();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        forget(&mut headers, &NOT_SAID_BACK);
        assert!(headers.is_empty());
    }
}
