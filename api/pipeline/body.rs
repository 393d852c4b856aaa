//! What a client sent becomes an object in the shape of its type, with defaults.

use bytes::Bytes;
use serde_json::Value;

use super::options::Validation;
use crate::codec;
use crate::error::{Cause, Reason, Status};
use crate::kinds::Kind;
use crate::object::{GroupVersionKind, meta};
use crate::request::Body;
use crate::schema::decode::{self as schema, Syntax};

/// An object, and what the client should be told of it.
pub(super) struct Decoded {
    pub value: Value,
    pub warnings: Vec<String>,
}

/// The object of a create or an update.
pub(super) fn decode(kind: &Kind, body: &Body, how: Validation) -> Result<Decoded, Status> {
    let gvk = kind.gvk();
    let read = read(&kind.schema, &gvk, body)?;
    check_type(kind, &read.value)?;
    finish(kind, read, how)
}

/// What a patch made of an object: it must still have the shape of its type.
pub(super) fn check(kind: &Kind, value: Value, how: Validation) -> Result<Decoded, Status> {
    let read = schema::reshape(&kind.schema, value).map_err(|why| unfit(&kind.gvk(), &why))?;
    check_type(kind, &read.value)?;
    finish(kind, read, how)
}

/// What is applied: it is only a part of an object, so nothing is filled in.
pub(super) fn check_applied(
    kind: &Kind,
    value: &Value,
    how: Validation,
) -> Result<Decoded, Status> {
    let read = schema::reshape(&kind.schema, value.clone());
    let read = read.map_err(|why| unfit(&kind.gvk(), &why))?;
    let warnings = complaints(kind, &read.strict, how)?;
    Ok(Decoded { value: value.clone(), warnings })
}

/// The kind of a subresource that is not its parent's, with upstream's name of its type.
pub(super) struct Foreign {
    group: &'static str,
    kind: &'static str,
    type_name: &'static str,
}

pub(super) const SCALE: Foreign =
    Foreign { group: "autoscaling", kind: "Scale", type_name: "io.k8s.api.autoscaling.v1.Scale" };
pub(super) const EVICTION: Foreign =
    Foreign { group: "policy", kind: "Eviction", type_name: "io.k8s.api.policy.v1.Eviction" };
pub(super) const BINDING: Foreign =
    Foreign { group: "", kind: "Binding", type_name: "io.k8s.api.core.v1.Binding" };
pub(super) const TOKEN_REQUEST: Foreign = Foreign {
    group: "authentication.k8s.io",
    kind: "TokenRequest",
    type_name: "io.k8s.api.authentication.v1.TokenRequest",
};

impl Foreign {
    pub(super) fn schema(&self) -> crate::schema::Node {
        crate::schema::Node::named(self.type_name)
    }

    /// The body of its subresource.
    pub(super) fn decode(&self, body: &Body) -> Result<Value, Status> {
        let gvk = GroupVersionKind::new(self.group, "v1", self.kind);
        let mut value = read(&self.schema(), &gvk, body)?.value;
        if let Some(fields) = value.as_object_mut() {
            fields.insert("kind".into(), self.kind.into());
            fields.insert("apiVersion".into(), gvk.group_version().to_string().into());
        }
        Ok(value)
    }
}

/// DeleteOptions: those of any group will do.
pub(super) fn decode_options(body: &Body) -> Result<Value, Status> {
    match body {
        Body::None => Ok(Value::Null),
        Body::Object(value) => Ok(value.clone()),
        Body::Bytes { content_type, bytes } => {
            let gvk = GroupVersionKind::new("", "v1", "DeleteOptions");
            match media(content_type, bytes) {
                Some(Media::Protobuf) => Ok(codec::decode(bytes, Some(&gvk))?.value),
                Some(Media::Text(syntax)) => {
                    let read = schema::decode_any(syntax, bytes);
                    Ok(read.map_err(|why| unfit(&gvk, &why))?.value)
                }
                None => Err(unknown_format()),
            }
        }
    }
}

/// A patch's body: one object, whatever is in it.
pub(super) fn read_object(bytes: &Bytes) -> Result<Value, Status> {
    let refused = |why: &str| Status::bad_request(format!("error decoding patch: {why}"));
    let read = schema::decode_any(Syntax::Json, bytes).map_err(|why| refused(&why))?;
    if read.value.is_object() {
        Ok(read.value)
    } else {
        Err(refused("json: cannot unmarshal a value that is no object"))
    }
}

/// An applied configuration, in YAML or JSON.
pub(super) fn read_applied(bytes: &Bytes, how: Validation) -> Result<(Value, Vec<String>), Status> {
    let refused = |why: &str| Status::bad_request(format!("error decoding YAML: {why}"));
    let read = schema::decode_any(Syntax::Yaml, bytes).map_err(|why| refused(&why))?;
    if !read.value.is_object() {
        return Err(refused("the configuration is no object"));
    }
    match how {
        Validation::Strict if !read.strict.is_empty() => Err(refused(&read.strict.join(", "))),
        Validation::Warn => Ok((read.value, read.strict)),
        Validation::Strict | Validation::Ignore => Ok((read.value, Vec::new())),
    }
}

enum Media {
    Protobuf,
    Text(Syntax),
}

fn media(content_type: &str, bytes: &[u8]) -> Option<Media> {
    match content_type.split(';').next().unwrap_or_default().trim() {
        "" if codec::is_enveloped(bytes) => Some(Media::Protobuf),
        "" | "application/json" => Some(Media::Text(Syntax::Json)),
        "application/yaml" => Some(Media::Text(Syntax::Yaml)),
        "application/vnd.kubernetes.protobuf" => Some(Media::Protobuf),
        _ => None,
    }
}

fn unknown_format() -> Status {
    Status::new(
        Reason::UnsupportedMediaType,
        "the body of the request was in an unknown format - accepted media types include: \
         application/json, application/yaml, application/vnd.kubernetes.protobuf",
    )
}

fn read(
    node: &crate::schema::Node,
    gvk: &GroupVersionKind,
    body: &Body,
) -> Result<schema::Decoded, Status> {
    let read = match body {
        Body::None => Err("the body is empty".into()),
        Body::Object(value) => schema::reshape(node, value.clone()),
        Body::Bytes { content_type, bytes } => match media(content_type, bytes) {
            Some(Media::Protobuf) => schema::reshape(node, codec::decode(bytes, Some(gvk))?.value),
            Some(Media::Text(syntax)) => schema::decode(node, syntax, bytes),
            None => return Err(unknown_format()),
        },
    };
    read.map_err(|why| unfit(gvk, &why))
}

fn unfit(gvk: &GroupVersionKind, why: &str) -> Status {
    let (kind, version) = (&gvk.kind, &gvk.version);
    Status::bad_request(format!(
        "{kind} in version \"{version}\" cannot be handled as a {kind}: {why}"
    ))
}

/// What the object says it is.
fn check_type(kind: &Kind, value: &Value) -> Result<(), Status> {
    let expected = kind.group_version().to_string();
    let (version, name) = (meta::text(value, &["apiVersion"]), meta::text(value, &["kind"]));
    if kind.custom {
        if name.is_empty() {
            return Err(Status::bad_request("Object 'Kind' is missing"));
        }
        if version.is_empty() {
            return Err(Status::bad_request("Object 'apiVersion' is missing"));
        }
    }
    if !version.is_empty() && version != expected {
        return Err(Status::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version \
             ({expected})"
        )));
    }
    if !name.is_empty() && name != kind.kind.as_ref() {
        let shown = &kind.version;
        return Err(Status::bad_request(format!(
            "{name} in version \"{shown}\" cannot be handled as a {}: it is another kind",
            kind.kind
        )));
    }
    Ok(())
}

fn finish(kind: &Kind, read: schema::Decoded, how: Validation) -> Result<Decoded, Status> {
    let warnings = complaints(kind, &read.strict, how)?;
    let mut value = read.value;
    if let Some(fields) = value.as_object_mut() {
        fields.insert("kind".into(), kind.kind.as_ref().into());
        fields.insert("apiVersion".into(), kind.group_version().to_string().into());
    }
    default(kind, &mut value);
    Ok(Decoded { value, warnings })
}

/// Unknown and duplicate fields: refused, told, or passed over.
fn complaints(kind: &Kind, strict: &[String], how: Validation) -> Result<Vec<String>, Status> {
    match how {
        Validation::Ignore => Ok(Vec::new()),
        Validation::Warn => Ok(strict.to_vec()),
        Validation::Strict if strict.is_empty() => Ok(Vec::new()),
        Validation::Strict => {
            let why = format!("strict decoding error: {}", strict.join(", "));
            Err(if kind.custom { Status::bad_request(why) } else { unfit(&kind.gvk(), &why) })
        }
    }
}

/// Fills in what is absent.
pub(super) fn default(kind: &Kind, value: &mut Value) {
    crate::schema::defaults::apply(&kind.schema, value);
    if let Some(default) = kind.hooks.default {
        default(value);
    }
}

/// A stored custom resource in the shape that its schema has by now.
pub(super) fn complete(kind: &Kind, value: &mut Value) {
    if let Ok(read) = schema::reshape(&kind.schema, value.take()) {
        *value = read.value;
    }
    crate::schema::defaults::apply(&kind.schema, value);
}

/// Value rules of the schema itself.
pub(super) fn check_schema(kind: &Kind, value: &Value) -> Vec<Cause> {
    if kind.custom {
        crate::schema::validate::validate(&kind.schema, value, "")
    } else {
        Vec::new()
    }
}
