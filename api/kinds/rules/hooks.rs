//! Webhooks and policies that have a say in admission.
//!
//! What their CEL means is not looked at here; only that there is some.

use serde_json::Value;

use super::field::duplicates;
use super::{Field, Found};
use crate::error::Cause;
use crate::object::names;
use crate::schema::causes;

const FAILURES: &[&str] = &["Fail", "Ignore"];
const MATCHES: &[&str] = &["Equivalent", "Exact"];
const SIDE_EFFECTS: &[&str] = &["None", "NoneOnDryRun"];
const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const REVIEWS: &[&str] = &["v1", "v1beta1"];
const CONDITIONS_MAX: usize = 64;
const ANNOTATIONS_MAX: usize = 20;
const TIMEOUT: std::ops::RangeInclusive<i64> = 1..=30;

/// Of either kind.
pub(super) fn webhooks(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let hooks = Field::of(object).at("webhooks");
    for hook in hooks.items() {
        check_webhook(&hook, &mut found);
        check_reviews(&hook.at("admissionReviewVersions"), &mut found);
    }
    duplicates(hooks.items().map(|hook| hook.at("name")), &mut found);
    found
}

fn check_webhook(hook: &Field<'_>, found: &mut Found) {
    check_name(&hook.at("name"), found);
    for rule in hook.at("rules").items() {
        check_rule(&rule, OPERATIONS, found);
    }
    hook.at("failurePolicy").may_be_one_of(FAILURES, found);
    hook.at("matchPolicy").may_be_one_of(MATCHES, found);
    let effects = hook.at("sideEffects");
    if effects.is_set() {
        effects.must_be_one_of(SIDE_EFFECTS, found);
    } else {
        let why = format!("must specify one of {}", SIDE_EFFECTS.join(", "));
        found.push(effects.required(&why));
    }
    let timeout = hook.at("timeoutSeconds");
    if timeout.number().is_some_and(|seconds| !TIMEOUT.contains(&seconds)) {
        found.push(timeout.invalid("the timeout value must be between 1 and 30 seconds"));
    }
    hook.at("namespaceSelector").must_be_selector(found);
    hook.at("objectSelector").must_be_selector(found);
    hook.at("reinvocationPolicy").may_be_one_of(&["IfNeeded", "Never"], found);
    check_client(&hook.at("clientConfig"), found);
    check_conditions(&hook.at("matchConditions"), found);
}

/// A name of at least three parts.
fn check_name(name: &Field<'_>, found: &mut Found) {
    if name.is_empty() {
        found.push(name.required(""));
        return;
    }
    let few = "should be a domain with at least three segments separated by dots";
    let few = (name.text().split('.').count() < 3).then(|| few.to_owned());
    found.extend(names::bad_subdomain(name.text()).or(few).map(|why| name.invalid(&why)));
}

fn check_reviews(versions: &Field<'_>, found: &mut Found) {
    if versions.is_empty() {
        found.push(versions.required(&format!("must specify one of {}", REVIEWS.join(", "))));
        return;
    }
    let mut seen = Vec::new();
    for version in versions.items() {
        if seen.contains(&version.text()) {
            found.push(version.invalid("duplicate version"));
        } else {
            seen.push(version.text());
            version.must_be(bad_version, found);
        }
    }
    if !seen.iter().any(|version| REVIEWS.contains(version)) {
        let why = format!("must include at least one of {}", REVIEWS.join(", "));
        found.push(versions.invalid(&why));
    }
}

/// A label that begins with a letter.
fn bad_version(text: &str) -> Option<String> {
    const WHY: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', \
        start with an alphabetic character, and end with an alphanumeric character (e.g. \
        'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
    let begins = text.starts_with(|first: char| first.is_ascii_lowercase());
    (!begins || names::bad_label(text).is_some()).then(|| WHY.to_owned())
}

fn check_client(client: &Field<'_>, found: &mut Found) {
    let (url, service) = (client.at("url"), client.at("service"));
    match (url.is_set(), service.is_set()) {
        (true, false) => {
            if let Some((part, why)) = bad_url(url.text()) {
                found.push(causes::invalid(&url.path, &part.into(), &why));
            }
        }
        (false, true) => {
            service.at("name").must_not_be_empty(found);
            service.at("namespace").must_not_be_empty(found);
            let port = service.at("port");
            if port.number().is_some_and(|number| !(1..=65535).contains(&number)) {
                let why = "port is not valid: must be between 1 and 65535, inclusive";
                found.push(port.invalid(why));
            }
            let path = service.at("path");
            if !path.is_empty() && !path.text().starts_with('/') {
                found.push(path.invalid("must start with a '/'"));
            }
        }
        _ => found.push(client.required("exactly one of url or service is required")),
    }
}

/// The part of a URL that is wrong, and why.
fn bad_url(text: &str) -> Option<(String, String)> {
    const FORM: &str = "; desired format: https://host[/path]";
    let wrong = |part: &str, why: &str| Some((part.to_owned(), why.to_owned()));
    let Ok(url) = text.parse::<http::Uri>() else {
        return wrong(text, &format!("url must be a valid URL{FORM}"));
    };
    let scheme = url.scheme_str().unwrap_or_default();
    if scheme != "https" {
        return wrong(scheme, &format!("'https' is the only allowed URL scheme{FORM}"));
    }
    let authority = url.authority().map_or("", |authority| authority.as_str());
    match (authority.split_once('@'), text.split_once('#'), url.query()) {
        _ if authority.is_empty() => wrong("", &format!("host must be specified{FORM}")),
        (Some((user, _)), ..) => wrong(user, "user information is not permitted in the URL"),
        (_, Some((_, rest)), _) => wrong(rest, "fragments are not permitted in the URL"),
        (.., Some(query)) => wrong(query, "query parameters are not permitted in the URL"),
        _ => None,
    }
}

/// What is asked about, and at which operations.
fn check_rule(rule: &Field<'_>, allowed: &[&str], found: &mut Found) {
    let operations = rule.at("operations");
    must_have(&operations, "operations", found);
    for operation in operations.items() {
        operation.must_be_one_of(allowed, found);
    }
    must_have(&rule.at("apiGroups"), "API groups", found);
    let versions = rule.at("apiVersions");
    must_have(&versions, "API versions", found);
    for version in versions.items() {
        version.must_not_be_empty(found);
    }
    check_resources(&rule.at("resources"), found);
    rule.at("scope").may_be_one_of(&["*", "Cluster", "Namespaced"], found);
}

fn must_have(list: &Field<'_>, others: &str, found: &mut Found) {
    if list.is_empty() {
        found.push(list.required(""));
    } else if list.len() > 1 && list.items().any(|it| it.text() == "*") {
        found.push(list.invalid(&format!("if '*' is present, must not specify other {others}")));
    }
}

/// `x`, `*`, `x/y`, `x/*`, `*/y` and `*/*`, of which some say all of what others say.
fn check_resources(resources: &Field<'_>, found: &mut Found) {
    if resources.is_empty() {
        found.push(resources.required(""));
    }
    let (mut of_all, mut all_of) = (Vec::new(), Vec::new());
    for resource in resources.items() {
        resource.must_not_be_empty(found);
        let Some((name, sub)) = resource.text().split_once('/') else { continue };
        let text = resource.text();
        if all_of.contains(&name) {
            let why = format!("if '{name}/*' is present, must not specify {text}");
            found.push(resource.invalid(&why));
        }
        if of_all.contains(&sub) {
            let why = format!("if '*/{sub}' is present, must not specify {text}");
            found.push(resource.invalid(&why));
        }
        if sub == "*" {
            all_of.push(name);
        }
        if name == "*" {
            of_all.push(sub);
        }
    }
    let has = |fits: &dyn Fn(&str) -> bool| resources.items().any(|it| fits(it.text()));
    if resources.len() > 1 && has(&|it| it == "*/*") {
        let why = "if '*/*' is present, must not specify other resources";
        found.push(resources.invalid(why));
    }
    if has(&|it| it == "*") && has(&|it| it != "*" && !it.is_empty() && !it.contains('/')) {
        found.push(
            resources.invalid(
                "if '*' is present, must not specify other resources without subresources",
            ),
        );
    }
}

fn check_conditions(conditions: &Field<'_>, found: &mut Found) {
    if conditions.len() > CONDITIONS_MAX {
        found.push(causes::too_many(&conditions.path, conditions.len(), CONDITIONS_MAX as u64));
    }
    for condition in conditions.items() {
        must_say(&condition.at("expression"), "", found);
        let name = condition.at("name");
        if name.is_empty() {
            found.push(name.required(""));
        } else {
            name.must_be_qualified(found);
        }
    }
    duplicates(conditions.items().map(|condition| condition.at("name")), found);
}

fn must_say(expression: &Field<'_>, why: &str, found: &mut Found) {
    if expression.text().trim().is_empty() {
        found.push(expression.required(why));
    }
}

pub(super) fn validating_policy(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let spec = Field::of(object).at("spec");
    check_policy(&spec, OPERATIONS, &mut found);
    let (validations, annotations) = (spec.at("validations"), spec.at("auditAnnotations"));
    if validations.is_empty() && annotations.is_empty() {
        let why = "validations or auditAnnotations must contain at least one item";
        found.extend([validations.required(why), annotations.required(why)]);
    }
    for validation in validations.items() {
        must_say(&validation.at("expression"), "expression is not specified", &mut found);
        let (message, made) = (validation.at("message"), validation.at("messageExpression"));
        for text in [&made, &message] {
            if !text.text().is_empty() && text.text().trim().is_empty() {
                found.push(text.invalid("must be non-empty if specified"));
            }
        }
        if message.text().trim().contains(['\n', '\r']) {
            found.push(message.invalid("must not contain line breaks"));
        }
        let reasons = &["Forbidden", "Invalid", "RequestEntityTooLarge"];
        validation.at("reason").may_be_one_of(reasons, &mut found);
    }
    if annotations.len() > ANNOTATIONS_MAX {
        let why = format!("must not have more than {ANNOTATIONS_MAX} auditAnnotations");
        found.push(annotations.invalid(&why));
    }
    for annotation in annotations.items() {
        annotation.at("key").must_be_qualified(&mut found);
        let value = annotation.at("valueExpression");
        must_say(&value, "valueExpression is not specified", &mut found);
    }
    duplicates(annotations.items().map(|annotation| annotation.at("key")), &mut found);
    found
}

pub(super) fn mutating_policy(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let spec = Field::of(object).at("spec");
    check_policy(&spec, &["*", "CONNECT", "CREATE", "UPDATE"], &mut found);
    let policy = spec.at("reinvocationPolicy");
    if policy.is_empty() {
        found.push(policy.required(""));
    } else {
        policy.must_be_one_of(&["IfNeeded", "Never"], &mut found);
    }
    let mutations = spec.at("mutations");
    if mutations.is_empty() {
        found.push(mutations.required("mutations must contain at least one item"));
    }
    for mutation in mutations.items() {
        check_mutation(&mutation, &mut found);
    }
    found
}

fn check_mutation(mutation: &Field<'_>, found: &mut Found) {
    const KINDS: [(&str, &str); 2] =
        [("ApplyConfiguration", "applyConfiguration"), ("JSONPatch", "jsonPatch")];
    let kind = mutation.at("patchType");
    let Some((_, own)) = KINDS.iter().find(|(name, _)| *name == kind.text()) else {
        found.push(match kind.is_empty() {
            true => kind.required(""),
            false => kind.unsupported(&KINDS.map(|(name, _)| name)),
        });
        return;
    };
    for (name, field) in KINDS {
        let part = mutation.at(field);
        if field == *own {
            let why = format!("must be specified when patchType is {name}");
            match part.is_set() {
                true => must_say(&part.at("expression"), "", found),
                false => found.push(part.required(&why)),
            }
        } else if part.is_set() {
            let why = format!("must not be specified when patchType is {}", kind.text());
            found.push(causes::invalid(&part.path, &format!("{{{field}}}").into(), &why));
        }
    }
}

/// What policies of either kind have.
fn check_policy(spec: &Field<'_>, operations: &[&str], found: &mut Found) {
    must_be_given(&spec.at("failurePolicy"), FAILURES, found);
    let kind = spec.at("paramKind");
    if kind.is_set() {
        for name in ["apiVersion", "kind"] {
            kind.at(name).must_not_be_empty(found);
        }
    }
    let about = spec.at("matchConstraints");
    if about.is_set() {
        check_about(&about, operations, found);
        let rules = about.at("resourceRules");
        rules.must_not_be_empty(found);
    } else {
        found.push(about.required(""));
    }
    check_conditions(&spec.at("matchConditions"), found);
    for variable in spec.at("variables").items() {
        let name = variable.at("name");
        if name.text().trim().is_empty() {
            found.push(name.required("name is not specified"));
        } else if !is_identifier(name.text()) {
            found.push(name.invalid("must be a valid CEL identifier"));
        }
        must_say(&variable.at("expression"), "expression is not specified", found);
    }
}

fn is_identifier(name: &str) -> bool {
    let begins = name.starts_with(|first: char| first == '_' || first.is_ascii_alphabetic());
    begins && name.bytes().all(|it| it == b'_' || it.is_ascii_alphanumeric())
}

fn must_be_given(field: &Field<'_>, supported: &[&str], found: &mut Found) {
    if field.is_empty() {
        found.push(field.required(""));
    } else {
        field.must_be_one_of(supported, found);
    }
}

fn check_about(about: &Field<'_>, operations: &[&str], found: &mut Found) {
    must_be_given(&about.at("matchPolicy"), MATCHES, found);
    for name in ["namespaceSelector", "objectSelector"] {
        let selector = about.at(name);
        if selector.is_set() {
            selector.must_be_selector(found);
        } else {
            found.push(selector.required(""));
        }
    }
    for rules in ["resourceRules", "excludeResourceRules"] {
        for rule in about.at(rules).items() {
            for name in rule.at("resourceNames").items() {
                name.must_be(names::bad_path_segment, found);
            }
            duplicates(rule.at("resourceNames").items(), found);
            check_rule(&rule, operations, found);
        }
    }
}

/// Of a policy of either kind; only those of the one that refuses have actions.
pub(super) fn policy_binding(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let spec = Field::of(object).at("spec");
    let policy = spec.at("policyName");
    if policy.is_empty() {
        found.push(policy.required(""));
    } else {
        policy.must_be_subdomain(&mut found);
    }
    let parameter = spec.at("paramRef");
    if parameter.is_set() {
        check_parameter(&parameter, &mut found);
    }
    let about = spec.at("matchResources");
    if about.is_set() {
        check_about(&about, OPERATIONS, &mut found);
    }
    found
}

pub(super) fn validating_binding(object: &Value) -> Vec<Cause> {
    let mut found = policy_binding(object);
    let actions = Field::of(object).at("spec.validationActions");
    for action in actions.items() {
        action.must_be_one_of(&["Audit", "Deny", "Warn"], &mut found);
    }
    duplicates(actions.items(), &mut found);
    let has = |name: &str| actions.items().any(|action| action.text() == name);
    if has("Deny") && has("Warn") {
        found.push(actions.invalid(
            "must not contain both Deny and Warn (repeating the same validation failure \
             information in the API response and headers serves no purpose)",
        ));
    }
    if actions.is_empty() {
        found.push(actions.required("at least one validation action is required"));
    }
    found
}

fn check_parameter(parameter: &Field<'_>, found: &mut Found) {
    let (name, selector) = (parameter.at("name"), parameter.at("selector"));
    match (!name.is_empty(), selector.is_set()) {
        (true, true) => found.push(name.forbidden("name and selector are mutually exclusive")),
        (false, false) => {
            found.push(parameter.required("one of name or selector must be specified"))
        }
        (true, false) => name.must_be(names::bad_path_segment, found),
        (false, true) => selector.must_be_selector(found),
    }
    must_be_given(&parameter.at("parameterNotFoundAction"), &["Deny", "Allow"], found);
}
