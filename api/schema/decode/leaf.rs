//! Values without parts: which fit where, in what form they are kept, and what their zero is.

use std::sync::{Arc, LazyLock};

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Map as Json, Value};

use crate::object::Quantity;
use crate::object::time::Timestamp;
use crate::schema::{Form, Map, Node, Presence, Text, TypeName};

/// Any JSON.
pub(super) static ANY: Node = plain(Form::Any);
pub(super) static TEXT: Node = plain(Form::String(Text::Plain));
pub(super) static METADATA: Node = plain(Form::Named(&OBJECT_META));
static OBJECT_META: TypeName = TypeName::new("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
pub(super) static ANY_MAP: LazyLock<Map> =
    LazyLock::new(|| Map { values: Arc::new(ANY.clone()), atomic: false });

const fn plain(form: Form) -> Node {
    Node {
        form,
        nullable: true,
        preserve_unknown: false,
        embedded: false,
        default: None,
        rules: None,
    }
}

/// Go's base64 takes what ours would call sloppy: bits behind the end. Padding it insists on.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

pub(super) enum Mismatch {
    /// What was found, as Go names it.
    Type(String),
    Text(String),
}

/// A leaf of a built-in type in the form in which it is kept.
pub(super) fn read(node: &Node, value: Value) -> Result<Value, Mismatch> {
    match (&node.form, &value) {
        (Form::Any, _)
        | (Form::Boolean, Value::Bool(_))
        | (Form::String(Text::Plain), Value::String(_))
        | (Form::IntOrString, Value::String(_)) => Ok(value),
        (Form::String(Text::Time), Value::String(text)) => {
            time(text).map(|moment| moment.rfc3339().into())
        }
        (Form::String(Text::MicroTime), Value::String(text)) => {
            time(text).map(|moment| moment.rfc3339_micros().into())
        }
        (Form::String(Text::Bytes), Value::String(text)) => bytes(text),
        (Form::Integer { bits32 }, Value::Number(number)) => match number.as_i64() {
            Some(number) if !bits32 || i32::try_from(number).is_ok() => Ok(value),
            _ => Err(Mismatch::Type(format!("number {number}"))),
        },
        (Form::IntOrString, Value::Number(number)) => match number.as_i64() {
            Some(number) if i32::try_from(number).is_ok() => Ok(value),
            _ => Err(Mismatch::Type(format!("number {number}"))),
        },
        (Form::Number, Value::Number(_)) => Ok(value),
        (Form::Quantity, Value::String(_) | Value::Number(_)) => Quantity::from_json(&value)
            .map(|quantity| quantity.to_string().into())
            .map_err(|error| Mismatch::Text(error.into())),
        (_, Value::String(_)) => Err(Mismatch::Type("string".into())),
        (_, Value::Number(_)) => Err(Mismatch::Type("number".into())),
        (_, Value::Bool(_)) => Err(Mismatch::Type("bool".into())),
        (_, Value::Null) => Ok(value),
        (_, Value::Array(_)) => Err(Mismatch::Type("array".into())),
        (_, Value::Object(_)) => Err(Mismatch::Type("object".into())),
    }
}

fn time(text: &str) -> Result<Timestamp, Mismatch> {
    Timestamp::parse(text).ok_or_else(|| {
        Mismatch::Text(format!(
            "parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": \
                cannot parse {text:?} as \"2006\""
        ))
    })
}

fn bytes(text: &str) -> Result<Value, Mismatch> {
    let one_line: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    match BASE64.decode(&one_line) {
        Ok(bytes) => Ok(BASE64.encode(bytes).into()),
        Err(error) => {
            let at = match error {
                base64::DecodeError::InvalidByte(at, _)
                | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                _ => one_line.len(),
            };
            Err(Mismatch::Text(format!("illegal base64 data at input byte {at}")))
        }
    }
}

/// A leaf of a custom resource. Upstream holds numbers as integers or floats, and a float without a fraction
/// is written as an integer.
pub(super) fn custom(value: Value) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value.as_f64() {
        Some(number) if value.is_f64() && number.fract() == 0.0 && number.abs() < EXACT => {
            Value::from(number as i64)
        }
        _ => value,
    }
}

/// What Go writes for a field that was never set; nothing where it writes null or nothing.
pub(super) fn zero(node: &Node) -> Option<Value> {
    Some(match &node.resolve().form {
        Form::String(Text::Plain) => "".into(),
        Form::Integer { .. } | Form::Number | Form::IntOrString => 0.into(),
        Form::Boolean => false.into(),
        Form::Quantity => "0".into(),
        Form::Object(object) => {
            let always = object.fields.iter().filter(|it| it.presence == Presence::Always);
            let fields = always.filter_map(|it| Some((it.name.to_string(), zero(&it.node)?)));
            Value::Object(fields.collect::<Json<String, Value>>())
        }
        Form::String(_) | Form::List(_) | Form::Map(_) | Form::Any | Form::Named(_) => return None,
    })
}

pub(super) fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

/// The Go structure that a type is: `PodSpec`.
pub(super) fn structure(node: &Node) -> &'static str {
    match node.form {
        Form::Named(name) => {
            let name = name.as_str();
            name.rsplit('.').next().unwrap_or(name)
        }
        _ => "",
    }
}

/// A type as Go prints it, as far as we know: `int32`, `[]v1.Container`, `map[string]string`.
pub(super) fn go_type(node: &Node) -> String {
    match &node.form {
        Form::Named(name) => {
            let mut parts = name.as_str().rsplit('.');
            let (kind, package) = (parts.next().unwrap_or_default(), parts.next().unwrap_or("v1"));
            format!("{package}.{kind}")
        }
        Form::Object(_) | Form::Any => "map[string]interface {}".into(),
        Form::Map(map) => format!("map[string]{}", go_type(&map.values)),
        Form::List(list) => format!("[]{}", go_type(&list.items)),
        Form::String(Text::Plain | Text::Time | Text::MicroTime) => "string".into(),
        Form::String(Text::Bytes) => "[]uint8".into(),
        Form::Integer { bits32: true } | Form::IntOrString => "int32".into(),
        Form::Integer { bits32: false } => "int64".into(),
        Form::Number => "float64".into(),
        Form::Boolean => "bool".into(),
        Form::Quantity => "resource.Quantity".into(),
    }
}
