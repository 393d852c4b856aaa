//! Keeps the number of pods that a ReplicaSet, or its elder the ReplicationController, asks for.
//!
//! Keeps: never more pods than asked for because the informer is behind (see `reconcile::pending`).

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ListableResource;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetSpec};
use k8s_openapi::api::core::v1::{
    Pod, PodTemplateSpec, ReplicationController, ReplicationControllerCondition,
    ReplicationControllerSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use kontiki_api::Status;
use kontiki_api::client::{Client, Typed};
use kontiki_api::error::Reason;
use kontiki_api::object::time::{Clock, Timestamp};

use super::ownership::{candidates, claim_all, enqueue_owner, index_by_controller, reference_to};
use super::pod_writer::PodWriter;
use super::{Context, Loop, WORKERS, pods};
use crate::reconcile::{Informer, Key, Next, Reconcile, labels};

/// Pods that one look creates or deletes at most.
const BURST: usize = 500;
/// How soon a key is looked at again whose own changes have not been seen yet.
const UNSEEN_RETRY: Duration = Duration::from_secs(2);

/// What keeps a number of pods: the two kinds differ in little else than their names.
trait Replicated: Typed + ListableResource + Clone {
    const NAME: &'static str;

    fn replicas(&self) -> usize;
    fn min_ready_s(&self) -> i32;
    fn selector(&self) -> LabelSelector;
    fn template(&self) -> Option<&PodTemplateSpec>;
    fn counts(&self) -> Counts;
    /// Why pods could not be made, as the status has it.
    fn failure(&self) -> Option<Failure>;
    fn with_status(&self, counts: Counts, failure: Option<Failure>) -> Self;
}

/// The numbers of a status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Counts {
    replicas: i32,
    fully_labeled: i32,
    ready: i32,
    available: i32,
    observed_generation: i64,
}

/// The condition `ReplicaFailure`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Failure {
    reason: String,
    message: String,
    since: Timestamp,
}

struct Controller<K> {
    client: Client,
    clock: Clock,
    owners: Informer<K>,
    pods: Informer<Pod>,
    writer: PodWriter,
}

pub fn start(context: &Context) -> Vec<Loop> {
    vec![prepare::<ReplicaSet>(context)]
}

pub fn start_replication_controllers(context: &Context) -> Vec<Loop> {
    vec![prepare::<ReplicationController>(context)]
}

fn prepare<K: Replicated>(context: &Context) -> Loop {
    let queue = context.queue(K::NAME);
    let owners = context.informers.of::<K>();
    let pods = context.informers.of::<Pod>();
    index_by_controller(&pods);
    owners.on({
        let queue = queue.clone();
        move |delta| queue.add(Key::of(delta.object().metadata()))
    });
    pods.on({
        let (queue, owners) = (queue.clone(), owners.clone());
        move |delta| enqueue_owner(delta, &owners, &queue, K::selector)
    });
    let controller = Controller {
        client: context.client(K::NAME),
        writer: PodWriter::new(context.client(K::NAME), context.recorder.of(K::NAME)),
        clock: context.clock.clone(),
        owners,
        pods,
    };
    Loop::new(controller, queue, WORKERS)
}

impl<K: Replicated> Reconcile for Controller<K> {
    type Key = Key;

    fn name(&self) -> &'static str {
        K::NAME
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Status> {
        let Some(owner) = self.owners.get(key) else {
            self.writer.forget(key);
            return Ok(Next::WhenChanged);
        };
        let selector = owner.selector();
        let selected = |pod: &Pod| labels::selects(&selector, &pod.metadata);
        let found = candidates(&self.pods, owner.metadata());
        let found: Vec<_> = found.into_iter().filter(|pod| !pods::is_finished(pod)).collect();
        let owned = claim_all(&self.client, owner.as_ref(), found, selected).await?;
        let active: Vec<_> = owned.into_iter().filter(|pod| pods::is_active(pod)).collect();

        let seen = self.writer.seen(key, &self.pods);
        let going = owner.metadata().deletion_timestamp.is_some();
        let mut failed = None;
        if seen && !going {
            failed = self.balance(key, owner.as_ref(), &active).await.err();
        }
        let unavailable = self.report(owner.as_ref(), &active, failed.as_ref()).await?;
        match (failed, seen) {
            (Some(status), _) => Err(status),
            (None, false) => Ok(Next::After(UNSEEN_RETRY)),
            (None, true) => Ok(unavailable.map_or(Next::WhenChanged, Next::After)),
        }
    }
}

impl<K: Replicated> Controller<K> {
    /// Creates what is missing, or deletes what is too many.
    async fn balance(&self, key: &Key, owner: &K, active: &[Arc<Pod>]) -> Result<(), Status> {
        let wanted = owner.replicas();
        match active.len().cmp(&wanted) {
            Ordering::Equal => Ok(()),
            Ordering::Less => self.create(key, owner, (wanted - active.len()).min(BURST)).await,
            Ordering::Greater => {
                let too_many = surplus(active, wanted);
                let gone = too_many.iter().take(BURST).map(AsRef::as_ref);
                self.writer.delete_all(key, owner, gone).await
            }
        }
    }

    async fn create(&self, key: &Key, owner: &K, count: usize) -> Result<(), Status> {
        let Some(template) = owner.template() else { return Ok(()) };
        let pod = pods::from_template(template, &key.namespace, &key.name, reference_to(owner));
        self.writer.create(key, owner, &vec![pod; count]).await
    }

    /// Writes the status if it changed. Tells when the next ready pod becomes available.
    async fn report(
        &self,
        owner: &K,
        active: &[Arc<Pod>],
        failed: Option<&Status>,
    ) -> Result<Option<Duration>, Status> {
        let now = self.clock.now();
        let counts = count(owner, active, now);
        let failure = failed.map(|status| Failure {
            reason: if active.len() < owner.replicas() { "FailedCreate" } else { "FailedDelete" }
                .into(),
            message: status.message().to_owned(),
            since: owner.failure().map_or(now, |before| before.since),
        });
        let said = |failure: &Option<Failure>| failure.as_ref().map(|it| it.reason.clone());
        if counts != owner.counts() || said(&failure) != said(&owner.failure()) {
            let updated = owner.with_status(counts.clone(), failure);
            match self.client.update_status(&updated).await {
                Ok(_) => {}
                Err(status) if status.is(Reason::NotFound) => return Ok(None),
                Err(status) => return Err(status),
            }
        }
        let soonest = active
            .iter()
            .filter_map(|pod| pods::available_in_s(pod, owner.min_ready_s(), now))
            .filter(|seconds| *seconds > 0)
            .min();
        Ok(soonest.map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(1))))
    }
}

fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

/// The pods that go when only `wanted` may stay.
fn surplus(active: &[Arc<Pod>], wanted: usize) -> Vec<Arc<Pod>> {
    let mut crowd: HashMap<&str, usize> = HashMap::new();
    for pod in active {
        *crowd.entry(node_of(pod)).or_insert(0) += 1;
    }
    let mut ordered = active.to_vec();
    let on_node = |pod: &Pod| crowd.get(node_of(pod)).copied().unwrap_or(0);
    ordered.sort_by(|a, b| pods::deleted_first(a, b, on_node));
    ordered.truncate(active.len().saturating_sub(wanted));
    ordered
}

fn count<K: Replicated>(owner: &K, active: &[Arc<Pod>], now: Timestamp) -> Counts {
    let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let of = |what: &dyn Fn(&Pod) -> bool| number(active.iter().filter(|pod| what(pod)).count());
    let template = owner.template().and_then(|template| template.metadata.as_ref());
    let wanted = template.and_then(|metadata| metadata.labels.clone()).unwrap_or_default();
    Counts {
        replicas: number(active.len()),
        fully_labeled: of(&|pod| {
            let labels = pod.metadata.labels.as_ref();
            wanted.iter().all(|(key, value)| labels.and_then(|it| it.get(key)) == Some(value))
        }),
        ready: of(&pods::is_ready),
        available: of(&|pod| pods::is_available(pod, owner.min_ready_s(), now)),
        observed_generation: owner.metadata().generation.unwrap_or(0),
    }
}

fn whole(replicas: Option<i32>) -> usize {
    usize::try_from(replicas.unwrap_or(1)).unwrap_or(0)
}

const FAILURE: &str = "ReplicaFailure";

macro_rules! replicated {
    ($kind:ty, $name:literal, $condition:ident, $spec:expr, $selector:expr) => {
        impl Replicated for $kind {
            const NAME: &'static str = $name;

            fn replicas(&self) -> usize {
                let spec = $spec(self);
                spec.map_or(0, |spec| whole(spec.replicas))
            }

            fn min_ready_s(&self) -> i32 {
                $spec(self).and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
            }

            fn selector(&self) -> LabelSelector {
                $selector(self)
            }

            fn template(&self) -> Option<&PodTemplateSpec> {
                $spec(self)?.template.as_ref()
            }

            fn counts(&self) -> Counts {
                let status = self.status.clone().unwrap_or_default();
                Counts {
                    replicas: status.replicas,
                    fully_labeled: status.fully_labeled_replicas.unwrap_or(0),
                    ready: status.ready_replicas.unwrap_or(0),
                    available: status.available_replicas.unwrap_or(0),
                    observed_generation: status.observed_generation.unwrap_or(0),
                }
            }

            fn failure(&self) -> Option<Failure> {
                let conditions = self.status.as_ref()?.conditions.as_ref()?;
                let found = conditions.iter().find(|it| it.type_.word() == FAILURE)?;
                Some(Failure {
                    reason: found.reason.clone().unwrap_or_default(),
                    message: found.message.clone().unwrap_or_default(),
                    since: found
                        .last_transition_time
                        .as_ref()
                        .map(|time| time.0.into())
                        .unwrap_or_default(),
                })
            }

            fn with_status(&self, counts: Counts, failure: Option<Failure>) -> Self {
                let mut status = self.status.clone().unwrap_or_default();
                let mut conditions = status.conditions.take().unwrap_or_default();
                conditions.retain(|it| it.type_.word() != FAILURE);
                conditions.extend(failure.map(|failure| $condition {
                    type_: Word::from_word(FAILURE),
                    status: Word::from_word("True"),
                    reason: Some(failure.reason),
                    message: Some(failure.message),
                    last_transition_time: Some(Time(failure.since.moment())),
                }));
                // Zeros are left out, as upstream's own statuses do.
                let some = |count: i32| Some(count).filter(|count| *count != 0);
                status.replicas = counts.replicas;
                status.fully_labeled_replicas = some(counts.fully_labeled);
                status.ready_replicas = some(counts.ready);
                status.available_replicas = some(counts.available);
                status.observed_generation =
                    Some(counts.observed_generation).filter(|number| *number != 0);
                status.conditions = Some(conditions).filter(|all| !all.is_empty());
                Self { status: Some(status), ..self.clone() }
            }
        }
    };
}

/// A text of a condition, which one of the kinds has as optional.
trait Word {
    fn word(&self) -> &str;
    fn from_word(word: &str) -> Self;
}

impl Word for String {
    fn word(&self) -> &str {
        self
    }

    fn from_word(word: &str) -> Self {
        word.into()
    }
}

impl Word for Option<String> {
    fn word(&self) -> &str {
        self.as_deref().unwrap_or_default()
    }

    fn from_word(word: &str) -> Self {
        Some(word.into())
    }
}

fn spec_of_set(it: &ReplicaSet) -> Option<&ReplicaSetSpec> {
    Some(&it.spec)
}

fn spec_of_controller(it: &ReplicationController) -> Option<&ReplicationControllerSpec> {
    it.spec.as_ref()
}

replicated!(
    ReplicaSet,
    "replicaset-controller",
    ReplicaSetCondition,
    spec_of_set,
    |it: &ReplicaSet| it.spec.selector.clone()
);
replicated!(
    ReplicationController,
    "replicationcontroller-controller",
    ReplicationControllerCondition,
    spec_of_controller,
    |it: &ReplicationController| LabelSelector {
        match_labels: it.spec.as_ref().and_then(|spec| spec.selector.clone()),
        ..LabelSelector::default()
    }
);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn replica_set(replicas: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u", "generation": 3},
            "spec": {"replicas": replicas, "minReadySeconds": 10,
                "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}}}}))
        .unwrap()
    }

    fn pod(name: &str, node: &str, ready_at: &str) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "labels": {"app": "web"}},
                    "spec": {"nodeName": node, "containers": []},
                "status": {"phase": "Running", "conditions": [
                    {"type": "Ready", "status": "True", "lastTransitionTime": ready_at}]}}))
            .unwrap(),
        )
    }

    #[test]
    fn of_equal_pods_those_go_that_share_a_node() {
        let at = "2026-01-01T00:00:00Z";
        let pods = [pod("a", "n1", at), pod("b", "n2", at), pod("c", "n2", at)];
        let gone = surplus(&pods, 2);
        assert_eq!(gone.len(), 1);
        assert_eq!(gone[0].spec.as_ref().unwrap().node_name.as_deref(), Some("n2"));
        assert!(surplus(&pods, 3).is_empty());
        assert!(surplus(&pods, 9).is_empty());
    }

    #[test]
    fn a_status_counts_ready_apart_from_available() {
        let now = Timestamp::parse("2026-01-01T00:01:00Z").unwrap();
        let pods = [pod("a", "n1", "2026-01-01T00:00:00Z"), pod("b", "n1", "2026-01-01T00:00:55Z")];
        let counts = count(&replica_set(2), &pods, now);
        let expected = Counts {
            replicas: 2,
            fully_labeled: 2,
            ready: 2,
            available: 1,
            observed_generation: 3,
        };
        assert_eq!(counts, expected);
        assert_eq!(replica_set(2).with_status(counts.clone(), None).counts(), counts);
    }

    #[test]
    fn a_failure_is_a_condition_that_goes_when_it_is_over() {
        let failure = Failure {
            reason: "FailedCreate".into(),
            message: "no".into(),
            since: Timestamp::from_seconds(5),
        };
        let failed = replica_set(1).with_status(Counts::default(), Some(failure.clone()));
        assert_eq!(failed.failure(), Some(failure));
        assert_eq!(failed.with_status(Counts::default(), None).failure(), None);
    }
}
