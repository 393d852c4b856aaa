//! Carries out what was decided: binds volumes, then the pod; or says on the pod why it has no node.
//!
//! Keeps: a pod is bound by one write that fails if it has a node already; whatever fails is tried again
//! from the beginning, with nothing assumed.

use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kontiki_api::Status;
use kontiki_api::client::{Client, DeleteOptions, PatchKind, Preconditions};
use kontiki_api::error::Reason;
use kontiki_api::object::time::Timestamp;
use serde_json::json;

use super::cycle::Chosen;
use super::preempt::Plan;
use super::world::World;
use crate::reconcile::{Key, Recorder};

/// The annotation that tells a provisioner where the first consumer goes.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// How long volumes may take to be bound (upstream's `bindTimeoutSeconds`), and how often that is looked at.
const VOLUMES_PATIENCE: Duration = Duration::from_secs(600);
const VOLUMES_LOOK: Duration = Duration::from_millis(250);

/// Binds the pod to the node; its volumes are bound by now.
pub async fn bind(client: &Client, key: &Key, chosen: &Chosen) -> Result<(), Status> {
    let pod = &chosen.prepared.pod;
    let body = json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": {"name": key.name, "namespace": key.namespace, "uid": pod.metadata.uid},
        "target": {"kind": "Node", "name": chosen.node},
    });
    client.create_subresource::<Pod>(&key.namespace, &key.name, "binding", body).await.map(drop)
}

/// Says where the pod goes to those who make its volumes, and waits until they are there.
pub async fn bind_volumes(client: &Client, world: &World, chosen: &Chosen) -> Result<(), Status> {
    let waiting = chosen.prepared.volumes().waiting();
    for wanted in waiting {
        let metadata = &wanted.claim.metadata;
        let patch = json!({"metadata": {"annotations": {SELECTED_NODE: chosen.node}}});
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        let name = metadata.name.as_deref().unwrap_or_default();
        client
            .patch::<PersistentVolumeClaim>(namespace, name, PatchKind::Merge, &patch, None)
            .await?;
    }
    let bound = async {
        for wanted in waiting {
            let key = Key::of(&wanted.claim.metadata);
            while !is_bound(world, &key) {
                tokio::time::sleep(VOLUMES_LOOK).await;
            }
        }
    };
    tokio::time::timeout(VOLUMES_PATIENCE, bound).await.map_err(|_| {
        Status::internal("binding volumes: timed out waiting for the claims to be bound")
    })
}

fn is_bound(world: &World, key: &Key) -> bool {
    let phase = world.claims.get(key).and_then(|claim| claim.status.as_ref()?.phase.clone());
    phase.as_deref() == Some("Bound")
}

/// What becomes of the node that room was made on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nomination {
    /// It stays the one that it is.
    Keep,
    Set(String),
    /// There is none any more.
    Clear,
}

/// Writes on the pod why it has no node, and which node was made room on.
pub async fn report_unfit(
    client: &Client,
    pod: &Pod,
    key: &Key,
    reason: &str,
    message: &str,
    nomination: Nomination,
    now: Timestamp,
) -> Result<(), Status> {
    let status = pod.status.as_ref();
    let nominated = status.and_then(|it| it.nominated_node_name.as_deref());
    let nomination = match nomination {
        Nomination::Clear if nominated.is_none() => Nomination::Keep,
        Nomination::Set(node) if nominated == Some(&*node) => Nomination::Keep,
        other => other,
    };
    let found = status.and_then(|it| it.conditions.as_deref()).unwrap_or_default();
    let before = found.iter().find(|condition| condition.type_ == "PodScheduled");
    let same = before.is_some_and(|condition| {
        condition.status == "False"
            && condition.reason.as_deref() == Some(reason)
            && condition.message.as_deref() == Some(message)
    });
    if same && nomination == Nomination::Keep {
        return Ok(());
    }
    let since = before
        .filter(|condition| condition.status == "False")
        .and_then(|condition| condition.last_transition_time.as_ref())
        .map_or(now, |time| Timestamp::from(time.0));
    let mut patch = json!({"status": {"conditions": [{
        "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
        "lastProbeTime": null, "lastTransitionTime": since.rfc3339(),
        "observedGeneration": pod.metadata.generation}]}});
    match nomination {
        Nomination::Keep => {}
        Nomination::Set(node) => patch["status"]["nominatedNodeName"] = node.into(),
        Nomination::Clear => patch["status"]["nominatedNodeName"] = serde_json::Value::Null,
    }
    patch_status(client, key, &patch).await
}

/// Takes the victims of a plan off their node.
pub async fn evict(
    client: &Client,
    recorder: &Recorder,
    pod: &Pod,
    plan: &Plan,
    now: Timestamp,
) -> Result<(), Status> {
    for (key, victim) in &plan.victims {
        let by = pod.metadata.uid.as_deref().unwrap_or_default();
        let patch = json!({"status": {"conditions": [{
            "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
            "message": "default-scheduler: preempting to accommodate a higher priority pod",
            "lastTransitionTime": now.rfc3339()}]}});
        patch_status(client, key, &patch).await?;
        let preconditions =
            Some(Preconditions { uid: victim.metadata.uid.clone(), resource_version: None });
        let options = DeleteOptions { preconditions, ..DeleteOptions::default() };
        match client.delete::<Pod>(&key.namespace, &key.name, &options).await {
            Ok(()) => {}
            Err(status) if status.is(Reason::NotFound) || status.is(Reason::Conflict) => {}
            Err(status) => return Err(status),
        }
        let message = format!("Preempted by pod {by} on node {}", plan.node);
        recorder.normal(victim.as_ref(), "Preempted", message);
    }
    Ok(())
}

/// What is gone needs no status.
async fn patch_status(client: &Client, key: &Key, patch: &serde_json::Value) -> Result<(), Status> {
    let patched = client
        .patch::<Pod>(&key.namespace, &key.name, PatchKind::Strategic, patch, Some("status"))
        .await;
    match patched {
        Err(status) if !status.is(Reason::NotFound) => Err(status),
        _ => Ok(()),
    }
}
