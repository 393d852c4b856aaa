//! Bytes from a client become a value that has the shape of its type, in one pass.
//!
//! Built-in types come out as upstream writes them after reading them into Go structures: unknown fields and
//! nulls are gone, zero values are there or not as [`Presence`] says, quantities and times are in their one
//! form. A value of the wrong type is an error in the words of Go's decoder. Custom resources keep nulls and
//! wrong types, which their validation tells the client about; unknown fields are pruned.
//!
//! What strict field validation complains of (unknown and duplicate fields) is only noted here, in the order
//! in which it was found: whether it is an error, a warning or nothing is the request's choice.

mod input;
mod leaf;
mod place;

use serde::de::DeserializeSeed;
use serde_json::Value;

use super::{Form, Node};
use place::{Context, Place};

/// As much as upstream accepts in a body.
pub const BODY_BYTES_MAX: usize = 3 * 1024 * 1024;

/// As many complaints as upstream keeps.
const COMPLAINTS_MAX: usize = 100;

/// A value in the shape of its type.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decoded {
    pub value: Value,
    /// `unknown field "spec.foo"`, `duplicate field "spec.replicas"`, …: what a strict request is refused for.
    pub strict: Vec<String>,
}

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    Json,
    Yaml,
}

impl Decoded {
    /// What a strict request is refused with, after `… cannot be handled as a …: `.
    #[must_use]
    pub fn strict_error(&self) -> Option<String> {
        let all = self.strict.join(", ");
        (!all.is_empty()).then(|| format!("strict decoding error: {all}"))
    }
}

/// Reads an object of a built-in type, or of a custom one if `node` is a custom resource's.
///
/// # Errors
/// In the words that upstream says after `… cannot be handled as a …: `, a 400 for the client.
pub fn decode(node: &Node, syntax: Syntax, bytes: &[u8]) -> Result<Decoded, String> {
    if bytes.len() > BODY_BYTES_MAX {
        return Err(format!("the body is larger than {BODY_BYTES_MAX} bytes"));
    }
    match syntax {
        Syntax::Json => input::json(bytes, |deserializer, context| {
            Place::root(node, context).deserialize(deserializer)
        }),
        Syntax::Yaml => input::yaml(bytes, node),
    }
}

/// Gives a value the shape of its type: after a patch, or for an object from inside the process.
///
/// # Errors
/// As [`decode`].
pub fn reshape(node: &Node, value: Value) -> Result<Decoded, String> {
    let mut context = Context::default();
    let read = Place::root(node, &mut context).deserialize(value);
    context.finish(read.map_err(|error| error.to_string()))
}

/// Reads any JSON or YAML whatever its type: patches, and objects whose type is not known yet.
///
/// # Errors
/// As [`decode`].
pub fn decode_any(syntax: Syntax, bytes: &[u8]) -> Result<Decoded, String> {
    const ANY: &Node = &Node {
        form: Form::Any,
        nullable: true,
        preserve_unknown: true,
        embedded: false,
        default: None,
        rules: None,
    };
    decode(ANY, syntax, bytes)
}

/// Whether a value is the zero value of its type in Go: empty, 0 or false.
#[must_use]
pub fn is_zero(value: &Value) -> bool {
    leaf::is_zero(value)
}

#[cfg(test)]
mod tests;
