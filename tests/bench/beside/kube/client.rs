//! The least that speaks to an API server as client-go does: HTTP/2 over TLS, with the administrator's
//! certificate. What comes back is handed on as bytes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_rustls::TlsConnector;

use crate::Failure;

pub const JSON: &str = "application/json";
/// As etcd's clients in the same package.
const CLIENTS_A_CONNECTION: usize = 10;
/// client-go's wait when it is told to come again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A server, and what it takes to be believed by it.
pub struct Access {
    tls: TlsConnector,
    port: u16,
}

/// One client on a connection that it shares.
#[derive(Clone)]
pub struct Client {
    sender: SendRequest<Full<Bytes>>,
    authority: Arc<str>,
}

/// A request.
#[derive(Clone)]
pub struct Ask {
    pub method: Method,
    pub path: String,
    pub accept: &'static str,
    pub content_type: &'static str,
    pub body: Bytes,
}

impl Ask {
    pub fn get(path: impl Into<String>) -> Ask {
        Ask {
            method: Method::GET,
            path: path.into(),
            accept: JSON,
            content_type: JSON,
            body: Bytes::new(),
        }
    }

    pub fn post(path: impl Into<String>, body: impl Into<Bytes>) -> Ask {
        Ask { method: Method::POST, body: body.into(), ..Ask::get(path) }
    }
}

impl Access {
    /// Of the kubeconfig that a master writes, in which each field has a line.
    pub fn read(directory: &Path, port: u16) -> Result<Access, Failure> {
        let text = std::fs::read_to_string(directory.join("kubeconfig"))?;
        let data = |name: &str| -> Result<Vec<u8>, Failure> {
            let mut lines = text.lines().map(str::trim);
            let found = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            Ok(STANDARD.decode(found.ok_or_else(|| format!("the kubeconfig has no {name}"))?)?)
        };
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&data("certificate-authority-data")?)?)?;
        let chain = data("client-certificate-data")?;
        let chain = CertificateDer::pem_slice_iter(&chain).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&data("client-key-data")?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Access { tls: TlsConnector::from(Arc::new(tls)), port })
    }

    pub async fn connect(&self) -> Result<Client, Failure> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.set_nodelay(true)?;
        let stream = self.tls.connect(ServerName::try_from("localhost")?, stream).await?;
        // As large as client-go's.
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(1 << 30)
            .handshake(TokioIo::new(stream))
            .await?;
        tokio::spawn(connection);
        Ok(Client { sender, authority: format!("127.0.0.1:{}", self.port).into() })
    }

    pub async fn connections(&self, count: usize) -> Result<Vec<Client>, Failure> {
        let mut clients = Vec::new();
        for _ in 0..count {
            clients.push(self.connect().await?);
        }
        Ok(clients)
    }

    /// As many clients as are asked for, ten to a connection.
    pub async fn clients(&self, count: usize) -> Result<Vec<Client>, Failure> {
        let connections = self.connections(count.div_ceil(CLIENTS_A_CONNECTION)).await?;
        Ok((0..count).map(|number| connections[number % connections.len()].clone()).collect())
    }
}

impl Client {
    /// The answer, whose body is still to come. A server that is busy is asked again.
    pub async fn open(&mut self, ask: Ask) -> Result<Response<Incoming>, Failure> {
        loop {
            let request = Request::builder()
                .method(ask.method.clone())
                .uri(format!("https://{}{}", self.authority, ask.path))
                .header(ACCEPT, ask.accept)
                .header(CONTENT_TYPE, ask.content_type)
                .body(Full::new(ask.body.clone()))?;
            self.sender.ready().await?;
            let answer = self.sender.send_request(request).await?;
            if answer.status() == StatusCode::TOO_MANY_REQUESTS {
                sleep(AGAIN_AFTER).await;
                continue;
            }
            return Ok(answer);
        }
    }

    /// The whole answer, which must be a success.
    pub async fn ask(&mut self, ask: Ask) -> Result<Bytes, Failure> {
        let what = format!("{} {}", ask.method, ask.path);
        let answer = self.open(ask).await?;
        let status = answer.status();
        let bytes = answer.into_body().collect().await?.to_bytes();
        if status.is_success() {
            return Ok(bytes);
        }
        let said: String = String::from_utf8_lossy(&bytes).chars().take(500).collect();
        Err(format!("{what}: {status}: {said}").into())
    }

    /// A watch: a JSON object a line.
    pub async fn watch(&mut self, path: impl Into<String>) -> Result<Lines, Failure> {
        let answer = self.open(Ask::get(path)).await?;
        if !answer.status().is_success() {
            return Err(format!("a watch was answered {}", answer.status()).into());
        }
        Ok(Lines { body: answer.into_body(), held: BytesMut::new(), looked: 0 })
    }
}

pub struct Lines {
    body: Incoming,
    held: BytesMut,
    /// So many bytes of `held` have no end of a line in them.
    looked: usize,
}

impl Lines {
    /// The next line; the end of a watch is an error here.
    pub async fn next(&mut self) -> Result<Bytes, Failure> {
        loop {
            if let Some(end) = self.held[self.looked..].iter().position(|byte| *byte == b'\n') {
                let line = self.held.split_to(self.looked + end + 1).freeze();
                self.looked = 0;
                return Ok(line);
            }
            self.looked = self.held.len();
            let frame = self.body.frame().await.ok_or("a watch ended")??;
            if let Ok(data) = frame.into_data() {
                self.held.extend_from_slice(&data);
            }
        }
    }
}
