//! Reads `facts.txt`: what the schemas of `k8s-openapi` lack.
//!
//! The text is part of the program, so a line that cannot be read is our own bug.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use serde_json::Value;

use crate::schema::{Patch, Presence, Topology};

/// What is known of a type.
#[derive(Default)]
pub(super) struct TypeFacts {
    pub atomic: bool,
    pub fields: Vec<(&'static str, FieldFacts)>,
}

#[derive(Default)]
pub(super) struct FieldFacts {
    pub presence: Option<Presence>,
    pub patch: Patch,
    pub topology: Topology,
    pub atomic: bool,
    pub default: Option<Value>,
}

static LINES: LazyLock<HashMap<String, Vec<&'static str>>> = LazyLock::new(|| {
    let mut lines: HashMap<String, Vec<&'static str>> = HashMap::new();
    let (mut package, mut name) = ("", String::new());
    for line in include_str!("facts.txt").lines() {
        if let Some(named) = line.strip_prefix('@') {
            package = named;
        } else if let Some(more) = line.strip_prefix(' ') {
            lines.entry(name.clone()).or_default().push(more);
        } else if !line.starts_with('#') {
            let (type_name, facts) = line.split_once(' ').unwrap_or((line, ""));
            name = format!("{package}.{type_name}");
            lines.entry(name.clone()).or_default().push(facts);
        }
    }
    lines
});

/// What is known of the type with this upstream name; usually nothing.
pub(super) fn of(name: &str) -> TypeFacts {
    let mut facts = TypeFacts::default();
    let words = LINES.get(name).into_iter().flatten().flat_map(|line| line.split(' '));
    for word in words.filter(|word| !word.is_empty()) {
        match word.split_once('=') {
            Some((field, text)) => facts.fields.push((field, field_facts(text))),
            None => facts.atomic = word == "^",
        }
    }
    facts
}

/// The names of all types something is known of.
#[cfg(test)]
pub(super) fn names() -> Vec<String> {
    LINES.keys().cloned().collect()
}

fn field_facts(text: &'static str) -> FieldFacts {
    let mut facts = FieldFacts::default();
    // A default is last, and may itself have commas.
    let (marks, default) = match text.split_once("d:") {
        Some((marks, default)) => (marks, Some(default)),
        None => (text, None),
    };
    facts.default = default.map(|text| serde_json::from_str(text).expect("facts.txt is ours"));
    for mark in marks.split(',').filter(|mark| !mark.is_empty()) {
        match mark {
            "*" => facts.presence = Some(Presence::AsSent),
            "!" => facts.presence = Some(Presence::Always),
            "~" => facts.presence = Some(Presence::UnlessZero),
            "m" => facts.patch.merge = true,
            "k" => facts.patch.retain_keys = true,
            "r" => facts.patch.replace = true,
            "^" => facts.atomic = true,
            "set" => facts.topology = Topology::Set,
            _ => match mark.split_once(':') {
                Some(("m", key)) => {
                    facts.patch.merge = true;
                    facts.patch.merge_key = Some(Arc::from(key));
                }
                Some(("map", keys)) => {
                    facts.topology = Topology::Map(keys.split('+').map(Arc::from).collect());
                }
                _ => unreachable!("facts.txt has an unknown mark: {mark}"),
            },
        }
    }
    facts
}
