//! What a service account's token says, and what must hold of it now. Pure.
//!
//! Keeps: a token is good only while everything it is bound to exists under the same uid.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::object::time::Timestamp;
use crate::request::User;

/// How far clocks may be apart.
const LEEWAY_SECONDS: i64 = 60;

pub const USER_PREFIX: &str = "system:serviceaccount:";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    #[serde(default, deserialize_with = "one_or_many")]
    pub aud: Vec<String>,
    #[serde(default)]
    pub exp: i64,
    #[serde(default)]
    pub iat: i64,
    #[serde(default)]
    pub iss: String,
    #[serde(default)]
    pub jti: String,
    #[serde(rename = "kubernetes.io", default)]
    pub kubernetes: Bound,
    #[serde(default)]
    pub nbf: i64,
    #[serde(default)]
    pub sub: String,
}

/// The claim `kubernetes.io`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    #[serde(default)]
    pub namespace: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    #[serde(default)]
    pub serviceaccount: Reference,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    #[serde(default)]
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

impl Reference {
    /// To an object that exists.
    #[must_use]
    pub fn to(object: &Value) -> Reference {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        Reference { name: text("name"), uid: text("uid") }
    }
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Audience {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Audience::deserialize(deserializer)? {
        Audience::One(one) => vec![one],
        Audience::Many(many) => many,
    })
}

/// An object that a token is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    ServiceAccount,
    Secret,
    Pod,
    Node,
}

impl Claims {
    /// Whether the token is of this moment. The error is for the log of the server.
    pub fn check_time(&self, now: Timestamp) -> Result<(), String> {
        let now = now.as_seconds();
        if now < self.nbf - LEEWAY_SECONDS {
            return Err("service account token is not valid yet".into());
        }
        if now > self.exp + LEEWAY_SECONDS {
            return Err("service account token has expired".into());
        }
        if now < self.iat - LEEWAY_SECONDS {
            return Err("service account token is issued in the future".into());
        }
        Ok(())
    }

    /// What must be looked up, in order. The node of a pod's token is a note, not a bond.
    #[must_use]
    pub fn bonds(&self) -> Vec<(Object, &Reference)> {
        let bound = &self.kubernetes;
        let node = bound.node.as_ref().filter(|_| bound.pod.is_none());
        [
            Some((Object::ServiceAccount, &bound.serviceaccount)),
            bound.secret.as_ref().map(|it| (Object::Secret, it)),
            bound.pod.as_ref().map(|it| (Object::Pod, it)),
            node.map(|it| (Object::Node, it)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Who the token stands for.
    #[must_use]
    pub fn user(&self) -> User {
        let bound = &self.kubernetes;
        let mut extra = Vec::new();
        let mut add = |key: &str, value: &str| {
            if !value.is_empty() {
                extra.push((format!("authentication.kubernetes.io/{key}"), vec![value.into()]));
            }
        };
        if !self.jti.is_empty() {
            add("credential-id", &format!("JTI={}", self.jti));
        }
        if let Some(node) = &bound.node {
            add("node-name", &node.name);
            add("node-uid", &node.uid);
        }
        if let Some(pod) = &bound.pod {
            add("pod-name", &pod.name);
            add("pod-uid", &pod.uid);
        }
        User {
            name: format!("{USER_PREFIX}{}:{}", bound.namespace, bound.serviceaccount.name),
            uid: bound.serviceaccount.uid.clone(),
            groups: groups(&bound.namespace),
            extra,
        }
    }
}

/// The groups of every service account of a namespace.
#[must_use]
pub fn groups(namespace: &str) -> Vec<String> {
    vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")]
}

/// Namespace and name of the account that a user name stands for.
#[must_use]
pub fn account_of(user_name: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user_name.strip_prefix(USER_PREFIX)?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

/// Whether the object that is found keeps the bond. The error is for the log of the server.
pub fn holds(
    what: Object,
    reference: &Reference,
    found: Option<&Value>,
    now: Timestamp,
) -> Result<(), String> {
    let (kind, claim) = match what {
        Object::ServiceAccount => ("service account", "claim"),
        Object::Secret => ("secret", "service account secret ref claim"),
        Object::Pod => ("pod", "service account pod ref claim"),
        Object::Node => ("node", "service account node ref claim"),
    };
    let name = &reference.name;
    let Some(found) = found else {
        return Err(format!("service account token has been invalidated: no {kind} {name:?}"));
    };
    let uid = found["metadata"]["uid"].as_str().unwrap_or_default();
    if uid != reference.uid {
        return Err(format!("{kind} UID ({uid}) does not match {claim} ({})", reference.uid));
    }
    let deleted = found["metadata"]["deletionTimestamp"].as_str().and_then(Timestamp::parse);
    if deleted.is_some_and(|at| at < now.plus_seconds(-LEEWAY_SECONDS)) {
        return Err(format!(
            "service account token has been invalidated: {kind} {name:?} is deleted"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims() -> Claims {
        serde_json::from_value(json!({
            "aud": "api", "exp": 1000, "iat": 400, "nbf": 400, "iss": "i", "jti": "j",
            "sub": "system:serviceaccount:ns:bot",
            "kubernetes.io": {
                "namespace": "ns", "serviceaccount": {"name": "bot", "uid": "u"},
                "pod": {"name": "p", "uid": "pu"}, "node": {"name": "n"},
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_token_is_good_between_its_times_give_or_take_a_minute() {
        for (now, good) in [(339, false), (340, true), (1060, true), (1061, false)] {
            let checked = claims().check_time(Timestamp::from_seconds(now));
            assert_eq!(checked.is_ok(), good, "at {now}: {checked:?}");
        }
    }

    #[test]
    fn a_pods_token_names_pod_node_and_credential() {
        let user = claims().user();
        assert_eq!(user.name, "system:serviceaccount:ns:bot");
        assert_eq!(user.groups, ["system:serviceaccounts", "system:serviceaccounts:ns"]);
        let extra: Vec<(&str, &str)> =
            user.extra.iter().map(|(key, values)| (key.as_str(), values[0].as_str())).collect();
        assert_eq!(
            extra,
            [
                ("authentication.kubernetes.io/credential-id", "JTI=j"),
                ("authentication.kubernetes.io/node-name", "n"),
                ("authentication.kubernetes.io/pod-name", "p"),
                ("authentication.kubernetes.io/pod-uid", "pu"),
            ]
        );
        assert_eq!(account_of(&user.name), Some(("ns", "bot")));
        let bonds: Vec<Object> = claims().bonds().into_iter().map(|(what, _)| what).collect();
        assert_eq!(bonds, [Object::ServiceAccount, Object::Pod]);
    }

    #[test]
    fn another_object_of_the_same_name_does_not_keep_the_bond() {
        let reference = Reference { name: "p".into(), uid: "pu".into() };
        let now = Timestamp::from_seconds(1000);
        let check = |metadata: Value| {
            let found = json!({ "metadata": metadata });
            holds(Object::Pod, &reference, Some(&found), now).is_ok()
        };
        assert!(check(json!({"uid": "pu"})));
        assert!(!check(json!({"uid": "other"})));
        assert!(check(json!({"uid": "pu", "deletionTimestamp": now.rfc3339()})));
        let earlier = now.plus_seconds(-61).rfc3339();
        assert!(!check(json!({"uid": "pu", "deletionTimestamp": earlier})));
        assert!(holds(Object::Pod, &reference, None, now).is_err());
    }
}
