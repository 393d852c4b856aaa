//! What a namespace may use, and what its pods get by default.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Field, Found};
use crate::error::Cause;
use crate::object::selector::bad_key;

const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];
/// What is counted in whole pieces.
const WHOLE: &[&str] = &[
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];
const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "storage",
];

pub(super) fn quota(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let spec = Field::of(object).at("spec");
    for (name, amount) in spec.at("hard").entries() {
        check_name(name, &amount, &mut found);
        amount.quantity_must_not_be_negative(&mut found);
        let part = amount.quantity().map_or(0, |it| it.milli_value() % 1000);
        if (WHOLE.contains(&name) || name.starts_with("count/")) && part != 0 {
            found.push(amount.invalid("must be an integer"));
        }
    }
    check_scopes(&spec.at("scopes"), &mut found);
    for it in spec.at("scopeSelector.matchExpressions").items() {
        it.at("scopeName").must_be_one_of(SCOPES, &mut found);
        let (operator, values) = (it.at("operator"), it.at("values"));
        match operator.text() {
            "In" | "NotIn" if values.is_empty() => found.push(values.required(
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            )),
            "Exists" | "DoesNotExist" if !values.is_empty() => found.push(values.invalid(
                "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => found.push(operator.invalid("not a valid selector operator")),
        }
    }
    found
}

fn check_scopes(scopes: &Field<'_>, found: &mut Found) {
    let texts: BTreeSet<&str> = scopes.items().map(|scope| scope.text()).collect();
    for scope in scopes.items().filter(|scope| !SCOPES.contains(&scope.text())) {
        let whole = Field { path: scopes.path.clone(), ..scope };
        found.push(whole.invalid("unsupported scope"));
    }
    for (one, other) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if texts.contains(one) && texts.contains(other) {
            found.push(scopes.invalid("conflicting scopes"));
        }
    }
}

fn check_name(name: &str, amount: &Field<'_>, found: &mut Found) {
    if let Some(why) = bad_key(name) {
        found.push(crate::schema::causes::invalid(&amount.path, &name.into(), &why));
    } else if !name.contains('/')
        && !WHOLE.contains(&name)
        && !STANDARD.contains(&name)
        && !name.contains("hugepages-")
    {
        let why = "must be a standard resource for quota";
        found.push(crate::schema::causes::invalid(&amount.path, &name.into(), why));
    }
}

pub(super) fn quota_change(new: &Value, old: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let scopes = |object| Field::of(object).at("spec.scopes");
    let set = |object| -> BTreeSet<&str> { scopes(object).items().map(|it| it.text()).collect() };
    if set(new) != set(old) {
        found.push(scopes(new).invalid(super::field::IMMUTABLE));
    }
    found
}

pub(super) fn limit_range(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let limits = Field::of(object).at("spec.limits");
    for limit in limits.items() {
        let kind = limit.at("type");
        if kind.is_empty() {
            found.push(kind.required(""));
        }
        let by_default = [limit.at("default"), limit.at("defaultRequest")];
        if kind.text() == "Pod" {
            for field in by_default.iter().filter(|field| !field.is_empty()) {
                found.push(field.forbidden("may not be specified when `type` is 'Pod'"));
            }
        }
        if kind.text() == "PersistentVolumeClaim" {
            let storage = |name: &str| limit.at(name).value.get("storage").is_some();
            if !storage("min") && !storage("max") {
                found.push(limit.at("limits").required(
                    "either minimum or maximum storage value is required, but neither was provided",
                ));
            }
        }
        check_order(&limit, &mut found);
    }
    super::field::duplicates(limits.items().map(|limit| limit.at("type")), &mut found);
    found
}

/// The least is no more than what is given, and that no more than the most.
fn check_order(limit: &Field<'_>, found: &mut Found) {
    /// Which may not be more than which, how each is called, and which of both is wrong.
    const ORDER: &[(&str, &str, &str, &str, &str)] = &[
        ("min", "max", "min value", "max value", "min"),
        ("min", "defaultRequest", "min value", "default request value", "defaultRequest"),
        ("defaultRequest", "max", "default request value", "max value", "defaultRequest"),
        (
            "defaultRequest",
            "default",
            "default request value",
            "default limit value",
            "defaultRequest",
        ),
        ("min", "default", "min value", "default value", "default"),
        ("default", "max", "default value", "max value", "default"),
    ];
    for (less, more, less_name, more_name, wrong) in ORDER {
        for (name, low) in limit.at(less).entries() {
            let high = limit.at(more).key(name);
            let (Some(a), Some(b)) = (low.quantity(), high.quantity()) else { continue };
            if b.minus(a).is_negative() {
                let why = format!(
                    "{less_name} {} is greater than {more_name} {}",
                    low.text(),
                    high.text()
                );
                found.push(limit.at(wrong).key(name).invalid(&why));
            }
        }
    }
    for (_, ratio) in limit.at("maxLimitRequestRatio").entries() {
        if ratio.quantity().is_some_and(|it| it.milli_value() < 1000) {
            found.push(ratio.invalid(&format!("ratio {} is less than 1", ratio.text())));
        }
    }
}
