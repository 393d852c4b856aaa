//! Signs what is approved.
//!
//! Keeps: a certificate says the subject, the names and the usages that were approved, is no CA, and ends
//! before the CA's own policy does ([`LIFE_S`]).

use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kontiki_api::Status;
use kontiki_api::client::Client;
use kontiki_api::error::Reason;
use kontiki_api::object::time::{Clock, Timestamp};
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SerialNumber,
};

use super::super::{Context, Loop};
use super::rules::{self, CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY};
use super::{has_condition, is_issued};
use crate::reconcile::{Informer, Key, Next, Reconcile};

const NAME: &str = "certificatesigningrequest-signing-controller";
/// A year at most, ten minutes at least.
const LIFE_S: i64 = 365 * 24 * 3600;
const LIFE_MIN_S: i64 = 600;
/// They begin a little in the past, for clocks that are behind; those that live less than this do not.
const SLACK_S: i64 = 300;
const SHORT_S: i64 = 8 * 3600;

struct Controller {
    client: Client,
    clock: Clock,
    requests: Informer<CertificateSigningRequest>,
    issuer: Issuer<'static, KeyPair>,
}

pub fn start(context: &Context) -> Vec<Loop> {
    let settings = &context.settings;
    if settings.signing_key.is_empty() {
        return Vec::new();
    }
    let issuer = match issuer(&settings.signing_certificate, &settings.signing_key) {
        Ok(issuer) => issuer,
        Err(error) => {
            tracing::error!("certificate requests are not signed: the signing CA: {error}");
            return Vec::new();
        }
    };
    let queue = context.queue(NAME);
    let requests = context.informers.of::<CertificateSigningRequest>();
    requests.on({
        let queue = queue.clone();
        move |delta| queue.add(Key::of(&delta.object().metadata))
    });
    let client = context.client(NAME);
    let controller = Controller { client, clock: context.clock.clone(), requests, issuer };
    vec![Loop::new(controller, queue, 1)]
}

fn issuer(certificate: &str, key: &str) -> Result<Issuer<'static, KeyPair>, rcgen::Error> {
    Issuer::from_ca_cert_pem(certificate, KeyPair::from_pem(key)?)
}

impl Reconcile for Controller {
    type Key = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Status> {
        let Some(request) = self.requests.get(key) else { return Ok(Next::WhenChanged) };
        let spec = &request.spec;
        let known = [CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY];
        if !known.contains(&spec.signer_name.as_str())
            || !has_condition(&request, "Approved")
            || has_condition(&request, "Denied")
            || has_condition(&request, "Failed")
            || is_issued(&request)
        {
            return Ok(Next::WhenChanged);
        }
        let now = self.clock.now();
        let mut signed = CertificateSigningRequest::clone(&request);
        let status = signed.status.get_or_insert_default();
        match self.sign(&request, now) {
            Ok(pem) => status.certificate = Some(ByteString(pem.into_bytes())),
            Err((reason, message)) => {
                status.conditions.get_or_insert_default().push(
                    CertificateSigningRequestCondition {
                        type_: "Failed".into(),
                        status: "True".into(),
                        reason: Some(reason.into()),
                        message: Some(message),
                        last_update_time: Some(Time(now.moment())),
                        last_transition_time: Some(Time(now.moment())),
                    },
                );
            }
        }
        match self.client.update_status(&signed).await {
            Err(status) if !status.is(Reason::NotFound) => Err(status),
            _ => Ok(Next::WhenChanged),
        }
    }
}

impl Controller {
    /// The certificate, or the reason and the words of a refusal.
    fn sign(
        &self,
        request: &CertificateSigningRequest,
        now: Timestamp,
    ) -> Result<String, (&'static str, String)> {
        let spec = &request.spec;
        let usages = spec.usages.as_deref().unwrap_or_default();
        let refused = |why: String| ("SignerValidationFailure", why);
        let asked = rules::read(&spec.request.0).map_err(refused)?;
        rules::check(&spec.signer_name, &asked, usages).map_err(refused)?;
        let serial = uuid::Uuid::new_v4();
        let life_s = life_s(spec.expiration_seconds);
        certificate(&spec.request.0, usages, now, life_s, serial.as_bytes(), &self.issuer)
            .map_err(|error| ("SignerValidationFailure", error.to_string()))
    }
}

fn life_s(asked_s: Option<i32>) -> i64 {
    asked_s.map_or(LIFE_S, |asked_s| i64::from(asked_s).clamp(LIFE_MIN_S, LIFE_S))
}

/// Pure, but that some signatures draw a number.
fn certificate(
    pem: &[u8],
    usages: &[String],
    now: Timestamp,
    life_s: i64,
    serial: &[u8],
    issuer: &Issuer<'static, KeyPair>,
) -> Result<String, rcgen::Error> {
    let text =
        std::str::from_utf8(pem).map_err(|_| rcgen::Error::CouldNotParseCertificationRequest)?;
    let mut request = CertificateSigningRequestParams::from_pem(text)?;
    let begin = if life_s < SHORT_S { now } else { now.plus_seconds(-SLACK_S) };
    let asked = request.params;
    let mut params = CertificateParams::default();
    params.distinguished_name = asked.distinguished_name;
    params.subject_alt_names = asked.subject_alt_names;
    params.serial_number = Some(SerialNumber::from_slice(serial));
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = usages.iter().filter_map(|it| key_usage(it)).collect();
    params.extended_key_usages = usages.iter().filter_map(|it| extended_usage(it)).collect();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let moment =
        |at: Timestamp| epoch + Duration::from_secs(u64::try_from(at.as_seconds()).unwrap_or(0));
    params.not_before = moment(begin);
    params.not_after = moment(begin.plus_seconds(life_s));
    request.params = params;
    Ok(request.signed_by(issuer)?.pem())
}

fn key_usage(name: &str) -> Option<KeyUsagePurpose> {
    Some(match name {
        "signing" | "digital signature" => KeyUsagePurpose::DigitalSignature,
        "content commitment" => KeyUsagePurpose::ContentCommitment,
        "key encipherment" => KeyUsagePurpose::KeyEncipherment,
        "data encipherment" => KeyUsagePurpose::DataEncipherment,
        "key agreement" => KeyUsagePurpose::KeyAgreement,
        "encipher only" => KeyUsagePurpose::EncipherOnly,
        "decipher only" => KeyUsagePurpose::DecipherOnly,
        // "cert sign" and "crl sign" are a CA's, which none of these is.
        _ => return None,
    })
}

fn extended_usage(name: &str) -> Option<ExtendedKeyUsagePurpose> {
    Some(match name {
        "any" => ExtendedKeyUsagePurpose::Any,
        "server auth" => ExtendedKeyUsagePurpose::ServerAuth,
        "client auth" => ExtendedKeyUsagePurpose::ClientAuth,
        "code signing" => ExtendedKeyUsagePurpose::CodeSigning,
        "email protection" | "s/mime" => ExtendedKeyUsagePurpose::EmailProtection,
        "timestamping" => ExtendedKeyUsagePurpose::TimeStamping,
        "ocsp signing" => ExtendedKeyUsagePurpose::OcspSigning,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, DnType};

    use super::*;

    #[test]
    fn a_certificate_says_what_was_asked_and_ends_in_time() {
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = ca.self_signed(&ca_key).unwrap();
        let issuer = issuer(&ca.pem(), &ca_key.serialize_pem()).unwrap();

        let key = KeyPair::generate().unwrap();
        let mut asked = CertificateParams::new(vec!["node.local".to_owned()]).unwrap();
        asked.distinguished_name.push(DnType::CommonName, "system:node:a");
        asked.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        let request = asked.serialize_request(&key).unwrap().pem().unwrap();

        let found = rules::read(request.as_bytes()).unwrap();
        assert_eq!((found.common_name.as_str(), found.hosts), ("system:node:a", 1));

        let now = Timestamp::parse("2026-01-01T00:10:00Z").unwrap();
        let usages = ["server auth".to_owned(), "digital signature".to_owned()];
        let pem =
            certificate(request.as_bytes(), &usages, now, 24 * 3600, &[7; 16], &issuer).unwrap();
        let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let certificate = block.parse_x509().unwrap();
        let validity = certificate.validity();
        assert_eq!(validity.not_before.timestamp(), now.plus_seconds(-300).as_seconds());
        assert_eq!(validity.not_after.timestamp() - validity.not_before.timestamp(), 24 * 3600);
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.server_auth && !usage.client_auth);
        assert!(!certificate.is_ca());
    }

    #[test]
    fn a_life_is_as_long_as_asked_within_bounds() {
        for (asked, expected) in
            [(None, LIFE_S), (Some(1), LIFE_MIN_S), (Some(3600), 3600), (Some(i32::MAX), LIFE_S)]
        {
            assert_eq!(life_s(asked), expected);
        }
    }
}
