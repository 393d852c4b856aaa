//! What a StatefulSet does next with its pods. Pure.
//!
//! In order, unless the set is `Parallel`: each ordinal is there and available before the next is made;
//! pods beyond the last ordinal go from the highest down; then pods of an old revision go from the highest
//! down, and come back with the new one. At most one step is made at a time, and seen before the next.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use kontiki_api::object::time::Timestamp;

use super::pods::{self, is_wanted, new_pod, ordinal, replicas, revision};
use crate::controllers::amount::{self, Round, unless_zero};
use crate::controllers::pods::{available_in_s, is_available, is_ready, phase};

/// A template and the name of its revision.
#[derive(Clone, Copy)]
pub struct Version<'a> {
    pub name: &'a str,
    pub template: &'a PodTemplateSpec,
}

pub struct Seen<'a> {
    pub set: &'a StatefulSet,
    /// All pods that the set controls.
    pub pods: &'a [Arc<Pod>],
    /// What pods were rolled out to last, and what they are to become.
    pub current: Version<'a>,
    pub update: Version<'a>,
    pub now: Timestamp,
}

#[derive(Debug, Default)]
pub struct Plan {
    pub create: Vec<Pod>,
    pub delete: Vec<Arc<Pod>>,
    /// Pods that have to be given back what makes them who they are.
    pub identify: Vec<Arc<Pod>>,
    /// Pods whose claims are to be made if they are missing, and to have the right owners.
    pub claims_of: Vec<Arc<Pod>>,
    pub status: StatefulSetStatus,
    pub again_s: Option<i64>,
}

struct Draft<'a> {
    seen: &'a Seen<'a>,
    /// The pod of each wanted ordinal, where there is one.
    wanted: BTreeMap<i32, Option<&'a Arc<Pod>>>,
    /// Pods beyond, the highest ordinal first.
    condemned: Vec<&'a Arc<Pod>>,
    in_order: bool,
    plan: Plan,
}

#[must_use]
pub fn plan(seen: &Seen<'_>) -> Plan {
    let mut draft = Draft::new(seen);
    if seen.set.metadata.deletion_timestamp.is_none() && draft.fill() && draft.shrink() {
        draft.update();
    }
    draft.finish()
}

impl<'a> Draft<'a> {
    fn new(seen: &'a Seen<'a>) -> Draft<'a> {
        let set = seen.set;
        let first = pods::start(set);
        let mut wanted: BTreeMap<_, _> =
            (first..first.saturating_add(replicas(set))).map(|it| (it, None)).collect();
        let mut condemned = Vec::new();
        for pod in seen.pods {
            match ordinal(set, pod) {
                Some(ordinal) if is_wanted(set, ordinal) => {
                    wanted.insert(ordinal, Some(pod));
                }
                Some(ordinal) => condemned.push((ordinal, pod)),
                None => {}
            }
        }
        condemned.sort_by_key(|(ordinal, _)| std::cmp::Reverse(*ordinal));
        let condemned = condemned.into_iter().map(|(_, pod)| pod).collect();
        let in_order = set.spec.pod_management_policy.as_deref() != Some("Parallel");
        Draft { seen, wanted, condemned, in_order, plan: Plan::default() }
    }

    fn is_available(&self, pod: &Pod) -> bool {
        let min_ready_s = self.seen.set.spec.min_ready_seconds.unwrap_or(0);
        is_available(pod, min_ready_s, self.seen.now)
    }

    /// Available, and to stay so.
    fn is_well(&self, pod: &Pod) -> bool {
        self.is_available(pod) && pod.metadata.deletion_timestamp.is_none()
    }

    /// Makes the pods that are missing. `true` when the next stage may begin.
    fn fill(&mut self) -> bool {
        let wanted: Vec<_> = self.wanted.iter().map(|(at, pod)| (*at, *pod)).collect();
        for (ordinal, pod) in wanted {
            let goes_on = match pod {
                None => {
                    self.plan.create.push(self.made_for(ordinal));
                    false
                }
                Some(pod) => self.look_after(ordinal, pod),
            };
            if self.in_order && !goes_on {
                return false;
            }
        }
        true
    }

    /// `true` when the pod holds nobody up.
    fn look_after(&mut self, ordinal: i32, pod: &Arc<Pod>) -> bool {
        if matches!(phase(pod), "Failed" | "Succeeded") {
            if pod.metadata.deletion_timestamp.is_none() {
                self.plan.delete.push(pod.clone());
            }
            return false;
        }
        self.plan.claims_of.push(pod.clone());
        if !pods::is_identified(self.seen.set, pod, ordinal) {
            self.plan.identify.push(pod.clone());
        }
        self.is_well(pod)
    }

    /// A pod for an ordinal: of the old revision while the rollout has not come down to it.
    fn made_for(&self, ordinal: i32) -> Pod {
        let (set, seen) = (self.seen.set, self.seen);
        let strategy = set.spec.update_strategy.as_ref();
        let on_delete = strategy.and_then(|it| it.type_.as_deref()) == Some("OnDelete");
        let old_below = match strategy.and_then(|it| it.rolling_update.as_ref()) {
            Some(rolling) => rolling.partition.unwrap_or(0),
            None => set.status.as_ref().and_then(|it| it.current_replicas).unwrap_or(0),
        };
        let old = !on_delete && ordinal < pods::start(set).saturating_add(old_below);
        let version = if old { seen.current } else { seen.update };
        new_pod(set, version.template, version.name, ordinal)
    }

    /// Takes away pods beyond the last ordinal. `true` when the next stage may begin.
    fn shrink(&mut self) -> bool {
        self.plan.claims_of.extend(self.condemned.iter().map(|pod| (*pod).clone()));
        // The first that is not well, counted from the lowest: only it may go before it is.
        let unwell = self.condemned.iter().rev().find(|pod| !self.is_well(pod)).copied();
        let all_wanted_are_well =
            self.wanted.values().all(|pod| pod.is_some_and(|pod| self.is_well(pod)));
        for pod in &self.condemned {
            let going = pod.metadata.deletion_timestamp.is_some();
            if !self.in_order {
                if !going {
                    self.plan.delete.push((*pod).clone());
                }
                continue;
            }
            let is_first_unwell =
                all_wanted_are_well && unwell.is_some_and(|it| Arc::ptr_eq(it, pod));
            if !going && (self.is_well(pod) || is_first_unwell) {
                self.plan.delete.push((*pod).clone());
            }
            return false;
        }
        self.plan.delete.is_empty() && self.plan.create.is_empty()
    }

    /// Deletes pods of an old revision, from the highest ordinal down to the partition.
    fn update(&mut self) {
        let strategy = self.seen.set.spec.update_strategy.as_ref();
        if strategy.and_then(|it| it.type_.as_deref()) == Some("OnDelete") {
            return;
        }
        let rolling = strategy.and_then(|it| it.rolling_update.as_ref());
        let partition = rolling.and_then(|it| it.partition).unwrap_or(0);
        let most = rolling.and_then(|it| it.max_unavailable.as_ref()).map_or(1, |amount| {
            amount::of(Some(amount), replicas(self.seen.set), Round::Down).max(1)
        });
        let most = usize::try_from(most).unwrap_or(1);
        let unwell = self.wanted.values().flatten().filter(|pod| !self.is_well(pod)).count();
        let first = pods::start(self.seen.set).saturating_add(partition);
        let old = self.wanted.range(first.min(i32::MAX - 1)..).rev();
        let old = old.filter_map(|(_, pod)| *pod).filter(|pod| {
            revision(pod) != self.seen.update.name && pod.metadata.deletion_timestamp.is_none()
        });
        let gone: Vec<_> = old.take(most.saturating_sub(unwell)).cloned().collect();
        self.plan.delete.extend(gone);
    }

    fn finish(mut self) -> Plan {
        let (set, seen) = (self.seen.set, self.seen);
        let before = set.status.clone().unwrap_or_default();
        let all = self.wanted.values().flatten().chain(&self.condemned);
        let all: Vec<&Arc<Pod>> = all.copied().collect();
        let number =
            |of: &dyn Fn(&Pod) -> bool| amount::count(all.iter().filter(|pod| of(pod)).count());
        let staying = |pod: &Pod| pod.metadata.deletion_timestamp.is_none();
        let ready = |pod: &Pod| phase(pod) == "Running" && is_ready(pod);
        let is_of = |version: Version<'_>| {
            let name = version.name.to_owned();
            move |pod: &Pod| staying(pod) && revision(pod) == name
        };
        let total = number(&|_| true);
        let (ready_count, updated) = (number(&ready), number(&is_of(seen.update)));
        let mut status = StatefulSetStatus {
            replicas: total,
            ready_replicas: unless_zero(ready_count),
            available_replicas: Some(number(&|pod| ready(pod) && self.is_available(pod))),
            current_replicas: unless_zero(number(&is_of(seen.current))),
            updated_replicas: unless_zero(updated),
            current_revision: Some(seen.current.name.into()),
            update_revision: Some(seen.update.name.into()),
            observed_generation: set.metadata.generation.filter(|it| *it != 0),
            collision_count: Some(before.collision_count.unwrap_or(0)),
            conditions: before.conditions,
        };
        let on_delete = set.spec.update_strategy.as_ref().and_then(|it| it.type_.as_deref())
            == Some("OnDelete");
        let wanted = replicas(set);
        if !on_delete && [total, ready_count, updated].iter().all(|it| *it == wanted) {
            status.current_replicas = status.updated_replicas;
            status.current_revision = status.update_revision.clone();
        }
        let min_ready_s = set.spec.min_ready_seconds.unwrap_or(0);
        let waits = all.iter().filter_map(|pod| available_in_s(pod, min_ready_s, seen.now));
        self.plan.again_s = waits.filter(|seconds| *seconds > 0).min();
        Plan { status, ..self.plan }
    }
}
