//! One object at one revision: its bytes at rest, and the value decoded from them once, on demand.
//!
//! At rest the bytes are the object's JSON, opened by `{"kind":K,"apiVersion":A,"metadata":{`, everything else
//! in sorted order, without a resourceVersion: the revision of the key is it, and is spliced in on the way
//! out. So equal objects are equal bytes, and what was committed is what is served.

use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use kontiki_storage::append::append;
use kontiki_storage::record::KeyValue;
use kontiki_storage::revision::Revision;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};

use super::scan;
use crate::error::Status;

/// Cheap to clone; clones share the decoded value.
#[derive(Clone)]
pub struct Object(Arc<Inner>);

struct Inner {
    key: Bytes,
    rest: Bytes,
    created: Revision,
    revision: Revision,
    value: OnceLock<Result<Value, Status>>,
    json: OnceLock<Bytes>,
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Object({}@{})", String::from_utf8_lossy(&self.0.key), self.0.revision)
    }
}

impl From<KeyValue> for Object {
    fn from(kv: KeyValue) -> Object {
        Object::new(kv.key, kv.value, kv.created, kv.modified)
    }
}

impl Object {
    pub(crate) fn new(key: Bytes, rest: Bytes, created: Revision, revision: Revision) -> Object {
        let (value, json) = (OnceLock::new(), OnceLock::new());
        Object(Arc::new(Inner { key, rest, created, revision, value, json }))
    }

    /// The same bytes as of another revision: what a delete tells of an object that is gone.
    pub(crate) fn at(&self, revision: Revision) -> Object {
        Object::new(self.0.key.clone(), self.0.rest.clone(), self.0.created, revision)
    }

    /// With other bytes at the same revision: what is shown differs from what rests.
    pub(crate) fn resting_as(&self, rest: Bytes) -> Object {
        Object::new(self.0.key.clone(), rest, self.0.created, self.0.revision)
    }

    #[must_use]
    pub fn key(&self) -> &Bytes {
        &self.0.key
    }

    /// Its resourceVersion; zero for what was never stored (a dry run).
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.0.revision
    }

    /// The bytes as they are stored.
    #[must_use]
    pub fn at_rest(&self) -> &Bytes {
        &self.0.rest
    }

    /// The object with its resourceVersion. Fails only on bytes that this server has not written.
    pub fn value(&self) -> Result<&Value, Status> {
        let decode = || {
            let mut value: Value =
                serde_json::from_slice(&self.0.rest).map_err(|error| self.unreadable(error))?;
            let metadata = value.get_mut("metadata").and_then(Value::as_object_mut);
            let metadata = metadata.ok_or_else(|| self.unreadable("it has no metadata"))?;
            if self.0.revision != Revision::ZERO {
                metadata.insert("resourceVersion".into(), self.0.revision.to_string().into());
            }
            Ok(value)
        };
        self.0.value.get_or_init(decode).as_ref().map_err(Clone::clone)
    }

    /// The object's JSON with its resourceVersion, made once.
    pub fn json(&self) -> Result<Bytes, Status> {
        if let Some(json) = self.0.json.get() {
            return Ok(json.clone());
        }
        let mut out = Vec::with_capacity(self.0.rest.len() + 48);
        self.write_json(&mut out)?;
        Ok(self.0.json.get_or_init(|| out.into()).clone())
    }

    /// The same at the end of `out`, and kept nowhere.
    pub fn write_json(&self, out: &mut Vec<u8>) -> Result<(), Status> {
        let (head, tail) = self.parts()?;
        out.extend_from_slice(head);
        self.write_tail(tail, out);
        Ok(())
    }

    /// As an item of a list of a built-in type: without `kind` and `apiVersion`.
    pub fn write_item(&self, out: &mut Vec<u8>) -> Result<(), Status> {
        let (_, tail) = self.parts()?;
        out.extend_from_slice(b"{\"metadata\":{");
        self.write_tail(tail, out);
        Ok(())
    }

    /// The object's metadata alone, at the end of `out`.
    pub fn write_metadata(&self, out: &mut Vec<u8>) -> Result<(), Status> {
        let (head, _) = self.parts()?;
        let begin = head.len() - 1;
        let end = scan::value_end(&self.0.rest, begin);
        let end = end.ok_or_else(|| self.unreadable("its metadata does not end"))?;
        out.push(b'{');
        self.write_tail(&self.0.rest[head.len()..end], out);
        Ok(())
    }

    fn write_tail(&self, tail: &[u8], out: &mut Vec<u8>) {
        if self.0.revision == Revision::ZERO {
            append(out, tail);
            return;
        }
        out.extend_from_slice(b"\"resourceVersion\":\"");
        out.extend_from_slice(self.0.revision.to_string().as_bytes());
        out.push(b'"');
        if tail.first() != Some(&b'}') {
            out.push(b',');
        }
        append(out, tail);
    }

    /// The bytes up to and including `"metadata":{`, and those after.
    fn parts(&self) -> Result<(&[u8], &[u8]), Status> {
        const OPENING: &[u8] = b"\"metadata\":{";
        // Kind and version come first and are short; a longer way is not ours.
        let rest = &self.0.rest;
        let window = &rest[..rest.len().min(512)];
        let at = window.windows(OPENING.len()).position(|it| it == OPENING);
        match at {
            Some(at) if rest.starts_with(b"{\"kind\":") => Ok(rest.split_at(at + OPENING.len())),
            _ => Err(self.unreadable("it does not begin as objects do")),
        }
    }

    fn unreadable(&self, why: impl fmt::Display) -> Status {
        let key = String::from_utf8_lossy(&self.0.key);
        Status::internal(format!("the object stored at {key} cannot be read: {why}"))
    }
}

/// The bytes at rest of an object that has `kind`, `apiVersion` and `metadata`.
#[must_use]
pub fn encode(value: &Value) -> Bytes {
    let empty = Map::new();
    let fields = value.as_object().unwrap_or(&empty);
    let bytes = serde_json::to_vec(&Rest(fields));
    bytes.expect("values of JSON can be written as JSON").into()
}

struct Rest<'a>(&'a Map<String, Value>);

impl Serialize for Rest<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const FIRST: [&str; 2] = ["kind", "apiVersion"];
        let mut map = serializer.serialize_map(None)?;
        for name in FIRST {
            map.serialize_entry(name, &self.0.get(name).and_then(Value::as_str).unwrap_or(""))?;
        }
        map.serialize_entry("metadata", &Metadata(self.0.get("metadata")))?;
        let others = self.0.iter();
        for (name, value) in others
            .filter(|(name, _)| !FIRST.contains(&name.as_str()) && name.as_str() != "metadata")
        {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

struct Metadata<'a>(Option<&'a Value>);

impl Serialize for Metadata<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = self.0.and_then(Value::as_object).into_iter().flatten();
        serializer.collect_map(fields.filter(|(name, _)| name.as_str() != "resourceVersion"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn object(value: &Value, revision: u64) -> Object {
        Object::new("/k".into(), encode(value), Revision(2), Revision(revision))
    }

    #[test]
    fn the_revision_is_spliced_in_and_not_stored() {
        let value = json!({"kind": "ConfigMap", "apiVersion": "v1", "data": {"a": "b"},
            "metadata": {"name": "x", "resourceVersion": "9"}});
        let object = object(&value, 7);
        assert_eq!(
            object.at_rest(),
            r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"x"},"data":{"a":"b"}}"#
        );
        assert_eq!(
            object.json().unwrap(),
            "{\"kind\":\"ConfigMap\",\"apiVersion\":\"v1\",\"metadata\":{\"resourceVersion\":\"7\",\
             \"name\":\"x\"},\"data\":{\"a\":\"b\"}}"
        );
        let mut item = Vec::new();
        object.write_item(&mut item).unwrap();
        assert_eq!(
            String::from_utf8(item).unwrap(),
            "{\"metadata\":{\"resourceVersion\":\"7\",\"name\":\"x\"},\"data\":{\"a\":\"b\"}}"
        );
    }

    #[test]
    fn bytes_that_are_no_object_are_an_error() {
        let object = Object::new("/k".into(), "nothing".into(), Revision(2), Revision(2));
        assert!(object.value().is_err());
        assert!(object.json().is_err());
    }

    proptest! {
        #[test]
        fn spliced_bytes_and_decoded_value_say_the_same(
            labels in proptest::collection::btree_map("[a-z\"\\\\]{1,8}", ".{0,8}", 0..4),
            spec in ".{0,20}",
            revision in 1u64..u64::MAX,
        ) {
            let value = json!({"kind": "K", "apiVersion": "g/v1", "spec": spec,
                "metadata": {"labels": labels, "resourceVersion": "1"}});
            let object = object(&value, revision);
            let spliced: Value = serde_json::from_slice(&object.json().unwrap()).unwrap();
            prop_assert_eq!(&spliced, object.value().unwrap());
            prop_assert_eq!(&encode(&spliced), object.at_rest());
        }
    }
}
