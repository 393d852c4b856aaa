//! The pods of this node: one worker for each, and what tells the workers to look.
//!
//! Keeps: a pod that is no longer wanted is brought to its end even if nobody saw it go. One that does not
//! fit is refused when it comes, and not looked at again ([`room`]); for a critical one others end. What the
//! runtime holds of pods that nobody knows is removed, once the full set has been told.
//! Never: starts anything before the full set has been told; two workers for one pod.

pub mod allocation;
pub mod container;
pub mod environment;
pub mod fields;
pub mod groups;
pub mod hosts;
pub mod memory;
pub mod observed;
pub mod plan;
pub mod preemption;
pub mod room;
pub mod sandbox;
pub mod status;
pub mod view;

mod ending;
mod orphans;
mod report;
mod resizing;
mod starting;
#[cfg(test)]
pub(crate) mod tests;
mod worker;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kontiki_api::object::time::Clock;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::Settings;
use super::cri::{Error, Runtime};
use super::images::PULLS_MAX;
use super::masters::{Assignment, Masters};
use super::volumes::PodFolder;
use crate::reconcile::Recorder;
use allocation::Allocation;
use room::{Refusal, Room};
use worker::Worker;

/// How often the runtime is asked whether anything changed.
const LOOK: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_secs(1);

/// What the pods of a node are run with.
pub struct Parts {
    pub settings: Arc<Settings>,
    pub runtime: Arc<dyn Runtime>,
    pub masters: Arc<dyn Masters>,
    pub recorder: Recorder,
    pub clock: Clock,
}

/// What workers share.
struct Ground {
    parts: Parts,
    /// As the runtime calls itself: `containerd`.
    runtime_name: String,
    pulls: Semaphore,
    room: Room,
}

/// What is wanted of a pod.
#[derive(Clone, Debug)]
struct Desired {
    pod: Arc<Pod>,
    /// Its object is gone.
    removed: bool,
    /// It is to make room for a critical pod.
    preempted: bool,
}

impl Desired {
    /// Whether it is to end whatever it does itself.
    fn ends(&self) -> bool {
        self.removed || self.preempted || view::deletion(&self.pod).is_some()
    }
}

struct Handle {
    desired: watch::Sender<Desired>,
    /// The runtime shows something new.
    look: Arc<Notify>,
}

/// What was said of a pod when it came.
struct Admission {
    /// The amounts that it has here.
    allocation: Allocation,
    /// Why it is not run.
    refusal: Option<Refusal>,
    /// Who has to leave before it can begin.
    after: BTreeSet<String>,
}

impl Admission {
    fn of(allocation: Allocation) -> Admission {
        Admission { allocation, refusal: None, after: BTreeSet::new() }
    }
}

/// Runs pods.
pub struct Manager {
    parts: Parts,
}

impl Manager {
    #[must_use]
    pub fn new(parts: Parts) -> Manager {
        Manager { parts }
    }

    /// Until `stop`. What runs in containers goes on.
    pub async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = self.work() => {}
            () = stop.cancelled() => {}
        }
    }

    async fn work(self) {
        let runtime_name = loop {
            match self.parts.runtime.version().await {
                Ok(version) => break version.runtime_name,
                Err(error) => tracing::debug!(%error, "the container runtime is not there yet"),
            }
            sleep(RETRY).await;
        };
        let ground = Arc::new(Ground {
            parts: self.parts,
            runtime_name,
            pulls: Semaphore::new(PULLS_MAX),
            room: Room::default(),
        });
        let mut workers =
            Workers { ground: ground.clone(), handles: HashMap::new(), set: JoinSet::new() };
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut shown = Shown::new();
        loop {
            let mut assignments = match ground.parts.masters.assignments().await {
                Ok(assignments) => assignments,
                Err(status) => {
                    tracing::warn!(%status, "no assignments");
                    sleep(RETRY).await;
                    continue;
                }
            };
            loop {
                tokio::select! {
                    next = assignments.next() => match next {
                        Some(Ok(assignment)) => workers.take(assignment),
                        Some(Err(status)) => {
                            tracing::debug!(%status, "the assignments have ended");
                            break;
                        }
                        None => break,
                    },
                    _ = looks.tick() => match shown_now(ground.parts.runtime.as_ref()).await {
                        Ok(now) => {
                            workers.tell(&shown, &now);
                            shown = now;
                        }
                        Err(error) => tracing::debug!(%error, "the runtime does not answer"),
                    },
                    ended = workers.set.join_next(), if !workers.set.is_empty() => {
                        workers.ended(ended);
                    }
                }
            }
            sleep(RETRY).await;
        }
    }
}

/// What the runtime has of each pod: ids and states.
type Shown = BTreeMap<String, Vec<(String, i32)>>;

async fn shown_now(runtime: &dyn Runtime) -> Result<Shown, Error> {
    let mut all = Shown::new();
    for it in runtime.sandboxes(None).await? {
        if let Some(uid) = it.labels.get(view::POD_UID) {
            all.entry(uid.clone()).or_default().push((it.id, it.state));
        }
    }
    for it in runtime.containers(None).await? {
        if let Some(uid) = it.labels.get(view::POD_UID) {
            all.entry(uid.clone()).or_default().push((it.id, it.state));
        }
    }
    all.values_mut().for_each(|it| it.sort());
    Ok(all)
}

struct Workers {
    ground: Arc<Ground>,
    handles: HashMap<String, Handle>,
    set: JoinSet<String>,
}

impl Workers {
    fn take(&mut self, assignment: Assignment) {
        match assignment {
            Assignment::All(mut pods) => {
                in_their_order(&mut pods);
                let wanted: HashSet<String> =
                    pods.iter().map(|pod| view::uid(pod).to_owned()).collect();
                for (uid, handle) in &self.handles {
                    if !wanted.contains(uid) {
                        self.ground.room.leave(uid);
                        handle.desired.send_modify(|it| it.removed = true);
                    }
                }
                let known = wanted.iter().chain(self.handles.keys()).cloned().collect();
                pods.into_iter().for_each(|pod| self.put(pod));
                let ground = self.ground.clone();
                self.set.spawn(async move {
                    orphans::clear(&ground, &known).await;
                    String::new()
                });
            }
            Assignment::Kept(mut pods) => {
                in_their_order(&mut pods);
                pods.into_iter().for_each(|pod| self.put(pod));
            }
            Assignment::Put(pod) => self.put(*pod),
            Assignment::Remove(pod) => {
                // Whoever took the object away by force did not wait for its end either.
                self.ground.room.leave(view::uid(&pod));
                if let Some(handle) = self.handles.get(view::uid(&pod)) {
                    handle.desired.send_modify(|it| {
                        it.pod = Arc::new(*pod);
                        it.removed = true;
                    });
                }
            }
        }
    }

    fn put(&mut self, pod: Pod) {
        let uid = view::uid(&pod).to_owned();
        let pod = Arc::new(pod);
        if let Some(handle) = self.handles.get(&uid) {
            handle.desired.send_modify(|it| {
                it.pod = pod;
                it.removed = false;
            });
            return;
        }
        let admission = self.admit(&pod);
        let desired = Desired { pod, removed: false, preempted: false };
        let (sender, receiver) = watch::channel(desired);
        let look = Arc::new(Notify::new());
        let worker = Worker::new(self.ground.clone(), receiver, look.clone(), admission);
        self.handles.insert(uid.clone(), Handle { desired: sender, look });
        self.set.spawn(async move {
            worker.run().await;
            uid
        });
    }

    fn admit(&self, pod: &Pod) -> Admission {
        let folder = PodFolder::new(&self.ground.parts.settings.directories.pods, view::uid(pod));
        let known = Allocation::read(&folder.amounts());
        if view::is_over(pod) {
            return Admission::of(known.unwrap_or_else(|| Allocation::of(pod)));
        }
        if was_let_in(pod) {
            let allocation = known.unwrap_or_else(|| Allocation::of(pod));
            self.ground.room.keep(&allocation.shown_in(pod));
            return Admission::of(allocation);
        }
        let mut admission = Admission::of(Allocation::of(pod));
        if view::deletion(pod).is_some() {
            return admission;
        }
        let node = self.ground.parts.masters.node();
        match self.ground.room.enter(pod, node.as_ref()) {
            Ok(others) => {
                self.preempt(&others);
                admission.after = others;
                if let Err(error) = admission.allocation.write(&folder.amounts()) {
                    let pod = view::name(pod);
                    tracing::warn!(pod, %error, "its amounts are not written down");
                }
            }
            Err(refusal) => admission.refusal = Some(refusal),
        }
        admission
    }

    /// Ends pods for the sake of one that is critical.
    fn preempt(&self, uids: &BTreeSet<String>) {
        for uid in uids {
            match self.handles.get(uid) {
                Some(handle) => handle.desired.send_modify(|it| it.preempted = true),
                // Nobody is there who could end it.
                None => self.ground.room.leave(uid),
            }
        }
    }

    /// Wakes the workers whose pods look different.
    fn tell(&self, before: &Shown, now: &Shown) {
        for (uid, handle) in &self.handles {
            if before.get(uid) != now.get(uid) {
                handle.look.notify_one();
            }
        }
    }

    fn ended(&mut self, ended: Option<Result<String, tokio::task::JoinError>>) {
        match ended {
            Some(Ok(uid)) => {
                self.ground.room.leave(&uid);
                self.handles.remove(&uid);
            }
            Some(Err(error)) => {
                // Which one is not known; the next full set starts it again.
                tracing::error!(%error, "a pod's worker has failed");
                self.handles.retain(|uid, handle| {
                    let works = !handle.desired.is_closed();
                    if !works {
                        self.ground.room.leave(uid);
                    }
                    works
                });
            }
            None => {}
        }
    }
}

/// Whether the pod was let in before, by this agent or by the one before it.
fn was_let_in(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(|it| it.start_time.is_some())
}

/// Those that are here already come first, then the oldest.
fn in_their_order(pods: &mut [Pod]) {
    pods.sort_by_key(|pod| {
        let created = pod.metadata.creation_timestamp.as_ref().map(|it| it.0);
        (!was_let_in(pod), created, view::name(pod).to_owned())
    });
}
