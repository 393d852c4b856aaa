//! Brings one pod to where it should be: looks, decides (`plan`), takes the steps, tells, waits.
//!
//! Keeps: after a step it looks again instead of assuming. A deletion interrupts whatever is under
//! way.
//! Never: waits without a bound; keeps anything that the runtime and the object could not tell
//! again.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};
use kontiki_api::object::time::Timestamp;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use super::container::log_path;
use super::groups::Bounds;
use super::memory::{Ended, Memory, Probed, Waiting};
use super::observed::{Observed, Seen, observe};
use super::plan::{self, Step};
use super::{Admission, Desired, Ground, groups, sandbox, view};
use crate::agent::cri::v1::ContainerStatus;
use crate::agent::node;
use crate::agent::probes::{self, Finding, Kind, Target};
use crate::agent::rotation;
use crate::agent::volumes::content::Tokens;
use crate::agent::volumes::{self, PodFolder, Prepared};
use crate::reconcile::events::{Severity, reference};

/// Looks again even if nothing happens: secrets change, tokens end.
const RESYNC_S: i64 = 60;
const RETRY_S: i64 = 5;
/// What stands before the reason why a pod was not let in.
const REJECTED: &str = "Pod was rejected: ";
/// Of a pod that makes room for a critical one, in upstream's words.
const PREEMPTING: &str = "Preempting";
const PREEMPTED: &str = "Preempted in order to admit critical pod";
const PREEMPTED_BY: &str = "Pod was preempted by Kubelet to accommodate a critical pod.";
const FINDINGS_MAX: usize = 16;
/// Sandboxes of a pod that are kept for the records of the containers in them.
const SANDBOXES_MAX: usize = 3;

pub(super) struct Worker {
    pub ground: Arc<Ground>,
    pub desired: watch::Receiver<Desired>,
    look: Arc<Notify>,
    pub memory: Memory,
    ended: HashMap<String, ContainerStatus>,
    pub folder: PodFolder,
    pub tokens: Tokens,
    pub prepared: Prepared,
    refreshed: Option<Timestamp>,
    /// What files of the pod may show of its object, as they were made.
    shows: Shows,
    probes: HashMap<String, AbortHandle>,
    probing: JoinSet<()>,
    findings: (mpsc::Sender<Finding>, mpsc::Receiver<Finding>),
    /// What the masters have last been told.
    pub reported: Option<PodStatus>,
    /// Nothing of it is left here.
    pub forgotten: bool,
    /// What its control group was told.
    pub bounds: Option<Bounds>,
    /// Changes when another pod has left room.
    pub left: watch::Receiver<u64>,
    /// Who has to leave before the pod can begin.
    after: BTreeSet<String>,
}

/// Labels and annotations: of what files show they alone change while a pod runs.
type Shows = [Option<BTreeMap<String, String>>; 2];

fn shows(pod: &Pod) -> Shows {
    [pod.metadata.labels.clone(), pod.metadata.annotations.clone()]
}

/// What a look at the pod came to.
pub(super) enum Next {
    /// Look again at once.
    Now,
    At(Timestamp),
    /// Nothing is left to be done, ever.
    Done,
}

impl Worker {
    pub fn new(
        ground: Arc<Ground>,
        desired: watch::Receiver<Desired>,
        look: Arc<Notify>,
        admission: Admission,
    ) -> Worker {
        let Admission { allocation, refusal, after } = admission;
        let uid = view::uid(&desired.borrow().pod).to_owned();
        let folder = PodFolder::new(&ground.parts.settings.directories.pods, &uid);
        let left = ground.room.left();
        let ended = refusal.map(|it| Ended {
            reason: it.reason,
            message: format!("{REJECTED}{}", it.message),
            refused: true,
            disruption: None,
        });
        Worker {
            ground,
            desired,
            look,
            memory: Memory { allocation, ended, ..Memory::default() },
            ended: HashMap::new(),
            folder,
            tokens: Tokens::default(),
            prepared: Prepared::new(),
            refreshed: None,
            shows: Shows::default(),
            probes: HashMap::new(),
            probing: JoinSet::new(),
            findings: mpsc::channel(FINDINGS_MAX),
            reported: None,
            forgotten: false,
            bounds: None,
            left,
            after,
        }
    }

    pub async fn run(mut self) {
        if let Some(refused) = &self.memory.ended {
            let pod = self.desired.borrow().pod.clone();
            let why = refused.message.strip_prefix(REJECTED).unwrap_or(&refused.message);
            self.say(&pod, "", Severity::Warning, &refused.reason, why.to_owned());
        }
        loop {
            let desired = self.desired.borrow_and_update().clone();
            if desired.preempted {
                self.make_room(&desired.pod);
            }
            let ends = desired.ends() || self.memory.ended.is_some();
            let next = if ends || view::is_over(&desired.pod) {
                self.end(&desired).await
            } else {
                self.sync(&desired.pod).await
            };
            match next {
                Next::Now => {}
                Next::Done => return,
                Next::At(when) => self.wait(when).await,
            }
        }
    }

    /// The pod ends for the sake of another.
    fn make_room(&mut self, pod: &Pod) {
        if self.memory.ended.is_some() || view::is_over(pod) {
            return;
        }
        self.say(pod, "", Severity::Warning, PREEMPTING, PREEMPTED.into());
        self.memory.ended = Some(Ended {
            reason: PREEMPTING.into(),
            message: PREEMPTED.into(),
            refused: false,
            disruption: Some(PREEMPTED_BY),
        });
    }

    pub fn now(&self) -> Timestamp {
        self.ground.parts.clock.now()
    }

    /// Says something about the pod, or a container of it.
    pub fn say(
        &self,
        pod: &Pod,
        container: &str,
        severity: Severity,
        reason: &str,
        message: String,
    ) {
        let mut about = reference(pod);
        if !container.is_empty() {
            let is_in = |list: &[Container]| list.iter().any(|it| it.name == container);
            let list = match () {
                () if is_in(view::init_containers(pod)) => "initContainers",
                () if is_in(view::containers(pod)) => "containers",
                () => "ephemeralContainers",
            };
            about.field_path = Some(format!("spec.{list}{{{container}}}"));
        }
        self.ground.parts.recorder.say(about, severity, reason, message, "");
    }

    /// Asks the runtime, and what the containers that ended have left.
    pub async fn observe(&mut self, pod: &Pod) -> Option<Observed> {
        let runtime = self.ground.parts.runtime.clone();
        match observe(runtime.as_ref(), view::uid(pod), &mut self.ended).await {
            Ok(seen) => {
                self.collect_last_words(pod, &seen);
                Some(seen)
            }
            Err(error) => {
                tracing::debug!(pod = view::name(pod), %error, "the runtime does not show the pod");
                None
            }
        }
    }

    async fn sync(&mut self, asked: &Arc<Pod>) -> Next {
        let retry = self.now().plus_seconds(RETRY_S);
        // Who leaves from here on is heard of.
        self.left.mark_unchanged();
        if !self.ground.room.have_left(&self.after) {
            // Nothing is told of it before: an agent that began anew would take it for one that is let in.
            return Next::At(self.now().plus_seconds(RESYNC_S));
        }
        self.after.clear();
        // It is run with what it was given, which may not be what it asks for now.
        let pod = &self.allocate(asked);
        let Some(seen) = self.observe(pod).await else { return Next::At(retry) };
        let now = self.now();
        if let Some(deadline) = plan::deadline(&self.current(pod))
            && now >= deadline
        {
            self.memory.ended = Some(Ended {
                reason: "DeadlineExceeded".into(),
                message: "Pod was active on the node longer than the specified deadline".into(),
                refused: false,
                disruption: None,
            });
            let message = "Pod was active on the node longer than the specified deadline";
            self.say(pod, "", Severity::Normal, "DeadlineExceeded", message.into());
            return Next::Now;
        }
        self.watch_over(pod, &seen);
        self.refresh(pod, &seen).await;
        self.close_resize(pod, &seen);
        self.bound_again(pod, &seen);
        let plan = plan::plan(pod, &seen, &self.memory, now);
        let told = self.report(pod, &seen, false).await;
        for step in &plan.steps {
            let runtime_changed = self.interruptible(pod, &seen, step).await;
            if !runtime_changed {
                return Next::Now;
            }
        }
        let waits = |step: &Step| matches!(step, Step::Wait { .. });
        if !plan.steps.iter().all(waits) {
            return Next::Now;
        }
        if !plan.steps.is_empty() {
            self.report(pod, &seen, false).await;
        }
        let mut when = now.plus_seconds(RESYNC_S);
        when = plan.look_again.map_or(when, |it| it.min(when));
        when = plan::deadline(&self.current(pod)).map_or(when, |it| it.min(when));
        Next::At(if told { when } else { when.min(retry) })
    }

    /// Takes a step; gives it up when the pod is to end.
    async fn interruptible(&mut self, pod: &Arc<Pod>, seen: &Observed, step: &Step) -> bool {
        let mut desired = self.desired.clone();
        let ended = async move {
            if desired.wait_for(Desired::ends).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = self.perform(pod, seen, step) => true,
            () = ended => false,
        }
    }

    async fn perform(&mut self, pod: &Arc<Pod>, seen: &Observed, step: &Step) {
        let runtime = self.ground.parts.runtime.clone();
        let done = match step {
            Step::MakeSandbox { attempt } => {
                self.make_sandbox(pod, seen, *attempt).await;
                Ok(())
            }
            Step::StopSandbox { id } => runtime.stop_sandbox(id).await,
            Step::Start { container, attempt, crashed } => {
                let Some(spec) = view::container(pod, container) else { return };
                match self.start(pod, &spec, seen, *attempt).await {
                    Ok(()) => {
                        self.memory.waiting.remove(container);
                        if let Some(pause) = crashed {
                            self.memory.crashes.insert(container.clone(), *pause);
                        }
                    }
                    Err(waiting) => {
                        self.memory.waiting.insert(container.clone(), waiting);
                    }
                }
                Ok(())
            }
            Step::Wait { container, waiting } => {
                let before = self.memory.waiting.insert(container.clone(), waiting.clone());
                if before.as_ref() != Some(waiting) {
                    let message = format!(
                        "Back-off restarting failed container {container} in pod {}_{}({})",
                        view::name(pod),
                        view::namespace(pod),
                        view::uid(pod)
                    );
                    self.say(pod, container, Severity::Warning, "BackOff", message);
                }
                Ok(())
            }
            Step::Stop { id, container, why } => {
                if let Some(spec) = view::container(pod, container) {
                    let message = format!("Container {container} is stopped: {why}");
                    self.say(pod, container, Severity::Normal, "Killing", message);
                    self.stop_one(pod, &spec, id).await;
                }
                Ok(())
            }
            Step::Replace { id, container } => {
                if let Some(spec) = view::container(pod, container) {
                    let message = format!("Container {container} resize requires restart");
                    self.say(pod, container, Severity::Normal, "Killing", message);
                    self.memory.replaced.insert(id.clone());
                    self.stop_one(pod, &spec, id).await;
                }
                Ok(())
            }
            Step::Resize { containers } => {
                self.resize(pod, seen, containers).await;
                Ok(())
            }
            Step::Remove { id } => {
                let removed = runtime.remove_container(id).await;
                if removed.is_ok() {
                    self.remove_log(pod, seen, id);
                }
                removed
            }
        };
        if let Err(error) = done {
            tracing::warn!(pod = view::name(pod), %error, ?step, "a step failed");
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// The log of a container that is no more: nobody could ask for it.
    fn remove_log(&self, pod: &Pod, seen: &Observed, id: &str) {
        let Some(it) = seen.containers.iter().find(|it| it.id() == id) else { return };
        let logs = sandbox::log_directory(&self.ground.parts.settings.directories.logs, pod);
        let log = logs.join(log_path(it.name(), it.attempt()));
        if let Err(error) = rotation::remove(&log) {
            tracing::warn!(log = %log.display(), %error, "a log does not go");
        }
    }

    async fn make_sandbox(&mut self, pod: &Arc<Pod>, seen: &Observed, attempt: u32) {
        let runtime = self.ground.parts.runtime.clone();
        for (at, old) in seen.sandboxes.iter().enumerate() {
            // Its network is given back; the containers in it stay to be asked about.
            let mut gone = runtime.stop_sandbox(&old.id).await;
            if gone.is_ok() && at + 1 >= SANDBOXES_MAX {
                gone = runtime.remove_sandbox(&old.id).await;
            }
            if let Err(error) = gone {
                tracing::warn!(pod = view::name(pod), %error, "an old sandbox does not go");
            }
        }
        let until = self.now().plus_seconds(RETRY_S);
        let waits =
            |reason: &str, message: String| Some(Waiting { reason: reason.into(), message, until });
        if let Err(message) = self.prepare(pod, seen).await {
            self.say(pod, "", Severity::Warning, "FailedMount", message.clone());
            self.memory.sandbox = waits("FailedMount", message);
            return;
        }
        let config = self.sandbox_config(pod, attempt);
        if let Err(error) = std::fs::create_dir_all(&config.log_directory) {
            let message = format!("cannot make the pod's folder for logs: {error}");
            self.say(pod, "", Severity::Warning, "FailedCreatePodSandBox", message.clone());
            self.memory.sandbox = waits("FailedCreatePodSandBox", message);
            return;
        }
        let handler = view::spec(pod).runtime_class_name.clone().unwrap_or_default();
        match runtime.run_sandbox(&config, &handler).await {
            Ok(_) => {
                self.memory.sandbox = None;
                self.bounds = None;
                self.bound(pod);
                let most = self.ground.parts.settings.pod_pids_max;
                if let Err(error) = groups::limit_processes(&sandbox::control_group(pod), most) {
                    tracing::debug!(pod = view::name(pod), %error, "its processes have no bound");
                }
            }
            Err(error) => {
                let message = format!("Failed to create pod sandbox: {error}");
                self.say(pod, "", Severity::Warning, "FailedCreatePodSandBox", message.clone());
                self.memory.sandbox = waits("FailedCreatePodSandBox", message);
            }
        }
    }

    pub fn sandbox_config(
        &self,
        pod: &Pod,
        attempt: u32,
    ) -> crate::agent::cri::v1::PodSandboxConfig {
        let host = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let host = sandbox::Resolver::parse(&host);
        sandbox::config(pod, attempt, &self.ground.parts.settings, &host)
    }

    /// Brings the pod's volumes up to date.
    pub async fn prepare(&mut self, pod: &Pod, seen: &Observed) -> Result<(), String> {
        let place = self.place(pod, seen);
        let (masters, now) = (self.ground.parts.masters.clone(), self.now());
        self.prepared =
            volumes::prepare(masters.as_ref(), pod, &self.folder, &place, &mut self.tokens, now)
                .await?;
        self.refreshed = Some(now);
        self.shows = shows(pod);
        Ok(())
    }

    async fn refresh(&mut self, pod: &Pod, seen: &Observed) {
        let due = self.refreshed.is_none_or(|at| self.now() >= at.plus_seconds(RESYNC_S))
            || self.shows != shows(pod);
        if due
            && seen.sandbox().is_some()
            && let Err(message) = self.prepare(pod, seen).await
        {
            self.refreshed = Some(self.now());
            self.shows = shows(pod);
            self.say(pod, "", Severity::Warning, "FailedMount", message);
        }
    }

    pub fn place(&self, pod: &Pod, seen: &Observed) -> super::fields::Place {
        let settings = &self.ground.parts.settings;
        let host: Vec<String> = settings.addresses.iter().map(ToString::to_string).collect();
        let machine = node::machine();
        super::fields::Place {
            node: settings.node.clone(),
            pod: if view::host_network(pod) { host.clone() } else { seen.addresses() },
            host,
            cpu_milli: machine.cpu_milli,
            memory: machine.memory,
        }
    }

    /// Probes what runs, and no longer what does not.
    fn watch_over(&mut self, pod: &Pod, seen: &Observed) {
        let running: Vec<&Seen> = seen.running().collect();
        let ids: HashSet<&str> = running.iter().map(|it| it.id()).collect();
        self.probes.retain(|id, task| {
            let stays = ids.contains(id.as_str());
            if !stays {
                task.abort();
            }
            stays
        });
        while self.probing.try_join_next().is_some() {}
        let known: HashSet<&str> = seen.containers.iter().map(Seen::id).collect();
        self.memory.probed.retain(|id, _| known.contains(id.as_str()));
        self.memory.messages.retain(|id, _| known.contains(id.as_str()));
        self.memory.replaced.retain(|id| known.contains(id.as_str()));
        let address = self.place(pod, seen).pod.first().cloned().unwrap_or_default();
        for container in running {
            let Some(spec) = view::container(pod, container.name()) else { continue };
            if !probes::wanted(&spec) || self.probes.contains_key(container.id()) {
                continue;
            }
            let fresh = Probed { started: spec.startup_probe.is_none(), ready: false, dead: false };
            self.memory.probed.entry(container.id().to_owned()).or_insert(fresh);
            let target = Target {
                runtime: self.ground.parts.runtime.clone(),
                container: container.id().to_owned(),
                address: address.clone(),
                spec: Arc::new(spec.into_owned()),
            };
            let task = self.probing.spawn(probes::watch(target, self.findings.0.clone()));
            self.probes.insert(container.id().to_owned(), task);
        }
    }

    fn found(&mut self, finding: &Finding) {
        let Some(probed) = self.memory.probed.get_mut(&finding.container) else { return };
        match (finding.kind, finding.counts, finding.well) {
            (Kind::Startup, true, true) => probed.started = true,
            (Kind::Readiness, true, well) => probed.ready = well,
            (Kind::Startup | Kind::Liveness, true, false) => probed.dead = true,
            _ => {}
        }
        if !finding.well {
            let pod = self.desired.borrow().pod.clone();
            let message = format!("{} probe failed: {}", finding.kind.name(), finding.why);
            self.say(&pod, "", Severity::Warning, "Unhealthy", message);
        }
    }

    /// Until something happens that concerns the pod, but no longer than `until`.
    pub async fn wait(&mut self, until: Timestamp) {
        let left = until.micros_since(self.now()).max(0).unsigned_abs();
        let before = self.memory.probed.clone();
        let timer = sleep(Duration::from_micros(left));
        tokio::pin!(timer);
        let waits_for_room = self.memory.resize.pending.is_some() || !self.after.is_empty();
        loop {
            tokio::select! {
                changed = self.desired.changed() => {
                    if changed.is_err() {
                        // The manager is gone, and the process soon after.
                        std::future::pending::<()>().await;
                    }
                    return;
                }
                () = self.look.notified() => return,
                Ok(()) = self.left.changed(), if waits_for_room => return,
                () = &mut timer => return,
                Some(finding) = self.findings.1.recv() => {
                    self.found(&finding);
                    if self.memory.probed != before {
                        return;
                    }
                }
            }
        }
    }
}
