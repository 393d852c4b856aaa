//! Whom a pod that fits nowhere may displace.
//!
//! Pure: the same picture gives the same victims. On each node that might do, everything less important
//! is taken away, and given back as long as the pod still fits, those first whose disruption budget
//! would be broken. Among the nodes the one is taken where least is lost (upstream's `DefaultPreemption`).

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::cycle::{Unfit, histogram};
use super::filter::Prepared;
use super::nodes::{NodeInfo, Snapshot};
use super::priority;
use super::world::World;
use crate::reconcile::{Key, labels};

const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";
const NO_VICTIMS: &str = "No preemption victims found for incoming pod";

/// Candidates that are looked into at most, beyond a tenth of all.
const CANDIDATES_MIN: usize = 100;

/// Who has to go from which node.
#[derive(Debug)]
pub struct Plan {
    pub node: String,
    pub victims: Vec<(Key, Arc<Pod>)>,
    violations: usize,
}

/// What preemption comes to: a plan, or why there is none, as the pod's condition tells it.
pub fn plan(
    pod: &Arc<Pod>,
    unfit: &Unfit,
    snapshot: &Snapshot,
    world: &World,
) -> Result<Plan, String> {
    if pod.spec.as_ref().and_then(|spec| spec.preemption_policy.as_deref()) == Some("Never") {
        return Err("preemption: not eligible due to preemptionPolicy=Never.".into());
    }
    if is_making_room(pod, snapshot) {
        return Err(
            "preemption: not eligible due to a terminating pod on the nominated node.".into()
        );
    }
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut plans: Vec<Plan> = Vec::new();
    let enough = (snapshot.len() / 10).max(CANDIDATES_MIN);
    for info in snapshot.iter() {
        let may_help = unfit.refusals.get(info.name()).is_none_or(|it| it.preemption_may_help);
        if unfit.before.is_some() || !may_help {
            *reasons.entry(NOT_HELPFUL.into()).or_insert(0) += 1;
            continue;
        }
        if plans.len() >= enough {
            break;
        }
        match victims(pod, info, snapshot, world) {
            Some(plan) => plans.push(plan),
            None => *reasons.entry(NO_VICTIMS.into()).or_insert(0) += 1,
        }
    }
    plans.into_iter().min_by_key(loss).ok_or_else(|| {
        let all = reasons.iter().flat_map(|(reason, count)| std::iter::repeat_n(reason, *count));
        format!("preemption: 0/{} nodes are available: {}.", snapshot.len(), histogram(all))
    })
}

/// Room was made for the pod before, and is not there yet.
pub fn is_making_room(pod: &Pod, snapshot: &Snapshot) -> bool {
    let nominated = pod.status.as_ref().and_then(|it| it.nominated_node_name.as_deref());
    nominated.and_then(|name| snapshot.get(name)).is_some_and(|info| {
        info.pods().any(|(_, other)| {
            other.metadata.deletion_timestamp.is_some() && priority(other) < priority(pod)
        })
    })
}

fn victims(
    pod: &Arc<Pod>,
    info: &Arc<NodeInfo>,
    snapshot: &Snapshot,
    world: &World,
) -> Option<Plan> {
    let important = priority(pod);
    let mut lesser: Vec<_> = info
        .pods()
        .filter(|(_, other)| priority(other) < important)
        .map(|(key, other)| (key.clone(), other.clone()))
        .collect();
    if lesser.is_empty() {
        return None;
    }
    // The most important first, and of equals those that run longest.
    lesser
        .sort_by_cached_key(|(key, other)| (Reverse(priority(other)), started(other), key.clone()));
    let mut room = NodeInfo::clone(info);
    lesser.iter().for_each(|(key, _)| drop(room.remove(key)));
    if !fits(pod, &room, snapshot, world) {
        return None;
    }
    let (breaking, free) = by_budget(lesser, world);
    let (mut gone, mut violations) = (Vec::new(), 0);
    for (protected, group) in [(true, breaking), (false, free)] {
        for (key, other) in group {
            room.add(key.clone(), other.clone());
            if !fits(pod, &room, snapshot, world) {
                room.remove(&key);
                gone.push((key, other));
                violations += usize::from(protected);
            }
        }
    }
    Some(Plan { node: info.name().to_owned(), victims: gone, violations })
}

/// Whether the pod fits on a node that is imagined otherwise than it is.
fn fits(pod: &Arc<Pod>, room: &NodeInfo, snapshot: &Snapshot, world: &World) -> bool {
    let imagined = snapshot.with(room.clone());
    Prepared::new(pod, &imagined, world).is_ok_and(|prepared| prepared.check(room).is_ok())
}

type Pods = Vec<(Key, Arc<Pod>)>;

/// Those whose removal breaks a budget, and the others.
fn by_budget(pods: Pods, world: &World) -> (Pods, Pods) {
    let mut allowed: BTreeMap<Key, i32> = BTreeMap::new();
    let mut breaks = |pod: &Pod| {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let mut breaks = false;
        for budget in world.budgets.in_namespace(namespace) {
            let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            if !selector.is_some_and(|selector| labels::matches(selector, &pod.metadata)) {
                continue;
            }
            let left = allowed.entry(Key::of(&budget.metadata)).or_insert_with(|| {
                budget.status.as_ref().and_then(|it| it.disruptions_allowed).unwrap_or(0)
            });
            *left -= 1;
            breaks |= *left < 0;
        }
        breaks
    };
    pods.into_iter().partition(|(_, pod)| breaks(pod))
}

fn started(pod: &Pod) -> Option<jiff::Timestamp> {
    let status = pod.status.as_ref()?;
    status.start_time.as_ref().map(|time| time.0)
}

type Loss = (usize, i32, i64, usize, Reverse<Option<jiff::Timestamp>>);

/// What a plan costs: budgets broken, the most important victim, all together, how many, how long they ran.
fn loss(plan: &Plan) -> Loss {
    let priorities = || plan.victims.iter().map(|(_, pod)| priority(pod));
    let highest = priorities().max().unwrap_or(i32::MIN);
    // Shifted, so that many victims of negative priority do not look cheap.
    let sum = priorities().map(|it| i64::from(it) + i64::from(i32::MAX) + 1).sum();
    let important = plan.victims.iter().filter(|(_, pod)| priority(pod) == highest);
    let earliest = important.filter_map(|(_, pod)| started(pod)).min();
    (plan.violations, highest, sum, plan.victims.len(), Reverse(earliest))
}
