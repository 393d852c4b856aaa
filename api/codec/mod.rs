//! Kubernetes' protobuf, `application/vnd.kubernetes.protobuf`: one reader and one writer for all built-in
//! types, driven by a table of facts (`table.rs`, `fields.txt`).
//!
//! Bodies are an envelope: `k8s\0`, then `runtime.Unknown`, which names the kind and holds the message.
//! Custom resources have no protobuf; [`knows`] tells.
//!
//! ```text
//! 6b 38 73 00 | 1: TypeMeta {1: apiVersion, 2: kind} | 2: the message | 3: contentEncoding | 4: contentType
//! ```
//!
//! Keeps: what is decoded equals the JSON of the same Go value, without its nulls; what is encoded equals
//! Go's bytes. Never: code for one type.

mod decode;
mod encode;
mod table;
mod wire;

use serde_json::{Map, Value};

use self::decode::{Decoder, Fault, Plain};
use self::encode::Misfit;
use crate::Status;
use crate::object::GroupVersionKind;

const PREFIX: &[u8] = b"k8s\0";

/// What an envelope held.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    pub api_version: String,
    pub kind: String,
    /// The object, `apiVersion` and `kind` included.
    pub value: Value,
}

/// Whether the kind has a protobuf form at all.
#[must_use]
pub fn knows(api_version: &str, kind: &str) -> bool {
    table::of_kind(api_version, kind).is_some()
}

#[must_use]
pub fn is_enveloped(bytes: &[u8]) -> bool {
    bytes.starts_with(PREFIX)
}

/// Reads a body. `expected` is what it is taken for where the envelope does not name its kind.
pub fn decode(bytes: &[u8], expected: Option<&GroupVersionKind>) -> Result<Decoded, Status> {
    open(bytes, expected, &mut Decoder::default()).map_err(|fault| {
        let at = fault.path.iter().rev().copied().collect::<Vec<_>>().join(".");
        let at = if at.is_empty() { at } else { format!(" at {at}") };
        Status::bad_request(format!("the body cannot be decoded as protobuf{at}: {}", fault.wrong))
    })
}

fn open(
    bytes: &[u8],
    expected: Option<&GroupVersionKind>,
    decoder: &mut Decoder,
) -> Result<Decoded, Fault> {
    let Some(envelope) = bytes.strip_prefix(PREFIX) else {
        return Err(Fault::from(
            "provided data does not appear to be a protobuf message, expected prefix \
             [107 56 115 0]",
        ));
    };
    let envelope = Plain::read(envelope)?;
    let names = Plain::read(envelope.bytes(1))?;
    let (mut api_version, mut kind) = (names.text(1)?, names.text(2)?);
    if let Some(expected) = expected {
        if api_version.is_empty() {
            api_version = expected.group_version().to_string();
        }
        if kind.is_empty() {
            kind.clone_from(&expected.kind);
        }
    }
    if !envelope.bytes(3).is_empty() {
        return Err(Fault::from("a content encoding is not supported"));
    }
    let Some(message) = table::of_kind(&api_version, &kind) else {
        return Err(Fault {
            wrong: format!("no kind \"{kind}\" is registered for version \"{api_version}\""),
            ..Fault::default()
        });
    };
    let mut value = decoder.object(message, envelope.bytes(2))?;
    value.insert("apiVersion".into(), api_version.clone().into());
    value.insert("kind".into(), kind.clone().into());
    Ok(Decoded { api_version, kind, value: Value::Object(value) })
}

/// Writes an object or a list by the `apiVersion` and `kind` it carries.
pub fn encode(value: &Value) -> Result<Vec<u8>, Status> {
    let mut out = Vec::new();
    seal(value, &mut out)?;
    Ok(out)
}

/// One frame of a watch: four bytes of length, big-endian, then a `WatchEvent` whose object is an envelope.
pub fn encode_event(event_type: &str, object: &Value) -> Result<Vec<u8>, Status> {
    let mut out = vec![0; 4];
    wire::put_bytes(&mut out, 1, event_type.as_bytes());
    wire::put_nested(&mut out, 2, |out| wire::put_nested(out, 1, |out| seal(object, out)))?;
    let length = u32::try_from(out.len() - 4)
        .map_err(|_| Status::internal("an event of more than 4 GiB cannot be sent"))?;
    out[..4].copy_from_slice(&length.to_be_bytes());
    Ok(out)
}

fn seal(value: &Value, out: &mut Vec<u8>) -> Result<(), Status> {
    let name = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (name("apiVersion"), name("kind"));
    let empty = Map::new();
    let fields = value.as_object().unwrap_or(&empty);
    let Some(message) = table::of_kind(api_version, kind) else {
        return Err(Status::internal(format!("{api_version}, Kind={kind} has no protobuf form")));
    };
    out.extend_from_slice(PREFIX);
    wire::put_nested(out, 1, |out| {
        wire::put_bytes(out, 1, api_version.as_bytes());
        wire::put_bytes(out, 2, kind.as_bytes());
        Ok::<_, Misfit>(())
    })
    .and_then(|()| wire::put_nested(out, 2, |out| encode::object(message, fields, out)))
    .map_err(|misfit| {
        let at = misfit.path.iter().rev().map(String::as_str).collect::<Vec<_>>().join(".");
        let expected = misfit.expected;
        Status::internal(format!(
            "{api_version}, Kind={kind} cannot be written as protobuf: {at} is not {expected}"
        ))
    })?;
    wire::put_bytes(out, 3, b"");
    wire::put_bytes(out, 4, b"");
    Ok(())
}

#[cfg(test)]
mod tests;
