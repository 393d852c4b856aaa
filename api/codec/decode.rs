//! From protobuf to the JSON that the same Go value would have been.
//!
//! Keeps: memory in proportion to what was sent, with a bound of its own ([`VALUES_MAX`]), since two bytes
//! can be a whole empty message; nesting up to [`DEPTH_MAX`].
//!
//! Go writes fields that are no pointers even when they are zero, so a zero there means that nothing was
//! set: it is left out where JSON would leave it out. A zero behind a pointer is a value. Unknown fields are
//! skipped.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Number, Value};

use super::table::{Field, Message, Repetition, Shape, Type};
use super::wire::{self, Reader, Wrong};
use crate::object::time::Timestamp;

/// Messages within messages.
pub const DEPTH_MAX: u32 = 100;
/// Values in one body.
pub const VALUES_MAX: u32 = 1_000_000;
/// Go's `time.Time{}`, which JSON writes as null.
const ZERO_TIME_SECONDS: i64 = -62_135_596_800;

/// What is wrong, and where.
#[derive(Debug, Default)]
pub struct Fault {
    pub wrong: String,
    /// Innermost first.
    pub path: Vec<&'static str>,
}

impl From<Wrong> for Fault {
    fn from(wrong: Wrong) -> Fault {
        Fault { wrong: wrong.into(), path: Vec::new() }
    }
}

impl Fault {
    fn new(wrong: impl Into<String>) -> Fault {
        Fault { wrong: wrong.into(), path: Vec::new() }
    }

    fn within(mut self, name: &'static str) -> Fault {
        if !name.is_empty() {
            self.path.push(name);
        }
        self
    }
}

/// Bounds of one body, counted down.
pub struct Decoder {
    depth_left: u32,
    values_left: u32,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder { depth_left: DEPTH_MAX, values_left: VALUES_MAX }
    }
}

impl Decoder {
    /// The fields of a message that is an object.
    pub fn object(&mut self, of: &Message, bytes: &[u8]) -> Result<Map<String, Value>, Fault> {
        let mut into = Map::new();
        self.fields(of, bytes, &mut into)?;
        Ok(into)
    }

    /// `None`: the null of JSON, which says no more than absence.
    fn message(&mut self, of: &Message, bytes: &[u8]) -> Result<Option<Value>, Fault> {
        Ok(match of.shape {
            Shape::Object => Some(Value::Object(self.object(of, bytes)?)),
            Shape::List => {
                let mut fields = self.object(of, bytes)?;
                let name = of.fields.first().map_or("", |field| field.name);
                Some(fields.remove(name).unwrap_or_else(|| Value::Array(Vec::new())))
            }
            Shape::Time | Shape::MicroTime => time(of, bytes)?.map(Value::String),
            Shape::Quantity => {
                let text = Plain::read(bytes)?.text(1)?;
                Some(if text.is_empty() { "0".into() } else { text.into() })
            }
            Shape::IntOrString => {
                let plain = Plain::read(bytes)?;
                Some(match plain.number(1) {
                    1 => plain.text(3)?.into(),
                    _ => (plain.number(2) as i32).into(),
                })
            }
            Shape::Json => json(Plain::read(bytes)?.bytes(1))?,
            Shape::RawExtension => {
                let raw = Plain::read(bytes)?.bytes(1);
                if super::is_enveloped(raw) {
                    let enclosed = self.deeper(|inner| super::open(raw, None, inner))?;
                    Some(enclosed.value)
                } else {
                    json(raw)?
                }
            }
            Shape::SchemaOrBool => {
                let mut fields = self.object(of, bytes)?;
                Some(match fields.remove("schema") {
                    Some(schema) => schema,
                    None => fields.remove("allows").unwrap_or(Value::Bool(false)),
                })
            }
            Shape::SchemaOrList => {
                let mut fields = self.object(of, bytes)?;
                fields.remove("jSONSchemas").or_else(|| fields.remove("schema"))
            }
            Shape::SchemaOrStrings => {
                let mut fields = self.object(of, bytes)?;
                fields.remove("property").or_else(|| fields.remove("schema"))
            }
        })
    }

    fn fields(
        &mut self,
        of: &Message,
        bytes: &[u8],
        into: &mut Map<String, Value>,
    ) -> Result<(), Fault> {
        let mut reader = Reader::new(bytes);
        while !reader.is_at_end() {
            let (number, wire) = reader.key()?;
            let Some(field) = of.field(number) else {
                reader.skip(wire)?;
                continue;
            };
            self.field(field, wire, &mut reader, into).map_err(|fault| fault.within(field.name))?;
        }
        Ok(())
    }

    fn field(
        &mut self,
        field: &Field,
        wire: u8,
        reader: &mut Reader<'_>,
        into: &mut Map<String, Value>,
    ) -> Result<(), Fault> {
        self.count()?;
        match (field.repetition, field.value) {
            (Repetition::Once, Type::Message(id)) => {
                let (message, bytes) = (id.message(), length_delimited(wire, reader)?);
                if field.inline {
                    return self.deeper(|inner| inner.fields(message, bytes, into));
                }
                // A message that is sent in two pieces is one message.
                if let (Shape::Object, Some(Value::Object(begun))) =
                    (message.shape, into.get_mut(field.name))
                {
                    return self.deeper(|inner| inner.fields(message, bytes, begun));
                }
                match self.deeper(|inner| inner.message(message, bytes))? {
                    Some(value) => drop(into.insert(field.name.into(), value)),
                    None => drop(into.remove(field.name)),
                }
            }
            (Repetition::Once, _) => {
                let value = self.scalar(field.value, wire, reader)?;
                // Bytes are written only where there are some: nil is absent on the wire.
                let kept = field.pointer || field.always || field.value == Type::Bytes;
                if kept || !is_zero(&value) {
                    into.insert(field.name.into(), value);
                } else {
                    into.remove(field.name);
                }
            }
            (Repetition::List, _) => {
                let list = into.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
                let Value::Array(list) = list else { return Err("repeated twice over".into()) };
                if wire == wire::BYTES && is_packable(field.value) {
                    let mut packed = Reader::new(reader.bytes()?);
                    let each =
                        if field.value == Type::Double { wire::FIXED64 } else { wire::VARINT };
                    while !packed.is_at_end() {
                        self.count()?;
                        list.push(self.scalar(field.value, each, &mut packed)?);
                    }
                } else {
                    list.push(self.value(field.value, wire, reader)?.unwrap_or(Value::Null));
                }
            }
            (Repetition::Map, _) => {
                let (key, value) = self.entry(field, length_delimited(wire, reader)?)?;
                let map = into.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
                let Value::Object(map) = map else { return Err("repeated twice over".into()) };
                map.insert(key, value);
            }
        }
        Ok(())
    }

    fn entry(&mut self, field: &Field, bytes: &[u8]) -> Result<(String, Value), Fault> {
        let mut reader = Reader::new(bytes);
        let (mut key, mut value) = (String::new(), None);
        while !reader.is_at_end() {
            match reader.key()? {
                (1, wire) => key = text(length_delimited(wire, &mut reader)?)?,
                (2, wire) => value = self.value(field.value, wire, &mut reader)?,
                (_, wire) => reader.skip(wire)?,
            }
        }
        let value = match (value, field.value) {
            (Some(value), _) => value,
            (None, Type::Message(id)) => {
                self.deeper(|inner| inner.message(id.message(), &[]))?.unwrap_or(Value::Null)
            }
            (None, Type::Text | Type::Bytes) => "".into(),
            (None, Type::Boolean) => false.into(),
            (None, _) => 0.into(),
        };
        Ok((key, value))
    }

    fn value(
        &mut self,
        of: Type,
        wire: u8,
        reader: &mut Reader<'_>,
    ) -> Result<Option<Value>, Fault> {
        match of {
            Type::Message(id) => {
                let bytes = length_delimited(wire, reader)?;
                self.deeper(|inner| inner.message(id.message(), bytes))
            }
            scalar => self.scalar(scalar, wire, reader).map(Some),
        }
    }

    fn scalar(&mut self, of: Type, wire: u8, reader: &mut Reader<'_>) -> Result<Value, Fault> {
        let mut varint = || match wire {
            wire::VARINT => reader.varint(),
            _ => Err("wrong wireType"),
        };
        Ok(match of {
            Type::Boolean => (varint()? != 0).into(),
            // What does not fit is cut off, as protobuf wants it.
            Type::Int32 => (varint()? as i32).into(),
            Type::Int64 => varint()?.cast_signed().into(),
            Type::Double => match wire {
                wire::FIXED64 => double(f64::from_bits(reader.fixed64()?))?,
                _ => return Err("wrong wireType".into()),
            },
            Type::Text => text(length_delimited(wire, reader)?)?.into(),
            Type::Bytes => BASE64_STANDARD.encode(length_delimited(wire, reader)?).into(),
            Type::Message(_) => return Err("a message where a scalar belongs".into()),
        })
    }

    fn count(&mut self) -> Result<(), Fault> {
        self.values_left = self
            .values_left
            .checked_sub(1)
            .ok_or_else(|| Fault::new(format!("more than {VALUES_MAX} values")))?;
        Ok(())
    }

    pub fn deeper<T>(
        &mut self,
        act: impl FnOnce(&mut Decoder) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        self.depth_left = self
            .depth_left
            .checked_sub(1)
            .ok_or_else(|| Fault::new(format!("nested deeper than {DEPTH_MAX}")))?;
        let result = act(self);
        self.depth_left += 1;
        result
    }
}

/// A small message of known numbers, where each field's last value counts.
#[derive(Default)]
pub struct Plain<'a> {
    numbers: [u64; 5],
    bytes: [&'a [u8]; 5],
}

impl<'a> Plain<'a> {
    pub fn read(bytes: &'a [u8]) -> Result<Plain<'a>, Wrong> {
        let mut plain = Plain::default();
        let mut reader = Reader::new(bytes);
        while !reader.is_at_end() {
            let (number, wire) = reader.key()?;
            let at = number as usize;
            match wire {
                wire::VARINT if at < 5 => plain.numbers[at] = reader.varint()?,
                wire::BYTES if at < 5 => plain.bytes[at] = reader.bytes()?,
                _ => reader.skip(wire)?,
            }
        }
        Ok(plain)
    }

    pub fn number(&self, number: usize) -> i64 {
        self.numbers[number].cast_signed()
    }

    pub fn bytes(&self, number: usize) -> &'a [u8] {
        self.bytes[number]
    }

    pub fn text(&self, number: usize) -> Result<String, Wrong> {
        text(self.bytes[number])
    }
}

fn text(bytes: &[u8]) -> Result<String, Wrong> {
    str::from_utf8(bytes).map(str::to_owned).map_err(|_| "text that is not UTF-8")
}

fn length_delimited<'a>(wire: u8, reader: &mut Reader<'a>) -> Result<&'a [u8], Wrong> {
    if wire == wire::BYTES { reader.bytes() } else { Err("wrong wireType") }
}

fn is_packable(of: Type) -> bool {
    matches!(of, Type::Boolean | Type::Int32 | Type::Int64 | Type::Double)
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(value) => !value,
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
        _ => false,
    }
}

/// As Go writes it: without a fraction where there is none.
fn double(value: f64) -> Result<Value, Wrong> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() <= EXACT {
        return Ok((value as i64).into());
    }
    Number::from_f64(value).map(Value::Number).ok_or("a number that JSON cannot hold")
}

fn json(raw: &[u8]) -> Result<Option<Value>, Fault> {
    if raw.is_empty() {
        return Ok(None);
    }
    match serde_json::from_slice(raw) {
        Ok(Value::Null) => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(why) => Err(Fault::new(format!("embedded JSON: {why}"))),
    }
}

fn time(of: &Message, bytes: &[u8]) -> Result<Option<String>, Fault> {
    let plain = Plain::read(bytes)?;
    let (seconds, nanos) = (plain.number(1), plain.number(2) as i32);
    if bytes.is_empty() || (seconds == ZERO_TIME_SECONDS && nanos == 0) {
        return Ok(None);
    }
    let moment = jiff::Timestamp::new(seconds, nanos)
        .ok()
        .filter(|moment| moment.as_second() > ZERO_TIME_SECONDS)
        .ok_or("a time outside of the years 1 to 9999")?;
    let moment = Timestamp::from(moment);
    Ok(Some(match of.shape {
        Shape::MicroTime => moment.rfc3339_micros(),
        _ => moment.rfc3339(),
    }))
}
