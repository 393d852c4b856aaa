//! What may be asked of the road: one request, whichever way it came in.
//!
//! The HTTP front reads one from a URL, a controller builds one; authorization, admission and the pipeline see
//! only this.

use bytes::Bytes;
use serde_json::Value;

use crate::object::GroupVersionResource;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

impl Verb {
    /// As authorization rules name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
        }
    }
}

/// Who asks (`user.Info`). Made by authentication, or a name of our own for a part of the system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: Vec<(String, Vec<String>)>,
}

impl User {
    /// A part of the control plane: everything is allowed to it.
    #[must_use]
    pub fn system(name: &str) -> User {
        User {
            name: name.into(),
            groups: vec!["system:masters".into(), "system:authenticated".into()],
            ..User::default()
        }
    }
}

/// What is asked, and of what.
#[derive(Clone, Debug)]
pub struct Request {
    pub verb: Verb,
    pub resource: GroupVersionResource,
    pub subresource: Option<String>,
    /// Absent: cluster scope, or all namespaces.
    pub namespace: Option<String>,
    /// Absent for create, list, watch of many and deletecollection.
    pub name: Option<String>,
    pub options: Options,
    pub body: Body,
}

/// What came with the request.
#[derive(Clone, Debug, Default)]
pub enum Body {
    #[default]
    None,
    /// As a client sent it. An empty content type means JSON.
    Bytes { content_type: String, bytes: Bytes },
    /// From inside the process.
    Object(Value),
}

/// The query of a request (`GetOptions`, `ListOptions`, `CreateOptions`, … in one). Absent is absent: the road
/// decides what that means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub label_selector: Option<String>,
    pub field_selector: Option<String>,
    pub resource_version: Option<String>,
    pub resource_version_match: Option<String>,
    pub limit: Option<u64>,
    pub go_on: Option<String>,
    pub timeout_seconds: Option<u64>,
    pub allow_watch_bookmarks: bool,
    pub send_initial_events: Option<bool>,
    /// Anything but `All` is refused.
    pub dry_run: Vec<String>,
    pub field_manager: Option<String>,
    pub field_validation: Option<String>,
    pub force: Option<bool>,
    /// Of DeleteOptions, where they come in the query.
    pub grace_period_seconds: Option<i64>,
    pub propagation_policy: Option<String>,
    pub orphan_dependents: Option<bool>,
    /// The client's User-Agent: names the field manager where nothing else does.
    pub user_agent: String,
}
