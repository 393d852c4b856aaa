//! A CA for tests, and certificates of every kind: right ones, and each way of being wrong.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};

use crate::network::grpc::{Identity, TlsConfig, node_name};

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// What a member of that identity proves itself with.
    pub(crate) fn of(&self, identity: Identity) -> TlsConfig {
        self.named(&[&node_name(identity)])
    }

    pub(crate) fn named(&self, names: &[&str]) -> TlsConfig {
        self.issue(names, |_| ())
    }

    /// Right in all but its time.
    pub(crate) fn expired(&self, identity: Identity) -> TlsConfig {
        self.issue(&[&node_name(identity)], |params| {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        })
    }

    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    fn issue(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> TlsConfig {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        TlsConfig {
            ca_pem: self.pem.clone().into_bytes(),
            certificate_pem: certificate.pem().into_bytes(),
            key_pem: key.serialize_pem().into_bytes(),
        }
    }
}
