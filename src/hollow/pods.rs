//! Says of each pod of a hollow node what its orders say that it does, and lets go of those that are
//! deleted: one key is one pod.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Pod};
use kontiki_api::Status;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::time::Instant;

use super::addresses::Addresses;
use super::links::Fleet;
use super::orders::{Orders, is_silent};
use super::status::{self, Moment, Step};
use super::{Settings, nodes};
use crate::reconcile::{Informer, Key, Next, Reconcile};
use crate::session::named;

pub struct Pods {
    settings: Arc<Settings>,
    nodes: Informer<Node>,
    fleet: Arc<Fleet>,
    addresses: Addresses,
    /// Since when each pod, by uid, has been here, and has been ending.
    since: Mutex<HashMap<String, Since>>,
}

#[derive(Clone, Copy)]
struct Since {
    here: Instant,
    ending: Option<Instant>,
}

/// The one thing of other pods that matters.
#[derive(Deserialize)]
struct Addressed {
    status: Option<Address>,
}

#[derive(Deserialize)]
struct Address {
    #[serde(rename = "podIP")]
    pod_ip: Option<IpAddr>,
}

fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

impl Pods {
    pub fn new(settings: Arc<Settings>, nodes: Informer<Node>, fleet: Arc<Fleet>) -> Pods {
        let (addresses, since) = Default::default();
        Pods { settings, nodes, fleet, addresses, since }
    }

    /// The pod is gone.
    pub fn forget(&self, number: usize, uid: &str) {
        self.since.lock().remove(uid);
        self.addresses.take_back(&self.settings.name(number), uid);
    }

    fn moment(&self, pod: &Pod) -> Moment {
        let now = Instant::now();
        let mut since = self.since.lock();
        let fresh = Since { here: now, ending: None };
        let since = since.entry(uid(pod).to_owned()).or_insert(fresh);
        if pod.metadata.deletion_timestamp.is_some() {
            since.ending.get_or_insert(now);
        }
        Moment {
            now: self.settings.clock.now(),
            here: now - since.here,
            ending: since.ending.map(|begin| now - begin),
        }
    }

    /// Where the pod is reached. None as long as its node has no network.
    fn address(&self, pod: &Pod, node: &Node, number: usize) -> Option<IpAddr> {
        let shown = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
        if let Some(address) = shown.and_then(|ip| ip.parse().ok()) {
            return Some(address);
        }
        if pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true) {
            return Some(Self::host(number).into());
        }
        let cidr = node.spec.as_ref().and_then(|spec| spec.pod_cidr.as_deref())?;
        let network: IpNet = cidr.parse().ok()?;
        let (others, _) = self.fleet.tie(number).set.list("pods", "");
        let taken = others.iter().filter_map(|(_, held)| held.read::<Addressed>().ok());
        let taken = taken.filter_map(|pod| pod.status?.pod_ip);
        self.addresses.give(&self.settings.name(number), &network, uid(pod), taken)
    }

    fn host(number: usize) -> std::net::Ipv4Addr {
        nodes::address(number)
    }
}

impl Reconcile for Pods {
    type Key = Key;

    fn name(&self) -> &'static str {
        "hollow-pods"
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Status> {
        let Some((number, held)) = self.fleet.find(key) else { return Ok(Next::WhenChanged) };
        let pod: Pod = held.read().map_err(Status::internal)?;
        // A node that is gone runs nothing any more, and one that is silent says nothing.
        let node = self.nodes.get(&Key::new("", &self.settings.name(number)));
        let Some(node) = node else { return Ok(Next::WhenChanged) };
        if is_silent(&node) {
            return Ok(Next::WhenChanged);
        }
        let Some(address) = self.address(&pod, &node, number) else { return Ok(Next::Again) };
        let place = status::Place { host: Self::host(number).into(), pod: address };
        let outbox = &self.fleet.tie(number).outbox;
        match status::step(&pod, &Orders::of(&pod), &self.moment(&pod), &place) {
            Step::Rest => Ok(Next::WhenChanged),
            Step::Wait(pause) => Ok(Next::After(pause.max(Duration::from_millis(1)))),
            Step::LetGo => {
                outbox.gone(named(&pod.metadata));
                Ok(Next::WhenChanged)
            }
            Step::Say { status, again } => {
                outbox.pod(named(&pod.metadata), &status);
                Ok(again.map_or(Next::WhenChanged, Next::After))
            }
        }
    }
}
