//! Who a token stands for, if it is one of ours and still good.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::claims::{Object, Reference, holds};
use super::{Tokens, stored};
use crate::error::Status;
use crate::object::time::Timestamp;
use crate::request::User;

/// Longer tokens are not looked at.
const TOKEN_MAX: usize = 16 * 1024;

/// A token that is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub user: User,
    /// Those of its audiences that were asked for.
    pub audiences: Vec<String>,
}

/// Why a token is not good: for the log and for TokenReview, never for who shows it.
pub type Refusal = String;

impl Tokens {
    /// `None`: it is none of ours. `audiences` empty: the API's own.
    pub async fn verify(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<Verified>, Refusal> {
        if token.len() > TOKEN_MAX || issuer_of(token).as_deref() != Some(&self.issuer) {
            return Ok(None);
        }
        let claims = self.keys.verify(token)?;
        if claims.iss != self.issuer {
            return Err(format!("token issuer {:?} is invalid", claims.iss));
        }
        let ours = [self.issuer.clone()];
        let wanted = if audiences.is_empty() { &ours[..] } else { audiences };
        let common: Vec<String> =
            claims.aud.iter().filter(|it| wanted.contains(it)).cloned().collect();
        if common.is_empty() {
            return Err(format!(
                "token audiences {:?} is invalid for the target audiences {wanted:?}",
                claims.aud
            ));
        }
        let now = self.clock.now();
        claims.check_time(now)?;
        let namespace = &claims.kubernetes.namespace;
        for (what, reference) in claims.bonds() {
            self.check(what, namespace, reference, now).await?;
        }
        Ok(Some(Verified { user: claims.user(), audiences: common }))
    }

    /// What this member has is asked first. Only if that speaks against the token, it catches up and looks
    /// again: a token is often younger than the last change that has come here.
    async fn check(
        &self,
        what: Object,
        namespace: &str,
        reference: &Reference,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let namespace = if what == Object::Node { "" } else { namespace };
        let of = stored(what);
        let told = |status: Status| status.message().to_owned();
        let look = || {
            let found = self.objects.get(&of, namespace, &reference.name).map_err(told)?;
            let value = found.as_ref().map(crate::objects::Object::value);
            holds(what, reference, value.transpose().map_err(told)?, now)
        };
        match look() {
            Ok(()) => Ok(()),
            Err(_) => {
                self.objects.barrier().await.map_err(told)?;
                look()
            }
        }
    }
}

/// What the token says of its issuer, before anything is verified.
fn issuer_of(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Issued {
        #[serde(default)]
        iss: String,
    }
    let mut parts = token.split('.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
    Some(serde_json::from_slice::<Issued>(&payload).ok()?.iss)
}
