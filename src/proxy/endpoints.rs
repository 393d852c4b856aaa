//! Which endpoints a port may lead to from this node.
//!
//! Keeps: ready endpoints first; where there is none, those that are ending but still serve. Traffic stays on
//! the node, or in the zone, if every ready endpoint has a hint and at least one is meant for here.
//! Pure: the same slices give the same choice, in the same order.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint as Listed, EndpointSlice};

use super::family::{Family, Protocol};
use super::services::Port;
use super::{Place, Served};
use crate::reconcile::Key;

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// How fit an endpoint is, the best last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fitness {
    /// It is not to be used.
    None,
    /// It ends, but serves until then.
    Ending,
    Ready,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub fitness: Fitness,
    /// On this node.
    pub here: bool,
    pub zones: Vec<String>,
    pub nodes: Vec<String>,
}

/// What a port may lead to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// From the whole cluster; empty if that is never asked for.
    pub cluster: Vec<SocketAddr>,
    /// From this node; empty if that is never asked for.
    pub local: Vec<SocketAddr>,
    /// Those of both that are on this node: they may meet themselves.
    pub here: Vec<SocketAddr>,
    /// There is an endpoint somewhere, if not for this node.
    pub anywhere: bool,
}

impl Choice {
    /// All that are led to, once each.
    #[must_use]
    pub fn all(&self) -> Vec<SocketAddr> {
        let mut all = [self.cluster.as_slice(), self.local.as_slice()].concat();
        all.sort();
        all.dedup();
        all
    }
}

/// Slices by the service that they belong to.
pub struct Slices<'a>(HashMap<Key, Vec<&'a EndpointSlice>>);

impl<'a> Slices<'a> {
    #[must_use]
    pub fn new(all: &'a [Arc<EndpointSlice>]) -> Slices<'a> {
        let mut found: HashMap<Key, Vec<&EndpointSlice>> = HashMap::new();
        for slice in all {
            let labels = slice.metadata.labels.as_ref();
            let Some(service) = labels.and_then(|labels| labels.get(SERVICE_NAME)) else {
                continue;
            };
            let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
            found.entry(Key::new(namespace, service)).or_default().push(slice);
        }
        Slices(found)
    }

    /// What the port leads to, seen from `place`.
    #[must_use]
    pub fn choose(&self, port: &Port, place: &Place) -> Choice {
        let slices = self.0.get(&port.service).map(Vec::as_slice).unwrap_or_default();
        choose(&endpoints(slices, port, place), port, place)
    }

    /// Addresses of this node's pods that some service has as ready and not about to end.
    #[must_use]
    pub fn served_here(&self, place: &Place) -> Served {
        let listed = self.0.values().flatten().flat_map(|slice| slice.endpoints.iter().flatten());
        let served = listed
            .filter(|it| is_here(it, place) && fitness(it) == Fitness::Ready && !is_ending(it));
        served.flat_map(|it| it.addresses.iter().filter_map(|text| text.parse().ok())).collect()
    }

    /// How many pods of the service are ready on this node, whatever their ports.
    #[must_use]
    pub fn ready_here(&self, service: &Key, place: &Place) -> usize {
        let slices = self.0.get(service).map(Vec::as_slice).unwrap_or_default();
        let listed = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
        let ready = listed.filter(|it| is_here(it, place) && fitness(it) == Fitness::Ready);
        let mut addresses: Vec<_> = ready.filter_map(|it| it.addresses.first()).collect();
        addresses.sort();
        addresses.dedup();
        addresses.len()
    }
}

/// The pod has been told to end, whatever else is said of it.
fn is_ending(listed: &Listed) -> bool {
    listed.conditions.as_ref().and_then(|it| it.terminating) == Some(true)
}

fn is_here(listed: &Listed, place: &Place) -> bool {
    listed.node_name.as_deref() == Some(place.node.as_str())
}

fn fitness(listed: &Listed) -> Fitness {
    let conditions = listed.conditions.as_ref();
    let is = |of: fn(&k8s_openapi::api::discovery::v1::EndpointConditions) -> Option<bool>| {
        conditions.and_then(of)
    };
    // Not said is to be taken as ready; and serving is what ready says, where it is not said.
    let ready = is(|it| it.ready).unwrap_or(true);
    let serving = is(|it| it.serving).unwrap_or(ready);
    match ready {
        true => Fitness::Ready,
        false if serving && is(|it| it.terminating).unwrap_or(false) => Fitness::Ending,
        false => Fitness::None,
    }
}

/// The endpoints of a port; one that two slices list counts as what is better of it.
fn endpoints(
    slices: &[&EndpointSlice],
    port: &Port,
    place: &Place,
) -> BTreeMap<SocketAddr, Endpoint> {
    let mut found: BTreeMap<SocketAddr, Endpoint> = BTreeMap::new();
    for slice in slices {
        if slice.address_type != port.family.address_type() {
            continue;
        }
        let ports = slice.ports.iter().flatten().filter(|it| {
            it.name.as_deref().unwrap_or_default() == port.name
                && Protocol::parse(it.protocol.as_deref()) == Some(port.protocol)
        });
        let numbers = ports.filter_map(|it| u16::try_from(it.port?).ok()).filter(|it| *it > 0);
        for number in numbers {
            for listed in slice.endpoints.iter().flatten() {
                // All addresses of an endpoint are the same thing; consumers take the first.
                let Some(address) = listed.addresses.first().and_then(|it| it.parse().ok()) else {
                    continue;
                };
                if !may_be(&address, port.family) {
                    continue;
                }
                let fresh = read(listed, place);
                let kept =
                    found.entry(SocketAddr::new(address, number)).or_insert_with(|| fresh.clone());
                if kept.fitness < fresh.fitness {
                    *kept = fresh;
                }
            }
        }
    }
    found
}

/// Whether packets of others can be led there.
fn may_be(address: &IpAddr, family: Family) -> bool {
    Family::of(address) == family && !address.is_unspecified() && !address.is_multicast()
}

fn read(listed: &Listed, place: &Place) -> Endpoint {
    let hints = listed.hints.as_ref();
    let zones = hints.and_then(|it| it.for_zones.as_deref()).unwrap_or_default();
    let nodes = hints.and_then(|it| it.for_nodes.as_deref()).unwrap_or_default();
    Endpoint {
        fitness: fitness(listed),
        here: is_here(listed, place),
        zones: zones.iter().map(|it| it.name.clone()).collect(),
        nodes: nodes.iter().map(|it| it.name.clone()).collect(),
    }
}

/// Which endpoints are near enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Near {
    Anywhere,
    Node,
    Zone,
}

fn choose(all: &BTreeMap<SocketAddr, Endpoint>, port: &Port, place: &Place) -> Choice {
    let pick = |wanted: &dyn Fn(&Endpoint) -> bool| -> Vec<SocketAddr> {
        all.iter().filter(|(_, it)| wanted(it)).map(|(address, _)| *address).collect()
    };
    // The best that is there, of those that may be taken.
    let best = |may: &dyn Fn(&Endpoint) -> bool| -> Vec<SocketAddr> {
        let ready = pick(&|it| it.fitness == Fitness::Ready && may(it));
        if ready.is_empty() { pick(&|it| it.fitness == Fitness::Ending && may(it)) } else { ready }
    };
    let near = nearness(all, place);
    let is_near = |it: &Endpoint| match near {
        Near::Anywhere => true,
        Near::Node => it.nodes.contains(&place.node),
        Near::Zone => place.zone.as_ref().is_some_and(|zone| it.zones.contains(zone)),
    };
    let cluster = if port.uses_cluster() { best(&is_near) } else { Vec::new() };
    let local = if port.uses_local() { best(&|it| it.here) } else { Vec::new() };
    let mut choice = Choice {
        cluster,
        local,
        here: Vec::new(),
        anywhere: all.values().any(|it| it.fitness > Fitness::None),
    };
    choice.here = choice.all().into_iter().filter(|it| all[it].here).collect();
    choice
}

/// Hints count only where every ready endpoint has one and one at least is for here: else a pod that nobody
/// was told of, or a zone without pods, would be left alone.
fn nearness(all: &BTreeMap<SocketAddr, Endpoint>, place: &Place) -> Near {
    let ready: Vec<_> = all.values().filter(|it| it.fitness == Fitness::Ready).collect();
    let hinted = |of: fn(&Endpoint) -> &Vec<String>, here: &str| {
        !ready.is_empty()
            && ready.iter().all(|it| !of(it).is_empty())
            && ready.iter().any(|it| of(it).iter().any(|name| name == here))
    };
    if hinted(|it| &it.nodes, &place.node) {
        Near::Node
    } else if place.zone.as_ref().is_some_and(|zone| hinted(|it| &it.zones, zone)) {
        Near::Zone
    } else {
        Near::Anywhere
    }
}
