//! Whether a value keeps the rules of a structural schema, told in upstream's words.
//!
//! For custom resources: built-in types have their rules in code. CEL rules are not among these.

mod formats;

use serde_json::{Map as Json, Value};

use super::{Form, List, Node, Object, Rules, Topology, causes};
use crate::error::Cause;

/// What is wrong with a value; nothing if all is well. `at` is the path of the value, empty for a whole object.
#[must_use]
pub fn validate(node: &Node, value: &Value, at: &str) -> Vec<Cause> {
    let mut found = Vec::new();
    described(node, value, at, &mut found);
    found
}

fn child(at: &str, name: &str) -> String {
    if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") }
}

/// As the middle of upstream's messages names the place.
fn in_body(at: &str) -> String {
    format!("{at} in body")
}

/// A place whose type the schema says.
fn described(node: &Node, value: &Value, at: &str, found: &mut Vec<Cause>) {
    // A built-in type within (metadata) has its own rules.
    if matches!(node.form, Form::Named(_)) {
        return;
    }
    if value.is_null() && node.nullable {
        return;
    }
    if let Some(wanted) = mismatch(node, value) {
        let actual = type_of(value);
        let detail = format!("{} must be of type {wanted}: {actual:?}", in_body(at));
        found.push(causes::type_invalid(at, &actual.into(), &detail));
        return;
    }
    inner(node, value, at, found, described);
}

/// A place that a logical keyword narrows: of a value of another type it says nothing.
fn narrowed(node: &Node, value: &Value, at: &str, found: &mut Vec<Cause>) {
    inner(node, value, at, found, narrowed);
}

type Check = fn(&Node, &Value, &str, &mut Vec<Cause>);

fn inner(node: &Node, value: &Value, at: &str, found: &mut Vec<Cause>, check: Check) {
    match (&node.form, value) {
        (Form::Object(object), Value::Object(map)) => fields(object, map, at, found, check),
        (Form::Map(values), Value::Object(map)) => {
            for (key, value) in map {
                check(&values.values, value, &child(at, key), found);
            }
        }
        (Form::List(list), Value::Array(items)) => {
            for (index, item) in items.iter().enumerate() {
                check(&list.items, item, &format!("{at}[{index}]"), found);
            }
            duplicates(list, items, at, found);
        }
        _ => {}
    }
    if let Some(rules) = &node.rules {
        keeps(rules, value, at, found);
    }
}

fn fields(
    object: &Object,
    map: &Json<String, Value>,
    at: &str,
    found: &mut Vec<Cause>,
    check: Check,
) {
    for field in &object.fields {
        match map.get(&*field.name) {
            Some(value) => check(&field.node, value, &child(at, &field.name), found),
            None if field.required => {
                found.push(causes::required(&child(at, &field.name), ""));
            }
            None => {}
        }
    }
}

/// The type that is wanted, if the value is of another.
fn mismatch(node: &Node, value: &Value) -> Option<&'static str> {
    let (fits, wanted) = match &node.form {
        Form::Object(_) | Form::Map(_) => (value.is_object(), "object"),
        Form::List(_) => (value.is_array(), "array"),
        Form::String(_) => (value.is_string(), "string"),
        Form::Integer { .. } => (is_whole(value), "integer"),
        Form::Number => (value.is_number(), "number"),
        Form::Boolean => (value.is_boolean(), "boolean"),
        Form::IntOrString => (value.is_string() || is_whole(value), "integer,string"),
        Form::Quantity | Form::Any | Form::Named(_) => (true, ""),
    };
    (!fits).then_some(wanted)
}

fn is_whole(value: &Value) -> bool {
    value.as_f64().is_some_and(|number| number.fract() == 0.0)
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) if is_whole(value) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Elements of sets, and keys of maps, may be there once.
fn duplicates(list: &List, items: &[Value], at: &str, found: &mut Vec<Cause>) {
    let key = |item: &Value| match &list.topology {
        Topology::Atomic => None,
        Topology::Set => Some(item.clone()),
        Topology::Map(keys) => {
            let parts =
                keys.iter().filter_map(|key| Some((key.to_string(), item.get(&**key)?.clone())));
            Some(Value::Object(parts.collect()))
        }
    };
    let mut seen = std::collections::HashSet::new();
    for (index, item) in items.iter().enumerate() {
        let Some(key) = key(item) else { return };
        if !seen.insert(key.to_string()) {
            found.push(causes::duplicate(&format!("{at}[{index}]"), &key));
        }
    }
}

fn keeps(rules: &Rules, value: &Value, at: &str, found: &mut Vec<Cause>) {
    if let Some(allowed) = &rules.allowed
        && !allowed.iter().any(|it| same(it, value))
    {
        let texts: Vec<String> = allowed
            .iter()
            .map(|it| it.as_str().map_or_else(|| it.to_string(), str::to_owned))
            .collect();
        found.push(causes::not_supported(at, value, &texts));
    }
    match value {
        Value::String(text) => string(rules, text, value, at, found),
        Value::Number(number) => {
            number_in_bounds(rules, number.as_f64().unwrap_or_default(), value, at, found);
        }
        Value::Array(items) => {
            counted(items.len(), rules.items_min, rules.items_max, "items", value, at, found)
        }
        Value::Object(map) => counted(
            map.len(),
            rules.properties_min,
            rules.properties_max,
            "properties",
            value,
            at,
            found,
        ),
        Value::Null | Value::Bool(_) => {}
    }
    logic(rules, value, at, found);
}

/// Numbers are equal by value, whether or not they are written with a fraction.
fn same(a: &Value, b: &Value) -> bool {
    a == b || (a.is_number() && b.is_number() && a.as_f64() == b.as_f64())
}

fn string(rules: &Rules, text: &str, value: &Value, at: &str, found: &mut Vec<Cause>) {
    let length = text.chars().count() as u64;
    if let Some(max) = rules.length_max.filter(|max| length > *max) {
        found.push(causes::too_long(at, max));
    }
    if let Some(min) = rules.length_min.filter(|min| length < *min) {
        let detail = format!("{} should be at least {min} chars long", in_body(at));
        found.push(causes::invalid(at, value, &detail));
    }
    if let Some((pattern, regex)) = &rules.pattern
        && !regex.is_match(text)
    {
        let detail = format!("{} should match '{pattern}'", in_body(at));
        found.push(causes::invalid(at, value, &detail));
    }
    if let Some(format) = &rules.format
        && !formats::fits(format, text)
    {
        let detail = format!("{} must be of type {format}: {text:?}", in_body(at));
        found.push(causes::invalid(at, value, &detail));
    }
}

fn number_in_bounds(rules: &Rules, number: f64, value: &Value, at: &str, found: &mut Vec<Cause>) {
    let mut wrong = |what: String| {
        found.push(causes::invalid(at, value, &format!("{} should be {what}", in_body(at))));
    };
    match rules.maximum {
        Some(max) if rules.exclusive_maximum && number >= max => wrong(format!("less than {max}")),
        Some(max) if number > max => wrong(format!("less than or equal to {max}")),
        _ => {}
    }
    match rules.minimum {
        Some(min) if rules.exclusive_minimum && number <= min => {
            wrong(format!("greater than {min}"));
        }
        Some(min) if number < min => wrong(format!("greater than or equal to {min}")),
        _ => {}
    }
    if let Some(factor) = rules.multiple_of
        && factor > 0.0
        && (number / factor).fract() != 0.0
    {
        wrong(format!("a multiple of {factor}"));
    }
    let (format, bounds) = match rules.format.as_deref() {
        Some(format @ "int32") => (format, f64::from(i32::MIN)..=f64::from(i32::MAX)),
        _ => return,
    };
    if !bounds.contains(&number) {
        let detail = format!("{} must be of type {format}: {number}", in_body(at));
        found.push(causes::invalid(at, value, &detail));
    }
}

fn counted(
    count: usize,
    min: Option<u64>,
    max: Option<u64>,
    what: &str,
    value: &Value,
    at: &str,
    found: &mut Vec<Cause>,
) {
    if let Some(max) = max.filter(|max| count as u64 > *max) {
        found.push(causes::too_many(at, count, max));
    }
    if let Some(min) = min.filter(|min| (count as u64) < *min) {
        let detail = format!("{} should have at least {min} {what}", in_body(at));
        found.push(causes::invalid(at, value, &detail));
    }
}

fn logic(rules: &Rules, value: &Value, at: &str, found: &mut Vec<Cause>) {
    let errors = |node: &Node| {
        let mut errors = Vec::new();
        narrowed(node, value, at, &mut errors);
        // The one use of types within a logical keyword that is allowed.
        if errors.is_empty() && mismatch(node, value).is_some() {
            let wanted = mismatch(node, value).unwrap_or_default();
            errors.push(causes::invalid(at, value, &format!("must be of type {wanted}")));
        }
        errors
    };
    for node in &rules.all_of {
        found.extend(errors(node));
    }
    let mut wrong = |what: &str| {
        found.push(causes::invalid(at, value, &format!("{at:?} {what}")));
    };
    if !rules.any_of.is_empty() && !rules.any_of.iter().any(|node| errors(node).is_empty()) {
        wrong("must validate at least one schema (anyOf)");
    }
    if !rules.one_of.is_empty() {
        match rules.one_of.iter().filter(|node| errors(node).is_empty()).count() {
            0 => wrong("must validate one and only one schema (oneOf). Found none valid"),
            1 => {}
            many => wrong(&format!(
                "must validate one and only one schema (oneOf). Found {many} valid alternatives"
            )),
        }
    }
    if let Some(node) = &rules.not
        && errors(node).is_empty()
    {
        wrong("must not validate the schema (not)");
    }
}

#[cfg(test)]
mod tests;
