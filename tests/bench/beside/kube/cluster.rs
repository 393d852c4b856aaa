//! The loops of a master on hollow nodes: pods get nodes and run, a Deployment comes up, a namespace goes,
//! and then nothing happens.
//!
//! Hollow nodes say what their pods do, as agents would; their process is not counted as the server.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tokio::process::Child;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::client::{Ask, Client};
use super::figures::{Figures, Goal};
use super::master::Master;
use super::objects::{each, name, pod, pods};
use super::writes::deployment;
use crate::load::Servers;
use crate::options::Options;
use crate::{Failure, processes};

/// As large as so many nodes need.
const CLUSTER_CIDR: &str = "10.128.0.0/9";
/// Longer than any part takes.
const PATIENCE: Duration = Duration::from_secs(600);
/// A node that has been silent for so long would be Unknown: it is judged after fifty seconds.
const LOST_AFTER: Duration = Duration::from_secs(75);
const NAMESPACE: &str = "default";

struct Bed<'a> {
    options: &'a Options,
    nodes: usize,
    master: Master,
    hollow: Child,
}

pub async fn measure(
    options: &Options,
    nodes: usize,
    figures: &mut Figures,
) -> Result<(), Failure> {
    let folder = tempfile::Builder::new().prefix("cluster-").tempdir_in(&options.directory)?;
    let mut bed = Bed::begin(options, nodes, folder.path(), figures).await?;
    if options.wants("schedule") {
        bed.schedule(figures).await?;
    }
    if options.wants("deployment") {
        bed.deployment(figures).await?;
    }
    if options.wants("namespace") {
        bed.namespace(figures).await?;
    }
    if options.wants("reconnect") {
        bed.reconnect(figures).await?;
    }
    // The largest alone: it takes minutes to make all the pods.
    if options.wants("idle") && options.nodes.iter().max() == Some(&nodes) {
        bed.idle(figures).await?;
    }
    Ok(())
}

impl<'a> Bed<'a> {
    async fn begin(
        options: &'a Options,
        nodes: usize,
        folder: &Path,
        figures: &mut Figures,
    ) -> Result<Bed<'a>, Failure> {
        let (master, _) = Master::start(options, folder, &["--cluster-cidr", CLUSTER_CIDR]).await?;
        let began = Instant::now();
        let hollow = master.hollow_nodes(options, nodes)?;
        let ready = |node: &Value| {
            let taints = node["spec"]["taints"].as_array().map_or(0, Vec::len);
            taints == 0 && node["spec"]["podCIDR"].is_string() && is_true(node, "Ready")
        };
        until(master.client().await?, "/api/v1/nodes", nodes, ready).await?;
        let (took, what) = (began.elapsed(), format!("{nodes} nodes: all ready"));
        figures.once(&what, took.as_secs_f64(), "s", None, None);
        Ok(Bed { options, nodes, master, hollow })
    }

    fn once(&self, figures: &mut Figures, what: &str, figure: f64, unit: &'static str) {
        figures.once(&format!("{} nodes: {what}", self.nodes), figure, unit, None, None);
    }

    /// Made as fast as clients can, until each has a node, and until each runs.
    async fn schedule(&self, figures: &mut Figures) -> Result<(), Failure> {
        let count = if self.options.quick { 1000 } else { 5000 };
        let path = format!("{}?labelSelector=app%3Dbench", pods(NAMESPACE));
        let bound = |pod: &Value| pod["spec"]["nodeName"].is_string();
        let running = |pod: &Value| is_true(pod, "Ready");
        let have_nodes = until(self.master.client().await?, &path, count, bound);
        let run = until(self.master.client().await?, &path, count, running);
        let (decided, began) = (self.decisions().await?, Instant::now());
        let before = (self.master.processor(), self.hollow_processor());
        let make = each(&self.master, count, |number| {
            Ask::post(pods(NAMESPACE), pod(&name(number), number, 0).to_string())
        });
        let (_, bound, running) = tokio::try_join!(make, have_nodes, run)?;
        let spent = self.master.processor().saturating_sub(before.0);
        let hollow = self.hollow_processor().saturating_sub(before.1);
        let per_second = count as f64 / (bound - began).as_secs_f64();
        let what = format!("{} nodes: pods given nodes", self.nodes);
        figures.once(&what, per_second, "/s", None, Some(Goal::AtLeast(680.0)));
        let per_second = count as f64 / (running - began).as_secs_f64();
        self.once(figures, "pods made, given nodes, running", per_second, "/s");
        let each = |spent: Duration| spent.as_secs_f64() * 1e3 / count as f64;
        self.once(figures, "CPU of the master for each", each(spent), "ms");
        self.once(figures, "CPU of the hollow nodes for each", each(hollow), "ms");
        let (seconds, decisions) = self.decisions().await?;
        let each = (seconds - decided.0) / (decisions - decided.1).max(1.0) * 1e3;
        self.once(figures, "time of one decision", each, "ms");
        Ok(())
    }

    /// How long the scheduler has been deciding, and on how many pods.
    async fn decisions(&self) -> Result<(f64, f64), Failure> {
        let page = self.master.client().await?.ask(Ask::get("/metrics")).await?;
        let page = String::from_utf8_lossy(&page).into_owned();
        let of = |name: &str| {
            let name = format!("scheduler_scheduling_algorithm_duration_seconds_{name} ");
            let line = page.lines().find_map(|line| line.strip_prefix(&*name));
            line.and_then(|figure| figure.trim().parse().ok()).ok_or("the scheduler does not count")
        };
        Ok((of("sum")?, of("count")?))
    }

    fn hollow_processor(&self) -> Duration {
        processes::processor(&[self.hollow.id().unwrap_or(0)])
    }

    async fn deployment(&self, figures: &mut Figures) -> Result<(), Failure> {
        let replicas = 1000;
        let path = "/apis/apps/v1/namespaces/default/deployments";
        let mut client = self.master.client().await?;
        let (began, before) = (Instant::now(), self.master.processor());
        client.ask(Ask::post(path, deployment("large", replicas).to_string())).await?;
        let available = |it: &Value| it["status"]["availableReplicas"] == replicas;
        let done = until(self.master.client().await?, path, 1, available).await?;
        let spent = self.master.processor().saturating_sub(before);
        let what = "a Deployment of 1,000 runs";
        self.once(figures, what, (done - began).as_secs_f64(), "s");
        let what = "CPU of the master for it";
        self.once(figures, what, spent.as_secs_f64(), "s");
        let path = format!("{path}/large?propagationPolicy=Foreground");
        client.ask(Ask { method: Method::DELETE, ..Ask::get(path.clone()) }).await?;
        gone(&mut client, &path).await
    }

    async fn namespace(&self, figures: &mut Figures) -> Result<(), Failure> {
        let count = if self.options.quick { 2000 } else { 10_000 };
        let mut client = self.master.client().await?;
        let body = json!({"metadata": {"name": "full"}}).to_string();
        client.ask(Ask::post("/api/v1/namespaces", body)).await?;
        each(&self.master, count, |number| {
            let body = json!({"metadata": {"name": name(number)}, "data": {"key": "value"}});
            Ask::post("/api/v1/namespaces/full/configmaps", body.to_string())
        })
        .await?;
        let (began, before) = (Instant::now(), self.master.processor());
        let path = "/api/v1/namespaces/full";
        client.ask(Ask { method: Method::DELETE, ..Ask::get(path) }).await?;
        gone(&mut client, path).await?;
        let spent = self.master.processor().saturating_sub(before);
        let what = format!("a namespace of {count} objects is gone");
        self.once(figures, &what, began.elapsed().as_secs_f64(), "s");
        self.once(figures, "CPU of the master for it", spent.as_secs_f64(), "s");
        Ok(())
    }

    /// The master is killed and comes back, and all agents with it.
    async fn reconnect(&mut self, figures: &mut Figures) -> Result<(), Failure> {
        sleep(self.options.duration() * 3).await;
        let steady = self.master.resident_mib();
        self.once(figures, "memory of the master", steady, "MiB");
        let took = self.master.restart().await?;
        let back = Instant::now();
        self.once(figures, "after SIGKILL: ready", took.as_secs_f64(), "s");
        let lost = self.lost(back + LOST_AFTER);
        let sessions = async {
            while self.sessions().await? < self.nodes {
                if back.elapsed() > PATIENCE {
                    return Err("the agents do not come back".into());
                }
                sleep(Duration::from_millis(100)).await;
            }
            Ok::<_, Failure>(back.elapsed())
        };
        let (lost, sessions) = tokio::try_join!(lost, sessions)?;
        self.once(figures, "after SIGKILL: all agents are back", sessions.as_secs_f64(), "s");
        let what = format!("{} nodes: after SIGKILL: nodes that were taken for lost", self.nodes);
        figures.once(&what, lost as f64, "", None, Some(Goal::Below(1.0)));
        let what = format!("{} nodes: after SIGKILL: most memory of the master", self.nodes);
        let goal = Some(Goal::Below(2.0 * steady));
        figures.once(&what, self.master.peak_mib(), "MiB", None, goal);
        Ok(())
    }

    async fn sessions(&self) -> Result<usize, Failure> {
        let page = self.master.client().await?.ask(Ask::get("/metrics")).await?;
        let page = String::from_utf8_lossy(&page).into_owned();
        let line = page.lines().find_map(|line| line.strip_prefix("kontiki_node_sessions "));
        Ok(line.and_then(|count| count.trim().parse().ok()).ok_or("sessions are not counted")?)
    }

    /// How many nodes are not Ready, or tainted, at any time until then.
    async fn lost(&self, end: Instant) -> Result<usize, Failure> {
        let mut lines = self.master.client().await?.watch("/api/v1/nodes?watch=true").await?;
        let mut lost = HashSet::new();
        while let Ok(line) = timeout_at(end, lines.next()).await {
            let event: Value = serde_json::from_slice(&line?)?;
            let node = &event["object"];
            let taints = node["spec"]["taints"].as_array().map_or(0, Vec::len);
            if taints > 0 || !is_true(node, "Ready") {
                lost.insert(node["metadata"]["name"].to_string());
            }
        }
        Ok(lost.len())
    }

    /// Nodes and pods are there, and nothing happens but that nodes live.
    async fn idle(&self, figures: &mut Figures) -> Result<(), Failure> {
        let each_node = if self.options.quick { 2 } else { 10 };
        let count = self.options.pods.unwrap_or(self.nodes * each_node);
        let mut client = self.master.client().await?;
        let body = json!({"metadata": {"name": "idle"}}).to_string();
        client.ask(Ask::post("/api/v1/namespaces", body)).await?;
        let account = "/api/v1/namespaces/idle/serviceaccounts";
        until(self.master.client().await?, account, 1, |_| true).await?;
        let running = |pod: &Value| is_true(pod, "Ready");
        let path = pods("idle");
        let run = until(self.master.client().await?, &path, count, running);
        let nodes = self.nodes;
        let make = each(&self.master, count, move |number| {
            let mut pod = pod(&name(number), number, 0);
            // Their nodes are given, so that this measures what is there and not how it came.
            pod["spec"]["nodeName"] = format!("hollow-{}", number % nodes).into();
            Ask::post(pods("idle"), pod.to_string())
        });
        tokio::try_join!(make, run)?;
        sleep(self.options.duration() * 3).await;
        let wait = self.options.duration() * 5;
        let before = (self.master.processor(), self.hollow_processor());
        sleep(wait).await;
        let share = |spent: Duration| spent.as_secs_f64() / wait.as_secs_f64() * 1e3;
        let spent = share(self.master.processor().saturating_sub(before.0));
        let hollow = share(self.hollow_processor().saturating_sub(before.1));
        let what = format!("idle with {count} pods: CPU of the master");
        self.once(figures, &what, spent, "ms/s");
        let what = format!("idle with {count} pods: CPU of the hollow nodes");
        self.once(figures, &what, hollow, "ms/s");
        let what = format!("idle with {count} pods: memory of the master");
        self.once(figures, &what, self.master.resident_mib(), "MiB");
        Ok(())
    }
}

pub fn is_true(object: &Value, kind: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    let found = conditions.into_iter().flatten().find(|condition| condition["type"] == kind);
    found.is_some_and(|condition| condition["status"] == "True")
}

/// Watches until so many objects have been as wanted, each once; when that was.
pub async fn until(
    mut client: Client,
    path: &str,
    count: usize,
    wanted: impl Fn(&Value) -> bool,
) -> Result<Instant, Failure> {
    let sign = if path.contains('?') { '&' } else { '?' };
    let mut lines = client.watch(format!("{path}{sign}watch=true")).await?;
    let watched = async {
        let mut there = HashSet::new();
        while there.len() < count {
            let event: Value = serde_json::from_slice(&lines.next().await?)?;
            let object = &event["object"];
            if wanted(object) {
                there.insert(object["metadata"]["name"].as_str().unwrap_or_default().to_owned());
            }
        }
        Ok::<_, Failure>(Instant::now())
    };
    let watched = timeout(PATIENCE, watched).await;
    watched.map_err(|_| format!("{path}: {count} objects do not come to what is wanted"))?
}

async fn gone(client: &mut Client, path: &str) -> Result<(), Failure> {
    let until = Instant::now() + PATIENCE;
    loop {
        let answer = client.open(Ask::get(path)).await?;
        if answer.status() == http::StatusCode::NOT_FOUND {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(format!("{path} does not go").into());
        }
        sleep(Duration::from_millis(50)).await;
    }
}
