//! The port through its door: real sockets, honest and dishonest clients.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Extension;
use axum::routing::get;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::{Clients, Limits, Listener, Peer, TlsConfig, TlsSource};

const PATIENCE: Duration = Duration::from_secs(20);

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn config(ca: &Authority, clients: Clients) -> TlsConfig {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, ca).unwrap();
    TlsConfig {
        certificate_pem: certificate.pem().into(),
        key_pem: key.serialize_pem().into(),
        client_ca_pem: ca.pem().into(),
        clients,
    }
}

/// A client that believes `ca` and shows a certificate of `me`.
fn client(ca: &Authority, me: Option<&Authority>, alpn: &[&[u8]]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match me {
        None => builder.with_no_client_auth(),
        Some(me) => {
            let key = KeyPair::generate().unwrap();
            let leaf = CertificateParams::default().signed_by(&key, me).unwrap();
            let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
            builder.with_client_auth_cert(vec![leaf.der().clone()], key).unwrap()
        }
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

/// Takes over the connection, and says again what it hears.
async fn raw(request: axum::extract::Request) -> http::Response<axum::body::Body> {
    tokio::spawn(async move {
        let taken = hyper::upgrade::on(request).await.unwrap();
        let (mut reader, mut writer) = tokio::io::split(TokioIo::new(taken));
        tokio::io::copy(&mut reader, &mut writer).await.ok();
    });
    http::Response::builder()
        .status(101)
        .header("connection", "upgrade")
        .header("upgrade", "raw")
        .body(axum::body::Body::empty())
        .unwrap()
}

/// A port that is served.
struct Port {
    address: std::net::SocketAddr,
    /// One permit for each request that has come to wait.
    waiting: Arc<Semaphore>,
    source: Arc<TlsSource>,
    stop: CancellationToken,
    served: JoinHandle<()>,
}

impl Port {
    async fn open(config: &TlsConfig, limits: Limits) -> Port {
        let source = TlsSource::new(config).unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let listener = Listener::bind(any, source.clone()).await.unwrap().with_limits(limits);
        let address = listener.local_addr();
        let stop = CancellationToken::new();
        let held = stop.clone();
        let waiting = Arc::new(Semaphore::new(0));
        let (slow, never) = (waiting.clone(), waiting.clone());
        let router = Router::new()
            .route(
                "/who",
                get(|Extension(peer): Extension<Peer>| async move {
                    format!("{} {}", peer.certificates.len(), peer.address.ip())
                }),
            )
            .route(
                "/pieces",
                get(|| async {
                    let pieces = ["", "some", "", "thing", ""];
                    let pieces = pieces.map(|piece| Ok::<_, std::io::Error>(Bytes::from(piece)));
                    axum::body::Body::from_stream(futures::stream::iter(pieces))
                }),
            )
            .route(
                "/slow",
                get(move || async move {
                    slow.add_permits(1);
                    held.cancelled().await;
                }),
            )
            .route(
                "/never",
                get(move || async move {
                    never.add_permits(1);
                    std::future::pending::<()>().await;
                }),
            );
        let router = router.route("/raw", get(raw));
        let served = tokio::spawn(listener.serve(router, stop.clone()));
        Port { address, waiting, source, stop, served }
    }

    /// Waits until so many requests wait.
    async fn until_waiting(&self, count: u32) {
        let all = tokio::time::timeout(PATIENCE, self.waiting.acquire_many(count)).await;
        drop(all.expect("they come").unwrap());
    }

    async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn connect(&self, client: &TlsConnector) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from("localhost").unwrap();
        client.connect(name, self.tcp().await).await
    }

    /// One request by HTTP/1.1; what came back, which is nothing where the connection was closed.
    async fn get(&self, client: &TlsConnector, path: &str) -> String {
        let Ok(mut stream) = self.connect(client).await else { return String::new() };
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        if stream.write_all(request.as_bytes()).await.is_err() {
            return String::new();
        }
        until_end(stream).await
    }

    async fn close(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.served).await.expect("it ends").unwrap();
    }
}

async fn until_end(mut stream: impl tokio::io::AsyncRead + Unpin) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    // An end by force is an end, too.
    let _ = read.expect("the connection ends");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_request_says_where_it_is_from_and_what_its_sender_has_proved() {
    let ca = authority();
    let port = Port::open(&config(&ca, Clients::MayProve), Limits::default()).await;
    let known = port.get(&client(&ca, Some(&ca), &[b"http/1.1"]), "/who").await;
    assert!(known.ends_with("1 127.0.0.1"), "{known}");
    let unknown = port.get(&client(&ca, None, &[]), "/who").await;
    assert!(unknown.ends_with("0 127.0.0.1"), "{unknown}");
    let stranger = port.get(&client(&ca, Some(&authority()), &[]), "/who").await;
    assert_eq!(stranger, "");
    port.close().await;
}

/// Of Rust's clients, which want AES with 256-bit keys where nobody says otherwise.
#[tokio::test]
async fn a_port_chooses_the_cipher_and_takes_the_cheaper_of_two_good_ones() {
    let ca = authority();
    let port = Port::open(&config(&ca, Clients::MayProve), Limits::default()).await;
    let stream = port.connect(&client(&ca, None, &[])).await.unwrap();
    let suite = stream.get_ref().1.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    port.close().await;
}

#[tokio::test]
async fn where_clients_must_prove_themselves_nobody_else_gets_an_answer() {
    let ca = authority();
    let port = Port::open(&config(&ca, Clients::MustProve), Limits::default()).await;
    assert_eq!(port.get(&client(&ca, None, &[]), "/who").await, "");
    assert!(port.get(&client(&ca, Some(&ca), &[]), "/who").await.starts_with("HTTP/1.1 200"));
    port.close().await;
}

#[tokio::test]
async fn new_material_counts_for_the_next_connection_and_bad_material_for_none() {
    let (old, new) = (authority(), authority());
    let port = Port::open(&config(&old, Clients::MayProve), Limits::default()).await;
    let before = client(&old, Some(&old), &[]);
    assert!(port.get(&before, "/who").await.contains("1 127.0.0.1"));
    port.source.replace(&config(&new, Clients::MayProve)).unwrap();
    assert_eq!(port.get(&before, "/who").await, "");
    let after = client(&new, Some(&new), &[]);
    assert!(port.get(&after, "/who").await.contains("1 127.0.0.1"));
    let broken = TlsConfig { key_pem: b"no key".to_vec(), ..config(&old, Clients::MayProve) };
    assert!(port.source.replace(&broken).unwrap_err().to_string().contains("key"));
    assert!(port.get(&after, "/who").await.contains("1 127.0.0.1"));
    port.close().await;
}

#[tokio::test]
async fn a_connection_ends_when_its_client_is_not_believed_any_more_and_the_others_go_on() {
    let (old, new) = (authority(), authority());
    let limits = Limits { grace: Duration::from_millis(200), ..Limits::default() };
    let both = TlsConfig {
        client_ca_pem: [old.pem(), new.pem()].concat().into(),
        ..config(&old, Clients::MayProve)
    };
    let port = Port::open(&both, limits).await;
    let request = |path: &str| {
        let request = http::Request::get(format!("https://localhost{path}"));
        request.body(Empty::<Bytes>::new()).unwrap()
    };
    let mut connections = Vec::new();
    for me in [Some(&old), Some(&new), None] {
        let stream = port.connect(&client(&old, me, &[b"h2"])).await.unwrap();
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
            .await
            .unwrap();
        let never = tokio::spawn(sender.clone().send_request(request("/never")));
        connections.push((sender, tokio::spawn(connection), never));
    }
    let mut idle = port.connect(&client(&old, Some(&old), &[b"http/1.1"])).await.unwrap();
    idle.write_all(b"GET /who HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    port.until_waiting(3).await;

    // Another certificate of the port itself changes nothing for anybody.
    port.source.replace(&both).unwrap();
    assert!(connections[0].0.clone().send_request(request("/who")).await.is_ok());
    port.source.replace(&config(&new, Clients::MayProve)).unwrap();
    let (mut sender, driven, never) = connections.remove(0);
    let ended = tokio::time::timeout(PATIENCE, driven).await.expect("the connection ends");
    drop(ended.unwrap());
    assert!(never.await.unwrap().is_err(), "what was under way is cut off");
    assert!(sender.send_request(request("/who")).await.is_err());
    assert!(until_end(idle).await.starts_with("HTTP/1.1 200"), "it was answered before");
    for (mut sender, driven, never) in connections {
        let answer = sender.send_request(request("/who")).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert!(!driven.is_finished() && !never.is_finished());
    }
    port.close().await;
}

#[tokio::test]
async fn a_connection_that_was_handed_on_is_cut_when_its_client_is_not_believed_any_more() {
    let (old, new) = (authority(), authority());
    let port = Port::open(&config(&old, Clients::MayProve), Limits::default()).await;
    let mut streams = Vec::new();
    for me in [Some(&old), None] {
        let mut stream = port.connect(&client(&old, me, &[b"http/1.1"])).await.unwrap();
        let asked = "GET /raw HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: raw\r\n\r\n";
        stream.write_all(asked.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101"));
        streams.push(stream);
    }
    let mut said = [0; 4];
    streams[0].write_all(b"ping").await.unwrap();
    streams[0].read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"ping");
    port.source.replace(&config(&new, Clients::MayProve)).unwrap();
    assert_eq!(until_end(streams.remove(0)).await, "");
    streams[0].write_all(b"pong").await.unwrap();
    streams[0].read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"pong", "who proved nothing has nothing to lose");
    port.close().await;
}

#[tokio::test]
async fn a_thousand_requests_are_under_way_on_one_connection() {
    let ca = authority();
    let port = Port::open(&config(&ca, Clients::MayProve), Limits::default()).await;
    let stream = port.connect(&client(&ca, None, &[b"h2"])).await.unwrap();
    let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
        .await
        .unwrap();
    let driven = tokio::spawn(connection);
    let request = |path: &str| {
        let request = http::Request::get(format!("https://localhost{path}"));
        request.body(Empty::new()).unwrap()
    };
    let waiting: Vec<_> = (0..1000)
        .map(|_| {
            let answer = sender.clone().send_request(request("/slow"));
            tokio::spawn(async move { answer.await.unwrap().status() })
        })
        .collect();
    port.until_waiting(1000).await;
    let answer = sender.clone().send_request(request("/who")).await.unwrap();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "0 127.0.0.1");
    // All of them end well when the port is told to close, and then the connection does.
    port.stop.cancel();
    for one in waiting {
        assert_eq!(one.await.unwrap(), 200);
    }
    drop(sender);
    port.close().await;
    tokio::time::timeout(PATIENCE, driven).await.expect("the connection ends").unwrap().unwrap();
}

/// Each list sent an empty frame, and after a hundred of them clients that use Rust's h2 0.4.20 cut the
/// connection: "too_many_data_frames".
#[tokio::test]
async fn a_body_in_pieces_has_no_empty_frame_that_clients_take_for_an_attack() {
    let ca = authority();
    let port = Port::open(&config(&ca, Clients::MayProve), Limits::default()).await;
    let stream = port.connect(&client(&ca, None, &[b"h2"])).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
        .await
        .unwrap();
    let driven = tokio::spawn(connection);
    for _ in 0..150 {
        let request = http::Request::get("https://localhost/pieces").body(Empty::new()).unwrap();
        let mut body = sender.send_request(request).await.unwrap().into_body();
        let mut whole = Vec::new();
        while let Some(frame) = body.frame().await {
            whole.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
        assert_eq!(whole, b"something");
    }
    drop(sender);
    port.close().await;
    driven.await.unwrap().unwrap();
}

#[tokio::test]
async fn plain_text_gets_an_end_and_others_do_not_notice() {
    let ca = authority();
    let port = Port::open(&config(&ca, Clients::MayProve), Limits::default()).await;
    let mut stream = port.tcp().await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(!until_end(stream).await.starts_with("HTTP"));
    assert!(port.get(&client(&ca, None, &[]), "/who").await.contains("200 OK"));
    port.close().await;
}

#[tokio::test]
async fn who_is_slow_to_speak_is_let_go() {
    let ca = authority();
    let limits = Limits {
        handshake_wait_max: Duration::from_millis(100),
        header_wait_max: Duration::from_millis(200),
        ..Limits::default()
    };
    let port = Port::open(&config(&ca, Clients::MayProve), limits).await;
    // Says nothing at all.
    assert_eq!(until_end(port.tcp().await).await, "");
    // Proves itself and then says nothing, by either protocol.
    for alpn in [&b"h2"[..], b"http/1.1"] {
        let stream = port.connect(&client(&ca, None, &[alpn])).await.unwrap();
        assert!(!until_end(stream).await.starts_with("HTTP/1.1 2"));
    }
    // Begins a request and never ends it.
    let mut stream = port.connect(&client(&ca, None, &[b"http/1.1"])).await.unwrap();
    stream.write_all(b"GET /who HTTP/1.1\r\nhost: a\r\n").await.unwrap();
    assert!(!until_end(stream).await.contains("200 OK"));
    assert!(port.get(&client(&ca, None, &[]), "/who").await.contains("200 OK"));
    port.close().await;
}

#[tokio::test]
async fn of_too_many_connections_the_newest_is_refused() {
    let ca = authority();
    let limits = Limits { connections_max: 1, ..Limits::default() };
    let port = Port::open(&config(&ca, Clients::MayProve), limits).await;
    let plain = client(&ca, None, &[b"http/1.1"]);
    let mut first = port.connect(&plain).await.unwrap();
    first.write_all(b"GET /who HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut begun = [0; 12];
    first.read_exact(&mut begun).await.unwrap();
    assert_eq!(&begun, b"HTTP/1.1 200");
    assert_eq!(port.get(&plain, "/who").await, "");
    drop(first);
    let again = async {
        while port.get(&plain, "/who").await.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("there is room again");
    port.close().await;
}

#[tokio::test]
async fn closing_waits_for_requests_and_not_for_ever() {
    let ca = authority();
    let limits = Limits { grace: Duration::from_millis(200), ..Limits::default() };
    let port = Port::open(&config(&ca, Clients::MayProve), limits).await;
    let plain = client(&ca, None, &[b"http/1.1"]);
    let mut endless = port.connect(&plain).await.unwrap();
    endless.write_all(b"GET /never HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut slow = port.connect(&plain).await.unwrap();
    slow.write_all(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    port.until_waiting(2).await;
    let address = port.address;
    port.close().await;
    assert!(until_end(slow).await.contains("200 OK"));
    assert_eq!(until_end(endless).await, "");
    assert!(TcpStream::connect(address).await.is_err(), "it still listens");
}
