//! The volumes of a pod.

use super::certificates::{SECONDS_MIN, check_signer, seconds_max};
use super::containers::Volumes;
use super::field::duplicates;
use super::{Field, Found};

/// Checks them, and says how they are named.
pub(super) fn check(volumes: &Field<'_>, found: &mut Found) -> Volumes {
    let mut names = Volumes::new();
    for volume in volumes.items() {
        let name = volume.at("name");
        if name.is_empty() {
            found.push(name.required(""));
        } else {
            name.must_be_label(found);
        }
        names.insert(name.text().to_owned());
        check_source(&volume, found);
    }
    duplicates(volumes.items().map(|it| it.at("name")), found);
    names
}

fn check_source(volume: &Field<'_>, found: &mut Found) {
    let sources = volume.map().into_iter().flatten();
    let sources = sources.filter(|(name, value)| *name != "name" && !value.is_null());
    let names: Vec<&String> = sources.map(|(name, _)| name).collect();
    if names.is_empty() {
        found.push(volume.required("must specify a volume type"));
    }
    for name in names.iter().skip(1) {
        found.push(volume.at(name).forbidden("may not specify more than 1 volume type"));
    }
    let Some(first) = names.first() else { return };
    let source = volume.at(first);
    match first.as_str() {
        "hostPath" => source.at("path").must_not_be_empty(found),
        "secret" => {
            source.at("secretName").must_not_be_empty(found);
            check_items(&source, found);
        }
        "configMap" => {
            source.at("name").must_not_be_empty(found);
            check_items(&source, found);
        }
        "persistentVolumeClaim" => source.at("claimName").must_not_be_empty(found),
        "emptyDir" => source.at("sizeLimit").quantity_must_not_be_negative(found),
        "nfs" => {
            source.at("server").must_not_be_empty(found);
            source.at("path").must_not_be_empty(found);
        }
        "csi" => source.at("driver").must_not_be_empty(found),
        "downwardAPI" => {
            for item in source.at("items").items() {
                item.at("path").must_not_be_empty(found);
            }
        }
        "projected" => check_projected(&source, found),
        "ephemeral" if !source.at("volumeClaimTemplate").is_set() => {
            found.push(source.at("volumeClaimTemplate").required(""));
        }
        _ => {}
    }
}

fn check_items(source: &Field<'_>, found: &mut Found) {
    source.at("defaultMode").must_be_between(0, 0o777, found);
    for item in source.at("items").items() {
        item.at("key").must_not_be_empty(found);
        let path = item.at("path");
        path.must_not_be_empty(found);
        must_be_within(&path, found);
        item.at("mode").must_be_between(0, 0o777, found);
    }
}

fn check_projected(source: &Field<'_>, found: &mut Found) {
    source.at("defaultMode").must_be_between(0, 0o777, found);
    for part in source.at("sources").items() {
        let set = part.map().into_iter().flatten().filter(|(_, value)| !value.is_null());
        if set.count() > 1 {
            found.push(part.forbidden("may not specify more than 1 volume type per source"));
        }
        for name in ["secret", "configMap"] {
            let of = part.at(name);
            if of.is_set() {
                of.at("name").must_not_be_empty(found);
                check_items(&of, found);
            }
        }
        let token = part.at("serviceAccountToken");
        if token.is_set() {
            let seconds = token.at("expirationSeconds");
            if seconds.number().is_some_and(|number| number < 600) {
                found.push(seconds.invalid("may not specify a duration less than 10 minutes"));
            }
            token.at("path").must_not_be_empty(found);
        }
        let bundle = part.at("clusterTrustBundle");
        if bundle.is_set() {
            check_bundle(&bundle, found);
        }
        let certificate = part.at("podCertificate");
        if certificate.is_set() {
            check_certificate(&certificate, found);
        }
    }
}

/// Certificates that are trusted: by their name, or by who signs them.
fn check_bundle(bundle: &Field<'_>, found: &mut Found) {
    let (name, signer) = (bundle.at("name"), bundle.at("signerName"));
    match (name.is_set(), signer.is_set()) {
        (true, true) => {
            found.push(bundle.invalid("only one of name and signerName may be used"));
        }
        (true, false) => {
            if name.is_empty() {
                found.push(name.required("must be a valid object name"));
            }
            let selector = bundle.at("labelSelector");
            if selector.is_set() {
                found.push(selector.invalid("labelSelector must be unset if name is specified"));
            }
        }
        (false, true) => {
            check_signer(&signer, found);
            bundle.at("labelSelector").must_be_selector(found);
        }
        (false, false) => {
            found.push(bundle.required("either name or signerName must be specified"));
        }
    }
    bundle.at("path").must_not_be_empty(found);
    must_be_within(&bundle.at("path"), found);
}

/// A certificate for the pod itself.
fn check_certificate(certificate: &Field<'_>, found: &mut Found) {
    const KEYS: &[&str] = &["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];
    let signer = certificate.at("signerName");
    check_signer(&signer, found);
    certificate.at("userAnnotations").must_be_annotations(found);
    certificate.at("keyType").must_be_one_of(KEYS, found);
    let (seconds, most) = (certificate.at("maxExpirationSeconds"), seconds_max(signer.text()));
    let bound = match seconds.number() {
        Some(number) if number < SECONDS_MIN => Some(format!(">= {SECONDS_MIN}")),
        Some(number) if number > most => Some(format!("<= {most}")),
        _ => None,
    };
    found.extend(bound.map(|bound| {
        seconds.invalid(&format!("if provided, maxExpirationSeconds must be {bound}"))
    }));
    let paths = ["credentialBundlePath", "keyPath", "certificateChainPath"];
    if paths.iter().all(|path| certificate.at(path).is_empty()) {
        let why = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
        found.push(certificate.required(why));
    }
    for path in paths {
        must_be_within(&certificate.at(path), found);
    }
}

/// A path that does not lead out of the volume.
fn must_be_within(path: &Field<'_>, found: &mut Found) {
    if path.text().starts_with('/') {
        found.push(path.invalid("must be a relative path"));
    }
    if path.text().split('/').any(|part| part == "..") {
        found.push(path.invalid("must not contain '..'"));
    }
}
