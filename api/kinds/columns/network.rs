//! Services and what lies behind and before them.

use serde_json::Value;

use super::cells::{
    age_of, at, cut, labels, list, name, number, or, plain, selector, text, text_or,
};
use super::{AGE, Column, Entry, NAME, column};
use crate::object::time::Timestamp;

pub const TABLE: &[Entry] = &[
    ("", "Service", SERVICE, service),
    ("", "Endpoints", &[NAME, column("Endpoints", 0), AGE], endpoints),
    (
        "discovery.k8s.io",
        "EndpointSlice",
        &[NAME, column("AddressType", 0), column("Ports", 0), column("Endpoints", 0), AGE],
        slice,
    ),
    ("networking.k8s.io", "Ingress", INGRESS, ingress),
    (
        "networking.k8s.io",
        "IngressClass",
        &[NAME, column("Controller", 0), column("Parameters", 0), AGE],
        ingress_class,
    ),
    ("networking.k8s.io", "NetworkPolicy", &[NAME, column("Pod-Selector", 0), AGE], |it, now| {
        vec![name(it), selector(at(it, "/spec/podSelector")).into(), age_of(it, now)]
    }),
    ("networking.k8s.io", "ServiceCIDR", &[NAME, column("CIDRs", 0), AGE], |it, now| {
        let cidrs: Vec<_> = list(it, "/spec/cidrs").iter().map(plain).collect();
        vec![name(it), cidrs.join(",").into(), age_of(it, now)]
    }),
    ("networking.k8s.io", "IPAddress", &[NAME, column("ParentRef", 0), AGE], address),
];

/// Longest list of load balancer addresses.
const BALANCERS_WIDTH: usize = 16;

const SERVICE: &[Column] = &[
    NAME,
    column("Type", 0),
    column("Cluster-IP", 0),
    column("External-IP", 0),
    column("Port(s)", 0),
    AGE,
    column("Selector", 1),
];

fn service(it: &Value, now: Timestamp) -> Vec<Value> {
    let ports: Vec<_> = list(it, "/spec/ports")
        .iter()
        .map(|port| {
            let (number_of, protocol) = (number(port, "/port"), text(port, "/protocol"));
            match number(port, "/nodePort") {
                0 => format!("{number_of}/{protocol}"),
                node => format!("{number_of}:{node}/{protocol}"),
            }
        })
        .collect();
    vec![
        name(it),
        text(it, "/spec/type").into(),
        text_or(it, "/spec/clusterIPs/0", text_or(it, "/spec/clusterIP", "<none>")).into(),
        external(it).into(),
        or(&ports.join(","), "<none>").into(),
        age_of(it, now),
        labels(at(it, "/spec/selector")).into(),
    ]
}

fn external(service: &Value) -> String {
    let own: Vec<_> = list(service, "/spec/externalIPs").iter().map(plain).collect();
    match text(service, "/spec/type") {
        "ClusterIP" | "NodePort" => or(&own.join(","), "<none>").to_owned(),
        "LoadBalancer" => {
            let mut all: Vec<_> =
                Some(balancers(service)).filter(|it| !it.is_empty()).into_iter().collect();
            all.extend(own);
            or(&all.join(","), "<pending>").to_owned()
        }
        "ExternalName" => text(service, "/spec/externalName").to_owned(),
        _ => "<unknown>".into(),
    }
}

/// The addresses of the load balancers, ordered, and cut to fit.
fn balancers(it: &Value) -> String {
    let mut all: Vec<_> = list(it, "/status/loadBalancer/ingress")
        .iter()
        .map(|ingress| text_or(ingress, "/ip", text(ingress, "/hostname")))
        .filter(|address| !address.is_empty())
        .collect();
    all.sort_unstable();
    all.dedup();
    let all = all.join(",");
    match all.char_indices().nth(BALANCERS_WIDTH - 3) {
        Some((at, _)) if all.len() > BALANCERS_WIDTH => format!("{}...", &all[..at]),
        _ => all,
    }
}

fn endpoints(it: &Value, now: Timestamp) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in list(it, "/subsets") {
        let addresses = list(subset, "/addresses").iter().map(|address| text(address, "/ip"));
        let ports = list(subset, "/ports");
        if ports.is_empty() {
            all.extend(addresses.map(str::to_owned));
        } else {
            for port in ports.iter().map(|port| number(port, "/port")) {
                all.extend(addresses.clone().map(|ip| join(ip, port)));
            }
        }
    }
    vec![name(it), or(&cut(&all, 3, ","), "<none>").into(), age_of(it, now)]
}

fn join(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

fn slice(it: &Value, now: Timestamp) -> Vec<Value> {
    let ports: Vec<_> = list(it, "/ports")
        .iter()
        .map(|port| match &port["port"] {
            Value::Null => text_or(port, "/name", "*").to_owned(),
            number => plain(number),
        })
        .collect();
    let addresses: Vec<_> = list(it, "/endpoints")
        .iter()
        .flat_map(|endpoint| list(endpoint, "/addresses").iter().map(plain))
        .collect();
    vec![
        name(it),
        text(it, "/addressType").into(),
        or(&cut(&ports, 3, ","), "<unset>").into(),
        or(&cut(&addresses, 3, ","), "<unset>").into(),
        age_of(it, now),
    ]
}

const INGRESS: &[Column] =
    &[NAME, column("Class", 0), column("Hosts", 0), column("Address", 0), column("Ports", 0), AGE];

fn ingress(it: &Value, now: Timestamp) -> Vec<Value> {
    let hosts: Vec<_> = list(it, "/spec/rules")
        .iter()
        .map(|rule| text(rule, "/host").to_owned())
        .filter(|host| !host.is_empty())
        .collect();
    let tls = !list(it, "/spec/tls").is_empty();
    vec![
        name(it),
        text_or(it, "/spec/ingressClassName", "<none>").into(),
        or(&cut(&hosts, 3, ","), "*").into(),
        balancers(it).into(),
        if tls { "80, 443" } else { "80" }.into(),
        age_of(it, now),
    ]
}

fn ingress_class(it: &Value, now: Timestamp) -> Vec<Value> {
    let parameters = match at(it, "/spec/parameters") {
        Value::Null => "<none>".to_owned(),
        parameters => {
            let (kind, named) = (text(parameters, "/kind"), text(parameters, "/name"));
            match text(parameters, "/apiGroup") {
                "" => format!("{kind}/{named}"),
                group => format!("{kind}.{group}/{named}"),
            }
        }
    };
    let default = "/metadata/annotations/ingressclass.kubernetes.io~1is-default-class";
    vec![
        super::storage::name_with_default(it, &[default]),
        text(it, "/spec/controller").into(),
        parameters.into(),
        age_of(it, now),
    ]
}

fn address(it: &Value, now: Timestamp) -> Vec<Value> {
    let parent = match at(it, "/spec/parentRef") {
        Value::Null => "<none>".to_owned(),
        parent => {
            let mut parts = vec![match text(parent, "/group") {
                "" => text(parent, "/resource").to_lowercase(),
                group => format!("{}.{group}", text(parent, "/resource")).to_lowercase(),
            }];
            parts.extend(Some(text(parent, "/namespace").to_owned()).filter(|it| !it.is_empty()));
            parts.push(text(parent, "/name").to_owned());
            parts.join("/")
        }
    };
    vec![name(it), parent.into(), age_of(it, now)]
}
