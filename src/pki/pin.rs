//! Whom a client of ours believes: a CA it was given, which may be replaced while it runs, or the
//! fingerprint of one.
//!
//! Keeps: a certificate counts only if it leads to that very CA. The system's roots are never asked.
//! By a fingerprint, the host's name is not looked at: the token says which cluster, any of its masters
//! may answer, and the way may lead over an address that no certificate knows.

use std::sync::Arc;

use kontiki_api::cluster::token::fingerprint;
use parking_lot::RwLock;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

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
    let provider = Arc::new(aws_lc_rs::default_provider());
    let unusable = |error: rustls::Error| Error::Unusable(format!("TLS: {error}"));
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    let builder = match trust {
        Trust::Bundle(pem) => builder.with_root_certificates(roots(&pem)?),
        Trust::Live(live) => builder.dangerous().with_custom_certificate_verifier(live),
        Trust::Fingerprint(ca) => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Pinned { ca, provider }))
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
        let provider = Arc::new(aws_lc_rs::default_provider());
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots(bundle)?), provider)
            .build()
            .map_err(|error| Error::Unusable(format!("TLS: {error}")))
    }

    fn current(&self) -> Arc<WebPkiServerVerifier> {
        Arc::clone(&self.current.read())
    }
}

impl ServerCertVerifier for LiveTrust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let current = self.current();
        current.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.current().verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.current().verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.current().supported_verify_schemes()
    }
}

/// Believes the CA with one fingerprint.
#[derive(Debug)]
struct Pinned {
    ca: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown = intermediates.iter().find(|certificate| fingerprint(certificate) == self.ca);
        let ca = shown.ok_or(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone())?;
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A host as TLS names it.
pub fn server_name(host: &str) -> Result<ServerName<'static>, Error> {
    ServerName::try_from(host.to_owned())
        .map_err(|_| Error::Unusable(format!("{host:?} is no host name or address")))
}
