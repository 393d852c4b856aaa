//! Whose requests wait for whose: flow schemas and priority levels.

use serde_json::Value;

use super::{Field, Found};
use crate::error::Cause;
use crate::object::names;

const VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];
const PRECEDENCE_MAX: i64 = 10_000;
const QUEUES_MAX: i64 = 10_000_000;
/// Bits of the hash by which a hand of queues is dealt.
const HASH_BITS: u32 = 60;

pub(super) fn flow_schema(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let schema = Field::of(object);
    let spec = schema.at("spec");
    let precedence = spec.at("matchingPrecedence");
    match precedence.number().unwrap_or_default() {
        ..=0 => found.push(precedence.invalid("must be a positive value")),
        1 if schema.at("metadata.name").text() != "exempt" => found.push(
            precedence.invalid("only the schema named 'exempt' may have matchingPrecedence 1"),
        ),
        number if number > PRECEDENCE_MAX => {
            let why = format!("must not be greater than {PRECEDENCE_MAX}");
            found.push(precedence.invalid(&why));
        }
        _ => {}
    }
    let method = spec.at("distinguisherMethod");
    if method.is_set() {
        method.at("type").must_be_one_of(&["ByNamespace", "ByUser"], &mut found);
    }
    let level = spec.at("priorityLevelConfiguration.name");
    if level.is_empty() {
        found.push(level.required("must reference a priority level"));
    } else {
        level.must_be_subdomain(&mut found);
    }
    for rule in spec.at("rules").items() {
        check_rule(&rule, &mut found);
    }
    found
}

fn check_rule(rule: &Field<'_>, found: &mut Found) {
    let subjects = rule.at("subjects");
    if subjects.is_empty() {
        found.push(subjects.required("subjects must contain at least one value"));
    }
    for subject in subjects.items() {
        check_subject(&subject, found);
    }
    let (resources, paths) = (rule.at("resourceRules"), rule.at("nonResourceRules"));
    if resources.is_empty() && paths.is_empty() {
        let why = "at least one of resourceRules and nonResourceRules has to be non-empty";
        found.push(rule.required(why));
    }
    for rule in resources.items() {
        check_verbs(&rule.at("verbs"), found);
        for (name, one, other) in [
            ("apiGroups", "resource rules must supply at least one api group", "api groups"),
            ("resources", "resource rules must supply at least one resource", "resources"),
        ] {
            must_have(&rule.at(name), one, other, found);
        }
        check_namespaces(&rule, found);
    }
    for rule in paths.items() {
        check_verbs(&rule.at("verbs"), found);
        let urls = rule.at("nonResourceURLs");
        let one = "nonResourceURLs must contain at least one value";
        must_have(&urls, one, "non-resource URLs", found);
        for url in urls.items().filter(|_| !has_wildcard(&urls)) {
            if let Some(why) = bad_path(url.text()) {
                found.push(url.invalid(why));
            }
        }
    }
}

/// At least one; and only one if that is `*`.
fn must_have(list: &Field<'_>, one: &str, others: &str, found: &mut Found) {
    if list.is_empty() {
        found.push(list.required(one));
    } else if has_wildcard(list) && list.len() > 1 {
        found.push(list.invalid(&format!("if '*' is present, must not specify other {others}")));
    }
}

fn has_wildcard(list: &Field<'_>) -> bool {
    list.items().any(|it| it.text() == "*")
}

fn check_verbs(verbs: &Field<'_>, found: &mut Found) {
    must_have(verbs, "verbs must contain at least one value", "verbs", found);
    if !has_wildcard(verbs) && verbs.items().any(|verb| !VERBS.contains(&verb.text())) {
        found.push(verbs.unsupported(VERBS));
    }
}

fn check_namespaces(rule: &Field<'_>, found: &mut Found) {
    let namespaces = rule.at("namespaces");
    if namespaces.is_empty() && rule.at("clusterScope").is_true() {
        return;
    }
    let one = "resource rules that are not cluster scoped must supply at least one namespace";
    must_have(&namespaces, one, "namespaces", found);
    for namespace in namespaces.items().filter(|_| !has_wildcard(&namespaces)) {
        if let Some(why) = names::bad_label(namespace.text()) {
            let intro = "each member of this list must be '*' or a DNS-1123 label; ";
            found.push(namespace.invalid(&format!("{intro}{why}")));
        }
    }
}

fn check_subject(subject: &Field<'_>, found: &mut Found) {
    const KINDS: [(&str, &str); 3] =
        [("Group", "group"), ("ServiceAccount", "serviceAccount"), ("User", "user")];
    let kind = subject.at("kind").text();
    let Some((_, own)) = KINDS.iter().find(|(name, _)| *name == kind) else {
        found.push(subject.at("kind").unsupported(&KINDS.map(|(name, _)| name)));
        return;
    };
    let who = subject.at(own);
    if who.is_set() {
        let (name, namespace) = (who.at("name"), who.at("namespace"));
        if name.is_empty() {
            found.push(name.required(""));
        } else if kind == "ServiceAccount" && name.text() != "*" {
            name.must_be_subdomain(found);
        }
        if kind == "ServiceAccount" {
            if namespace.is_empty() {
                found.push(namespace.required("must specify namespace for service account"));
            } else {
                namespace.must_be_label(found);
            }
        }
    } else {
        found.push(who.required(&format!("{own} is required when subject kind is '{kind}'")));
    }
    for (name, field) in KINDS.iter().filter(|(name, _)| *name != kind) {
        let other = subject.at(field);
        if other.is_set() {
            let why = format!("{field} is forbidden when subject kind is not '{name}'");
            found.push(other.forbidden(&why));
        }
    }
}

fn bad_path(path: &str) -> Option<&'static str> {
    let wildcards = path.matches('*').count();
    match path {
        "" => Some("must not be empty"),
        "/" => None,
        _ if !path.starts_with('/') => Some("must start with slash"),
        _ if path.contains(' ') => Some("must not contain white-space"),
        _ if path.contains("//") => Some("must not contain double slash"),
        _ if wildcards > 1 || (wildcards == 1 && !path.ends_with("/*")) => {
            Some("wildcard can only do suffix matching")
        }
        _ => None,
    }
}

pub(super) fn priority_level(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let level = Field::of(object);
    let spec = level.at("spec");
    let (kind, exempt, limited) = (spec.at("type"), spec.at("exempt"), spec.at("limited"));
    if (level.at("metadata.name").text() == "exempt") != (kind.text() == "Exempt") {
        found.push(kind.invalid("must be 'Exempt' if and only if `name` is 'exempt'"));
    }
    match kind.text() {
        "Exempt" => {
            if limited.is_set() {
                found.push(limited.forbidden("must be nil if the type is not Limited"));
            }
            check_shares(&exempt, &mut found);
        }
        "Limited" => {
            if exempt.is_set() {
                found.push(exempt.forbidden("must be nil if the type is Limited"));
            }
            if limited.is_set() {
                check_limited(&limited, &mut found);
            } else {
                found.push(limited.required("must not be empty when type is Limited"));
            }
        }
        _ => found.push(kind.unsupported(&["Exempt", "Limited"])),
    }
    found
}

fn check_shares(part: &Field<'_>, found: &mut Found) {
    let shares = part.at("nominalConcurrencyShares");
    if shares.number().is_some_and(|number| number < 0) {
        found.push(shares.invalid("must be a non-negative integer"));
    }
    part.at("lendablePercent").must_be_between(0, 100, found);
}

fn check_limited(limited: &Field<'_>, found: &mut Found) {
    check_shares(limited, found);
    let borrowing = limited.at("borrowingLimitPercent");
    if borrowing.number().is_some_and(|number| number < 0) {
        found.push(borrowing.invalid("if specified, must be a non-negative integer"));
    }
    let response = limited.at("limitResponse");
    let queuing = response.at("queuing");
    match response.at("type").text() {
        "Reject" if queuing.is_set() => {
            let why = "must be nil if limited.limitResponse.type is not Limited";
            found.push(queuing.forbidden(why));
        }
        "Reject" => {}
        "Queue" if queuing.is_set() => check_queuing(&queuing, found),
        "Queue" => {
            let why = "must not be empty if limited.limitResponse.type is Limited";
            found.push(queuing.required(why));
        }
        _ => found.push(response.at("type").unsupported(&["Queue", "Reject"])),
    }
}

fn check_queuing(queuing: &Field<'_>, found: &mut Found) {
    let number = |name: &str| queuing.at(name).number().unwrap_or_default();
    let (queues, hand) = (number("queues"), number("handSize"));
    let mut refuse = |name: &str, why: &str| found.push(queuing.at(name).invalid(why));
    if number("queueLengthLimit") <= 0 {
        refuse("queueLengthLimit", "must be positive");
    }
    if queues <= 0 {
        refuse("queues", "must be positive");
    } else if queues > QUEUES_MAX {
        refuse("queues", &format!("must not be greater than {QUEUES_MAX}"));
    }
    let bits = entropy_bits(queues, hand);
    if hand <= 0 {
        refuse("handSize", "must be positive");
    } else if hand > queues {
        refuse("handSize", &format!("should not be greater than queues ({queues})"));
    } else if bits > HASH_BITS {
        let why = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater \
             than {HASH_BITS}"
        );
        refuse("handSize", &why);
    }
}

/// How many bits it takes to deal a hand: those of queues × (queues − 1) × …
/// Stops where it is too much anyway.
fn entropy_bits(queues: i64, hand: i64) -> u32 {
    let mut deals: u128 = 1;
    for drawn in 0..hand.clamp(0, queues.max(0)) {
        deals = deals.saturating_mul((queues - drawn).unsigned_abs().into());
        if deals > 1 << HASH_BITS {
            return HASH_BITS + 1;
        }
    }
    deals.next_power_of_two().trailing_zeros()
}
