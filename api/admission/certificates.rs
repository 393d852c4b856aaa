//! Who may approve, sign and vouch for certificates of a signer, and which names no client may be given.
//!
//! CertificateApproval, CertificateSigning, ClusterTrustBundleAttest, CertificateSubjectRestriction.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::future::BoxFuture;
use serde_json::{Map, Value};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer;

use super::{Attempt, Operation, Plugin};
use crate::auth::rbac::escalation::only_metadata_for_deletion_differs;
use crate::auth::{Attributes, Authorizer, GROUP_MASTERS};
use crate::error::Status;
use crate::request::User;

const GROUP: &str = "certificates.k8s.io";
const REQUESTS: &str = "certificatesigningrequests";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

type Done<'a> = BoxFuture<'a, Result<(), Status>>;

/// Whether the user may do `verb` for a signer: by its name, or by `domain/*`.
fn may(authorizer: &dyn Authorizer, user: &User, verb: &str, signer: &str) -> bool {
    let asked = Attributes {
        group: GROUP,
        version: "*",
        resource: "signers",
        name: signer,
        ..Attributes::of(user, verb)
    };
    let domain = signer.split('/').next().unwrap_or_default();
    let any_of_domain = format!("{domain}/*");
    authorizer.decide(&asked).allows()
        || authorizer.decide(&Attributes { name: &any_of_domain, ..asked }).allows()
}

fn signer(object: &Value) -> &str {
    object["spec"]["signerName"].as_str().unwrap_or_default()
}

/// Writes down who asks, in the place of whatever the request says of that.
fn tell_requester(spec: &mut Value, user: &User) {
    let Some(spec) = spec.as_object_mut() else { return };
    for field in ["username", "uid", "groups", "extra"] {
        spec.remove(field);
    }
    spec.insert("username".into(), user.name.clone().into());
    if !user.uid.is_empty() {
        spec.insert("uid".into(), user.uid.clone().into());
    }
    if !user.groups.is_empty() {
        spec.insert("groups".into(), user.groups.clone().into());
    }
    if !user.extra.is_empty() {
        let extra = user.extra.iter();
        let extra: Map<String, Value> =
            extra.map(|(key, values)| (key.clone(), values.clone().into())).collect();
        spec.insert("extra".into(), extra.into());
    }
}

pub(super) struct Approval(pub(super) Arc<dyn Authorizer>);

impl Plugin for Approval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    /// Whoever signs must know who asked, so nobody can say that for themselves.
    fn mutate<'a>(&'a self, attempt: &'a mut Attempt<'_>) -> Done<'a> {
        let asks = attempt.operation == Operation::Create && attempt.is_of(GROUP, REQUESTS);
        if let Some(object) = attempt.object.as_mut().filter(|it| asks && it["spec"].is_object()) {
            tell_requester(&mut object["spec"], attempt.user);
        }
        Box::pin(async { Ok(()) })
    }

    fn validate<'a>(&'a self, attempt: &'a mut Attempt<'_>) -> Done<'a> {
        let concerns = attempt.is_below(GROUP, REQUESTS) && attempt.subresource == "approval";
        let checked = match attempt.old {
            Some(old) if concerns => {
                let signer = signer(old);
                if may(self.0.as_ref(), attempt.user, "approve", signer) {
                    Ok(())
                } else {
                    let why = "user not permitted to approve requests with signerName";
                    Err(attempt.forbidden(&format!("{why} {signer:?}")))
                }
            }
            _ => Ok(()),
        };
        Box::pin(async { checked })
    }
}

pub(super) struct Signing(pub(super) Arc<dyn Authorizer>);

impl Plugin for Signing {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    fn validate<'a>(&'a self, attempt: &'a mut Attempt<'_>) -> Done<'a> {
        let concerns = attempt.is_below(GROUP, REQUESTS) && attempt.subresource == "status";
        let checked = match (&attempt.object, attempt.old) {
            (Some(new), Some(old)) if concerns => {
                let changed = |field: &str| new["status"][field] != old["status"][field];
                let signer = signer(old);
                let signs = changed("certificate") || changed("conditions");
                if signs && !may(self.0.as_ref(), attempt.user, "sign", signer) {
                    let why = "user not permitted to sign requests with signerName";
                    Err(attempt.forbidden(&format!("{why} {signer:?}")))
                } else {
                    Ok(())
                }
            }
            _ => Ok(()),
        };
        Box::pin(async { checked })
    }
}

pub(super) struct TrustBundleAttest(pub(super) Arc<dyn Authorizer>);

impl Plugin for TrustBundleAttest {
    fn name(&self) -> &'static str {
        "ClusterTrustBundleAttest"
    }

    fn validate<'a>(&'a self, attempt: &'a mut Attempt<'_>) -> Done<'a> {
        let writes = matches!(attempt.operation, Operation::Create | Operation::Update);
        let concerns = writes && attempt.is_of(GROUP, "clustertrustbundles");
        let checked = match &attempt.object {
            Some(new) if concerns && !signer(new).is_empty() => {
                let only_goes =
                    attempt.old.is_some_and(|old| only_metadata_for_deletion_differs(new, old));
                let signer = signer(new);
                if only_goes || may(self.0.as_ref(), attempt.user, "attest", signer) {
                    Ok(())
                } else {
                    let why = "user not permitted to attest for signerName";
                    Err(attempt.forbidden(&format!("{why} {signer:?}")))
                }
            }
            _ => Ok(()),
        };
        Box::pin(async { checked })
    }
}

/// Nobody gets a client certificate of the group that may do everything.
pub(super) struct SubjectRestriction;

impl Plugin for SubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn validate<'a>(&'a self, attempt: &'a mut Attempt<'_>) -> Done<'a> {
        let concerns = attempt.is_create() && attempt.is_of(GROUP, REQUESTS);
        let checked = match &attempt.object {
            Some(new) if concerns && signer(new) == CLIENT_SIGNER => {
                check_subject(new).map_err(|why| attempt.forbidden(&why))
            }
            _ => Ok(()),
        };
        Box::pin(async { checked })
    }
}

fn check_subject(request: &Value) -> Result<(), String> {
    let subject = subject(request).map_err(|error| format!("failed to parse CSR: {error}"))?;
    if subject.organizations.iter().any(|group| group == GROUP_MASTERS) {
        return Err(format!(
            "use of {CLIENT_SIGNER} signer with {GROUP_MASTERS} group is not allowed"
        ));
    }
    Ok(())
}

/// Whose certificate is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) common_name: String,
    pub(super) organizations: Vec<String>,
}

/// Reads the subject of a CertificateSigningRequest.
pub(super) fn subject(request: &Value) -> Result<Subject, String> {
    let encoded = request["spec"]["request"].as_str().unwrap_or_default();
    let pem = STANDARD.decode(encoded).map_err(|error| error.to_string())?;
    let (_, pem) = parse_x509_pem(&pem).map_err(|error| error.to_string())?;
    if pem.label != "CERTIFICATE REQUEST" {
        return Err("PEM block type must be CERTIFICATE REQUEST".into());
    }
    let (_, parsed) =
        X509CertificationRequest::from_der(&pem.contents).map_err(|error| error.to_string())?;
    let name = &parsed.certification_request_info.subject;
    let text =
        |it: &x509_parser::x509::AttributeTypeAndValue<'_>| it.as_str().map(str::to_owned).ok();
    Ok(Subject {
        common_name: name.iter_common_name().next().and_then(text).unwrap_or_default(),
        organizations: name.iter_organization().filter_map(text).collect(),
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
    use serde_json::json;

    use super::*;
    use crate::auth::Decision;

    fn request(name: &str, organization: &str) -> Value {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, organization);
        let key = KeyPair::generate().unwrap();
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        json!({"spec": {"request": STANDARD.encode(pem)}})
    }

    #[test]
    fn the_subject_of_a_request_is_read() {
        let subject = subject(&request("system:node:n1", "system:nodes")).unwrap();
        assert_eq!(subject.common_name, "system:node:n1");
        assert_eq!(subject.organizations, ["system:nodes"]);
        assert!(super::subject(&json!({"spec": {"request": "AAAA"}})).is_err());
    }

    #[test]
    fn nobody_becomes_a_master() {
        assert_eq!(check_subject(&request("eve", "devs")), Ok(()));
        assert_eq!(
            check_subject(&request("eve", "system:masters")).unwrap_err(),
            "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not \
             allowed"
        );
    }

    #[test]
    fn a_whole_domain_of_signers_can_be_allowed() {
        struct OnlyDomain;
        impl Authorizer for OnlyDomain {
            fn decide(&self, asked: &Attributes<'_>) -> Decision {
                if asked.verb == "sign" && asked.name == "example.com/*" {
                    Decision::Allow(String::new())
                } else {
                    Decision::NoOpinion(String::new())
                }
            }
        }
        let user = User::default();
        assert!(may(&OnlyDomain, &user, "sign", "example.com/a"));
        assert!(!may(&OnlyDomain, &user, "sign", "example.org/a"));
        assert!(!may(&OnlyDomain, &user, "approve", "example.com/a"));
    }
}
