//! Which nodes a pod can run on, and why not on the others.
//!
//! What depends on the pod alone, or on all nodes together, is prepared once ([`Prepared`]); then each node is
//! checked by itself. Everything is pure. Reasons are in upstream's words, since people search for them.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::nodes::{NodeInfo, Snapshot};
use super::priority;
use super::world::World;
use crate::reconcile::amounts::{Resources, requests};
use crate::reconcile::node_rules::{HostPort, host_ports};

mod company;
mod fit;
pub mod node;
mod spread;
mod volumes;

pub use company::{Company, Term};
pub use spread::Spread;
pub use volumes::Volumes;

/// Why a node will not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reasons: Vec<String>,
    /// Removing pods from the node might help.
    pub preemption_may_help: bool,
}

impl Refusal {
    fn of(reason: &str) -> Refusal {
        Refusal { reasons: vec![reason.into()], preemption_may_help: true }
    }

    fn for_good(reason: &str) -> Refusal {
        Refusal { reasons: vec![reason.into()], preemption_may_help: false }
    }
}

/// A pod with all that is known of it before the first node is looked at.
pub struct Prepared {
    pub pod: Arc<Pod>,
    pub requests: Resources,
    ports: Vec<HostPort>,
    spread: Spread,
    company: Company,
    volumes: Volumes,
}

impl Prepared {
    /// `Err` when no node at all can do.
    pub fn new(pod: &Arc<Pod>, snapshot: &Snapshot, world: &World) -> Result<Prepared, String> {
        Ok(Prepared {
            requests: requests(pod),
            ports: host_ports(pod),
            spread: Spread::required(pod, snapshot),
            company: Company::new(pod, snapshot, world),
            volumes: Volumes::new(pod, world)?,
            pod: pod.clone(),
        })
    }

    /// Whether the pod can run on the node. The first rule that says no has the word, as upstream. Room that
    /// was made there for others who are no less important counts as taken.
    pub fn check(&self, info: &NodeInfo) -> Result<(), Refusal> {
        let before_us = |other: &Pod| {
            priority(other) >= priority(&self.pod) && other.metadata.uid != self.pod.metadata.uid
        };
        let mut others = info.nominated.iter().filter(|(_, other)| before_us(other)).peekable();
        if others.peek().is_some() {
            let mut room = info.clone();
            others.for_each(|(key, other)| room.add(key.clone(), other.clone()));
            self.check_as_it_is(&room)?;
        }
        self.check_as_it_is(info)
    }

    fn check_as_it_is(&self, info: &NodeInfo) -> Result<(), Refusal> {
        node::schedulable(&self.pod, info)?;
        node::named(&self.pod, info)?;
        node::tolerated(&self.pod, info)?;
        node::selected(&self.pod, info)?;
        fit::ports(&self.ports, info)?;
        fit::resources(&self.requests, info)?;
        self.volumes.check(info)?;
        self.spread.check(info)?;
        self.company.check(info)
    }

    /// What binding has to do about volumes on this node.
    #[must_use]
    pub fn volumes(&self) -> &Volumes {
        &self.volumes
    }
}

#[cfg(test)]
mod tests;
