//! Amounts of a pod that are changed while it runs: taken over when the node has room for them, then told to
//! the runtime.
//!
//! Keeps: a bound of the whole pod is widened before those of its containers and narrowed after them. No
//! container is given less memory than it has in use. What was given is on disk before anybody is told.
//! Never: takes room of others; those that do not fit wait for somebody to leave.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod};
use kontiki_api::object::quantity::Quantity;
use serde_json::json;

use super::allocation::Allocation;
use super::memory::Pending;
use super::observed::{Observed, Seen};
use super::room::Room;
use super::worker::Worker;
use super::{container, groups, sandbox, view};
use crate::agent::node;
use crate::reconcile::events::Severity;

/// After the runtime has refused, or the memory was in use.
/// There is room for it when others have left.
const DEFERRED: &str = "Deferred";
/// It is more than the node has at all.
const INFEASIBLE: &str = "Infeasible";
const RETRY_S: i64 = 10;

impl Worker {
    /// The pod with the amounts that it has here. What it asks for instead is given to it, if it fits.
    pub fn allocate(&mut self, pod: &Arc<Pod>) -> Arc<Pod> {
        if self.memory.allocation.differs(pod) {
            self.give(pod);
        } else {
            self.memory.resize.pending = None;
        }
        Arc::new(self.memory.allocation.shown_in(pod))
    }

    fn give(&mut self, pod: &Pod) {
        let generation = pod.metadata.generation;
        let mut next = self.memory.allocation.clone();
        next.give(pod);
        let node = self.ground.parts.masters.node();
        // Who leaves from here on is heard of.
        self.left.mark_unchanged();
        let given = match self.ground.room.admit(pod, node.as_ref()) {
            Err(refusal) if Room::is_feasible(pod, node.as_ref()) => {
                Err((DEFERRED, refusal.message))
            }
            Err(refusal) => Err((INFEASIBLE, refusal.message)),
            Ok(()) => next.write(&self.folder.amounts()).map_err(|error| {
                // The room that it had is its room still.
                self.ground.room.keep(&self.memory.allocation.shown_in(pod));
                (DEFERRED, format!("it cannot be written down: {error}"))
            }),
        };
        match given {
            Ok(()) => {
                self.memory.allocation = next;
                self.memory.resize.pending = None;
                self.memory.resize.failed = None;
                self.memory.resize.given = Some(generation);
                self.widen(pod);
                self.say(pod, "", Severity::Normal, "ResizeStarted", words("started", pod));
            }
            Err((reason, message)) => {
                let pending = Pending { reason, message: message.clone(), generation };
                let known = self.memory.resize.pending.as_ref();
                if known.is_none_or(|told| told.generation != generation) {
                    let text = format!("{}: {message}", words(reason, pod));
                    self.say(pod, "", Severity::Warning, &format!("Resize{reason}"), text);
                }
                self.memory.resize.pending = Some(pending);
            }
        }
    }

    /// Whether a container runs with other amounts than it was given, or is about to.
    fn is_behind(&self, pod: &Pod, seen: &Observed) -> bool {
        view::all_containers(pod).any(|it| {
            seen.newest(&it.name).is_some_and(|newest| {
                self.memory.allocation.is_behind(it, newest)
                    || self.memory.replaced.contains(newest.id())
            })
        })
    }

    /// Says so when everything that was given has arrived.
    pub fn close_resize(&mut self, pod: &Pod, seen: &Observed) {
        if !self.is_behind(pod, seen) && self.memory.resize.given.take().is_some() {
            self.bound(pod);
            self.memory.resize.failed = None;
            self.say(pod, "", Severity::Normal, "ResizeCompleted", words("completed", pod));
        }
    }

    /// Lets the whole pod have what any of its containers has or will have.
    fn widen(&mut self, pod: &Pod) {
        let Some(bounds) = self.bounds.take() else { return };
        let wider = bounds.or_wider(groups::bounds(pod));
        if let Err(error) = wider.set(&sandbox::control_group(pod)) {
            tracing::debug!(pod = view::name(pod), %error, "it has no bounds of its own");
        }
    }

    /// The same bounds as ever, where it is not known what was set: the agent has begun anew, or was refused.
    pub fn bound_again(&mut self, pod: &Pod, seen: &Observed) {
        let at_rest = self.memory.resize.given.is_none() && !self.is_behind(pod, seen);
        if self.bounds.is_none() && at_rest && seen.sandbox().is_some() {
            self.bound(pod);
        }
    }

    /// Puts the bounds of the whole pod in force, once its group is there.
    pub fn bound(&mut self, pod: &Pod) {
        let bounds = groups::bounds(pod);
        if self.bounds != Some(bounds) {
            match bounds.set(&sandbox::control_group(pod)) {
                Ok(()) => self.bounds = Some(bounds),
                Err(error) => {
                    tracing::debug!(pod = view::name(pod), %error, "it has no bounds of its own");
                }
            }
        }
    }

    /// Tells the runtime of the amounts of containers that run.
    pub async fn resize(&mut self, pod: &Pod, seen: &Observed, containers: &[String]) {
        let group = sandbox::control_group(pod);
        let all = view::all_containers(pod).filter(|it| containers.contains(&it.name));
        let mut all: Vec<(&Container, &Seen)> =
            all.filter_map(|it| Some((it, seen.current(&it.name)?))).collect();
        // Who gives something back comes first.
        let allocation = self.memory.allocation.clone();
        all.sort_by_key(|(it, seen)| grows(&allocation, it, seen));
        for (spec, seen) in all {
            if let Err(message) = self.resize_one(pod, spec, seen, &group).await {
                let text = format!("{}: {message}", words("error", pod));
                let known = self.memory.resize.failed.as_ref();
                if known.is_none_or(|(before, _)| *before != message) {
                    self.say(pod, &spec.name, Severity::Warning, "ResizeError", text);
                }
                let until = self.now().plus_seconds(RETRY_S);
                self.memory.resize.failed = Some((message, until));
                return;
            }
        }
        self.memory.resize.failed = None;
        self.bound(pod);
    }

    async fn resize_one(
        &mut self,
        pod: &Pod,
        spec: &Container,
        seen: &Seen,
        group: &str,
    ) -> Result<(), String> {
        let limit = view::limit(spec, "memory").map(Quantity::value);
        let used = groups::memory_used(&format!("{group}/{}", seen.id()));
        if let (Some(limit), Some(used)) = (limit, used.and_then(|it| i64::try_from(it).ok()))
            && limit < used
        {
            return Err(format!(
                "attempting to set container \"{}\" memory limit ({limit}) below current usage \
                 ({used})",
                spec.name
            ));
        }
        let resources = container::resources(pod, spec, node::machine().memory);
        let told = self.ground.parts.runtime.update_container(seen.id(), &resources).await;
        told.map_err(|error| error.to_string())?;
        let given = self.memory.allocation.container(spec);
        self.memory.allocation.tell(&spec.name, seen.attempt(), given);
        self.keep_amounts(pod);
        Ok(())
    }

    /// What was lost would be told to the runtime again, and change nothing.
    pub fn keep_amounts(&self, pod: &Pod) {
        if let Err(error) = self.memory.allocation.write(&self.folder.amounts()) {
            tracing::warn!(pod = view::name(pod), %error, "its amounts are not written down");
        }
    }
}

/// Whether a container is to have more of anything than it had.
fn grows(allocation: &Allocation, container: &Container, seen: &Seen) -> bool {
    let (told, given) = (allocation.told(container, seen), allocation.container(container));
    ["cpu", "memory"].iter().any(|resource| {
        view::amount(&told.limits, resource) < view::amount(&given.limits, resource)
            || view::amount(&told.requests, resource) < view::amount(&given.requests, resource)
    })
}

/// As upstream says it: what has happened, and the amounts it is about.
fn words(what: &str, pod: &Pod) -> String {
    let amounts = |it: &Container| json!({"name": it.name, "resources": it.resources});
    let containers: Vec<_> = view::containers(pod).iter().map(amounts).collect();
    let about = json!({"containers": containers, "generation": pod.metadata.generation});
    format!("Pod resize {what}: {about}")
}
