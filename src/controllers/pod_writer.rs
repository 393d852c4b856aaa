//! How workloads make and delete pods: with an event for each, and a note of what informers have to show
//! before the next decision.
//!
//! Keeps: creates go out in groups that double while they succeed, so that a template nobody admits costs one
//! request, not hundreds; a delete says which pod it means, not only its name.

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kontiki_api::Status;
use kontiki_api::client::{Client, DeleteOptions, Preconditions, Typed};
use kontiki_api::error::Reason;

use super::service_account::is_settled;
use crate::reconcile::{Informer, Key, Pending, Recorder};

const GROUP_FIRST: usize = 1;

/// The pods of one loop.
pub struct PodWriter {
    pub client: Client,
    pub recorder: Recorder,
    pub pending: Pending,
}

impl PodWriter {
    #[must_use]
    pub fn new(client: Client, recorder: Recorder) -> PodWriter {
        PodWriter { client, recorder, pending: Pending::default() }
    }

    /// Whether the informer shows all that was done for `owner`.
    pub fn seen(&self, owner: &Key, pods: &Informer<Pod>) -> bool {
        self.pending.seen(owner, pods)
    }

    pub fn forget(&self, owner: &Key) {
        self.pending.forget(owner);
    }

    /// Creates all of them, or as many as succeed before one fails.
    pub async fn create<O: Typed>(&self, key: &Key, owner: &O, pods: &[Pod]) -> Result<(), Status> {
        let (mut rest, mut group) = (pods, GROUP_FIRST);
        while !rest.is_empty() {
            let (now, later) = rest.split_at(group.min(rest.len()));
            let results = join_all(now.iter().map(|pod| self.client.create(pod))).await;
            for result in &results {
                match result {
                    Ok(made) => {
                        self.pending.wrote(key, made);
                        let name = made.metadata.name.as_deref().unwrap_or_default();
                        let message = format!("Created pod: {name}");
                        self.recorder.normal(owner, "SuccessfulCreate", message);
                    }
                    // The namespace is going: whatever is made now goes with it.
                    Err(status) if is_settled(status) => {}
                    Err(status) => {
                        let message = format!("Error creating: {status}");
                        self.recorder.warning(owner, "FailedCreate", message);
                    }
                }
            }
            if let Some(failed) = results.into_iter().find_map(Result::err) {
                return if is_settled(&failed) { Ok(()) } else { Err(failed) };
            }
            rest = later;
            group *= 2;
        }
        Ok(())
    }

    pub async fn delete<O: Typed>(&self, key: &Key, owner: &O, pod: &Pod) -> Result<(), Status> {
        let uid = pod.metadata.uid.clone();
        let preconditions = Some(Preconditions { uid, resource_version: None });
        let options = DeleteOptions { preconditions, ..DeleteOptions::default() };
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        match self.client.delete::<Pod>(&key.namespace, name, &options).await {
            Ok(()) => {
                self.pending.deleted(key, pod);
                self.recorder.normal(owner, "SuccessfulDelete", format!("Deleted pod: {name}"));
                Ok(())
            }
            // Gone, or another pod of that name by now.
            Err(status) if status.is(Reason::NotFound) || status.is(Reason::Conflict) => Ok(()),
            Err(status) => {
                self.recorder.warning(owner, "FailedDelete", format!("Error deleting: {status}"));
                Err(status)
            }
        }
    }

    pub async fn delete_all<'a, O: Typed>(
        &self,
        key: &Key,
        owner: &O,
        pods: impl IntoIterator<Item = &'a Pod>,
    ) -> Result<(), Status> {
        let deletes = pods.into_iter().map(|pod| self.delete(key, owner, pod));
        join_all(deletes).await.into_iter().collect()
    }
}
