//! Nodes, and what else is of the cluster as a whole.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Field, Found};
use crate::error::Cause;
use crate::object::selector::bad_label_value;
use crate::object::{meta, names};

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub(super) fn node(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let node = Field::of(object);
    let taints = Field::new("metadata.taints", Some(node.at("spec.taints").value));
    let mut seen = BTreeSet::new();
    for taint in taints.items() {
        let (key, effect) = (taint.at("key"), taint.at("effect"));
        key.must_be_qualified(&mut found);
        if let Some(why) = bad_label_value(taint.at("value").text()) {
            found.push(taint.at("value").invalid(&why));
        }
        if effect.is_empty() {
            found.push(effect.required(""));
        } else {
            effect.must_be_one_of(EFFECTS, &mut found);
        }
        if !seen.insert((key.text(), effect.text())) {
            let what = "taints must be unique by key and effect pair";
            let mut cause = taint.duplicate();
            cause.message = format!("{}: {what}", cause.message);
            found.push(cause);
        }
    }
    let ranges = node.at("spec.podCIDRs");
    for range in ranges.items() {
        if range.text().parse::<ipnet::IpNet>().is_err() {
            found.push(
                range.invalid("must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"),
            );
        }
    }
    found
}

pub(super) fn node_change(new: &Value, old: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let (new, old) = (Field::of(new).at("spec"), Field::of(old).at("spec"));
    for (name, said) in [("podCIDRs", "podCIDR"), ("providerID", "providerID")] {
        let (is, was) = (new.at(name), old.at(name));
        if !was.is_empty() && is.value != was.value {
            let why = format!("node updates may not change {said} except from \"\" to valid");
            found.push(is.forbidden(&why));
        }
    }
    found
}

/// An event is where what it is about is; about what is of the cluster, in `default`.
pub(super) fn event(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let about = ["involvedObject", "regarding"]
        .into_iter()
        .map(|name| Field::of(object).at(name))
        .find(Field::is_set);
    let Some(about) = about else { return found };
    let (namespace, own) = (about.at("namespace"), meta::namespace(object));
    let fits = match namespace.text() {
        "" => matches!(own, "" | "default" | "kube-system"),
        other => other == own,
    };
    if !fits {
        found.push(namespace.invalid("does not match event.namespace"));
    }
    found
}

pub(super) fn lease(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let spec = Field::of(object).at("spec");
    let seconds = spec.at("leaseDurationSeconds");
    if seconds.number().is_some_and(|number| number <= 0) {
        found.push(seconds.invalid("must be greater than 0"));
    }
    spec.at("leaseTransitions").must_not_be_negative(&mut found);
    if !spec.at("preferredHolder").is_empty() && spec.at("strategy").is_empty() {
        let why = "may only be specified if `strategy` is defined";
        found.push(spec.at("preferredHolder").forbidden(why));
    }
    found
}

pub(super) fn runtime_class(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let class = Field::of(object);
    class.at("handler").must_be(names::bad_label, &mut found);
    class.at("scheduling.nodeSelector").must_be_labels(&mut found);
    found
}

pub(super) fn runtime_class_change(new: &Value, old: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    Field::of(new).at("handler").must_stay(&Field::of(old).at("handler"), &mut found);
    found
}
