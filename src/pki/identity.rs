//! A client's certificate that can be replaced while connections are made with it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kontiki_raft::cryptography::provider;
use parking_lot::RwLock;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};
use tokio::time::sleep;

use super::Error;
use super::authority::Credentials;
use super::material::{renew_at, validity};
use super::pin::{self, Trust};
use super::renewal::now;

const LOOK_EVERY_MAX: Duration = Duration::from_secs(3600);

/// Who a client is, at each new connection.
#[derive(Debug)]
pub struct Identity(RwLock<Arc<CertifiedKey>>);

impl Identity {
    pub fn new(me: &Credentials) -> Result<Arc<Identity>, Error> {
        Ok(Arc::new(Identity(RwLock::new(certified(me)?))))
    }

    /// From now on it is shown by this certificate.
    pub fn replace(&self, me: &Credentials) -> Result<(), Error> {
        *self.0.write() = certified(me)?;
        Ok(())
    }

    /// What such a client believes, and how it proves itself.
    pub fn client_config(self: &Arc<Identity>, trust: Trust) -> Result<Arc<ClientConfig>, Error> {
        let config = pin::client_config(trust, None)?;
        let mut config = Arc::unwrap_or_clone(config);
        config.client_auth_cert_resolver = self.clone();
        Ok(Arc::new(config))
    }
}

fn certified(me: &Credentials) -> Result<Arc<CertifiedKey>, Error> {
    let unusable = |error: String| Error::Unusable(format!("the client's certificate: {error}"));
    let key = PrivateKeyDer::from_pem_slice(me.key.as_bytes());
    let key = key.map_err(|error| unusable(error.to_string()))?;
    let chain = pin::certificates(&me.certificate)?;
    let certified = CertifiedKey::from_der(chain, key, &provider());
    Ok(Arc::new(certified.map_err(|error| unusable(error.to_string()))?))
}

impl ResolvesClientCert for Identity {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Waits until the calendar shows that a certificate is to be replaced, however it is moved.
pub async fn until_due(certificate: &str) -> Result<(), Error> {
    let due = due(certificate)?;
    while let Ok(left) = due.duration_since(now()) {
        if left.is_zero() {
            break;
        }
        sleep(left.min(LOOK_EVERY_MAX)).await;
    }
    Ok(())
}

/// Somewhere between half and four fifths of its life.
fn due(certificate: &str) -> Result<SystemTime, Error> {
    let unreadable = || Error::Unusable("the client's certificate cannot be read".into());
    let (from, to) = validity(certificate).ok_or_else(unreadable)?;
    Ok(renew_at(from, to))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn credentials() -> Credentials {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 1, 11);
        let certificate = params.self_signed(&key).unwrap().pem();
        Credentials { certificate, key: key.serialize_pem() }
    }

    #[test]
    fn a_certificate_that_is_replaced_is_shown_by_the_next_connection() {
        let (one, other) = (credentials(), credentials());
        let identity = Identity::new(&one).unwrap();
        let config = identity.client_config(Trust::Fingerprint([0; 32])).unwrap();
        let shown = || config.client_auth_cert_resolver.resolve(&[], &[]).unwrap().cert.clone();
        let before = shown();
        identity.replace(&other).unwrap();
        assert_ne!(before, shown());
        let mixed = Credentials { certificate: one.certificate, key: other.key };
        assert!(identity.replace(&mixed).is_err(), "key and certificate are not of each other");
    }

    #[test]
    fn it_is_due_between_half_and_four_fifths_of_its_life() {
        let due = due(&credentials().certificate).unwrap();
        let begin: SystemTime = rcgen::date_time_ymd(2026, 1, 1).into();
        let day = Duration::from_secs(24 * 3600);
        assert!(due >= begin + 5 * day && due <= begin + 8 * day);
    }
}
