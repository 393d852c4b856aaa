//! Gives each node a piece of the pod network.
//!
//! Keeps: no two nodes have the same piece. What is taken is read from the nodes themselves, once all of them
//! are known; a piece that was just given is remembered until its node shows it.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kontiki_api::Status;
use kontiki_api::client::{Client, PatchKind};
use kontiki_api::error::Reason;
use parking_lot::Mutex;
use serde_json::json;

use super::{Context, Loop};
use crate::reconcile::{Delta, Informer, Key, Next, Reconcile, Recorder};

const NAME: &str = "node-ipam-controller";

struct Controller {
    client: Client,
    recorder: Recorder,
    nodes: Informer<Node>,
    pools: Vec<Pool>,
    /// Given to nodes that do not show it yet.
    given: Mutex<HashMap<String, Vec<IpNet>>>,
}

/// A network and how long the prefixes of its pieces are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pool {
    network: IpNet,
    prefix: u8,
}

pub fn start(context: &Context) -> Vec<Loop> {
    let settings = &context.settings;
    let pools = match pools(&settings.cluster_cidr, settings.node_prefix_length) {
        Ok(pools) => pools,
        Err(why) => {
            tracing::error!("nodes get no pod network: {why}");
            return Vec::new();
        }
    };
    if pools.is_empty() {
        return Vec::new();
    }
    let queue = context.queue(NAME);
    let nodes = context.informers.of::<Node>();
    nodes.on({
        let queue = queue.clone();
        move |delta| {
            if !matches!(delta, Delta::Deleted(_)) {
                queue.add(Key::of(&delta.object().metadata));
            }
        }
    });
    let controller = Controller {
        client: context.client(NAME),
        recorder: context.recorder.of(NAME),
        nodes,
        pools,
        given: Mutex::default(),
    };
    vec![Loop::new(controller, queue, 4)]
}

/// Reads `10.42.0.0/16,fd42::/48`. A prefix length of zero means the usual one.
fn pools(text: &str, prefix: u8) -> Result<Vec<Pool>, String> {
    let mut pools = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let network: IpNet =
            part.parse().map_err(|_| format!("{part:?} is no network; write 10.42.0.0/16"))?;
        let network = network.trunc();
        let usual = if network.addr().is_ipv4() { 24 } else { 64 };
        let fits =
            |prefix: u8| prefix >= network.prefix_len() && prefix <= network.max_prefix_len();
        // One length cannot serve both families: it is meant for IPv4.
        let asked = prefix > 0 && network.addr().is_ipv4();
        let prefix = if asked { prefix } else { usual.max(network.prefix_len()) };
        if !fits(prefix) {
            return Err(format!("{network} has no pieces with a prefix of {prefix} bits"));
        }
        pools.push(Pool { network, prefix });
    }
    Ok(pools)
}

impl Reconcile for Controller {
    type Key = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Status> {
        let Some(node) = self.nodes.get(key) else {
            self.given.lock().remove(&key.name);
            return Ok(Next::WhenChanged);
        };
        if !networks(&node).is_empty() {
            self.given.lock().remove(&key.name);
            return Ok(Next::WhenChanged);
        }
        let Some(pieces) = self.choose(&key.name) else {
            self.recorder.warning(
                node.as_ref(),
                "CIDRNotAvailable",
                format!("Node {key} status is now: CIDRNotAvailable"),
            );
            return Err(Status::internal(format!(
                "no piece of the pod network is left for node {key}; give the cluster a wider one"
            )));
        };
        let texts: Vec<_> = pieces.iter().map(ToString::to_string).collect();
        // Both fields are written once and never changed: a node that got one meanwhile refuses another.
        let patch = json!({"metadata": {"uid": node.metadata.uid},
            "spec": {"podCIDR": texts[0], "podCIDRs": texts}});
        match self.client.patch::<Node>("", &key.name, PatchKind::Strategic, &patch, None).await {
            Ok(_) => Ok(Next::WhenChanged),
            Err(status) if status.is(Reason::NotFound) => {
                self.given.lock().remove(&key.name);
                Ok(Next::WhenChanged)
            }
            Err(status) => Err(status),
        }
    }
}

impl Controller {
    /// One free piece of each pool, which nobody else gets from here on.
    fn choose(&self, node: &str) -> Option<Vec<IpNet>> {
        let mut given = self.given.lock();
        if let Some(pieces) = given.get(node) {
            return Some(pieces.clone());
        }
        let mut taken: Vec<IpNet> = self.nodes.list().iter().flat_map(|it| networks(it)).collect();
        taken.extend(given.values().flatten());
        let pieces: Option<Vec<_>> = self.pools.iter().map(|pool| pool.free(&taken)).collect();
        let pieces = pieces?;
        given.insert(node.into(), pieces.clone());
        Some(pieces)
    }
}

fn networks(node: &Node) -> Vec<IpNet> {
    let spec = node.spec.as_ref();
    let many = spec.and_then(|spec| spec.pod_cidrs.as_deref()).unwrap_or_default();
    let one = spec.and_then(|spec| spec.pod_cidr.as_ref()).filter(|_| many.is_empty());
    many.iter().chain(one).filter_map(|text| text.parse().ok()).collect()
}

impl Pool {
    /// The first piece that touches nothing taken.
    fn free(&self, taken: &[IpNet]) -> Option<IpNet> {
        let wide: Vec<_> = taken.iter().filter(|it| it.prefix_len() < self.prefix).collect();
        let exact: HashSet<u128> = taken
            .iter()
            .filter(|it| it.prefix_len() >= self.prefix && self.network.contains(&it.network()))
            .map(|it| self.number(it.network()))
            .collect();
        let count = 1_u128 << (self.prefix - self.network.prefix_len()).min(64);
        (0..count)
            // With n pieces taken, one of the first n + 1 is free; wide ones may hide more.
            .take(if wide.is_empty() { exact.len() + 1 } else { usize::MAX })
            .filter(|number| !exact.contains(number))
            .filter_map(|number| self.piece(number))
            .find(|piece| !wide.iter().any(|it| it.contains(piece)))
    }

    fn step(&self) -> u32 {
        u32::from(self.network.max_prefix_len() - self.prefix)
    }

    fn number(&self, address: IpAddr) -> u128 {
        bits(address).wrapping_sub(bits(self.network.addr())).checked_shr(self.step()).unwrap_or(0)
    }

    fn piece(&self, number: u128) -> Option<IpNet> {
        let at = bits(self.network.addr()).checked_add(number.checked_shl(self.step())?)?;
        let address = match self.network.addr() {
            IpAddr::V4(_) => IpAddr::from(u32::try_from(at).ok()?.to_be_bytes()),
            IpAddr::V6(_) => IpAddr::from(at.to_be_bytes()),
        };
        IpNet::new(address, self.prefix).ok()
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(it) => u128::from(u32::from(it)),
        IpAddr::V6(it) => u128::from(it),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(pool: &str, prefix: u8, taken: &[&str]) -> Option<String> {
        let pool = pools(pool, prefix).unwrap()[0];
        let taken: Vec<IpNet> = taken.iter().map(|it| it.parse().unwrap()).collect();
        pool.free(&taken).map(|it| it.to_string())
    }

    #[test]
    fn the_first_free_piece_is_given() {
        let table = [
            ("10.42.0.0/16", 24, &[][..], Some("10.42.0.0/24")),
            ("10.42.0.0/16", 24, &["10.42.0.0/24", "10.42.2.0/24"], Some("10.42.1.0/24")),
            ("10.42.0.0/23", 24, &["10.42.0.0/24", "10.42.1.0/24"], None),
            ("10.42.0.0/16", 24, &["10.42.0.0/22"], Some("10.42.4.0/24")),
            ("10.42.0.0/16", 24, &["10.42.0.128/25"], Some("10.42.1.0/24")),
            ("10.42.0.0/16", 24, &["192.168.0.0/24"], Some("10.42.0.0/24")),
            ("fd42::/48", 0, &["fd42::/64"], Some("fd42:0:0:1::/64")),
        ];
        for (pool, prefix, taken, expected) in table {
            assert_eq!(free(pool, prefix, taken).as_deref(), expected, "{pool} without {taken:?}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        assert!(pools("10.42.0.0", 24).is_err());
        assert!(pools("10.42.0.0/26", 24).is_err());
        assert_eq!(pools("10.42.0.0/16, fd42::/56", 25).unwrap().len(), 2);
        assert!(pools("", 24).unwrap().is_empty());
    }
}
