//! Puts the defaults that a schema itself says where a value is absent.
//!
//! Defaults that depend on other fields are hooks of a kind, not here.

use serde_json::Value;

use super::{Form, Node, Presence};

/// Fills in what is absent. A null where null is no value counts as absent.
pub fn apply(node: &Node, value: &mut Value) {
    let node = node.resolve();
    match (&node.form, value) {
        (Form::Object(object), Value::Object(map)) => {
            for field in &object.fields {
                if let Some(default) = &field.node.default
                    && absent(map.get(&*field.name), &field.node)
                    && counts(field.presence, default)
                {
                    map.insert(field.name.to_string(), default.clone());
                }
            }
            // Few of the fields that a type has are there, and few of those have something in them.
            for (name, inner) in map.iter_mut().filter(|(_, inner)| has_parts(inner)) {
                if let Some(field) = object.field(name) {
                    apply(&field.node, inner);
                }
            }
        }
        (Form::Map(inner), Value::Object(map)) => {
            for value in map.values_mut() {
                fill(&inner.values, value);
            }
        }
        (Form::List(list), Value::Array(items)) => {
            for value in items {
                fill(&list.items, value);
            }
        }
        _ => {}
    }
}

fn has_parts(value: &Value) -> bool {
    matches!(value, Value::Object(_) | Value::Array(_))
}

fn fill(node: &Node, value: &mut Value) {
    if let Some(default) = &node.default
        && absent(Some(value), node)
    {
        *value = default.clone();
    }
    apply(node, value);
}

fn absent(value: Option<&Value>, node: &Node) -> bool {
    match value {
        None => true,
        Some(Value::Null) => !node.nullable,
        Some(_) => false,
    }
}

/// A default that is the zero value of a field whose zero is not written changes nothing.
fn counts(presence: Presence, default: &Value) -> bool {
    presence != Presence::UnlessZero || !super::decode::is_zero(default)
}
