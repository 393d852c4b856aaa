//! Certificates that are asked for, and those that are trusted.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509CertificationRequest};

use super::{Field, Found};
use crate::error::Cause;
use crate::object::{meta, names};
use crate::schema::causes;

const BUNDLE_MAX: usize = 1 << 20;
const REQUEST_MAX: usize = 10 << 10;
const UID_MAX: usize = 128;
pub(super) const SECONDS_MIN: i64 = 60 * 60;
const SECONDS_MAX: i64 = 91 * 24 * 60 * 60;
const KUBERNETES_SECONDS_MAX: i64 = 24 * 60 * 60;
const OMITTED: &str = "<value omitted>";

pub(super) fn signing_request(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let spec = Field::of(object).at("spec");
    spec.at("request").must_not_be_empty(&mut found);
    let usages = spec.at("usages");
    if usages.is_empty() {
        found.push(usages.required("usages must be specified"));
    }
    check_signer(&spec.at("signerName"), &mut found);
    let seconds = spec.at("expirationSeconds");
    if seconds.number().is_some_and(|number| number < 600) {
        found
            .push(seconds.invalid("may not specify a duration less than 600 seconds (10 minutes)"));
    }
    found
}

/// What was asked for stays as it was asked, whatever an update says.
pub(super) fn keep_request(new: &mut Value, old: &Value) {
    meta::copy_field(new, old, "spec");
}

/// A domain and a path.
pub(super) fn check_signer(signer: &Field<'_>, found: &mut Found) {
    if signer.is_empty() {
        found.push(signer.required(""));
        return;
    }
    let parts = signer.text().split_once('/');
    if parts.is_none_or(|(host, path)| names::bad_subdomain(host).is_some() || path.is_empty()) {
        found.push(signer.invalid(
            "must be a fully qualified domain and path of the form 'example.com/signer-name'",
        ));
    }
}

/// How long a certificate of this signer may last at most.
pub(super) fn seconds_max(signer: &str) -> i64 {
    let host = signer.split('/').next().unwrap_or_default();
    let own = host == "kubernetes.io" || host.ends_with(".kubernetes.io");
    if own { KUBERNETES_SECONDS_MAX } else { SECONDS_MAX }
}

pub(super) fn trust_bundle(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let bundle = Field::of(object);
    let (name, signer) = (bundle.at("metadata.name"), bundle.at("spec.signerName"));
    if signer.is_empty() {
        if name.text().contains(':') {
            let why = "ClusterTrustBundle without signer name must not have \":\" in its name";
            found.push(name.invalid(why));
        }
    } else {
        check_signer(&signer, &mut found);
        let start = format!("{}:", signer.text().replace('/', ":"));
        if !name.text().starts_with(&start) {
            let why = format!(
                "ClusterTrustBundle for signerName {} must be named with prefix {start}",
                signer.text()
            );
            found.push(name.invalid(&why));
        }
    }
    check_bundle(&bundle.at("spec.trustBundle"), &mut found);
    found
}

fn check_bundle(bundle: &Field<'_>, found: &mut Found) {
    if bundle.text().len() > BUNDLE_MAX {
        found.push(causes::too_long(&bundle.path, BUNDLE_MAX as u64));
        return;
    }
    let mut refuse = |why: &str| found.push(causes::invalid(&bundle.path, &OMITTED.into(), why));
    let (mut anchors, mut bad): (Vec<Vec<u8>>, bool) = (Vec::new(), false);
    for (at, block) in Pem::iter_from_buffer(bundle.text().as_bytes()).flatten().enumerate() {
        let why = match (block.label.as_str(), block.parse_x509()) {
            ("CERTIFICATE", Ok(certificate)) if certificate.is_ca() => {
                anchors.push(block.contents.clone());
                continue;
            }
            ("CERTIFICATE", Ok(_)) => "does not have the CA bit set".to_owned(),
            ("CERTIFICATE", Err(_)) => "does not parse as X.509".to_owned(),
            (other, _) => format!("has bad block type: {other}"),
        };
        bad = true;
        refuse(&format!("entry {at} {why}"));
    }
    if bad {
        return;
    }
    if anchors.is_empty() {
        refuse("at least one trust anchor must be provided");
    }
    for (at, anchor) in anchors.iter().enumerate() {
        let places: Vec<usize> = (0..anchors.len()).filter(|it| anchors[*it] == *anchor).collect();
        if places.len() > 1 && places[0] == at {
            let places: Vec<String> = places.iter().map(usize::to_string).collect();
            refuse(&format!("duplicate trust anchor (indices [{}])", places.join(" ")));
        }
    }
}

pub(super) fn trust_bundle_change(new: &Value, old: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let (new, old) = (Field::of(new), Field::of(old));
    new.at("spec.signerName").must_stay(&old.at("spec.signerName"), &mut found);
    found
}

pub(super) fn pod_request(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let spec = Field::of(object).at("spec");
    let signer = spec.at("signerName");
    check_signer(&signer, &mut found);
    spec.at("unverifiedUserAnnotations").must_be_annotations(&mut found);
    for name in ["podName", "serviceAccountName", "nodeName"] {
        spec.at(name).must_be_subdomain(&mut found);
    }
    for name in ["podUID", "serviceAccountUID", "nodeUID"] {
        let uid = spec.at(name);
        if uid.is_empty() {
            found.push(uid.invalid("must not be empty"));
        } else if uid.text().len() > UID_MAX {
            found.push(causes::too_long(&uid.path, UID_MAX as u64));
        }
    }
    let (seconds, most) = (spec.at("maxExpirationSeconds"), seconds_max(signer.text()));
    match seconds.number() {
        None => found.push(seconds.required("must be set")),
        Some(number) if !(SECONDS_MIN..=most).contains(&number) => {
            found.push(seconds.invalid(&format!("must be in the range [{SECONDS_MIN}, {most}]")));
        }
        Some(_) => check_key(&spec, &mut found),
    }
    found
}

/// The key that is to be certified, with a proof that the asker has it.
fn check_key(spec: &Field<'_>, found: &mut Found) {
    let said = |name: &str| !spec.at(name).is_empty();
    let request = spec.at("stubPKCS10Request");
    match (!request.is_empty(), said("pkixPublicKey"), said("proofOfPossession")) {
        (true, false, false) => {
            let bytes = STANDARD.decode(request.text()).unwrap_or_default();
            if bytes.len() > REQUEST_MAX {
                found.push(causes::too_long(&request.path, REQUEST_MAX as u64));
            } else if X509CertificationRequest::from_der(&bytes).is_err() {
                found.push(causes::invalid(
                    &request.path,
                    &OMITTED.into(),
                    "must be a valid PKCS#10 CSR",
                ));
            }
        }
        (false, true, true) => {}
        _ => found.push(causes::invalid(
            &spec.path,
            &OMITTED.into(),
            "exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set",
        )),
    }
}
