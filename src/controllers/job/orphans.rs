//! Lets go of pods that a Job tracked and that no Job will count any more.

use k8s_openapi::Resource;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kontiki_api::Status;
use kontiki_api::client::Client;

use super::pods::is_tracked;
use super::{NAME, finished, is_foreign, patch_finalizer};
use crate::controllers::ownership::{BY_CONTROLLER, controller_of};
use crate::controllers::{Context, Loop};
use crate::reconcile::{Delta, Informer, Key, Next, Reconcile};

struct Orphans {
    client: Client,
    jobs: Informer<Job>,
    pods: Informer<Pod>,
}

pub fn prepare(context: &Context, jobs: &Informer<Job>, pods: &Informer<Pod>) -> Loop {
    let queue = context.queue("job-orphan-pods");
    pods.on({
        let (queue, jobs) = (queue.clone(), jobs.clone());
        move |delta| {
            let pod = delta.object();
            if !matches!(delta, Delta::Deleted(_)) && is_orphan(pod, &jobs) {
                queue.add(Key::of(&pod.metadata));
            }
        }
    });
    jobs.on({
        let (queue, pods) = (queue.clone(), pods.clone());
        move |delta| {
            let job = delta.object();
            if matches!(delta, Delta::Deleted(_)) || finished(job).is_some() {
                let uid = job.metadata.uid.as_deref().unwrap_or_default();
                for pod in pods.by_index(BY_CONTROLLER, uid) {
                    queue.add(Key::of(&pod.metadata));
                }
            }
        }
    });
    let (client, jobs, pods) = (context.client(NAME), jobs.clone(), pods.clone());
    Loop::new(Orphans { client, jobs, pods }, queue, 1)
}

/// Whether the pod is tracked for a Job that is not there, or has ended.
fn is_orphan(pod: &Pod, jobs: &Informer<Job>) -> bool {
    if !is_tracked(pod) {
        return false;
    }
    let Some(owner) = controller_of(&pod.metadata) else { return true };
    if owner.kind != Job::KIND || owner.api_version != Job::API_VERSION {
        return false;
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    match jobs.get(&Key::new(namespace, &owner.name)) {
        Some(job) if job.metadata.uid.as_ref() == Some(&owner.uid) => {
            !is_foreign(&job) && finished(&job).is_some()
        }
        _ => true,
    }
}

impl Reconcile for Orphans {
    type Key = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Status> {
        if let Some(pod) = self.pods.get(key)
            && is_orphan(&pod, &self.jobs)
        {
            patch_finalizer(&self.client, &pod, false).await?;
        }
        Ok(Next::WhenChanged)
    }
}
