//! Who a token stands for.
//!
//! Two kinds, as in etcd. *Simple* ones are signed with a secret that stands in the state row, so every
//! member knows them, without a proposal for each; they are good for a while after they were last used on
//! a member. *JWT* ones are signed with keys from the configuration and end when they say.
//!
//! Keeps: a token is void once its user was deleted or got another password, and once authentication was
//! switched off. What is remembered of tokens that were used has a bound.
//! Never: reads a clock that it was not given.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tonic::Status;

use crate::etcd::control::Control;
use crate::etcd::status;

/// Seconds since 1970, asked for each time.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Most tokens whose use is remembered. One that is forgotten is good until its first end.
const REMEMBERED_MAX: usize = 10_000;

#[derive(Clone)]
pub enum TokenKind {
    /// Good for so many seconds after each use.
    Simple {
        ttl_s: u64,
    },
    Jwt(Arc<Jwt>),
}

/// Keys for tokens that others can check, or make.
pub struct Jwt {
    pub algorithm: Algorithm,
    /// Without it tokens are only checked here.
    pub signing: Option<EncodingKey>,
    pub checking: DecodingKey,
    pub ttl_s: u64,
}

pub(crate) struct Tokens {
    kind: TokenKind,
    clock: Clock,
    used: Mutex<HashMap<String, Used>>,
}

/// A simple token that was checked, and until when it is good here.
struct Used {
    secret: Bytes,
    name: String,
    since: u64,
    until: u64,
}

#[derive(Clone, Serialize, Deserialize)]
struct SimpleClaims {
    username: String,
    /// The user's [`super::User::since`] when the token was made.
    since: u64,
    exp: u64,
    /// Makes each token another.
    nonce: u64,
}

/// As etcd writes and reads them.
#[derive(Clone, Serialize, Deserialize)]
struct JwtClaims {
    username: String,
    revision: u64,
    exp: u64,
}

impl Tokens {
    pub(crate) fn new(kind: TokenKind, clock: Clock) -> Tokens {
        Tokens { kind, clock, used: Mutex::default() }
    }

    /// A token for a user that has just proved who it is.
    pub(crate) fn issue(&self, name: &str, control: &Control) -> Result<String, Status> {
        let now = (self.clock)();
        let made = match &self.kind {
            TokenKind::Simple { ttl_s } => {
                let user = control.permissions.users.get(name).ok_or_else(status::auth_failed)?;
                let claims = SimpleClaims {
                    username: name.to_owned(),
                    since: user.since,
                    exp: now + ttl_s,
                    nonce: rand::random(),
                };
                let secret = EncodingKey::from_secret(&control.state.token_secret);
                jsonwebtoken::encode(&Header::default(), &claims, &secret)
            }
            TokenKind::Jwt(jwt) => {
                let key = jwt.signing.as_ref().ok_or_else(|| {
                    Status::failed_precondition("etcdserver: this member only checks tokens")
                })?;
                let claims = JwtClaims {
                    username: name.to_owned(),
                    revision: control.auth_revision(),
                    exp: now + jwt.ttl_s,
                };
                jsonwebtoken::encode(&Header::new(jwt.algorithm), &claims, key)
            }
        };
        made.map_err(|error| Status::internal(format!("a token cannot be signed: {error}")))
    }

    /// The user a token stands for.
    pub(crate) fn user(&self, token: &str, control: &Control) -> Result<String, Status> {
        match &self.kind {
            TokenKind::Simple { ttl_s } => self.simple(token, *ttl_s, control),
            TokenKind::Jwt(jwt) => self.jwt(token, jwt, control),
        }
    }

    fn simple(&self, token: &str, ttl_s: u64, control: &Control) -> Result<String, Status> {
        let now = (self.clock)();
        let secret = &control.state.token_secret;
        let mut used = self.used.lock();
        let known = used.get_mut(token).filter(|known| known.secret == *secret);
        let (name, since) = match known {
            Some(known) if known.until > now => {
                known.until = now + ttl_s;
                (known.name.clone(), known.since)
            }
            _ => {
                let key = DecodingKey::from_secret(secret);
                let claims: SimpleClaims = claims(token, &key, Algorithm::HS256)?;
                if claims.exp <= now {
                    return Err(status::invalid_auth_token());
                }
                if used.len() >= REMEMBERED_MAX {
                    used.retain(|_, it| it.until > now && it.secret == *secret);
                }
                if used.len() >= REMEMBERED_MAX {
                    used.clear();
                }
                let (name, since) = (claims.username.clone(), claims.since);
                let until = now + ttl_s;
                let fresh = Used { secret: secret.clone(), name: claims.username, since, until };
                used.insert(token.to_owned(), fresh);
                (name, since)
            }
        };
        drop(used);
        match control.permissions.users.get(&name) {
            Some(user) if user.since == since => Ok(name),
            _ => Err(status::invalid_auth_token()),
        }
    }

    fn jwt(&self, token: &str, jwt: &Jwt, control: &Control) -> Result<String, Status> {
        let claims: JwtClaims = claims(token, &jwt.checking, jwt.algorithm)?;
        if claims.exp <= (self.clock)() {
            return Err(status::invalid_auth_token());
        }
        // What it was made by has changed: the client asks for a new one.
        if claims.revision < control.auth_revision() {
            return Err(status::auth_old_revision());
        }
        Ok(claims.username)
    }
}

fn claims<T: serde::de::DeserializeOwned + Clone>(
    token: &str,
    key: &DecodingKey,
    algorithm: Algorithm,
) -> Result<T, Status> {
    let mut validation = Validation::new(algorithm);
    // The time is compared with the clock this room was given.
    validation.validate_exp = false;
    validation.required_spec_claims.clear();
    let decoded = jsonwebtoken::decode(token, key, &validation);
    decoded.map(|it| it.claims).map_err(|_| status::invalid_auth_token())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::auth::{Permissions, User};

    fn control(auth_changes: u64) -> Control {
        let mut control = Control::default();
        control.state.auth_changes = auth_changes;
        control.permissions = Permissions::new(vec![("alice".into(), User::default())], Vec::new());
        control
    }

    #[test]
    fn a_jwt_is_good_until_it_ends_or_the_rules_change() {
        let clock = Arc::new(std::sync::atomic::AtomicU64::new(1_000_000));
        let time = clock.clone();
        let jwt = Jwt {
            algorithm: Algorithm::HS256,
            signing: Some(EncodingKey::from_secret(b"secret")),
            checking: DecodingKey::from_secret(b"secret"),
            ttl_s: 60,
        };
        let tokens = Tokens::new(
            TokenKind::Jwt(Arc::new(jwt)),
            Arc::new(move || time.load(std::sync::atomic::Ordering::Relaxed)),
        );
        let token = tokens.issue("alice", &control(3)).unwrap();
        assert_eq!(tokens.user(&token, &control(3)).unwrap(), "alice");
        let old = tokens.user(&token, &control(4)).unwrap_err();
        assert_eq!(old.message(), "etcdserver: revision of auth store is old");
        let forged = jsonwebtoken::encode(
            &Header::new(Algorithm::HS256),
            &JwtClaims { username: "root".into(), revision: 9, exp: u64::MAX },
            &EncodingKey::from_secret(b"another"),
        );
        for bad in [forged.unwrap(), "nonsense".into(), String::new()] {
            let refused = tokens.user(&bad, &control(3)).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::Unauthenticated);
        }
        clock.fetch_add(60, std::sync::atomic::Ordering::Relaxed);
        let refused = tokens.user(&token, &control(3)).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    }

    #[test]
    fn what_is_remembered_of_tokens_has_a_bound() {
        let tokens = Tokens::new(TokenKind::Simple { ttl_s: 60 }, Arc::new(|| 1_000_000));
        let mut control = control(1);
        control.state.token_secret = Bytes::from_static(b"secret");
        for _ in 0..REMEMBERED_MAX + 10 {
            let token = tokens.issue("alice", &control).unwrap();
            assert_eq!(tokens.user(&token, &control).unwrap(), "alice");
        }
        assert!(tokens.used.lock().len() <= REMEMBERED_MAX);
    }
}
