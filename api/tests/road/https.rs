//! The client's HTTPS transport against a real listener: it cannot be told from the one within the
//! process.

use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kontiki_api::client::https::Https;
use kontiki_api::client::{Change, Client, PatchKind};
use kontiki_api::error::Reason;
use kontiki_api::listener::{Clients, Listener, TlsConfig, TlsSource};
use kontiki_api::request::Options;
use kontiki_api::sandbox::Sandbox;
use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tokio_util::sync::CancellationToken;

async fn connect(sandbox: &Sandbox, stop: CancellationToken) -> Client {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &ca).unwrap();
    let source = TlsSource::new(&TlsConfig {
        certificate_pem: certificate.pem().into(),
        key_pem: key.serialize_pem().into(),
        client_ca_pem: ca.pem().into(),
        clients: Clients::MayProve,
    });
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    let listener = Listener::adopt(socket, source.unwrap()).unwrap();
    let router = sandbox.server.router();
    tokio::spawn(async move { listener.serve(router, stop).await });
    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    // Nobody is at the first: the second is found.
    let servers = ["https://localhost:1".to_owned(), format!("https://localhost:{port}")];
    Client::new(Arc::new(Https::new(&servers, &tls, None).unwrap()), "test")
}

#[tokio::test]
async fn objects_are_written_read_listed_and_watched_over_https() {
    let sandbox = Sandbox::start().await;
    let stop = CancellationToken::new();
    let client = connect(&sandbox, stop.clone()).await;
    let map: ConfigMap = serde_json::from_value(json!({
        "metadata": {"name": "one", "namespace": "default"}, "data": {"a": "1"},
    }))
    .unwrap();
    let made = client.create(&map).await.unwrap();
    assert!(client.create(&map).await.unwrap_err().is(Reason::AlreadyExists));
    let missing = client.get::<ConfigMap>("default", "two").await.unwrap_err();
    assert!(missing.is(Reason::NotFound), "{missing}");
    let options = Options {
        field_selector: Some("metadata.name=one".into()),
        resource_version: made.metadata.resource_version.clone(),
        ..Options::default()
    };
    let mut changes = std::pin::pin!(client.watch::<ConfigMap>("default", options).await.unwrap());
    let patch = json!({"data": {"a": "2"}});
    let kind = PatchKind::Strategic;
    client.patch::<ConfigMap>("default", "one", kind, &patch, None).await.unwrap();
    let Change::Modified(seen) = changes.next().await.unwrap().unwrap() else { panic!("modified") };
    assert_eq!(seen.data.unwrap()["a"], "2");
    let all = client.list::<ConfigMap>("default", Options::default()).await.unwrap();
    assert!(all.items.iter().any(|it| it.metadata.name.as_deref() == Some("one")));
    client.delete::<ConfigMap>("default", "one", &Default::default()).await.unwrap();
    assert!(matches!(changes.next().await.unwrap().unwrap(), Change::Deleted(_)));
    let mut served = client.resources().await.unwrap();
    let mut here = sandbox.client().resources().await.unwrap();
    let key = |it: &kontiki_api::client::Served| {
        let resource = &it.resource;
        (resource.group.clone(), resource.version.clone(), resource.resource.clone())
    };
    served.sort_by_key(key);
    here.sort_by_key(key);
    let names = |all: &[kontiki_api::client::Served]| all.iter().map(key).collect::<Vec<_>>();
    assert_eq!(names(&served), names(&here));
    stop.cancel();
}
