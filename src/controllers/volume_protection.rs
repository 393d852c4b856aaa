//! Holds claims that pods use, volumes that claims use, and classes of volume attributes that claims and
//! volumes name, by a finalizer.
//!
//! Keeps: a claim is let go only after the API itself (not a cache) showed no pod that uses it. A class is let
//! go by what the informers show: whoever names a class that is going does so at their own risk, as upstream
//! has it.

use std::sync::Arc;

use k8s_openapi::ListableResource;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use kontiki_api::Status;
use kontiki_api::client::{Client, PatchKind, Typed};
use kontiki_api::error::Reason;
use kontiki_api::request::Options;
use serde_json::json;

use super::taints::node_of;
use super::{Context, Loop, pods};
use crate::reconcile::{Delta, Informer, Key, Next, Reconcile};

const CLAIMS: &str = "persistentvolumeclaim-protection-controller";
const VOLUMES: &str = "persistentvolume-protection-controller";
const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";
const BY_CLAIM: &str = "claim";
const CLASSES: &str = "volumeattributesclass-protection-controller";
const CLASS_FINALIZER: &str = "kubernetes.io/vac-protection";
const BY_CLASS: &str = "attributes class";

struct Claims {
    client: Client,
    claims: Informer<PersistentVolumeClaim>,
    pods: Informer<Pod>,
}

struct Volumes {
    client: Client,
    volumes: Informer<PersistentVolume>,
}

struct Classes {
    client: Client,
    classes: Informer<VolumeAttributesClass>,
    claims: Informer<PersistentVolumeClaim>,
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

pub fn start_classes(context: &Context) -> Vec<Loop> {
    let queue = context.queue(CLASSES);
    let classes = context.informers.of::<VolumeAttributesClass>();
    let claims = context.informers.of::<PersistentVolumeClaim>();
    let volumes = context.informers.of::<PersistentVolume>();
    claims.index(BY_CLASS, classes_of_claim);
    volumes.index(BY_CLASS, classes_of_volume);
    classes.on({
        let queue = queue.clone();
        move |delta| queue.add(Key::of(&delta.object().metadata))
    });
    claims.on({
        let queue = queue.clone();
        move |delta| no_longer(delta, classes_of_claim).for_each(|key| queue.add(key))
    });
    volumes.on({
        let queue = queue.clone();
        move |delta| no_longer(delta, classes_of_volume).for_each(|key| queue.add(key))
    });
    let classes = Classes { client: context.client(CLASSES), classes, claims, volumes };
    vec![Loop::new(classes, queue, 1)]
}

/// The classes that a claim asks for, has, or is on its way to.
fn classes_of_claim(claim: &PersistentVolumeClaim) -> Vec<String> {
    let asked = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.clone());
    let status = claim.status.as_ref();
    let has = status.and_then(|status| status.current_volume_attributes_class_name.clone());
    let modified = status.and_then(|status| status.modify_volume_status.as_ref());
    let target = modified.and_then(|status| status.target_volume_attributes_class_name.clone());
    let mut names: Vec<String> =
        [asked, has, target].into_iter().flatten().filter(|name| !name.is_empty()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn classes_of_volume(volume: &PersistentVolume) -> Vec<String> {
    let name = volume.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.clone());
    name.into_iter().filter(|name| !name.is_empty()).collect()
}

/// The classes that an object named before a change, and does not name after it.
fn no_longer<K>(
    delta: &Delta<'_, K>,
    names: impl Fn(&K) -> Vec<String>,
) -> impl Iterator<Item = Key> {
    let (before, after) = match delta {
        Delta::Added(_) => (Vec::new(), Vec::new()),
        Delta::Updated { old, new } => (names(old), names(new)),
        Delta::Deleted(old) => (names(old), Vec::new()),
    };
    let gone = before.into_iter().filter(move |name| !after.contains(name));
    gone.map(|name| Key::new("", &name))
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

impl Reconcile for Classes {
    type Key = Key;

    fn name(&self) -> &'static str {
        CLASSES
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Status> {
        let Some(class) = self.classes.get(key) else { return Ok(Next::WhenChanged) };
        let used = || {
            let claims = self.claims.by_index(BY_CLASS, &key.name);
            !claims.is_empty() || !self.volumes.by_index(BY_CLASS, &key.name).is_empty()
        };
        let holding = match class.metadata.deletion_timestamp {
            None => Holding::On,
            Some(_) if used() => return Ok(Next::WhenChanged),
            Some(_) => Holding::Off,
        };
        set(&self.client, class.as_ref(), CLASS_FINALIZER, holding).await?;
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

    #[test]
    fn a_claim_names_the_classes_that_it_asks_for_has_and_is_on_its_way_to() {
        let claim = |spec: &str, current: &str, target: &str| -> PersistentVolumeClaim {
            serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "n"},
                "spec": {"volumeAttributesClassName": spec},
                "status": {"currentVolumeAttributesClassName": current, "modifyVolumeStatus":
                    {"status": "InProgress", "targetVolumeAttributesClassName": target}}}))
            .unwrap()
        };
        assert_eq!(classes_of_claim(&claim("gold", "silver", "gold")), ["gold", "silver"]);
        assert_eq!(classes_of_claim(&claim("", "", "")), Vec::<String>::new());
        assert_eq!(classes_of_claim(&PersistentVolumeClaim::default()), Vec::<String>::new());

        let told = |delta: &Delta<'_, PersistentVolumeClaim>| -> Vec<String> {
            no_longer(delta, classes_of_claim).map(|key| key.name).collect()
        };
        let (old, new) =
            (Arc::new(claim("gold", "silver", "")), Arc::new(claim("gold", "gold", "")));
        assert_eq!(told(&Delta::Added(&old)), Vec::<String>::new());
        assert_eq!(told(&Delta::Updated { old: &old, new: &new }), ["silver"]);
        assert_eq!(told(&Delta::Deleted(&old)), ["gold", "silver"]);
    }
}
