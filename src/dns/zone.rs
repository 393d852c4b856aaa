//! What a name of the cluster means. The rules are those of the Kubernetes DNS specification 1.1.0 and, where
//! it is silent, what CoreDNS does.
//!
//! ```text
//! NAME.NS.svc.DOMAIN                  addresses of the service, or of its endpoints if it is headless
//! HOST.NAME.NS.svc.DOMAIN             one endpoint, by its hostname or its address with dashes
//! _PORT._PROTOCOL.NAME.NS.svc.DOMAIN  SRV
//! 10-42-0-7.NS.pod.DOMAIN             the address that it says
//! …in-addr.arpa, …ip6.arpa            PTR
//! ```
//!
//! Keeps: a name that has records of some kind is never said not to exist (`NODATA`, not `NXDOMAIN`: resolvers
//! that ask for both families give up on the latter). Letters' case does not matter, and is answered as asked.
//! Pure: the same view and question give the same answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::records::{Records, addresses, service_of};
use crate::reconcile::Key;

/// The version of the specification.
const VERSION: &str = "1.1.0";
/// How long answers hold; CoreDNS' own choice. A service that is new is seen after this.
const TTL_S: u32 = 5;
/// Weights of SRV records are shares of this.
const WEIGHTS: usize = 100;

/// Which names are ours.
#[derive(Clone, Debug)]
pub struct Zone {
    /// `cluster.local.`
    pub domain: Name,
    /// Where the zone's name server is reached.
    pub server: Vec<IpAddr>,
    /// Addresses of the cluster. That one of them has no name is for us to say.
    pub ranges: Vec<IpNet>,
}

/// What a question comes to.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The name exists. No answers: it has none of this type.
    Found { answers: Vec<Record>, additionals: Vec<Record> },
    /// There is no such name; the zone that says so.
    Missing(Name),
    /// It is another name for what is to be asked next.
    Alias(Record),
    /// It is not ours to answer.
    Elsewhere,
    /// It is ours, but we do not know yet.
    Unknown,
}

/// A service's port as SRV names it.
struct Asked<'a> {
    port: &'a str,
    protocol: &'a str,
}

impl Zone {
    /// `turn` says which of several addresses comes first.
    #[must_use]
    pub fn answer(
        &self,
        records: &dyn Records,
        name: &Name,
        wanted: RecordType,
        turn: usize,
    ) -> Answer {
        if let Some(answer) = self.reverse(records, name, wanted) {
            return answer;
        }
        if !self.domain.zone_of(name) {
            return Answer::Elsewhere;
        }
        let lower = name.to_lowercase();
        let ours = usize::from(lower.num_labels() - self.domain.num_labels());
        let labels: Option<Vec<&str>> =
            lower.iter().take(ours).map(|label| std::str::from_utf8(label).ok()).collect();
        let Some(labels) = labels else { return Answer::Missing(self.domain.clone()) };
        let found = Look { zone: self, records, name, wanted, turn }.look(&labels);
        found.unwrap_or_else(|| Answer::Missing(self.domain.clone()))
    }

    /// The record that goes with an answer that has none.
    #[must_use]
    pub fn authority(&self, zone: Name, serial: u64) -> Record {
        let serial = u32::try_from(serial & u64::from(u32::MAX)).unwrap_or_default();
        let (server, mail) = (self.below("ns.dns"), self.below("hostmaster"));
        let soa = SOA::new(server, mail, serial, 7200, 1800, 86_400, TTL_S);
        Record::from_rdata(zone, TTL_S, RData::SOA(soa))
    }

    /// Names that addresses have; `None` if it is no name of an address that we could know.
    fn reverse(&self, records: &dyn Records, name: &Name, wanted: RecordType) -> Option<Answer> {
        let network = name.parse_arpa_name().ok()?;
        if network.prefix_len() != network.max_prefix_len() {
            return None;
        }
        let address = network.addr();
        let ours = self.ranges.iter().any(|range| range.contains(&address));
        if !records.complete() {
            return ours.then_some(Answer::Unknown);
        }
        let mut names: Vec<Name> = records
            .services_at(address)
            .iter()
            .filter_map(|it| self.service_name(&Key::of(&it.metadata)))
            .collect();
        if names.is_empty() {
            let slices = records.slices_at(address);
            names = slices.iter().flat_map(|slice| self.hosts(records, slice, address)).collect();
            names.sort();
            names.dedup();
        }
        match (names.is_empty(), ours) {
            (true, true) => Some(Answer::Missing(name.trim_to(2))),
            (true, false) => None,
            (false, _) => {
                let names = names
                    .into_iter()
                    .filter(|_| matches!(wanted, RecordType::PTR | RecordType::ANY));
                let record = |it| Record::from_rdata(name.clone(), TTL_S, RData::PTR(PTR(it)));
                Some(Answer::Found {
                    answers: names.map(record).collect(),
                    additionals: Vec::new(),
                })
            }
        }
    }

    /// Names of an endpoint in a headless service.
    fn hosts(&self, records: &dyn Records, slice: &EndpointSlice, address: IpAddr) -> Vec<Name> {
        let Some(key) = service_of(slice) else { return Vec::new() };
        let headless =
            records.service(&key).is_some_and(|it| it.spec.as_ref().is_some_and(is_headless));
        if !headless {
            return Vec::new();
        }
        let hosts = hosts(slice).filter(|host| host.address == address);
        hosts
            .filter_map(|host| self.service_name(&key)?.prepend_label(host.name.as_str()).ok())
            .collect()
    }

    fn service_name(&self, key: &Key) -> Option<Name> {
        let below = Name::from_labels([key.name.as_str(), &key.namespace, "svc"]).ok()?;
        below.append_domain(&self.domain).ok()
    }

    /// A name that was found to fit below the domain when the domain was understood.
    fn below(&self, labels: &str) -> Name {
        let name =
            Name::from_labels(labels.split('.')).and_then(|it| it.append_domain(&self.domain));
        name.unwrap_or_else(|_| self.domain.clone())
    }
}

/// One question about a name of the zone.
struct Look<'a> {
    zone: &'a Zone,
    records: &'a dyn Records,
    name: &'a Name,
    wanted: RecordType,
    turn: usize,
}

impl Look<'_> {
    /// `None`: there is no such name.
    fn look(&self, labels: &[&str]) -> Option<Answer> {
        match labels {
            [] => Some(self.apex()),
            ["svc" | "pod" | "dns"] => Some(nothing()),
            ["dns-version"] => Some(self.text(VERSION)),
            ["ns", "dns"] => Some(self.found(&self.zone.server)),
            _ if !self.records.complete() => Some(Answer::Unknown),
            [namespace, "svc" | "pod"] => self.records.namespace(namespace).then(nothing),
            [address, _, "pod"] => Some(self.found(&[dashed(address)?])),
            [name, namespace, "svc"] => self.service(&Key::new(namespace, name), None),
            [label, name, namespace, "svc"] => {
                let key = Key::new(namespace, name);
                match label.strip_prefix('_') {
                    Some(protocol) => self.protocol(&key, protocol),
                    None => self.host(&key, label),
                }
            }
            [port, protocol, name, namespace, "svc"] => {
                let (port, protocol) = (port.strip_prefix('_')?, protocol.strip_prefix('_')?);
                self.service(&Key::new(namespace, name), Some(&Asked { port, protocol }))
            }
            _ => None,
        }
    }

    fn apex(&self) -> Answer {
        let domain = self.zone.domain.clone();
        let mut answers = Vec::new();
        if matches!(self.wanted, RecordType::SOA | RecordType::ANY) {
            answers.push(self.zone.authority(domain, self.records.revision()));
        }
        if matches!(self.wanted, RecordType::NS | RecordType::ANY) {
            answers.push(self.record(RData::NS(NS(self.zone.below("ns.dns")))));
        }
        Answer::Found { answers, additionals: Vec::new() }
    }

    fn text(&self, text: &str) -> Answer {
        let texts = matches!(self.wanted, RecordType::TXT | RecordType::ANY);
        let record = || self.record(RData::TXT(TXT::new(vec![text.to_owned()])));
        let answers = texts.then(record).into_iter().collect();
        Answer::Found { answers, additionals: Vec::new() }
    }

    fn record(&self, data: RData) -> Record {
        Record::from_rdata(self.name.clone(), TTL_S, data)
    }

    /// The addresses that fit the question, another first each time.
    fn found(&self, all: &[IpAddr]) -> Answer {
        let mut answers = address_records(self.name, all, self.wanted);
        if !answers.is_empty() {
            let first = self.turn % answers.len();
            answers.rotate_left(first);
        }
        Answer::Found { answers, additionals: Vec::new() }
    }

    fn service(&self, key: &Key, asked: Option<&Asked<'_>>) -> Option<Answer> {
        let service = self.records.service(key)?;
        let spec = service.spec.as_ref()?;
        if spec.type_.as_deref() == Some("ExternalName") {
            return if asked.is_none() { self.alias(spec) } else { None };
        }
        if is_headless(spec) {
            self.headless(key, asked)
        } else {
            self.stable(&service, spec, asked)
        }
    }

    fn alias(&self, spec: &ServiceSpec) -> Option<Answer> {
        let mut target = Name::from_ascii(spec.external_name.as_deref()?).ok()?;
        target.set_fqdn(true);
        Some(Answer::Alias(self.record(RData::CNAME(CNAME(target)))))
    }

    /// A service with addresses of its own.
    fn stable(
        &self,
        service: &Service,
        spec: &ServiceSpec,
        asked: Option<&Asked<'_>>,
    ) -> Option<Answer> {
        let own = addresses(spec);
        let ports: Vec<u16> = spec
            .ports
            .iter()
            .flatten()
            .filter(|it| fits(asked, it.name.as_deref(), it.protocol.as_deref()))
            .filter_map(|it| u16::try_from(it.port).ok())
            .collect();
        if asked.is_some() && ports.is_empty() {
            return None;
        }
        if self.wanted != RecordType::SRV {
            return Some(if asked.is_some() { nothing() } else { self.found(&own) });
        }
        let target = self.zone.service_name(&Key::of(&service.metadata))?;
        let targets: Vec<_> = ports.iter().map(|port| (*port, target.clone())).collect();
        Some(self.targets(targets, &[(target, own)]))
    }

    /// A service whose endpoints are its addresses.
    fn headless(&self, key: &Key, asked: Option<&Asked<'_>>) -> Option<Answer> {
        let slices = self.records.slices(key);
        let all = all_hosts(&slices);
        if all.is_empty() {
            return None;
        }
        let mut targets = Vec::new();
        for slice in &slices {
            let ports: Vec<u16> = slice
                .ports
                .iter()
                .flatten()
                .filter(|it| fits(asked, it.name.as_deref(), it.protocol.as_deref()))
                .filter_map(|it| u16::try_from(it.port?).ok())
                .collect();
            for host in hosts(slice) {
                let name = self.zone.service_name(key)?.prepend_label(host.name.as_str()).ok();
                let Some(name) = name else { continue };
                targets.extend(ports.iter().map(|port| (*port, name.clone())));
            }
        }
        targets.sort();
        targets.dedup();
        if asked.is_some() && targets.is_empty() {
            return None;
        }
        if self.wanted != RecordType::SRV {
            let addresses: Vec<_> = all.iter().map(|host| host.address).collect();
            return Some(if asked.is_some() { nothing() } else { self.found(&addresses) });
        }
        let mut known: Vec<(Name, Vec<IpAddr>)> = Vec::new();
        for host in &all {
            let name = self.zone.service_name(key)?.prepend_label(host.name.as_str()).ok();
            let Some(name) = name else { continue };
            match known.iter_mut().find(|(it, _)| *it == name) {
                Some((_, addresses)) => addresses.push(host.address),
                None => known.push((name, vec![host.address])),
            }
        }
        Some(self.targets(targets, &known))
    }

    /// SRV records, and the addresses of what they name.
    fn targets(&self, targets: Vec<(u16, Name)>, known: &[(Name, Vec<IpAddr>)]) -> Answer {
        let weight = u16::try_from((WEIGHTS / targets.len().max(1)).max(1)).unwrap_or(1);
        let additionals = known
            .iter()
            .flat_map(|(name, all)| address_records(name, all, RecordType::ANY))
            .collect();
        let record = |(port, name)| self.record(RData::SRV(SRV::new(0, weight, port, name)));
        Answer::Found { answers: targets.into_iter().map(record).collect(), additionals }
    }

    /// `_tcp.NAME…` has no records, but names below it may have.
    fn protocol(&self, key: &Key, protocol: &str) -> Option<Answer> {
        let service = self.records.service(key)?;
        let ports = service.spec.as_ref()?.ports.as_deref().unwrap_or_default();
        let any = ports.iter().any(|it| {
            it.protocol.as_deref().unwrap_or("TCP").eq_ignore_ascii_case(protocol)
                && it.name.as_ref().is_some_and(|name| !name.is_empty())
        });
        any.then(nothing)
    }

    /// One endpoint of a service, headless or not.
    fn host(&self, key: &Key, name: &str) -> Option<Answer> {
        self.records.service(key)?;
        let slices = self.records.slices(key);
        let hosts = all_hosts(&slices).into_iter().filter(|host| host.name == name);
        let addresses: Vec<_> = hosts.map(|host| host.address).collect();
        (!addresses.is_empty()).then(|| self.found(&addresses))
    }
}

fn nothing() -> Answer {
    Answer::Found { answers: Vec::new(), additionals: Vec::new() }
}

fn is_headless(spec: &ServiceSpec) -> bool {
    spec.type_.as_deref() != Some("ExternalName") && addresses(spec).is_empty()
}

/// Whether a port is asked for. All are if none is named.
fn fits(asked: Option<&Asked<'_>>, name: Option<&str>, protocol: Option<&str>) -> bool {
    asked.is_none_or(|asked| {
        name.is_some_and(|name| !name.is_empty() && name.eq_ignore_ascii_case(asked.port))
            && protocol.unwrap_or("TCP").eq_ignore_ascii_case(asked.protocol)
    })
}

/// An endpoint by the name that it has below its service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Host {
    name: String,
    address: IpAddr,
}

/// Endpoints that are ready, which those are too that a service publishes before.
fn hosts(slice: &EndpointSlice) -> impl Iterator<Item = Host> {
    let ready = |it: &&Endpoint| it.conditions.as_ref().and_then(|it| it.ready).unwrap_or(true);
    slice.endpoints.iter().flatten().filter(ready).flat_map(|endpoint| {
        endpoint.addresses.iter().filter_map(|text| {
            let address: IpAddr = text.parse().ok()?;
            let hostname = endpoint.hostname.as_ref().filter(|name| !name.is_empty());
            let name = match hostname {
                Some(name) => name.to_ascii_lowercase(),
                None => address.to_string().replace(['.', ':'], "-"),
            };
            Some(Host { name, address })
        })
    })
}

fn all_hosts(slices: &[Arc<EndpointSlice>]) -> Vec<Host> {
    let mut all: Vec<_> = slices.iter().flat_map(|slice| hosts(slice)).collect();
    all.sort();
    all.dedup();
    all
}

/// The address that a pod's name says: `10-42-0-7`, `fd00--7`.
fn dashed(text: &str) -> Option<IpAddr> {
    let four = text.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
    four.or_else(|_| text.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6)).ok()
}

fn address_records(name: &Name, all: &[IpAddr], wanted: RecordType) -> Vec<Record> {
    let mut all = all.to_vec();
    all.sort();
    all.dedup();
    let data = all.into_iter().filter_map(|address| match address {
        IpAddr::V4(it) if matches!(wanted, RecordType::A | RecordType::ANY) => {
            Some(RData::A(A(it)))
        }
        IpAddr::V6(it) if matches!(wanted, RecordType::AAAA | RecordType::ANY) => {
            Some(RData::AAAA(AAAA(it)))
        }
        _ => None,
    });
    data.map(|data| Record::from_rdata(name.clone(), TTL_S, data)).collect()
}
