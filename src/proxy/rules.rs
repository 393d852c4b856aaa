//! The rules that services and their endpoints come to on this node.
//!
//! A packet to a service is looked up once, in a map by address, protocol and port, whatever the number of
//! services; the chain that the map leads to throws a die over the endpoints. Words end in `4` or `6`, the
//! family:
//!
//! ```text
//! services ─ service-ips4 ──► cluster4/NS/NAME/tcp/80     any endpoint of the cluster
//!          │                  local4/NS/NAME/tcp/80       one on this node
//!          └ service-ports4 ► external4/NS/NAME/tcp/80    from outside: by policy, then as above
//!                             endpoint4/…/ADDRESS/PORT    with affinity: remembers the client
//! ```
//!
//! Keeps: the same view gives the same rules. A service that leads nowhere is refused in words (`reject`); one
//! that leads nowhere from here because it said `Local` is silent (`drop`), as load balancers expect.
//! Never: rules for addresses that this node answers itself ([`Settings::own`]).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::endpoints::{Choice, Slices};
use super::family::{Family, Protocol};
use super::flows::{Target, Udp};
use super::health::Health;
use super::ruleset::{Kind, Ruleset, Set};
use super::services::{self, Port, Reach};
use super::{Bridged, Leaving, Place, Served, Settings};

/// The bit of a packet's mark that says it is to be masqueraded; upstream's.
const MASQUERADE: &str = "0x4000";
const MARK: &str = "meta mark set meta mark or 0x4000";
const REJECT: &str = "goto refused";
const DROP: &str = "drop";

/// All that a view of the cluster comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    pub ruleset: Ruleset,
    /// Where packets without connections are led.
    pub udp: Udp,
    /// What load balancers that ask are told.
    pub health: BTreeMap<u16, Health>,
    /// Pods of this node that are led to, from here or from elsewhere.
    pub served: Served,
}

/// What the cluster's state comes to at this place.
#[must_use]
pub fn rules(
    services: &[Arc<Service>],
    slices: &[Arc<EndpointSlice>],
    place: &Place,
    settings: &Settings,
) -> Rules {
    let slices = Slices::new(slices);
    let served = slices.served_here(place);
    let mut rules = Rules { ruleset: frame(place, settings), served, ..Rules::default() };
    for service in services {
        let ports = services::ports(service);
        for port in ports.iter().filter(|port| !settings.own.contains(&port.cluster_ip)) {
            let choice = slices.choose(port, place);
            let mut writer = Writer { rules: &mut rules.ruleset, port, choice: &choice };
            writer.write(&place.addresses);
            if port.protocol == Protocol::Udp {
                note_targets(&mut rules.udp, port, &choice);
            }
        }
        let asked = ports.first().and_then(|port| Some((port, port.health_port?)));
        if let Some((port, number)) = asked.filter(|(port, _)| port.external == Reach::Local) {
            let ready = slices.ready_here(&port.service, place);
            rules.health.insert(number, Health { service: port.service.clone(), ready });
        }
    }
    rules
}

/// What stands whatever the services are.
fn frame(place: &Place, settings: &Settings) -> Ruleset {
    let mut rules = Ruleset::default();
    rules.chain("refused").rule("reject");
    let hooks = [
        ("before-services-in", "type filter hook prerouting priority -110; policy accept;"),
        ("before-services-out", "type filter hook output priority -110; policy accept;"),
        ("services-in", "type nat hook prerouting priority -100; policy accept;"),
        ("services-out", "type nat hook output priority -100; policy accept;"),
        ("filter-input", "type filter hook input priority 0; policy accept;"),
        ("filter-forward", "type filter hook forward priority 0; policy accept;"),
        ("filter-output", "type filter hook output priority 0; policy accept;"),
        ("leaving", "type nat hook postrouting priority 100; policy accept;"),
    ];
    for (name, hook) in hooks {
        rules.chain(name).hook = Some(hook);
    }
    for chain in ["before-services-in", "before-services-out"] {
        rules.chain(chain).rule("ct state new jump sources");
    }
    for chain in ["services-in", "services-out"] {
        rules.chain(chain).rule("jump services");
    }
    rules.chain("filter-input").rule("ct state new jump silent-ports");
    for chain in ["filter-input", "filter-forward", "filter-output"] {
        rules.chain(chain).rule("ct state new jump silent-services");
    }
    for chain in ["filter-forward", "filter-output"] {
        rules.chain(chain).rule("ct state new jump unknown-services");
    }
    rules.chain("leaving").rule(format!(
        "meta mark and {MASQUERADE} != 0 meta mark set meta mark xor {MASQUERADE} \
         masquerade fully-random"
    ));
    Family::ALL.into_iter().for_each(|family| frame_of(&mut rules, family, place, settings));
    rules
}

fn frame_of(rules: &mut Ruleset, family: Family, place: &Place, settings: &Settings) {
    let (ip, digit, address) = (family.ip(), family.digit(), family.set_type());
    let service = format!("type {address} . inet_proto . inet_service : verdict;");
    let port = "type inet_proto . inet_service : verdict;";
    let pair = format!("type {address} . {address} . inet_proto . inet_service;");
    let interval = format!("type {address}; flags interval;");
    rules.declare(format!("pods{digit}"), Kind::Set, interval);
    let pods = family.networks(&settings.cluster_cidrs);
    for network in &pods {
        rules.put(&format!("pods{digit}"), network.to_string(), String::new());
    }
    rules.declare(format!("cluster-ips{digit}"), Kind::Set, format!("type {address};"));
    rules.declare(format!("hairpins{digit}"), Kind::Set, pair);
    rules.declare(format!("service-ips{digit}"), Kind::Map, service.clone());
    rules.declare(format!("service-ports{digit}"), Kind::Map, port);
    rules.declare(format!("silent-ips{digit}"), Kind::Map, service.clone());
    rules.declare(format!("silent-ports{digit}"), Kind::Map, port);
    rules.declare(format!("source-ips{digit}"), Kind::Map, service);

    let by_service = format!("{ip} daddr . meta l4proto . th dport vmap");
    let by_port = format!("{ip} daddr != {} meta l4proto . th dport vmap", family.loopback());
    let services = rules.chain("services");
    if !pods.is_empty() {
        // Who sends from elsewhere to an address that exists only here must get the answer from here.
        let outside = format!("{ip} daddr @cluster-ips{digit} {ip} saddr != @pods{digit}");
        services.rule(format!("{outside} {MARK}"));
    }
    services.rule(format!("{by_service} @service-ips{digit}"));
    services.rule(format!("fib daddr type local {by_port} @service-ports{digit}"));
    rules.chain("sources").rule(format!("{by_service} @source-ips{digit}"));
    rules.chain("silent-services").rule(format!("{by_service} @silent-ips{digit}"));
    rules.chain("silent-ports").rule(format!("{by_port} @silent-ports{digit}"));
    let unknown = rules.chain("unknown-services");
    for own in settings.own.iter().filter(|it| Family::of(it) == family) {
        unknown.rule(format!("{ip} daddr {own} return"));
    }
    unknown.rule(format!("{ip} daddr @cluster-ips{digit} reject"));
    for network in family.networks(&settings.service_cidrs) {
        // Nobody has this address: it must not wander off to the default route.
        unknown.rule(format!("{ip} daddr {network} drop"));
    }

    let leaving = rules.chain("leaving");
    let met = format!("ct status dnat {ip} saddr . {ip} daddr . meta l4proto . th dport");
    leaving.rule(format!("{met} @hairpins{digit} masquerade fully-random"));
    if settings.bridged == Bridged::Unseen {
        for here in family.networks(&place.pods) {
            // Answers between pods on one bridge would not come by here, and not be translated back.
            leaving.rule(format!(
                "ct status dnat {ip} saddr {here} {ip} daddr {here} masquerade fully-random"
            ));
        }
    }
    if settings.leaving == Leaving::Masqueraded && !pods.is_empty() {
        let away = format!("{ip} daddr != @pods{digit} {ip} daddr != {}", family.multicast());
        leaving.rule(format!("{ip} saddr @pods{digit} {away} masquerade fully-random"));
    }
}

/// Writes what one port comes to.
struct Writer<'a> {
    rules: &'a mut Ruleset,
    port: &'a Port,
    choice: &'a Choice,
}

impl Writer<'_> {
    fn write(&mut self, node: &[IpAddr]) {
        let (port, choice) = (self.port, self.choice);
        let digit = port.family.digit();
        self.rules.put(&format!("cluster-ips{digit}"), port.cluster_ip.to_string(), String::new());
        for address in &choice.here {
            let key = format!(
                "{0} . {0} . {1} . {2}",
                address.ip(),
                port.protocol.word(),
                address.port()
            );
            self.rules.put(&format!("hairpins{digit}"), key, String::new());
        }
        let cluster = self.endpoints("cluster", &choice.cluster);
        let local = self.endpoints("local", &choice.local);
        let internal = match port.internal {
            Reach::Cluster => cluster.as_ref(),
            Reach::Local => local.as_ref(),
        };
        self.service(port.cluster_ip, internal.cloned(), internal.is_none());
        if !port.is_open() {
            return;
        }
        let behind = match port.external {
            Reach::Cluster => cluster.as_ref(),
            Reach::Local => local.as_ref(),
        };
        let silent = behind.is_none();
        let external = choice.anywhere.then(|| self.external(cluster.as_deref(), behind));
        let open = [port.external_ips.as_slice(), port.balancers.as_slice()].concat();
        for address in open {
            self.service(address, external.clone(), silent);
        }
        if let Some(number) = port.node_port {
            let key = format!("{} . {number}", port.protocol.word());
            if let Some(chain) = &external {
                let map = format!("service-ports{digit}");
                self.rules.put(&map, key.clone(), format!("goto {chain}"));
            }
            if silent {
                self.rules.put(&format!("silent-ports{digit}"), key, self.refusal().into());
            }
        }
        self.sources(node);
    }

    /// Leads an address of the service to `chain`; what gets past that ends here if it is to be `silent`.
    fn service(&mut self, address: IpAddr, chain: Option<String>, silent: bool) {
        let digit = self.port.family.digit();
        let key = self.key(address);
        if let Some(chain) = chain {
            let map = format!("service-ips{digit}");
            self.rules.put(&map, key.clone(), format!("goto {chain}"));
        }
        if silent {
            self.rules.put(&format!("silent-ips{digit}"), key, self.refusal().into());
        }
    }

    fn key(&self, address: IpAddr) -> String {
        format!("{address} . {} . {}", self.port.protocol.word(), self.port.number)
    }

    fn refusal(&self) -> &'static str {
        if self.choice.anywhere { DROP } else { REJECT }
    }

    fn chain_name(&self, word: &str) -> String {
        format!("{word}{}/{}", self.port.family.digit(), self.port.path())
    }

    /// The chain that chooses one of `all`; none if there is nothing to choose.
    fn endpoints(&mut self, word: &str, all: &[SocketAddr]) -> Option<String> {
        if all.is_empty() {
            return None;
        }
        let name = self.chain_name(word);
        let rules = match self.port.affinity_s {
            None => vec![self.dice(all)],
            Some(seconds) => self.affinity(all, seconds),
        };
        self.rules.chain(name.clone()).rules = rules;
        Some(name)
    }

    fn dice(&self, all: &[SocketAddr]) -> String {
        let (protocol, ip) = (self.port.protocol.word(), self.port.family.ip());
        let sides = all.iter().enumerate();
        let sides: Vec<_> =
            sides.map(|(side, it)| format!("{side} : {} . {}", it.ip(), it.port())).collect();
        format!(
            "meta l4proto {protocol} dnat {ip} addr . port to numgen random mod {} map {{ {} }}",
            all.len(),
            sides.join(", ")
        )
    }

    /// Who was at an endpoint lately goes there again; others throw the die. Each endpoint has a chain that
    /// remembers the client.
    fn affinity(&mut self, all: &[SocketAddr], seconds: u32) -> Vec<String> {
        let (family, protocol) = (self.port.family, self.port.protocol.word());
        let ip = family.ip();
        let (mut rules, mut sides) = (Vec::new(), Vec::new());
        for (side, endpoint) in all.iter().enumerate() {
            // A name may have no colons.
            let address = endpoint.ip().to_string().replace(':', ".");
            let place = format!("{address}/{}", endpoint.port());
            let chain = format!("{}/{place}", self.chain_name("endpoint"));
            let set = format!("{}/{place}/{seconds}", self.chain_name("clients"));
            let declaration =
                format!("type {}; flags dynamic, timeout; timeout {seconds}s;", family.set_type());
            let clients = Set { kind: Kind::Set, declaration, elements: None };
            self.rules.sets.insert(set.clone(), clients);
            rules.push(format!("{ip} saddr @{set} goto {chain}"));
            sides.push(format!("{side} : goto {chain}"));
            let to = format!("meta l4proto {protocol} dnat {ip} to {endpoint}");
            self.rules.chain(chain).rules = vec![format!("update @{set} {{ {ip} saddr }}"), to];
        }
        let count = all.len();
        rules.push(format!("numgen random mod {count} vmap {{ {} }}", sides.join(", ")));
        rules
    }

    /// The chain for what comes from outside.
    fn external(&mut self, cluster: Option<&str>, behind: Option<&String>) -> String {
        let name = self.chain_name("external");
        let mut rules = Vec::new();
        if self.port.external == Reach::Cluster {
            rules.push(MARK.to_owned());
        } else if let Some(cluster) = cluster {
            // What begins on this node has not come from outside: it may go to any endpoint, as if it had gone
            // out to a load balancer and come back.
            let pods = format!("{} saddr @pods{}", self.port.family.ip(), self.port.family.digit());
            rules.push(format!("{pods} goto {cluster}"));
            rules.push(format!("fib saddr type local {MARK}"));
            rules.push(format!("fib saddr type local goto {cluster}"));
        }
        rules.extend(behind.map(|chain| format!("goto {chain}")));
        self.rules.chain(name.clone()).rules = rules;
        name
    }

    /// Who may come by a load balancer.
    fn sources(&mut self, node: &[IpAddr]) {
        let port = self.port;
        if port.sources.is_empty() || port.balancers.is_empty() {
            return;
        }
        let mut allowed = port.sources.clone();
        // A balancer's address may be this node's too, and then it is the source of what the node sends.
        if node.iter().any(|address| port.sources.iter().any(|net| net.contains(address))) {
            allowed.extend(port.balancers.iter().map(|address| IpNet::from(*address)));
        }
        let allowed = port.family.networks(&allowed);
        let allowed: Vec<_> = allowed.iter().map(ToString::to_string).collect();
        let allowed = allowed.join(", ");
        let name = self.chain_name("sources");
        let rule = format!("{} saddr != {{ {allowed} }} drop", port.family.ip());
        self.rules.chain(name.clone()).rules = vec![rule];
        for address in &port.balancers {
            let map = format!("source-ips{}", port.family.digit());
            self.rules.put(&map, self.key(*address), format!("goto {name}"));
        }
    }
}

fn note_targets(udp: &mut Udp, port: &Port, choice: &Choice) {
    let all: BTreeSet<SocketAddr> = choice.all().into_iter().collect();
    let addresses = [port.external_ips.as_slice(), port.balancers.as_slice()].concat();
    let addresses = addresses.into_iter().chain([port.cluster_ip]);
    for address in addresses {
        udp.insert(Target::Service(SocketAddr::new(address, port.number)), all.clone());
    }
    if let Some(number) = port.node_port {
        udp.insert(Target::NodePort(port.family, number), all);
    }
}
