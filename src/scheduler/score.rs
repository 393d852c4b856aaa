//! Which of the nodes that can do is best.
//!
//! Each view of a node is a number from 0 to 100 after normalizing over the candidates, and counts by
//! upstream's weights. Pure: same candidates, same numbers.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm, WeightedPodAffinityTerm};

use super::filter::{Prepared, Spread, Term, node};
use super::nodes::{NodeInfo, Snapshot};
use super::world::World;
use crate::reconcile::amounts::{Resources, requests_for_scoring};

const BEST: i64 = 100;

/// Weights of upstream's default plugins.
const TAINTS: i64 = 3;
const NODE_AFFINITY: i64 = 2;
const SPREAD: i64 = 2;
const COMPANY: i64 = 2;
const LEAST_ALLOCATED: i64 = 1;
const BALANCED: i64 = 1;
const IMAGES: i64 = 1;

/// How much a pod that is there, with required affinity to this one, counts (`hardPodAffinityWeight`).
const HARD_AFFINITY: i64 = 1;

/// Images smaller than this do not count; larger than the most count as the most.
const IMAGE_BYTES_MIN: i64 = 23 << 20;
const IMAGE_BYTES_MAX: i64 = 1000 << 20;

/// The total of each candidate, in their order.
#[must_use]
pub fn totals(
    prepared: &Prepared,
    candidates: &[Arc<NodeInfo>],
    snapshot: &Snapshot,
    world: &World,
) -> Vec<i64> {
    let pod = &prepared.pod;
    let (wanted, names) = (requests_for_scoring(pod), names_of_images(pod));
    let each = |score: &dyn Fn(&NodeInfo) -> i64| -> Vec<i64> {
        candidates.iter().map(|info| score(info)).collect()
    };
    let views = [
        (TAINTS, reversed(each(&|info| node::disliked(pod, info)))),
        (NODE_AFFINITY, normalized(each(&|info| preferred(pod, info)))),
        (SPREAD, spread(pod, candidates, snapshot)),
        (COMPANY, company(pod, candidates, snapshot, world)),
        (LEAST_ALLOCATED, each(&|info| least_allocated(&wanted, info))),
        (BALANCED, each(&|info| balanced(&wanted, info))),
        (IMAGES, each(&|info| images(&names, info))),
    ];
    (0..candidates.len())
        .map(|at| views.iter().map(|(weight, view)| weight * view[at]).sum())
        .collect()
}

/// The largest becomes 100.
fn normalized(scores: Vec<i64>) -> Vec<i64> {
    match scores.iter().copied().max() {
        Some(most) if most > 0 => scores.into_iter().map(|score| score * BEST / most).collect(),
        _ => scores,
    }
}

/// The smallest count is best.
fn reversed(counts: Vec<i64>) -> Vec<i64> {
    let most = counts.iter().copied().max().unwrap_or(0);
    counts
        .into_iter()
        .map(|count| if most == 0 { BEST } else { BEST - count * BEST / most })
        .collect()
}

/// From the least to the most, whatever they are.
fn stretched(scores: &[i64]) -> Vec<i64> {
    let (least, most) = (scores.iter().min().copied(), scores.iter().max().copied());
    let (Some(least), Some(most)) = (least, most) else { return Vec::new() };
    let width = most - least;
    scores.iter().map(|score| if width == 0 { 0 } else { (score - least) * BEST / width }).collect()
}

fn preferred(pod: &Pod, info: &NodeInfo) -> i64 {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    let terms = affinity
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|it| it.preferred_during_scheduling_ignored_during_execution.as_deref());
    terms
        .unwrap_or_default()
        .iter()
        .filter(|term| term.weight != 0 && node::term_matches(&term.preference, info))
        .map(|term| i64::from(term.weight))
        .sum()
}

/// How much of CPU and memory stays free.
fn least_allocated(wanted: &Resources, info: &NodeInfo) -> i64 {
    let free = |have: i64, used: i64, wanted: i64| {
        let used = used + wanted;
        if have == 0 || used > have { 0 } else { (have - used) * BEST / have }
    };
    let cpu = free(info.allocatable.cpu, info.weighed.cpu, wanted.cpu);
    let memory = free(info.allocatable.memory, info.weighed.memory, wanted.memory);
    i64::midpoint(cpu, memory)
}

/// How equally CPU and memory are used.
fn balanced(wanted: &Resources, info: &NodeInfo) -> i64 {
    #[expect(clippy::cast_precision_loss, reason = "a share needs no more precision")]
    let share =
        |have: i64, used: i64| if have == 0 { 1.0 } else { (used as f64 / have as f64).min(1.0) };
    let cpu = share(info.allocatable.cpu, info.requested.cpu + wanted.cpu);
    let memory = share(info.allocatable.memory, info.requested.memory + wanted.memory);
    let deviation = (cpu - memory).abs() / 2.0;
    #[expect(clippy::cast_possible_truncation, reason = "between 0 and 100")]
    let score = ((1.0 - deviation) * 100.0) as i64;
    score
}

/// The images of a pod, each by the names that a node may know it by.
fn names_of_images(pod: &Pod) -> Vec<[String; 2]> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let images = containers.filter_map(|container| container.image.as_deref());
    images.map(|image| [image.to_owned(), format!("{image}:latest")]).collect()
}

/// Bytes of the images that are there already.
fn images(wanted: &[[String; 2]], info: &NodeInfo) -> i64 {
    if wanted.is_empty() {
        return 0;
    }
    let sizes = wanted.iter().map(|names| {
        let known = names.iter().find_map(|name| info.images.get(name).copied());
        known.unwrap_or(0)
    });
    let there = sizes.fold(0_i64, i64::saturating_add);
    let most = IMAGE_BYTES_MAX * i64::try_from(wanted.len()).unwrap_or(1);
    let there = there.clamp(IMAGE_BYTES_MIN, most);
    BEST * (there - IMAGE_BYTES_MIN) / (most - IMAGE_BYTES_MIN)
}

/// Fewer of its kind in the node's domains is better.
fn spread(pod: &Pod, candidates: &[Arc<NodeInfo>], snapshot: &Snapshot) -> Vec<i64> {
    let spread = Spread::preferred(pod, snapshot);
    if spread.0.is_empty() {
        return vec![0; candidates.len()];
    }
    #[expect(clippy::cast_precision_loss, reason = "counts of pods are small")]
    let crowd = |info: &Arc<NodeInfo>| -> Option<i64> {
        let mut sum = 0.0;
        for constraint in &spread.0 {
            let value = info.label(&constraint.key)?;
            let there = constraint.domains.get(value).copied().unwrap_or(0);
            // Many domains make one pod more weigh more.
            let weight = (constraint.domains.len() as f64 + 2.0).ln();
            sum += there as f64 * weight + (constraint.max_skew - 1) as f64;
        }
        #[expect(clippy::cast_possible_truncation, reason = "rounded")]
        let rounded = sum.round() as i64;
        Some(rounded)
    };
    let crowds: Vec<_> = candidates.iter().map(crowd).collect();
    let known = || crowds.iter().flatten().copied();
    let (least, most) = (known().min().unwrap_or(0), known().max().unwrap_or(0));
    crowds
        .iter()
        .map(|crowd| match crowd {
            None => 0,
            Some(_) if most == 0 => BEST,
            Some(crowd) => BEST * (most + least - crowd) / most,
        })
        .collect()
}

/// Pods that are liked nearby, less those that are not: by this pod, and by those that are there.
fn company(
    pod: &Pod,
    candidates: &[Arc<NodeInfo>],
    snapshot: &Snapshot,
    world: &World,
) -> Vec<i64> {
    let (likes, dislikes) = wishes(pod);
    let asks = !likes.is_empty() || !dislikes.is_empty();
    let mut worth: HashMap<(String, String), i64> = HashMap::new();
    let those: Vec<&Arc<NodeInfo>> =
        if asks { snapshot.iter().collect() } else { snapshot.with_affinity().collect() };
    for info in those {
        let mut add = |term: &Term, weight: i64| {
            if let Some(value) = info.label(&term.key) {
                *worth.entry((term.key.clone(), value.to_owned())).or_insert(0) += weight;
            }
        };
        for (_, other) in info.pods() {
            for (sign, terms) in [(1, likes), (-1, dislikes)] {
                for (weight, term) in weighted(terms, pod) {
                    if term.matches(other, world) {
                        add(&term, sign * weight);
                    }
                }
            }
            if info.with_affinity == 0 {
                continue;
            }
            let (theirs, against) = wishes(other);
            for (sign, terms) in [(1, theirs), (-1, against)] {
                for (weight, term) in weighted(terms, other) {
                    if term.matches(pod, world) {
                        add(&term, sign * weight);
                    }
                }
            }
            for term in hard(other) {
                let term = Term::new(term, other);
                if term.matches(pod, world) {
                    add(&term, HARD_AFFINITY);
                }
            }
        }
    }
    if worth.is_empty() {
        return vec![0; candidates.len()];
    }
    let of = |info: &Arc<NodeInfo>| -> i64 {
        worth
            .iter()
            .filter(|((key, value), _)| info.label(key) == Some(value))
            .map(|(_, it)| it)
            .sum()
    };
    stretched(&candidates.iter().map(of).collect::<Vec<_>>())
}

fn wishes(pod: &Pod) -> (&[WeightedPodAffinityTerm], &[WeightedPodAffinityTerm]) {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    let likes = affinity
        .and_then(|affinity| affinity.pod_affinity.as_ref())
        .and_then(|it| it.preferred_during_scheduling_ignored_during_execution.as_deref());
    let dislikes = affinity
        .and_then(|affinity| affinity.pod_anti_affinity.as_ref())
        .and_then(|it| it.preferred_during_scheduling_ignored_during_execution.as_deref());
    (likes.unwrap_or_default(), dislikes.unwrap_or_default())
}

fn hard(pod: &Pod) -> &[PodAffinityTerm] {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    affinity
        .and_then(|affinity| affinity.pod_affinity.as_ref())
        .and_then(|it| it.required_during_scheduling_ignored_during_execution.as_deref())
        .unwrap_or_default()
}

fn weighted<'a>(
    terms: &'a [WeightedPodAffinityTerm],
    own: &'a Pod,
) -> impl Iterator<Item = (i64, Term)> + 'a {
    terms.iter().map(move |term| (i64::from(term.weight), Term::new(&term.pod_affinity_term, own)))
}
