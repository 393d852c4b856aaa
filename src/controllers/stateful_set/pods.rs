//! Who a StatefulSet's pods are: their names, their revision, their claims and who owns those. Pure.

use std::collections::BTreeMap;

use k8s_openapi::Resource;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::controllers::ownership::reference_to;
use crate::controllers::pods::from_template;
use crate::controllers::revisions::POD_LABEL;

const NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// The ordinal at the end of a pod's name, if the rest of the name is the set's.
pub fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let (parent, ordinal) = pod.metadata.name.as_deref()?.rsplit_once('-')?;
    if Some(parent) != set.metadata.name.as_deref() {
        return None;
    }
    ordinal.parse().ok().filter(|ordinal| *ordinal >= 0)
}

pub fn start(set: &StatefulSet) -> i32 {
    set.spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0)
}

pub fn replicas(set: &StatefulSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

pub fn is_wanted(set: &StatefulSet, ordinal: i32) -> bool {
    (start(set)..start(set).saturating_add(replicas(set))).contains(&ordinal)
}

pub fn pod_name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", set.metadata.name.as_deref().unwrap_or_default())
}

pub fn revision(pod: &Pod) -> &str {
    let labels = pod.metadata.labels.as_ref();
    labels.and_then(|it| it.get(POD_LABEL)).map(String::as_str).unwrap_or_default()
}

/// The claim that each volume of a pod stands for, by the volume's name.
pub fn claims(set: &StatefulSet, ordinal: i32) -> BTreeMap<String, PersistentVolumeClaim> {
    let templates = set.spec.volume_claim_templates.iter().flatten();
    templates
        .map(|template| {
            let volume = template.metadata.name.clone().unwrap_or_default();
            let mut claim = template.clone();
            claim.status = None;
            claim.metadata.name = Some(format!("{volume}-{}", pod_name(set, ordinal)));
            claim.metadata.namespace = set.metadata.namespace.clone();
            let selected = set.spec.selector.match_labels.iter().flatten();
            let selected = selected.map(|(key, value)| (key.clone(), value.clone()));
            claim.metadata.labels.get_or_insert_default().extend(selected);
            (volume, claim)
        })
        .collect()
}

/// A pod of the set with a template, which is of the revision named.
pub fn new_pod(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i32) -> Pod {
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    let mut pod = from_template(template, namespace, "", reference_to(set));
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(pod_name(set, ordinal));
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_LABEL.into(), revision.into());
    identify(set, &mut pod, ordinal);
    if let Some(spec) = &mut pod.spec {
        spec.hostname = pod.metadata.name.clone();
        spec.subdomain = set.spec.service_name.clone();
    }
    pod
}

/// Gives a pod what a pod of its ordinal has: its labels and its claims.
pub fn identify(set: &StatefulSet, pod: &mut Pod, ordinal: i32) {
    let name = pod_name(set, ordinal);
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(NAME_LABEL.into(), name);
    labels.insert(INDEX_LABEL.into(), ordinal.to_string());
    let claims = claims(set, ordinal);
    let Some(spec) = pod.spec.as_mut().filter(|_| !claims.is_empty()) else { return };
    let volumes = spec.volumes.take().unwrap_or_default();
    let own = claims.iter().map(|(name, claim)| Volume {
        name: name.clone(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim.metadata.name.clone().unwrap_or_default(),
            ..PersistentVolumeClaimVolumeSource::default()
        }),
        ..Volume::default()
    });
    let own: Vec<_> = own.collect();
    let others = volumes.into_iter().filter(|volume| !claims.contains_key(&volume.name));
    spec.volumes = Some(own.into_iter().chain(others).collect());
}

/// Whether a pod has its own name label and its own claims.
pub fn is_identified(set: &StatefulSet, pod: &Pod, ordinal: i32) -> bool {
    let label = pod.metadata.labels.as_ref().and_then(|labels| labels.get(NAME_LABEL));
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let named = |name: &str| volumes.iter().find(|volume| volume.name == name);
    label == pod.metadata.name.as_ref()
        && claims(set, ordinal).iter().all(|(volume, claim)| {
            let source = named(volume).and_then(|it| it.persistent_volume_claim.as_ref());
            source.is_some_and(|it| Some(&it.claim_name) == claim.metadata.name.as_ref())
        })
}

/// Who deletes a claim when it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeper {
    Nobody,
    Set,
    Pod,
}

fn keeper(set: &StatefulSet, ordinal: i32) -> Keeper {
    let policy = set.spec.persistent_volume_claim_retention_policy.as_ref();
    let deletes =
        |when: Option<&Option<String>>| when.and_then(|it| it.as_deref()) == Some("Delete");
    let when_scaled = deletes(policy.map(|it| &it.when_scaled));
    let when_deleted = deletes(policy.map(|it| &it.when_deleted));
    match (when_scaled, when_deleted) {
        (true, _) if !is_wanted(set, ordinal) => Keeper::Pod,
        (_, true) => Keeper::Set,
        _ => Keeper::Nobody,
    }
}

/// The owners that a claim is to have, if they are not those it has. A claim that somebody else controls
/// keeps its controller and is not given ours.
pub fn owners(
    set: &StatefulSet,
    pod: &Pod,
    ordinal: i32,
    claim: &ObjectMeta,
) -> Option<Vec<OwnerReference>> {
    let (ours, pods) = (reference_to(set), reference_to(pod));
    let present = claim.owner_references.clone().unwrap_or_default();
    let same = |owner: &OwnerReference, it: &OwnerReference| {
        owner.kind == it.kind && owner.name == it.name && owner.api_version == it.api_version
    };
    // Named like ours but another: it is on its way out, and its claim with it.
    let stale = |it: &OwnerReference| [&ours, &pods].iter().any(|o| same(o, it) && o.uid != it.uid);
    if present.iter().any(stale) {
        return None;
    }
    let mut wanted = present.clone();
    wanted.retain(|it| !same(&ours, it) && !same(&pods, it));
    let foreign = wanted.iter().any(|owner| owner.controller == Some(true));
    match keeper(set, ordinal) {
        _ if foreign => {}
        Keeper::Nobody => {}
        Keeper::Set => wanted.push(ours),
        Keeper::Pod if pod.metadata.uid.is_some() => wanted.push(pods),
        Keeper::Pod => {}
    }
    (wanted != present).then_some(wanted)
}

/// Whether a claim is about to be deleted with an earlier pod of the same name.
pub fn is_claim_of_former_pod(pod_name: &str, claim: &ObjectMeta) -> bool {
    let owners = claim.owner_references.iter().flatten();
    let mut pods = owners.filter(|owner| owner.kind == Pod::KIND && owner.name == pod_name);
    pods.next().is_some()
}
