//! A stored object as it is seen through a row.
//!
//! Mostly that is the bytes as they rest. It is a conversion where one object is served under several
//! versions or URLs, or where a custom resource's schema gives defaults that the stored one has not.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use kontiki_storage::revision::Revision;
use serde_json::{Map, Value};

use crate::error::Status;
use crate::kinds::Kind;
use crate::objects::{Object, object};

#[derive(Clone)]
pub struct Shown {
    kind: Arc<Kind>,
    object: Object,
    /// Where it is not what rests.
    converted: Option<Arc<Value>>,
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shown({} as {})", String::from_utf8_lossy(self.object.key()), self.kind.gvk())
    }
}

impl Shown {
    pub fn new(kind: &Arc<Kind>, object: Object) -> Result<Shown, Status> {
        let converted = if rests_so(kind, object.at_rest()) {
            None
        } else {
            Some(Arc::new(convert(kind, object.value()?.clone())))
        };
        Ok(Shown { kind: kind.clone(), object, converted })
    }

    #[must_use]
    pub fn kind(&self) -> &Arc<Kind> {
        &self.kind
    }

    #[must_use]
    pub fn revision(&self) -> Revision {
        self.object.revision()
    }

    #[must_use]
    pub fn stored(&self) -> &Object {
        &self.object
    }

    pub fn value(&self) -> Result<&Value, Status> {
        match &self.converted {
            Some(value) => Ok(value),
            None => self.object.value(),
        }
    }

    pub fn json(&self) -> Result<Bytes, Status> {
        match &self.converted {
            Some(value) => Ok(text(value).into()),
            None => self.object.json(),
        }
    }

    /// At the end of `out`, and kept nowhere.
    pub fn write_json(&self, out: &mut Vec<u8>) -> Result<(), Status> {
        match &self.converted {
            Some(value) => {
                out.extend_from_slice(&text(value));
                Ok(())
            }
            None => self.object.write_json(out),
        }
    }

    /// Its metadata alone, at the end of `out`.
    pub fn write_metadata(&self, out: &mut Vec<u8>) -> Result<(), Status> {
        match &self.converted {
            Some(value) => {
                let none = Value::Object(Map::new());
                out.extend_from_slice(&text(value.get("metadata").unwrap_or(&none)));
                Ok(())
            }
            None => self.object.write_metadata(out),
        }
    }

    /// The bytes that it rests in, where they are what is shown.
    #[must_use]
    pub fn at_rest(&self) -> Option<&Bytes> {
        self.converted.is_none().then(|| self.object.at_rest())
    }

    /// As an item of a list: built-in types leave out `kind` and `apiVersion`.
    pub fn write_item(&self, out: &mut Vec<u8>) -> Result<(), Status> {
        match &self.converted {
            _ if self.kind.custom => self.write_json(out),
            Some(value) => {
                let item = item(value);
                out.extend_from_slice(&text(&item));
                Ok(())
            }
            None => self.object.write_item(out),
        }
    }

    /// The value as an item of a list.
    pub fn item(&self) -> Result<Cow<'_, Value>, Status> {
        let value = self.value()?;
        Ok(if self.kind.custom { Cow::Borrowed(value) } else { Cow::Owned(item(value)) })
    }
}

fn item(value: &Value) -> Value {
    let mut item = value.clone();
    if let Some(fields) = item.as_object_mut() {
        fields.remove("kind");
        fields.remove("apiVersion");
    }
    item
}

fn text(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("values of JSON can be written as JSON")
}

/// Whether the bytes at rest are what the row shows.
fn rests_so(kind: &Kind, rest: &[u8]) -> bool {
    if kind.hooks.from_stored.is_some() || kind.hooks.defaults_on_read {
        return false;
    }
    // `{"kind":"K","apiVersion":"G/V",` piece by piece: this is asked for every event of every watch.
    let slash = if kind.group.is_empty() { "" } else { "/" };
    let pieces = [
        "{\"kind\":\"",
        &kind.kind,
        "\",\"apiVersion\":\"",
        &kind.group,
        slash,
        &kind.version,
        "\",",
    ];
    let behind = |rest: &'_ [u8], piece: &str| rest.strip_prefix(piece.as_bytes()).map(<[u8]>::len);
    let mut left = rest;
    for piece in pieces {
        match behind(left, piece) {
            Some(length) => left = &left[left.len() - length..],
            None => return false,
        }
    }
    true
}

/// A stored value under the row's version.
pub(super) fn convert(kind: &Kind, mut value: Value) -> Value {
    if let Some(from_stored) = kind.hooks.from_stored {
        from_stored(&mut value);
    }
    if let Some(fields) = value.as_object_mut() {
        fields.insert("kind".into(), kind.kind.as_ref().into());
        fields.insert("apiVersion".into(), kind.group_version().to_string().into());
    }
    if kind.hooks.defaults_on_read {
        super::body::complete(kind, &mut value);
    }
    value
}

/// The bytes at rest of a value in the row's version.
pub(super) fn to_rest(kind: &Kind, value: &Value) -> Bytes {
    let stored = &kind.stored;
    let is_stored_so = kind.hooks.to_stored.is_none()
        && (&kind.group, &kind.version, &kind.kind)
            == (&stored.group, &stored.version, &stored.kind)
        && value["kind"] == *kind.kind
        && value["apiVersion"] == *kind.group_version().to_string();
    if is_stored_so {
        object::encode(value)
    } else {
        object::encode(&to_stored(kind, value.clone()))
    }
}

/// The same back: what is to be stored of a value in the row's version.
pub(super) fn to_stored(kind: &Kind, mut value: Value) -> Value {
    if let Some(to_stored) = kind.hooks.to_stored {
        to_stored(&mut value);
    }
    if let Some(fields) = value.as_object_mut() {
        let stored = &kind.stored;
        let version = if stored.group.is_empty() {
            stored.version.to_string()
        } else {
            format!("{}/{}", stored.group, stored.version)
        };
        fields.insert("kind".into(), stored.kind.as_ref().into());
        fields.insert("apiVersion".into(), version.into());
    }
    value
}
