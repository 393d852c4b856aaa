//! PodSecurity: pods are as safe as the labels of their namespace ask; workloads are warned before their pods
//! are refused.
//!
//! Keeps: only pods are refused. Of a namespace whose level rises, the pods that are there are named in
//! warnings.

pub mod checks;
pub mod policy;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::Value;

use super::{Attempt, Operation, Plugin};
use crate::error::Status;
use crate::kinds::kind::Stored;
use crate::live::pod::items;
use crate::live::{self, Live};
use crate::objects::Objects;

use checks::{Pod, details, evaluate, reasons};
use policy::{Level, Policy, Standard};

/// Pods of a namespace that are looked at when its level rises.
const PODS_MAX: u64 = 3000;
/// What a pod does not change by them.
const IGNORED: [&str; 8] =
    ["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];
/// Which resources make pods, and where their template is.
const TEMPLATES: [(&str, &str, &str); 8] = [
    ("", "podtemplates", "/template"),
    ("", "replicationcontrollers", "/spec/template"),
    ("apps", "daemonsets", "/spec/template"),
    ("apps", "deployments", "/spec/template"),
    ("apps", "replicasets", "/spec/template"),
    ("apps", "statefulsets", "/spec/template"),
    ("batch", "cronjobs", "/spec/jobTemplate/spec/template"),
    ("batch", "jobs", "/spec/template"),
];

pub(super) struct PodSecurity {
    live: Arc<Live>,
    objects: Objects,
    pods: Stored,
    namespaces: Stored,
}

impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn validate<'a>(&'a self, attempt: &'a mut Attempt<'_>) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            if !matches!(attempt.operation, Operation::Create | Operation::Update) {
                return Ok(());
            }
            if attempt.is_of("", "namespaces") {
                return self.namespace(attempt);
            }
            if attempt.is_below("", "pods") {
                return self.pod(attempt).await;
            }
            let template =
                TEMPLATES.iter().find(|(group, resource, _)| attempt.is_of(group, resource));
            match template {
                Some((.., path)) => self.workload(attempt, path).await,
                None => Ok(()),
            }
        })
    }
}

impl PodSecurity {
    pub(super) fn new(live: Arc<Live>, objects: Objects) -> PodSecurity {
        PodSecurity {
            live,
            objects,
            pods: live::stored("", "pods", "v1", "Pod"),
            namespaces: live::stored("", "namespaces", "v1", "Namespace"),
        }
    }

    async fn policy(&self, namespace: &str) -> Result<Policy, Status> {
        let found = match self.live.namespaces.get("", namespace) {
            Some(found) => Some(found),
            None => live::find(&self.objects, &self.namespaces, "", namespace).await?,
        };
        let why = || Status::internal(format!("failed to lookup namespace {namespace:?}"));
        Ok(policy::read(&found.ok_or_else(why)?.value()?["metadata"]["labels"]).0)
    }

    async fn pod(&self, attempt: &mut Attempt<'_>) -> Result<(), Status> {
        let Some(object) = &attempt.object else { return Ok(()) };
        let updated = attempt.old.filter(|_| attempt.operation == Operation::Update);
        if IGNORED.contains(&attempt.subresource)
            || updated.is_some_and(|old| !is_significant(object, old))
        {
            return Ok(());
        }
        let policy = self.policy(attempt.namespace).await?;
        let judgement = judge(policy, pod_of(object), Mode::Enforce);
        tell(attempt, judgement)
    }

    async fn workload(&self, attempt: &mut Attempt<'_>, template: &str) -> Result<(), Status> {
        let template = attempt.object.as_ref().and_then(|object| object.pointer(template));
        let Some(template) = template.filter(|it| it.is_object()) else { return Ok(()) };
        let policy = self.policy(attempt.namespace).await?;
        let judgement = judge(policy, pod_of(template), Mode::Warn);
        tell(attempt, judgement)
    }

    fn namespace(&self, attempt: &mut Attempt<'_>) -> Result<(), Status> {
        let labels = |object: Option<&Value>| object.map(|it| it["metadata"]["labels"].clone());
        let new = labels(attempt.object.as_ref()).unwrap_or_default();
        let (policy, wrong) = policy::read(&new);
        let Some(old) = labels(attempt.old) else {
            return refuse_labels(attempt, wrong);
        };
        let (before, wrong_before) = policy::read(&old);
        if wrong != wrong_before {
            refuse_labels(attempt, wrong)?;
        }
        let (now, then) = (policy.enforce, before.enforce);
        let lenient = now.version == then.version && now.level <= then.level;
        if now == then || now.level == Level::Privileged || lenient {
            return Ok(());
        }
        let name = attempt.name.to_owned();
        attempt.warnings.extend(self.violations_in(&name, now)?);
        Ok(())
    }

    /// What pods that run already would be refused for.
    fn violations_in(&self, namespace: &str, standard: Standard) -> Result<Vec<String>, Status> {
        let (pods, total) = live::first(&self.objects, &self.pods, namespace, PODS_MAX)?;
        let total = usize::try_from(total).unwrap_or(usize::MAX);
        let pods: Vec<&Value> = pods.iter().filter_map(|pod| pod.value().ok()).collect();
        Ok(warnings_of(&pods, total, namespace, standard))
    }
}

fn refuse_labels(attempt: &Attempt<'_>, wrong: Vec<crate::error::Cause>) -> Result<(), Status> {
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(&attempt.kind.group_kind(), attempt.name, wrong))
}

fn pod_of(object: &Value) -> Pod<'_> {
    Pod { metadata: &object["metadata"], spec: &object["spec"] }
}

/// What comes of looking at one pod.
#[derive(Debug, Default, PartialEq, Eq)]
struct Judgement {
    refused: Option<String>,
    warning: Option<String>,
    annotations: Vec<(String, String)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Enforce,
    Warn,
}

fn judge(policy: Policy, pod: Pod<'_>, mode: Mode) -> Judgement {
    let violations = |standard: Standard| {
        let found = evaluate(standard, pod);
        let standard = standard.to_string();
        let text = format!("violate PodSecurity {standard:?}: {}", details(&found));
        (!found.is_empty()).then_some(text)
    };
    let mut judgement = Judgement::default();
    let annotation =
        |key: &str, value: String| (format!("pod-security.kubernetes.io/{key}"), value);
    if mode == Mode::Enforce {
        judgement.annotations.push(annotation("enforce-policy", policy.enforce.to_string()));
        let found = violations(policy.enforce);
        judgement.refused = found.map(|text| text.replacen("violate", "violates", 1));
    }
    if let Some(text) = violations(policy.audit) {
        judgement.annotations.push(annotation("audit-violations", format!("would {text}")));
    }
    if judgement.refused.is_none() {
        judgement.warning = violations(policy.warn).map(|text| format!("would {text}"));
    }
    judgement
}

fn tell(attempt: &mut Attempt<'_>, judgement: Judgement) -> Result<(), Status> {
    attempt.annotations.extend(judgement.annotations);
    attempt.warnings.extend(judgement.warning);
    match judgement.refused {
        Some(why) => Err(attempt.forbidden(&why)),
        None => Ok(()),
    }
}

/// Whether an update of a pod changes what the checks look at: which containers there are, and their images.
fn is_significant(new: &Value, old: &Value) -> bool {
    let images = |pod: &Value, list: &str| -> Vec<Value> {
        items(&pod["spec"][list]).map(|container| container["image"].clone()).collect()
    };
    let changed = |list: &str| images(new, list) != images(old, list);
    let ephemeral_changed = items(&new["spec"]["ephemeralContainers"]).any(|container| {
        let mut before = items(&old["spec"]["ephemeralContainers"]);
        let before = before.find(|it| it["name"] == container["name"]);
        before.is_none_or(|before| before["image"] != container["image"])
    });
    changed("containers") || changed("initContainers") || ephemeral_changed
}

/// One line for each kind of violation, with the pod that is first by name and how many others there are. Of
/// the pods of one controller, one is looked at first.
fn warnings_of(pods: &[&Value], total: usize, namespace: &str, standard: Standard) -> Vec<String> {
    let mut controllers = HashSet::new();
    let (first, copies): (Vec<&Value>, Vec<&Value>) = pods.iter().partition(|pod| {
        let mut owners = items(&pod["metadata"]["ownerReferences"]);
        let controller = owners.find(|owner| owner["controller"] == true);
        controller.is_none_or(|owner| controllers.insert(owner["uid"].to_string()))
    });
    let mut by_violation: BTreeMap<String, (String, usize)> = BTreeMap::new();
    for pod in first.into_iter().chain(copies) {
        let found = evaluate(standard, pod_of(pod));
        if found.is_empty() {
            continue;
        }
        let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let entry = by_violation.entry(reasons(&found)).or_insert_with(|| (name.clone(), 0));
        entry.1 += 1;
        if name < entry.0 {
            entry.0 = name;
        }
    }
    let mut warnings = Vec::new();
    if pods.len() < total {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {} of {total} existing \
             pods",
            pods.len()
        ));
    }
    if !by_violation.is_empty() {
        let standard = standard.to_string();
        warnings.push(format!(
            "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \
             {standard:?}"
        ));
    }
    let mut lines: Vec<String> = by_violation
        .into_iter()
        .map(|(violation, (name, count))| match count {
            1 => format!("{name}: {violation}"),
            2 => format!("{name} (and 1 other pod): {violation}"),
            _ => format!("{name} (and {} other pods): {violation}", count - 1),
        })
        .collect();
    lines.sort();
    warnings.append(&mut lines);
    warnings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_of_a_namespace_that_is_tightened_are_counted_by_what_is_wrong() {
        let pod = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
        let pods = [
            pod("b", json!({"hostNetwork": true})),
            pod("a", json!({"hostNetwork": true})),
            pod(
                "c",
                json!({"hostPID": true, "containers": [
                    {"name": "x", "securityContext": {"privileged": true}},
                ]}),
            ),
            pod("d", json!({})),
        ];
        let pods: Vec<&Value> = pods.iter().collect();
        let standard = Standard { level: Level::Baseline, ..Standard::default() };
        assert_eq!(
            warnings_of(&pods, 4, "ns", standard),
            [
                "existing pods in namespace \"ns\" violate the new PodSecurity enforce level \
                 \"baseline:latest\"",
                "a (and 1 other pod): host namespaces",
                "c: host namespaces, privileged",
            ]
        );
        assert_eq!(
            warnings_of(&pods[3..], 4, "ns", standard),
            ["new PodSecurity enforce level only checked against the first 1 of 4 existing pods"]
        );
    }

    #[test]
    fn a_pod_is_refused_warned_of_and_noted_by_mode() {
        let spec = json!({"hostNetwork": true});
        let pod = Pod { metadata: &Value::Null, spec: &spec };
        let baseline = Standard { level: Level::Baseline, ..Standard::default() };
        let all = Policy { enforce: baseline, audit: baseline, warn: baseline };
        let judgement = judge(all, pod, Mode::Enforce);
        assert_eq!(
            judgement.refused.as_deref(),
            Some("violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)")
        );
        assert_eq!(judgement.warning, None);
        assert_eq!(judgement.annotations.len(), 2);
        let judgement = judge(all, pod, Mode::Warn);
        assert_eq!(judgement.refused, None);
        assert_eq!(
            judgement.warning.as_deref(),
            Some(
                "would violate PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)"
            )
        );
    }

    #[test]
    fn only_images_and_containers_make_an_update_significant() {
        let old = json!({"spec": {"containers": [{"name": "a", "image": "x"}]}});
        let mut new = old.clone();
        new["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
        assert!(!is_significant(&new, &old));
        new["spec"]["ephemeralContainers"] = json!([{"name": "d", "image": "y"}]);
        assert!(is_significant(&new, &old));
        let mut new = old.clone();
        new["spec"]["containers"][0]["image"] = "z".into();
        assert!(is_significant(&new, &old));
    }
}
