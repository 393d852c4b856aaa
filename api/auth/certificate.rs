//! Who a client certificate names: the common name is the user, each organization a group.
//!
//! The chain is verified when the connection is made. A connection may outlive the certificate, so its times
//! are looked at with each request.

use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::oid;
use x509_parser::prelude::FromDer;

use crate::object::time::Timestamp;
use crate::request::User;

/// `None`: it names nobody. The error is for the log.
pub(super) fn user(der: &CertificateDer<'_>, now: Timestamp) -> Result<Option<User>, String> {
    let (_, certificate) = X509Certificate::from_der(der)
        .map_err(|error| format!("a client certificate cannot be read: {error}"))?;
    let validity = certificate.validity();
    let seconds = now.as_seconds();
    if seconds < validity.not_before.timestamp() || seconds > validity.not_after.timestamp() {
        return Err(format!(
            "the client certificate of {} is valid from {} to {}",
            certificate.subject(),
            validity.not_before,
            validity.not_after
        ));
    }
    let subject = certificate.subject();
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        attribute.as_str().map(str::to_owned).ok()
    };
    let Some(name) = subject.iter_common_name().next().and_then(text).filter(|it| !it.is_empty())
    else {
        return Ok(None);
    };
    let groups = subject.iter_organization().filter_map(text).collect();
    // Where Kubernetes keeps a uid in a certificate.
    let uid_oid = oid!(1.3.6.1.4.1.57683.2);
    let uid = subject.iter_by_oid(&uid_oid).next().and_then(text).unwrap_or_default();
    let fingerprint: String =
        Sha256::digest(der).iter().map(|byte| format!("{byte:02x}")).collect();
    let credential = format!("X509SHA256={fingerprint}");
    let extra = vec![("authentication.kubernetes.io/credential-id".into(), vec![credential])];
    Ok(Some(User { name, uid, groups, extra }))
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
        let user = user(&der, at("2026-01-15T00:00:00Z")).unwrap().unwrap();
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("alice", "42"));
        assert_eq!(user.groups, ["devs"]);
        assert!(user.extra[0].1[0].starts_with("X509SHA256="));
        assert!(super::user(&der, at("2026-03-01T00:00:00Z")).is_err());
        assert!(super::user(&der, at("2025-12-31T00:00:00Z")).is_err());
    }

    #[test]
    fn without_a_common_name_it_names_nobody() {
        let der = certificate(&[(DnType::OrganizationName, "devs")]);
        let now = Timestamp::parse("2026-01-15T00:00:00Z").unwrap();
        assert_eq!(user(&der, now), Ok(None));
        assert!(user(&CertificateDer::from(vec![1, 2, 3]), now).is_err());
    }
}
