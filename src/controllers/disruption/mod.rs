//! Keeps the status of PodDisruptionBudgets, by which evictions are granted, and takes back announcements of
//! disruptions that never came.
//!
//! Keeps: what cannot be counted allows nothing. An eviction is granted elsewhere, in the same object: the
//! status is written with the resourceVersion it was counted from, so that no grant is lost.

mod budget;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kontiki_api::Status;
use kontiki_api::client::{Client, PatchKind};
use kontiki_api::error::Reason;
use kontiki_api::object::time::{Clock, Timestamp};
use kontiki_api::request::Verb;
use serde_json::{Value, json};

use super::ownership::controller_of;
use super::{Context, Loop, dynamic, pods};
use crate::reconcile::{Delta, Informer, Key, Next, Reconcile, Recorder, labels};

const NAME: &str = "disruption-controller";

struct Controller {
    client: Client,
    recorder: Recorder,
    clock: Clock,
    budgets: Informer<PodDisruptionBudget>,
    pods: Informer<Pod>,
    replica_sets: Informer<ReplicaSet>,
    deployments: Informer<Deployment>,
    stateful_sets: Informer<StatefulSet>,
    replication_controllers: Informer<ReplicationController>,
}

pub fn start(context: &Context) -> Vec<Loop> {
    let queue = context.queue(NAME);
    let stale = context.queue("disruption-controller-stale-pods");
    let budgets = context.informers.of::<PodDisruptionBudget>();
    let pods = context.informers.of::<Pod>();
    budgets.on({
        let queue = queue.clone();
        move |delta| queue.add(Key::of(&delta.object().metadata))
    });
    pods.on({
        let (queue, budgets, stale) = (queue.clone(), budgets.clone(), stale.clone());
        move |delta| {
            let metadata = &delta.object().metadata;
            let before = match delta {
                Delta::Updated { old, .. } => &old.metadata,
                _ => metadata,
            };
            for budget in budgets.in_namespace(metadata.namespace.as_deref().unwrap_or_default()) {
                if selects(&budget, metadata) || selects(&budget, before) {
                    queue.add(Key::of(&budget.metadata));
                }
            }
            if pods::condition(delta.object(), "DisruptionTarget").is_some() {
                stale.add(Key::of(metadata));
            }
        }
    });
    let controller = Controller {
        client: context.client(NAME),
        recorder: context.recorder.of(NAME),
        clock: context.clock.clone(),
        budgets,
        pods: pods.clone(),
        replica_sets: context.informers.of(),
        deployments: context.informers.of(),
        stateful_sets: context.informers.of(),
        replication_controllers: context.informers.of(),
    };
    let unsay = Unsay { client: context.client(NAME), clock: context.clock.clone(), pods };
    vec![Loop::new(controller, queue, 1), Loop::new(unsay, stale, 1)]
}

fn selects(
    budget: &PodDisruptionBudget,
    pod: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
) -> bool {
    // An empty selector means every pod; none means none.
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| labels::matches(selector, pod))
}

impl Reconcile for Controller {
    type Key = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Status> {
        let Some(budget) = self.budgets.get(key) else { return Ok(Next::WhenChanged) };
        let mut selected = self.pods.in_namespace(&key.namespace);
        selected.retain(|pod| selects(&budget, &pod.metadata));
        if selected.is_empty() {
            self.recorder.normal(budget.as_ref(), "NoPods", "No matching pods found");
        }
        let now = self.clock.now();
        let scale = if budget::asks_for_scale(&budget) {
            self.scale(&budget, &selected).await
        } else {
            Ok(0)
        };
        let (status, failed) = match scale {
            Ok(scale) => (budget::status(&budget, &selected, scale, now), None),
            Err(status) => {
                let message = format!("Failed to calculate the number of expected pods: {status}");
                self.recorder.warning(budget.as_ref(), "CalculateExpectedPodCountFailed", message);
                (budget::failed(&budget, status.message(), now), Some(status))
            }
        };
        let soonest = status.disrupted_pods.iter().flatten().map(|(_, since)| since.0).min();
        if budget.status.as_ref() != Some(&status) {
            let updated = PodDisruptionBudget { status: Some(status), ..(*budget).clone() };
            match self.client.update_status(&updated).await {
                Err(status) if !status.is(Reason::NotFound) => return Err(status),
                _ => {}
            }
        }
        if let Some(failed) = failed {
            return Err(failed);
        }
        Ok(soonest.map_or(Next::WhenChanged, |since| {
            after(Timestamp::from(since).plus_seconds(budget::EVICTION_S), now)
        }))
    }
}

/// Again when `due` is past.
fn after(due: Timestamp, now: Timestamp) -> Next {
    let micros = u64::try_from(due.micros_since(now)).unwrap_or(0);
    Next::After(Duration::from_micros(micros) + Duration::from_secs(1))
}

impl Controller {
    /// How many pods the controllers of `selected` want together.
    async fn scale(
        &self,
        budget: &PodDisruptionBudget,
        selected: &[Arc<Pod>],
    ) -> Result<i32, Status> {
        let mut owners: BTreeMap<&str, &OwnerReference> = BTreeMap::new();
        let mut unmanaged = Vec::new();
        for pod in selected {
            match controller_of(&pod.metadata) {
                Some(owner) => drop(owners.insert(&owner.uid, owner)),
                None => unmanaged.push(pod.metadata.name.as_deref().unwrap_or_default()),
            }
        }
        if !unmanaged.is_empty() {
            let names = unmanaged.join(", ");
            let message = format!(
                "Pods selected by this PodDisruptionBudget were found to be unmanaged. As a \
                 result, the status of the PDB cannot be calculated correctly, which may result \
                 in undefined behavior. To account for these pods please set \
                 \".spec.minAvailable\" field of the PDB to an integer value. Pods: {names}"
            );
            self.recorder.warning(budget, "UnmanagedPods", message);
        }
        let namespace = budget.metadata.namespace.as_deref().unwrap_or_default();
        let mut scales: BTreeMap<String, i32> = BTreeMap::new();
        for owner in owners.values() {
            let (uid, replicas) = self.scale_of(namespace, owner).await?;
            scales.insert(uid, replicas);
        }
        Ok(scales.into_values().fold(0, i32::saturating_add))
    }

    /// What one controller wants; for a ReplicaSet of a Deployment, what that wants.
    async fn scale_of(
        &self,
        namespace: &str,
        owner: &OwnerReference,
    ) -> Result<(String, i32), Status> {
        let key = Key::new(namespace, &owner.name);
        let found = match (owner.api_version.as_str(), owner.kind.as_str()) {
            ("apps/v1", "ReplicaSet") => {
                let set = self.replica_sets.get(&key);
                let set = set.filter(|it| it.metadata.uid.as_ref() == Some(&owner.uid));
                let above = set.as_ref().and_then(|set| controller_of(&set.metadata));
                if let Some(above) = above.filter(|it| it.kind == "Deployment") {
                    let deployment = self.deployments.get(&Key::new(namespace, &above.name));
                    deployment
                        .filter(|it| it.metadata.uid.as_ref() == Some(&above.uid))
                        .map(|it| (above.uid.clone(), it.spec.replicas))
                } else {
                    set.map(|it| (owner.uid.clone(), it.spec.replicas))
                }
            }
            ("apps/v1", "StatefulSet") => {
                let set = self.stateful_sets.get(&key);
                set.filter(|it| it.metadata.uid.as_ref() == Some(&owner.uid))
                    .map(|it| (owner.uid.clone(), it.spec.replicas))
            }
            ("v1", "ReplicationController") => {
                let controller = self.replication_controllers.get(&key);
                controller
                    .filter(|it| it.metadata.uid.as_ref() == Some(&owner.uid))
                    .map(|it| (owner.uid.clone(), it.spec.as_ref().and_then(|it| it.replicas)))
            }
            _ => return self.scale_by_subresource(namespace, owner).await,
        };
        match found {
            Some((uid, replicas)) => Ok((uid, replicas.unwrap_or(1))),
            None => Err(Status::internal(format!("found no controller {key} of the pods"))),
        }
    }

    /// Anything else that has a `scale`.
    async fn scale_by_subresource(
        &self,
        namespace: &str,
        owner: &OwnerReference,
    ) -> Result<(String, i32), Status> {
        let served = self.client.resources().await?;
        let found = served.into_iter().find(|one| {
            one.kind == owner.kind
                && one.resource.group_version().to_string() == owner.api_version
                && !one.resource.resource.contains('/')
        });
        let OwnerReference { api_version, kind, name, .. } = owner;
        let Some(served) = found else {
            return Err(Status::internal(format!("{api_version}/{kind} is not served")));
        };
        let mut request = dynamic::request(Verb::Get, &served.resource, namespace, name);
        request.subresource = Some("scale".into());
        let bytes = self.client.call(request).await?;
        let scale: Value = serde_json::from_slice(&bytes).map_err(Status::internal)?;
        let uid = scale["metadata"]["uid"].as_str();
        if uid != Some(owner.uid.as_str()) {
            return Err(Status::internal(format!("{kind} {name} is not the pods' controller")));
        }
        let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
        Ok((owner.uid.clone(), i32::try_from(replicas).unwrap_or(i32::MAX)))
    }
}

/// Takes back what was announced of a pod and did not happen.
struct Unsay {
    client: Client,
    clock: Clock,
    pods: Informer<Pod>,
}

impl Reconcile for Unsay {
    type Key = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Status> {
        let Some(pod) = self.pods.get(key) else { return Ok(Next::WhenChanged) };
        let now = self.clock.now();
        let Some(due) = unsaid_at(&pod) else { return Ok(Next::WhenChanged) };
        if due > now {
            return Ok(after(due, now));
        }
        let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [{
            "type": "DisruptionTarget", "status": "False",
            "lastTransitionTime": now.rfc3339()}]}});
        let kind = PatchKind::Strategic;
        let status = Some("status");
        match self.client.patch::<Pod>(&key.namespace, &key.name, kind, &patch, status).await {
            Err(status) if !status.is(Reason::NotFound) && !status.is(Reason::Conflict) => {
                Err(status)
            }
            _ => Ok(Next::WhenChanged),
        }
    }
}

/// When an announcement counts as broken; `None` where there is none to take back.
fn unsaid_at(pod: &Pod) -> Option<Timestamp> {
    let target = pods::condition(pod, "DisruptionTarget").filter(|it| it.status == "True")?;
    if pod.metadata.deletion_timestamp.is_some() || pods::is_finished(pod) {
        return None;
    }
    let since = target.last_transition_time.as_ref()?;
    Some(Timestamp::from(since.0).plus_seconds(budget::EVICTION_S))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_is_taken_back_only_from_a_pod_that_stays() {
        let pod = |phase: &str, state: &str, deletion: Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p", "deletionTimestamp": deletion},
                "status": {"phase": phase, "conditions": [{"type": "DisruptionTarget",
                    "status": state, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}))
            .unwrap()
        };
        let due = Timestamp::parse("2026-01-01T00:02:00Z");
        assert_eq!(unsaid_at(&pod("Running", "True", Value::Null)), due);
        assert_eq!(unsaid_at(&pod("Running", "False", Value::Null)), None);
        assert_eq!(unsaid_at(&pod("Failed", "True", Value::Null)), None);
        assert_eq!(unsaid_at(&pod("Running", "True", json!("2026-01-01T00:00:00Z"))), None);
    }
}
