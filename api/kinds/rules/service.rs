//! Services: ports, addresses, and what goes with which type.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Field, Found};
use crate::error::Cause;
use crate::object::meta;
use crate::schema::causes;

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const POLICIES: &[&str] = &["Cluster", "Local"];

pub(super) fn service(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let spec = Field::of(object).at("spec");
    let is_headless = is_headless(&spec);
    let kind = spec.at("type").text();
    if spec.at("ports").is_empty() && !is_headless && kind != "ExternalName" {
        found.push(spec.at("ports").required(""));
    }
    match kind {
        "LoadBalancer" | "NodePort" if is_headless => {
            let why = format!("may not be set to 'None' for {kind} services");
            found.push(causes::invalid("spec.clusterIPs[0]", &"None".into(), &why));
        }
        "ExternalName" => check_external_name(&spec, &mut found),
        _ => {}
    }
    check_ports(&spec, &mut found);
    spec.at("selector").must_be_labels(&mut found);
    check_affinity(&spec, &mut found);
    if kind != "ExternalName" {
        check_addresses(&spec, &mut found);
    }
    for address in spec.at("externalIPs").items() {
        must_be_address(&address, &mut found);
    }
    spec.at("type").must_be_one_of(TYPES, &mut found);
    check_policies(&spec, &mut found);
    found
}

fn is_headless(spec: &Field<'_>) -> bool {
    spec.at("clusterIPs")
        .value
        .get(0)
        .map_or(spec.at("clusterIP").text() == "None", |it| it == "None")
}

fn check_external_name(spec: &Field<'_>, found: &mut Found) {
    for name in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if !spec.at(name).is_empty() {
            found.push(spec.at(name).forbidden("may not be set for ExternalName services"));
        }
    }
    let name = spec.at("externalName");
    if name.is_empty() {
        found.push(name.required(""));
    } else if let Some(why) = crate::object::names::bad_subdomain(name.text().trim_end_matches('.'))
    {
        found.push(name.invalid(&why));
    }
}

fn check_ports(spec: &Field<'_>, found: &mut Found) {
    let ports = spec.at("ports");
    let (mut seen, mut on_nodes) = (BTreeSet::new(), BTreeSet::new());
    for port in ports.items() {
        let name = port.at("name");
        if !name.is_empty() {
            name.must_be_label(found);
        } else if ports.len() > 1 {
            found.push(name.required(""));
        }
        port.at("port").must_be_port(found);
        port.at("protocol").must_be_one_of(&["SCTP", "TCP", "UDP"], found);
        port.at("targetPort").must_be_port_or_name(found);
        if port.at("appProtocol").is_set() {
            port.at("appProtocol").must_be_qualified(found);
        }
        let protocol = port.at("protocol").text();
        let node = port.at("nodePort");
        if let Some(number) = node.number().filter(|number| *number != 0) {
            if spec.at("type").text() == "ClusterIP" {
                found.push(node.forbidden("may not be used when `type` is 'ClusterIP'"));
            }
            if !on_nodes.insert((protocol, number)) {
                found.push(node.duplicate());
            }
        }
        if !seen.insert((protocol, port.at("port").number())) {
            let what = serde_json::json!({"port": port.at("port").value, "protocol": protocol});
            found.push(causes::duplicate(&port.path, &what));
        }
    }
    super::field::duplicates(ports.items().map(|it| it.at("name")), found);
}

fn check_affinity(spec: &Field<'_>, found: &mut Found) {
    let affinity = spec.at("sessionAffinity");
    affinity.must_be_one_of(&["ClientIP", "None"], found);
    let seconds = spec.at("sessionAffinityConfig.clientIP.timeoutSeconds");
    if affinity.text() == "ClientIP"
        && !(1..=86_400).contains(&seconds.number().unwrap_or_default())
    {
        found.push(seconds.invalid("must be greater than 0 and less than 86400"));
    }
}

fn check_addresses(spec: &Field<'_>, found: &mut Found) {
    let families = spec.at("ipFamilies");
    for family in families.items() {
        family.must_be_one_of(&["IPv4", "IPv6"], found);
    }
    super::field::duplicates(families.items(), found);
    let policy = spec.at("ipFamilyPolicy");
    policy.may_be_one_of(&["PreferDualStack", "RequireDualStack", "SingleStack"], found);
    let all = spec.at("clusterIPs");
    for (at, address) in all.items().enumerate() {
        if address.text() != "None" {
            must_be_address(&address, found);
        } else if at > 0 || all.len() > 1 {
            found.push(all.invalid("'None' must be the first and only value"));
        }
    }
    if all.len() > 2 {
        found.push(all.invalid("may only hold up to 2 values"));
    }
}

fn must_be_address(field: &Field<'_>, found: &mut Found) {
    if field.text().parse::<std::net::IpAddr>().is_err() {
        found.push(field.invalid("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"));
    }
}

fn check_policies(spec: &Field<'_>, found: &mut Found) {
    let kind = spec.at("type").text();
    let ranges = spec.at("loadBalancerSourceRanges");
    if !ranges.is_empty() && kind != "LoadBalancer" {
        let ranges = Field::new("spec.LoadBalancerSourceRanges", Some(ranges.value));
        found.push(ranges.forbidden("may only be used when `type` is 'LoadBalancer'"));
    }
    for name in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
        if spec.at(name).is_set() && kind != "LoadBalancer" {
            let why = "may only be used when `type` is 'LoadBalancer'";
            found.push(spec.at(name).forbidden(why));
        }
    }
    let outside = spec.at("externalTrafficPolicy");
    let is_reachable = matches!(kind, "NodePort" | "LoadBalancer")
        || kind == "ClusterIP" && !spec.at("externalIPs").is_empty();
    if is_reachable {
        outside.must_be_one_of(POLICIES, found);
    } else if !outside.is_empty() {
        found.push(outside.invalid("may only be set for externally-accessible services"));
    }
    spec.at("internalTrafficPolicy").may_be_one_of(POLICIES, found);
}

/// An update that says nothing of what was given to a service keeps it.
pub(super) fn keep(new: &mut Value, old: &Value) {
    let kind = |it: &Value| meta::text(it, &["spec", "type"]).to_owned();
    let (is, was) = (kind(new), kind(old));
    let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let old = Field::of(old).at("spec");
    if is == "ExternalName" {
        // What it had goes with its type, unless it says otherwise.
        if was != is {
            for name in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                if spec.get(name) == Some(old.at(name).value) {
                    spec.remove(name);
                }
            }
        }
    } else if was != "ExternalName"
        && ["clusterIP", "clusterIPs"]
            .iter()
            .all(|name| spec.get(*name).is_none_or(|it| Field::of(it).is_empty()))
    {
        for name in ["clusterIP", "clusterIPs"] {
            if old.at(name).is_set() {
                spec.insert(name.into(), old.at(name).value.clone());
            }
        }
    }
    let needs_ports = matches!(is.as_str(), "NodePort" | "LoadBalancer");
    if !needs_ports {
        // Node ports that were there before go with the type that had them.
        let before: Vec<&Value> =
            old.at("ports").items().map(|it| it.at("nodePort").value).collect();
        for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            if port.get("nodePort").is_some_and(|it| before.contains(&it))
                && let Some(port) = port.as_object_mut()
            {
                port.remove("nodePort");
            }
        }
        let reachable = is == "ClusterIP"
            && spec.get("externalIPs").is_some_and(|it| !Field::of(it).is_empty());
        if !reachable
            && spec.get("externalTrafficPolicy") == Some(old.at("externalTrafficPolicy").value)
        {
            spec.remove("externalTrafficPolicy");
        }
    }
    if is != "LoadBalancer" {
        for name in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if spec.get(name) == Some(old.at(name).value) {
                spec.remove(name);
            }
        }
    }
}

pub(super) fn change(new: &Value, old: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let (new, old) = (Field::of(new).at("spec"), Field::of(old).at("spec"));
    let external = |spec: &Field<'_>| spec.at("type").text() == "ExternalName";
    if external(&new) || external(&old) {
        return found;
    }
    let (now, before) = (new.at("clusterIPs"), old.at("clusterIPs"));
    let first =
        now.value.get(0).or(new.at("clusterIP").is_set().then_some(new.at("clusterIP").value));
    if let Some(was) = before.value.get(0)
        && first.is_some_and(|is| is != was)
    {
        let shown = match now.len() {
            0 => serde_json::json!([first]),
            _ => now.value.clone(),
        };
        found.push(causes::invalid("spec.clusterIPs[0]", &shown, "may not change once set"));
    }
    let class = new.at("loadBalancerClass");
    let balanced = |spec: &Field<'_>| spec.at("type").text() == "LoadBalancer";
    if balanced(&new) && balanced(&old) && class.value != old.at("loadBalancerClass").value {
        found.push(class.invalid("may not change once set"));
    }
    found
}
