//! `certificates.k8s.io`: certificates asked for and trusted.

use super::rows::{Row, STATUS, Sub, Table};
use crate::kinds::NameRule;

pub(super) const V1: Table = Table {
    group: "certificates.k8s.io",
    version: "v1",
    package: "io.k8s.api.certificates.v1",
    priority: 17300,
    rows: &[
        Row::cluster("CertificateSigningRequest", "certificatesigningrequests")
            .short(&["csr"])
            .subresources(&[Sub::of("approval"), STATUS])
            .selectable(&["spec.signerName"])
            .names(NameRule::PathSegment),
        // `<signer>:<name>`: checked by the kind.
        Row::cluster("ClusterTrustBundle", "clustertrustbundles")
            .conditional_update()
            .selectable(&["spec.signerName"])
            .names(NameRule::PathSegment),
        Row::namespaced("PodCertificateRequest", "podcertificaterequests")
            .subresources(&[STATUS])
            .conditional_update()
            .selectable(&["spec.signerName", "spec.podName", "spec.nodeName"]),
    ],
};
