//! Who asks: what a request shows, tried in order until one thing is known.
//!
//! Keeps: a name comes from a certificate that is valid now or a token that is good now, and from nothing
//! else a client says. Who shows something that is not good is refused; who shows nothing is anonymous.
//! Never: tells a client why its credentials are not good.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use futures::future::BoxFuture;
use http::HeaderMap;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use http::request::Parts;

use super::bootstrap_token::BootstrapTokens;
use super::certificate::Certificates;
use super::tokens::Tokens;
use super::{Authenticator, ClientCertificates, GROUP_AUTHENTICATED};
use crate::error::Status;
use crate::object::time::Clock;
use crate::request::User;

pub const ANONYMOUS: &str = "system:anonymous";
pub const GROUP_UNAUTHENTICATED: &str = "system:unauthenticated";
const WEBSOCKET_TOKEN: &str = "base64url.bearer.authorization.k8s.io.";

/// Certificates, then tokens, then nobody.
pub struct Authentication {
    tokens: Arc<Tokens>,
    bootstrap_tokens: BootstrapTokens,
    certificates: Certificates,
    clock: Clock,
    /// Who shows nothing may ask; what is allowed to that name is another matter.
    anonymous: bool,
}

/// What a bearer token was found to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bearer {
    pub user: User,
    /// Empty: made for no audience.
    pub audiences: Vec<String>,
}

impl Authentication {
    #[must_use]
    pub fn new(
        tokens: Arc<Tokens>,
        bootstrap_tokens: BootstrapTokens,
        clock: Clock,
        anonymous: bool,
    ) -> Authentication {
        let certificates = Certificates::default();
        Authentication { tokens, bootstrap_tokens, certificates, clock, anonymous }
    }

    /// Whose token it is, for these audiences (none: the API's own). The error is for the log and for
    /// reviews.
    pub async fn bearer(&self, token: &str, audiences: &[String]) -> Result<Bearer, String> {
        if let Some(verified) = self.tokens.verify(token, audiences).await? {
            let user = authenticated(verified.user);
            return Ok(Bearer { user, audiences: verified.audiences });
        }
        // A bootstrap token is for the API alone.
        let for_api = audiences.is_empty() || audiences.iter().any(|it| it == self.tokens.issuer());
        if for_api && let Some(user) = self.bootstrap_tokens.verify(token).await? {
            let audiences = vec![self.tokens.issuer().to_owned()];
            return Ok(Bearer { user: authenticated(user), audiences });
        }
        Err("invalid bearer token".into())
    }

    async fn find_out(&self, request: &Parts) -> Result<Option<User>, Status> {
        let mut refused = None;
        if let Some(ClientCertificates(chain)) = request.extensions.get()
            && let Some(leaf) = chain.first()
        {
            match self.certificates.user(leaf, self.clock.now()) {
                Ok(Some(user)) => return Ok(Some(authenticated(user))),
                Ok(None) => {}
                Err(reason) => refused = Some(reason),
            }
        }
        if let Some(token) = bearer_of(&request.headers) {
            match self.bearer(&token, &[]).await {
                Ok(bearer) => return Ok(Some(bearer.user)),
                Err(reason) => refused = Some(reason),
            }
        }
        match refused {
            Some(reason) => {
                tracing::debug!(reason, "credentials are refused");
                Err(Status::unauthorized())
            }
            None if self.anonymous => Ok(Some(anonymous())),
            None => Ok(None),
        }
    }
}

impl Authenticator for Authentication {
    fn authenticate<'a>(
        &'a self,
        request: &'a Parts,
    ) -> BoxFuture<'a, Result<Option<User>, Status>> {
        Box::pin(self.find_out(request))
    }
}

/// Whoever has a name is one of all that have.
fn authenticated(mut user: User) -> User {
    let known = |group: &String| group == GROUP_AUTHENTICATED || group == GROUP_UNAUTHENTICATED;
    if !user.groups.iter().any(known) {
        user.groups.push(GROUP_AUTHENTICATED.into());
    }
    user
}

#[must_use]
pub fn anonymous() -> User {
    User { name: ANONYMOUS.into(), groups: vec![GROUP_UNAUTHENTICATED.into()], ..User::default() }
}

/// The token of `Authorization: Bearer T`, or of the protocol by which browsers send one on a WebSocket.
fn bearer_of(headers: &HeaderMap) -> Option<String> {
    if let Some(value) = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()) {
        let (scheme, token) = value.trim().split_once(' ')?;
        let token = token.trim_start();
        let is_bearer = scheme.eq_ignore_ascii_case("bearer") && !token.is_empty();
        return is_bearer.then(|| token.to_owned());
    }
    let protocols = headers.get_all(SEC_WEBSOCKET_PROTOCOL);
    let mut lists = protocols.iter().filter_map(|value| value.to_str().ok());
    let encoded = lists.find_map(|list| {
        let mut protocols = list.split(',').map(str::trim);
        protocols.find_map(|protocol| protocol.strip_prefix(WEBSOCKET_TOKEN))
    })?;
    let decoded = URL_SAFE_NO_PAD.decode(encoded).or_else(|_| URL_SAFE.decode(encoded)).ok()?;
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(header: &str, value: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(http::HeaderName::try_from(header).unwrap(), value.parse().unwrap());
        bearer_of(&headers)
    }

    #[test]
    fn a_token_is_found_where_clients_put_it() {
        for (header, value, token) in [
            ("authorization", "Bearer abc", Some("abc")),
            ("authorization", "bearer  abc", Some("abc")),
            ("authorization", "Bearer ", None),
            ("authorization", "Basic abc", None),
            (
                "sec-websocket-protocol",
                "v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.YWJj",
                Some("abc"),
            ),
            ("sec-websocket-protocol", "base64url.bearer.authorization.k8s.io.%", None),
        ] {
            assert_eq!(check(header, value).as_deref(), token, "{header}: {value}");
        }
    }
}
