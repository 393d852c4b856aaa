//! The one error of the road: a Kubernetes `Status`.
//!
//! Clients match on `reason`, `code` and `details` as much as on the text, so each constructor here makes
//! all of them, in the words that upstream's clients know (apimachinery's `api/errors`).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::object::{GroupKind, GroupResource};

/// Why a request failed, as `reason` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reason {
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    NotAcceptable,
    AlreadyExists,
    Conflict,
    Gone,
    Expired,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    Invalid,
    TooManyRequests,
    InternalError,
    ServerTimeout,
    ServiceUnavailable,
    Timeout,
    /// No reason at all: the empty string.
    #[serde(rename = "")]
    Unknown,
}

impl Reason {
    #[must_use]
    pub fn code(self) -> u16 {
        match self {
            Reason::BadRequest => 400,
            Reason::Unauthorized => 401,
            Reason::Forbidden => 403,
            Reason::NotFound => 404,
            Reason::MethodNotAllowed => 405,
            Reason::NotAcceptable => 406,
            Reason::AlreadyExists | Reason::Conflict => 409,
            Reason::Gone | Reason::Expired => 410,
            Reason::RequestEntityTooLarge => 413,
            Reason::UnsupportedMediaType => 415,
            Reason::Invalid => 422,
            Reason::TooManyRequests => 429,
            Reason::InternalError | Reason::ServerTimeout | Reason::Unknown => 500,
            Reason::ServiceUnavailable => 503,
            Reason::Timeout => 504,
        }
    }
}

/// One thing that is wrong with an object: a cause of a `Status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cause {
    /// `FieldValueInvalid`, `FieldManagerConflict`, …
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// The resource, or for invalid objects the kind.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    #[serde(skip_serializing_if = "is_zero")]
    pub retry_after_seconds: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape serde asks for")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Why a request was not carried out. Boxed inside: it travels through every layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status(Box<Inner>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Inner {
    code: u16,
    reason: Reason,
    message: String,
    details: Option<Details>,
    /// `metadata.continue`, for a list that goes on at another revision.
    go_on: Option<String>,
}

impl Status {
    #[must_use]
    pub fn new(reason: Reason, message: impl Into<String>) -> Status {
        Status(Box::new(Inner {
            code: reason.code(),
            reason,
            message: message.into(),
            details: None,
            go_on: None,
        }))
    }

    #[must_use]
    pub fn with_details(mut self, details: Details) -> Status {
        self.0.details = Some(details);
        self
    }

    #[must_use]
    pub fn with_code(mut self, code: u16) -> Status {
        self.0.code = code;
        self
    }

    #[must_use]
    pub fn with_cause(mut self, cause: Cause) -> Status {
        self.0.details.get_or_insert_default().causes.push(cause);
        self
    }

    #[must_use]
    pub fn with_retry_after(mut self, seconds: u32) -> Status {
        self.0.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }

    #[must_use]
    pub fn with_continue(mut self, token: String) -> Status {
        self.0.go_on = Some(token);
        self
    }

    #[must_use]
    pub fn code(&self) -> u16 {
        self.0.code
    }

    #[must_use]
    pub fn reason(&self) -> Reason {
        self.0.reason
    }

    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    #[must_use]
    pub fn details(&self) -> Option<&Details> {
        self.0.details.as_ref()
    }

    #[must_use]
    pub fn is(&self, reason: Reason) -> bool {
        self.0.reason == reason
    }

    fn about(reason: Reason, of: &GroupResource, name: &str, message: String) -> Status {
        Status::new(reason, message).with_details(Details {
            name: name.into(),
            group: of.group.clone(),
            kind: of.resource.clone(),
            ..Details::default()
        })
    }

    #[must_use]
    pub fn not_found(of: &GroupResource, name: &str) -> Status {
        Status::about(Reason::NotFound, of, name, format!("{of} \"{name}\" not found"))
    }

    #[must_use]
    pub fn already_exists(of: &GroupResource, name: &str) -> Status {
        Status::about(Reason::AlreadyExists, of, name, format!("{of} \"{name}\" already exists"))
    }

    #[must_use]
    pub fn conflict(of: &GroupResource, name: &str, why: &str) -> Status {
        let message = format!("Operation cannot be fulfilled on {of} \"{name}\": {why}");
        Status::about(Reason::Conflict, of, name, message)
    }

    /// The object changed since it was read.
    #[must_use]
    pub fn modified(of: &GroupResource, name: &str) -> Status {
        Status::conflict(
            of,
            name,
            "the object has been modified; please apply your changes to the latest version and \
             try again",
        )
    }

    #[must_use]
    pub fn forbidden(of: &GroupResource, name: &str, why: &str) -> Status {
        let message = if name.is_empty() {
            format!("{of} is forbidden: {why}")
        } else {
            format!("{of} \"{name}\" is forbidden: {why}")
        };
        Status::about(Reason::Forbidden, of, name, message)
    }

    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Status {
        Status::new(Reason::BadRequest, message)
    }

    #[must_use]
    pub fn unauthorized() -> Status {
        Status::new(Reason::Unauthorized, "Unauthorized")
    }

    #[must_use]
    pub fn internal(why: impl fmt::Display) -> Status {
        let why = why.to_string();
        Status::new(Reason::InternalError, format!("Internal error occurred: {why}"))
            .with_cause(Cause { message: why, ..Cause::default() })
    }

    #[must_use]
    pub fn expired(message: impl Into<String>) -> Status {
        Status::new(Reason::Expired, message)
    }

    #[must_use]
    pub fn method_not_allowed(of: &GroupResource, action: &str) -> Status {
        let message = format!("{action} is not supported on resources of kind \"{of}\"");
        Status::about(Reason::MethodNotAllowed, of, "", message)
    }

    /// An object that breaks rules of its kind. `causes` must not be empty.
    #[must_use]
    pub fn invalid(of: &GroupKind, name: &str, causes: Vec<Cause>) -> Status {
        let kind =
            if of.group.is_empty() { of.kind.clone() } else { format!("{}.{}", of.kind, of.group) };
        let one = |cause: &Cause| {
            if cause.field.is_empty() {
                cause.message.clone()
            } else {
                format!("{}: {}", cause.field, cause.message)
            }
        };
        let text = match causes.as_slice() {
            [cause] => one(cause),
            several => format!("[{}]", several.iter().map(one).collect::<Vec<_>>().join(", ")),
        };
        Status::new(Reason::Invalid, format!("{kind} \"{name}\" is invalid: {text}")).with_details(
            Details {
                name: name.into(),
                group: of.group.clone(),
                kind: of.kind.clone(),
                causes,
                ..Details::default()
            },
        )
    }

    #[must_use]
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Status {
        Status::new(Reason::TooManyRequests, message).with_retry_after(retry_after_seconds)
    }

    /// The object clients get, as JSON.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let inner = &self.0;
        let mut metadata = serde_json::Map::new();
        if let Some(token) = &inner.go_on {
            metadata.insert("continue".into(), token.clone().into());
        }
        let mut status = serde_json::json!({
            "kind": "Status", "apiVersion": "v1", "metadata": metadata,
            "status": "Failure", "message": inner.message, "code": inner.code,
        });
        if inner.reason != Reason::Unknown {
            status["reason"] = serde_json::json!(inner.reason);
        }
        if let Some(details) = &inner.details {
            status["details"] = serde_json::json!(details);
        }
        status
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_object_is_told_as_clients_expect_it() {
        let status = Status::not_found(&GroupResource::new("apps", "deployments"), "web");
        assert_eq!(
            status.to_json(),
            serde_json::json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "deployments.apps \"web\" not found", "reason": "NotFound", "code": 404,
                "details": {"name": "web", "group": "apps", "kind": "deployments"},
            })
        );
    }

    #[test]
    fn several_causes_of_an_invalid_object_are_listed() {
        let cause = |field: &str| Cause {
            reason: "FieldValueRequired".into(),
            message: "Required value".into(),
            field: field.into(),
        };
        let kind = GroupKind { group: String::new(), kind: "Pod".into() };
        let status = Status::invalid(&kind, "p", vec![cause("spec.a"), cause("spec.b")]);
        assert_eq!(
            status.message(),
            "Pod \"p\" is invalid: [spec.a: Required value, spec.b: Required value]"
        );
        assert_eq!(status.code(), 422);
    }
}
