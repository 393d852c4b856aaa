//! Certificate signing requests of the signers that Kubernetes names itself: approved where a node asks for
//! its own, signed once approved, and cleared away in time.
//!
//! Never: signs what was not approved, or what its signer's rules do not allow, whoever approved it.

pub mod approving;
pub mod cleaning;
mod rules;
pub mod signing;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;

fn has_condition(request: &CertificateSigningRequest, kind: &str) -> bool {
    let conditions = request.status.as_ref().and_then(|status| status.conditions.as_deref());
    conditions.unwrap_or_default().iter().any(|it| it.type_ == kind)
}

fn is_issued(request: &CertificateSigningRequest) -> bool {
    let certificate = request.status.as_ref().and_then(|status| status.certificate.as_ref());
    certificate.is_some_and(|it| !it.0.is_empty())
}
