//! The loops of workloads against a whole API server in memory, with a kubelet that only says what pods do.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ListableResource;
use k8s_openapi::api::apps::v1::{
    ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet,
};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Event, Node, PersistentVolumeClaim, Pod, ServiceAccount};
use kontiki_api::client::{Client, DeleteOptions, PatchKind, Typed};
use kontiki_api::object::time::Clock;
use kontiki_api::sandbox::Sandbox;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Context, Selection, Settings, job, ownership, run_all};
use crate::reconcile::requests::counted;
use crate::reconcile::{Delta, Informers, Metrics, events};

const NAMESPACE: &str = "default";
const PATIENCE: Duration = Duration::from_secs(90);
const LOOPS: [&str; 8] = [
    // Pods are admitted once their namespace has an account.
    "serviceaccount-controller",
    "replicaset-controller",
    "deployment-controller",
    "daemonset-controller",
    "statefulset-controller",
    "job-controller",
    "cronjob-controller",
    "ttl-after-finished-controller",
];

/// A server, its loops and its kubelet; all end with it.
struct Cluster {
    client: Client,
    /// What the loops ask for is counted here.
    asked: Registry,
    sandbox: Sandbox,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Cluster {
    async fn start() -> Cluster {
        Cluster::by(Clock::System).await
    }

    /// Its loops go by this clock.
    async fn by(clock: Clock) -> Cluster {
        let sandbox = Sandbox::start().await;
        let client = sandbox.client();
        let mut asked = Registry::default();
        let loops = counted(client.clone(), "sandbox", &mut asked);
        let informers = Informers::new(client.clone());
        let (recorder, writer) = events::recorder(client.clone(), Clock::System);
        let context = Context {
            client: loops,
            informers: informers.clone(),
            recorder,
            metrics: Metrics::new(&mut Registry::default()),
            clock,
            settings: Settings::default(),
        };
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        tasks.spawn(writer.run(stop.clone()));
        tasks.spawn(kubelet(client.clone(), informers, stop.clone()));
        let selection = Selection::new(LOOPS.map(str::to_owned).to_vec()).unwrap();
        let token = stop.clone();
        tasks.spawn(async move { run_all(context, &selection, token).await });
        Cluster { client, asked, sandbox, stop, tasks }
    }

    async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        self.sandbox.stop().await;
    }

    async fn create<K: Typed + ListableResource>(&self, object: Value) -> K {
        let object: K = serde_json::from_value(object).unwrap();
        self.client.create(&object).await.unwrap()
    }

    async fn patch<K: Typed + ListableResource>(&self, name: &str, patch: Value) -> K {
        let kind = PatchKind::Strategic;
        self.client.patch(NAMESPACE, name, kind, &patch, None).await.unwrap()
    }

    async fn list<K: Typed + ListableResource>(&self) -> Vec<K> {
        self.client.list(NAMESPACE, Default::default()).await.unwrap().items
    }

    /// A node on which pods may be: a new one is tainted until somebody says that it is ready.
    async fn create_node(&self, name: &str) {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
        let _: Node = self.create(node).await;
        let patch = json!({"spec": {"taints": null}});
        let patched = self.client.patch::<Node>("", name, PatchKind::Merge, &patch, None).await;
        patched.unwrap();
    }

    /// Waits until the object is as wanted.
    async fn until<K>(&self, name: &str, wanted: impl Fn(&K) -> bool) -> K
    where
        K: Typed + ListableResource,
    {
        let look = || async {
            let found = self.client.get::<K>(NAMESPACE, name).await;
            found.as_ref().is_ok_and(&wanted).then_some(found)
        };
        match wait(look).await {
            Some(found) => found.unwrap(),
            None => {
                let is = self.client.get::<K>(NAMESPACE, name).await;
                panic!("{} is {}", K::KIND, serde_json::to_string_pretty(&is.unwrap()).unwrap())
            }
        }
    }

    /// Waits until the pods, by name, are as wanted.
    async fn until_pods(&self, wanted: impl Fn(&[Pod]) -> bool) -> Vec<Pod> {
        let look = || async {
            let pods = self.list::<Pod>().await;
            wanted(&pods).then_some(pods)
        };
        wait(look).await.expect("the pods become as wanted")
    }
}

async fn wait<T, F: Future<Output = Option<T>>>(mut look: impl FnMut() -> F) -> Option<T> {
    tokio::time::timeout(PATIENCE, async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .ok()
}

/// Says of each pod what its first container's image asks for: `run`, `succeed`, or `fail`; lets go of
/// those that are deleted.
async fn kubelet(client: Client, informers: Informers, stop: CancellationToken) {
    let (sender, mut changes) = tokio::sync::mpsc::unbounded_channel::<Arc<Pod>>();
    informers.of::<Pod>().on(move |delta| {
        if !matches!(delta, Delta::Deleted(_)) {
            let _ = sender.send(delta.object().clone());
        }
    });
    loop {
        let pod = tokio::select! {
            pod = changes.recv() => pod,
            () = stop.cancelled() => return,
        };
        let Some(pod) = pod else { return };
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        if pod.metadata.deletion_timestamp.is_some() {
            let options =
                DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
            // Gone already, or held by a finalizer: either way there is nothing left to do here.
            let _ = client.delete::<Pod>(NAMESPACE, name, &options).await;
        } else if super::pods::phase(&pod) == "Pending" {
            let status = status_of(&pod);
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
            let kind = PatchKind::Strategic;
            let _ = client.patch::<Pod>(NAMESPACE, name, kind, &patch, Some("status")).await;
        }
    }
}

fn status_of(pod: &Pod) -> Value {
    let image = pod.spec.as_ref().and_then(|spec| spec.containers[0].image.as_deref());
    let at = Clock::System.now().rfc3339();
    match image.unwrap_or_default() {
        "succeed" => json!({"phase": "Succeeded"}),
        "fail" => json!({"phase": "Failed", "containerStatuses": [{"name": "c", "image": "fail",
            "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 3, "startedAt": at, "finishedAt": at}}}]}),
        _ => json!({"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": at}]}),
    }
}

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "a"}},
        "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn workload(kind: &str, name: &str, more: Value) -> Value {
    let mut object = json!({"apiVersion": "apps/v1", "kind": kind,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"selector": {"matchLabels": {"app": "a"}}, "template": template("run-1")}});
    for (field, value) in more.as_object().unwrap() {
        object["spec"][field] = value.clone();
    }
    object
}

fn a_job(name: &str, image: &str, more: Value) -> Value {
    let mut template = template(image);
    template["spec"]["restartPolicy"] = "Never".into();
    let mut object = json!({"apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": name, "namespace": NAMESPACE}, "spec": {"template": template}});
    for (field, value) in more.as_object().unwrap() {
        object["spec"][field] = value.clone();
    }
    object
}

fn image_of(pod: &Pod) -> &str {
    pod.spec.as_ref().unwrap().containers[0].image.as_deref().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_rolls_out_and_back_over_replica_sets() {
    let cluster = Cluster::start().await;
    let _: Deployment = cluster.create(workload("Deployment", "web", json!({"replicas": 3}))).await;
    let is_done = |generation: i64| {
        move |it: &Deployment| {
            let status = it.status.clone().unwrap_or_default();
            let conditions = status.conditions.unwrap_or_default();
            status.observed_generation >= Some(generation)
                && [status.replicas, status.updated_replicas, status.available_replicas]
                    == [Some(3); 3]
                && conditions
                    .iter()
                    .any(|it| it.reason.as_deref() == Some("NewReplicaSetAvailable"))
        }
    };
    cluster.until("web", is_done(1)).await;
    let revision = |it: &Deployment| {
        let annotations = it.metadata.annotations.clone().unwrap_or_default();
        annotations.get("deployment.kubernetes.io/revision").cloned()
    };
    for (image, expected, generation) in [("run-2", "2", 2), ("run-1", "3", 3)] {
        let patch = json!({"spec": {"template": template(image)}});
        cluster.patch::<Deployment>("web", patch).await;
        let is =
            |it: &Deployment| is_done(generation)(it) && revision(it).as_deref() == Some(expected);
        cluster.until("web", is).await;
        cluster
            .until_pods(|pods| pods.len() == 3 && pods.iter().all(|it| image_of(it) == image))
            .await;
    }
    let sets = cluster.list::<ReplicaSet>().await;
    let mut sizes: Vec<_> = sets.iter().filter_map(|set| set.spec.replicas).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [0, 3], "going back has reused the first set");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_recreates_has_no_two_versions_at_once() {
    let cluster = Cluster::start().await;
    let recreate = json!({"replicas": 2, "strategy": {"type": "Recreate"}});
    let _: Deployment = cluster.create(workload("Deployment", "web", recreate)).await;
    cluster.until_pods(|pods| pods.len() == 2).await;
    cluster.patch::<Deployment>("web", json!({"spec": {"template": template("run-2")}})).await;
    cluster
        .until_pods(|pods| {
            let new = pods.iter().filter(|it| image_of(it) == "run-2").count();
            assert!(new == 0 || new == pods.len(), "both versions at once");
            new == 2
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_counts_each_pod_once_and_lets_it_go() {
    let cluster = Cluster::start().await;
    let spec = json!({"completions": 5, "parallelism": 2});
    let _: Job = cluster.create(a_job("sum", "succeed", spec)).await;
    let done = cluster.until("sum", |it: &Job| job::finished(it).is_some()).await;
    let status = done.status.unwrap();
    assert_eq!((status.succeeded, status.failed), (Some(5), None));
    assert!(status.completion_time.is_some());
    let free = |pod: &Pod| pod.metadata.finalizers.iter().flatten().next().is_none();
    let pods = cluster.until_pods(|pods| pods.iter().all(free)).await;
    assert_eq!(pods.len(), 5);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_fails_at_its_limit_and_its_time_to_live_ends_it() {
    let cluster = Cluster::start().await;
    let spec = json!({"completions": 2, "parallelism": 2, "completionMode": "Indexed",
        "backoffLimit": 0, "ttlSecondsAfterFinished": 0});
    let _: Job = cluster.create(a_job("sum", "fail", spec)).await;
    let going = |it: &Job| it.metadata.deletion_timestamp.is_some();
    let gone = cluster.until("sum", going).await;
    let condition = job::finished(&gone).cloned().unwrap();
    assert_eq!(
        (condition.type_.as_str(), condition.reason.as_deref()),
        ("Failed", Some("BackoffLimitExceeded"))
    );
    assert_eq!(gone.status.unwrap().failed, Some(2));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stateful_set_grows_updates_and_shrinks_in_order() {
    let cluster = Cluster::start().await;
    let claims = json!([{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}}}]);
    let spec = json!({"replicas": 3, "serviceName": "dbs", "volumeClaimTemplates": claims,
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Delete"}});
    let _: StatefulSet = cluster.create(workload("StatefulSet", "db", spec)).await;
    let settled = |generation: i64, replicas: i32| {
        move |it: &StatefulSet| {
            it.status.as_ref().is_some_and(|status| {
                status.observed_generation >= Some(generation)
                    && status.available_replicas == Some(replicas)
                    && status.updated_replicas == Some(replicas)
                    && status.replicas == replicas
                    && status.current_revision == status.update_revision
            })
        }
    };
    cluster.until("db", settled(1, 3)).await;
    let names = |pods: &[Pod]| -> Vec<_> {
        pods.iter().filter_map(|pod| pod.metadata.name.clone()).collect()
    };
    assert_eq!(names(&cluster.list::<Pod>().await), ["db-0", "db-1", "db-2"]);
    let patch = json!({"spec": {"replicas": 2, "template": template("run-2")}});
    cluster.patch::<StatefulSet>("db", patch).await;
    cluster.until("db", settled(2, 2)).await;
    let pods = cluster.list::<Pod>().await;
    assert_eq!(names(&pods), ["db-0", "db-1"]);
    assert!(pods.iter().all(|pod| image_of(pod) == "run-2"));
    assert_eq!(cluster.list::<ControllerRevision>().await.len(), 2);
    let claims = cluster.list::<PersistentVolumeClaim>().await;
    let owned = |claim: &&PersistentVolumeClaim| {
        ownership::controller_of(&claim.metadata).is_some_and(|owner| owner.name == "db-2")
    };
    let owned: Vec<_> = claims.iter().filter(owned).collect();
    assert_eq!((claims.len(), owned.len()), (3, 1), "one claim goes with its pod");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_set_has_a_pod_for_every_node_and_updates_them() {
    let cluster = Cluster::start().await;
    cluster.create_node("n1").await;
    let _: DaemonSet = cluster.create(workload("DaemonSet", "logs", json!({}))).await;
    let settled = |count: i32| {
        move |it: &DaemonSet| {
            it.status.as_ref().is_some_and(|status| {
                status.desired_number_scheduled == count
                    && status.number_available == Some(count)
                    && status.updated_number_scheduled == Some(count)
                    && status.observed_generation == it.metadata.generation
            })
        }
    };
    cluster.until("logs", settled(1)).await;
    cluster.create_node("n2").await;
    cluster.until("logs", settled(2)).await;
    cluster.patch::<DaemonSet>("logs", json!({"spec": {"template": template("run-2")}})).await;
    cluster.until("logs", settled(2)).await;
    cluster
        .until_pods(|pods| pods.len() == 2 && pods.iter().all(|it| image_of(it) == "run-2"))
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cron_job_starts_what_is_due_and_notes_what_ended() {
    let cluster = Cluster::start().await;
    let job = a_job("", "succeed", json!({}))["spec"].clone();
    let cron = json!({"apiVersion": "batch/v1", "kind": "CronJob",
        "metadata": {"name": "report", "namespace": NAMESPACE},
        "spec": {"schedule": "0 * * * *", "jobTemplate": {"spec": job}}});
    let _: CronJob = cluster.create(cron).await;
    // As if the last time had been two hours ago.
    let before = Clock::System.now().plus_seconds(-2 * 3600).rfc3339();
    let patch = json!({"status": {"lastScheduleTime": before}});
    let kind = PatchKind::Merge;
    let patched =
        cluster.client.patch::<CronJob>(NAMESPACE, "report", kind, &patch, Some("status")).await;
    patched.unwrap();
    let noted = |it: &CronJob| {
        let status = it.status.clone().unwrap_or_default();
        status.last_successful_time.is_some() && status.active.is_none()
    };
    cluster.until("report", noted).await;
    assert_eq!(cluster.list::<Job>().await.len(), 1, "one for all that were missed");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_is_refused_is_tried_one_at_a_time_and_told_once() {
    const TRIES: i32 = 6;
    let cluster = Cluster::start().await;
    let mut template = template("run-1");
    template["spec"]["serviceAccountName"] = "nobody".into();
    let spec = json!({"replicas": 20, "template": template});
    let _: ReplicaSet = cluster.create(workload("ReplicaSet", "web", spec)).await;
    let events = || async {
        let mut events = cluster.list::<Event>().await;
        events.retain(|event| event.reason.as_deref() == Some("FailedCreate"));
        let said: i32 = events.iter().filter_map(|event| event.count).sum();
        (said >= TRIES).then_some(events)
    };
    let events = wait(events).await.expect("it is told of");
    assert_eq!(events.len(), 1, "it is one event, which counts");
    let message = events[0].message.as_deref().unwrap_or_default();
    assert!(message.contains("nobody"), "{message}");
    let mut page = String::new();
    prometheus_client::encoding::text::encode(&mut page, &cluster.asked).unwrap();
    let refused = page.lines().find_map(|line| {
        line.strip_prefix("rest_client_requests_total{code=\"403\",method=\"POST\"")
    });
    let refused: i32 = refused.unwrap().rsplit_once(' ').unwrap().1.parse().unwrap();
    // Not twenty each time. What is under way while this looks is one or two more than was told.
    let told = events[0].count.unwrap();
    assert!((told..=told + 3).contains(&refused), "{refused} tries, {told} told");
    let account = json!({"metadata": {"name": "nobody", "namespace": NAMESPACE}});
    let _: ServiceAccount = cluster.create(account).await;
    cluster
        .until("web", |it: &ReplicaSet| {
            it.status.as_ref().is_some_and(|status| status.available_replicas == Some(20))
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cron_job_keeps_to_its_policy_while_a_job_of_it_runs() {
    const HOUR_S: i64 = 3600;
    let clock = Clock::set_at(Clock::System.now());
    let cluster = Cluster::by(clock.clone()).await;
    let job = a_job("", "run", json!({}))["spec"].clone();
    for policy in ["Allow", "Forbid", "Replace"] {
        let cron = json!({"apiVersion": "batch/v1", "kind": "CronJob",
            "metadata": {"name": policy.to_lowercase(), "namespace": NAMESPACE},
            "spec": {"schedule": "0 * * * *", "concurrencyPolicy": policy,
                "jobTemplate": {"spec": job}}});
        let _: CronJob = cluster.create(cron).await;
    }
    let jobs_of = |jobs: &[Job], cron: &str| -> Vec<String> {
        let all = jobs.iter().filter(|job| {
            ownership::controller_of(&job.metadata).is_some_and(|owner| owner.name == cron)
        });
        all.filter_map(|job| job.metadata.name.clone()).collect()
    };
    // Looked at when an hour has passed: what changes an object has its loop look.
    let an_hour_later = async |turn: i64| {
        clock.advance_seconds(HOUR_S);
        for cron in ["allow", "forbid", "replace"] {
            let patch = json!({"metadata": {"annotations": {"turn": turn.to_string()}}});
            cluster.patch::<CronJob>(cron, patch).await;
        }
    };
    an_hour_later(1).await;
    let first = wait(|| async {
        let jobs = cluster.list::<Job>().await;
        (jobs.len() == 3).then_some(jobs)
    });
    let first = first.await.expect("each has started one");
    an_hour_later(2).await;
    let second = wait(|| async {
        let jobs = cluster.list::<Job>().await;
        let replaced = jobs_of(&jobs, "replace");
        let going = jobs.iter().any(|job| job.metadata.deletion_timestamp.is_some());
        let settled = jobs_of(&jobs, "allow").len() == 2
            && replaced.len() == 1
            && replaced != jobs_of(&first, "replace")
            && !going;
        settled.then_some(jobs)
    });
    let second = second.await.expect("one has two, one another than before");
    assert_eq!(jobs_of(&second, "forbid"), jobs_of(&first, "forbid"));
    let said = wait(|| async {
        let events = cluster.list::<Event>().await;
        let said = events.iter().any(|event| {
            event.reason.as_deref() == Some("JobAlreadyActive")
                && event.involved_object.name.as_deref() == Some("forbid")
        });
        said.then_some(())
    });
    said.await.expect("it is told why there is no other");
    cluster.stop().await;
}
