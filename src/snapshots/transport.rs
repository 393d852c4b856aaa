//! HTTP/1.1 to whoever keeps the bucket, over TLS unless the endpoint says otherwise.
//!
//! Keeps: a connection for each request: they are few, and large. Each wait has a bound.
//! Never: speaks plain text to an endpoint that was named with https.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::header::HOST;
use http::{HeaderValue, Uri};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use kontiki_raft::cryptography::provider;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
    HttpResponse, HttpResponseBody, HttpService,
};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::Error;
use crate::pki::{self, Trust};

const CONNECT_WAIT_MAX: Duration = Duration::from_secs(10);
/// A part has arrived by then, and was answered.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(120);

/// Whom to believe.
pub(super) enum Roots {
    /// The CAs that this system believes.
    System,
    /// Those of a PEM bundle.
    Bundle(String),
}

/// Makes connections.
#[derive(Clone, Debug)]
pub(super) struct Transport {
    tls: Arc<ClientConfig>,
}

impl Transport {
    pub(super) fn new(roots: Roots) -> Result<Transport, Error> {
        let tls = match roots {
            Roots::Bundle(pem) => pki::client_config(Trust::Bundle(pem), None)
                .map_err(|error| Error::Refused(format!("--s3-ca: {error}")))?,
            Roots::System => believing_the_system()?,
        };
        Ok(Transport { tls })
    }
}

fn believing_the_system() -> Result<Arc<ClientConfig>, Error> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (taken, _) = roots.add_parsable_certificates(found.certs);
    if taken == 0 {
        return Err(Error::Refused(
            "this system believes no CA; install its certificates (ca-certificates), or name the \
             CA of the endpoint (--s3-ca)"
                .into(),
        ));
    }
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Refused(format!("TLS: {error}")))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

impl HttpConnector for Transport {
    fn connect(&self, _options: &object_store::ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

/// Why there is no answer, in the words that people are shown.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unanswered(String);

fn unanswered(kind: HttpErrorKind, reason: String) -> HttpError {
    HttpError::new(kind, Unanswered(reason))
}

#[async_trait]
impl HttpService for Transport {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (at, request) = addressed(request)?;
        let unreachable = |reason: &dyn std::fmt::Display| {
            unanswered(HttpErrorKind::Connect, format!("cannot reach {}: {reason}", at.authority))
        };
        let stream = timeout(CONNECT_WAIT_MAX, TcpStream::connect((&*at.host, at.port))).await;
        let stream = stream.map_err(|_| unreachable(&"no connection in time"))?;
        let stream = stream.map_err(|error| unreachable(&error))?;
        stream.set_nodelay(true).map_err(|error| unreachable(&error))?;
        if !at.tls {
            return converse(stream, &at, request).await;
        }
        let name = pki::server_name(&at.host).map_err(|error| unreachable(&error))?;
        let secured = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream);
        let secured = timeout(CONNECT_WAIT_MAX, secured).await;
        let secured = secured.map_err(|_| unreachable(&"no TLS in time"))?;
        // Whom we do not believe now we do not believe a second later: this is not tried again.
        let secured = secured.map_err(|error| {
            let reason = format!("{}: the connection is not to be trusted: {error}", at.authority);
            unanswered(HttpErrorKind::Unknown, reason)
        })?;
        converse(secured, &at, request).await
    }
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    at: &Endpoint,
    request: http::Request<HttpRequestBody>,
) -> Result<HttpResponse, HttpError> {
    let broken = |error: &dyn std::fmt::Display| {
        unanswered(HttpErrorKind::Interrupted, format!("{} broke off: {error}", at.authority))
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| broken(&e))?;
    // Ends with the connection, which ends when the answer has been read or dropped.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection ended");
        }
    });
    let answer = timeout(ANSWER_WAIT_MAX, sender.send_request(request)).await;
    let answer = answer.map_err(|_| {
        unanswered(HttpErrorKind::Timeout, format!("{} does not answer in time", at.authority))
    })?;
    let (head, body) = answer.map_err(|error| broken(&error))?.into_parts();
    let authority = at.authority.clone();
    let body = body.map_err(move |error| {
        unanswered(HttpErrorKind::Interrupted, format!("{authority} broke off: {error}"))
    });
    Ok(HttpResponse::from_parts(head, HttpResponseBody::new(body)))
}

/// Where a request goes.
struct Endpoint {
    tls: bool,
    host: String,
    port: u16,
    authority: String,
}

/// The same request as it is sent over a connection: the host in a header, the rest in its first line.
fn addressed(
    mut request: HttpRequest,
) -> Result<(Endpoint, http::Request<HttpRequestBody>), HttpError> {
    let strange = |reason: String| unanswered(HttpErrorKind::Unknown, reason);
    let uri = request.uri().clone();
    let tls = uri.scheme_str() == Some("https");
    let host = uri.host().ok_or_else(|| strange(format!("{uri} has no host")))?;
    let default = if tls { 443 } else { 80 };
    let port = uri.port_u16().unwrap_or(default);
    // As it was signed: without a port that goes without saying.
    let authority = if port == default { host.to_owned() } else { format!("{host}:{port}") };
    let named = HeaderValue::from_str(&authority).map_err(|error| strange(error.to_string()))?;
    request.headers_mut().insert(HOST, named);
    let path = uri.path_and_query().map_or("/", |it| it.as_str());
    *request.uri_mut() = path.parse::<Uri>().map_err(|error| strange(error.to_string()))?;
    let host = host.trim_matches(['[', ']']).to_owned();
    Ok((Endpoint { tls, host, port, authority }, request))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_its_host_as_it_was_signed() {
        let check = |uri: &str, host: &str, port: u16, authority: &str, path: &str| {
            let request = http::Request::get(uri).body(HttpRequestBody::empty()).unwrap();
            let (at, request) = addressed(request).unwrap();
            assert_eq!((&*at.host, at.port, &*at.authority), (host, port, authority));
            assert_eq!(request.headers()[HOST], authority);
            assert_eq!(request.uri().to_string(), path);
        };
        check("https://s3.test/b/k?list-type=2", "s3.test", 443, "s3.test", "/b/k?list-type=2");
        check("https://s3.test:443/b", "s3.test", 443, "s3.test", "/b");
        check("http://[::1]:9000/b/k", "::1", 9000, "[::1]:9000", "/b/k");
    }
}
