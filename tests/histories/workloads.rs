//! ReplicaSet, Deployment, StatefulSet and Job while people, nodes and leaders do what they like.
//!
//! Keeps, at every moment: no controller has more pods than it was ever asked for, no identity of a
//! StatefulSet is there twice, a Job counts no more than it was asked for. Keeps, in the end: everything is
//! as it was last asked to be, and nothing more is there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ListableResource;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kontiki::reconcile::Informers;
use kontiki_api::client::{DeleteOptions, PatchKind, Typed};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::bed::{Bed, NAMESPACE, seeds};

const STEPS: usize = 30;
const REPLICAS_MAX: i64 = 6;
const COMPLETIONS: i64 = 5;
const PARALLELISM: i64 = 2;
/// More pods of a deployment than it has replicas, while it is rolled over.
const SURGE: i64 = 1;

fn template(app: &str, image: i64, does: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}, "annotations": {"hollow.kontiki.io/does": does,
            "hollow.kontiki.io/after": "20ms", "hollow.kontiki.io/ends-after": "10ms"}},
        "spec": {"containers": [{"name": "c", "image": format!("i:{image}")}]}})
}

fn workload(kind: &str, app: &str, more: Value) -> Value {
    let mut object = json!({"apiVersion": "apps/v1", "kind": kind,
        "metadata": {"name": app, "namespace": NAMESPACE},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": app}},
            "template": template(app, 0, "run")}});
    for (key, value) in more.as_object().cloned().unwrap_or_default() {
        object["spec"][key] = value;
    }
    object
}

async fn create<K: Typed + ListableResource>(bed: &Bed, object: Value) {
    let object: K = serde_json::from_value(object).unwrap();
    bed.client.create(&object).await.unwrap();
}

async fn patch<K: Typed + ListableResource>(bed: &Bed, name: &str, patch: Value) {
    let kind = PatchKind::Strategic;
    bed.client.patch::<K>(NAMESPACE, name, kind, &patch, None).await.unwrap();
}

fn is_going(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn is_active(pod: &Pod) -> bool {
    !is_going(pod) && !matches!(phase(pod), "Succeeded" | "Failed")
}

fn image(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.containers[0].image.as_deref()).unwrap_or_default()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut ready = conditions.filter(|it| it.type_ == "Ready" && it.status == "True");
    !is_going(pod) && ready.next().is_some()
}

/// What is wrong with these pods, all that there are at one moment.
fn complaint(pods: &[Arc<Pod>]) -> Option<String> {
    let mut active: HashMap<(String, String), i64> = HashMap::new();
    let mut of_web = 0;
    for pod in pods.iter().filter(|pod| is_active(pod)) {
        let owner =
            pod.metadata.owner_references.iter().flatten().find(|it| it.controller == Some(true));
        let Some(owner) = owner else { continue };
        *active.entry((owner.kind.clone(), owner.name.clone())).or_default() += 1;
        of_web += i64::from(owner.name.starts_with("web-"));
    }
    for ((kind, name), count) in active {
        let most = if kind == "Job" { PARALLELISM } else { REPLICAS_MAX + SURGE };
        if count > most {
            return Some(format!("{count} pods of {kind} {name}"));
        }
    }
    (of_web > REPLICAS_MAX + SURGE).then(|| format!("{of_web} pods of the deployment"))
}

struct History {
    bed: Bed,
    dice: StdRng,
    seed: u64,
    /// What was asked for last.
    replicas: BTreeMap<&'static str, i64>,
    image: BTreeMap<&'static str, i64>,
    paused: bool,
}

impl History {
    async fn act(&mut self) {
        let apps = ["set", "web", "db"];
        let app = apps[self.dice.random_range(0..apps.len())];
        match self.dice.random_range(0..10) {
            0 | 1 => {
                let replicas = self.dice.random_range(0..=REPLICAS_MAX);
                self.replicas.insert(app, replicas);
                self.write(app, json!({"spec": {"replicas": replicas}})).await;
            }
            2 | 3 => {
                let image = self.dice.random_range(0..4);
                self.image.insert(app, image);
                let does = ["run", "run", "unready"][self.dice.random_range(0..3)];
                self.write(app, json!({"spec": {"template": template(app, image, does)}})).await;
            }
            4 => {
                self.paused = self.dice.random();
                self.write("web", json!({"spec": {"paused": self.paused}})).await;
            }
            5 | 6 => self.on_a_pod(Value::Null).await,
            7 => {
                let fails =
                    json!({"metadata": {"annotations": {"hollow.kontiki.io/does": "fail"}}});
                self.on_a_pod(fails).await;
            }
            // It no longer belongs to who made it.
            8 => self.on_a_pod(json!({"metadata": {"labels": {"app": "nobody"}}})).await,
            _ => self.bed.lead_anew().await,
        }
    }

    async fn write(&self, app: &str, change: Value) {
        match app {
            "set" => patch::<ReplicaSet>(&self.bed, app, change).await,
            "web" => patch::<Deployment>(&self.bed, app, change).await,
            _ => patch::<StatefulSet>(&self.bed, app, change).await,
        }
    }

    /// Deletes a pod, at once or in time, or patches it.
    async fn on_a_pod(&mut self, change: Value) {
        let pods = self.bed.list::<Pod>().await;
        if pods.is_empty() {
            return;
        }
        let pod = &pods[self.dice.random_range(0..pods.len())];
        let grace = if self.dice.random() { Some(0) } else { None };
        let (client, name) = (&self.bed.client, pod.metadata.name.as_deref().unwrap());
        // It may be gone by now.
        if change.is_null() {
            let options = DeleteOptions { grace_period_seconds: grace, ..DeleteOptions::default() };
            let _ = client.delete::<Pod>(NAMESPACE, name, &options).await;
        } else {
            let kind = PatchKind::Strategic;
            let _ = client.patch::<Pod>(NAMESPACE, name, kind, &change, None).await;
        }
    }

    /// Everything is well again; what comes of it?
    async fn settle(&mut self) {
        for (app, image) in self.image.clone() {
            self.write(app, json!({"spec": {"template": template(app, image, "run")}})).await;
        }
        self.write("web", json!({"spec": {"paused": false}})).await;
        self.bed.lead_anew().await;
        // A set does not replace pods of an older template, nor a StatefulSet one that is not ready yet
        // unless it is updated: people delete those.
        for pod in self.bed.list::<Pod>().await {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            if !name.starts_with("sum") {
                let options = DeleteOptions::default();
                let _ = self.bed.client.delete::<Pod>(NAMESPACE, name, &options).await;
            }
        }
        let what = format!("seed {}: the end", self.seed);
        self.bed.until(&what, async || self.is_settled().await).await;
    }

    async fn is_settled(&self) -> Result<(), String> {
        let pods = self.bed.list::<Pod>().await;
        for (app, replicas) in &self.replicas {
            let owned = |pod: &&Pod| {
                let labels = pod.metadata.labels.iter().flatten();
                labels.clone().any(|(key, value)| key == "app" && value == app)
            };
            let of: Vec<&Pod> = pods.iter().filter(owned).collect();
            let wanted = format!("i:{}", self.image[app]);
            let well = of.iter().filter(|pod| is_ready(pod) && image(pod) == wanted).count();
            if of.len() != well || i64::try_from(well).unwrap() != *replicas {
                let seen: Vec<_> = of
                    .iter()
                    .map(|pod| (pod.metadata.name.clone(), phase(pod), is_ready(pod), image(pod)))
                    .collect();
                return Err(format!("{app} wants {replicas} of {wanted}: {seen:?}"));
            }
        }
        let names: BTreeSet<_> =
            pods.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect();
        for ordinal in 0..self.replicas["db"] {
            if !names.contains(&*format!("db-{ordinal}")) {
                return Err(format!("db-{ordinal} is missing in {names:?}"));
            }
        }
        let web = self.bed.client.get::<Deployment>(NAMESPACE, "web").await.unwrap();
        let status = web.status.unwrap_or_default();
        let replicas = i32::try_from(self.replicas["web"]).unwrap();
        let all = [status.replicas, status.updated_replicas, status.available_replicas];
        if all.map(Option::unwrap_or_default) != [replicas; 3]
            || status.observed_generation != web.metadata.generation
        {
            return Err(format!("the deployment says {status:?}"));
        }
        let job = self.bed.client.get::<Job>(NAMESPACE, "sum").await.unwrap();
        let status = job.status.unwrap_or_default();
        let complete = status.conditions.iter().flatten().any(|it| it.type_ == "Complete");
        if !complete || status.succeeded.map(i64::from) != Some(COMPLETIONS) {
            return Err(format!("the job says {status:?}"));
        }
        let held =
            pods.iter().find(|pod| pod.metadata.finalizers.iter().flatten().next().is_some());
        held.map_or(Ok(()), |pod| Err(format!("{:?} is held", pod.metadata.name)))
    }
}

async fn history(seed: u64) {
    let bed = Bed::start(3).await;
    create::<ReplicaSet>(&bed, workload("ReplicaSet", "set", json!({}))).await;
    let strategy = json!({"strategy": {"rollingUpdate": {"maxSurge": SURGE, "maxUnavailable": 1}}});
    create::<Deployment>(&bed, workload("Deployment", "web", strategy)).await;
    create::<StatefulSet>(&bed, workload("StatefulSet", "db", json!({"serviceName": "db"}))).await;
    let mut pods = template("sum", 0, "succeed");
    pods["spec"]["restartPolicy"] = "Never".into();
    // What is deleted or fails is tried again.
    let job = json!({"apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": "sum", "namespace": NAMESPACE},
        "spec": {"completions": COMPLETIONS, "parallelism": PARALLELISM, "backoffLimit": 100,
            "template": pods}});
    create::<Job>(&bed, job).await;

    let informers = Informers::new(bed.client.clone());
    let (seen, stop) = (informers.of::<Pod>(), CancellationToken::new());
    let complaints = Arc::new(Mutex::new(Vec::new()));
    let (all, told) = (seen.clone(), complaints.clone());
    seen.on(move |_| told.lock().extend(complaint(&all.in_namespace(NAMESPACE))));
    let watching = tokio::spawn({
        let stop = stop.clone();
        async move { informers.run(stop).await }
    });
    let replicas = BTreeMap::from([("set", 3), ("web", 3), ("db", 3)]);
    let image = BTreeMap::from([("set", 0), ("web", 0), ("db", 0)]);
    let dice = StdRng::seed_from_u64(seed);
    let mut history = History { bed, dice, seed, replicas, image, paused: false };
    for _ in 0..STEPS {
        history.act().await;
        let pause = history.dice.random_range(0..60);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    history.settle().await;
    stop.cancel();
    watching.await.unwrap();
    let complaints = complaints.lock().clone();
    assert!(complaints.is_empty(), "seed {seed}: {complaints:#?}");
    history.bed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workloads_keep_to_their_limits_and_end_as_they_were_asked_to() {
    for seed in seeds(3) {
        history(seed).await;
    }
}
