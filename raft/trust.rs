//! Whom TLS connections believe, where that is not what rustls decides by itself: clients that check a server
//! by a rule of their own, and connections whose other end is not believed any more.
//!
//! Keeps: what a server signs in the handshake is checked whatever the rule is. A rule decides about its
//! certificate alone.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::ClientCertVerifier;
use rustls::{DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio::sync::watch;

/// What a server shows to prove itself.
pub struct Shown<'a> {
    pub leaf: &'a CertificateDer<'a>,
    pub intermediates: &'a [CertificateDer<'a>],
    /// How it was called.
    pub name: &'a ServerName<'a>,
    pub ocsp: &'a [u8],
    pub now: UnixTime,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Shown<'_> {
    /// Whether the certificate leads to one of `roots`, whatever its names are.
    pub fn leads_to(&self, roots: &RootCertStore) -> Result<(), Error> {
        let leaf = ParsedCertificate::try_from(self.leaf)?;
        let algorithms = self.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &leaf,
            roots,
            self.intermediates,
            self.now,
            algorithms,
        )
    }
}

/// A client's check of servers by a rule.
pub struct Verifier<R> {
    rule: R,
    algorithms: WebPkiSupportedAlgorithms,
}

impl<R> Verifier<R>
where
    R: Fn(&Shown<'_>) -> Result<(), Error> + Send + Sync + 'static,
{
    pub fn new(provider: &CryptoProvider, rule: R) -> Arc<Verifier<R>> {
        Arc::new(Verifier { rule, algorithms: provider.signature_verification_algorithms })
    }
}

impl<R> fmt::Debug for Verifier<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").finish_non_exhaustive()
    }
}

impl<R> ServerCertVerifier for Verifier<R>
where
    R: Fn(&Shown<'_>) -> Result<(), Error> + Send + Sync + 'static,
{
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let algorithms = self.algorithms;
        (self.rule)(&Shown { leaf, intermediates, name, ocsp, now, algorithms })?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// What the other end of a connection has proved to be, and when.
pub struct Proof {
    pub chain: Arc<[CertificateDer<'static>]>,
    at: UnixTime,
}

impl Proof {
    /// Of a handshake that has just succeeded.
    #[must_use]
    pub fn just_shown(chain: Option<&[CertificateDer<'_>]>) -> Proof {
        let chain = chain.unwrap_or_default().iter().map(|one| one.clone().into_owned()).collect();
        Proof { chain, at: UnixTime::now() }
    }

    /// Whether a client that proved this would have been let in by `verifier`. One that has proved nothing
    /// was let in without.
    ///
    /// By the time of then: a certificate that has ended since is the affair of the next handshake.
    #[must_use]
    pub fn is_client_of(&self, verifier: &dyn ClientCertVerifier) -> bool {
        let Some((leaf, intermediates)) = self.chain.split_first() else { return true };
        verifier.verify_client_cert(leaf, intermediates, self.at).is_ok()
    }

    /// The same of a server.
    #[must_use]
    pub fn is_server_of(&self, verifier: &dyn ServerCertVerifier, name: &ServerName<'_>) -> bool {
        let Some((leaf, intermediates)) = self.chain.split_first() else { return false };
        verifier.verify_server_cert(leaf, intermediates, name, &[], self.at).is_ok()
    }
}

/// Returns when what has taken the place of a port's or a client's material does not believe the other end
/// any more. Cancel safe.
pub async fn until_disowned<M>(
    material: &mut watch::Receiver<Arc<M>>,
    believes: impl Fn(&M) -> bool,
) {
    loop {
        if material.changed().await.is_err() {
            // Nobody is left who could replace it.
            return std::future::pending().await;
        }
        let now = material.borrow_and_update().clone();
        if !believes(&now) {
            return;
        }
    }
}
