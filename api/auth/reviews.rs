//! Questions about access that are answered and not stored: who am I, whose token is this, may they do that.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::{Map, Value, json};

use super::authenticate::Authentication;
use super::node::node_of;
use super::{Attributes, Authorizer, Decision, Reviewer};
use crate::error::{Cause, Status};
use crate::kinds::Kind;
use crate::live::Live;
use crate::live::pod::items;
use crate::live::rbac::Rule;
use crate::object::GroupKind;
use crate::object::time::Clock;
use crate::request::User;

/// Answers by the same authentication and authorization that every request meets.
pub struct Reviews {
    authentication: Arc<Authentication>,
    authorizer: Arc<dyn Authorizer>,
    live: Arc<Live>,
    clock: Clock,
}

impl Reviewer for Reviews {
    fn review<'a>(
        &'a self,
        who: &'a User,
        kind: &'a Kind,
        namespace: &'a str,
        review: Value,
    ) -> BoxFuture<'a, Result<Value, Status>> {
        Box::pin(async move {
            match kind.kind.as_ref() {
                "TokenReview" => self.token(review).await,
                "SubjectAccessReview" => self.access(&kind.group_kind(), None, None, review),
                "LocalSubjectAccessReview" => {
                    self.access(&kind.group_kind(), None, Some(namespace), review)
                }
                "SelfSubjectAccessReview" => {
                    self.access(&kind.group_kind(), Some(who), None, review)
                }
                "SelfSubjectRulesReview" => self.rules(who, review),
                "SelfSubjectReview" => Ok(self.who(who, review)),
                other => Err(Status::internal(format!("{other} is no review"))),
            }
        })
    }
}

impl Reviews {
    #[must_use]
    pub fn new(
        authentication: Arc<Authentication>,
        authorizer: Arc<dyn Authorizer>,
        live: Arc<Live>,
        clock: Clock,
    ) -> Reviews {
        Reviews { authentication, authorizer, live, clock }
    }

    async fn token(&self, mut review: Value) -> Result<Value, Status> {
        let token = review["spec"]["token"].as_str().unwrap_or_default().to_owned();
        if token.is_empty() {
            return Err(Status::bad_request("token is required for TokenReview in authentication"));
        }
        let audiences = strings(&review["spec"]["audiences"]);
        review["status"] = match self.authentication.bearer(&token, &audiences).await {
            Ok(bearer) => {
                let user = user_info(&bearer.user);
                json!({"authenticated": true, "user": user, "audiences": bearer.audiences})
            }
            Err(reason) => json!({"error": reason, "user": {}}),
        };
        Ok(review)
    }

    /// Of someone the review names, or of who asks; `within` one namespace or anywhere.
    fn access(
        &self,
        of: &GroupKind,
        asker: Option<&User>,
        within: Option<&str>,
        mut review: Value,
    ) -> Result<Value, Status> {
        let causes = wrong(&review, asker.is_none(), within);
        if !causes.is_empty() {
            return Err(Status::invalid(of, "", causes));
        }
        let spec = &review["spec"];
        let subject = match asker {
            Some(user) => user.clone(),
            None => subject_of(spec),
        };
        let asked = &spec["resourceAttributes"];
        let text = |field: &str| asked[field].as_str().unwrap_or_default();
        let (selector, ignored) = field_selector(&asked["fieldSelector"]);
        let attributes = if asked.is_object() {
            let version = if text("version").is_empty() { "*" } else { text("version") };
            Attributes {
                group: text("group"),
                version,
                resource: text("resource"),
                subresource: text("subresource"),
                namespace: text("namespace"),
                name: text("name"),
                field_selector: &selector,
                ..Attributes::of(&subject, text("verb"))
            }
        } else {
            let asked = &spec["nonResourceAttributes"];
            let verb = asked["verb"].as_str().unwrap_or_default();
            let path = asked["path"].as_str().filter(|path| !path.is_empty()).unwrap_or("/");
            Attributes { path, ..Attributes::of(&subject, verb) }
        };
        let mut status = answer(self.authorizer.decide(&attributes));
        if ignored {
            let which = if selector.is_empty() { "ignored" } else { "partially ignored" };
            status["evaluationError"] =
                format!("spec.resourceAttributes.fieldSelector {which} due to parse error").into();
        }
        review["status"] = status;
        Ok(review)
    }

    fn rules(&self, who: &User, mut review: Value) -> Result<Value, Status> {
        let namespace = review["spec"]["namespace"].as_str().unwrap_or_default();
        if namespace.is_empty() {
            return Err(Status::bad_request("no namespace on request"));
        }
        let (rules, unresolved) = self.live.rbac().rules_for(who, namespace);
        let is_node = node_of(who).is_some();
        let mut errors = unresolved;
        if is_node {
            errors.insert(0, "node authorizer does not support user rule resolution".into());
        }
        let mut status = rules_status(&rules);
        status["incomplete"] = is_node.into();
        if !errors.is_empty() {
            status["evaluationError"] = super::rbac::aggregate(&errors).into();
        }
        review["spec"] = json!({});
        review["status"] = status;
        Ok(review)
    }

    fn who(&self, who: &User, mut review: Value) -> Value {
        review["metadata"] = json!({"creationTimestamp": self.clock.now().rfc3339()});
        review["status"] = json!({"userInfo": user_info(who)});
        review
    }
}

fn strings(list: &Value) -> Vec<String> {
    items(list).filter_map(Value::as_str).map(str::to_owned).collect()
}

/// A user as `authentication.k8s.io/v1 UserInfo`.
#[must_use]
pub fn user_info(user: &User) -> Value {
    let mut info = Map::new();
    if !user.name.is_empty() {
        info.insert("username".into(), user.name.clone().into());
    }
    if !user.uid.is_empty() {
        info.insert("uid".into(), user.uid.clone().into());
    }
    if !user.groups.is_empty() {
        info.insert("groups".into(), json!(user.groups));
    }
    if !user.extra.is_empty() {
        let extra: Map<String, Value> =
            user.extra.iter().map(|(key, values)| (key.clone(), json!(values))).collect();
        info.insert("extra".into(), Value::Object(extra));
    }
    Value::Object(info)
}

fn subject_of(spec: &Value) -> User {
    let text = |field: &str| spec[field].as_str().unwrap_or_default().to_owned();
    let extra = spec["extra"].as_object().into_iter().flatten();
    User {
        name: text("user"),
        uid: text("uid"),
        groups: strings(&spec["groups"]),
        extra: extra.map(|(key, values)| (key.clone(), strings(values))).collect(),
    }
}

fn answer(decision: Decision) -> Value {
    let mut status = json!({ "allowed": decision.allows() });
    if matches!(decision, Decision::Deny(_)) {
        status["denied"] = true.into();
    }
    let (Decision::Allow(reason) | Decision::Deny(reason) | Decision::NoOpinion(reason)) = decision;
    if !reason.is_empty() {
        status["reason"] = reason.into();
    }
    status
}

fn rules_status(rules: &[Rule]) -> Value {
    let list = |rule: &mut Value, field: &str, values: &[String]| {
        if !values.is_empty() {
            rule[field] = json!(values);
        }
    };
    let resources = rules.iter().filter(|rule| !rule.resources.is_empty()).map(|rule| {
        let mut told = json!({ "verbs": rule.verbs });
        list(&mut told, "apiGroups", &rule.groups);
        list(&mut told, "resources", &rule.resources);
        list(&mut told, "resourceNames", &rule.names);
        told
    });
    let urls = rules.iter().filter(|rule| !rule.urls.is_empty());
    let urls = urls.map(|rule| json!({"verbs": rule.verbs, "nonResourceURLs": rule.urls}));
    json!({
        "resourceRules": resources.collect::<Vec<_>>(),
        "nonResourceRules": urls.collect::<Vec<_>>(),
    })
}

/// Fields with the one value they must have; and whether something could not be understood.
fn field_selector(selector: &Value) -> (Vec<(String, String)>, bool) {
    let mut fields = Vec::new();
    let mut ignored = false;
    if let Some(raw) = selector["rawSelector"].as_str().filter(|raw| !raw.is_empty()) {
        for term in raw.split(',').filter(|term| !term.is_empty()) {
            match term.split_once('=') {
                Some((field, _)) if field.ends_with('!') => {}
                Some((field, value)) => {
                    let value = value.strip_prefix('=').unwrap_or(value);
                    fields.push((field.to_owned(), value.to_owned()));
                }
                None => ignored = true,
            }
        }
    }
    for requirement in items(&selector["requirements"]) {
        let values = strings(&requirement["values"]);
        match (requirement["operator"].as_str(), values.as_slice()) {
            (Some("In"), [value]) => {
                let field = requirement["key"].as_str().unwrap_or_default();
                fields.push((field.to_owned(), value.clone()));
            }
            (Some("NotIn"), [_]) => {}
            _ => ignored = true,
        }
    }
    (fields, ignored)
}

/// What of a review cannot be answered. A `subject` must be named unless it is who asks.
fn wrong(review: &Value, subject: bool, within: Option<&str>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let mut add = |field: &str, value: &Value, why: &str| {
        causes.push(Cause {
            reason: "FieldValueInvalid".into(),
            message: format!("Invalid value: {value}: {why}"),
            field: field.into(),
        });
    };
    let spec = &review["spec"];
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    match (resource.is_object(), path.is_object()) {
        (true, true) => add(
            "spec.nonResourceAttributes",
            path,
            "cannot be specified in combination with resourceAttributes",
        ),
        (false, false) => add(
            "spec.resourceAttributes",
            &Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ),
        _ => {}
    }
    let named = spec["user"].as_str().is_some_and(|user| !user.is_empty())
        || items(&spec["groups"]).next().is_some();
    if subject && !named {
        add("spec.user", &json!(""), "at least one of user or group must be specified");
    }
    let metadata = review["metadata"].as_object();
    let filled = metadata.into_iter().flatten().filter(|(field, value)| {
        let fine = *field == "managedFields" || (within.is_some() && *field == "namespace");
        !fine && !value.is_null()
    });
    if filled.count() > 0 {
        let why = match within {
            Some(_) => "must be empty except for namespace",
            None => "must be empty",
        };
        add("metadata", &review["metadata"], why);
    }
    if let Some(namespace) = within {
        let asked = &resource["namespace"];
        if resource.is_object() && asked.as_str().unwrap_or_default() != namespace {
            let why = "must match metadata.namespace";
            add("spec.resourceAttributes.namespace", asked, why);
        }
        if path.is_object() {
            let why = "disallowed on this kind of request";
            add("spec.nonResourceAttributes", path, why);
        }
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_review_that_asks_nothing_is_refused() {
        let told = |review: Value, subject, within| {
            let causes = wrong(&review, subject, within);
            causes.into_iter().map(|it| format!("{}: {}", it.field, it.message)).collect::<Vec<_>>()
        };
        assert_eq!(
            told(json!({"spec": {}}), true, None),
            [
                "spec.resourceAttributes: Invalid value: null: exactly one of \
                 nonResourceAttributes or resourceAttributes must be specified",
                "spec.user: Invalid value: \"\": at least one of user or group must be specified",
            ]
        );
        let local = json!({
            "metadata": {"namespace": "a"},
            "spec": {"user": "u", "resourceAttributes": {"namespace": "b"}},
        });
        assert_eq!(
            told(local, true, Some("a")),
            ["spec.resourceAttributes.namespace: Invalid value: \"b\": must match \
                 metadata.namespace"]
        );
        assert!(told(json!({"spec": {"nonResourceAttributes": {}}}), false, None).is_empty());
    }

    #[test]
    fn selectors_narrow_by_equality_alone() {
        let (fields, ignored) = field_selector(&json!({"rawSelector": "spec.nodeName=n1,a!=b"}));
        assert_eq!(fields, [("spec.nodeName".to_owned(), "n1".to_owned())]);
        assert!(!ignored);
        let (fields, ignored) = field_selector(&json!({"requirements": [
            {"key": "a", "operator": "In", "values": ["b"]}, {"key": "c", "operator": "Exists"},
        ]}));
        assert_eq!(fields, [("a".to_owned(), "b".to_owned())]);
        assert!(ignored);
    }
}
