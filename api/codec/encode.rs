//! From JSON to protobuf, byte for byte as Go writes the same value.
//!
//! Fields in the order of their numbers, map entries in the order of their keys; what is no pointer in Go is
//! written even when it is absent here. Values have passed the schema before they come here: one that does
//! not fit its field is an error, never written otherwise.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value};

use super::table::{Field, Message, Repetition, Shape, Type};
use super::wire;
use crate::object::time::Timestamp;

/// What could not be written: the path to it, innermost first.
#[derive(Debug)]
pub struct Misfit {
    pub expected: &'static str,
    pub path: Vec<String>,
}

type Written = Result<(), Misfit>;

fn expected<T>(expected: &'static str) -> Result<T, Misfit> {
    Err(Misfit { expected, path: Vec::new() })
}

/// The fields of a message; `null` and absent are the same.
pub fn object(of: &Message, value: &Map<String, Value>, out: &mut Vec<u8>) -> Written {
    for field in &of.fields {
        let present = value.get(field.name).filter(|value| !value.is_null());
        let written = match (field.inline, field.value) {
            (true, Type::Message(id)) => {
                wire::put_nested(out, field.number, |out| object(id.message(), value, out))
            }
            _ => put(field, present, out),
        };
        written.map_err(|mut misfit| {
            misfit.path.push(field.name.into());
            misfit
        })?;
    }
    Ok(())
}

fn put(field: &Field, value: Option<&Value>, out: &mut Vec<u8>) -> Written {
    match (field.repetition, value) {
        (Repetition::Once, None) if field.pointer || field.value == Type::Bytes => Ok(()),
        (Repetition::Once, value) => put_one(field.value, field.number, value, out),
        (_, None) => Ok(()),
        (Repetition::List, Some(Value::Array(list))) => {
            list.iter().try_for_each(|item| put_one(field.value, field.number, Some(item), out))
        }
        (Repetition::List, _) => expected("a list"),
        (Repetition::Map, Some(Value::Object(map))) => {
            // Sorted whatever the map's own order is.
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            for (key, item) in entries {
                wire::put_nested(out, field.number, |out| {
                    wire::put_bytes(out, 1, key.as_bytes());
                    put_one(field.value, 2, Some(item), out)
                })?;
            }
            Ok(())
        }
        (Repetition::Map, _) => expected("an object"),
    }
}

/// One value; an absent one is the type's zero.
fn put_one(of: Type, number: u32, value: Option<&Value>, out: &mut Vec<u8>) -> Written {
    let value = value.filter(|value| !value.is_null());
    match of {
        Type::Text => match value {
            None => wire::put_bytes(out, number, b""),
            Some(Value::String(text)) => wire::put_bytes(out, number, text.as_bytes()),
            Some(_) => return expected("a string"),
        },
        Type::Bytes => match value {
            None => wire::put_bytes(out, number, b""),
            Some(Value::String(text)) => match BASE64_STANDARD.decode(text) {
                Ok(bytes) => wire::put_bytes(out, number, &bytes),
                Err(_) => return expected("base64"),
            },
            Some(_) => return expected("base64"),
        },
        Type::Boolean => match value.map_or(Some(false), Value::as_bool) {
            Some(value) => put_integer(out, number, value.into()),
            None => return expected("true or false"),
        },
        Type::Int32 | Type::Int64 => match value.map_or(Some(0), integer) {
            Some(value) if of == Type::Int64 || i32::try_from(value).is_ok() => {
                put_integer(out, number, value);
            }
            _ => return expected("an integer"),
        },
        Type::Double => match value.map_or(Some(0.0), Value::as_f64) {
            Some(value) => {
                wire::put_key(out, number, wire::FIXED64);
                out.extend_from_slice(&value.to_bits().to_le_bytes());
            }
            None => return expected("a number"),
        },
        Type::Message(id) => {
            return wire::put_nested(out, number, |out| message(id.message(), value, out));
        }
    }
    Ok(())
}

/// The body of a message, whatever it is in JSON.
fn message(of: &Message, value: Option<&Value>, out: &mut Vec<u8>) -> Written {
    match (of.shape, value) {
        (Shape::Object, None) => object(of, &Map::new(), out),
        (Shape::Object, Some(Value::Object(value))) => object(of, value, out),
        (Shape::Object, Some(_)) => expected("an object"),
        (Shape::List, value) => of.fields.iter().try_for_each(|field| put(field, value, out)),
        (Shape::Time, value) => time(value, out, |moment| (moment.as_seconds(), 0)),
        (Shape::MicroTime, value) => time(value, out, |moment| {
            (moment.as_seconds(), moment.as_micros().rem_euclid(1_000_000) * 1000)
        }),
        (Shape::Quantity, value) => {
            let text = match value {
                None => "0".into(),
                Some(Value::String(text)) => text.clone(),
                Some(Value::Number(number)) => number.to_string(),
                Some(_) => return expected("a quantity"),
            };
            wire::put_bytes(out, 1, text.as_bytes());
            Ok(())
        }
        (Shape::IntOrString, value) => {
            let (kind, number, text) = match value {
                None => (0, 0, ""),
                Some(Value::String(text)) => (1, 0, text.as_str()),
                Some(other) => match integer(other) {
                    Some(number) => (0, number, ""),
                    None => return expected("an integer or a string"),
                },
            };
            put_integer(out, 1, kind);
            put_integer(out, 2, number);
            wire::put_bytes(out, 3, text.as_bytes());
            Ok(())
        }
        (Shape::Json | Shape::RawExtension, None) => Ok(()),
        (Shape::Json | Shape::RawExtension, Some(value)) => {
            wire::put_bytes(out, 1, value.to_string().as_bytes());
            Ok(())
        }
        (Shape::SchemaOrBool, value) => match value {
            // A schema implies that it is allowed.
            Some(Value::Object(_)) => alternative(of, true, &[(2, value)], out),
            Some(Value::Bool(allows)) => alternative(of, *allows, &[], out),
            _ => alternative(of, false, &[], out),
        },
        (Shape::SchemaOrList | Shape::SchemaOrStrings, Some(Value::Array(_))) => {
            alternative(of, false, &[(2, value)], out)
        }
        (Shape::SchemaOrList | Shape::SchemaOrStrings, value) => {
            alternative(of, false, &[(1, value)], out)
        }
    }
}

/// A message of which one of several fields is set; `allows` only where field 1 is a boolean.
fn alternative(
    of: &Message,
    allows: bool,
    set: &[(u32, Option<&Value>)],
    out: &mut Vec<u8>,
) -> Written {
    for field in &of.fields {
        let value = set.iter().find(|(number, _)| *number == field.number).and_then(|(_, it)| *it);
        match field.value {
            Type::Boolean => put_integer(out, field.number, allows.into()),
            _ => put(field, value, out)?,
        }
    }
    Ok(())
}

fn time(
    value: Option<&Value>,
    out: &mut Vec<u8>,
    parts: impl Fn(Timestamp) -> (i64, i64),
) -> Written {
    let Some(value) = value else { return Ok(()) };
    let Some(moment) = value.as_str().and_then(Timestamp::parse) else {
        return expected("a time as RFC 3339");
    };
    let (seconds, nanos) = parts(moment);
    put_integer(out, 1, seconds);
    put_integer(out, 2, nanos);
    Ok(())
}

/// JSON's numbers that are whole, however they are written.
fn integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| {
        let number = value.as_f64()?;
        (number.fract() == 0.0 && number.abs() < 9.0e15).then_some(number as i64)
    })
}

fn put_integer(out: &mut Vec<u8>, number: u32, value: i64) {
    wire::put_key(out, number, wire::VARINT);
    wire::put_varint(out, value.cast_unsigned());
}
