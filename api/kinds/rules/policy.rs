//! Budgets, priorities and autoscalers.

use serde_json::Value;

use super::{Field, Found};
use crate::error::Cause;

/// Above it are the priorities of the system.
const PRIORITY_MAX: i64 = 1_000_000_000;
const OF_SYSTEM: &[(&str, i64)] =
    &[("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

pub(super) fn disruption_budget(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let spec = Field::of(object).at("spec");
    let (least, most) = (spec.at("minAvailable"), spec.at("maxUnavailable"));
    if least.is_set() && most.is_set() {
        found.push(spec.invalid("minAvailable and maxUnavailable cannot be both set"));
    }
    for field in [least, most] {
        field.must_be_number_or_percent(&mut found);
        field.must_not_pass_100_percent(&mut found);
    }
    spec.at("selector").must_be_selector(&mut found);
    let policy = spec.at("unhealthyPodEvictionPolicy");
    policy.may_be_one_of(&["AlwaysAllow", "IfHealthyBudget"], &mut found);
    found
}

pub(super) fn priority_class(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let class = Field::of(object);
    let (name, value) = (class.at("metadata.name"), class.at("value"));
    let number = value.number().unwrap_or_default();
    if name.text().starts_with("system-") {
        let known = OF_SYSTEM.contains(&(name.text(), number));
        if !known || class.at("globalDefault").is_true() {
            let what = format!("{} is not a known system priority class", name.text());
            found.push(name.forbidden(&format!(
                "priority class names with 'system-' prefix are reserved for system use only. \
                 error: {what}"
            )));
        }
    } else if number > PRIORITY_MAX {
        let why = format!("maximum allowed value of a user defined priority is {PRIORITY_MAX}");
        found.push(value.forbidden(&why));
    }
    class.at("preemptionPolicy").may_be_one_of(&["Never", "PreemptLowerPriority"], &mut found);
    found
}

pub(super) fn priority_class_change(new: &Value, old: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let (new, old) = (Field::of(new), Field::of(old));
    let number = |class: &Field<'_>| class.at("value").number().unwrap_or_default();
    if number(&new) != number(&old) {
        found.push(new.at("value").forbidden("may not be changed in an update."));
    }
    new.at("preemptionPolicy").must_stay(&old.at("preemptionPolicy"), &mut found);
    found
}

/// What both versions have.
pub(super) fn autoscaler_bounds(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let spec = Field::of(object).at("spec");
    let (least, most) = (spec.at("minReplicas"), spec.at("maxReplicas"));
    if least.number().is_some_and(|number| number < 1) {
        found.push(least.invalid("must be greater than or equal to 1"));
    }
    match most.number().unwrap_or_default() {
        0 => found.push(most.required("must be set and greater than 0")),
        ..0 => found.push(most.invalid("must be greater than or equal to 1")),
        number if least.number().is_some_and(|least| number < least) => {
            found.push(most.invalid("must be greater than or equal to `minReplicas`"));
        }
        _ => {}
    }
    let target = spec.at("scaleTargetRef");
    target.at("kind").must_not_be_empty(&mut found);
    target.at("name").must_not_be_empty(&mut found);
    found
}

pub(super) fn autoscaler(object: &Value) -> Vec<Cause> {
    const KINDS: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];
    let mut found = autoscaler_bounds(object);
    for metric in Field::of(object).at("spec.metrics").items() {
        let kind = metric.at("type");
        if kind.is_empty() {
            found.push(kind.required("must specify a metric source type"));
            continue;
        }
        kind.must_be_one_of(KINDS, &mut found);
        let mut name = kind.text().to_owned();
        if let Some(first) = name.get_mut(..1) {
            first.make_ascii_lowercase();
        }
        let source = metric.at(&name);
        if !source.is_set() {
            found.push(source.required("must populate information for the given metric source"));
            continue;
        }
        if name.ends_with("esource") {
            source.at("name").must_not_be_empty(&mut found);
        }
        let target = source.at("target");
        if target.at("type").is_empty() {
            found.push(target.at("type").required("must specify a metric target type"));
        } else {
            target.at("type").must_be_one_of(&["AverageValue", "Utilization", "Value"], &mut found);
        }
        let utilization = target.at("averageUtilization");
        if utilization.number().is_some_and(|number| number < 1) {
            found.push(utilization.invalid("must be greater than 0"));
        }
    }
    found
}
