//! What the server serves, as clients ask for it: group by group (`/api`, `/apis/apps`,
//! `/apis/apps/v1`), or all at once (aggregated discovery).
//!
//! Pure functions of the rows. Keeps: `verbs` is always a list; the order of groups and versions is the
//! registry's; a resource that is not stored has no storage version.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::document::Document;
use crate::kinds::{Group, Kind, Snapshot, Subresource, Version};
use crate::object::GroupVersion;

/// The content type of [`aggregated`].
pub const AGGREGATED_TYPE: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// `/api`. `address` is where clients reach this server (`10.0.0.1:6443`).
#[must_use]
pub fn core_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// `/apis`: all groups but the core.
#[must_use]
pub fn groups(rows: &Snapshot) -> Value {
    let groups: Vec<Value> = named(rows).map(group_entry).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>`.
#[must_use]
pub fn group(rows: &Snapshot, name: &str) -> Option<Value> {
    let mut group = named(rows).find(|group| group.name.as_ref() == name).map(group_entry)?;
    group["kind"] = "APIGroup".into();
    group["apiVersion"] = "v1".into();
    Some(group)
}

/// `/api/v1` and `/apis/<group>/<version>`.
#[must_use]
pub fn resources(rows: &Snapshot, group: &str, version: &str) -> Option<Value> {
    let version = rows.group(group)?.version(version)?;
    let resources: Vec<Value> =
        version.kinds.iter().flat_map(|kind| resource_entries(kind)).collect();
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": GroupVersion::new(group, &version.name).to_string(),
        "resources": resources,
    }))
}

/// Which half of aggregated discovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// `/api`
    Core,
    /// `/apis`
    Groups,
}

/// `/api` or `/apis` for clients that take [`AGGREGATED_TYPE`].
#[must_use]
pub fn aggregated(rows: &Snapshot, half: Half) -> Document {
    let items: Vec<Value> = rows
        .groups()
        .iter()
        .filter(|group| group.name.is_empty() == (half == Half::Core))
        .map(|group| {
            let versions: Vec<Value> = group.versions.iter().map(aggregated_version).collect();
            // The core group has no name.
            let metadata =
                if group.name.is_empty() { json!({}) } else { json!({"name": &*group.name}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    let list = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    });
    Document::of(list.to_string().into_bytes())
}

/// Tells the stored form of objects apart from that of other servers: a hash of where they rest.
#[must_use]
pub fn storage_version_hash(kind: &Kind) -> Option<String> {
    kind.is_stored().then(|| {
        let stored = &kind.stored;
        let text = format!("{}/{}/{}", stored.group, stored.version, stored.kind);
        STANDARD.encode(&Sha256::digest(text)[..8])
    })
}

fn named(rows: &Snapshot) -> impl Iterator<Item = &Group> {
    rows.groups().iter().filter(|group| !group.name.is_empty())
}

fn group_entry(group: &Group) -> Value {
    let entry = |version: &Version| {
        let group_version = GroupVersion::new(&group.name, &version.name);
        json!({"groupVersion": group_version.to_string(), "version": &*version.name})
    };
    let versions: Vec<Value> = group.versions.iter().map(entry).collect();
    json!({"name": &*group.name, "preferredVersion": versions.first(), "versions": versions})
}

/// A resource, and each of its subresources as `<resource>/<subresource>`.
fn resource_entries(kind: &Kind) -> Vec<Value> {
    let mut entry = json!({
        "name": &*kind.resource,
        "singularName": &*kind.singular,
        "namespaced": kind.namespaced,
        "kind": &*kind.kind,
        "verbs": kind.verbs.names(),
    });
    put_names(&mut entry, kind);
    if let Some(hash) = storage_version_hash(kind) {
        entry["storageVersionHash"] = hash.into();
    }
    let mut entries = vec![entry];
    entries.extend(kind.subresources.iter().map(|sub| subresource_entry(kind, sub)));
    entries
}

fn subresource_entry(kind: &Kind, sub: &Subresource) -> Value {
    let mut entry = json!({
        "name": format!("{}/{}", kind.resource, sub.name),
        "singularName": "",
        "namespaced": kind.namespaced,
        "kind": &*kind.kind,
        "verbs": sub.verbs.names(),
    });
    if let Some(of) = &sub.kind {
        entry["kind"] = of.kind.as_str().into();
        // Told only where it is not the parent's.
        if of.group_version() != kind.group_version() {
            entry["group"] = of.group.as_str().into();
            entry["version"] = of.version.as_str().into();
        }
    }
    entry
}

fn put_names(entry: &mut Value, kind: &Kind) {
    if !kind.short_names.is_empty() {
        entry["shortNames"] = kind.short_names.iter().map(AsRef::as_ref).collect::<Vec<_>>().into();
    }
    if !kind.categories.is_empty() {
        entry["categories"] = kind.categories.iter().map(AsRef::as_ref).collect::<Vec<_>>().into();
    }
}

fn aggregated_version(version: &Version) -> Value {
    let resources: Vec<Value> =
        version.kinds.iter().map(|kind| aggregated_resource(kind)).collect();
    json!({"version": &*version.name, "freshness": "Current", "resources": resources})
}

fn aggregated_resource(kind: &Kind) -> Value {
    // Built-in kinds of the group and version at hand are published without these.
    let own = if kind.custom {
        json!({"group": &*kind.group, "version": &*kind.version, "kind": &*kind.kind})
    } else {
        json!({"group": "", "version": "", "kind": &*kind.kind})
    };
    let mut entry = json!({
        "resource": &*kind.resource,
        "responseKind": own,
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": &*kind.singular,
        "verbs": kind.verbs.names(),
    });
    put_names(&mut entry, kind);
    let subresources: Vec<Value> = kind
        .subresources
        .iter()
        .map(|sub| {
            let response = match &sub.kind {
                Some(of) if of.group_version() != kind.group_version() => {
                    json!({"group": of.group, "version": of.version, "kind": of.kind})
                }
                Some(of) => json!({"group": "", "version": "", "kind": of.kind}),
                None => own.clone(),
            };
            json!({
                "subresource": &*sub.name,
                "responseKind": response,
                "verbs": sub.verbs.names(),
            })
        })
        .collect();
    if !subresources.is_empty() {
        entry["subresources"] = subresources.into();
    }
    entry
}

#[cfg(test)]
mod tests;
