//! Deletes what has lost its last owner, and sees to it that owners go in the order they were asked to.
//!
//! [`monitors`] watch the metadata of everything, [`graph`] knows who owns whom, [`verdict`] decides; this file
//! asks the API and acts.
//!
//! Keeps: nothing is deleted on the word of a cache. The object and each of its owners are read afresh, by
//! uid; the delete names the uid and the resourceVersion that were judged. An owner whose kind is not served
//! is neither there nor absent: its dependents stay.

mod graph;
mod monitors;
mod verdict;

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kontiki_api::Status;
use kontiki_api::client::{Client, DeleteOptions, Preconditions, Served};
use kontiki_api::error::Reason;
use parking_lot::Mutex;
use serde_json::json;

use self::graph::{FOREGROUND, Graph, Identity, ORPHAN, Todo, View, Work};
use self::monitors::{Monitors, Told};
use self::verdict::{Fate, Verdict, verdict};
use super::dynamic::{self, Partial};
use super::{Context, Loop};
use crate::reconcile::events::Severity;
use crate::reconcile::{Next, Queue, Reconcile, Recorder};

const NAME: &str = "garbage-collector-controller";
const WORKERS: usize = 20;
const LATER: Duration = Duration::from_secs(1);

struct Controller {
    client: Client,
    shared: Arc<Shared>,
    monitors: Arc<Monitors>,
}

/// The graph, and where its consequences go.
struct Shared {
    graph: Mutex<Graph>,
    queue: Queue<Work>,
    recorder: Recorder,
}

pub fn start(context: &Context) -> Vec<Loop> {
    let queue = Queue::new(context.metrics.queue(NAME));
    let shared = Arc::new(Shared {
        graph: Mutex::default(),
        queue: queue.clone(),
        recorder: context.recorder.of(NAME),
    });
    let client = context.client(NAME);
    let monitors = Arc::new(Monitors::new(client.clone(), {
        let shared = shared.clone();
        move |told| shared.hear(told)
    }));
    context.informers.of::<CustomResourceDefinition>().on({
        let monitors = monitors.clone();
        move |_| monitors.changed.notify_one()
    });
    let controller = Controller { client, shared, monitors: monitors.clone() };
    vec![Loop::task(move |stop| monitors.run(stop)), Loop::new(controller, queue, WORKERS)]
}

impl Shared {
    fn hear(&self, told: Told) {
        let mut graph = self.graph.lock();
        let todos = match told {
            Told::Shown(identity, partial) => vec![graph.observe(identity, &partial.metadata)],
            Told::Gone(uid) => vec![graph.gone(&uid)],
            Told::Whole { api_version, kind, uids } => {
                let known = graph.observed(&api_version, &kind);
                known.difference(&uids).map(|uid| graph.gone(uid)).collect()
            }
        };
        drop(graph);
        todos.into_iter().for_each(|todo| self.pass_on(todo));
    }

    fn pass_on(&self, todo: Todo) {
        todo.now.into_iter().for_each(|work| self.queue.add(work));
        todo.later.into_iter().for_each(|work| self.queue.add_after(work, LATER));
        for (dependent, owner) in todo.misplaced {
            let namespace = &dependent.namespace;
            let named = Identity::of(&owner, namespace);
            let message = format!("ownerRef {named} does not exist in namespace {namespace:?}");
            let reason = "OwnerRefInvalidNamespace";
            self.recorder.say(reference(&dependent), Severity::Warning, reason, message, "");
        }
    }
}

fn reference(identity: &Identity) -> ObjectReference {
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    ObjectReference {
        api_version: some(&identity.api_version),
        kind: some(&identity.kind),
        namespace: some(&identity.namespace),
        name: some(&identity.name),
        uid: some(&identity.uid),
        ..ObjectReference::default()
    }
}

impl Reconcile for Controller {
    type Key = Work;

    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, work: &Work) -> Result<Next, Status> {
        // Before everything is seen, an owner may look as if it had no dependents.
        self.monitors.level().await;
        let (Work::Delete(uid) | Work::Orphan(uid)) = work;
        let Some(view) = self.shared.graph.lock().view(uid) else { return Ok(Next::WhenChanged) };
        match work {
            Work::Delete(_) => self.consider(&view).await,
            Work::Orphan(_) => self.orphan(&view).await,
        }
    }
}

impl Controller {
    /// Deletes the object, if nothing keeps it.
    async fn consider(&self, view: &View) -> Result<Next, Status> {
        // Once it is going it goes, except that it may wait for its dependents.
        if view.being_deleted && !view.deleting_dependents {
            return Ok(Next::WhenChanged);
        }
        let Some((served, latest)) = self.read(view).await? else { return Ok(Next::Again) };
        let Some(latest) = latest else { return Ok(Next::WhenChanged) };
        if view.deleting_dependents {
            return self.await_dependents(view, &served, &latest).await;
        }
        let references = latest.owner_references.clone().unwrap_or_default();
        let mut owners = Vec::with_capacity(references.len());
        for reference in references {
            match self.fate(&view.identity, &reference).await? {
                Some(fate) => owners.push((reference, fate)),
                None if self.can_never_be(&view.identity, &reference) => {
                    return Ok(Next::WhenChanged);
                }
                None => return Ok(Next::Again),
            }
        }
        match verdict(&latest, &owners, &view.dependents) {
            Verdict::Keep => {}
            Verdict::Disown(uids) => self.disown(&served, view, &latest, &uids).await?,
            Verdict::Foreground { unblock } => {
                if unblock {
                    self.unblock(&served, view, &latest).await?;
                    // The resourceVersion that was judged is not the latest any more.
                    return Ok(Next::Again);
                }
                self.delete(&served, view, &latest, "Foreground").await?;
            }
            Verdict::Delete(policy) => self.delete(&served, view, &latest, policy).await?,
        }
        // Until a watch shows it, nobody else would tell when it goes.
        Ok(if view.is_virtual { Next::Again } else { Next::WhenChanged })
    }

    /// The object as the API has it. The outer `None`: its kind is not served. The inner: it is gone, as the
    /// graph knows now.
    async fn read(&self, view: &View) -> Result<Option<(Served, Option<ObjectMeta>)>, Status> {
        let mut identity = view.identity.clone();
        let Some(served) = self.monitors.served(&identity.api_version, &identity.kind) else {
            return Ok(None);
        };
        if !served.namespaced && view.is_virtual {
            self.shared.graph.lock().leaves_namespace(&identity.uid);
            identity.namespace.clear();
        }
        // A name without its namespace names nothing.
        let nowhere = served.namespaced && identity.namespace.is_empty();
        let found = if nowhere { None } else { self.get(&served, &identity).await? };
        let found = found.filter(|it| it.uid.as_ref() == Some(&identity.uid));
        if found.is_none() {
            let todo = self.shared.graph.lock().is_absent(&identity);
            self.shared.pass_on(todo);
        }
        Ok(Some((served, found)))
    }

    async fn get(
        &self,
        served: &Served,
        identity: &Identity,
    ) -> Result<Option<ObjectMeta>, Status> {
        let Identity { namespace, name, .. } = identity;
        match dynamic::get(&self.client, &served.resource, namespace, name).await {
            Ok(Partial { metadata }) => Ok(Some(metadata)),
            Err(status) if status.is(Reason::NotFound) => Ok(None),
            Err(status) => Err(status),
        }
    }

    /// What became of an owner; `None` where that cannot be told.
    async fn fate(
        &self,
        dependent: &Identity,
        reference: &OwnerReference,
    ) -> Result<Option<Fate>, Status> {
        if self.shared.graph.lock().knows_absent(reference, &dependent.namespace) {
            return Ok(Some(Fate::Absent));
        }
        let Some(served) = self.monitors.served(&reference.api_version, &reference.kind) else {
            return Ok(None);
        };
        if served.namespaced && dependent.namespace.is_empty() {
            return Ok(None);
        }
        let namespace = if served.namespaced { &dependent.namespace } else { "" };
        let owner = Identity::of(reference, namespace);
        let found = self.get(&served, &owner).await?;
        let Some(found) = found.filter(|it| it.uid.as_ref() == Some(&reference.uid)) else {
            self.shared.graph.lock().remember_absent(owner);
            return Ok(Some(Fate::Absent));
        };
        let waits = found.deletion_timestamp.is_some()
            && found.finalizers.iter().flatten().any(|it| it == FOREGROUND);
        Ok(Some(if waits { Fate::Waits } else { Fate::Exists }))
    }

    /// What lives in no namespace cannot be owned by what lives in one. Such a reference is an error of its
    /// author, and asking again would not change it.
    fn can_never_be(&self, dependent: &Identity, reference: &OwnerReference) -> bool {
        let served = self.monitors.served(&reference.api_version, &reference.kind);
        dependent.namespace.is_empty() && served.is_some_and(|served| served.namespaced)
    }

    /// An owner that waits for its dependents: looks at those, or lets it go.
    async fn await_dependents(
        &self,
        view: &View,
        served: &Served,
        latest: &ObjectMeta,
    ) -> Result<Next, Status> {
        let blocking: Vec<_> = view.dependents.iter().filter(|it| it.blocks).collect();
        if blocking.is_empty() {
            self.remove_finalizer(served, view, latest, FOREGROUND).await?;
        }
        for dependent in blocking.iter().filter(|it| !it.deleting_dependents) {
            self.shared.queue.add(Work::Delete(dependent.identity.uid.clone()));
        }
        Ok(Next::WhenChanged)
    }

    /// Takes the object away from its dependents, then lets it go.
    async fn orphan(&self, view: &View) -> Result<Next, Status> {
        let Some((served, latest)) = self.read(view).await? else { return Ok(Next::Again) };
        let Some(latest) = latest else { return Ok(Next::WhenChanged) };
        let freed = join_all(view.dependents.iter().map(|it| self.free(view, &it.identity))).await;
        freed.into_iter().collect::<Result<Vec<()>, Status>>()?;
        self.remove_finalizer(&served, view, &latest, ORPHAN).await?;
        Ok(Next::WhenChanged)
    }

    async fn free(&self, owner: &View, dependent: &Identity) -> Result<(), Status> {
        let view = self.shared.graph.lock().view(&dependent.uid);
        let Some(view) = view else { return Ok(()) };
        let Some((served, latest)) = self.read(&view).await? else {
            let Identity { kind, api_version, .. } = dependent;
            return Err(Status::internal(format!("{api_version}/{kind} is not served")));
        };
        let Some(latest) = latest else { return Ok(()) };
        let uid = &owner.identity.uid;
        if latest.owner_references.iter().flatten().all(|it| it.uid != *uid) {
            return Ok(());
        }
        self.disown(&served, &view, &latest, std::slice::from_ref(uid)).await
    }

    async fn disown(
        &self,
        served: &Served,
        view: &View,
        latest: &ObjectMeta,
        owners: &[String],
    ) -> Result<(), Status> {
        let kept = latest.owner_references.iter().flatten().filter(|it| !owners.contains(&it.uid));
        let kept: Vec<_> = kept.collect();
        self.patch(served, view, latest, json!({ "ownerReferences": kept })).await
    }

    async fn unblock(
        &self,
        served: &Served,
        view: &View,
        latest: &ObjectMeta,
    ) -> Result<(), Status> {
        let mut references = latest.owner_references.clone().unwrap_or_default();
        if references.iter().all(|it| it.block_owner_deletion != Some(true)) {
            return self.delete(served, view, latest, "Foreground").await;
        }
        references.iter_mut().for_each(|it| it.block_owner_deletion = Some(false));
        self.patch(served, view, latest, json!({ "ownerReferences": references })).await
    }

    async fn remove_finalizer(
        &self,
        served: &Served,
        view: &View,
        latest: &ObjectMeta,
        finalizer: &str,
    ) -> Result<(), Status> {
        let all = latest.finalizers.as_deref().unwrap_or_default();
        let kept: Vec<_> = all.iter().filter(|it| *it != finalizer).collect();
        if kept.len() == all.len() {
            return Ok(());
        }
        self.patch(served, view, latest, json!({ "finalizers": kept })).await
    }

    /// Changes metadata, unless the object changed since it was read.
    async fn patch(
        &self,
        served: &Served,
        view: &View,
        latest: &ObjectMeta,
        mut metadata: serde_json::Value,
    ) -> Result<(), Status> {
        metadata["uid"] = view.identity.uid.clone().into();
        metadata["resourceVersion"] = latest.resource_version.clone().into();
        let namespace = latest.namespace.as_deref().unwrap_or_default();
        let patch = json!({ "metadata": metadata });
        let name = &view.identity.name;
        settled(dynamic::patch(&self.client, &served.resource, namespace, name, &patch).await)
    }

    async fn delete(
        &self,
        served: &Served,
        view: &View,
        latest: &ObjectMeta,
        policy: &'static str,
    ) -> Result<(), Status> {
        let options = DeleteOptions {
            propagation_policy: Some(policy),
            preconditions: Some(Preconditions {
                uid: Some(view.identity.uid.clone()),
                resource_version: latest.resource_version.clone(),
            }),
            ..DeleteOptions::default()
        };
        tracing::debug!(object = %view.identity, policy, "has lost its owners");
        let namespace = latest.namespace.as_deref().unwrap_or_default();
        let name = &view.identity.name;
        settled(dynamic::delete(&self.client, &served.resource, namespace, name, &options).await)
    }
}

/// What is gone already needs nothing more.
fn settled(result: Result<(), Status>) -> Result<(), Status> {
    match result {
        Err(status) if status.is(Reason::NotFound) => Ok(()),
        result => result,
    }
}
