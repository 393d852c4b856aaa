//! A certificate authority: its bundle, its key, and what it signs.
//!
//! Keeps: what an authority trusts is a bundle, never a single certificate, so that one CA can be
//! replaced by another while both are believed. The first of the bundle is the one that signs.
//! Never: lets a request decide what a certificate says.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use kontiki_api::cluster::token::fingerprint;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _,
    SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::Error;

/// Ten years. Long enough to plan its replacement, which takes both CAs in the bundle for a while.
const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Certificates begin a little in the past, for clocks that are behind.
const SLACK: Duration = Duration::from_secs(300);

/// One certificate authority.
pub struct Authority {
    bundle: String,
    key_pem: String,
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub common_name: String,
    pub organization: Option<String>,
    pub names: Vec<String>,
    pub use_as: Usage,
}

/// What a certificate is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    Server,
    Client,
    /// Masters call each other and are called.
    Both,
}

/// A certificate with its key, as PEM. The chain ends with the CA, which tokens are checked against.
#[derive(Clone)]
pub struct Credentials {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    /// A new CA, signed by itself.
    pub fn create(common_name: &str, now: SystemTime) -> Result<Authority, Error> {
        let key = KeyPair::generate()?;
        let mut params = params(now, CA_LIFE);
        params.distinguished_name = name(common_name, None);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let certificate = params.self_signed(&key)?.pem();
        Authority::from_pem(&certificate, &key.serialize_pem())
    }

    /// A CA as it lies on disk or was handed over.
    pub fn from_pem(bundle: &str, key_pem: &str) -> Result<Authority, Error> {
        let mut found = CertificateDer::pem_slice_iter(bundle.as_bytes());
        let certificate = found
            .next()
            .ok_or_else(|| Error::Unusable("the CA's bundle holds no certificate".into()))?
            .map_err(|error| Error::Unusable(format!("the CA's bundle: {error}")))?;
        let key = KeyPair::from_pem(key_pem)?;
        if !belongs(&certificate, &key) {
            return Err(Error::Unusable(
                "the CA's key is not that of the first certificate in its bundle; if a `kontiki ca \
                 use` was cut short, run it again"
                    .into(),
            ));
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Authority {
            bundle: bundle.to_owned(),
            key_pem: key_pem.to_owned(),
            issuer,
            certificate,
        })
    }

    #[must_use]
    pub fn bundle(&self) -> &str {
        &self.bundle
    }

    #[must_use]
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// By what tokens name the CA that signs.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        fingerprint(&self.certificate)
    }

    /// Of all that are believed, the one that signs among them.
    #[must_use]
    pub fn fingerprints(&self) -> Vec<[u8; 32]> {
        // Those that cannot be read are found where the bundle is used.
        let found = CertificateDer::pem_slice_iter(self.bundle.as_bytes()).flatten();
        found.map(|certificate| fingerprint(&certificate)).collect()
    }

    /// A new key with a certificate for it.
    pub fn issue(
        &self,
        subject: &Subject,
        now: SystemTime,
        life: Duration,
    ) -> Result<Credentials, Error> {
        let key = KeyPair::generate()?;
        let certificate = subject_params(subject, now, life)?.signed_by(&key, &self.issuer)?;
        Ok(Credentials { certificate: self.chain(&certificate), key: key.serialize_pem() })
    }

    /// A certificate for somebody else's key. Of the request only the key is taken.
    pub fn sign(
        &self,
        request_pem: &str,
        subject: &Subject,
        now: SystemTime,
        life: Duration,
    ) -> Result<String, Error> {
        let mut request = CertificateSigningRequestParams::from_pem(request_pem)
            .map_err(|error| Error::Unusable(format!("the signing request: {error}")))?;
        request.params = subject_params(subject, now, life)?;
        Ok(self.chain(&request.signed_by(&self.issuer)?))
    }

    /// The certificate with that of its CA: who holds a token knows the CA's fingerprint alone.
    fn chain(&self, certificate: &rcgen::Certificate) -> String {
        let ca = first_certificate(&self.bundle);
        format!("{}{ca}", certificate.pem())
    }
}

/// A fingerprint as people compare it.
pub fn hex(fingerprint: [u8; 32]) -> String {
    fingerprint.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn belongs(certificate: &CertificateDer<'_>, key: &KeyPair) -> bool {
    X509Certificate::from_der(certificate)
        .is_ok_and(|(_, certificate)| certificate.public_key().raw == key.subject_public_key_info())
}

fn first_certificate(bundle: &str) -> &str {
    const END: &str = "-----END CERTIFICATE-----\n";
    bundle.find(END).map_or(bundle, |at| &bundle[..at + END.len()])
}

fn subject_params(
    subject: &Subject,
    now: SystemTime,
    life: Duration,
) -> Result<CertificateParams, Error> {
    let mut params = params(now, life);
    params.distinguished_name = name(&subject.common_name, subject.organization.as_deref());
    params.subject_alt_names = subject
        .names
        .iter()
        .map(|name| match name.parse::<IpAddr>() {
            Ok(address) => Ok(SanType::IpAddress(address)),
            Err(_) => Ok(SanType::DnsName(name.as_str().try_into()?)),
        })
        .collect::<Result<_, rcgen::Error>>()?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = match subject.use_as {
        Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
        Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
        Usage::Both => {
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
        }
    };
    Ok(params)
}

fn params(now: SystemTime, life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = (now - SLACK).into();
    params.not_after = (now + life).into();
    params.use_authority_key_identifier_extension = true;
    params
}

fn name(common_name: &str, organization: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, common_name);
    name
}
