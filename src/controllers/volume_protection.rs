//! Holds claims that pods use, and volumes that claims use, by a finalizer.
//!
//! Keeps: a claim is let go only after the API itself (not a cache) showed no pod that uses it.

use std::sync::Arc;

use k8s_openapi::ListableResource;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kontiki_api::Status;
use kontiki_api::client::{Client, PatchKind, Typed};
use kontiki_api::error::Reason;
use kontiki_api::request::Options;
use serde_json::json;

use super::taints::node_of;
use super::{Context, Loop, pods};
use crate::reconcile::{Informer, Key, Next, Reconcile};

const CLAIMS: &str = "persistentvolumeclaim-protection-controller";
const VOLUMES: &str = "persistentvolume-protection-controller";
const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";
const BY_CLAIM: &str = "claim";

struct Claims {
    client: Client,
    claims: Informer<PersistentVolumeClaim>,
    pods: Informer<Pod>,
}

struct Volumes {
    client: Client,
    volumes: Informer<PersistentVolume>,
}

pub fn start_claims(context: &Context) -> Vec<Loop> {
    let queue = context.queue(CLAIMS);
    let claims = context.informers.of::<PersistentVolumeClaim>();
    let pods = context.informers.of::<Pod>();
    pods.index(BY_CLAIM, |pod| claims_of(pod).iter().map(Key::to_string).collect());
    claims.on({
        let queue = queue.clone();
        move |delta| queue.add(Key::of(&delta.object().metadata))
    });
    pods.on({
        let queue = queue.clone();
        move |delta| claims_of(delta.object()).into_iter().for_each(|key| queue.add(key))
    });
    vec![Loop::new(Claims { client: context.client(CLAIMS), claims, pods }, queue, 1)]
}

pub fn start_volumes(context: &Context) -> Vec<Loop> {
    let queue = context.queue(VOLUMES);
    let volumes = context.informers.of::<PersistentVolume>();
    volumes.on({
        let queue = queue.clone();
        move |delta| queue.add(Key::of(&delta.object().metadata))
    });
    vec![Loop::new(Volumes { client: context.client(VOLUMES), volumes }, queue, 1)]
}

/// The claims that a pod's volumes name; an ephemeral volume's is named after the pod and the volume.
fn claims_of(pod: &Pod) -> Vec<Key> {
    let key = Key::of(&pod.metadata);
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let name = |volume: &k8s_openapi::api::core::v1::Volume| {
        let claim = volume.persistent_volume_claim.as_ref().map(|it| it.claim_name.clone());
        let ephemeral = volume.ephemeral.as_ref().map(|_| format!("{}-{}", key.name, volume.name));
        claim.or(ephemeral)
    };
    volumes.iter().filter_map(name).map(|name| Key::new(&key.namespace, &name)).collect()
}

/// A pod that is on a node and has not ended uses its claims.
fn uses(pod: &Pod, claim: &Key) -> bool {
    node_of(pod).is_some() && !pods::is_finished(pod) && claims_of(pod).contains(claim)
}

impl Reconcile for Claims {
    type Key = Key;

    fn name(&self) -> &'static str {
        CLAIMS
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Status> {
        let Some(claim) = self.claims.get(key) else { return Ok(Next::WhenChanged) };
        if claim.metadata.deletion_timestamp.is_none() {
            set(&self.client, claim.as_ref(), CLAIM_FINALIZER, Holding::On).await?;
            return Ok(Next::WhenChanged);
        }
        let used = |pods: &[Arc<Pod>]| pods.iter().any(|pod| uses(pod, key));
        if used(&self.pods.by_index(BY_CLAIM, &key.to_string())) {
            return Ok(Next::WhenChanged);
        }
        let live = self.client.list::<Pod>(&key.namespace, Options::default()).await?;
        if live.items.iter().any(|pod| uses(pod, key)) {
            return Ok(Next::Again);
        }
        set(&self.client, claim.as_ref(), CLAIM_FINALIZER, Holding::Off).await?;
        Ok(Next::WhenChanged)
    }
}

impl Reconcile for Volumes {
    type Key = Key;

    fn name(&self) -> &'static str {
        VOLUMES
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Status> {
        let Some(volume) = self.volumes.get(key) else { return Ok(Next::WhenChanged) };
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        let holding = match volume.metadata.deletion_timestamp {
            None => Holding::On,
            Some(_) if phase == Some("Bound") => return Ok(Next::WhenChanged),
            Some(_) => Holding::Off,
        };
        set(&self.client, volume.as_ref(), VOLUME_FINALIZER, holding).await?;
        Ok(Next::WhenChanged)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Holding {
    On,
    Off,
}

/// Sets or removes a finalizer, unless the object changed since it was read.
async fn set<K: Typed + ListableResource>(
    client: &Client,
    object: &K,
    finalizer: &str,
    holding: Holding,
) -> Result<(), Status> {
    let metadata = object.metadata();
    let mut finalizers = metadata.finalizers.clone().unwrap_or_default();
    let has = finalizers.iter().any(|it| it == finalizer);
    if has == (holding == Holding::On) {
        return Ok(());
    }
    finalizers.retain(|it| it != finalizer);
    if holding == Holding::On {
        finalizers.push(finalizer.into());
    }
    let patch = json!({"metadata": {"uid": metadata.uid,
        "resourceVersion": metadata.resource_version, "finalizers": finalizers}});
    let key = Key::of(metadata);
    match client.patch::<K>(&key.namespace, &key.name, PatchKind::Merge, &patch, None).await {
        Err(status) if !status.is(Reason::NotFound) => Err(status),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_uses_claims_while_it_is_on_a_node_and_has_not_ended() {
        let pod = |node: &str, phase: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"},
                "spec": {"nodeName": node, "containers": [], "volumes": [
                    {"name": "a", "persistentVolumeClaim": {"claimName": "data"}},
                    {"name": "b", "ephemeral": {}}, {"name": "c", "emptyDir": {}}]},
                "status": {"phase": phase}}))
            .unwrap()
        };
        let claim = Key::new("n", "data");
        assert_eq!(claims_of(&pod("x", "Running")), [claim.clone(), Key::new("n", "p-b")]);
        assert!(uses(&pod("x", "Running"), &claim));
        assert!(!uses(&pod("", "Pending"), &claim));
        assert!(!uses(&pod("x", "Succeeded"), &claim));
        assert!(!uses(&pod("x", "Running"), &Key::new("m", "data")));
    }
}
