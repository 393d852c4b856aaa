//! Who is not let in, by either side. Each case is told by its reason.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::super::authority::Authority;
use super::super::{GrpcTransport, Identity, Tls, TlsConfig, node_name};
use super::bed::{CLUSTER, PATIENCE, Server, Witness, heartbeat, is_served, node, server};
use crate::network::{LinkError, Transport as _};
use crate::types::{ClusterId, NodeId};

fn not_sent(outcome: Result<impl std::fmt::Debug, LinkError>) -> String {
    match outcome {
        Err(LinkError::NotSent { reason, .. }) => reason,
        other => panic!("not told as unsent: {other:?}"),
    }
}

fn refused(outcome: Result<impl std::fmt::Debug, LinkError>) -> String {
    match outcome {
        Err(LinkError::Refused { reason, .. }) => reason,
        other => panic!("not told as refused: {other:?}"),
    }
}

/// A caller with this certificate, who says to be `us`, is turned away with nothing of its message
/// having arrived, and the next honest one is served.
async fn turned_away(us: Identity, tls: impl FnOnce(&Authority) -> TlsConfig) -> LinkError {
    let (server, authority) = server(Witness::new()).await;
    let link = server.link(us, &tls(&authority), NodeId(1));
    let error = heartbeat(&link).await.expect_err("it is turned away");
    assert_eq!(server.witness.count(), 0, "nothing of it arrived");
    is_served(&server, &authority).await;
    server.stop().await;
    error
}

#[tokio::test]
async fn a_peer_with_a_right_certificate_is_served() {
    let (server, authority) = server(Witness::new()).await;
    is_served(&server, &authority).await;
    // One that names no node is good for any.
    let link = server.link(node(2), &authority.named(&["master.example"]), NodeId(1));
    heartbeat(&link).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn plain_text_is_answered_by_nothing_but_the_end() {
    let (server, authority) = server(Witness::new()).await;
    let mut plain = server.connect().await;
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut heard = Vec::new();
    // An alert perhaps, in TLS' own words, and the end.
    let _ = plain.read_to_end(&mut heard).await;
    assert!(heard.len() < 16, "{heard:?}");
    assert_eq!(server.witness.count(), 0);
    is_served(&server, &authority).await;
    server.stop().await;
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_refused() {
    // It trusts the right CA, and is of another.
    let error = turned_away(node(2), |right| TlsConfig {
        ca_pem: right.pem().into(),
        ..Authority::new("others").of(node(2))
    });
    let reason = not_sent(Err::<(), _>(error.await));
    assert!(reason.contains("UnknownCA") || reason.contains("unknown"), "{reason}");
}

#[tokio::test]
async fn a_server_of_another_ca_is_refused() {
    let (server, _) = server(Witness::new()).await;
    let others = Authority::new("others");
    let link = server.link(node(2), &others.of(node(2)), NodeId(1));
    let reason = not_sent(heartbeat(&link).await);
    assert!(reason.contains("UnknownIssuer"), "{reason}");
    assert_eq!(server.witness.count(), 0);
    server.stop().await;
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let error = turned_away(node(2), |authority| authority.expired(node(2))).await;
    let reason = not_sent(Err::<(), _>(error)).to_lowercase();
    assert!(reason.contains("expired"), "{reason}");
}

#[tokio::test]
async fn a_server_whose_certificate_has_expired_is_refused() {
    let authority = Authority::new("peers");
    let server = Server::start(node(1), &authority.expired(node(1)), Witness::new()).await;
    let link = server.link(node(2), &authority.of(node(2)), NodeId(1));
    let reason = not_sent(heartbeat(&link).await).to_lowercase();
    assert!(reason.contains("expired"), "{reason}");
    server.stop().await;
}

#[tokio::test]
async fn a_certificate_of_another_node_is_refused() {
    let error = turned_away(node(2), |authority| authority.of(node(3))).await;
    let reason = refused(Err::<(), _>(error));
    assert!(reason.contains("node-3") && reason.contains("not for node-2"), "{reason}");
}

#[tokio::test]
async fn a_server_that_is_another_node_is_refused() {
    let (server, authority) = server(Witness::new()).await;
    let link = server.link(node(2), &authority.of(node(2)), NodeId(5));
    let reason = not_sent(heartbeat(&link).await);
    assert!(reason.contains("node-1") && reason.contains("not for node-5"), "{reason}");
    server.stop().await;
    // Where its certificate does not say who it is, the node itself does.
    let server = Server::start(node(1), &authority.named(&["any.example"]), Witness::new()).await;
    let link = server.link(node(2), &authority.of(node(2)), NodeId(5));
    let reason = refused(heartbeat(&link).await);
    assert!(reason.contains("node 1 answers here, not node 5"), "{reason}");
    assert_eq!(server.witness.count(), 0);
    server.stop().await;
}

#[tokio::test]
async fn a_certificate_of_another_cluster_is_refused() {
    let elsewhere = Identity { cluster: ClusterId(0xbad), node: NodeId(2) };
    let error = turned_away(node(2), |authority| authority.of(elsewhere)).await;
    let reason = refused(Err::<(), _>(error));
    assert!(reason.contains("node-2.bad.kontiki"), "{reason}");
}

#[tokio::test]
async fn a_member_of_another_cluster_of_the_same_ca_is_refused() {
    let (server, authority) = server(Witness::new()).await;
    let elsewhere = Identity { cluster: ClusterId(0xbad), node: NodeId(2) };
    // It thinks that it speaks to its own cluster; only certificates without names let it come so far.
    let unnamed = authority.named(&["any.example"]);
    let there = Server::start(node(1), &unnamed, Witness::new()).await;
    let reason = refused(heartbeat(&there.link(elsewhere, &unnamed, NodeId(1))).await);
    assert!(reason.contains("bad") && reason.contains(&CLUSTER.to_string()), "{reason}");
    let reason = not_sent(heartbeat(&server.link(elsewhere, &unnamed, NodeId(1))).await);
    assert!(reason.contains("not for node-1.bad.kontiki"), "{reason}");
    there.stop().await;
    server.stop().await;
}

/// TLS of a client that trusts the CA and is free in all else.
async fn shake_hands(
    server: &Server,
    authority: &Authority,
    versions: &[&'static rustls::SupportedProtocolVersion],
    alpn: &[u8],
    with: Option<TlsConfig>,
) -> std::io::Result<Vec<u8>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let mut client = match with {
        Some(tls) => {
            let chain = CertificateDer::from_pem_slice(&tls.certificate_pem).unwrap();
            let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(&tls.key_pem).unwrap();
            builder.with_client_auth_cert(vec![chain], key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    client.alpn_protocols = vec![alpn.to_vec()];
    let name = node_name(node(1)).try_into().unwrap();
    let connector = TlsConnector::from(Arc::new(client));
    let mut stream = connector.connect(name, server.connect().await).await?;
    // In TLS 1.3 a server's refusal comes with what is read next.
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).await.map(|_| heard)
}

#[tokio::test]
async fn who_shows_no_certificate_is_refused() {
    let (server, authority) = server(Witness::new()).await;
    let only = [&rustls::version::TLS13];
    let error = shake_hands(&server, &authority, &only, b"h2", None).await.unwrap_err();
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
    is_served(&server, &authority).await;
    server.stop().await;
}

#[tokio::test]
async fn older_tls_and_other_protocols_are_refused() {
    let (server, authority) = server(Witness::new()).await;
    let ours = || Some(authority.of(node(2)));
    let old = [&rustls::version::TLS12];
    let error = shake_hands(&server, &authority, &old, b"h2", ours()).await.unwrap_err();
    assert!(error.to_string().contains("ProtocolVersion"), "{error}");
    let new = [&rustls::version::TLS13];
    let error = shake_hands(&server, &authority, &new, b"http/1.1", ours()).await.unwrap_err();
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
    is_served(&server, &authority).await;
    server.stop().await;
}

#[tokio::test]
async fn who_is_removed_while_connected_is_turned_away_from_then_on() {
    let (server, authority) = server(Witness::new()).await;
    let link = server.link(node(2), &authority.of(node(2)), NodeId(1));
    heartbeat(&link).await.unwrap();
    server.witness.turned_away.lock().push(NodeId(2));
    let reason = refused(heartbeat(&link).await);
    assert!(reason.contains("not welcome"), "{reason}");
    assert_eq!(server.witness.count(), 1);
    server.stop().await;
}

#[tokio::test]
async fn certificates_and_the_ca_itself_are_replaced_under_way() {
    let (server, old) = server(Witness::new()).await;
    let standing = server.link(node(2), &old.of(node(2)), NodeId(1));
    heartbeat(&standing).await.unwrap();
    let new = Authority::new("peers, next");
    // First both are trusted, then the certificates are of the new one, then the old one goes.
    let both = [old.pem(), new.pem()].concat().into_bytes();
    server.tls.replace(&TlsConfig { ca_pem: both, ..new.of(node(1)) }).unwrap();
    heartbeat(&standing).await.expect("a connection that stands goes on");
    is_served(&server, &new).await;
    let still_old = TlsConfig { ca_pem: new.pem().into(), ..old.of(node(3)) };
    heartbeat(&server.link(node(3), &still_old, NodeId(1))).await.unwrap();
    server.tls.replace(&new.of(node(1))).unwrap();
    not_sent(heartbeat(&server.link(node(4), &still_old, NodeId(1))).await);
    is_served(&server, &new).await;
    // Who had proved itself by the old one is not believed for having come early.
    let cut = async { while heartbeat(&standing).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, cut).await.expect("a connection of before ends");
    let wrong = TlsConfig { key_pem: b"no key".to_vec(), ..new.of(node(1)) };
    server.tls.replace(&wrong).unwrap_err();
    is_served(&server, &new).await;
    server.stop().await;
}

#[tokio::test]
async fn a_server_whose_ca_is_forgotten_is_called_no_more_on_a_connection_that_stands() {
    let (server, old) = server(Witness::new()).await;
    let new = Authority::new("peers, next");
    let both = [old.pem(), new.pem()].concat().into_bytes();
    let tls = Tls::new(&TlsConfig { ca_pem: both, ..old.of(node(2)) }).unwrap();
    let link = GrpcTransport::new(node(2), Arc::clone(&tls)).link(NodeId(1), &server.peer());
    heartbeat(&link).await.unwrap();
    // The server still shows what the old one signed, and still believes this client.
    tls.replace(&TlsConfig { ca_pem: new.pem().into(), ..old.of(node(2)) }).unwrap();
    let cut = async { while heartbeat(&link).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, cut).await.expect("the connection is given up");
    not_sent(heartbeat(&link).await);
    server.stop().await;
}
