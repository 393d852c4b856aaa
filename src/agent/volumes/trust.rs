//! Certificates that programs are to believe in, out of ClusterTrustBundles. Pure.
//!
//! Keeps: each certificate is there once, without anything that stood between them.

use std::collections::BTreeSet;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::certificates::v1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::ClusterTrustBundleProjection;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::reconcile::labels::matches;

const COLUMNS: usize = 64;

/// What a projection asks for, as one file.
pub fn anchors(
    all: &[Arc<ClusterTrustBundle>],
    wanted: &ClusterTrustBundleProjection,
) -> Result<Vec<u8>, String> {
    let chosen: Vec<&Arc<ClusterTrustBundle>> = match (&wanted.name, &wanted.signer_name) {
        (Some(name), _) => {
            all.iter().filter(|it| it.metadata.name.as_ref() == Some(name)).collect()
        }
        (None, Some(signer)) => {
            // A selector that is not there selects nothing, and an empty one everything.
            let by_labels = |it: &ClusterTrustBundle| {
                wanted.label_selector.as_ref().is_some_and(|wanted| matches(wanted, &it.metadata))
            };
            let by_signer =
                |it: &ClusterTrustBundle| it.spec.signer_name.as_deref() == Some(signer.as_str());
            all.iter().filter(|it| by_signer(it) && by_labels(it)).collect()
        }
        (None, None) => Vec::new(),
    };
    if chosen.is_empty() && wanted.optional != Some(true) {
        return Err(match &wanted.name {
            Some(name) => format!("clustertrustbundle {name:?} not found"),
            None => "combination of signerName and labelSelector matched zero ClusterTrustBundles"
                .into(),
        });
    }
    let mut certificates = BTreeSet::new();
    for bundle in chosen {
        for certificate in CertificateDer::pem_slice_iter(bundle.spec.trust_bundle.as_bytes()) {
            let certificate = certificate.map_err(|error| {
                let name = bundle.metadata.name.as_deref().unwrap_or_default();
                format!("clustertrustbundle {name:?} cannot be read: {error}")
            })?;
            certificates.insert(certificate.to_vec());
        }
    }
    Ok(certificates.iter().flat_map(|it| written(it)).collect())
}

fn written(certificate: &[u8]) -> Vec<u8> {
    let text = STANDARD.encode(certificate);
    let mut out = b"-----BEGIN CERTIFICATE-----\n".to_vec();
    for line in text.as_bytes().chunks(COLUMNS) {
        out.extend(line);
        out.push(b'\n');
    }
    out.extend(b"-----END CERTIFICATE-----\n");
    out
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// What is in them does not matter here.
    fn certificate(content: &str) -> String {
        String::from_utf8(written(content.as_bytes())).unwrap()
    }

    fn bundle(name: &str, signer: Option<&str>, labels: Value, text: &str) -> Value {
        json!({"metadata": {"name": name, "labels": labels},
            "spec": {"signerName": signer, "trustBundle": text}})
    }

    fn asked(wanted: Value) -> Result<String, String> {
        let (one, two) = (certificate("one"), certificate("two"));
        let all = json!([
            bundle("alone", None, json!({}), &format!("a word\n{one}{two}{one}")),
            bundle("a.b:c:x", Some("a.b/c"), json!({"live": "yes"}), &one),
            bundle("a.b:c:y", Some("a.b/c"), json!({"live": "no"}), &two),
        ]);
        let all: Vec<Arc<ClusterTrustBundle>> =
            serde_json::from_value::<Vec<_>>(all).unwrap().into_iter().map(Arc::new).collect();
        let mut wanted = wanted;
        wanted["path"] = "file".into();
        let wanted = serde_json::from_value(wanted).unwrap();
        anchors(&all, &wanted).map(|it| String::from_utf8(it).unwrap())
    }

    #[test]
    fn bundles_are_chosen_by_name_or_by_signer_and_labels_and_each_certificate_comes_once() {
        let (one, two) = (certificate("one"), certificate("two"));
        let both = Ok(format!("{one}{two}"));
        assert_eq!(asked(json!({"name": "alone"})), both);
        let signer = "a.b/c";
        assert_eq!(asked(json!({"signerName": signer, "labelSelector": {}})), both);
        let live = json!({"matchLabels": {"live": "yes"}});
        assert_eq!(asked(json!({"signerName": signer, "labelSelector": live})), Ok(one));
        let words = "combination of signerName and labelSelector matched zero ClusterTrustBundles";
        assert_eq!(asked(json!({"signerName": signer})), Err(words.into()));
        assert_eq!(asked(json!({"signerName": signer, "optional": true})), Ok(String::new()));
        assert!(asked(json!({"name": "gone"})).unwrap_err().contains("\"gone\" not found"));
    }
}
