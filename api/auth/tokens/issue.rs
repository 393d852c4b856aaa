//! TokenRequest: a new token for a service account.

use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::claims::{Bound, Claims, Object, Reference, USER_PREFIX};
use super::{Tokens, stored};
use crate::auth::TokenIssuer;
use crate::error::{Cause, Status};
use crate::live;
use crate::object::time::Timestamp;
use crate::object::{GroupKind, GroupResource};
use crate::request::User;

const EXPIRATION_DEFAULT: i64 = 3600;
const EXPIRATION_MIN: i64 = 600;
const EXPIRATION_MAX: i64 = 1 << 32;
/// What admission puts into pods. Clients that never reload such a token go on for a year, and are noticed.
pub const EXPIRATION_OF_PODS: i64 = 3607;
const EXTENDED: i64 = 365 * 24 * 3600;

/// What a token is to be bound to, as it is stored.
#[derive(Default)]
struct Binding {
    to: Option<Object>,
    object: Option<Reference>,
    /// Of a pod: where it runs.
    node: Option<Reference>,
}

impl TokenIssuer for Tokens {
    fn issue<'a>(
        &'a self,
        _who: &'a User,
        account: &'a Value,
        request: Value,
    ) -> BoxFuture<'a, Result<Value, Status>> {
        Box::pin(self.issue_for(account, request))
    }
}

impl Tokens {
    async fn issue_for(&self, account: &Value, mut request: Value) -> Result<Value, Status> {
        let now = self.clock.now();
        complete(&mut request, account, &self.issuer, now)?;
        let namespace = account["metadata"]["namespace"].as_str().unwrap_or_default();
        let binding = self.binding(namespace, account, &request["spec"]["boundObjectRef"]).await?;
        let id = uuid::Uuid::new_v4().to_string();
        let claims = claims(account, &request["spec"], binding, &self.issuer, now, id);
        let token = self
            .keys
            .sign(&claims)
            .map_err(|error| Status::internal(format!("failed to generate token: {error}")))?;
        let seconds = request["spec"]["expirationSeconds"].as_i64().unwrap_or(EXPIRATION_DEFAULT);
        let expires = now.plus_seconds(seconds);
        request["status"] = json!({"token": token, "expirationTimestamp": expires.rfc3339()});
        Ok(request)
    }

    async fn binding(
        &self,
        namespace: &str,
        account: &Value,
        to: &Value,
    ) -> Result<Binding, Status> {
        if !to.is_object() {
            return Ok(Binding::default());
        }
        let (api_version, kind) = (text(&to["apiVersion"]), text(&to["kind"]));
        let what = match (api_version.contains('/'), kind) {
            (false, "Pod") => Object::Pod,
            (false, "Node") => Object::Node,
            (false, "Secret") => Object::Secret,
            _ => {
                let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
                return Err(Status::bad_request(format!(
                    "cannot bind token to object of type {group}/{version}, Kind={kind}"
                )));
            }
        };
        let of = stored(what);
        let name = text(&to["name"]);
        let within = if what == Object::Node { "" } else { namespace };
        let found = live::find(&self.objects, &of, within, name).await?;
        let found =
            found.ok_or_else(|| Status::not_found(&GroupResource::new("", &of.resource), name))?;
        let object = found.value()?;
        let account_name = text(&account["metadata"]["name"]);
        if what == Object::Pod && text(&object["spec"]["serviceAccountName"]) != account_name {
            return Err(Status::bad_request(format!(
                "cannot bind token for serviceaccount {account_name:?} to pod running with \
                 different serviceaccount name."
            )));
        }
        let reference = Reference::to(object);
        let asked = text(&to["uid"]);
        if !asked.is_empty() && asked != reference.uid {
            return Err(Status::conflict(
                &GroupResource::new("", kind),
                name,
                &format!(
                    "the UID in the bound object reference ({asked}) does not match the UID in \
                     record. The object might have been deleted and then recreated"
                ),
            ));
        }
        let node = match text(&object["spec"]["nodeName"]) {
            node if what == Object::Pod && !node.is_empty() => Some(self.node(node).await?),
            _ => None,
        };
        Ok(Binding { to: Some(what), object: Some(reference), node })
    }

    /// A node that is gone, or not there yet, is named without a uid.
    async fn node(&self, name: &str) -> Result<Reference, Status> {
        let found = live::find(&self.objects, &stored(Object::Node), "", name).await?;
        match found {
            Some(node) => Ok(Reference::to(node.value()?)),
            None => Ok(Reference { name: name.into(), uid: String::new() }),
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Fills in what the request leaves open, and refuses what it may not ask.
fn complete(
    request: &mut Value,
    account: &Value,
    issuer: &str,
    now: Timestamp,
) -> Result<(), Status> {
    let of = GroupKind { group: "authentication.k8s.io".into(), kind: "TokenRequest".into() };
    let name = text(&account["metadata"]["name"]).to_owned();
    for field in ["name", "namespace"] {
        let (asked, there) = (text(&request["metadata"][field]), text(&account["metadata"][field]));
        if !asked.is_empty() && asked != there {
            let which = format!("must match the service account {field} if specified");
            let message = format!("Invalid value: {asked:?}: {which}");
            return Err(Status::invalid(
                &of,
                &name,
                vec![cause(&format!("metadata.{field}"), message)],
            ));
        }
    }
    let (asked, there) = (text(&request["metadata"]["uid"]), text(&account["metadata"]["uid"]));
    if !asked.is_empty() && asked != there {
        return Err(Status::conflict(
            &GroupResource::new("authentication.k8s.io", "TokenRequest"),
            &name,
            &format!(
                "the UID in the token request ({asked}) does not match the UID of the service \
                 account ({there})"
            ),
        ));
    }
    for field in ["name", "namespace", "uid"] {
        request["metadata"][field] = account["metadata"][field].clone();
    }
    request["metadata"]["creationTimestamp"] = now.rfc3339().into();
    let spec = &mut request["spec"];
    if spec["audiences"].as_array().is_none_or(Vec::is_empty) {
        spec["audiences"] = json!([issuer]);
    }
    let seconds = spec["expirationSeconds"].as_i64().unwrap_or(EXPIRATION_DEFAULT);
    spec["expirationSeconds"] = seconds.into();
    let why = if seconds < EXPIRATION_MIN {
        "may not specify a duration less than 10 minutes"
    } else if seconds > EXPIRATION_MAX {
        "may not specify a duration larger than 2^32 seconds"
    } else {
        return Ok(());
    };
    let message = format!("Invalid value: {seconds}: {why}");
    Err(Status::invalid(&of, "", vec![cause("spec.expirationSeconds", message)]))
}

fn cause(field: &str, message: String) -> Cause {
    Cause { reason: "FieldValueInvalid".into(), message, field: field.into() }
}

/// What the token will say. Pure; `id` is fresh.
fn claims(
    account: &Value,
    spec: &Value,
    binding: Binding,
    issuer: &str,
    now: Timestamp,
    id: String,
) -> Claims {
    let now = now.as_seconds();
    let audiences = spec["audiences"].as_array().into_iter().flatten();
    let audiences: Vec<String> = audiences.map(|it| text(it).to_owned()).collect();
    let seconds = spec["expirationSeconds"].as_i64().unwrap_or(EXPIRATION_DEFAULT);
    let is_ours = audiences.iter().all(|audience| audience == issuer);
    let extend = binding.to == Some(Object::Pod) && seconds == EXPIRATION_OF_PODS && is_ours;
    let namespace = text(&account["metadata"]["namespace"]);
    let serviceaccount = Reference::to(account);
    let only = |what| binding.object.clone().filter(|_| binding.to == Some(what));
    Claims {
        aud: audiences,
        exp: now + if extend { EXTENDED } else { seconds },
        iat: now,
        nbf: now,
        iss: issuer.into(),
        jti: id,
        sub: format!("{USER_PREFIX}{namespace}:{}", serviceaccount.name),
        kubernetes: Bound {
            namespace: namespace.into(),
            node: only(Object::Node).or(binding.node.clone()),
            pod: only(Object::Pod),
            secret: only(Object::Secret),
            serviceaccount,
            warnafter: extend.then_some(now + seconds),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Value {
        json!({"metadata": {"namespace": "ns", "name": "bot", "uid": "u"}})
    }

    fn completed(spec: Value) -> Result<Value, Status> {
        let mut request = json!({ "spec": spec });
        complete(&mut request, &account(), "iss", Timestamp::from_seconds(1000))?;
        Ok(request)
    }

    fn for_pod(spec: &Value) -> Claims {
        let reference = |name: &str| Reference { name: name.into(), uid: "x".into() };
        let binding = Binding {
            to: Some(Object::Pod),
            object: Some(reference("p")),
            node: Some(reference("n")),
        };
        claims(&account(), spec, binding, "iss", Timestamp::from_seconds(1000), "id".into())
    }

    #[test]
    fn a_request_that_says_nothing_gets_an_hour_for_the_api() {
        let request = completed(json!({})).unwrap();
        assert_eq!(request["spec"], json!({"audiences": ["iss"], "expirationSeconds": 3600}));
        assert_eq!(request["metadata"]["name"], "bot");
        let status = completed(json!({"expirationSeconds": 599})).unwrap_err();
        assert_eq!(
            status.message(),
            "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid \
             value: 599: may not specify a duration less than 10 minutes"
        );
    }

    #[test]
    fn a_pods_token_lives_longer_than_it_says_for_the_api_alone() {
        let ours = for_pod(&json!({"audiences": ["iss"], "expirationSeconds": 3607}));
        assert_eq!((ours.exp, ours.kubernetes.warnafter), (1000 + EXTENDED, Some(4607)));
        let other = for_pod(&json!({"audiences": ["vault"], "expirationSeconds": 3607}));
        assert_eq!((other.exp, other.kubernetes.warnafter), (4607, None));
    }

    #[test]
    fn claims_are_written_as_kubernetes_writes_them() {
        let claims = for_pod(&json!({"audiences": ["vault"], "expirationSeconds": 600}));
        assert_eq!(
            serde_json::to_string(&claims).unwrap(),
            concat!(
                r#"{"aud":["vault"],"exp":1600,"iat":1000,"iss":"iss","jti":"id","#,
                r#""kubernetes.io":{"namespace":"ns","node":{"name":"n","uid":"x"},"#,
                r#""pod":{"name":"p","uid":"x"},"serviceaccount":{"name":"bot","uid":"u"}},"#,
                r#""nbf":1000,"sub":"system:serviceaccount:ns:bot"}"#
            )
        );
    }
}
