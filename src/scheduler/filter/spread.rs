//! Pods of one kind spread over zones, hosts, or whatever a label says (`topologySpreadConstraints`).

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Pod, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::{NodeInfo, Refusal, Snapshot, node};
use crate::reconcile::labels;

/// Constraints of a pod with how many matching pods each domain has.
#[derive(Default)]
pub struct Spread(pub(in crate::scheduler) Vec<Constraint>);

pub(in crate::scheduler) struct Constraint {
    pub key: String,
    pub max_skew: i64,
    /// The pod counts itself.
    pub own: i64,
    /// Matching pods by value of the label, over the nodes that count.
    pub domains: HashMap<String, i64>,
    /// The fewest that a domain has; 0 while there are fewer domains than asked for.
    pub least: i64,
}

impl Spread {
    /// Those that a node must keep.
    pub fn required(pod: &Pod, snapshot: &Snapshot) -> Spread {
        Spread::of(pod, snapshot, "DoNotSchedule")
    }

    /// Those that a node should keep.
    pub fn preferred(pod: &Pod, snapshot: &Snapshot) -> Spread {
        Spread::of(pod, snapshot, "ScheduleAnyway")
    }

    fn of(pod: &Pod, snapshot: &Snapshot, kind: &str) -> Spread {
        let all = pod.spec.as_ref().and_then(|spec| spec.topology_spread_constraints.as_deref());
        let constraints: Vec<_> =
            all.unwrap_or_default().iter().filter(|it| it.when_unsatisfiable == kind).collect();
        // A node counts only if it has all the labels.
        let eligible = |info: &NodeInfo| {
            constraints.iter().all(|constraint| info.label(&constraint.topology_key).is_some())
        };
        Spread(
            constraints.iter().map(|one| Constraint::new(pod, one, snapshot, &eligible)).collect(),
        )
    }

    pub fn check(&self, info: &NodeInfo) -> Result<(), Refusal> {
        for constraint in &self.0 {
            let Some(value) = info.label(&constraint.key) else {
                return Err(Refusal::for_good(
                    "node(s) didn't match pod topology spread constraints (missing required label)",
                ));
            };
            let there = constraint.domains.get(value).copied().unwrap_or(0);
            if there + constraint.own - constraint.least > constraint.max_skew {
                return Err(Refusal::of("node(s) didn't match pod topology spread constraints"));
            }
        }
        Ok(())
    }
}

impl Constraint {
    fn new(
        pod: &Pod,
        constraint: &TopologySpreadConstraint,
        snapshot: &Snapshot,
        eligible: &dyn Fn(&NodeInfo) -> bool,
    ) -> Constraint {
        let selector = with_keys(constraint, pod);
        let namespace = &pod.metadata.namespace;
        let honours_affinity = constraint.node_affinity_policy.as_deref() != Some("Ignore");
        let honours_taints = constraint.node_taints_policy.as_deref() == Some("Honor");
        let mut domains = HashMap::new();
        for info in snapshot.iter() {
            let counts = eligible(info)
                && (!honours_affinity || node::is_selected(pod, info))
                && (!honours_taints || node::is_tolerated(pod, info));
            let Some(value) = info.label(&constraint.topology_key).filter(|_| counts) else {
                continue;
            };
            let matching = info.pods().filter(|(_, other)| {
                &other.metadata.namespace == namespace
                    && other.metadata.deletion_timestamp.is_none()
                    && labels::selects(&selector, &other.metadata)
            });
            let matching = i64::try_from(matching.count()).unwrap_or(i64::MAX);
            *domains.entry(value.to_owned()).or_insert(0) += matching;
        }
        let enough = usize::try_from(constraint.min_domains.unwrap_or(1)).unwrap_or(1);
        let least = if domains.len() < enough { None } else { domains.values().min().copied() };
        Constraint {
            key: constraint.topology_key.clone(),
            max_skew: i64::from(constraint.max_skew),
            own: i64::from(labels::selects(&selector, &pod.metadata)),
            least: least.unwrap_or(0),
            domains,
        }
    }
}

/// The selector, narrowed to pods that agree with this one in some labels (`matchLabelKeys`).
fn with_keys(constraint: &TopologySpreadConstraint, pod: &Pod) -> LabelSelector {
    let mut selector = constraint.label_selector.clone().unwrap_or_default();
    let labels = pod.metadata.labels.as_ref();
    for key in constraint.match_label_keys.iter().flatten() {
        if let Some(value) = labels.and_then(|labels| labels.get(key)) {
            selector.match_expressions.get_or_insert_default().push(LabelSelectorRequirement {
                key: key.clone(),
                operator: "In".into(),
                values: Some(vec![value.clone()]),
            });
        }
    }
    selector
}
