//! What a Service needs, what of it is kept, and what is given back. Pure.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::Networks;
use crate::error::Cause;
use crate::object::meta;
use crate::schema::causes::invalid;

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub ips: Vec<Ip>,
    pub headless: bool,
    /// One for each entry of `spec.ports` that has a node port.
    pub ports: Vec<Port>,
    pub health_check: Option<Port>,
    pub released_ips: Vec<IpAddr>,
    pub released_ports: Vec<u16>,
    dual: Option<&'static str>,
}

#[derive(Debug)]
pub(super) struct Ip {
    pub net: IpNet,
    pub asked: Option<IpAddr>,
    pub kept: Option<IpAddr>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Port {
    Kept(u16),
    /// With the field that asks for it.
    Asked(u16, String),
    Any,
}

fn kind_of(service: &Value) -> &str {
    match meta::text(service, &["spec", "type"]) {
        "" => "ClusterIP",
        kind => kind,
    }
}

fn needs_ip(service: &Value) -> bool {
    kind_of(service) != "ExternalName"
}

fn needs_ports(service: &Value) -> bool {
    let off = meta::at(service, &["spec", "allocateLoadBalancerNodePorts"]) == Some(&false.into());
    match kind_of(service) {
        "NodePort" => true,
        "LoadBalancer" => !off,
        _ => false,
    }
}

fn needs_health_check(service: &Value) -> bool {
    kind_of(service) == "LoadBalancer"
        && meta::text(service, &["spec", "externalTrafficPolicy"]) == "Local"
}

fn list<'a>(service: &'a Value, field: &str) -> Vec<&'a str> {
    let there = meta::at(service, &["spec", field]).and_then(Value::as_array);
    there.into_iter().flatten().filter_map(Value::as_str).filter(|it| !it.is_empty()).collect()
}

fn entries(service: &Value) -> Vec<&Value> {
    let there = meta::at(service, &["spec", "ports"]).and_then(Value::as_array);
    there.into_iter().flatten().collect()
}

fn number(value: &Value, field: &str) -> u16 {
    value.get(field).and_then(Value::as_u64).and_then(|it| u16::try_from(it).ok()).unwrap_or(0)
}

fn health_check_of(service: &Value) -> u16 {
    service.get("spec").map_or(0, |spec| number(spec, "healthCheckNodePort"))
}

/// The addresses that a Service holds.
pub(super) fn ips_of(service: &Value) -> Vec<IpAddr> {
    list(service, "clusterIPs").iter().filter_map(|it| it.parse().ok()).collect()
}

/// The ports that a Service holds, each once.
pub(super) fn ports_of(service: &Value) -> Vec<u16> {
    let mut ports: Vec<u16> =
        entries(service).iter().map(|it| number(it, "nodePort")).filter(|it| *it > 0).collect();
    ports.extend(Some(health_check_of(service)).filter(|it| *it > 0));
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// Brings `new` into one form, and says what it needs.
pub(super) fn plan(
    new: &mut Value,
    old: Option<&Value>,
    networks: &Networks,
) -> Result<Plan, Vec<Cause>> {
    if let Some(old) = old {
        carry_over(new, old);
        drop_unneeded(new, old);
    }
    unite_ips(new, old);
    let mut plan = Plan::default();
    if needs_ip(new) {
        plan_ips(&mut plan, new, old, networks)?;
    }
    plan_ports(&mut plan, new, old);
    if let Some(old) = old {
        let kept: Vec<IpAddr> = plan.ips.iter().filter_map(|it| it.kept).collect();
        plan.released_ips = ips_of(old).into_iter().filter(|it| !kept.contains(it)).collect();
        let kept: Vec<u16> = plan
            .ports
            .iter()
            .chain(&plan.health_check)
            .filter_map(|it| match it {
                Port::Kept(number) => Some(*number),
                _ => None,
            })
            .collect();
        plan.released_ports = ports_of(old).into_iter().filter(|it| !kept.contains(it)).collect();
    }
    Ok(plan)
}

fn spec(service: &mut Value) -> &mut Map<String, Value> {
    if !service.get("spec").is_some_and(Value::is_object) {
        service["spec"] = json!({});
    }
    service["spec"].as_object_mut().expect("it was just made an object")
}

/// What a client leaves out of an update is kept.
fn carry_over(new: &mut Value, old: &Value) {
    if needs_ip(old) && needs_ip(new) {
        let said = meta::text(new, &["spec", "clusterIP"]).to_owned();
        let ips = list(new, "clusterIPs").len();
        if said.is_empty() && ips == 0 {
            for field in ["clusterIP", "clusterIPs"] {
                meta::copy_field(&mut new["spec"], &old["spec"], field);
            }
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if meta::at(new, &["spec", field]).is_none() {
                meta::copy_field(&mut new["spec"], &old["spec"], field);
            }
        }
    }
    if needs_ports(old) && needs_ports(new) {
        let before: Vec<Value> = entries(old).into_iter().cloned().collect();
        let mut used: Vec<u16> =
            entries(new).iter().map(|it| number(it, "nodePort")).filter(|it| *it > 0).collect();
        let ports = new.pointer_mut("/spec/ports").and_then(Value::as_array_mut);
        for port in ports.into_iter().flatten().filter(|it| number(it, "nodePort") == 0) {
            let same = before.iter().find(|it| {
                it.get("port") == port.get("port") && it.get("protocol") == port.get("protocol")
            });
            let kept = same.map_or(0, |it| number(it, "nodePort"));
            if kept > 0 && !used.contains(&kept) {
                used.push(kept);
                port["nodePort"] = kept.into();
            }
        }
    }
    if needs_health_check(old) && needs_health_check(new) && health_check_of(new) == 0 {
        spec(new).insert("healthCheckNodePort".into(), health_check_of(old).into());
    }
}

/// What belonged to the type that it no longer has goes, unless the client changed it itself.
fn drop_unneeded(new: &mut Value, old: &Value) {
    let ports = |service: &Value| -> Vec<u16> {
        entries(service).iter().map(|it| number(it, "nodePort")).collect()
    };
    if needs_ports(old) && !needs_ports(new) && ports(old) == ports(new) {
        let there = new.pointer_mut("/spec/ports").and_then(Value::as_array_mut);
        for port in there.into_iter().flatten().filter_map(Value::as_object_mut) {
            port.remove("nodePort");
        }
    }
    if needs_health_check(old) && !needs_health_check(new) {
        spec(new).remove("healthCheckNodePort");
    }
    let same = |field: &str| meta::at(new, &["spec", field]) == meta::at(old, &["spec", field]);
    if needs_ip(old) && !needs_ip(new) && same("clusterIP") && same("clusterIPs") {
        for field in
            ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"]
        {
            spec(new).remove(field);
        }
    }
    let same = meta::at(new, &["spec", "externalName"]) == meta::at(old, &["spec", "externalName"]);
    if !needs_ip(old) && needs_ip(new) && same {
        spec(new).remove("externalName");
    }
}

/// `clusterIP` and the first of `clusterIPs` say the same.
fn unite_ips(new: &mut Value, old: Option<&Value>) {
    let one = meta::text(new, &["spec", "clusterIP"]).to_owned();
    let all: Vec<String> = list(new, "clusterIPs").into_iter().map(str::to_owned).collect();
    let before = old.map(|old| {
        let all: Vec<String> = list(old, "clusterIPs").into_iter().map(str::to_owned).collect();
        (meta::text(old, &["spec", "clusterIP"]).to_owned(), all)
    });
    let spec = spec(new);
    match before {
        None if !one.is_empty() && all.is_empty() => {
            spec.insert("clusterIPs".into(), json!([one]));
        }
        // Only the one was changed: it wins.
        Some((was, had)) if one != was && all == had => {
            if one.is_empty() {
                spec.remove("clusterIPs");
            } else {
                spec.insert("clusterIPs".into(), json!([one]));
            }
        }
        _ => {}
    }
}

fn family(ip: &IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn family_of(net: &IpNet) -> &'static str {
    family(&net.addr())
}

fn plan_ips(
    plan: &mut Plan,
    new: &Value,
    old: Option<&Value>,
    networks: &Networks,
) -> Result<(), Vec<Cause>> {
    let said = list(new, "clusterIPs");
    let before = old.map(ips_of).unwrap_or_default();
    let policy = meta::text(new, &["spec", "ipFamilyPolicy"]);
    let dual = match policy {
        "RequireDualStack" if networks.services.len() < 2 => {
            return Err(vec![invalid(
                "spec.ipFamilyPolicy",
                &policy.into(),
                "this cluster is not configured for dual-stack services",
            )]);
        }
        "RequireDualStack" | "PreferDualStack" => true,
        _ => false,
    };
    plan.dual = Some(match policy {
        "RequireDualStack" => "RequireDualStack",
        "PreferDualStack" => "PreferDualStack",
        _ => "SingleStack",
    });
    plan.headless = said.first() == Some(&"None");
    let mut wanted: Vec<IpAddr> = Vec::new();
    for (at, text) in said.iter().enumerate().filter(|_| !plan.headless) {
        match text.parse() {
            Ok(ip) => wanted.push(ip),
            Err(_) => {
                let field = format!("spec.clusterIPs[{at}]");
                let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
                return Err(vec![invalid(&field, &(*text).into(), why)]);
            }
        }
    }
    if let (Some(first), Some(was)) = (wanted.first(), before.first())
        && first != was
    {
        let why = "may not change once set";
        return Err(vec![invalid("spec.clusterIPs[0]", &json!(said), why)]);
    }
    let named = list(new, "ipFamilies");
    let mut families: Vec<&str> =
        if named.is_empty() { wanted.iter().map(family).collect() } else { named };
    if families.is_empty() {
        families.extend(networks.services.first().map(family_of));
    }
    if dual {
        for net in &networks.services {
            if !families.contains(&family_of(net)) {
                families.push(family_of(net));
            }
        }
    } else {
        families.truncate(1);
    }
    for (at, family) in families.iter().enumerate() {
        let Some(net) = networks.services.iter().find(|net| family_of(net) == *family) else {
            let why = format!("{family} is not configured on this cluster");
            return Err(vec![invalid(&format!("spec.ipFamilies[{at}]"), &(*family).into(), &why)]);
        };
        let asked = wanted.get(at).copied();
        let kept = asked.filter(|it| before.contains(it));
        plan.ips.push(Ip { net: *net, asked, kept });
    }
    Ok(())
}

fn plan_ports(plan: &mut Plan, new: &Value, old: Option<&Value>) {
    let before = old.map(ports_of).unwrap_or_default();
    let want = |number: u16, field: String| match number {
        0 => Port::Any,
        number if before.contains(&number) => Port::Kept(number),
        number => Port::Asked(number, field),
    };
    if needs_ports(new) {
        for (at, port) in entries(new).iter().enumerate() {
            let field = format!("spec.ports[{at}].nodePort");
            plan.ports.push(want(number(port, "nodePort"), field));
        }
    }
    if needs_health_check(new) {
        plan.health_check = Some(want(health_check_of(new), "spec.healthCheckNodePort".into()));
    }
}

impl Plan {
    /// Writes what was given into the Service.
    pub(super) fn fill(&self, new: &mut Value, ips: &[IpAddr], ports: &[u16]) {
        if let Some(policy) = self.dual {
            let families: Vec<&str> = self.ips.iter().map(|it| family_of(&it.net)).collect();
            let spec = spec(new);
            spec.insert("ipFamilies".into(), json!(families));
            spec.insert("ipFamilyPolicy".into(), policy.into());
            let texts: Vec<String> = if self.headless {
                vec!["None".into()]
            } else {
                ips.iter().map(IpAddr::to_string).collect()
            };
            spec.insert("clusterIP".into(), texts.first().cloned().unwrap_or_default().into());
            spec.insert("clusterIPs".into(), json!(texts));
        }
        let entries = new.pointer_mut("/spec/ports").and_then(Value::as_array_mut);
        for (port, number) in entries.into_iter().flatten().zip(ports.iter().take(self.ports.len()))
        {
            port["nodePort"] = (*number).into();
        }
        if self.health_check.is_some()
            && let Some(number) = ports.last()
        {
            spec(new).insert("healthCheckNodePort".into(), (*number).into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks() -> Networks {
        Networks::default()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_new_service_needs_one_address_of_the_first_family() {
        let mut new = json!({"spec": {"ports": [{"port": 80}]}});
        let plan = plan(&mut new, None, &networks()).unwrap();
        assert_eq!(plan.ips.len(), 1);
        assert!(plan.ports.is_empty());
        plan.fill(&mut new, &[ip("10.43.1.1")], &[]);
        assert_eq!(
            new["spec"],
            json!({"ports": [{"port": 80}], "clusterIP": "10.43.1.1", "clusterIPs": ["10.43.1.1"],
                "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"})
        );
    }

    fn node_port_service() -> Value {
        json!({"spec": {"type": "NodePort", "clusterIP": "10.43.1.1", "clusterIPs": ["10.43.1.1"],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}]}})
    }

    #[test]
    fn an_update_that_leaves_things_out_keeps_them() {
        let old = node_port_service();
        let mut new =
            json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]}});
        let plan = plan(&mut new, Some(&old), &networks()).unwrap();
        assert_eq!(plan.ips[0].kept, Some(ip("10.43.1.1")));
        assert_eq!(plan.ports, [Port::Kept(30080)]);
        assert!(plan.released_ips.is_empty() && plan.released_ports.is_empty());
        plan.fill(&mut new, &[ip("10.43.1.1")], &[30080]);
        assert_eq!(new, old);
    }

    #[test]
    fn another_type_gives_back_what_it_does_not_need() {
        let old = node_port_service();
        let mut new = old.clone();
        new["spec"]["type"] = "ClusterIP".into();
        let first = plan(&mut new, Some(&old), &networks()).unwrap();
        assert_eq!(first.released_ports, [30080]);
        assert_eq!(new["spec"]["ports"][0].get("nodePort"), None);
        let mut new = old.clone();
        new["spec"]["type"] = "ExternalName".into();
        new["spec"]["externalName"] = "example.com".into();
        let second = plan(&mut new, Some(&old), &networks()).unwrap();
        assert_eq!(second.released_ips, [ip("10.43.1.1")]);
        assert_eq!(new["spec"].get("clusterIP"), None);
    }

    #[test]
    fn an_address_does_not_change_once_it_is_set() {
        let old = node_port_service();
        let mut new = old.clone();
        new["spec"]["clusterIP"] = "10.43.9.9".into();
        let causes = plan(&mut new, Some(&old), &networks()).unwrap_err();
        assert_eq!(causes[0].field, "spec.clusterIPs[0]");
    }

    #[test]
    fn a_headless_service_has_none() {
        let mut new = json!({"spec": {"clusterIP": "None"}});
        let plan = plan(&mut new, None, &networks()).unwrap();
        assert!(plan.headless);
        plan.fill(&mut new, &[], &[]);
        assert_eq!(new["spec"]["clusterIPs"], json!(["None"]));
    }
}
