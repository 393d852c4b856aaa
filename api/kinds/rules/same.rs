//! Whether two values mean the same, and where they do not.
//!
//! Keeps: what is absent, null and empty are one; quantities are compared by what they stand for.

use std::fmt::Write as _;

use serde_json::Value;

use crate::object::quantity::Quantity;

/// Fields whose entries are quantities.
const OF_QUANTITIES: &[&str] = &["requests", "limits", "capacity", "hard", "overhead"];

pub(super) fn same(a: &Value, b: &Value) -> bool {
    compare(a, b, false)
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(is_nothing),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

fn compare(a: &Value, b: &Value, quantities: bool) -> bool {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            let both = |name: &String| {
                let quantities = OF_QUANTITIES.contains(&name.as_str());
                let (a, b) = (x.get(name), y.get(name));
                compare(a.unwrap_or(&Value::Null), b.unwrap_or(&Value::Null), quantities)
            };
            if quantities {
                return x.len() == y.len() && x.iter().all(|(name, a)| equal(a, y.get(name)));
            }
            x.keys().all(both) && y.keys().filter(|name| !x.contains_key(*name)).all(both)
        }
        (Value::Array(x), Value::Array(y)) => {
            x.len() == y.len() && x.iter().zip(y).all(|(a, b)| compare(a, b, false))
        }
        _ => a == b || is_nothing(a) && is_nothing(b),
    }
}

/// Two quantities, however they are written.
fn equal(a: &Value, b: Option<&Value>) -> bool {
    let Some(b) = b else { return false };
    match (Quantity::from_json(a), Quantity::from_json(b)) {
        (Ok(x), Ok(y)) => x.minus(y).is_zero(),
        _ => a == b,
    }
}

/// The fields that differ, as lines of a diff.
pub(super) fn difference(old: &Value, new: &Value) -> String {
    let mut text = String::new();
    let names = |value: &Value| -> Vec<String> {
        value.as_object().map(|map| map.keys().cloned().collect()).unwrap_or_default()
    };
    let mut all = names(old);
    all.extend(names(new));
    all.sort_unstable();
    all.dedup();
    for name in all {
        let [was, is] = [old, new].map(|it| it.get(&name).unwrap_or(&Value::Null));
        if !same(was, is) {
            for (sign, value) in [('-', was), ('+', is)] {
                if !value.is_null() {
                    // A text takes whatever is written to it.
                    let _ = writeln!(text, "{sign} {name}: {value}");
                }
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_absent_and_what_is_empty_are_one() {
        assert!(same(&json!({"a": [], "b": null}), &json!({})));
        assert!(!same(&json!({"a": [1]}), &json!({})));
        assert!(!same(&json!({"a": 0}), &json!({"a": 1})));
    }

    #[test]
    fn a_quantity_may_be_written_in_many_ways() {
        let of = |cpu: &str| json!({"resources": {"limits": {"cpu": cpu}}});
        assert!(same(&of("1"), &of("1000m")));
        assert!(!same(&of("1"), &of("2")));
    }
}
