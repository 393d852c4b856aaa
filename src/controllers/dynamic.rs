//! Objects of which only the metadata matters, in resources that are known by discovery alone.
//!
//! Never: looks past `metadata`; a loop that needs more of an object knows its type.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kontiki_api::Status;
use kontiki_api::client::{Client, DeleteOptions, PatchKind, Served};
use kontiki_api::error::Reason;
use kontiki_api::object::GroupVersionResource;
use kontiki_api::request::{Body, Options, Request, Verb};
use serde::Deserialize;
use serde_json::{Value, json};

/// Objects that one page of a list holds.
const PAGE: u64 = 500;

/// An object of any kind.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Partial {
    #[serde(default)]
    pub metadata: ObjectMeta,
}

#[must_use]
pub fn can(served: &Served, verb: &str) -> bool {
    served.verbs.iter().any(|known| known == verb)
}

/// Each resource once, in the version its group prefers, or the first that has it.
#[must_use]
pub fn preferred(served: Vec<Served>) -> Vec<Served> {
    let mut chosen: Vec<Served> = Vec::new();
    for one in served.into_iter().filter(|one| !one.resource.resource.contains('/')) {
        let same = |other: &&mut Served| {
            other.resource.group == one.resource.group
                && other.resource.resource == one.resource.resource
        };
        match chosen.iter_mut().find(same) {
            Some(known) if one.preferred && !known.preferred => *known = one,
            Some(_) => {}
            None => chosen.push(one),
        }
    }
    chosen
}

/// A request with nothing said yet but where; an empty namespace or name is none.
#[must_use]
pub fn request(
    verb: Verb,
    resource: &GroupVersionResource,
    namespace: &str,
    name: &str,
) -> Request {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Request {
        verb,
        resource: resource.clone(),
        subresource: None,
        namespace: some(namespace),
        name: some(name),
        options: Options::default(),
        body: Body::None,
    }
}

pub async fn get(
    client: &Client,
    resource: &GroupVersionResource,
    namespace: &str,
    name: &str,
) -> Result<Partial, Status> {
    let bytes = client.call(request(Verb::Get, resource, namespace, name)).await?;
    read(&bytes)
}

/// All objects of a namespace, or everywhere with an empty one, page by page.
pub async fn list(
    client: &Client,
    resource: &GroupVersionResource,
    namespace: &str,
) -> Result<Vec<Partial>, Status> {
    list_as(client, resource, namespace).await
}

/// The same as whole values.
pub async fn list_as<T: serde::de::DeserializeOwned>(
    client: &Client,
    resource: &GroupVersionResource,
    namespace: &str,
) -> Result<Vec<T>, Status> {
    #[derive(Deserialize)]
    struct Page<T> {
        #[serde(default)]
        metadata: PageMeta,
        #[serde(default = "Vec::new")]
        items: Vec<T>,
    }
    #[derive(Default, Deserialize)]
    struct PageMeta {
        #[serde(default, rename = "continue")]
        go_on: String,
    }
    let mut all = Vec::new();
    let mut go_on = None;
    loop {
        let mut request = request(Verb::List, resource, namespace, "");
        request.options.limit = Some(PAGE);
        request.options.go_on = go_on.take();
        let page: Page<T> = read(&client.call(request).await?)?;
        all.extend(page.items);
        if page.metadata.go_on.is_empty() {
            return Ok(all);
        }
        go_on = Some(page.metadata.go_on);
    }
}

pub async fn delete(
    client: &Client,
    resource: &GroupVersionResource,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
) -> Result<(), Status> {
    let mut request = request(Verb::Delete, resource, namespace, name);
    request.body = delete_body(options);
    client.call(request).await.map(drop)
}

/// Deletes all objects of a namespace at once.
pub async fn delete_all(
    client: &Client,
    resource: &GroupVersionResource,
    namespace: &str,
    options: &DeleteOptions,
) -> Result<(), Status> {
    let mut request = request(Verb::DeleteCollection, resource, namespace, "");
    request.body = delete_body(options);
    client.call(request).await.map(drop)
}

fn delete_body(options: &DeleteOptions) -> Body {
    let mut body = json!(options);
    body["kind"] = "DeleteOptions".into();
    body["apiVersion"] = "v1".into();
    Body::Object(body)
}

/// A merge patch, which every resource takes.
pub async fn patch(
    client: &Client,
    resource: &GroupVersionResource,
    namespace: &str,
    name: &str,
    patch: &Value,
) -> Result<(), Status> {
    let mut request = request(Verb::Patch, resource, namespace, name);
    request.options.field_manager = Some(client.name().to_owned());
    request.body = Body::Bytes {
        content_type: PatchKind::Merge.content_type().into(),
        bytes: patch.to_string().into(),
    };
    client.call(request).await.map(drop)
}

fn read<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, Status> {
    serde_json::from_slice(bytes).map_err(|error| {
        Status::new(Reason::InternalError, format!("an object of the API cannot be read: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_versions_the_preferred_one_is_taken() {
        let served = |version: &str, resource: &str, preferred: bool| Served {
            resource: GroupVersionResource::new("shop", version, resource),
            kind: "Order".into(),
            namespaced: true,
            verbs: vec!["list".into()],
            preferred,
        };
        let chosen = preferred(vec![
            served("v1alpha1", "orders", false),
            served("v1", "orders", true),
            served("v1alpha1", "drafts", false),
            served("v1", "orders/status", true),
        ]);
        let names: Vec<_> = chosen.iter().map(|one| one.resource.to_string()).collect();
        assert_eq!(names, ["shop/v1, Resource=orders", "shop/v1alpha1, Resource=drafts"]);
        assert!(can(&chosen[0], "list") && !can(&chosen[0], "watch"));
    }
}
