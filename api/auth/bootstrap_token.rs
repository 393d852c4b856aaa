//! Bootstrap tokens: `abcdef.0123456789abcdef`, kept in Secrets of kube-system, for joining.
//!
//! Keeps: the secret half is compared in the same time whatever it is.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::kinds::kind::Stored;
use crate::live;
use crate::object::time::{Clock, Timestamp};
use crate::objects::Objects;
use crate::request::User;

const NAMESPACE: &str = "kube-system";
const GROUP: &str = "system:bootstrappers";

/// Verifies bootstrap tokens.
pub struct BootstrapTokens {
    objects: Objects,
    secrets: Stored,
    clock: Clock,
}

impl BootstrapTokens {
    #[must_use]
    pub fn new(objects: Objects, clock: Clock) -> BootstrapTokens {
        BootstrapTokens { objects, secrets: live::stored("", "secrets", "v1", "Secret"), clock }
    }

    /// `None`: it is none, or none that is known and good.
    pub(super) async fn verify(&self, token: &str) -> Result<Option<User>, String> {
        let Some((id, secret)) = parts(token) else { return Ok(None) };
        let name = format!("bootstrap-token-{id}");
        let found = live::find(&self.objects, &self.secrets, NAMESPACE, &name).await;
        let told = |status: crate::error::Status| status.message().to_owned();
        let Some(found) = found.map_err(told)? else { return Ok(None) };
        let user = user(found.value().map_err(told)?, id, secret, self.clock.now());
        Ok(user
            .inspect_err(|reason| tracing::debug!(name, reason, "a bootstrap token is refused"))
            .ok())
    }
}

/// Six and sixteen small letters or digits.
fn parts(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let fits = |text: &str, length: usize| {
        text.len() == length
            && text.bytes().all(|it| it.is_ascii_lowercase() || it.is_ascii_digit())
    };
    (fits(id, 6) && fits(secret, 16)).then_some((id, secret))
}

/// Who the token stands for, by its Secret.
fn user(object: &Value, id: &str, secret: &str, now: Timestamp) -> Result<User, &'static str> {
    let data = |key: &str| -> String {
        let encoded = object["data"][key].as_str().unwrap_or_default();
        let bytes = STANDARD.decode(encoded).unwrap_or_default();
        String::from_utf8(bytes).unwrap_or_default()
    };
    if object["metadata"]["deletionTimestamp"].is_string() {
        return Err("it is deleted and awaiting removal");
    }
    if object["type"] != "bootstrap.kubernetes.io/token" {
        return Err("the Secret has another type");
    }
    if !same(data("token-secret").as_bytes(), secret.as_bytes()) {
        return Err("token-secret differs");
    }
    if data("token-id") != id {
        return Err("token-id differs");
    }
    let expiration = data("expiration");
    if !expiration.is_empty() && Timestamp::parse(&expiration).is_none_or(|at| at <= now) {
        return Err("it has expired");
    }
    if data("usage-bootstrap-authentication") != "true" {
        return Err("it is not for authentication");
    }
    let mut groups = vec![GROUP.to_owned()];
    let extra = data("auth-extra-groups");
    for group in extra.split(',').map(str::trim).filter(|it| !it.is_empty()) {
        let rest = group.strip_prefix("system:bootstrappers:").unwrap_or_default();
        let inner = |it: char| it.is_ascii_lowercase() || it.is_ascii_digit() || ":-".contains(it);
        if rest.is_empty() || !rest.chars().all(inner) || rest.ends_with([':', '-']) {
            return Err("auth-extra-groups names a group that does not begin as it must");
        }
        groups.push(group.to_owned());
    }
    groups.sort();
    groups.dedup();
    Ok(User { name: format!("system:bootstrap:{id}"), groups, ..User::default() })
}

/// Compares without telling by the time it takes where the difference is.
fn same(left: &[u8], right: &[u8]) -> bool {
    let difference = left.iter().zip(right).fold(0, |all, (a, b)| all | (a ^ b));
    left.len() == right.len() && difference == 0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn secret(changes: &[(&str, &str)]) -> Value {
        let mut object = json!({"type": "bootstrap.kubernetes.io/token"});
        for (key, value) in [
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-authentication", "true"),
            ("auth-extra-groups", "system:bootstrappers:workers"),
        ]
        .iter()
        .chain(changes)
        {
            object["data"][key] = STANDARD.encode(value).into();
        }
        object
    }

    fn check(object: &Value) -> Result<User, &'static str> {
        let (id, secret) = parts("abcdef.0123456789abcdef").unwrap();
        user(object, id, secret, Timestamp::parse("2026-01-01T00:00:00Z").unwrap())
    }

    #[test]
    fn a_good_token_is_a_user_of_its_groups() {
        let user = check(&secret(&[("expiration", "2026-01-02T00:00:00Z")])).unwrap();
        assert_eq!(user.name, "system:bootstrap:abcdef");
        assert_eq!(user.groups, ["system:bootstrappers", "system:bootstrappers:workers"]);
    }

    #[test]
    fn anything_amiss_refuses_it() {
        for change in [
            ("token-secret", "0123456789abcdee"),
            ("token-id", "abcdeg"),
            ("usage-bootstrap-authentication", ""),
            ("expiration", "2025-12-31T00:00:00Z"),
            ("expiration", "soon"),
            ("auth-extra-groups", "system:masters"),
        ] {
            assert!(check(&secret(&[change])).is_err(), "{change:?}");
        }
        assert_eq!(parts("ABCDEF.0123456789abcdef"), None);
        assert_eq!(parts("abcdef.0123"), None);
    }
}
