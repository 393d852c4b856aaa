//! One HTTPS request to a master, for joiners and operators.
//!
//! Keeps: every request has a deadline and an answer that is bounded in memory; a body that is larger is
//! read in pieces. What went wrong names whom it was that we asked.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use kontiki_api::cluster::wire::Refusal;
use rustls::ClientConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::pki;

/// Longest wait for a connection.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(10);
/// Longest wait for an answer. Changes of membership wait for a leader themselves.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(60);
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot reach {endpoint}: {reason}")]
    Unreachable { endpoint: String, reason: String },
    /// The other side is not who it should be, or does not want us.
    #[error("{endpoint}: {reason}")]
    Untrusted { endpoint: String, reason: String },
    #[error("{endpoint} refused: {reason}")]
    Refused { endpoint: String, status: StatusCode, reason: String },
    #[error("{endpoint} answered something that is not understood: {reason}")]
    Strange { endpoint: String, reason: String },
}

/// A master that can be asked.
#[derive(Clone)]
pub struct Remote {
    endpoint: String,
    host: String,
    port: u16,
    tls: Arc<ClientConfig>,
}

impl Remote {
    /// `endpoint` is `https://HOST:PORT`.
    pub fn new(endpoint: &str, tls: Arc<ClientConfig>) -> Result<Remote, String> {
        let shape = || format!("{endpoint:?} is no endpoint; give https://HOST:PORT");
        let uri: http::Uri = endpoint.parse().map_err(|_| shape())?;
        let is_bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
        let (Some("https"), Some(host), true) = (uri.scheme_str(), uri.host(), is_bare) else {
            return Err(shape());
        };
        let host = host.trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(6443);
        Ok(Remote { endpoint: endpoint.trim_end_matches('/').to_owned(), host, port, tls })
    }

    pub async fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A, Error> {
        self.read(self.send(Method::GET, path, HeaderMap::new(), Bytes::new()).await?).await
    }

    pub async fn post<A: DeserializeOwned>(
        &self,
        path: &str,
        headers: HeaderMap,
        body: &impl Serialize,
    ) -> Result<A, Error> {
        let body = serde_json::to_vec(body).map_err(|error| self.strange(error))?;
        self.read(self.send(Method::POST, path, headers, body.into()).await?).await
    }

    /// A request whose answer says nothing more than that it was done.
    pub async fn call(&self, method: Method, path: &str) -> Result<(), Error> {
        self.send(method, path, HeaderMap::new(), Bytes::new()).await.map(drop)
    }

    /// An answer that is read in pieces.
    pub async fn stream(&self, path: &str) -> Result<http::Response<Incoming>, Error> {
        self.send(Method::GET, path, HeaderMap::new(), Bytes::new()).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<http::Response<Incoming>, Error> {
        let unreachable =
            |reason: String| Error::Unreachable { endpoint: self.endpoint.clone(), reason };
        let connection = timeout(CONNECT_WAIT_MAX, self.connect()).await;
        let stream = connection.map_err(|_| unreachable("no connection in time".into()))??;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream))
                .await
                .map_err(|error| unreachable(error.to_string()))?;
        // Ends with the connection, which ends when the answer has been read or dropped.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
        });
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, format!("{}:{}", self.host, self.port))
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| self.strange(error))?;
        request.headers_mut().extend(headers);
        let answer = timeout(ANSWER_WAIT_MAX, sender.send_request(request)).await;
        let answer = answer.map_err(|_| unreachable("no answer in time".into()))?;
        let answer = answer.map_err(|error| match certificate_refused(&error) {
            Some(reason) => Error::Untrusted { endpoint: self.endpoint.clone(), reason },
            None => unreachable(error.to_string()),
        })?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let text = self.collect(answer).await?;
        let reason = match serde_json::from_slice::<Refusal>(&text) {
            Ok(refusal) => refusal.error,
            Err(_) => format!("{status}: {}", String::from_utf8_lossy(&text).trim()),
        };
        Err(Error::Refused { endpoint: self.endpoint.clone(), status, reason })
    }

    async fn connect(&self) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Error> {
        let unreachable = |error: std::io::Error| Error::Unreachable {
            endpoint: self.endpoint.clone(),
            reason: error.to_string(),
        };
        let name = pki::server_name(&self.host).map_err(|error| self.strange(error))?;
        let stream = TcpStream::connect((&*self.host, self.port)).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await.map_err(|error| {
            let reason = format!("the connection is not to be trusted: {error}");
            match error.kind() {
                std::io::ErrorKind::InvalidData => {
                    Error::Untrusted { endpoint: self.endpoint.clone(), reason }
                }
                _ => unreachable(error),
            }
        })
    }

    async fn read<A: DeserializeOwned>(
        &self,
        answer: http::Response<Incoming>,
    ) -> Result<A, Error> {
        let bytes = self.collect(answer).await?;
        serde_json::from_slice(&bytes).map_err(|error| self.strange(error))
    }

    async fn collect(&self, answer: http::Response<Incoming>) -> Result<Bytes, Error> {
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect();
        match timeout(ANSWER_WAIT_MAX, body).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) => Err(self.strange(error)),
            Err(_) => Err(self.strange("the answer does not come to an end")),
        }
    }

    fn strange(&self, reason: impl ToString) -> Error {
        Error::Strange { endpoint: self.endpoint.clone(), reason: reason.to_string() }
    }
}

/// Whether the other side has closed because of the certificate it was, or was not, shown. In TLS 1.3 it
/// says so only after the handshake.
fn certificate_refused(error: &hyper::Error) -> Option<String> {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if cause.to_string().contains("received fatal alert") {
            return Some(format!("it does not take our certificate: {cause}"));
        }
        source = cause.source();
    }
    None
}
