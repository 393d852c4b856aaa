//! What agents say of their nodes and pods, written by this master in the node's name.
//!
//! Keeps: what is written goes the road that any node's request goes: the Node authorizer and NodeRestriction
//! decide. A report that is repeated changes nothing. The lease of a node that is registered is there.
//! Never: writes more at a time, of all agents together, than [`WRITES_MAX`].

use std::collections::HashMap;

use futures::{StreamExt as _, stream};
use k8s_openapi::ListableResource;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use super::sessions::Sessions;
use crate::client::{Client, DeleteOptions, PatchKind, Preconditions, Typed};
use crate::error::{Reason, Status};
use crate::live;
use crate::object::meta;
use crate::request::User;
use crate::tunnel::wire::{self, NodeReport, PodReport, Report, Reported, Unwritten, report};

/// Of all agents together.
pub(super) const WRITES_MAX: usize = 64;
/// Of one message.
const REPORTS_MAX: usize = 256;
const AT_ONCE: usize = 8;
/// As whom agents are known to field managers.
const AGENT: &str = "kontiki-agent";
const LEASES: &str = "kube-node-lease";
const LEASE_SECONDS: i32 = 40;

/// The road, as a node.
fn client(sessions: &Sessions, node: &str) -> Client {
    let user = User {
        name: format!("{}{node}", super::NODE_PREFIX),
        groups: vec![super::NODES.into(), "system:authenticated".into()],
        ..User::default()
    };
    sessions.road().client(user, AGENT)
}

/// Writes all of a message, each report by itself.
pub(super) async fn write(
    sessions: &Sessions,
    node: &str,
    reported: Reported,
) -> Result<wire::Written, tonic::Status> {
    if reported.reports.len() > REPORTS_MAX {
        let why = format!("a message has {REPORTS_MAX} reports at most");
        return Err(tonic::Status::invalid_argument(why));
    }
    let number = reported.number;
    let writer = Writer { sessions, node, client: client(sessions, node) };
    let all = (0u32..).zip(reported.reports).map(|(at, report)| writer.one(at, report));
    let done = stream::iter(all).buffer_unordered(AT_ONCE);
    let unwritten = done.filter_map(std::future::ready).collect().await;
    Ok(wire::Written { number, unwritten })
}

/// Makes the lease of a node that has none; who holds it and when it was renewed is answered from sessions.
pub(super) async fn ensure_lease(sessions: &Sessions, node: &str) -> Result<(), Status> {
    let objects = sessions.road().objects();
    let leases = live::stored("coordination.k8s.io", "leases", "v1", "Lease");
    if objects.get(&leases, LEASES, node)?.is_some() {
        return Ok(());
    }
    let Some(object) = objects.get(&live::stored("", "nodes", "v1", "Node"), "", node)? else {
        return Ok(());
    };
    let uid = meta::uid(object.value()?);
    let now = sessions.road().clock().now().rfc3339_micros();
    let lease: Lease = typed(json!({
        "metadata": {"name": node, "namespace": LEASES,
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid}]},
        "spec": {"holderIdentity": node, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now},
    }))?;
    match client(sessions, node).create(&lease).await {
        Err(status) if !status.is(Reason::AlreadyExists) => Err(status),
        _ => Ok(()),
    }
}

fn typed<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, Status> {
    serde_json::from_value(value).map_err(|error| Status::bad_request(error.to_string()))
}

fn read(json: &[u8]) -> Result<Value, Status> {
    let unreadable = |error| Status::bad_request(format!("a report cannot be read: {error}"));
    let value: Value = serde_json::from_slice(json).map_err(unreadable)?;
    if value.is_object() { Ok(value) } else { Err(Status::bad_request("a status is an object")) }
}

struct Writer<'a> {
    sessions: &'a Sessions,
    node: &'a str,
    client: Client,
}

impl Writer<'_> {
    async fn one(&self, at: u32, report: Report) -> Option<Unwritten> {
        // The semaphore is never closed.
        let _turn = self.sessions.writes().acquire().await;
        let written = match report.what {
            Some(report::What::Node(report)) => self.node(report).await,
            Some(report::What::Pod(report)) => self.pod(report).await,
            None => Err(Status::bad_request("this master does not know what is reported")),
        };
        let status = written.err()?;
        let again = status.code() >= 500 || status.code() == 429 || status.is(Reason::Conflict);
        let wire::Refused { code, reason, message, .. } = status.into();
        Some(Unwritten { at, code, reason, message, again })
    }

    async fn node(&self, report: NodeReport) -> Result<(), Status> {
        let status = read(&report.status)?;
        if report.registers {
            self.register(&status, report.labels).await?;
        }
        let patch = json!({"status": status});
        self.patch::<Node>("", self.node, PatchKind::Strategic, &patch, Some("status")).await?;
        ensure_lease(self.sessions, self.node).await
    }

    async fn register(
        &self,
        status: &Value,
        labels: HashMap<String, String>,
    ) -> Result<(), Status> {
        let mut status = status.clone();
        without_directives(&mut status);
        let node: Node = typed(json!({
            "metadata": {"name": self.node, "labels": labels}, "spec": {}, "status": status,
        }))?;
        match self.client.create(&node).await {
            Err(refused) if refused.is(Reason::AlreadyExists) => {
                let patch = json!({"metadata": {"labels": labels}});
                self.patch::<Node>("", self.node, PatchKind::Merge, &patch, None).await
            }
            other => other.map(drop),
        }
    }

    async fn pod(&self, report: PodReport) -> Result<(), Status> {
        let pod = report.pod.unwrap_or_default();
        if !report.status.is_empty() {
            // The uid is whom it is said of: another pod of this name must not be given it.
            let patch = json!({"metadata": {"uid": pod.uid}, "status": read(&report.status)?});
            let kind = PatchKind::Strategic;
            let (namespace, name) = (&pod.namespace, &pod.name);
            let said = self.patch::<Pod>(namespace, name, kind, &patch, Some("status")).await;
            self.unless_gone(&pod, said)?;
        }
        if report.gone {
            let preconditions =
                Preconditions { uid: Some(pod.uid.clone()), resource_version: None };
            let options = DeleteOptions {
                grace_period_seconds: Some(0),
                preconditions: Some(preconditions),
                ..DeleteOptions::default()
            };
            let gone = self.client.delete::<Pod>(&pod.namespace, &pod.name, &options).await;
            self.unless_gone(&pod, gone)?;
        }
        Ok(())
    }

    /// What is said of a pod that is gone, or whose name another has now, is said in vain and well.
    fn unless_gone(&self, pod: &wire::Pod, said: Result<(), Status>) -> Result<(), Status> {
        match said {
            Err(status) if status.is(Reason::NotFound) => Ok(()),
            Err(status) if status.is(Reason::Conflict) || status.is(Reason::Forbidden) => {
                let of = live::stored("", "pods", "v1", "Pod");
                let there = self.sessions.road().objects().get(&of, &pod.namespace, &pod.name)?;
                let is_it = match &there {
                    Some(there) => meta::uid(there.value()?) == pod.uid,
                    None => false,
                };
                if is_it { Err(status) } else { Ok(()) }
            }
            other => other,
        }
    }

    /// Without reading what comes back.
    async fn patch<K: Typed + ListableResource>(
        &self,
        namespace: &str,
        name: &str,
        kind: PatchKind,
        patch: &Value,
        subresource: Option<&str>,
    ) -> Result<(), Status> {
        let client = &self.client;
        let request = client.patch_request::<K>(namespace, name, kind, patch, subresource);
        client.call(request).await.map(drop)
    }
}

/// A patch as what it would come to where nothing is yet.
fn without_directives(value: &mut Value) {
    match value {
        Value::Array(items) => {
            items.retain(|item| item.get("$patch").is_none());
            items.iter_mut().for_each(without_directives);
        }
        Value::Object(fields) => fields.values_mut().for_each(without_directives),
        _ => {}
    }
}
