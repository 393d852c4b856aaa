//! Where a pod's volumes can be reached from.
//!
//! A claim that is bound ties the pod to the nodes of its volume. One that waits for its first consumer
//! is open: a volume that is there may fit, or its class provisions one where the pod goes.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kontiki_api::object::quantity::Quantity;

use super::{NodeInfo, Refusal, node};
use crate::reconcile::{Key, labels};
use crate::scheduler::world::World;

/// The class that stands for "never provision".
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

#[derive(Default)]
pub struct Volumes {
    bound: Vec<Arc<PersistentVolume>>,
    /// Some bound claim names a volume that is not there.
    missing: bool,
    waiting: Vec<Wanted>,
}

/// A claim that is bound when its pod has a node.
pub struct Wanted {
    pub claim: Arc<PersistentVolumeClaim>,
    class: Option<Arc<StorageClass>>,
    /// Volumes that are free and large enough.
    fitting: Vec<Arc<PersistentVolume>>,
}

impl Volumes {
    pub fn new(pod: &Pod, world: &World) -> Result<Volumes, String> {
        let mut volumes = Volumes::default();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        for name in claim_names(pod) {
            let Some(claim) = world.claims.get(&Key::new(namespace, &name)) else {
                return Err(format!("persistentvolumeclaim \"{name}\" not found"));
            };
            if claim.metadata.deletion_timestamp.is_some() {
                return Err(format!("persistentvolumeclaim \"{name}\" is being deleted"));
            }
            let spec = claim.spec.clone().unwrap_or_default();
            if let Some(volume) = spec.volume_name.as_deref().filter(|name| !name.is_empty()) {
                match world.volumes.get(&Key::new("", volume)) {
                    Some(volume) => volumes.bound.push(volume),
                    None => volumes.missing = true,
                }
                continue;
            }
            let class = spec.storage_class_name.as_deref().unwrap_or_default();
            let class = world.classes.get(&Key::new("", class));
            let waits = class.as_ref().and_then(|class| class.volume_binding_mode.as_deref());
            if waits != Some("WaitForFirstConsumer") {
                return Err("pod has unbound immediate PersistentVolumeClaims".into());
            }
            let fitting = world.volumes.list().into_iter().filter(|it| fits(it, &claim)).collect();
            volumes.waiting.push(Wanted { claim, class, fitting });
        }
        Ok(volumes)
    }

    pub fn check(&self, info: &NodeInfo) -> Result<(), Refusal> {
        if self.missing {
            return Err(Refusal::for_good(
                "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)",
            ));
        }
        if !self.bound.iter().all(|volume| reaches(volume, info)) {
            return Err(Refusal::for_good("node(s) didn't match PersistentVolume's node affinity"));
        }
        if !self.waiting.iter().all(|wanted| wanted.can_be_bound(info)) {
            return Err(Refusal::for_good(
                "node(s) didn't find available persistent volumes to bind",
            ));
        }
        Ok(())
    }

    /// Claims that have to be bound before the pod is.
    #[must_use]
    pub fn waiting(&self) -> &[Wanted] {
        &self.waiting
    }
}

impl Wanted {
    fn can_be_bound(&self, info: &NodeInfo) -> bool {
        if self.fitting.iter().any(|volume| reaches(volume, info)) {
            return true;
        }
        let Some(class) = &self.class else { return false };
        let topologies = class.allowed_topologies.as_deref().unwrap_or_default();
        let allowed = topologies.is_empty()
            || topologies.iter().any(|term| {
                term.match_label_expressions.iter().flatten().all(|rule| {
                    info.label(&rule.key)
                        .is_some_and(|value| rule.values.iter().any(|it| it == value))
                })
            });
        class.provisioner != NO_PROVISIONER && allowed
    }
}

/// Claims of a pod by name; generic ephemeral volumes claim under the pod's name and their own.
pub fn claim_names(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    volumes
        .iter()
        .filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(claim), _) => Some(claim.claim_name.clone()),
            (None, Some(_)) => Some(format!("{name}-{}", volume.name)),
            (None, None) => None,
        })
        .collect()
}

fn reaches(volume: &PersistentVolume, info: &NodeInfo) -> bool {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required.as_ref());
    required.is_none_or(|selector| node::selects(selector, info))
}

/// Whether a volume is free and is what the claim asks for.
fn fits(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let (Some(has), Some(wants)) = (&volume.spec, &claim.spec) else { return false };
    let free = match &has.claim_ref {
        None => true,
        Some(reserved) => {
            reserved.uid.as_deref().is_none_or(str::is_empty)
                && reserved.name == claim.metadata.name
                && reserved.namespace == claim.metadata.namespace
        }
    };
    let size = |written: Option<&k8s_openapi::apimachinery::pkg::api::resource::Quantity>| {
        written.and_then(|it| it.0.parse().ok()).map_or(0, Quantity::value)
    };
    let asked = wants.resources.as_ref().and_then(|it| it.requests.as_ref()?.get("storage"));
    let capacity = has.capacity.as_ref().and_then(|capacity| capacity.get("storage"));
    let modes = has.access_modes.as_deref().unwrap_or_default();
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    free && volume.metadata.deletion_timestamp.is_none()
        && text(&has.storage_class_name) == text(&wants.storage_class_name)
        && text(&has.volume_mode) == text(&wants.volume_mode)
        && size(capacity) >= size(asked)
        && wants.access_modes.iter().flatten().all(|mode| modes.contains(mode))
        && wants.selector.as_ref().is_none_or(|it| labels::matches(it, &volume.metadata))
}
