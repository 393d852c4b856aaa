//! HTTP/1.1 through a tunnel: one request, its answer, and that is all.

use std::sync::Arc;

use axum::body::Body;
use http::header::{
    AUTHORIZATION, CONNECTION, HOST, HeaderName, LOCATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

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
    forget(response.headers_mut());
    Ok(response)
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
    let name = ServerName::try_from("localhost").expect("it is a name");
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
    forget(request.headers_mut());
    request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
    Ok(request)
}

fn forget(headers: &mut HeaderMap) {
    for name in &NOT_PASSED_ON {
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
        assert_eq!(asked.headers()["accept"], "text/plain");
    }
}
