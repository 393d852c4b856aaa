//! Which volume a claim gets, and what each of the two is to become. Pure.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use kontiki_api::object::Quantity;
use serde_json::json;

use crate::reconcile::labels;

pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
pub const CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// The class that a claim asks for; the annotation is older than the field and wins.
#[must_use]
pub fn class_of_claim(claim: &PersistentVolumeClaim) -> &str {
    let annotated = claim.metadata.annotations.as_ref().and_then(|all| all.get(CLASS));
    let field = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_ref());
    annotated.or(field).map(String::as_str).unwrap_or_default()
}

fn class_of_volume(volume: &PersistentVolume) -> &str {
    let annotated = volume.metadata.annotations.as_ref().and_then(|all| all.get(CLASS));
    let field = volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_ref());
    annotated.or(field).map(String::as_str).unwrap_or_default()
}

#[must_use]
pub fn claim_of(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

/// Whether the volume is this claim's: by name, and by uid once it has one.
#[must_use]
pub fn is_for(reference: &ObjectReference, claim: &PersistentVolumeClaim) -> bool {
    let uid = reference.uid.as_ref().filter(|uid| !uid.is_empty());
    reference.name == claim.metadata.name
        && reference.namespace == claim.metadata.namespace
        && uid.is_none_or(|uid| Some(uid) == claim.metadata.uid.as_ref())
}

fn size(text: Option<&Text>) -> Option<Quantity> {
    Quantity::from_json(&json!(text?.0)).ok()
}

fn asked(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    let resources = claim.spec.as_ref()?.resources.as_ref()?;
    size(resources.requests.as_ref()?.get("storage"))
}

fn capacity(volume: &PersistentVolume) -> Option<Quantity> {
    size(volume.spec.as_ref()?.capacity.as_ref()?.get("storage"))
}

/// Whether the volume is what the claim asks for, whoever has it.
#[must_use]
pub fn suits(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let (Some(of), Some(want)) = (&volume.spec, &claim.spec) else { return false };
    let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".into());
    let offered = of.access_modes.as_deref().unwrap_or_default();
    let wanted = want.access_modes.as_deref().unwrap_or_default();
    mode(&of.volume_mode) == mode(&want.volume_mode)
        && wanted.iter().all(|it| offered.contains(it))
        && capacity(volume) >= asked(claim)
}

/// The volume that the claim gets of those there are: one that waits for it, or the smallest free one that
/// suits.
#[must_use]
pub fn choose(
    volumes: &[Arc<PersistentVolume>],
    claim: &PersistentVolumeClaim,
    only_waiting: bool,
) -> Option<Arc<PersistentVolume>> {
    let stays = |volume: &&Arc<PersistentVolume>| volume.metadata.deletion_timestamp.is_none();
    let waits = volumes.iter().filter(stays).find(|volume| {
        claim_of(volume).is_some_and(|it| is_for(it, claim)) && suits(volume, claim)
    });
    if only_waiting || waits.is_some() {
        return waits.cloned();
    }
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let free = volumes.iter().filter(stays).filter(|volume| {
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        claim_of(volume).is_none()
            && phase == Some("Available")
            && class_of_volume(volume) == class_of_claim(claim)
            && selector.is_none_or(|selector| labels::matches(selector, &volume.metadata))
            && suits(volume, claim)
    });
    free.min_by_key(|volume| (capacity(volume), volume.metadata.name.clone())).cloned()
}

/// The volume as the claim's.
#[must_use]
pub fn taken(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> PersistentVolume {
    let mut volume = volume.clone();
    let known = claim_of(&volume).is_some();
    let spec = volume.spec.get_or_insert_default();
    spec.claim_ref = Some(ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("PersistentVolumeClaim".into()),
        namespace: claim.metadata.namespace.clone(),
        name: claim.metadata.name.clone(),
        uid: claim.metadata.uid.clone(),
        resource_version: claim.metadata.resource_version.clone(),
        ..ObjectReference::default()
    });
    if !known {
        let annotations = volume.metadata.annotations.get_or_insert_default();
        annotations.insert(BOUND_BY_CONTROLLER.into(), "yes".into());
    }
    volume
}

/// The claim as the volume's.
#[must_use]
pub fn bound(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> PersistentVolumeClaim {
    let mut claim = claim.clone();
    let spec = claim.spec.get_or_insert_default();
    let chosen = spec.volume_name.as_ref().is_some_and(|name| !name.is_empty());
    spec.volume_name.clone_from(&volume.metadata.name);
    let annotations = claim.metadata.annotations.get_or_insert_default();
    annotations.insert(BIND_COMPLETED.into(), "yes".into());
    if !chosen {
        annotations.insert(BOUND_BY_CONTROLLER.into(), "yes".into());
    }
    claim
}

#[must_use]
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    let annotations = claim.metadata.annotations.as_ref();
    annotations.is_some_and(|all| all.contains_key(BIND_COMPLETED))
}

/// The claim's status, given what it is and which volume it has.
#[must_use]
pub fn status(
    claim: &PersistentVolumeClaim,
    phase: &str,
    volume: Option<&PersistentVolume>,
) -> PersistentVolumeClaimStatus {
    let mut status = claim.status.clone().unwrap_or_default();
    let was_bound = status.phase.as_deref() == Some("Bound");
    status.phase = Some(phase.into());
    match volume.and_then(|volume| volume.spec.as_ref()) {
        Some(spec) => {
            status.access_modes.clone_from(&spec.access_modes);
            // Later it is what resizing says.
            if !was_bound {
                status.capacity.clone_from(&spec.capacity);
            }
        }
        None => (status.access_modes, status.capacity) = (None, None),
    }
    status
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn volume(name: &str, size: &str, more: Value) -> Arc<PersistentVolume> {
        let mut value = json!({"metadata": {"name": name}, "status": {"phase": "Available"},
            "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"],
                "storageClassName": "fast"}});
        for (field, new) in more.as_object().unwrap() {
            value["spec"][field] = new.clone();
        }
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn claim(size: &str) -> PersistentVolumeClaim {
        serde_json::from_value(json!({
            "metadata": {"name": "data", "namespace": "n", "uid": "u"},
            "spec": {"storageClassName": "fast", "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": size}}}}))
        .unwrap()
    }

    fn chosen(volumes: &[Arc<PersistentVolume>], size: &str, only_waiting: bool) -> String {
        let found = choose(volumes, &claim(size), only_waiting);
        found.and_then(|it| it.metadata.name.clone()).unwrap_or_default()
    }

    #[test]
    fn the_smallest_volume_that_suits_is_taken_unless_one_waits() {
        let mine = json!({"claimRef": {"namespace": "n", "name": "data"}});
        let others = json!({"claimRef": {"namespace": "n", "name": "data", "uid": "old"}});
        let volumes = [
            volume("tiny", "1Gi", json!({})),
            volume("large", "100Gi", json!({})),
            volume("right", "10Gi", json!({})),
            volume("slow", "5Gi", json!({"storageClassName": "slow"})),
            volume("shared", "5Gi", json!({"accessModes": ["ReadOnlyMany"]})),
            volume("block", "5Gi", json!({"volumeMode": "Block"})),
            volume("taken", "5Gi", others),
        ];
        assert_eq!(chosen(&volumes, "5Gi", false), "right");
        assert_eq!(chosen(&volumes, "1Ti", false), "");
        assert_eq!(chosen(&volumes, "5Gi", true), "");
        let with_waiting = [volumes[2].clone(), volume("waits", "50Gi", mine)];
        assert_eq!(chosen(&with_waiting, "5Gi", false), "waits");
        assert_eq!(chosen(&with_waiting, "5Gi", true), "waits");
    }

    #[test]
    fn a_bound_pair_names_each_other() {
        let volume = volume("v", "5Gi", json!({}));
        let taken = taken(&volume, &claim("5Gi"));
        assert!(is_for(claim_of(&taken).unwrap(), &claim("5Gi")));
        let bound = bound(&claim("5Gi"), &taken);
        assert!(is_bound(&bound));
        assert_eq!(bound.spec.as_ref().unwrap().volume_name.as_deref(), Some("v"));
        let status = status(&bound, "Bound", Some(&taken));
        assert_eq!(status.capacity.unwrap()["storage"].0, "5Gi");
    }
}
