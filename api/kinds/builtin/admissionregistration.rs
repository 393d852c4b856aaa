//! `admissionregistration.k8s.io`: who else has a say in what is written.

use super::rows::{Row, STATUS, Table};

pub(super) const V1: Table = Table {
    group: "admissionregistration.k8s.io",
    version: "v1",
    package: "io.k8s.api.admissionregistration.v1",
    priority: 16700,
    rows: &[
        Row::cluster("MutatingAdmissionPolicy", "mutatingadmissionpolicies")
            .in_api_extensions()
            .generation()
            .conditional_update(),
        Row::cluster("MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings")
            .in_api_extensions()
            .generation()
            .conditional_update(),
        Row::cluster("MutatingWebhookConfiguration", "mutatingwebhookconfigurations")
            .in_api_extensions()
            .generation()
            .conditional_update(),
        Row::cluster("ValidatingAdmissionPolicy", "validatingadmissionpolicies")
            .in_api_extensions()
            .generation()
            .conditional_update()
            .subresources(&[STATUS]),
        Row::cluster("ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings")
            .in_api_extensions()
            .generation()
            .conditional_update(),
        Row::cluster("ValidatingWebhookConfiguration", "validatingwebhookconfigurations")
            .in_api_extensions()
            .generation()
            .conditional_update(),
    ],
};
