//! The whole decision on one pod: a node, or why there is none.
//!
//! Pure: pod, nodes and world in, answer out. What a large cluster is spared is looking at every node
//! when enough that can do are found (upstream's `percentageOfNodesToScore`).

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::filter::{Prepared, Refusal};
use super::nodes::{NodeInfo, Snapshot};
use super::score;
use super::world::World;

/// Fewer candidates than this are not enough.
const CANDIDATES_MIN: usize = 100;

/// A node, with what binding to it takes.
pub struct Chosen {
    pub node: String,
    pub prepared: Prepared,
}

/// Why no node will do.
#[derive(Debug)]
pub struct Unfit {
    pub nodes: usize,
    /// What keeps every node from doing, found before any was looked at.
    pub before: Option<String>,
    pub refusals: BTreeMap<String, Refusal>,
}

impl Unfit {
    /// As `kubectl describe pod` shows it (upstream's `FitError`), with what preemption came to.
    #[must_use]
    pub fn explain(&self, preemption: &str) -> String {
        let mut text = format!("0/{} nodes are available:", self.nodes);
        if let Some(before) = &self.before {
            text += &format!(" {before}.");
        } else {
            let histogram = histogram(self.refusals.values().flat_map(|it| &it.reasons));
            if !histogram.is_empty() {
                text += &format!(" {histogram}.");
            }
        }
        if !preemption.is_empty() {
            text += &format!(" {preemption}");
        }
        text
    }
}

/// How often each reason was given, in upstream's order (that of the texts).
pub fn histogram<'a>(reasons: impl Iterator<Item = &'a String>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason).or_insert(0) += 1;
    }
    let mut parts: Vec<_> =
        counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort();
    parts.join(", ")
}

/// Decides. `turn` says where the search begins and which of equals wins: a number that moves from pod to pod.
pub fn schedule(
    pod: &Arc<Pod>,
    snapshot: &Snapshot,
    world: &World,
    turn: usize,
) -> Result<Chosen, Unfit> {
    let unfit = |before, refusals| Unfit { nodes: snapshot.len(), before, refusals };
    if snapshot.is_empty() {
        return Err(unfit(Some("no nodes available to schedule pods".into()), BTreeMap::new()));
    }
    let prepared = match Prepared::new(pod, snapshot, world) {
        Ok(prepared) => prepared,
        Err(reason) => return Err(unfit(Some(reason), BTreeMap::new())),
    };
    let nominated = pod.status.as_ref().and_then(|it| it.nominated_node_name.as_deref());
    if let Some(info) = nominated.and_then(|name| snapshot.get(name))
        && prepared.check(info).is_ok()
    {
        return Ok(Chosen { node: info.name().to_owned(), prepared });
    }
    let (candidates, refusals) = search(&prepared, snapshot, turn);
    match candidates.as_slice() {
        [] => Err(unfit(None, refusals)),
        [only] => Ok(Chosen { node: only.name().to_owned(), prepared }),
        _ => {
            let totals = score::totals(&prepared, &candidates, snapshot, world);
            let best = totals.iter().copied().max().unwrap_or(0);
            let equals: Vec<_> = (0..totals.len()).filter(|at| totals[*at] == best).collect();
            let node = candidates[equals[turn % equals.len()]].name().to_owned();
            Ok(Chosen { node, prepared })
        }
    }
}

/// Nodes that can do, until there are enough, and why others cannot.
fn search(
    prepared: &Prepared,
    snapshot: &Snapshot,
    turn: usize,
) -> (Vec<Arc<NodeInfo>>, BTreeMap<String, Refusal>) {
    let enough = enough(snapshot.len());
    let (mut found, mut refusals) = (Vec::new(), BTreeMap::new());
    for offset in 0..snapshot.len() {
        let info = snapshot.at((turn % snapshot.len() + offset) % snapshot.len());
        match prepared.check(info) {
            Ok(()) => {
                found.push(info.clone());
                if found.len() >= enough {
                    break;
                }
            }
            Err(refusal) => {
                refusals.insert(info.name().to_owned(), refusal);
            }
        }
    }
    (found, refusals)
}

/// How many candidates are enough: all of a small cluster, between half and a twentieth of a large one.
fn enough(nodes: usize) -> usize {
    if nodes < CANDIDATES_MIN {
        return nodes;
    }
    let percent = 50_usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(CANDIDATES_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_counted_and_ordered_as_people_know_them() {
        let refusal = |reasons: &[&str]| Refusal {
            reasons: reasons.iter().map(|reason| (*reason).into()).collect(),
            preemption_may_help: true,
        };
        let unfit = Unfit {
            nodes: 3,
            before: None,
            refusals: [
                ("a".into(), refusal(&["Insufficient cpu", "Insufficient memory"])),
                ("b".into(), refusal(&["Insufficient cpu"])),
                ("c".into(), refusal(&["node(s) were unschedulable"])),
            ]
            .into(),
        };
        assert_eq!(
            unfit.explain(""),
            "0/3 nodes are available: 1 Insufficient memory, 1 node(s) were unschedulable, \
             2 Insufficient cpu."
        );
    }

    #[test]
    fn a_large_cluster_is_searched_in_part() {
        assert_eq!(enough(50), 50);
        assert_eq!(enough(100), 100);
        assert_eq!(enough(1000), 420);
        assert_eq!(enough(10_000), 500);
    }
}
