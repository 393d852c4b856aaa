//! Who asks, and what is allowed: the faces behind which authentication and authorization work.
//!
//! Whoever decides here is told the attributes of a request and nothing of its body.

pub mod authenticate;
pub mod authorize;
pub mod bootstrap_token;
mod certificate;
pub mod impersonate;
pub mod node;
pub mod rbac;
pub mod reviews;
pub mod tokens;

use std::net::SocketAddr;
use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::Value;

use crate::error::Status;
use crate::kinds::Kind;
use crate::listener::Peer;
use crate::request::User;

/// Whoever is in this group may do everything.
pub const GROUP_MASTERS: &str = "system:masters";
/// Everybody whose name is known.
pub const GROUP_AUTHENTICATED: &str = "system:authenticated";

/// What a request wants to do. For a path that is no resource `path` is set and the names are empty.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    pub user: &'a User,
    /// Of a resource: `get`, `list`, …, `deletecollection`. Of a path: the HTTP method in lower case.
    pub verb: &'a str,
    pub group: &'a str,
    pub version: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    /// Empty: cluster scope, or all namespaces.
    pub namespace: &'a str,
    /// Empty where the request names no object. A list or watch of one name has it.
    pub name: &'a str,
    /// The path of a request for no resource (`/healthz`); empty otherwise.
    pub path: &'a str,
    /// What a list, watch or deletecollection is narrowed to: fields with the one value that each must have.
    pub field_selector: &'a [(String, String)],
}

impl<'a> Attributes<'a> {
    /// Nothing said yet but who and what.
    #[must_use]
    pub fn of(user: &'a User, verb: &'a str) -> Attributes<'a> {
        Attributes {
            user,
            verb,
            group: "",
            version: "",
            resource: "",
            subresource: "",
            namespace: "",
            name: "",
            path: "",
            field_selector: &[],
        }
    }

    #[must_use]
    pub fn is_resource(&self) -> bool {
        self.path.is_empty()
    }
}

/// Each with its reason, which is told to the asker where it is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow(String),
    Deny(String),
    NoOpinion(String),
}

impl Decision {
    #[must_use]
    pub fn allows(&self) -> bool {
        matches!(self, Decision::Allow(_))
    }
}

/// Decides at once, from tables that are kept up to date elsewhere.
pub trait Authorizer: Send + Sync {
    fn decide(&self, attributes: &Attributes<'_>) -> Decision;
}

/// The certificates that a client proved to own, leaf first. The listener puts it into the request's
/// extensions; the chain is verified against the client CA already.
#[derive(Clone, Debug)]
pub struct ClientCertificates(pub Arc<[rustls::pki_types::CertificateDer<'static>]>);

/// Where the connection comes from. The listener puts it into the request's extensions.
#[derive(Clone, Copy, Debug)]
pub struct Remote(pub SocketAddr);

/// What the listener knows of a connection, as authentication asks for it.
pub(crate) fn introduce(extensions: &mut http::Extensions) {
    if let Some(Peer { certificates, address }) = extensions.get().cloned() {
        extensions.insert(ClientCertificates(certificates));
        extensions.insert(Remote(address));
    }
}

/// Finds out who asks. `None`: nothing was shown that it knows, and another may be asked; an error: what
/// was shown is wrong.
pub trait Authenticator: Send + Sync {
    fn authenticate<'a>(
        &'a self,
        request: &'a http::request::Parts,
    ) -> BoxFuture<'a, Result<Option<User>, Status>>;
}

/// Answers the kinds that are asked but never stored: TokenReview, SubjectAccessReview and its sisters,
/// SelfSubjectReview.
pub trait Reviewer: Send + Sync {
    /// `review` is decoded and defaulted; what comes back is the same object with its status. `namespace` is
    /// empty for cluster scope.
    fn review<'a>(
        &'a self,
        who: &'a User,
        kind: &'a Kind,
        namespace: &'a str,
        review: Value,
    ) -> BoxFuture<'a, Result<Value, Status>>;
}

/// Issues tokens for service accounts (`serviceaccounts/token`).
pub trait TokenIssuer: Send + Sync {
    /// `account` is the ServiceAccount as it is stored, `request` the TokenRequest, defaulted and validated
    /// by its schema. What comes back is the TokenRequest with its status.
    fn issue<'a>(
        &'a self,
        who: &'a User,
        account: &'a Value,
        request: Value,
    ) -> BoxFuture<'a, Result<Value, Status>>;
}

#[cfg(test)]
mod road_tests;
#[cfg(test)]
mod tests;
