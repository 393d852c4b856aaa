//! Empties namespaces that are going, and lets them go when nothing is left.
//!
//! Keeps: pods go first, and nothing else before the last of them is gone, so that no pod outlives the policies
//! and secrets it runs under; the namespace is let go only after a list of every resource showed nothing. What
//! is left, and why, stands in its conditions (upstream's types, reasons and texts).

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kontiki_api::Status;
use kontiki_api::client::{Client, DeleteOptions, Served};
use kontiki_api::error::Reason;
use kontiki_api::object::GroupVersionResource;
use kontiki_api::object::time::{Clock, Timestamp};
use kontiki_api::request::{Body, Verb};

use super::dynamic::{self, Partial, can};
use super::{Context, Loop, pods};
use crate::reconcile::{Delta, Informer, Key, Next, Reconcile};

const NAME: &str = "namespace-controller";
const FINALIZER: &str = "kubernetes";
const WORKERS: usize = 10;
/// Resources of one namespace that are emptied at a time.
const AT_ONCE: usize = 8;
/// How long a namespace is left alone at first: until then every master knows that it takes nothing new.
const GRACE: Duration = Duration::from_secs(2);
/// How long finalizers are expected to take.
const FINALIZERS_S: i64 = 15;

struct Controller {
    client: Client,
    clock: Clock,
    namespaces: Informer<Namespace>,
}

pub fn start(context: &Context) -> Vec<Loop> {
    let queue = context.queue(NAME);
    let namespaces = context.informers.of::<Namespace>();
    namespaces.on({
        let queue = queue.clone();
        move |delta| {
            if let Delta::Added(namespace) | Delta::Updated { new: namespace, .. } = delta
                && namespace.metadata.deletion_timestamp.is_some()
            {
                queue.add_after(Key::of(&namespace.metadata), GRACE);
            }
        }
    });
    // The last pod that goes is what most namespaces wait for.
    context.informers.of::<Pod>().on({
        let (queue, namespaces) = (queue.clone(), namespaces.clone());
        move |delta| {
            if let Delta::Deleted(pod) = delta {
                let key = Key::new("", pod.metadata.namespace.as_deref().unwrap_or_default());
                let namespace = namespaces.get(&key);
                if namespace.is_some_and(|it| it.metadata.deletion_timestamp.is_some()) {
                    queue.add(key);
                }
            }
        }
    });
    let client = context.client(NAME);
    let controller = Controller { client, clock: context.clock.clone(), namespaces };
    vec![Loop::new(controller, queue, WORKERS)]
}

impl Reconcile for Controller {
    type Key = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Status> {
        if self.namespaces.get(key).is_none_or(|it| it.metadata.deletion_timestamp.is_none()) {
            return Ok(Next::WhenChanged);
        }
        match self.empty(&key.name).await {
            Err(status) if status.is(Reason::NotFound) => Ok(Next::WhenChanged),
            result => result,
        }
    }
}

impl Controller {
    async fn empty(&self, name: &str) -> Result<Next, Status> {
        let mut namespace = self.client.get::<Namespace>("", name).await?;
        let Some(deleted_at) = namespace.metadata.deletion_timestamp.clone() else {
            return Ok(Next::WhenChanged);
        };
        let status = namespace.status.get_or_insert_default();
        if status.phase.as_deref() != Some("Terminating") {
            status.phase = Some("Terminating".into());
            namespace = self.client.update_status(&namespace).await?;
        }
        let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_ref());
        if finalizers.is_none_or(Vec::is_empty) {
            return Ok(Next::WhenChanged);
        }
        let now = self.clock.now();
        let outcome = self.delete_content(name, now.micros_since(deleted_at.0.into())).await;
        let before = namespace.status.clone().unwrap_or_default();
        let after = with_conditions(before.clone(), &outcome, now);
        if before != after {
            namespace.status = Some(after);
            namespace = self.client.update_status(&namespace).await?;
        }
        if let Some(failed) = outcome.failures.into_iter().next() {
            return Err(failed);
        }
        if outcome.estimate_s > 0 {
            let seconds = u64::try_from(outcome.estimate_s / 2 + 1).unwrap_or(1);
            return Ok(Next::After(Duration::from_secs(seconds)));
        }
        self.finalize(namespace).await?;
        Ok(Next::WhenChanged)
    }

    /// One pass over everything in the namespace.
    async fn delete_content(&self, namespace: &str, going_us: i64) -> Outcome {
        let mut outcome = Outcome::default();
        let served = match self.client.resources().await {
            Ok(served) => dynamic::preferred(served),
            Err(status) => {
                outcome.undiscovered = Some(status.message().to_owned());
                outcome.failures.push(status);
                return outcome;
            }
        };
        let (first, rest): (Vec<_>, Vec<_>) = served
            .into_iter()
            .filter(|one| one.namespaced && can(one, "delete"))
            .partition(|one| is_pods(&one.resource));
        for pods in &first {
            outcome.add(&pods.resource, self.delete_resource(pods, namespace, going_us).await);
        }
        if !outcome.remaining.is_empty() {
            return outcome;
        }
        let passes = rest.into_iter().map(|one| async move {
            let result = self.delete_resource(&one, namespace, going_us).await;
            (one.resource, result)
        });
        let mut passes = futures::stream::iter(passes).buffer_unordered(AT_ONCE);
        while let Some((resource, result)) = passes.next().await {
            outcome.add(&resource, result);
        }
        outcome
    }

    /// Deletes what there is of one resource, and tells what is left of it.
    async fn delete_resource(
        &self,
        served: &Served,
        namespace: &str,
        going_us: i64,
    ) -> Result<Left, Status> {
        if !can(served, "list") {
            return self.delete_collection(served, namespace).await.map(|_| Left::default());
        }
        let Some(found) = self.list(served, namespace).await? else { return Ok(Left::default()) };
        if found.is_empty() {
            return Ok(Left::default());
        }
        let estimate_s = if is_pods(&served.resource) {
            let pods: Vec<Pod> =
                dynamic::list_as(&self.client, &served.resource, namespace).await?;
            graceful_s(&pods, going_us)
        } else {
            0
        };
        if !self.delete_collection(served, namespace).await? {
            self.delete_each(served, namespace, &found).await?;
        }
        let left = self.list(served, namespace).await?.unwrap_or_default();
        Ok(what_is_left(&left, estimate_s))
    }

    /// `false` where the resource knows no deletion of all at once.
    async fn delete_collection(&self, served: &Served, namespace: &str) -> Result<bool, Status> {
        if !can(served, "deletecollection") {
            return Ok(false);
        }
        let options = background();
        let result = dynamic::delete_all(&self.client, &served.resource, namespace, &options).await;
        match result {
            Ok(()) => Ok(true),
            Err(status) if is_unknown(&status) => Ok(false),
            Err(status) => Err(status),
        }
    }

    async fn delete_each(
        &self,
        served: &Served,
        namespace: &str,
        found: &[Partial],
    ) -> Result<(), Status> {
        for object in found {
            let name = object.metadata.name.as_deref().unwrap_or_default();
            let options = background();
            match dynamic::delete(&self.client, &served.resource, namespace, name, &options).await {
                Err(status) if !is_unknown(&status) => return Err(status),
                _ => {}
            }
        }
        Ok(())
    }

    async fn list(&self, served: &Served, namespace: &str) -> Result<Option<Vec<Partial>>, Status> {
        match dynamic::list(&self.client, &served.resource, namespace).await {
            Ok(found) => Ok(Some(found)),
            Err(status) if is_unknown(&status) => Ok(None),
            Err(status) => Err(status),
        }
    }

    /// Takes our finalizer away, by the only way there is.
    async fn finalize(&self, mut namespace: Namespace) -> Result<(), Status> {
        let name = namespace.metadata.name.clone().unwrap_or_default();
        if let Some(finalizers) = namespace.spec.as_mut().and_then(|it| it.finalizers.as_mut()) {
            finalizers.retain(|finalizer| finalizer != FINALIZER);
        }
        let mut request = self.client.request::<Namespace>(Verb::Update, "", &name);
        request.subresource = Some("finalize".into());
        request.body = Body::Object(serde_json::to_value(&namespace).map_err(Status::internal)?);
        self.client.call(request).await.map(drop)
    }
}

fn is_pods(resource: &GroupVersionResource) -> bool {
    resource.group.is_empty() && resource.resource == "pods"
}

/// Nothing that the garbage collector would have to come for: everything in the namespace goes anyway.
fn background() -> DeleteOptions {
    DeleteOptions { propagation_policy: Some("Background"), ..DeleteOptions::default() }
}

fn is_unknown(status: &Status) -> bool {
    status.is(Reason::NotFound) || status.is(Reason::MethodNotAllowed)
}

/// What is left of one resource.
#[derive(Debug, Default, PartialEq, Eq)]
struct Left {
    count: usize,
    by_finalizer: BTreeMap<String, usize>,
    /// How long what is left may take to go.
    estimate_s: i64,
}

/// What one pass came to.
#[derive(Debug, Default)]
struct Outcome {
    undiscovered: Option<String>,
    failures: Vec<Status>,
    remaining: BTreeMap<String, usize>,
    by_finalizer: BTreeMap<String, usize>,
    estimate_s: i64,
}

impl Outcome {
    fn add(&mut self, resource: &GroupVersionResource, result: Result<Left, Status>) {
        let left = match result {
            Ok(left) => left,
            Err(status) => return self.failures.push(status),
        };
        if left.count > 0 && left.estimate_s == 0 {
            self.failures.push(Status::new(
                Reason::Unknown,
                format!("unexpected items still remain in namespace: {resource}"),
            ));
        }
        if left.count > 0 {
            let name = format!("{}.{}", resource.resource, resource.group);
            self.remaining.insert(name, left.count);
        }
        for (finalizer, count) in left.by_finalizer {
            *self.by_finalizer.entry(finalizer).or_insert(0) += count;
        }
        self.estimate_s = self.estimate_s.max(left.estimate_s);
    }
}

fn what_is_left(objects: &[Partial], estimate_s: i64) -> Left {
    let mut by_finalizer = BTreeMap::new();
    for finalizer in objects.iter().flat_map(|it| it.metadata.finalizers.iter().flatten()) {
        *by_finalizer.entry(finalizer.clone()).or_insert(0) += 1;
    }
    let estimate_s = match (objects.is_empty(), estimate_s) {
        (true, _) => 0,
        (false, 0) if !by_finalizer.is_empty() => FINALIZERS_S,
        (false, estimate_s) => estimate_s,
    };
    Left { count: objects.len(), by_finalizer, estimate_s }
}

/// How long pods may take to end, unless they have had that long already.
fn graceful_s(all: &[Pod], going_us: i64) -> i64 {
    let grace = |pod: &Pod| {
        pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(0)
    };
    let longest = all.iter().filter(|pod| !pods::is_finished(pod)).map(grace).max().unwrap_or(0);
    if going_us >= longest.saturating_mul(1_000_000) { 0 } else { longest }
}

/// The status with all five conditions as the pass says them.
fn with_conditions(
    mut status: NamespaceStatus,
    outcome: &Outcome,
    now: Timestamp,
) -> NamespaceStatus {
    let listed = |counts: &BTreeMap<String, usize>, joint: &str| {
        let each: Vec<_> = counts
            .iter()
            .map(|(what, n)| format!("{what} {joint} {n} resource instances"))
            .collect();
        each.join(", ")
    };
    let failed = (outcome.undiscovered.is_none() && !outcome.failures.is_empty()).then(|| {
        let mut texts: Vec<_> = outcome.failures.iter().map(|it| it.message().to_owned()).collect();
        texts.sort();
        let (count, texts) = (texts.len(), texts.join(", "));
        format!("Failed to delete all resource types, {count} remaining: {texts}")
    });
    let remaining = (!outcome.remaining.is_empty())
        .then(|| format!("Some resources are remaining: {}", listed(&outcome.remaining, "has")));
    let finalizers = (!outcome.by_finalizer.is_empty()).then(|| {
        let listed = listed(&outcome.by_finalizer, "in");
        format!("Some content in the namespace has finalizers remaining: {listed}")
    });
    let rows = [
        (
            "NamespaceDeletionDiscoveryFailure",
            outcome.undiscovered.clone().map(|text| ("DiscoveryFailed", text)),
            ("ResourcesDiscovered", "All resources successfully discovered"),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
        ),
        (
            "NamespaceDeletionContentFailure",
            failed.map(|text| ("ContentDeletionFailed", text)),
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        ),
        (
            "NamespaceContentRemaining",
            remaining.map(|text| ("SomeResourcesRemain", text)),
            ("ContentRemoved", "All content successfully removed"),
        ),
        (
            "NamespaceFinalizersRemaining",
            finalizers.map(|text| ("SomeFinalizersRemain", text)),
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        ),
    ];
    let conditions = status.conditions.get_or_insert_default();
    for (kind, trouble, (reason, message)) in rows {
        let state = if trouble.is_some() { "True" } else { "False" };
        let (reason, message) = trouble.unwrap_or((reason, message.into()));
        let at = conditions.iter().position(|it| it.type_ == kind).unwrap_or(conditions.len());
        if at == conditions.len() {
            conditions.push(NamespaceCondition { type_: kind.into(), ..Default::default() });
        }
        let condition = &mut conditions[at];
        if condition.status != state {
            condition.last_transition_time = Some(Time(now.moment()));
        }
        condition.status = state.into();
        condition.reason = Some(reason.into());
        condition.message = Some(message);
    }
    status
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn objects(finalizers: &[&[&str]]) -> Vec<Partial> {
        let one = |it: &&[&str]| json!({"metadata": {"name": "a", "finalizers": it}});
        finalizers.iter().map(|it| serde_json::from_value(one(it)).unwrap()).collect()
    }

    fn told(status: &NamespaceStatus) -> Vec<String> {
        let conditions = status.conditions.iter().flatten();
        conditions
            .filter(|it| it.status == "True")
            .map(|it| format!("{}: {}", it.type_, it.message.as_deref().unwrap_or_default()))
            .collect()
    }

    #[test]
    fn what_finalizers_hold_is_waited_for_and_what_nothing_holds_is_a_failure() {
        assert_eq!(what_is_left(&[], 30), Left::default());
        assert_eq!(what_is_left(&objects(&[&["a"], &[]]), 0).estimate_s, FINALIZERS_S);
        assert_eq!(what_is_left(&objects(&[&[]]), 0).estimate_s, 0);
        let mut outcome = Outcome::default();
        let secrets = GroupVersionResource::new("", "v1", "secrets");
        outcome.add(&secrets, Ok(what_is_left(&objects(&[&[]]), 0)));
        assert_eq!(outcome.failures.len(), 1);
    }

    #[test]
    fn pods_have_their_grace_but_not_twice() {
        let pod = |phase: &str, grace: i64| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p"}, "status": {"phase": phase},
                "spec": {"containers": [], "terminationGracePeriodSeconds": grace}}))
            .unwrap()
        };
        let pods = [pod("Running", 30), pod("Failed", 90), pod("Running", 5)];
        assert_eq!(graceful_s(&pods, 0), 30);
        assert_eq!(graceful_s(&pods, 30_000_000), 0);
    }

    #[test]
    fn conditions_tell_what_is_left_and_return_to_normal() {
        let mut outcome = Outcome::default();
        let orders = GroupVersionResource::new("shop.io", "v1", "orders");
        outcome.add(&orders, Ok(what_is_left(&objects(&[&["x/y"], &["x/y"]]), 0)));
        let stuck = with_conditions(NamespaceStatus::default(), &outcome, Timestamp::default());
        assert_eq!(
            told(&stuck),
            [
                "NamespaceContentRemaining: Some resources are remaining: orders.shop.io has 2 \
                 resource instances",
                "NamespaceFinalizersRemaining: Some content in the namespace has finalizers \
                 remaining: x/y in 2 resource instances",
            ]
        );
        let later = Timestamp::from_seconds(60);
        let free = with_conditions(stuck.clone(), &Outcome::default(), later);
        assert!(told(&free).is_empty());
        assert_eq!(free.conditions.as_ref().unwrap().len(), 5);
        let again = with_conditions(free.clone(), &Outcome::default(), Timestamp::from_seconds(90));
        assert_eq!(free, again, "nothing changed, nothing to write");
    }
}
