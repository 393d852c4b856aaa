//! How the rest of the house speaks to the API: typed calls over one transport.
//!
//! In the process of a master the transport is the road itself, in another process it is HTTPS to an API
//! server; controllers, scheduler and tests cannot tell them apart. Types are `k8s-openapi`'s;
//! [`Client::call`] takes any resource as plain values.
//!
//! Never: knows storage or raft, retries a write whose fate is unknown, keeps a copy of what it read.

pub(crate) mod connection;
pub mod https;

use std::borrow::Cow;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{Stream, StreamExt};
use k8s_openapi::{ListableResource, Metadata, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::error::{Reason, Status};
use crate::object::GroupVersionResource;
use crate::objects::scan;
use crate::request::{Body, Options, Request, Verb};

/// Carries requests of one identity.
pub trait Transport: Send + Sync + 'static {
    /// Answers with the JSON of an object, a list or a Status.
    fn call(&self, request: Request) -> BoxFuture<'static, Result<Bytes, Status>>;

    /// Opens a watch. The stream ends when the server ends it; an error event is its last item.
    fn watch(&self, request: Request) -> BoxFuture<'static, Result<Events, Status>>;

    /// All resources that are served now, with what can be done with each: (resource, namespaced, verbs).
    fn resources(&self) -> BoxFuture<'static, Result<Vec<Served>, Status>>;
}

/// A resource as discovery tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    pub resource: GroupVersionResource,
    pub kind: String,
    pub namespaced: bool,
    pub verbs: Vec<String>,
    /// The version that its group prefers.
    pub preferred: bool,
}

/// Raw events of a watch.
pub type Events = Pin<Box<dyn Stream<Item = Result<Event, Status>> + Send>>;

/// One event: the object is its JSON, decoded by who wants it.
#[derive(Clone, Debug)]
pub struct Event {
    pub kind: EventKind,
    pub object: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Added,
    Modified,
    Deleted,
    Bookmark,
}

/// One event of a watch on a typed resource.
#[derive(Clone, Debug)]
pub enum Change<K> {
    Added(K),
    Modified(K),
    Deleted(K),
    /// Everything up to this resourceVersion was sent; `initial` ends the first state of a watch that asked for
    /// it (`k8s.io/initial-events-end`).
    Bookmark {
        resource_version: String,
        initial: bool,
    },
}

/// A type that can be asked for.
pub trait Typed:
    Resource
    + Metadata<Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
}

impl<K> Typed for K where
    K: Resource
        + Metadata<Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>
        + Serialize
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

/// A list with the revision it was read at.
#[derive(Clone, Debug)]
pub struct Listing<K> {
    pub items: Vec<K>,
    pub resource_version: String,
    pub go_on: Option<String>,
}

/// How a patch is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    Json,
    Merge,
    Strategic,
    Apply,
}

impl PatchKind {
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            PatchKind::Json => "application/json-patch+json",
            PatchKind::Merge => "application/merge-patch+json",
            PatchKind::Strategic => "application/strategic-merge-patch+json",
            PatchKind::Apply => "application/apply-patch+yaml",
        }
    }
}

/// What a delete asks for besides the name.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeleteOptions {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub propagation_policy: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preconditions: Option<Preconditions>,
}

#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Preconditions {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
}

/// Speaks to the API under one name. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
    /// Names the field manager and the author of events.
    name: Arc<str>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.name)
    }
}

/// The resource that a type is served under.
#[must_use]
pub fn resource_of<K: Resource + ListableResource>() -> GroupVersionResource {
    GroupVersionResource::new(K::GROUP, K::VERSION, K::URL_PATH_SEGMENT)
}

impl Client {
    #[must_use]
    pub fn new(transport: Arc<dyn Transport>, name: &str) -> Client {
        Client { transport, name: name.into() }
    }

    /// The same transport under another name.
    #[must_use]
    pub fn named(&self, name: &str) -> Client {
        Client { transport: self.transport.clone(), name: name.into() }
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Any request; the answer is the JSON as the server made it.
    pub async fn call(&self, request: Request) -> Result<Bytes, Status> {
        self.transport.call(self.signed(request)).await
    }

    /// With the client's name, where it has no other.
    fn signed(&self, mut request: Request) -> Request {
        if request.options.user_agent.is_empty() {
            request.options.user_agent = self.name.to_string();
        }
        request
    }

    pub async fn resources(&self) -> Result<Vec<Served>, Status> {
        self.transport.resources().await
    }

    pub async fn watch_raw(&self, request: Request) -> Result<Events, Status> {
        self.transport.watch(self.signed(request)).await
    }

    /// `namespace` is empty for what has none.
    pub async fn get<K: Typed + ListableResource>(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<K, Status> {
        decode(&self.call(self.request::<K>(Verb::Get, namespace, name)).await?)
    }

    pub async fn list<K: Typed + ListableResource>(
        &self,
        namespace: &str,
        options: Options,
    ) -> Result<Listing<K>, Status> {
        let request = Request { options, ..self.request::<K>(Verb::List, namespace, "") };
        let mut list: Value = decode(&self.call(request).await?)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let resource_version = text(&list["metadata"]["resourceVersion"]);
        let go_on = Some(text(&list["metadata"]["continue"])).filter(|token| !token.is_empty());
        let items = serde_json::from_value(list["items"].take()).map_err(unreadable)?;
        Ok(Listing { items, resource_version, go_on })
    }

    /// Every change since `options.resource_version`, or with `send_initial_events` the state first.
    pub async fn watch<K: Typed + ListableResource>(
        &self,
        namespace: &str,
        options: Options,
    ) -> Result<impl Stream<Item = Result<Change<K>, Status>> + Send + use<K>, Status> {
        let request = Request { options, ..self.request::<K>(Verb::Watch, namespace, "") };
        let events = self.watch_raw(request).await?;
        Ok(events.map(|event| event.and_then(|event| change(event.kind, &event.object))))
    }

    /// The same without `managedFields`, which are a third of an object's bytes and the most costly to read.
    pub async fn watch_bare<K: Typed + ListableResource>(
        &self,
        namespace: &str,
        options: Options,
    ) -> Result<impl Stream<Item = Result<Change<K>, Status>> + Send + use<K>, Status> {
        let request = Request { options, ..self.request::<K>(Verb::Watch, namespace, "") };
        let events = self.watch_raw(request).await?;
        Ok(events.map(|event| event.and_then(|event| change(event.kind, &bare(&event.object)))))
    }

    /// The namespace is the object's own.
    pub async fn create<K: Typed + ListableResource>(&self, object: &K) -> Result<K, Status> {
        let meta = object.metadata();
        let namespace = meta.namespace.clone().unwrap_or_default();
        let request = self.request::<K>(Verb::Create, &namespace, "");
        self.send(request, object).await
    }

    /// Replaces the object; with its resourceVersion only if nothing changed since.
    pub async fn update<K: Typed + ListableResource>(&self, object: &K) -> Result<K, Status> {
        self.send(self.request_for(Verb::Update, object), object).await
    }

    pub async fn update_status<K: Typed + ListableResource>(
        &self,
        object: &K,
    ) -> Result<K, Status> {
        let mut request = self.request_for(Verb::Update, object);
        request.subresource = Some("status".into());
        self.send(request, object).await
    }

    pub async fn patch<K: Typed + ListableResource>(
        &self,
        namespace: &str,
        name: &str,
        kind: PatchKind,
        patch: &Value,
        subresource: Option<&str>,
    ) -> Result<K, Status> {
        let request = self.patch_request::<K>(namespace, name, kind, patch, subresource);
        decode(&self.call(request).await?)
    }

    /// The request of a patch, for who does not read what comes back.
    #[must_use]
    pub fn patch_request<K: Typed + ListableResource>(
        &self,
        namespace: &str,
        name: &str,
        kind: PatchKind,
        patch: &Value,
        subresource: Option<&str>,
    ) -> Request {
        let mut request = self.request::<K>(Verb::Patch, namespace, name);
        request.subresource = subresource.map(str::to_owned);
        request.options.field_manager = Some(self.name.to_string());
        request.options.force = (kind == PatchKind::Apply).then_some(true);
        request.body = Body::Bytes {
            content_type: kind.content_type().into(),
            bytes: patch.to_string().into(),
        };
        request
    }

    /// Deletes, or begins to. What is gone already is an error of reason `NotFound`.
    pub async fn delete<K: Typed + ListableResource>(
        &self,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<(), Status> {
        let mut request = self.request::<K>(Verb::Delete, namespace, name);
        let mut body = json!(options);
        body["kind"] = "DeleteOptions".into();
        body["apiVersion"] = "v1".into();
        request.body = Body::Object(body);
        self.call(request).await.map(drop)
    }

    /// A create of a subresource (`binding`, `eviction`, `token`).
    pub async fn create_subresource<K: Typed + ListableResource>(
        &self,
        namespace: &str,
        name: &str,
        subresource: &str,
        body: Value,
    ) -> Result<Bytes, Status> {
        let mut request = self.request::<K>(Verb::Create, namespace, name);
        request.subresource = Some(subresource.into());
        request.body = Body::Object(body);
        self.call(request).await
    }

    /// A request of this client's on a type, with nothing said yet but where.
    #[must_use]
    pub fn request<K: Resource + ListableResource>(
        &self,
        verb: Verb,
        namespace: &str,
        name: &str,
    ) -> Request {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Request {
            verb,
            resource: resource_of::<K>(),
            subresource: None,
            namespace: some(namespace),
            name: some(name),
            options: Options { user_agent: self.name.to_string(), ..Options::default() },
            body: Body::None,
        }
    }

    fn request_for<K: Typed + ListableResource>(&self, verb: Verb, object: &K) -> Request {
        let meta = object.metadata();
        self.request::<K>(
            verb,
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default(),
        )
    }

    async fn send<K: Typed>(&self, mut request: Request, object: &K) -> Result<K, Status> {
        request.body = Body::Object(serde_json::to_value(object).map_err(unreadable)?);
        decode(&self.call(request).await?)
    }
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Status> {
    serde_json::from_slice(bytes).map_err(unreadable)
}

#[expect(clippy::needless_pass_by_value, reason = "it stands in map_err")]
fn unreadable(error: serde_json::Error) -> Status {
    Status::new(Reason::InternalError, format!("an object of the API cannot be read: {error}"))
}

/// The bytes of an object with nothing in its managedFields. Where those are not found the bytes stay as
/// they are.
fn bare(object: &[u8]) -> Cow<'_, [u8]> {
    let Some(books) = scan::find(object, ["metadata", "managedFields"]) else {
        return Cow::Borrowed(object);
    };
    let begin = books.as_ptr() as usize - object.as_ptr() as usize;
    let rest = &object[begin + books.len()..];
    Cow::Owned([&object[..begin], b"null", rest].concat())
}

fn change<K: DeserializeOwned>(kind: EventKind, object: &[u8]) -> Result<Change<K>, Status> {
    Ok(match kind {
        EventKind::Added => Change::Added(decode(object)?),
        EventKind::Modified => Change::Modified(decode(object)?),
        EventKind::Deleted => Change::Deleted(decode(object)?),
        EventKind::Bookmark => {
            let object: Value = decode(object)?;
            let metadata = &object["metadata"];
            let version = metadata["resourceVersion"].as_str().unwrap_or_default();
            let end = &metadata["annotations"]["k8s.io/initial-events-end"];
            Change::Bookmark { resource_version: version.into(), initial: end == "true" }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_object_lacks_its_managed_fields_and_nothing_else() {
        let object = json!({"kind": "ConfigMap", "data": {"managedFields": "kept"}, "metadata": {
            "annotations": {"a": "\"managedFields\":["}, "name": "x",
            "managedFields": [{"manager": "m", "fieldsV1": {"f:data": {}}}]}});
        let read = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
        let mut expected = object.clone();
        let told = read(&bare(object.to_string().as_bytes()));
        expected["metadata"]["managedFields"] = Value::Null;
        assert_eq!(told, expected);
        for other in ["{}", "", "[", r#"{"metadata":{"name":"x"}}"#, r#"{"metadata": {}}"#] {
            assert_eq!(bare(other.as_bytes()), other.as_bytes());
        }
    }
}
