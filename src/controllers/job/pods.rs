//! What a Job reads from its pods, and how it makes them. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Container, ContainerStatus, EnvVar, EnvVarSource, ObjectFieldSelector, Pod,
};
use kontiki_api::object::time::Timestamp;

use super::policy;
use crate::controllers::ownership::reference_to;
use crate::controllers::pods::{condition, from_template, phase};

/// Keeps a pod that has ended until the Job has counted it.
pub const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
const INDEX_IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";
/// A generated name has five letters after its prefix, and 63 in all.
const PREFIX_BYTES_MAX: usize = 58;

pub fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

pub fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

/// The index that a pod works for, if it is one of the Job's.
pub fn index(pod: &Pod, spec: &JobSpec) -> Option<i32> {
    index_of(pod).filter(|index| *index < spec.completions.unwrap_or(0))
}

pub fn index_of(pod: &Pod) -> Option<i32> {
    number(pod, INDEX)
}

fn number(pod: &Pod, annotation: &str) -> Option<i32> {
    let text = pod.metadata.annotations.as_ref()?.get(annotation)?;
    text.parse().ok().filter(|number| *number >= 0)
}

pub fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some() && !matches!(phase(pod), "Failed" | "Succeeded")
}

/// Whether pods that are being deleted are replaced only when they have failed for good.
pub fn replaces_only_failed(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed") || spec.pod_failure_policy.is_some()
}

pub fn has_failed(pod: &Pod, spec: &JobSpec) -> bool {
    phase(pod) == "Failed" || !replaces_only_failed(spec) && is_terminating(pod)
}

/// Failures of the pod's index that count towards its limit, before this pod's own.
pub fn index_failures(pod: &Pod) -> i32 {
    number(pod, INDEX_FAILURES).unwrap_or(0)
}

/// All failures of the pod's index, before this pod's own.
pub fn all_index_failures(pod: &Pod) -> i32 {
    index_failures(pod).saturating_add(number(pod, INDEX_IGNORED_FAILURES).unwrap_or(0))
}

/// When a pod ended: by its containers, else since when it is not ready, else when it was to go.
pub fn finished_at(pod: &Pod) -> Timestamp {
    let by_deletion = || {
        let at = Timestamp::from(pod.metadata.deletion_timestamp.as_ref()?.0);
        Some(at.plus_seconds(-pod.metadata.deletion_grace_period_seconds.unwrap_or(0)))
    };
    let by_condition = || {
        let ready = condition(pod, "Ready").filter(|ready| ready.status == "False")?;
        ready.last_transition_time.as_ref().map(|time| Timestamp::from(time.0))
    };
    let made = || {
        let made = pod.metadata.creation_timestamp.as_ref();
        made.map(|time| Timestamp::from(time.0)).unwrap_or_default()
    };
    finished_by_containers(pod).or_else(by_condition).or_else(by_deletion).unwrap_or_else(made)
}

fn finished_by_containers(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let sidecars: Vec<&str> = pod
        .spec
        .iter()
        .flat_map(|spec| spec.init_containers.iter().flatten())
        .filter(|container| container.restart_policy.as_deref() == Some("Always"))
        .map(|container| container.name.as_str())
        .collect();
    let init = status.init_container_statuses.iter().flatten();
    let init = init.filter(|status| sidecars.contains(&status.name.as_str()));
    let all = status.container_statuses.iter().flatten().chain(init);
    let ended = |status: &ContainerStatus| {
        let ended = status.state.as_ref()?.terminated.as_ref()?;
        ended.finished_at.as_ref().map(|time| Timestamp::from(time.0))
    };
    // All of them must have ended for any of their times to count.
    let times: Option<Vec<Timestamp>> = all.map(ended).collect();
    times?.into_iter().max()
}

/// A pod for the Job; in an indexed Job for one index, after `replaced` failed there.
pub fn new_pod(job: &Job, spec: &JobSpec, index: Option<i32>, replaced: Option<&Pod>) -> Pod {
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
    let mut pod = from_template(&spec.template, namespace, name, reference_to(job));
    let finalizers = pod.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
        finalizers.push(FINALIZER.into());
    }
    let Some(index) = index else { return pod };
    let mut prefix = name.to_owned();
    let suffix = format!("-{index}-");
    prefix.truncate(PREFIX_BYTES_MAX - suffix.len());
    pod.metadata.generate_name = Some(prefix + &suffix);
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(INDEX.into(), index.to_string());
    if spec.backoff_limit_per_index.is_some() {
        note_failures(annotations, spec, replaced);
    }
    pod.metadata.labels.get_or_insert_default().insert(INDEX.into(), index.to_string());
    if let Some(spec) = &mut pod.spec {
        spec.hostname = Some(format!("{name}-{index}"));
        let init = spec.init_containers.iter_mut().flatten();
        init.chain(&mut spec.containers).for_each(tell_index);
    }
    pod
}

fn note_failures(
    annotations: &mut BTreeMap<String, String>,
    spec: &JobSpec,
    replaced: Option<&Pod>,
) {
    let mut counted = replaced.map_or(0, index_failures);
    let mut ignored = replaced.map_or(0, all_index_failures) - counted;
    if let Some(pod) = replaced {
        let counts = policy::judge(spec.pod_failure_policy.as_ref(), pod).counts;
        *(if counts { &mut counted } else { &mut ignored }) += 1;
    }
    annotations.insert(INDEX_FAILURES.into(), counted.to_string());
    if ignored > 0 {
        annotations.insert(INDEX_IGNORED_FAILURES.into(), ignored.to_string());
    }
}

fn tell_index(container: &mut Container) {
    let environment = container.env.get_or_insert_default();
    if environment.iter().any(|variable| variable.name == INDEX_VARIABLE) {
        return;
    }
    environment.push(EnvVar {
        name: INDEX_VARIABLE.into(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: format!("metadata.labels['{INDEX}']"),
                ..ObjectFieldSelector::default()
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    });
}
