//! Whom a client of ours believes: a CA it was given, which may be replaced while it runs, or the
//! fingerprint of one.
//!
//! Keeps: a certificate counts only if it leads to that very CA. The system's roots are never asked.
//! By a fingerprint, the host's name is not looked at: the token says which cluster, any of its masters
//! may answer, and the way may lead over an address that no certificate knows.

use std::sync::Arc;

use kontiki_api::cluster::token::fingerprint;
use kontiki_raft::cryptography::provider;
use kontiki_raft::trust::{Shown, Verifier};
use parking_lot::RwLock;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{CertificateError, ClientConfig, RootCertStore};

use super::Error;
use super::authority::Credentials;

/// Whom to believe.
pub enum Trust {
    /// Any CA of this bundle, and the name has to fit.
    Bundle(String),
    /// The same, of a bundle that may change; the name has to fit.
    Live(Arc<LiveTrust>),
    /// The CA with this fingerprint, which the other side has to show.
    Fingerprint([u8; 32]),
}

/// What a client proves itself with and whom it believes.
pub fn client_config(trust: Trust, me: Option<&Credentials>) -> Result<Arc<ClientConfig>, Error> {
    let provider = provider();
    let unusable = |error: rustls::Error| Error::Unusable(format!("TLS: {error}"));
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    let builder = match trust {
        Trust::Bundle(pem) => builder.with_root_certificates(roots(&pem)?),
        Trust::Live(live) => builder
            .dangerous()
            .with_custom_certificate_verifier(Verifier::new(&provider, move |shown| {
                live.believes(shown)
            })),
        Trust::Fingerprint(ca) => {
            builder
                .dangerous()
                .with_custom_certificate_verifier(Verifier::new(&provider, move |shown| {
                    leads_to(shown, ca)
                }))
        }
    };
    let mut config = match me {
        None => builder.with_no_client_auth(),
        Some(me) => {
            let key = PrivateKeyDer::from_pem_slice(me.key.as_bytes())
                .map_err(|error| Error::Unusable(format!("the client's key: {error}")))?;
            builder.with_client_auth_cert(certificates(&me.certificate)?, key).map_err(unusable)?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn roots(pem: &str) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate).map_err(|error| Error::Unusable(format!("TLS: {error}")))?;
    }
    Ok(roots)
}

pub(super) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Error::Unusable(format!("certificates: {error}")))?;
    if found.is_empty() {
        return Err(Error::Unusable("there is no certificate in the PEM".into()));
    }
    Ok(found)
}

/// Believes the CAs of a bundle, as it is when a connection is made.
#[derive(Debug)]
pub struct LiveTrust {
    current: RwLock<Arc<WebPkiServerVerifier>>,
}

impl LiveTrust {
    pub fn new(bundle: &str) -> Result<Arc<LiveTrust>, Error> {
        Ok(Arc::new(LiveTrust { current: RwLock::new(LiveTrust::verifier(bundle)?) }))
    }

    /// From now on every new connection is checked by `bundle`; on an error all stays as it was.
    pub fn replace(&self, bundle: &str) -> Result<(), Error> {
        let fresh = LiveTrust::verifier(bundle)?;
        *self.current.write() = fresh;
        Ok(())
    }

    fn verifier(bundle: &str) -> Result<Arc<WebPkiServerVerifier>, Error> {
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots(bundle)?), provider())
            .build()
            .map_err(|error| Error::Unusable(format!("TLS: {error}")))
    }

    fn believes(&self, shown: &Shown<'_>) -> Result<(), rustls::Error> {
        let current = Arc::clone(&self.current.read());
        let Shown { leaf, intermediates, name, ocsp, now, .. } = shown;
        current.verify_server_cert(leaf, intermediates, name, ocsp, *now).map(drop)
    }
}

/// Whether what a server shows leads to the CA with this fingerprint, which it has to show as well.
fn leads_to(shown: &Shown<'_>, ca: [u8; 32]) -> Result<(), rustls::Error> {
    let found = shown.intermediates.iter().find(|certificate| fingerprint(certificate) == ca);
    let found = found.ok_or(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
    let mut roots = RootCertStore::empty();
    roots.add(found.clone())?;
    shown.leads_to(&roots)
}

/// A host as TLS names it.
pub fn server_name(host: &str) -> Result<ServerName<'static>, Error> {
    ServerName::try_from(host.to_owned())
        .map_err(|_| Error::Unusable(format!("{host:?} is no host name or address")))
}
