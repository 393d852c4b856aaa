//! Tokens of service accounts: issued for a while, bound to what they are for, verified against what is there.
//!
//! Keeps: a token is as good as the objects it names: the account, and the pod, secret or node it is bound to.
//! Never: a token is stored, or logged.

pub mod claims;
mod issue;
pub mod keys;
mod verify;

use crate::kinds::kind::Stored;
use crate::live;
use crate::object::time::Clock;
use crate::objects::Objects;
use claims::Object;
use keys::Keys;

pub use issue::EXPIRATION_OF_PODS;
pub use verify::Verified;

/// Issues and verifies tokens.
pub struct Tokens {
    keys: Keys,
    /// Named in each token, and the audience of those that ask for none.
    issuer: String,
    objects: Objects,
    clock: Clock,
}

impl Tokens {
    #[must_use]
    pub fn new(keys: Keys, issuer: &str, objects: Objects, clock: Clock) -> Tokens {
        Tokens { keys, issuer: issuer.into(), objects, clock }
    }

    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.keys
    }
}

fn stored(what: Object) -> Stored {
    let (resource, kind) = match what {
        Object::ServiceAccount => ("serviceaccounts", "ServiceAccount"),
        Object::Secret => ("secrets", "Secret"),
        Object::Pod => ("pods", "Pod"),
        Object::Node => ("nodes", "Node"),
    };
    live::stored("", resource, "v1", kind)
}
