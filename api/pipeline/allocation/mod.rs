//! Addresses and ports of Services: chosen, held and given back in the commit of the Service itself.
//!
//! A cluster IP is held by its IPAddress object, a node port by a record of its own. Both are written with
//! the condition that they were free, so two Services never get the same, and nothing is left over when a
//! commit fails.

mod plan;

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use kontiki_storage::revision::Revision;
use serde_json::{Value, json};

use super::Road;
use super::target::Target;
use crate::error::Status;
use crate::kinds::Kind;
use crate::kinds::kind::Stored;
use crate::object::meta;
use crate::objects::Write;
use crate::schema::causes::invalid;

use plan::{Plan, Port};

/// How often a free address or port is looked for by chance before all are gone through.
const GUESSES: usize = 32;
/// Addresses that are gone through at most.
const SCAN_MAX: u128 = 1 << 16;

/// What Services are given from.
#[derive(Clone, Debug)]
pub struct Networks {
    /// Of services, one or one of each family; the first is the cluster's own.
    pub services: Vec<IpNet>,
    pub node_ports: RangeInclusive<u16>,
}

impl Default for Networks {
    fn default() -> Networks {
        let services = IpNet::new(IpAddr::from([10, 43, 0, 0]), 16);
        Networks { services: services.into_iter().collect(), node_ports: 30000..=32767 }
    }
}

fn addresses() -> Stored {
    Stored {
        group: "networking.k8s.io".into(),
        resource: "ipaddresses".into(),
        version: "v1".into(),
        kind: "IPAddress".into(),
    }
}

/// Which port belongs to whom. Never served: only its being there counts.
fn ports() -> Stored {
    Stored {
        group: "allocation.kontiki.io".into(),
        resource: "nodeports".into(),
        version: "v1".into(),
        kind: "NodePort".into(),
    }
}

/// Whether objects of a kind are given something when they are written.
pub(super) fn concerns(kind: &Kind) -> bool {
    kind.stored.group.is_empty() && kind.stored.resource.as_ref() == "services"
}

impl Road {
    /// Gives `new` what it needs and takes back what it no longer does: what is to be written with it.
    pub(super) async fn allocate(
        &self,
        target: &Target,
        new: &mut Value,
        old: Option<&Value>,
    ) -> Result<Vec<Write>, Status> {
        if !concerns(&target.kind) || !matches!(target.sub.as_str(), "") {
            return Ok(Vec::new());
        }
        let refuse = |causes| Err(Status::invalid(&target.kind.group_kind(), &target.name, causes));
        let plan = match plan::plan(new, old, &self.networks) {
            Ok(plan) => plan,
            Err(causes) => return refuse(causes),
        };
        let mut writes = Vec::new();
        let held = |name: &str| -> Result<bool, Status> {
            Ok(self.objects.get(&addresses(), "", name)?.is_some())
        };
        let Plan { ips, ports: wanted, health_check, .. } = &plan;
        let mut given = Vec::new();
        for (number, ip) in ips.iter().enumerate().filter(|_| !plan.headless) {
            let chosen = match ip.kept {
                Some(kept) => {
                    given.push(kept);
                    continue;
                }
                None => match ip.asked {
                    Some(asked) => {
                        if !ip.net.contains(&asked) {
                            let why = format!(
                                "failed to allocate IP {asked}: the provided network does not \
 match \
                                 the current range"
                            );
                            let field = format!("spec.clusterIPs[{number}]");
                            return refuse(vec![invalid(&field, &json!(asked), &why)]);
                        }
                        if held(&asked.to_string())? {
                            let why = format!(
                                "failed to allocate IP {asked}: provided IP is already allocated"
                            );
                            let field = format!("spec.clusterIPs[{number}]");
                            return refuse(vec![invalid(&field, &json!(asked), &why)]);
                        }
                        asked
                    }
                    None => free_address(&ip.net, |it| held(&it.to_string()))?,
                },
            };
            given.push(chosen);
            writes.push(self.take_address(target, chosen));
        }
        let mut numbers = Vec::new();
        for port in wanted.iter().chain(health_check) {
            let number = match port {
                Port::Kept(number) => {
                    numbers.push(*number);
                    continue;
                }
                Port::Asked(number, field) => {
                    if let Some(why) = self.refused_port(*number, &numbers)? {
                        return refuse(vec![invalid(field, &json!(number), &why)]);
                    }
                    *number
                }
                Port::Any => self.free_port(&numbers)?,
            };
            if !numbers.contains(&number) {
                writes.push(take_port(target, number));
            }
            numbers.push(number);
        }
        plan.fill(new, &given, &numbers);
        for ip in &plan.released_ips {
            writes.extend(self.give_address(target, *ip)?);
        }
        for port in &plan.released_ports {
            if !numbers.contains(port) {
                writes.extend(self.give_port(*port)?);
            }
        }
        Ok(writes)
    }

    /// Everything that an object which goes had been given.
    pub(super) fn release(&self, target: &Target, old: &Value) -> Result<Vec<Write>, Status> {
        if !concerns(&target.kind) {
            return Ok(Vec::new());
        }
        let mut writes = Vec::new();
        for ip in plan::ips_of(old) {
            writes.extend(self.give_address(target, ip)?);
        }
        for port in plan::ports_of(old) {
            writes.extend(self.give_port(port)?);
        }
        Ok(writes)
    }

    fn take_address(&self, target: &Target, ip: IpAddr) -> Write {
        let name = ip.to_string();
        let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
        let value = json!({
            "kind": "IPAddress", "apiVersion": "networking.k8s.io/v1",
            "metadata": {
                "name": name,
                "uid": uuid::Uuid::new_v4().to_string(),
                "creationTimestamp": self.clock.now().rfc3339(),
                "labels": {
                    "ipaddress.kubernetes.io/ip-family": family,
                    "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
                },
            },
            "spec": {"parentRef": {"group": "", "resource": "services",
                "namespace": target.namespace, "name": target.name}},
        });
        Write::put(&addresses(), "", &name, &value, Revision::ZERO)
    }

    /// Only what is this Service's own is given back.
    fn give_address(&self, target: &Target, ip: IpAddr) -> Result<Option<Write>, Status> {
        let name = ip.to_string();
        let Some(object) = self.objects.get(&addresses(), "", &name)? else { return Ok(None) };
        let parent = |field: &str| {
            object.value().map(|it| meta::text(it, &["spec", "parentRef", field]).to_owned())
        };
        let own = parent("namespace")? == target.namespace && parent("name")? == target.name;
        Ok(own.then(|| Write::delete(&addresses(), "", &name, object.revision())))
    }

    fn give_port(&self, port: u16) -> Result<Option<Write>, Status> {
        let name = port.to_string();
        let held = self.objects.get(&ports(), "", &name)?;
        Ok(held.map(|held| Write::delete(&ports(), "", &name, held.revision())))
    }

    /// Why a port that was asked for cannot be had.
    fn refused_port(&self, port: u16, own: &[u16]) -> Result<Option<String>, Status> {
        let range = &self.networks.node_ports;
        if !range.contains(&port) {
            let (first, last) = (range.start(), range.end());
            return Ok(Some(format!(
                "provided port is not in the valid range. \
                    The range of valid ports is {first}-{last}"
            )));
        }
        let held =
            !own.contains(&port) && self.objects.get(&ports(), "", &port.to_string())?.is_some();
        Ok(held.then(|| "provided port is already allocated".into()))
    }

    fn free_port(&self, own: &[u16]) -> Result<u16, Status> {
        let range = self.networks.node_ports.clone();
        let is_free = |port: u16| -> Result<bool, Status> {
            Ok(!own.contains(&port) && self.objects.get(&ports(), "", &port.to_string())?.is_none())
        };
        for _ in 0..GUESSES {
            let port = rand::random_range(range.clone());
            if is_free(port)? {
                return Ok(port);
            }
        }
        for port in range {
            if is_free(port)? {
                return Ok(port);
            }
        }
        Err(Status::internal("failed to allocate a nodePort: range is full"))
    }
}

fn take_port(target: &Target, port: u16) -> Write {
    let name = port.to_string();
    let value = json!({
        "kind": "NodePort", "apiVersion": "allocation.kontiki.io/v1", "metadata": {"name": name},
        "spec": {"service": format!("{}/{}", target.namespace, target.name)},
    });
    Write::put(&ports(), "", &name, &value, Revision::ZERO)
}

/// An address that nobody has. The lower ones are left to those who ask for one by name.
fn free_address(
    net: &IpNet,
    held: impl Fn(IpAddr) -> Result<bool, Status>,
) -> Result<IpAddr, Status> {
    let (first, count) = usable(net);
    let reserved = (count / 16).clamp(16.min(count), 256);
    let nth = |number: u128| match net {
        IpNet::V4(_) => {
            IpAddr::from(u32::try_from(first + number).unwrap_or(u32::MAX).to_be_bytes())
        }
        IpNet::V6(_) => IpAddr::from((first + number).to_be_bytes()),
    };
    if count > reserved {
        for _ in 0..GUESSES {
            let ip = nth(rand::random_range(reserved..count));
            if !held(ip)? {
                return Ok(ip);
            }
        }
    }
    let upper = (reserved..count).take(usize::try_from(SCAN_MAX).unwrap_or(usize::MAX));
    for number in upper.chain(0..reserved) {
        let ip = nth(number);
        if !held(ip)? {
            return Ok(ip);
        }
    }
    Err(Status::internal("failed to allocate a serviceIP: range is full"))
}

/// The first address after the network's own, and how many there are.
fn usable(net: &IpNet) -> (u128, u128) {
    let (start, size) = match net {
        IpNet::V4(net) => (u128::from(u32::from(net.network())), 1u128 << (32 - net.prefix_len())),
        IpNet::V6(net) => (u128::from(net.network()), 1u128 << (128 - net.prefix_len()).min(64)),
    };
    // Neither the network's address nor, in IPv4, the one for all.
    let taken = if matches!(net, IpNet::V4(_)) { 2 } else { 1 };
    (start + 1, size.saturating_sub(taken))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_address_of_a_network_is_given_once_and_then_it_is_full() {
        let net: IpNet = "10.0.0.0/27".parse().unwrap();
        let mut given = HashSet::new();
        for _ in 0..30 {
            let ip = free_address(&net, |it| Ok(given.contains(&it))).unwrap();
            assert!(net.contains(&ip) && ip != net.network() && ip != net.broadcast(), "{ip}");
            assert!(given.insert(ip));
        }
        assert!(free_address(&net, |it| Ok(given.contains(&it))).is_err());
    }

    #[test]
    fn a_large_network_leaves_its_lower_band_to_those_who_ask() {
        let net: IpNet = "10.43.0.0/16".parse().unwrap();
        for _ in 0..100 {
            let ip = free_address(&net, |_| Ok(false)).unwrap();
            assert!(ip > "10.43.1.0".parse::<IpAddr>().unwrap(), "{ip}");
        }
    }
}
