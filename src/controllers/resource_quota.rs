//! Counts anew what quotas limit, where something was given back or a quota was changed.
//!
//! What is taken is charged by admission, in the commit that takes it; what an object takes is decided by the
//! same functions there and here.
//!
//! Keeps: a count is written only over the quota it was made for: quota first, then the objects, then the
//! status with the quota's resourceVersion. What is charged meanwhile makes the write fail, and it is counted
//! again.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::ListableResource;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{
    ConfigMap, PersistentVolumeClaim, Pod, ReplicationController, ResourceQuota, Secret, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kontiki_api::Status;
use kontiki_api::admission::quota::usage::{concerns, in_scope, usage};
use kontiki_api::admission::resources::{ResourceList, add, read, write};
use kontiki_api::client::{Client, Typed};
use kontiki_api::error::Reason;
use kontiki_api::object::time::{Clock, Timestamp};
use kontiki_api::request::{Body, Verb};
use serde_json::{Value, json};

use super::dynamic::{self, can};
use super::{Context, Loop, WORKERS, pods};
use crate::reconcile::{Delta, Informer, Key, Next, Queue, Reconcile};

const NAME: &str = "resourcequota-controller";
/// How often everything is counted, and how often what nobody here watches.
const RESYNC: Duration = Duration::from_secs(300);
const UNWATCHED: Duration = Duration::from_secs(15);
/// What tells by itself that something was given back.
const WATCHED: [(&str, &str); 11] = [
    ("", "configmaps"),
    ("", "persistentvolumeclaims"),
    ("", "pods"),
    ("", "replicationcontrollers"),
    ("", "secrets"),
    ("", "services"),
    ("apps", "daemonsets"),
    ("apps", "deployments"),
    ("apps", "replicasets"),
    ("apps", "statefulsets"),
    ("batch", "jobs"),
];

struct Controller {
    client: Client,
    clock: Clock,
    quotas: Informer<ResourceQuota>,
}

pub fn start(context: &Context) -> Vec<Loop> {
    let queue = context.queue(NAME);
    let quotas = context.informers.of::<ResourceQuota>();
    quotas.on({
        let queue = queue.clone();
        move |delta| {
            let same = matches!(delta, Delta::Updated { old, new } if old.spec == new.spec);
            if !same {
                queue.add(Key::of(&delta.object().metadata));
            }
        }
    });
    follow::<ConfigMap>(context, &quotas, &queue, |_, _| false);
    follow::<PersistentVolumeClaim>(context, &quotas, &queue, |old, new| old.spec != new.spec);
    follow::<ReplicationController>(context, &quotas, &queue, |_, _| false);
    follow::<Secret>(context, &quotas, &queue, |_, _| false);
    follow::<Service>(context, &quotas, &queue, |old, new| old.spec != new.spec);
    follow::<DaemonSet>(context, &quotas, &queue, |_, _| false);
    follow::<Deployment>(context, &quotas, &queue, |_, _| false);
    follow::<ReplicaSet>(context, &quotas, &queue, |_, _| false);
    follow::<StatefulSet>(context, &quotas, &queue, |_, _| false);
    follow::<Job>(context, &quotas, &queue, |_, _| false);
    follow::<CronJob>(context, &quotas, &queue, |_, _| false);
    follow::<Pod>(context, &quotas, &queue, |old, new| {
        pods::is_finished(old) != pods::is_finished(new) || old.spec != new.spec
    });
    let controller =
        Controller { client: context.client(NAME), clock: context.clock.clone(), quotas };
    vec![Loop::new(controller, queue, WORKERS)]
}

/// Counts a namespace's quotas anew when an object is gone, or changed so that it takes less.
fn follow<K: Typed + ListableResource>(
    context: &Context,
    quotas: &Informer<ResourceQuota>,
    queue: &Queue<Key>,
    changes: impl Fn(&K, &K) -> bool + Send + Sync + 'static,
) {
    let (quotas, queue) = (quotas.clone(), queue.clone());
    context.informers.of::<K>().on(move |delta| {
        let gives_back = match delta {
            Delta::Added(_) => false,
            Delta::Updated { old, new } => changes(old, new),
            Delta::Deleted(_) => true,
        };
        if gives_back {
            let metadata: &ObjectMeta = delta.object().metadata();
            let namespace = metadata.namespace.as_deref().unwrap_or_default();
            for quota in quotas.in_namespace(namespace) {
                queue.add(Key::of(&quota.metadata));
            }
        }
    });
}

impl Reconcile for Controller {
    type Key = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Status> {
        if self.quotas.get(key).is_none() {
            return Ok(Next::WhenChanged);
        }
        match self.recount(key).await {
            Err(status) if status.is(Reason::NotFound) => Ok(Next::WhenChanged),
            result => result,
        }
    }
}

impl Controller {
    async fn recount(&self, key: &Key) -> Result<Next, Status> {
        let request = self.client.request::<ResourceQuota>(Verb::Get, &key.namespace, &key.name);
        let bytes = self.client.call(request).await?;
        let mut quota: Value = serde_json::from_slice(&bytes).map_err(Status::internal)?;
        let hard = read(&quota["spec"]["hard"]);
        let mut used = zero(&hard);
        let mut next = RESYNC;
        for served in dynamic::preferred(self.client.resources().await?) {
            let (group, resource) = (&served.resource.group, &served.resource.resource);
            let counted = hard.keys().any(|name| concerns(group, resource, name));
            if !counted || !served.namespaced || !can(&served, "list") {
                continue;
            }
            if !WATCHED.contains(&(group.as_str(), resource.as_str())) {
                next = UNWATCHED;
            }
            let objects: Vec<Value> =
                dynamic::list_as(&self.client, &served.resource, &key.namespace).await?;
            let now = self.clock.now();
            add(&mut used, &taken(group, resource, &quota, &objects, &hard, now));
        }
        if read(&quota["status"]["hard"]) != hard || read(&quota["status"]["used"]) != used {
            quota["status"] = json!({"hard": quota["spec"]["hard"], "used": write(&used)});
            let mut request =
                self.client.request::<ResourceQuota>(Verb::Update, &key.namespace, &key.name);
            request.subresource = Some("status".into());
            request.body = Body::Object(quota);
            self.client.call(request).await?;
        }
        Ok(Next::After(next))
    }
}

/// Nothing of everything that is limited.
fn zero(hard: &ResourceList) -> ResourceList {
    hard.iter().map(|(name, limit)| (name.clone(), limit.minus(*limit))).collect()
}

/// What the objects of one resource take of what the quota limits. Pure.
fn taken(
    group: &str,
    resource: &str,
    quota: &Value,
    objects: &[Value],
    hard: &ResourceList,
    now: Timestamp,
) -> ResourceList {
    let limited: BTreeSet<&String> = hard.keys().collect();
    let mut all = ResourceList::new();
    for object in objects.iter().filter(|object| in_scope(group, resource, quota, object)) {
        let mut list = usage(group, resource, object, now);
        list.retain(|name, _| limited.contains(name));
        add(&mut all, &list);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_limited_and_in_scope_is_counted() {
        let quota = json!({"spec": {"hard": {"pods": "5", "requests.cpu": "2"},
            "scopes": ["NotTerminating"]}});
        let pod = |cpu: &str, more: Value| {
            let mut pod = json!({"spec": {"containers": [{"name": "c", "resources":
                {"requests": {"cpu": cpu, "memory": "1Gi"}}}]}});
            for (field, value) in more.as_object().unwrap() {
                pod["spec"][field] = value.clone();
            }
            pod
        };
        let pods = [
            pod("500m", json!({})),
            pod("1", json!({})),
            pod("1", json!({"activeDeadlineSeconds": 9})),
        ];
        let hard = read(&quota["spec"]["hard"]);
        let mut used = zero(&hard);
        add(&mut used, &taken("", "pods", &quota, &pods, &hard, Timestamp::default()));
        assert_eq!(write(&used), json!({"pods": "2", "requests.cpu": "1500m"}));
        assert_eq!(write(&zero(&hard)), json!({"pods": "0", "requests.cpu": "0"}));
    }
}
