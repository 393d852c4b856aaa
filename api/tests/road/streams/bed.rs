//! A server behind a real listener, certificates for whoever comes, and an agent that plays a node.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kontiki_api::audit::Audit;
use kontiki_api::listener::{Clients, Listener, TlsConfig, TlsSource};
use kontiki_api::node::Peers;
use kontiki_api::sandbox::Sandbox;
use rcgen::{CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A CA that several servers believe.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Arc<Authority> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Arc::new(Authority(ca))
    }

    /// A client with a certificate of this name and organization.
    pub fn client(&self, name: &str, organization: &str) -> ClientConfig {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, organization);
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![leaf.der().clone()], key)
            .unwrap()
    }

    pub fn admin(&self) -> ClientConfig {
        self.client("admin", "system:masters")
    }

    pub fn node(&self, name: &str) -> ClientConfig {
        self.client(&format!("system:node:{name}"), "system:nodes")
    }

    fn server(&self) -> TlsConfig {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        TlsConfig {
            certificate_pem: certificate.pem().into(),
            key_pem: key.serialize_pem().into(),
            client_ca_pem: self.0.pem().into(),
            clients: Clients::MayProve,
        }
    }
}

/// A master, with a pod on the node `n` and one on no node that has an agent.
pub struct Master {
    pub sandbox: Sandbox,
    pub ca: Arc<Authority>,
    pub url: String,
    port: u16,
    _stop: DropGuard,
}

impl Master {
    pub async fn start() -> Master {
        Master::beside(Authority::new(), Vec::new()).await
    }

    /// One that writes down what it is asked.
    pub async fn audited(audit: Arc<Audit>) -> Master {
        Master::new(Authority::new(), Vec::new(), Some(audit)).await
    }

    /// One that knows other masters.
    pub async fn beside(ca: Arc<Authority>, others: Vec<String>) -> Master {
        Master::new(ca, others, None).await
    }

    async fn new(ca: Arc<Authority>, others: Vec<String>, audit: Option<Arc<Audit>>) -> Master {
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let url = format!("https://localhost:{port}");
        let peers = Peers {
            me: url.clone(),
            masters: Arc::new({
                let all: Vec<String> = others.into_iter().chain([url.clone()]).collect();
                move || all.clone()
            }),
            tls: Arc::new({
                let tls = Arc::new(ca.admin());
                move || Ok(tls.clone())
            }),
        };
        let sandbox = Sandbox::with(|config| {
            config.authenticator = None;
            config.peers = Some(peers);
            config.audit = audit;
        })
        .await;
        let listener = Listener::adopt(socket, TlsSource::new(&ca.server()).unwrap()).unwrap();
        let stop = CancellationToken::new();
        let (router, stopped) = (sandbox.server.router(), stop.clone());
        tokio::spawn(async move { listener.serve(router, stopped).await });
        let master = Master { sandbox, ca, url, port, _stop: stop.drop_guard() };
        master.furnish().await;
        master
    }

    async fn furnish(&self) {
        let client = self.sandbox.client();
        let account = json!({"metadata": {"name": "default", "namespace": "default"}});
        client.create::<ServiceAccount>(&serde_json::from_value(account).unwrap()).await.unwrap();
        for (name, node) in [("p", "n"), ("far", "nowhere")] {
            let pod = json!({"metadata": {"name": name, "namespace": "default"},
                "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}});
            client.create::<Pod>(&serde_json::from_value(pod).unwrap()).await.unwrap();
        }
    }

    /// A connection on which HTTP/1.1 is spoken.
    pub async fn connect(&self) -> TlsStream<TcpStream> {
        let mut tls = self.ca.admin();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(tls)).connect(name, stream).await.unwrap()
    }

    /// The whole answer to a GET, as text.
    pub async fn get(&self, path: &str) -> String {
        let mut stream = self.ask("GET", path, "connection: close\r\n").await;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Sends the head of a request.
    pub async fn ask(&self, method: &str, path: &str, headers: &str) -> TlsStream<TcpStream> {
        let mut stream = self.connect().await;
        let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    }

    pub async fn websocket(
        &self,
        path: &str,
        protocol: &str,
    ) -> (WebSocketStream<TlsStream<TcpStream>>, Response) {
        let mut request = format!("wss://localhost{path}").into_client_request().unwrap();
        if !protocol.is_empty() {
            let protocol = protocol.parse().unwrap();
            request.headers_mut().insert("sec-websocket-protocol", protocol);
        }
        tokio_tungstenite::client_async(request, self.connect().await).await.unwrap()
    }
}
