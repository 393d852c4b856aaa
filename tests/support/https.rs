//! The least that speaks HTTPS, so that tests can also do what no honest client does.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const PATIENCE: Duration = Duration::from_secs(20);

/// Whom a client believes and what it shows.
pub struct Client(Arc<ClientConfig>);

impl Client {
    pub fn trusting(ca: &Path) -> Client {
        Client(Arc::new(builder(ca).with_no_client_auth()))
    }

    pub fn showing(ca: &Path, certificate: &Path, key: &Path) -> Client {
        let chain =
            CertificateDer::pem_file_iter(certificate).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(key).unwrap();
        Client(Arc::new(builder(ca).with_client_auth_cert(chain, key).unwrap()))
    }

    pub async fn connect(&self, port: u16) -> Result<TlsStream<TcpStream>, String> {
        let stream =
            TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| error.to_string())?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::clone(&self.0))
            .connect(name, stream)
            .await
            .map_err(|error| error.to_string())
    }
}

type Builder = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

fn builder(ca: &Path) -> Builder {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
}

/// Status and body of one request.
pub async fn get(port: u16, path: &str, client: &Client) -> Result<(u16, String), String> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    let talk = async {
        let mut stream = client.connect(port).await?;
        stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.map_err(|error| error.to_string())?;
        parse(&String::from_utf8_lossy(&answer))
    };
    tokio::time::timeout(PATIENCE, talk).await.map_err(|_| "no answer".to_owned())?
}

fn parse(answer: &str) -> Result<(u16, String), String> {
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(format!("no answer: {answer:?}"))?;
    let status = head.split_whitespace().nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or(format!("no status: {head:?}"))?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Ok((status, if chunked { unchunk(body) } else { body.to_owned() }))
}

fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let Ok(length @ 1..) = usize::from_str_radix(length.trim(), 16) else { break };
        whole.push_str(rest.get(..length).unwrap_or(rest));
        body = rest.get(length + 2..).unwrap_or_default();
    }
    whole
}
