//! What a DaemonSet does next on its nodes. Pure.
//!
//! First every node gets its pod, and what is too many or has ended goes; when nothing of that is left to
//! do, old pods are replaced as far as the update strategy lets them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use kontiki_api::object::time::Timestamp;

use super::nodes::{Belongs, belongs, is_updated, new_pod, node_of};
use crate::controllers::amount::{self, Round, count, unless_zero};
use crate::controllers::pods::{available_in_s, is_available, is_finished, is_ready, phase};

/// Pods that one look creates or deletes at most.
const BURST: usize = 250;
const BACKOFF_FIRST_S: i64 = 1;
const BACKOFF_MAX_S: i64 = 900;

pub struct Seen<'a> {
    pub set: &'a DaemonSet,
    pub nodes: &'a [Arc<Node>],
    /// All pods that the set controls.
    pub pods: &'a [Arc<Pod>],
    /// The label of pods that are of the template as it is now.
    pub hash: &'a str,
    pub backoffs: &'a Backoffs,
    pub now: Timestamp,
}

#[derive(Debug, Default)]
pub struct Plan {
    pub create: Vec<Pod>,
    pub delete: Vec<Arc<Pod>>,
    pub status: DaemonSetStatus,
    pub backoffs: Backoffs,
    /// Events: whether it is a warning, the reason and the message.
    pub tell: Vec<(bool, &'static str, String)>,
    pub again_s: Option<i64>,
}

/// Of nodes where the pod failed: how long to wait, since when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backoffs(HashMap<String, (i64, Timestamp)>);

impl Backoffs {
    /// Seconds until a failed pod on the node may be replaced.
    fn left_s(&self, node: &str, now: Timestamp) -> i64 {
        let Some((delay, since)) = self.0.get(node) else { return 0 };
        let left_us = since.plus_seconds(*delay).micros_since(now);
        (left_us.max(0) + 999_999) / 1_000_000
    }

    fn failed(&mut self, node: &str, now: Timestamp) {
        let next = match self.0.get(node) {
            // Well for long enough: the next failure is the first again.
            Some((_, since)) if now.micros_since(*since) > 2 * BACKOFF_MAX_S * 1_000_000 => None,
            Some((delay, _)) => Some((delay * 2).min(BACKOFF_MAX_S)),
            None => None,
        };
        self.0.insert(node.into(), (next.unwrap_or(BACKOFF_FIRST_S), now));
    }
}

struct Draft<'a> {
    seen: &'a Seen<'a>,
    /// Pods by node, without those that have ended and are going.
    by_node: BTreeMap<&'a str, Vec<&'a Arc<Pod>>>,
    belongs: BTreeMap<&'a str, Belongs>,
    max_surge: usize,
    max_unavailable: usize,
    plan: Plan,
}

#[must_use]
pub fn plan(seen: &Seen<'_>) -> Plan {
    let mut draft = Draft::new(seen);
    draft.plan.status = draft.count();
    if seen.set.metadata.deletion_timestamp.is_some() {
        return draft.plan;
    }
    draft.manage();
    if draft.plan.create.is_empty() && draft.plan.delete.is_empty() {
        let strategy = seen.set.spec.update_strategy.as_ref().and_then(|it| it.type_.as_deref());
        match strategy {
            Some("OnDelete") => {}
            _ if draft.max_surge > 0 => draft.update_by_surge(),
            _ => draft.update_in_place(),
        }
    }
    draft.plan.create.truncate(BURST);
    draft.plan.delete.truncate(BURST);
    draft.plan
}

impl<'a> Draft<'a> {
    fn new(seen: &'a Seen<'a>) -> Draft<'a> {
        let mut by_node: BTreeMap<&str, Vec<&Arc<Pod>>> = BTreeMap::new();
        for pod in seen.pods {
            let gone = pod.metadata.deletion_timestamp.is_some() && is_finished(pod);
            if let Some(node) = node_of(pod).filter(|_| !gone) {
                by_node.entry(node).or_default().push(pod);
            }
        }
        for pods in by_node.values_mut() {
            pods.sort_by_key(|pod| {
                let on_node = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
                let made = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
                (!on_node, made, pod.metadata.name.as_deref())
            });
        }
        let name = |node: &'a Arc<Node>| node.metadata.name.as_deref();
        let nodes = seen.nodes.iter().filter_map(|node| Some((name(node)?, node)));
        let belongs: BTreeMap<_, _> =
            nodes.map(|(name, node)| (name, belongs(seen.set, node))).collect();
        let desired = count(belongs.values().filter(|it| **it == Belongs::Yes).count());
        let rolling = seen.set.spec.update_strategy.as_ref();
        let rolling = rolling.and_then(|it| it.rolling_update.as_ref());
        let surge = rolling.and_then(|it| it.max_surge.as_ref());
        let unavailable = rolling.and_then(|it| it.max_unavailable.as_ref());
        let number = |amount| usize::try_from(amount::of(amount, desired, Round::Up)).unwrap_or(0);
        let (max_surge, mut max_unavailable) = (number(surge), number(unavailable));
        // Two zeros would mean that nothing can ever move.
        if max_surge == 0 && max_unavailable == 0 {
            max_unavailable = 1;
        }
        let plan = Plan { backoffs: seen.backoffs.clone(), ..Plan::default() };
        Draft { seen, by_node, belongs, max_surge, max_unavailable, plan }
    }

    fn pods(&self, node: &str) -> Vec<&'a Arc<Pod>> {
        self.by_node.get(node).cloned().unwrap_or_default()
    }

    fn create(&mut self, node: &str) {
        self.plan.create.push(new_pod(self.seen.set, node, self.seen.hash));
    }

    fn is_available(&self, pod: &Pod) -> bool {
        let min_ready_s = self.seen.set.spec.min_ready_seconds.unwrap_or(0);
        is_available(pod, min_ready_s, self.seen.now)
    }

    fn is_updated(&self, pod: &Pod) -> bool {
        is_updated(self.seen.set, pod, self.seen.hash)
    }

    /// One pod on each node where it belongs, none elsewhere.
    fn manage(&mut self) {
        let nodes: Vec<_> = self.belongs.iter().map(|(node, belongs)| (*node, *belongs)).collect();
        for (node, belongs) in nodes {
            let pods = self.pods(node);
            if belongs == Belongs::No {
                let staying =
                    pods.into_iter().filter(|it| it.metadata.deletion_timestamp.is_none());
                self.plan.delete.extend(staying.cloned());
            } else if pods.is_empty() {
                if belongs == Belongs::Yes {
                    self.create(node);
                }
            } else {
                self.tidy(node, belongs, &pods);
            }
        }
        // Made for a node that is not there any more, before it could be assigned.
        for (node, pods) in &self.by_node {
            let unassigned = |pod: &Pod| pod.spec.as_ref().is_none_or(|it| it.node_name.is_none());
            if !self.belongs.contains_key(node) {
                let lost = pods
                    .iter()
                    .filter(|pod| unassigned(pod) && pod.metadata.deletion_timestamp.is_none());
                self.plan.delete.extend(lost.map(|pod| (*pod).clone()));
            }
        }
    }

    /// On a node where a pod may be: what has ended goes, and what is too many.
    fn tidy(&mut self, node: &str, belongs: Belongs, pods: &[&'a Arc<Pod>]) {
        let mut running = Vec::new();
        for pod in pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
            match phase(pod) {
                "Failed" => self.replace_failed(node, pod),
                "Succeeded" => {
                    let message = said(pod, "succeeded", node, "delete");
                    self.plan.tell.push((false, "SucceededDaemonPod", message));
                    self.plan.delete.push((*pod).clone());
                }
                _ => running.push(*pod),
            }
        }
        if self.max_surge == 0 {
            self.plan.delete.extend(running.into_iter().skip(1).cloned());
            return;
        }
        if running.is_empty() && belongs == Belongs::Yes {
            self.create(node);
        }
        let (new, old): (Vec<_>, Vec<_>) = running.into_iter().partition(|it| self.is_updated(it));
        let surplus = new.iter().skip(1).chain(old.iter().skip(1));
        self.plan.delete.extend(surplus.map(|pod| (*pod).clone()));
        if let (Some(new), Some(old)) = (new.first(), old.first())
            && (!is_ready(old) || self.is_available(new))
        {
            self.plan.delete.push((*old).clone());
        }
    }

    fn replace_failed(&mut self, node: &str, pod: &Arc<Pod>) {
        let left = self.plan.backoffs.left_s(node, self.seen.now);
        if left > 0 {
            self.look_again_in(left);
            return;
        }
        self.plan.backoffs.failed(node, self.seen.now);
        self.plan.tell.push((true, "FailedDaemonPod", said(pod, "failed", node, "kill")));
        self.plan.delete.push(pod.clone());
    }

    fn look_again_in(&mut self, seconds: i64) {
        let soonest = self.plan.again_s.map_or(seconds, |before| before.min(seconds));
        self.plan.again_s = Some(soonest);
    }

    /// The new and the old pod of a node, without those that are going; `Err` if there are two of a kind.
    #[expect(clippy::type_complexity, reason = "a pair of options, used twice below")]
    fn pair(
        &self,
        pods: &[&'a Arc<Pod>],
    ) -> Result<(Option<&'a Arc<Pod>>, Option<&'a Arc<Pod>>), ()> {
        let staying = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let (new, old): (Vec<&Arc<Pod>>, Vec<_>) = staying.partition(|it| self.is_updated(it));
        match (new.as_slice(), old.as_slice()) {
            ([] | [_], [] | [_]) => Ok((new.first().copied(), old.first().copied())),
            _ => Err(()),
        }
    }

    /// Nodes that have pods, and those that should have.
    fn nodes_to_update(&self) -> Vec<(&'a str, Vec<&'a Arc<Pod>>)> {
        let wanted = self.belongs.iter().filter(|(_, it)| **it == Belongs::Yes);
        let wanted = wanted.map(|(node, _)| *node);
        let mut nodes: Vec<&str> = wanted.chain(self.by_node.keys().copied()).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes.into_iter().map(|node| (node, self.pods(node))).collect()
    }

    /// Deletes old pods; new ones follow when they are gone.
    fn update_in_place(&mut self) {
        let mut unavailable = 0;
        let mut candidates = Vec::new();
        for (_, pods) in self.nodes_to_update() {
            match self.pair(&pods) {
                Ok((Some(new), None)) if self.is_available(new) => {}
                Ok((None, Some(old))) if self.is_available(old) => candidates.push(old.clone()),
                Ok((None, Some(old))) => {
                    // It serves nobody: replacing it costs nothing.
                    self.plan.delete.push(old.clone());
                    unavailable += 1;
                }
                _ => unavailable += 1,
            }
        }
        let room = self.max_unavailable.saturating_sub(unavailable);
        self.plan.delete.extend(candidates.into_iter().take(room));
    }

    /// Makes new pods beside old ones; the old go when the new are available.
    fn update_by_surge(&mut self) {
        let desired = self.belongs.values().filter(|it| **it == Belongs::Yes).count();
        let (mut surging, mut available) = (0, 0);
        let (mut displaced, mut candidates) = (Vec::new(), Vec::new());
        for (node, pods) in self.nodes_to_update() {
            let Ok((new, old)) = self.pair(&pods) else {
                surging += 1;
                continue;
            };
            let serves = old.or(new).is_some_and(|pod| self.is_available(pod));
            available += usize::from(serves);
            let may_run = self.belongs.get(node) == Some(&Belongs::Yes);
            match (new, old) {
                (None, Some(old)) if !may_run && serves => displaced.push(old.clone()),
                (None, Some(old)) if !may_run => self.plan.delete.push(old.clone()),
                (None, Some(_)) if serves => candidates.push(node),
                (None, Some(_)) => self.create(node),
                (Some(new), Some(_)) if !self.is_available(new) => surging += 1,
                (Some(_), Some(old)) => self.plan.delete.push(old.clone()),
                (_, None) => {}
            }
        }
        let spare = available.saturating_sub(desired);
        self.plan.delete.extend(displaced.into_iter().take(spare));
        for node in candidates.into_iter().take(self.max_surge.saturating_sub(surging)) {
            self.create(node);
        }
    }

    fn count(&mut self) -> DaemonSetStatus {
        let before = self.seen.set.status.clone().unwrap_or_default();
        let (mut desired, mut current, mut misscheduled) = (0, 0, 0);
        let (mut ready, mut updated, mut available) = (0, 0, 0);
        let min_ready_s = self.seen.set.spec.min_ready_seconds.unwrap_or(0);
        let mut soonest: Option<i64> = None;
        for (node, belongs) in &self.belongs {
            let first = self.by_node.get(node).and_then(|pods| pods.first());
            if *belongs != Belongs::Yes {
                misscheduled += i32::from(first.is_some());
                continue;
            }
            desired += 1;
            let Some(pod) = first else { continue };
            current += 1;
            ready += i32::from(is_ready(pod));
            available += i32::from(self.is_available(pod));
            updated += i32::from(self.is_updated(pod));
            let waits = available_in_s(pod, min_ready_s, self.seen.now).filter(|it| *it > 0);
            soonest = soonest.into_iter().chain(waits).min();
        }
        self.plan.again_s = soonest;
        DaemonSetStatus {
            desired_number_scheduled: desired,
            current_number_scheduled: current,
            number_misscheduled: misscheduled,
            number_ready: ready,
            updated_number_scheduled: unless_zero(updated),
            number_available: unless_zero(available),
            number_unavailable: unless_zero(desired - available),
            observed_generation: self.seen.set.metadata.generation.filter(|it| *it != 0),
            ..before
        }
    }
}

fn said(pod: &Pod, what: &str, node: &str, wish: &str) -> String {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    format!("Found {what} daemon pod {namespace}/{name} on node {node}, will try to {wish} it")
}
