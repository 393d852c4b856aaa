//! Ingresses, network policies and endpoints.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::field::IMMUTABLE;
use super::{Field, Found};
use crate::error::Cause;
use crate::object::names::{bad_path_segment, bad_subdomain};
use crate::schema::causes;

const PROTOCOLS: &[&str] = &["TCP", "UDP", "SCTP"];
const CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

pub(super) fn ingress(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let spec = Field::of(object).at("spec");
    let (rules, default) = (spec.at("rules"), spec.at("defaultBackend"));
    if rules.is_empty() && !default.is_set() {
        let why = "either `defaultBackend` or `rules` must be specified";
        found.push(causes::invalid(&spec.path, rules.value, why));
    }
    if default.is_set() {
        check_backend(&default, &mut found);
    }
    for rule in rules.items() {
        let host = rule.at("host");
        if host.text().parse::<IpAddr>().is_ok() {
            found.push(host.invalid("must be a DNS name, not an IP address"));
        }
        check_host(&host, &mut found);
        if rule.at("http").is_set() {
            let paths = rule.at("http.paths");
            if paths.is_empty() {
                found.push(paths.required(""));
            }
            for path in paths.items() {
                check_path(&path, &mut found);
            }
        }
    }
    for tls in spec.at("tls").items() {
        for host in tls.at("hosts").items() {
            check_host(&host, &mut found);
        }
        let secret = tls.at("secretName");
        if !secret.is_empty() {
            secret.must_be_subdomain(&mut found);
        }
    }
    let class = spec.at("ingressClassName");
    if class.is_set() {
        class.must_be_subdomain(&mut found);
    }
    found
}

fn check_host(host: &Field<'_>, found: &mut Found) {
    if host.is_empty() {
        return;
    }
    match host.text().strip_prefix("*.") {
        None if host.text().contains('*') => found.push(host.invalid(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS \
             subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and \
             end with an alphanumeric character (e.g. '*.example.com', regex used for \
             validation is \
             '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
        )),
        None => host.must_be_subdomain(found),
        Some(rest) => {
            if let Some(why) = bad_subdomain(rest) {
                found.push(host.invalid(&why));
            }
        }
    }
}

fn check_path(at: &Field<'_>, found: &mut Found) {
    let (kind, path) = (at.at("pathType"), at.at("path"));
    let is_absolute = path.text().starts_with('/');
    match kind.text() {
        "" => {
            found.push(kind.required("pathType must be specified"));
            return;
        }
        "Exact" | "Prefix" => {
            if !is_absolute {
                found.push(path.invalid("must be an absolute path"));
            }
            for bad in ["//", "/./", "/../", "%2f", "%2F"] {
                if path.text().contains(bad) {
                    found.push(path.invalid(&format!("must not contain '{bad}'")));
                }
            }
            for bad in ["/..", "/."] {
                if path.text().ends_with(bad) {
                    found.push(path.invalid(&format!("cannot end with '{bad}'")));
                }
            }
        }
        "ImplementationSpecific" => {
            if !path.is_empty() && !is_absolute {
                found.push(path.invalid("must be an absolute path"));
            }
        }
        _ => found.push(kind.unsupported(&["Exact", "ImplementationSpecific", "Prefix"])),
    }
    check_backend(&at.at("backend"), found);
}

fn check_backend(backend: &Field<'_>, found: &mut Found) {
    let (resource, service) = (backend.at("resource"), backend.at("service"));
    let nothing = Value::from("");
    match (resource.is_set(), service.is_set()) {
        (true, true) => found.push(causes::invalid(
            &backend.path,
            &nothing,
            "cannot set both resource and service backends",
        )),
        (false, false) => found.push(backend.required("port name or number is required")),
        (true, false) => {
            resource.at("kind").must_not_be_empty(found);
            resource.at("name").must_not_be_empty(found);
        }
        (false, true) => {
            let name = service.at("name");
            if name.is_empty() {
                found.push(name.required(""));
            } else {
                name.must_be_label(found);
            }
            let (port, number) = (service.at("port.name"), service.at("port.number"));
            match (!port.is_empty(), number.number().unwrap_or_default() != 0) {
                (true, true) => {
                    found.push(causes::invalid(
                        &backend.path,
                        &nothing,
                        "cannot set both port name & port number",
                    ));
                }
                (false, false) => found.push(backend.required("port name or number is required")),
                (true, false) => port.must_be_port_name(found),
                (false, true) => number.must_be_port(found),
            }
        }
    }
}

pub(super) fn ingress_class(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let controller = Field::of(object).at("spec.controller");
    if controller.text().len() > 250 {
        found.push(causes::too_long(&controller.path, 250));
    }
    if controller.is_empty() {
        found.push(controller.required(""));
    } else if controller
        .text()
        .split_once('/')
        .is_none_or(|(host, path)| bad_subdomain(host).is_some() || path.is_empty())
    {
        found.push(controller.invalid("must be a domain-prefixed path (such as \"acme.io/foo\")"));
    }
    found
}

pub(super) fn ingress_class_change(new: &Value, old: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let controller = |object| Field::of(object).at("spec.controller");
    controller(new).must_stay(&controller(old), &mut found);
    found
}

pub(super) fn network_policy(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let spec = Field::of(object).at("spec");
    spec.at("podSelector").must_be_selector(&mut found);
    for (direction, side) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.at(direction).items() {
            for port in rule.at("ports").items() {
                check_port(&port, &mut found);
            }
            for peer in rule.at(side).items() {
                check_peer(&peer, &mut found);
            }
        }
    }
    let types = spec.at("policyTypes");
    if types.len() > 2 {
        found.push(types.invalid("may not specify more than two policyTypes"));
        return found;
    }
    for kind in types.items() {
        kind.must_be_one_of(&["Ingress", "Egress"], &mut found);
    }
    found
}

fn check_port(at: &Field<'_>, found: &mut Found) {
    at.at("protocol").may_be_one_of(PROTOCOLS, found);
    let (port, end) = (at.at("port"), at.at("endPort"));
    match port.value {
        Value::Null if end.is_set() => {
            found.push(end.invalid("may not be specified when `port` is not specified"));
        }
        Value::Null => {}
        Value::String(_) => {
            if end.is_set() {
                found.push(end.invalid("may not be specified when `port` is non-numeric"));
            }
            port.must_be_port_name(found);
        }
        _ => {
            port.must_be_port(found);
            if let Some(last) = end.number() {
                if port.number().is_some_and(|first| last < first) {
                    found.push(end.invalid("must be greater than or equal to `port`"));
                }
                end.must_be_port(found);
            }
        }
    }
}

fn check_peer(peer: &Field<'_>, found: &mut Found) {
    let (pods, spaces) = (peer.at("podSelector"), peer.at("namespaceSelector"));
    let block = peer.at("ipBlock");
    pods.must_be_selector(found);
    spaces.must_be_selector(found);
    if !pods.is_set() && !spaces.is_set() && !block.is_set() {
        found.push(peer.required("must specify a peer"));
    }
    if !block.is_set() {
        return;
    }
    if pods.is_set() || spaces.is_set() {
        found.push(peer.forbidden("may not specify both ipBlock and another peer"));
    }
    let cidr = block.at("cidr");
    if cidr.is_empty() {
        found.push(cidr.required(""));
        return;
    }
    let Ok(whole) = cidr.text().parse::<IpNet>() else {
        found.push(cidr.invalid(CIDR));
        return;
    };
    for except in block.at("except").items() {
        match except.text().parse::<IpNet>() {
            Err(_) => found.push(except.invalid(CIDR)),
            Ok(part) if !whole.contains(&part) || part.prefix_len() <= whole.prefix_len() => {
                found.push(except.invalid("must be a strict subset of `cidr`"));
            }
            Ok(_) => {}
        }
    }
}

pub(super) fn endpoints(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    for subset in Field::of(object).at("subsets").items() {
        if subset.at("addresses").len() + subset.at("notReadyAddresses").len() == 0 {
            found.push(subset.required("must specify `addresses` or `notReadyAddresses`"));
        }
        for list in ["addresses", "notReadyAddresses"] {
            for address in subset.at(list).items() {
                check_address(&address.at("ip"), &mut found);
            }
        }
        let ports = subset.at("ports");
        for port in ports.items() {
            if ports.len() > 1 {
                port.at("name").must_not_be_empty(&mut found);
            }
            port.at("port").must_be_port(&mut found);
            port.at("protocol").must_be_one_of(&["SCTP", "TCP", "UDP"], &mut found);
        }
    }
    found
}

/// An address that others can reach.
fn check_address(field: &Field<'_>, found: &mut Found) {
    let why = match field.text().parse::<IpAddr>() {
        Err(_) => "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        Ok(address) if address.is_unspecified() => "may not be unspecified (0.0.0.0 or ::)",
        Ok(address) if address.is_loopback() => {
            "may not be in the loopback range (127.0.0.0/8, ::1/128)"
        }
        Ok(IpAddr::V4(address)) if address.is_link_local() => {
            "may not be in the link-local range (169.254.0.0/16, fe80::/10)"
        }
        Ok(_) => return,
    };
    found.push(field.invalid(why));
}

pub(super) fn endpoint_slice(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let slice = Field::of(object);
    let kind = slice.at("addressType");
    if kind.is_empty() {
        found.push(kind.required(""));
    } else {
        kind.must_be_one_of(&["FQDN", "IPv4", "IPv6"], &mut found);
    }
    for endpoint in slice.at("endpoints").items() {
        let addresses = endpoint.at("addresses");
        if addresses.is_empty() {
            found.push(addresses.required("must contain at least 1 address"));
        } else if addresses.len() > 100 {
            found.push(causes::too_many(&addresses.path, addresses.len(), 100));
        }
        for address in addresses.items() {
            match kind.text() {
                "FQDN" => address.must_be_subdomain(&mut found),
                "IPv4" | "IPv6" => check_address(&address, &mut found),
                _ => {}
            }
        }
    }
    let ports = slice.at("ports");
    for port in ports.items() {
        let name = port.at("name");
        if !name.is_empty() {
            name.must_be_label(&mut found);
        }
        port.at("protocol").must_be_one_of(PROTOCOLS, &mut found);
    }
    super::field::duplicates(ports.items().map(|port| port.at("name")), &mut found);
    found
}

pub(super) fn endpoint_slice_change(new: &Value, old: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let kind = |object| Field::of(object).at("addressType");
    kind(new).must_stay(&kind(old), &mut found);
    found
}

/// A range of addresses for services.
pub(super) fn service_range(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let ranges = Field::of(object).at("spec.cidrs");
    if ranges.is_empty() {
        found.push(ranges.required("at least one CIDR required"));
        return found;
    }
    if ranges.len() > 2 {
        found.push(ranges.invalid("may only hold up to 2 values"));
        return found;
    }
    let read = |range: &Field<'_>| range.text().parse::<IpNet>().ok();
    for range in ranges.items().filter(|range| read(range).is_none()) {
        found.push(range.invalid(CIDR));
    }
    let of_four: Vec<bool> =
        ranges.items().filter_map(|it| read(&it)).map(|it| it.addr().is_ipv4()).collect();
    if let [first, second] = of_four[..]
        && first == second
    {
        found.push(ranges.invalid(
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and \
             2001:db8::/64",
        ));
    }
    found
}

/// A range may only be joined by one of the other family.
pub(super) fn service_range_change(new: &Value, old: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let (new, old) = (Field::of(new).at("spec.cidrs"), Field::of(old).at("spec.cidrs"));
    if new.len() != old.len() && (old.len(), new.len()) != (1, 2) {
        found.push(new.invalid(IMMUTABLE));
        return found;
    }
    for (is, was) in new.items().zip(old.items()) {
        is.must_stay(&was, &mut found);
    }
    found
}

/// An address that something has taken.
pub(super) fn address(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let address = Field::of(object);
    let name = address.at("metadata.name");
    let canonical = name.text().parse::<IpAddr>().map(|it| it.to_string());
    match canonical {
        Err(_) => {
            found.push(
                name.invalid("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
            );
        }
        Ok(canonical) if canonical != name.text() => {
            found.push(name.invalid(&format!("must be in canonical form ({canonical:?})")));
        }
        Ok(_) => {}
    }
    let parent = address.at("spec.parentRef");
    if !parent.is_set() {
        found.push(parent.required(""));
        return found;
    }
    if !parent.at("group").is_empty() {
        parent.at("group").must_be_subdomain(&mut found);
    }
    for part in ["resource", "name"] {
        let part = parent.at(part);
        if part.is_empty() {
            found.push(part.required(""));
        } else {
            part.must_be(bad_path_segment, &mut found);
        }
    }
    found
}

pub(super) fn address_change(new: &Value, old: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let (new, old) = (Field::of(new), Field::of(old));
    new.at("spec.parentRef").must_stay(&old.at("spec.parentRef"), &mut found);
    found
}
