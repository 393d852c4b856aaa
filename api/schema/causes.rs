//! What is wrong with a field, in the words that upstream's clients know.

use serde_json::Value;

use crate::error::Cause;

/// A cause whose text is `<kind>: <detail>`, or `<kind>` alone.
fn cause(reason: &str, field: &str, kind: &str, detail: &str) -> Cause {
    let message = if detail.is_empty() { kind.to_owned() } else { format!("{kind}: {detail}") };
    Cause { reason: reason.into(), message, field: field.into() }
}

/// As Go prints a value within a message: strings quoted, the rest as JSON.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        other => other.to_string(),
    }
}

#[must_use]
pub fn required(field: &str, detail: &str) -> Cause {
    cause("FieldValueRequired", field, "Required value", detail)
}

#[must_use]
pub fn invalid(field: &str, value: &Value, detail: &str) -> Cause {
    let kind = format!("Invalid value: {}", shown(value));
    cause("FieldValueInvalid", field, &kind, detail)
}

/// As [`invalid`], where the type is wrong.
#[must_use]
pub fn type_invalid(field: &str, value: &Value, detail: &str) -> Cause {
    Cause { reason: "FieldValueTypeInvalid".into(), ..invalid(field, value, detail) }
}

#[must_use]
pub fn not_supported(field: &str, value: &Value, supported: &[String]) -> Cause {
    let kind = format!("Unsupported value: {}", shown(value));
    let list: Vec<String> = supported.iter().map(|text| format!("{text:?}")).collect();
    let detail = match list.is_empty() {
        true => String::new(),
        false => format!("supported values: {}", list.join(", ")),
    };
    cause("FieldValueNotSupported", field, &kind, &detail)
}

#[must_use]
pub fn duplicate(field: &str, value: &Value) -> Cause {
    cause("FieldValueDuplicate", field, &format!("Duplicate value: {}", shown(value)), "")
}

#[must_use]
pub fn forbidden(field: &str, detail: &str) -> Cause {
    cause("FieldValueForbidden", field, "Forbidden", detail)
}

#[must_use]
pub fn too_long(field: &str, max: u64) -> Cause {
    let unit = if max == 1 { "byte" } else { "bytes" };
    cause("FieldValueTooLong", field, "Too long", &format!("may not be more than {max} {unit}"))
}

#[must_use]
pub fn too_many(field: &str, actual: usize, max: u64) -> Cause {
    let unit = if max == 1 { "item" } else { "items" };
    let kind = format!("Too many: {actual}");
    cause("FieldValueTooMany", field, &kind, &format!("must have at most {max} {unit}"))
}

#[must_use]
pub fn not_found(field: &str, value: &Value) -> Cause {
    cause("FieldValueNotFound", field, &format!("Not found: {}", shown(value)), "")
}
