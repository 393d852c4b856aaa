//! Who makes room for a critical pod that does not fit: upstream's choice. Pure.
//!
//! Keeps: those of whom least is promised go first; among equals as few as possible, and of those who free as
//! much the ones that ask for little.
//! Never: ends anybody where that would not be enough; a pod for one that is not above it.

use std::cmp::Ordering;

use k8s_openapi::api::core::v1::Pod;

use super::view;
use crate::reconcile::amounts::{Resources, Short, requests};

/// From here on the cluster or the node is not itself without the pod.
const CRITICAL_MIN: i32 = 2_000_000_000;

/// What is promised to a pod, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Quality {
    BestEffort,
    Burstable,
    Guaranteed,
}

/// How a pod stands to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rank {
    priority: Option<i32>,
}

impl Rank {
    #[must_use]
    pub fn of(pod: &Pod) -> Rank {
        Rank { priority: view::spec(pod).priority }
    }

    #[must_use]
    pub fn is_critical(self) -> bool {
        self.priority.is_some_and(|it| it >= CRITICAL_MIN)
    }

    /// Whether the other may be ended for this one.
    #[must_use]
    pub fn is_above(self, other: Rank) -> bool {
        let more = |(ours, theirs)| ours > theirs;
        (self.is_critical() && !other.is_critical())
            || self.priority.zip(other.priority).is_some_and(more)
    }
}

/// An amount that has to be freed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    pub name: String,
    pub amount: i64,
}

impl From<&Short> for Lack {
    fn from(short: &Short) -> Lack {
        let amount = short.wanted.saturating_sub(short.have.saturating_sub(short.used));
        Lack { name: short.name.clone(), amount }
    }
}

/// A pod that may be ended.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub uid: String,
    pub quality: Quality,
    pub requests: Resources,
}

impl Candidate {
    #[must_use]
    pub fn new(pod: &Pod) -> Candidate {
        let quality = match view::quality(pod) {
            "Guaranteed" => Quality::Guaranteed,
            "Burstable" => Quality::Burstable,
            _ => Quality::BestEffort,
        };
        Candidate { uid: view::uid(pod).to_owned(), quality, requests: requests(pod) }
    }

    /// What there is more of when it has gone.
    fn frees(&self, name: &str) -> i64 {
        match name {
            "cpu" => self.requests.cpu,
            "memory" => self.requests.memory,
            "ephemeral-storage" => self.requests.storage,
            "pods" => 1,
            other => self.requests.others.get(other).copied().unwrap_or(0),
        }
    }

    /// How far its room is from what is lacking, each amount weighing the same.
    fn distance(&self, lacks: &[Lack]) -> f64 {
        let part = |lack: &Lack| {
            let left = (lack.amount - self.frees(&lack.name)).max(0);
            (left as f64 / lack.amount as f64).powi(2)
        };
        lacks.iter().map(part).sum()
    }
}

/// Who has to go, by their uids. An error: what would lack still if all of them went.
pub fn choose(candidates: &[Candidate], lacks: &[Lack]) -> Result<Vec<String>, Vec<Lack>> {
    let of = |quality| candidates.iter().filter(move |it| it.quality == quality).collect();
    let all: [Vec<&Candidate>; 3] =
        [Quality::BestEffort, Quality::Burstable, Quality::Guaranteed].map(of);
    let missing = left_after(lacks, candidates);
    if !missing.is_empty() {
        return Err(missing);
    }
    let [best_effort, burstable, guaranteed] = all;
    let both = |ours: &[&Candidate], others: &[&Candidate]| {
        left_after(lacks, ours.iter().chain(others).copied())
    };
    // Of the better ones, those without whom it would not be enough if all of the lesser ones went.
    let guaranteed = fewest(guaranteed, both(&best_effort, &burstable));
    let burstable = fewest(burstable, both(&best_effort, &guaranteed));
    let best_effort = fewest(best_effort, both(&burstable, &guaranteed));
    let chosen = best_effort.iter().chain(&burstable).chain(&guaranteed);
    Ok(chosen.map(|it| it.uid.clone()).collect())
}

/// As few as are enough, who are enough together: whoever is nearest to what is still lacking goes next.
fn fewest(mut pods: Vec<&Candidate>, mut lacks: Vec<Lack>) -> Vec<&Candidate> {
    let mut chosen = Vec::new();
    while !lacks.is_empty() && !pods.is_empty() {
        let nearer = |(_, one): &(usize, &&Candidate), (_, other): &(usize, &&Candidate)| {
            let by_distance = one.distance(&lacks).total_cmp(&other.distance(&lacks));
            by_distance.then_with(|| smaller(&one.requests, &other.requests))
        };
        let Some((at, _)) = pods.iter().enumerate().min_by(nearer) else { break };
        let next = pods.swap_remove(at);
        lacks = left_after(&lacks, [next]);
        chosen.push(next);
    }
    chosen
}

fn smaller(one: &Resources, other: &Resources) -> Ordering {
    (one.memory, one.cpu).cmp(&(other.memory, other.cpu))
}

/// What is still lacking when these have gone.
pub fn left_after<'a>(
    lacks: &[Lack],
    gone: impl IntoIterator<Item = &'a Candidate, IntoIter: Clone>,
) -> Vec<Lack> {
    let gone = gone.into_iter();
    let left = |lack: &Lack| {
        let freed = gone.clone().map(|it| it.frees(&lack.name)).fold(0, i64::saturating_add);
        Lack { name: lack.name.clone(), amount: lack.amount.saturating_sub(freed) }
    };
    lacks.iter().map(left).filter(|it| it.amount > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(uid: &str, quality: Quality, cpu: i64, memory: i64) -> Candidate {
        let requests = Resources { cpu, memory, ..Resources::default() };
        Candidate { uid: uid.into(), quality, requests }
    }

    fn lacks(amounts: &[(&str, i64)]) -> Vec<Lack> {
        amounts
            .iter()
            .map(|(name, amount)| Lack { name: (*name).into(), amount: *amount })
            .collect()
    }

    #[test]
    fn those_of_whom_least_is_promised_go_first_and_as_few_as_are_enough() {
        use Quality::{BestEffort, Burstable, Guaranteed};
        let all = [
            candidate("none", BestEffort, 0, 0),
            candidate("none-too", BestEffort, 0, 0),
            candidate("small", Burstable, 100, 100),
            candidate("medium", Burstable, 300, 200),
            candidate("large", Burstable, 600, 800),
            candidate("fixed", Guaranteed, 400, 400),
            candidate("fixed-large", Guaranteed, 900, 900),
        ];
        let chosen = |amounts: &[(&str, i64)]| choose(&all, &lacks(amounts)).unwrap();
        assert_eq!(chosen(&[]), [""; 0], "nothing lacks");
        assert_eq!(chosen(&[("cpu", 90)]), ["small"], "all are enough, and it asks for least");
        assert_eq!(chosen(&[("cpu", 250)]), ["medium"], "one, not two");
        assert_eq!(chosen(&[("cpu", 650)]), ["large", "small"], "nearest first, then the rest");
        assert_eq!(chosen(&[("cpu", 250), ("memory", 700)]), ["large"], "both at once");
        assert_eq!(chosen(&[("pods", 1)]).len(), 1);
        assert!(chosen(&[("pods", 1)])[0].starts_with("none"), "nothing is promised to it");
        let all_lesser_and_one = chosen(&[("cpu", 1200)]);
        assert_eq!(all_lesser_and_one, ["large", "medium", "fixed"], "without the small one");
        let missing = choose(&all, &lacks(&[("cpu", 2301), ("memory", 1)])).unwrap_err();
        assert_eq!(missing, lacks(&[("cpu", 1)]));
        let chip = choose(&all, &lacks(&[("a.b/chip", 1)])).unwrap_err();
        assert_eq!(chip, lacks(&[("a.b/chip", 1)]));
    }

    #[test]
    fn nobody_goes_for_a_pod_that_is_not_above_it() {
        let rank = |priority| Rank { priority };
        let (node, cluster) = (rank(Some(CRITICAL_MIN + 1000)), rank(Some(CRITICAL_MIN)));
        let (some, none) = (rank(Some(5)), rank(None));
        assert!(node.is_critical() && cluster.is_critical());
        assert!(!rank(Some(CRITICAL_MIN - 1)).is_critical() && !none.is_critical());
        assert!(node.is_above(cluster) && cluster.is_above(some) && cluster.is_above(none));
        assert!(!cluster.is_above(cluster) && !cluster.is_above(node));
    }
}
