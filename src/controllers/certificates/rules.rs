//! What each signer accepts. Pure.

use std::collections::BTreeSet;

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
pub const LEGACY: &str = "kubernetes.io/legacy-unknown";

const NODES: &str = "system:nodes";
const NODE: &str = "system:node:";

/// What a request asks a certificate to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    pub common_name: String,
    pub organizations: Vec<String>,
    /// Names of hosts and addresses.
    pub hosts: usize,
    /// Mail addresses and URIs.
    pub other_names: usize,
}

/// Reads a request as PEM.
pub fn read(pem: &[u8]) -> Result<Asked, String> {
    let unreadable = "spec.request is no PEM of a certificate signing request";
    let (_, block) = x509_parser::pem::parse_x509_pem(pem).map_err(|_| unreadable)?;
    let (_, request) =
        X509CertificationRequest::from_der(&block.contents).map_err(|_| unreadable)?;
    let subject = &request.certification_request_info.subject;
    let text = |it: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        it.as_str().unwrap_or_default().to_owned()
    };
    let mut asked = Asked {
        common_name: subject.iter_common_name().next().map(text).unwrap_or_default(),
        organizations: subject.iter_organization().map(text).collect(),
        ..Asked::default()
    };
    for extension in request.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(_) | GeneralName::IPAddress(_) => asked.hosts += 1,
                _ => asked.other_names += 1,
            }
        }
    }
    Ok(asked)
}

/// Whether the signer may sign it; the error says why not.
pub fn check(signer: &str, asked: &Asked, usages: &[String]) -> Result<(), String> {
    match signer {
        CLIENT => only(usages, &["client auth"]),
        KUBELET_CLIENT => {
            of_node(asked)?;
            if asked.hosts + asked.other_names > 0 {
                return Err("subject alternative names are not allowed".into());
            }
            only(usages, &["client auth", "digital signature"])
        }
        KUBELET_SERVING => {
            of_node(asked)?;
            if asked.hosts == 0 {
                return Err("DNS or IP subjectAltName is required".into());
            }
            if asked.other_names > 0 {
                return Err("Email and URI subjectAltNames are not allowed".into());
            }
            only(usages, &["server auth", "digital signature"])
        }
        _ => Ok(()),
    }
}

fn of_node(asked: &Asked) -> Result<(), String> {
    if asked.organizations != [NODES] {
        return Err(format!("subject organization is not {NODES}"));
    }
    if !asked.common_name.starts_with(NODE) {
        return Err(format!("subject common name does not begin with {NODE:?}"));
    }
    Ok(())
}

/// These usages, which may be joined by what keys are used for in TLS.
fn only(usages: &[String], required: &[&str]) -> Result<(), String> {
    const OPTIONAL: [&str; 2] = ["key encipherment", "digital signature"];
    let usages: BTreeSet<&str> = usages.iter().map(String::as_str).collect();
    if let Some(missing) = required.iter().find(|it| !usages.contains(*it)) {
        return Err(format!("missing required usage for the certificate: {missing}"));
    }
    let allowed = |it: &&str| required.contains(it) || OPTIONAL.contains(it);
    match usages.iter().find(|it| !allowed(it)) {
        Some(other) => Err(format!("invalid usage for the certificate: {other}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_signer_has_its_rules() {
        let node = Asked {
            common_name: "system:node:a".into(),
            organizations: vec![NODES.into()],
            ..Asked::default()
        };
        let host = Asked { hosts: 1, ..node.clone() };
        let admin = Asked {
            common_name: "admin".into(),
            organizations: vec!["system:masters".into()],
            ..Asked::default()
        };
        let client = ["client auth", "digital signature"];
        let server = ["server auth", "digital signature"];
        let table = [
            (KUBELET_CLIENT, &node, &client[..], true),
            (KUBELET_CLIENT, &admin, &client, false),
            (KUBELET_CLIENT, &host, &client, false),
            (KUBELET_CLIENT, &node, &server, false),
            (KUBELET_SERVING, &host, &server, true),
            (KUBELET_SERVING, &node, &server, false),
            (CLIENT, &admin, &client, true),
            (CLIENT, &admin, &server, false),
        ];
        for (signer, asked, usages, allowed) in table {
            let usages: Vec<_> = usages.iter().map(|it| (*it).to_owned()).collect();
            let found = check(signer, asked, &usages);
            assert_eq!(found.is_ok(), allowed, "{signer} {asked:?}: {found:?}");
        }
    }

    #[test]
    fn what_is_no_request_is_refused() {
        assert!(read(b"hello").is_err());
    }
}
