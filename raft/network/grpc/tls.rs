//! Mutual TLS between masters, renewed while they run.
//!
//! Both sides prove themselves by a certificate of the peers' own CA; nobody else's CA counts, and the
//! system's roots are never asked. What stands for a host name in the web is here the identity: a
//! certificate that names a node (`node-<id>.<cluster>.kontiki`, both in hexadecimal) is good for that
//! node alone; one that names none is good for any node of the CA.
//!
//! Keeps: every connection is checked in full by the material of the moment it is made, and its other end
//! again by what takes that one's place. There is no resumption, by which an old check would stand for a
//! new one.
//! Never: speaks plain text, TLS before 1.3, or anything but HTTP/2 inside.

use std::fmt;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, version};
use tokio::sync::watch;

use crate::cryptography::{as_port, provider};
use crate::network::grpc::Identity;
use crate::trust::{Proof, Verifier, until_disowned};
use crate::types::{ClusterId, NodeId};

/// What is spoken inside TLS.
const ALPN: &[u8] = b"h2";

/// What a master proves itself with, as PEM.
#[derive(Clone)]
pub struct TlsConfig {
    /// The CA of the peers. More than one while the CA itself is being renewed.
    pub ca_pem: Vec<u8>,
    /// This master's certificate, followed by intermediates if there are any. Used as client and as
    /// server: if it states extended key usages, it states both.
    pub certificate_pem: Vec<u8>,
    pub key_pem: Vec<u8>,
}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A key has no business in a log.
        f.debug_struct("TlsConfig").finish_non_exhaustive()
    }
}

/// Why this master can't prove itself.
#[derive(Debug, thiserror::Error)]
#[error("peer TLS: {what}: {reason}")]
pub struct TlsError {
    what: &'static str,
    reason: String,
}

impl TlsError {
    fn new(what: &'static str, reason: impl ToString) -> TlsError {
        TlsError { what, reason: reason.to_string() }
    }
}

/// The material in use. Shared by the transport and the server.
pub struct Tls {
    current: watch::Sender<Arc<Material>>,
}

struct Material {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    /// What the two check the other end by.
    of_servers: Arc<dyn ServerCertVerifier>,
    of_clients: Arc<dyn ClientCertVerifier>,
}

impl Tls {
    pub fn new(config: &TlsConfig) -> Result<Arc<Tls>, TlsError> {
        let current = watch::Sender::new(Arc::new(Material::new(config)?));
        Ok(Arc::new(Tls { current }))
    }

    /// From now on every new connection uses `config`; those that stand go on, unless their other end is
    /// not believed any more. On an error the material stays as it was.
    pub fn replace(&self, config: &TlsConfig) -> Result<(), TlsError> {
        self.current.send_replace(Arc::new(Material::new(config)?));
        Ok(())
    }

    /// The material of now, for one connection.
    pub(super) fn held(&self) -> Held {
        let current = self.current.subscribe();
        let material = current.borrow().clone();
        Held { material, current }
    }
}

/// What a connection is made by, and word of what takes its place.
pub(super) struct Held {
    material: Arc<Material>,
    current: watch::Receiver<Arc<Material>>,
}

impl Held {
    pub(super) fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.material.client)
    }

    pub(super) fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.material.server)
    }

    /// Returns when the client that has proved itself so would not be let in any more.
    pub(super) async fn until_client_disowned(&mut self, proof: &Proof) {
        until_disowned(&mut self.current, |now| proof.is_client_of(&*now.of_clients)).await;
    }

    /// The same of a server that was called by `name`.
    pub(super) async fn until_server_disowned(&mut self, proof: &Proof, name: &ServerName<'_>) {
        until_disowned(&mut self.current, |now| proof.is_server_of(&*now.of_servers, name)).await;
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Material {
    fn new(config: &TlsConfig) -> Result<Material, TlsError> {
        let provider = provider();
        let roots = Arc::new(roots(&config.ca_pem)?);
        let chain = certificates("certificate", &config.certificate_pem)?;
        let key = PrivateKeyDer::from_pem_slice(&config.key_pem)
            .map_err(|error| TlsError::new("key", error))?;

        // As for the web, but for the name: masters are called by addresses that change, and what has to
        // match is the identity ([`check_identity`], on every connection).
        let trusted = Arc::clone(&roots);
        let of_servers = Verifier::new(&provider, move |shown| shown.leads_to(&trusted));
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&version::TLS13])
            .map_err(|error| TlsError::new("protocol", error))?
            .dangerous()
            .with_custom_certificate_verifier(of_servers.clone())
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(|error| TlsError::new("certificate and key", error))?;
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = Resumption::disabled();

        let of_clients = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(|error| TlsError::new("CA", error))?;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])
            .map_err(|error| TlsError::new("protocol", error))?
            .with_client_cert_verifier(of_clients.clone())
            .with_single_cert(chain, key)
            .map_err(|error| TlsError::new("certificate and key", error))?;
        as_port(&mut server, &[ALPN]);

        Ok(Material { client: Arc::new(client), server: Arc::new(server), of_servers, of_clients })
    }
}

/// The name under which a node is called and which its certificate may carry.
pub fn node_name(identity: Identity) -> String {
    format!("node-{:x}.{:x}.kontiki", identity.node.0, identity.cluster.0)
}

/// Whether who is at the other end may be `claimed`: the certificate, verified already, names that very
/// node or none at all. The one place where the meaning of names in certificates is decided.
pub(super) fn check_identity(
    certificates: Option<&[CertificateDer<'_>]>,
    claimed: Identity,
) -> Result<(), String> {
    let Some([leaf, ..]) = certificates else {
        return Err("it showed no certificate".to_owned());
    };
    let leaf = webpki::EndEntityCert::try_from(leaf)
        .map_err(|error| format!("its certificate can't be read: {error}"))?;
    let named: Vec<Identity> = leaf.valid_dns_names().filter_map(parse_node_name).collect();
    if named.is_empty() || named.contains(&claimed) {
        return Ok(());
    }
    let names: Vec<String> = named.into_iter().map(node_name).collect();
    Err(format!("its certificate is for {}, not for {}", names.join(", "), node_name(claimed)))
}

/// That both ends agreed on HTTP/2. TLS lets a client that asks for nothing pass.
pub(super) fn check_protocol(negotiated: Option<&[u8]>) -> Result<(), String> {
    if negotiated == Some(ALPN) {
        Ok(())
    } else {
        Err("it does not speak HTTP/2 over TLS".to_owned())
    }
}

fn parse_node_name(name: &str) -> Option<Identity> {
    // DNS names have no case.
    let name = name.to_ascii_lowercase();
    let (node, cluster) = name.strip_prefix("node-")?.strip_suffix(".kontiki")?.split_once('.')?;
    let parse = |text: &str| u64::from_str_radix(text, 16).ok();
    Some(Identity { cluster: ClusterId(parse(cluster)?), node: NodeId(parse(node)?) })
}

fn roots(pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("CA", pem)? {
        roots.add(certificate).map_err(|error| TlsError::new("CA", error))?;
    }
    Ok(roots)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(cluster: u64, node: u64) -> Identity {
        Identity { cluster: ClusterId(cluster), node: NodeId(node) }
    }

    #[test]
    fn a_node_name_says_who_it_is() {
        let largest = identity(u64::MAX, u64::MAX);
        assert_eq!(node_name(identity(0xab, 0x1f)), "node-1f.ab.kontiki");
        for given in [identity(0xab, 0x1f), largest] {
            assert_eq!(parse_node_name(&node_name(given)), Some(given));
            assert!(ServerName::try_from(node_name(given)).is_ok());
        }
        assert_eq!(parse_node_name("NODE-1F.AB.Kontiki"), Some(identity(0xab, 0x1f)));
    }

    #[test]
    fn other_names_say_nothing() {
        for name in ["localhost", "node-1f.kontiki", "node-xyz.ab.kontiki", "node-1.2.3.kontiki"] {
            assert_eq!(parse_node_name(name), None, "{name}");
        }
    }

    #[test]
    fn what_is_no_pem_is_refused_by_name() {
        let config = TlsConfig {
            ca_pem: b"nothing".to_vec(),
            certificate_pem: Vec::new(),
            key_pem: Vec::new(),
        };
        let error = Tls::new(&config).unwrap_err().to_string();
        assert!(error.contains("peer TLS: CA: no certificate"), "{error}");
        assert!(!format!("{config:?}").contains("nothing"));
    }
}
