//! Pods of a StatefulSet with names and storage of their own, made, updated and taken away in order.
//!
//! The decision is [`plan`], who a pod is, [`pods`]; the history of templates is in `revisions`.
//!
//! Keeps: a pod is made after its claims, never from a claim that goes with an earlier pod of its name;
//! nothing is decided before the informers show what was done.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kontiki_api::Status;
use kontiki_api::client::{Client, DeleteOptions, Preconditions};
use kontiki_api::error::Reason;
use kontiki_api::object::time::Clock;

use super::ownership::{candidates, claim_all, enqueue_owner, index_by_controller, reference_to};
use super::revisions::{self, template_of};
use super::service_account::is_settled;
use super::{Context, Loop, WORKERS};
use crate::reconcile::{Informer, Key, Next, Pending, Reconcile, Recorder, labels};

mod plan;
mod pods;
#[cfg(test)]
mod tests;

use plan::{Plan, Seen, Version};

const NAME: &str = "statefulset-controller";
const HASH_LABEL: &str = "controller.kubernetes.io/hash";
const UNSEEN_RETRY: Duration = Duration::from_secs(2);

struct Controller {
    client: Client,
    recorder: Recorder,
    clock: Clock,
    sets: Informer<StatefulSet>,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
    history: Informer<ControllerRevision>,
    pending: Pending,
    /// The set's own status, which says what its pods were rolled out to last.
    pending_sets: Pending,
}

pub fn start(context: &Context) -> Vec<Loop> {
    let queue = context.queue(NAME);
    let sets = context.informers.of::<StatefulSet>();
    let pods = context.informers.of::<Pod>();
    let history = context.informers.of::<ControllerRevision>();
    index_by_controller(&pods);
    index_by_controller(&history);
    let selector = |set: &StatefulSet| set.spec.selector.clone();
    sets.on({
        let queue = queue.clone();
        move |delta| queue.add(Key::of(&delta.object().metadata))
    });
    pods.on({
        let (queue, sets) = (queue.clone(), sets.clone());
        move |delta| enqueue_owner(delta, &sets, &queue, selector)
    });
    history.on({
        let (queue, sets) = (queue.clone(), sets.clone());
        move |delta| enqueue_owner(delta, &sets, &queue, selector)
    });
    let controller = Controller {
        client: context.client(NAME),
        recorder: context.recorder.of(NAME),
        clock: context.clock.clone(),
        sets,
        pods,
        claims: context.informers.of::<PersistentVolumeClaim>(),
        history,
        pending: Pending::default(),
        pending_sets: Pending::default(),
    };
    vec![Loop::new(controller, queue, WORKERS)]
}

impl Reconcile for Controller {
    type Key = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Status> {
        let Some(set) = self.sets.get(key) else {
            self.pending.forget(key);
            self.pending_sets.forget(key);
            return Ok(Next::WhenChanged);
        };
        if !self.pending.seen(key, &self.pods) || !self.pending_sets.seen(key, &self.sets) {
            return Ok(Next::After(UNSEEN_RETRY));
        }
        let selector = &set.spec.selector;
        let found = candidates(&self.pods, &set.metadata);
        let pods = claim_all(&self.client, set.as_ref(), found, |pod: &Pod| {
            labels::selects(selector, &pod.metadata) && pods::ordinal(&set, pod).is_some()
        })
        .await?;
        let found = candidates(&self.history, &set.metadata);
        let mut known = claim_all(&self.client, set.as_ref(), found, |it: &ControllerRevision| {
            labels::selects(selector, &it.metadata)
        })
        .await?;
        let status = set.status.clone().unwrap_or_default();
        let owner = revisions::Owner {
            metadata: &set.metadata,
            reference: reference_to(set.as_ref()),
            template: &set.spec.template,
            collisions: Some(status.collision_count.unwrap_or(0)),
            hash_label: HASH_LABEL,
        };
        let Some(update) = revisions::current(&self.client, &owner, &known).await? else {
            let collisions = status.collision_count.unwrap_or(0).saturating_add(1);
            let status = StatefulSetStatus { collision_count: Some(collisions), ..status };
            self.report(key, &set, status).await?;
            return Ok(Next::Again);
        };
        let current = status.current_revision.as_deref();
        let current = known.iter().find(|it| Some(revisions::name(it)) == current);
        let current = current.unwrap_or(&update).clone();
        let current_template = template_of(&current).unwrap_or_else(|| set.spec.template.clone());
        let plan = plan::plan(&Seen {
            set: &set,
            pods: &pods,
            current: Version { name: revisions::name(&current), template: &current_template },
            update: Version { name: revisions::name(&update), template: &set.spec.template },
            now: self.clock.now(),
        });
        let next = self.perform(key, &set, plan).await?;
        let mut live: HashSet<String> =
            pods.iter().map(|pod| pods::revision(pod).to_owned()).collect();
        live.extend([&current, &update].map(|it| revisions::name(it).to_owned()));
        known.retain(|it| it.metadata.deletion_timestamp.is_none());
        let old = revisions::forgotten(&known, &live, set.spec.revision_history_limit);
        revisions::forget(&self.client, old).await?;
        Ok(next)
    }
}

impl Controller {
    async fn perform(&self, key: &Key, set: &StatefulSet, plan: Plan) -> Result<Next, Status> {
        let acted = self.act(key, set, &plan).await;
        self.report(key, set, plan.status).await?;
        let again = acted?.then_some(1).into_iter().chain(plan.again_s).min();
        let again = again.and_then(|seconds| u64::try_from(seconds).ok());
        Ok(again.map_or(Next::WhenChanged, |seconds| Next::After(Duration::from_secs(seconds))))
    }

    /// Says whether something has to be waited for that no informer here tells about.
    async fn act(&self, key: &Key, set: &StatefulSet, plan: &Plan) -> Result<bool, Status> {
        for pod in &plan.claims_of {
            let Some(ordinal) = pods::ordinal(set, pod) else { continue };
            if crate::controllers::pods::phase(pod) == "Pending" && pods::is_wanted(set, ordinal) {
                self.make_claims(set, ordinal).await?;
            }
            self.own_claims(set, pod, ordinal).await?;
        }
        for pod in &plan.identify {
            self.identify(key, set, pod).await?;
        }
        for pod in &plan.delete {
            self.delete(key, set, pod).await?;
        }
        let mut waits = false;
        for pod in &plan.create {
            waits |= !self.create(key, set, pod).await?;
        }
        Ok(waits)
    }

    /// `false` when a claim of an earlier pod of that name is still on its way out.
    async fn create(&self, key: &Key, set: &StatefulSet, pod: &Pod) -> Result<bool, Status> {
        let Some(ordinal) = pods::ordinal(set, pod) else { return Ok(true) };
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        for claim in pods::claims(set, ordinal).values() {
            let there = self.claims.get(&Key::of(&claim.metadata));
            if there.is_some_and(|it| pods::is_claim_of_former_pod(name, &it.metadata)) {
                return Ok(false);
            }
        }
        if !self.make_claims(set, ordinal).await? {
            return Ok(false);
        }
        let created = self.client.create(pod).await;
        self.tell(set, "Create", name, created.as_ref().err());
        match created {
            Ok(made) => {
                self.pending.wrote(key, &made);
                self.own_claims(set, &made, ordinal).await?;
                Ok(true)
            }
            // A pod of that name goes still, or the namespace does.
            Err(status) if status.is(Reason::AlreadyExists) => Ok(false),
            Err(status) if is_settled(&status) => Ok(true),
            Err(status) => Err(status),
        }
    }

    async fn delete(&self, key: &Key, set: &StatefulSet, pod: &Arc<Pod>) -> Result<(), Status> {
        let uid = pod.metadata.uid.clone();
        let preconditions = Some(Preconditions { uid, resource_version: None });
        let options = DeleteOptions { preconditions, ..DeleteOptions::default() };
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let deleted = self.client.delete::<Pod>(&key.namespace, name, &options).await;
        match deleted {
            Err(status) if status.is(Reason::NotFound) => return Ok(()),
            Err(_) => {}
            Ok(()) => self.pending.deleted(key, pod.as_ref()),
        }
        self.tell(set, "Delete", name, deleted.as_ref().err());
        deleted
    }

    async fn identify(&self, key: &Key, set: &StatefulSet, pod: &Pod) -> Result<(), Status> {
        let Some(ordinal) = pods::ordinal(set, pod) else { return Ok(()) };
        let mut whole = pod.clone();
        pods::identify(set, &mut whole, ordinal);
        let updated = self.client.update(&whole).await;
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        self.tell(set, "Update", name, updated.as_ref().err());
        self.pending.wrote(key, &updated?);
        Ok(())
    }

    /// `false` when one of them is going, and has to be gone before it can be made.
    async fn make_claims(&self, set: &StatefulSet, ordinal: i32) -> Result<bool, Status> {
        let mut all = true;
        for claim in pods::claims(set, ordinal).values() {
            if let Some(there) = self.claims.get(&Key::of(&claim.metadata)) {
                all &= there.metadata.deletion_timestamp.is_none();
                continue;
            }
            let name = claim.metadata.name.as_deref().unwrap_or_default();
            let pod = pods::pod_name(set, ordinal);
            let owner = set.metadata.name.as_deref().unwrap_or_default();
            match self.client.create(claim).await {
                Ok(_) => {
                    let message =
                        format!("Create Claim {name} Pod {pod} in StatefulSet {owner} success");
                    self.recorder.normal(set, "SuccessfulCreate", message);
                }
                Err(status) if status.is(Reason::AlreadyExists) => {}
                Err(status) => {
                    let message = format!(
                        "Create Claim {name} for Pod {pod} in StatefulSet {owner} \
                         failed error: {status}"
                    );
                    self.recorder.warning(set, "FailedCreate", message);
                    return Err(status);
                }
            }
        }
        Ok(all)
    }

    /// Gives the claims of a pod to whom the retention policy says.
    async fn own_claims(&self, set: &StatefulSet, pod: &Pod, ordinal: i32) -> Result<(), Status> {
        for claim in pods::claims(set, ordinal).values() {
            let Some(there) = self.claims.get(&Key::of(&claim.metadata)) else { continue };
            if let Some(owners) = pods::owners(set, pod, ordinal, &there.metadata) {
                let mut updated = there.as_ref().clone();
                updated.metadata.owner_references = Some(owners);
                self.client.update(&updated).await?;
            }
        }
        Ok(())
    }

    fn tell(&self, set: &StatefulSet, verb: &str, pod: &str, failed: Option<&Status>) {
        let owner = set.metadata.name.as_deref().unwrap_or_default();
        match failed {
            None => {
                let message = format!("{verb} Pod {pod} in StatefulSet {owner} successful");
                self.recorder.normal(set, &format!("Successful{verb}"), message);
            }
            Some(status) => {
                let message =
                    format!("{verb} Pod {pod} in StatefulSet {owner} failed error: {status}");
                self.recorder.warning(set, &format!("Failed{verb}"), message);
            }
        }
    }

    async fn report(
        &self,
        key: &Key,
        set: &StatefulSet,
        status: StatefulSetStatus,
    ) -> Result<(), Status> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let updated = StatefulSet { status: Some(status), ..set.clone() };
        match self.client.update_status(&updated).await {
            Ok(written) => self.pending_sets.wrote(key, &written),
            Err(status) if status.is(Reason::NotFound) => {}
            Err(status) => return Err(status),
        }
        Ok(())
    }
}
