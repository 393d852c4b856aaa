//! What services ask of the proxy: one [`Port`] for each of their ports and families.
//!
//! Keeps: what cannot be understood is left out, as if it had not been asked for; the API has validated it.
//! Never: looks at endpoints.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};

use super::family::{Family, Protocol};
use crate::reconcile::Key;

/// Says that another proxy serves this service.
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";
/// What the API gives a service with affinity that does not say how long.
const AFFINITY_S: u32 = 10_800;

/// Which endpoints may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    Cluster,
    /// Those on this node alone.
    Local,
}

/// One port of a service, in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    pub service: Key,
    pub family: Family,
    /// How slices name it; may be empty.
    pub name: String,
    pub protocol: Protocol,
    pub number: u16,
    pub node_port: Option<u16>,
    pub cluster_ip: IpAddr,
    pub external_ips: Vec<IpAddr>,
    /// Addresses of load balancers whose traffic comes here undisguised.
    pub balancers: Vec<IpAddr>,
    /// Who may come by a load balancer; empty: anybody.
    pub sources: Vec<IpNet>,
    pub internal: Reach,
    pub external: Reach,
    /// How long a client stays with its endpoint.
    pub affinity_s: Option<u32>,
    /// Where a load balancer asks whether this node has endpoints.
    pub health_port: Option<u16>,
}

impl Port {
    /// Whether it is reached from without the cluster.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.node_port.is_some() || !self.external_ips.is_empty() || !self.balancers.is_empty()
    }

    /// Whether endpoints of the whole cluster are ever chosen from. Where the outside is served by this node's
    /// alone they still are for what begins here, which counts as having come from inside.
    #[must_use]
    pub fn uses_cluster(&self) -> bool {
        self.internal == Reach::Cluster || self.is_open()
    }

    /// Whether endpoints of this node alone are ever chosen from.
    #[must_use]
    pub fn uses_local(&self) -> bool {
        self.internal == Reach::Local || (self.external == Reach::Local && self.is_open())
    }

    /// `NAMESPACE/NAME/PROTOCOL/NUMBER`: what names of chains and sets are made of.
    #[must_use]
    pub fn path(&self) -> String {
        let Key { namespace, name } = &self.service;
        format!("{namespace}/{name}/{}/{}", self.protocol.word(), self.number)
    }
}

/// What a service asks for; nothing if it is headless, an alias, or another proxy's.
#[must_use]
pub fn ports(service: &Service) -> Vec<Port> {
    let labels = service.metadata.labels.as_ref();
    let others = labels.is_some_and(|labels| labels.contains_key(OTHER_PROXY));
    let Some(spec) = service.spec.as_ref().filter(|_| !others) else { return Vec::new() };
    if spec.type_.as_deref() == Some("ExternalName") {
        return Vec::new();
    }
    let listed = spec.ports.as_deref().unwrap_or_default();
    let mut found = Vec::new();
    for address in cluster_ips(spec) {
        found.extend(listed.iter().filter_map(|port| read(service, spec, address, port)));
    }
    found
}

fn cluster_ips(spec: &ServiceSpec) -> Vec<IpAddr> {
    let all = spec.cluster_ips.as_deref().unwrap_or_default();
    let all = if all.is_empty() { spec.cluster_ip.as_slice() } else { all };
    // `None` is no address: the service is headless.
    addresses(all)
}

fn addresses(texts: &[String]) -> Vec<IpAddr> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

fn read(
    service: &Service,
    spec: &ServiceSpec,
    cluster_ip: IpAddr,
    port: &ServicePort,
) -> Option<Port> {
    let family = Family::of(&cluster_ip);
    let ours = |all: Vec<IpAddr>| -> Vec<IpAddr> {
        all.into_iter().filter(|address| Family::of(address) == family).collect()
    };
    let number = |it: Option<i32>| it.and_then(|it| u16::try_from(it).ok()).filter(|it| *it > 0);
    let policy = |text: &Option<String>| match text.as_deref() {
        Some("Local") => Reach::Local,
        _ => Reach::Cluster,
    };
    let sources = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    let sources = sources.iter().filter_map(|text| text.trim().parse::<IpNet>().ok());
    let affinity = spec.session_affinity.as_deref() == Some("ClientIP");
    let config = spec.session_affinity_config.as_ref();
    let seconds = config.and_then(|it| it.client_ip.as_ref()?.timeout_seconds);
    let seconds = seconds.and_then(|it| u32::try_from(it).ok()).unwrap_or(AFFINITY_S);
    Some(Port {
        service: Key::of(&service.metadata),
        family,
        name: port.name.clone().unwrap_or_default(),
        protocol: Protocol::parse(port.protocol.as_deref())?,
        number: number(Some(port.port))?,
        node_port: number(port.node_port),
        cluster_ip,
        external_ips: ours(addresses(spec.external_ips.as_deref().unwrap_or_default())),
        balancers: ours(balancers(service)),
        sources: sources.filter(|net| Family::of(&net.addr()) == family).collect(),
        internal: policy(&spec.internal_traffic_policy),
        external: policy(&spec.external_traffic_policy),
        affinity_s: affinity.then_some(seconds),
        health_port: number(spec.health_check_node_port),
    })
}

/// Addresses of load balancers that hand packets on as they are. Those that say `Proxy` speak to node ports.
fn balancers(service: &Service) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|it| it.load_balancer.as_ref());
    let ingress = status.and_then(|it| it.ingress.as_deref()).unwrap_or_default();
    ingress
        .iter()
        .filter(|it| it.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|it| it.ip.as_deref()?.parse().ok())
        .collect()
}
