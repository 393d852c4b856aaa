//! Rolls out the template of a Deployment over ReplicaSets, one per template.
//!
//! Keeps: what a look decided has been seen before the next look decides; every write of a set says which
//! resourceVersion it was decided on. The decision is [`plan`], what is told about it [`status`].

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kontiki_api::Status;
use kontiki_api::client::{Client, DeleteOptions, PatchKind, Preconditions};
use kontiki_api::error::Reason;
use kontiki_api::object::time::Clock;
use serde_json::json;

use super::ownership::{
    BY_CONTROLLER, candidates, claim_all, controller_of, enqueue_owner, index_by_controller,
};
use super::{Context, Loop, WORKERS, pods, service_account::is_settled, template};
use crate::reconcile::{Delta, Informer, Key, Next, Pending, Reconcile, Recorder, labels};

mod plan;
mod status;
#[cfg(test)]
mod tests;

use plan::{Plan, REVISION, Seen, Update, size};

const NAME: &str = "deployment-controller";
const UNSEEN_RETRY: Duration = Duration::from_secs(2);

struct Controller {
    client: Client,
    recorder: Recorder,
    clock: Clock,
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
    pending: Pending,
}

pub fn start(context: &Context) -> Vec<Loop> {
    let queue = context.queue(NAME);
    let deployments = context.informers.of::<Deployment>();
    let sets = context.informers.of::<ReplicaSet>();
    let pods = context.informers.of::<Pod>();
    index_by_controller(&sets);
    index_by_controller(&pods);
    deployments.on({
        let queue = queue.clone();
        move |delta| queue.add(Key::of(&delta.object().metadata))
    });
    sets.on({
        let (queue, deployments) = (queue.clone(), deployments.clone());
        move |delta| {
            enqueue_owner(delta, &deployments, &queue, |it: &Deployment| it.spec.selector.clone());
        }
    });
    // A Deployment that recreates waits for the last pod of its old sets to be gone.
    pods.on({
        let (queue, sets) = (queue.clone(), sets.clone());
        move |delta| {
            if let Delta::Deleted(pod) = delta
                && let Some(owner) = owner_of_owner(pod, &sets)
            {
                queue.add(owner);
            }
        }
    });
    let controller = Controller {
        client: context.client(NAME),
        recorder: context.recorder.of(NAME),
        clock: context.clock.clone(),
        deployments,
        sets,
        pods,
        pending: Pending::default(),
    };
    vec![Loop::new(controller, queue, WORKERS)]
}

fn owner_of_owner(pod: &Pod, sets: &Informer<ReplicaSet>) -> Option<Key> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let owner = controller_of(&pod.metadata).filter(|owner| owner.kind == "ReplicaSet")?;
    let set = sets.get(&Key::new(namespace, &owner.name))?;
    let owner = controller_of(&set.metadata).filter(|owner| owner.kind == "Deployment")?;
    Some(Key::new(namespace, &owner.name))
}

impl Reconcile for Controller {
    type Key = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Status> {
        let Some(deployment) = self.deployments.get(key) else {
            self.pending.forget(key);
            return Ok(Next::WhenChanged);
        };
        if !self.pending.seen(key, &self.sets) {
            return Ok(Next::After(UNSEEN_RETRY));
        }
        let selector = &deployment.spec.selector;
        let selected = |set: &ReplicaSet| labels::selects(selector, &set.metadata);
        let found = candidates(&self.sets, &deployment.metadata);
        let owned = claim_all(&self.client, deployment.as_ref(), found, selected).await?;
        let sets: Vec<ReplicaSet> = owned.into_iter().map(Arc::unwrap_or_clone).collect();
        let plan = plan::plan(&Seen {
            deployment: &deployment,
            populated: self.populated(&sets),
            sets: &sets,
            now: self.clock.now(),
        });
        self.perform(key, &deployment, plan).await
    }
}

impl Controller {
    /// The sets that have pods which are not finished.
    fn populated(&self, sets: &[ReplicaSet]) -> HashSet<String> {
        let uids = sets.iter().filter_map(|set| set.metadata.uid.clone());
        uids.filter(|uid| {
            self.pods.by_index(BY_CONTROLLER, uid).iter().any(|pod| !pods::is_finished(pod))
        })
        .collect()
    }

    async fn perform(
        &self,
        key: &Key,
        deployment: &Deployment,
        plan: Plan,
    ) -> Result<Next, Status> {
        for Update { set, from } in &plan.update {
            let written = self.client.update(set).await?;
            self.pending.wrote(key, &written);
            self.tell_scaled(deployment, set, *from);
        }
        if let Some(set) = &plan.create
            && !self.create(key, deployment, set).await?
        {
            return Ok(Next::Again);
        }
        let mut deployment = deployment.clone();
        if let Some(revision) = plan.revision {
            let patch = json!({"metadata": {
                "resourceVersion": deployment.metadata.resource_version,
                "annotations": {REVISION: revision}}});
            let (namespace, name) = (&key.namespace, &key.name);
            deployment = self.client.patch(namespace, name, PatchKind::Merge, &patch, None).await?;
        }
        self.report(deployment, plan.status).await?;
        for set in &plan.delete {
            self.delete(key, set).await?;
        }
        let again = plan.again_s.and_then(|seconds| u64::try_from(seconds).ok());
        Ok(again.map_or(Next::WhenChanged, |seconds| Next::After(Duration::from_secs(seconds))))
    }

    fn tell_scaled(&self, deployment: &Deployment, set: &ReplicaSet, from: i32) {
        let to = size(set);
        if from != to {
            let way = if to > from { "up" } else { "down" };
            let name = set.metadata.name.as_deref().unwrap_or_default();
            let message = format!("Scaled {way} replica set {name} from {from} to {to}");
            self.recorder.normal(deployment, "ScalingReplicaSet", message);
        }
    }

    /// `false` when the set is not there yet and is to be tried again.
    async fn create(
        &self,
        key: &Key,
        deployment: &Deployment,
        set: &ReplicaSet,
    ) -> Result<bool, Status> {
        match self.client.create(set).await {
            Ok(made) => {
                self.pending.wrote(key, &made);
                self.tell_scaled(deployment, set, 0);
                Ok(true)
            }
            Err(status) if status.is(Reason::AlreadyExists) => {
                let name = set.metadata.name.as_deref().unwrap_or_default();
                let there = self.client.get::<ReplicaSet>(&key.namespace, name).await?;
                let ours = controller_of(&there.metadata).map(|owner| &owner.uid)
                    == deployment.metadata.uid.as_ref();
                let same = there
                    .spec
                    .template
                    .as_ref()
                    .is_some_and(|it| template::is_same(it, &deployment.spec.template));
                if ours && same {
                    self.pending.wrote(key, &there);
                } else {
                    self.report(deployment.clone(), plan::collided(deployment)).await?;
                }
                Ok(false)
            }
            // The namespace is going, and with it the Deployment.
            Err(status) if is_settled(&status) => Ok(false),
            Err(status) => {
                let name = set.metadata.name.as_deref().unwrap_or_default();
                let message = format!("Failed to create new replica set {name:?}: {status}");
                let told = plan::not_created(deployment, &message, self.clock.now());
                self.recorder.warning(deployment, "ReplicaSetCreateError", message);
                self.report(deployment.clone(), told).await?;
                Err(status)
            }
        }
    }

    async fn delete(&self, key: &Key, set: &ReplicaSet) -> Result<(), Status> {
        let preconditions = Preconditions {
            uid: set.metadata.uid.clone(),
            resource_version: set.metadata.resource_version.clone(),
        };
        let options =
            DeleteOptions { preconditions: Some(preconditions), ..DeleteOptions::default() };
        let name = set.metadata.name.as_deref().unwrap_or_default();
        match self.client.delete::<ReplicaSet>(&key.namespace, name, &options).await {
            Ok(()) => self.pending.deleted(key, set),
            Err(status) if status.is(Reason::NotFound) => {}
            Err(status) => return Err(status),
        }
        Ok(())
    }

    async fn report(
        &self,
        mut deployment: Deployment,
        status: DeploymentStatus,
    ) -> Result<(), Status> {
        if deployment.status.as_ref() == Some(&status) {
            return Ok(());
        }
        deployment.status = Some(status);
        match self.client.update_status(&deployment).await {
            Err(status) if !status.is(Reason::NotFound) => Err(status),
            _ => Ok(()),
        }
    }
}
