//! Who a client certificate names: the common name is the user, each organization a group.
//!
//! The chain is verified when the connection is made. A connection may outlive the certificate, so its times
//! are looked at with each request.
//!
//! Keeps: what a certificate says is read once, not with each request of its connection.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::oid;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

use crate::object::time::Timestamp;
use crate::request::User;

/// Certificates that are remembered. Whoever has more of them than this reads some again.
const KNOWN_MAX: usize = 1024;

/// What certificates say that were shown before.
#[derive(Default)]
pub(super) struct Certificates(RwLock<HashMap<CertificateDer<'static>, Arc<Said>>>);

/// What a certificate says.
struct Said {
    /// `None`: it names nobody.
    user: Option<User>,
    subject: String,
    not_before: ASN1Time,
    not_after: ASN1Time,
}

impl Certificates {
    /// `None`: it names nobody. The error is for the log.
    pub(super) fn user(
        &self,
        der: &CertificateDer<'static>,
        now: Timestamp,
    ) -> Result<Option<User>, String> {
        let said = self.said(der)?;
        let seconds = now.as_seconds();
        if seconds < said.not_before.timestamp() || seconds > said.not_after.timestamp() {
            return Err(format!(
                "the client certificate of {} is valid from {} to {}",
                said.subject, said.not_before, said.not_after
            ));
        }
        Ok(said.user.clone())
    }

    fn said(&self, der: &CertificateDer<'static>) -> Result<Arc<Said>, String> {
        if let Some(known) = self.0.read().get(der) {
            return Ok(known.clone());
        }
        let said = Arc::new(read(der)?);
        let mut known = self.0.write();
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(der.clone(), said.clone());
        Ok(said)
    }
}

fn read(der: &CertificateDer<'_>) -> Result<Said, String> {
    let (_, certificate) = X509Certificate::from_der(der)
        .map_err(|error| format!("a client certificate cannot be read: {error}"))?;
    let validity = certificate.validity();
    Ok(Said {
        user: user(der, &certificate),
        subject: certificate.subject().to_string(),
        not_before: validity.not_before,
        not_after: validity.not_after,
    })
}

fn user(der: &CertificateDer<'_>, certificate: &X509Certificate<'_>) -> Option<User> {
    let subject = certificate.subject();
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        attribute.as_str().map(str::to_owned).ok()
    };
    let name = subject.iter_common_name().next().and_then(text).filter(|it| !it.is_empty())?;
    let groups = subject.iter_organization().filter_map(text).collect();
    // Where Kubernetes keeps a uid in a certificate.
    let uid_oid = oid!(1.3.6.1.4.1.57683.2);
    let uid = subject.iter_by_oid(&uid_oid).next().and_then(text).unwrap_or_default();
    let fingerprint: String =
        Sha256::digest(der).iter().map(|byte| format!("{byte:02x}")).collect();
    let credential = format!("X509SHA256={fingerprint}");
    let extra = vec![("authentication.kubernetes.io/credential-id".into(), vec![credential])];
    Some(User { name, uid, groups, extra })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, date_time_ymd};

    use super::*;

    fn certificate(names: &[(DnType, &str)]) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2026, 2, 1);
        params.distinguished_name = DistinguishedName::new();
        for (kind, name) in names {
            params.distinguished_name.push(kind.clone(), *name);
        }
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn a_certificate_names_user_and_groups_while_it_is_valid() {
        let uid = DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 57683, 2]);
        let der = certificate(&[
            (DnType::CommonName, "alice"),
            (DnType::OrganizationName, "devs"),
            (uid, "42"),
        ]);
        let at = |text| Timestamp::parse(text).unwrap();
        let known = Certificates::default();
        let user = known.user(&der, at("2026-01-15T00:00:00Z")).unwrap().unwrap();
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("alice", "42"));
        assert_eq!(user.groups, ["devs"]);
        assert!(user.extra[0].1[0].starts_with("X509SHA256="));
        // That it is known already makes it no better.
        assert!(known.user(&der, at("2026-03-01T00:00:00Z")).is_err());
        assert!(known.user(&der, at("2025-12-31T00:00:00Z")).is_err());
        assert_eq!(known.user(&der, at("2026-01-16T00:00:00Z")), Ok(Some(user)));
    }

    #[test]
    fn no_more_certificates_are_remembered_than_there_is_room_for() {
        let known = Certificates::default();
        let now = Timestamp::parse("2026-01-15T00:00:00Z").unwrap();
        let said = known.said(&certificate(&[(DnType::CommonName, "alice")])).unwrap();
        for number in 0..2 * KNOWN_MAX {
            let der = CertificateDer::from(number.to_be_bytes().to_vec());
            assert!(known.user(&der, now).is_err(), "what cannot be read is not remembered");
            let mut room = known.0.write();
            if room.len() < KNOWN_MAX {
                room.insert(der, said.clone());
            }
        }
        let bob = certificate(&[(DnType::CommonName, "bob")]);
        assert_eq!(known.user(&bob, now).unwrap().unwrap().name, "bob");
        assert_eq!(known.0.read().len(), 1);
    }

    #[test]
    fn without_a_common_name_it_names_nobody() {
        let der = certificate(&[(DnType::OrganizationName, "devs")]);
        let now = Timestamp::parse("2026-01-15T00:00:00Z").unwrap();
        let known = Certificates::default();
        assert_eq!(known.user(&der, now), Ok(None));
        assert!(known.user(&CertificateDer::from(vec![1, 2, 3]), now).is_err());
    }
}
