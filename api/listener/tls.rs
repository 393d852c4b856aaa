//! What a port proves itself with and whom it believes, swapped as a whole while it serves.
//!
//! Keeps: a new connection is checked by the material of the moment it is made, and its client again by
//! what takes that one's place; an error leaves the old material in use. There is no resumption: by it an
//! old check would stand for a new one.

use std::fmt;
use std::sync::Arc;

use kontiki_raft::cryptography::{as_port, provider};
use kontiki_raft::trust::{Proof, until_disowned};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::sync::watch;

/// Whether clients prove who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clients {
    /// A certificate is verified where one is shown.
    MayProve,
    /// Without a good certificate there is no connection.
    MustProve,
}

/// The material of a port, as PEM.
#[derive(Clone)]
pub struct TlsConfig {
    /// The port's certificate, followed by those of who issued it.
    pub certificate_pem: Vec<u8>,
    pub key_pem: Vec<u8>,
    /// The CAs whose clients are believed. More than one while a CA is being replaced.
    pub client_ca_pem: Vec<u8>,
    pub clients: Clients,
}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A key has no business in a log.
        f.debug_struct("TlsConfig").field("clients", &self.clients).finish_non_exhaustive()
    }
}

/// Why material can't be used.
#[derive(Debug, thiserror::Error)]
#[error("TLS: {what}: {reason}")]
pub struct TlsError {
    what: &'static str,
    reason: String,
}

impl TlsError {
    fn new(what: &'static str, reason: impl ToString) -> TlsError {
        TlsError { what, reason: reason.to_string() }
    }
}

/// The material in use, shared by a port and whoever renews it.
pub struct TlsSource {
    current: watch::Sender<Arc<Material>>,
}

struct Material {
    server: Arc<ServerConfig>,
    /// What clients are checked by.
    clients: Arc<dyn ClientCertVerifier>,
}

impl TlsSource {
    pub fn new(config: &TlsConfig) -> Result<Arc<TlsSource>, TlsError> {
        let current = watch::Sender::new(Arc::new(Material::new(config)?));
        Ok(Arc::new(TlsSource { current }))
    }

    /// From now on every new connection uses `config`; those that stand go on, unless their client would
    /// not be let in any more.
    pub fn replace(&self, config: &TlsConfig) -> Result<(), TlsError> {
        self.current.send_replace(Arc::new(Material::new(config)?));
        Ok(())
    }

    /// The material of now, for one connection.
    pub(super) fn held(&self) -> Held {
        let current = self.current.subscribe();
        let server = Arc::clone(&current.borrow().server);
        Held { server, current }
    }
}

/// What a connection is made by, and word of what takes its place.
pub(super) struct Held {
    pub(super) server: Arc<ServerConfig>,
    current: watch::Receiver<Arc<Material>>,
}

impl Held {
    /// Returns when the client that has proved itself so would not be let in any more. Cancel safe.
    pub(super) async fn until_disowned(&mut self, proof: &Proof) {
        until_disowned(&mut self.current, |now| proof.is_client_of(&*now.clients)).await;
    }
}

impl fmt::Debug for TlsSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSource").finish_non_exhaustive()
    }
}

impl Material {
    fn new(config: &TlsConfig) -> Result<Material, TlsError> {
        let provider = provider();
        let mut roots = RootCertStore::empty();
        for certificate in certificates("client CA", &config.client_ca_pem)? {
            roots.add(certificate).map_err(|error| TlsError::new("client CA", error))?;
        }
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let verifier = match config.clients {
            Clients::MayProve => verifier.allow_unauthenticated(),
            Clients::MustProve => verifier,
        };
        let clients = verifier.build().map_err(|error| TlsError::new("client CA", error))?;
        let chain = certificates("certificate", &config.certificate_pem)?;
        let key = PrivateKeyDer::from_pem_slice(&config.key_pem)
            .map_err(|error| TlsError::new("key", error))?;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::new("protocol", error))?
            .with_client_cert_verifier(clients.clone())
            .with_single_cert(chain, key)
            .map_err(|error| TlsError::new("certificate and key", error))?;
        as_port(&mut server, &[b"h2", b"http/1.1"]);
        Ok(Material { server: Arc::new(server), clients })
    }
}

fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| TlsError::new(what, error))?;
    if found.is_empty() {
        return Err(TlsError::new(what, "no certificate in the PEM"));
    }
    Ok(found)
}
