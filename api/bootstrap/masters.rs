//! `default/kubernetes`: the service under which pods find the API, and the addresses of all masters behind it.
//!
//! Keeps: its endpoints are exactly the masters that are there. Every master keeps them; they agree, because
//! all are told the same addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::reconcile::Rule;
use super::{Wanted, ensure, send};
use crate::client::Client;
use crate::error::{Reason, Status};
use crate::object::GroupVersionResource;
use crate::request::{Options, Request, Verb};

const NAMESPACE: &str = "default";
const NAME: &str = "kubernetes";
const PORT: u16 = 443;
/// What others did to the objects is mended after this long.
const INTERVAL: Duration = Duration::from_secs(10);

/// The address that the service has: the first of its network.
#[must_use]
pub fn service_ip(network: &IpNet) -> IpAddr {
    match network.network() {
        IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits().saturating_add(1))),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits().saturating_add(1))),
    }
}

/// Keeps service and endpoints as long as it is polled. `service_ip` is the first address of the service range;
/// `masters` where each master serves the API.
pub async fn keep(
    client: &Client,
    service_ip: IpAddr,
    mut masters: watch::Receiver<BTreeSet<SocketAddr>>,
) {
    loop {
        let now = masters.borrow_and_update().clone();
        if let Err(status) = reconcile(client, service_ip, &now).await {
            tracing::warn!(%status, "the endpoints of the API are not up to date");
        }
        // Whether told or timed out, the next round reads what is there. A sender that is gone tells no more.
        let told = tokio::time::timeout(INTERVAL, masters.changed()).await;
        if matches!(told, Ok(Err(_))) {
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

/// Brings service, endpoints and slices to what they should be, once.
pub async fn reconcile(
    client: &Client,
    service_ip: IpAddr,
    masters: &BTreeSet<SocketAddr>,
) -> Result<(), Status> {
    let by_port = by_port(masters, service_ip.is_ipv4());
    let Some(port) = by_port.first().map(|(port, _)| *port) else { return Ok(()) };
    ensure(client, &service(service_ip, port)).await?;
    ensure(client, &endpoints(&by_port)).await?;
    let slices = slices(&by_port, service_ip.is_ipv4());
    for slice in &slices {
        ensure(client, slice).await?;
    }
    remove_others(client, &slices).await
}

/// Addresses that pods can reach, by port; the port of most masters first.
fn by_port(masters: &BTreeSet<SocketAddr>, ipv4: bool) -> Vec<(u16, Vec<IpAddr>)> {
    let mut ports: BTreeMap<u16, Vec<IpAddr>> = BTreeMap::new();
    for master in masters {
        let ip = master.ip();
        let reachable = !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast();
        if reachable && ip.is_ipv4() == ipv4 {
            ports.entry(master.port()).or_default().push(ip);
        }
    }
    let mut ports: Vec<_> = ports.into_iter().collect();
    ports.sort_by_key(|(port, ips)| (std::cmp::Reverse(ips.len()), *port));
    ports
}

fn service(ip: IpAddr, target: u16) -> Wanted {
    let port = json!({"name": "https", "port": PORT, "protocol": "TCP", "targetPort": target});
    let object = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "namespace": NAMESPACE,
            "name": NAME,
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": ip.to_string(),
            "ipFamilyPolicy": "SingleStack",
            "sessionAffinity": "None",
            "ports": [port],
        },
    });
    Wanted::new("", "v1", "services", Rule::Fields, object)
}

fn endpoints(by_port: &[(u16, Vec<IpAddr>)]) -> Wanted {
    let subset = |(port, ips): &(u16, Vec<IpAddr>)| {
        let addresses: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip.to_string()})).collect();
        let port = json!({"name": "https", "port": port, "protocol": "TCP"});
        json!({"addresses": addresses, "ports": [port]})
    };
    let subsets: Vec<Value> = by_port.iter().map(subset).collect();
    let object = json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {
            "namespace": NAMESPACE,
            "name": NAME,
            // Its slices are made here, not mirrored.
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": subsets,
    });
    Wanted::new("", "v1", "endpoints", Rule::Fields, object)
}

/// A slice has one port: masters on other ports get slices of their own.
fn slices(by_port: &[(u16, Vec<IpAddr>)], ipv4: bool) -> Vec<Wanted> {
    let slice = |(at, (port, ips)): (usize, &(u16, Vec<IpAddr>))| {
        let name = if at == 0 { NAME.to_owned() } else { format!("{NAME}-{port}") };
        let endpoint =
            |ip: &IpAddr| json!({"addresses": [ip.to_string()], "conditions": {"ready": true}});
        let endpoints: Vec<Value> = ips.iter().map(endpoint).collect();
        let object = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "namespace": NAMESPACE,
                "name": name,
                "labels": {"kubernetes.io/service-name": NAME},
            },
            "addressType": if ipv4 { "IPv4" } else { "IPv6" },
            "endpoints": endpoints,
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        });
        Wanted::new("discovery.k8s.io", "v1", "endpointslices", Rule::Fields, object)
    };
    by_port.iter().enumerate().map(slice).collect()
}

/// Deletes slices of ports that no master has any more.
async fn remove_others(client: &Client, wanted: &[Wanted]) -> Result<(), Status> {
    let selector = format!("kubernetes.io/service-name={NAME}");
    let request = Request {
        verb: Verb::List,
        resource: GroupVersionResource::new("discovery.k8s.io", "v1", "endpointslices"),
        subresource: None,
        namespace: Some(NAMESPACE.into()),
        name: None,
        options: Options { label_selector: Some(selector), ..Options::default() },
        body: crate::request::Body::None,
    };
    let list: Value =
        serde_json::from_slice(&client.call(request).await?).map_err(Status::internal)?;
    for slice in list["items"].as_array().into_iter().flatten() {
        let name = &slice["metadata"]["name"];
        if wanted.iter().any(|it| it.object["metadata"]["name"] == *name) {
            continue;
        }
        let object = json!({"metadata": {"namespace": NAMESPACE, "name": name}});
        let gone = Wanted::new("discovery.k8s.io", "v1", "endpointslices", Rule::Once, object);
        match send(client, &gone, Verb::Delete, Value::Null).await {
            Err(status) if !status.is(Reason::NotFound) => return Err(status),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_has_the_first_address_of_its_network() {
        for (network, ip) in [("10.43.0.0/16", "10.43.0.1"), ("fd00:43::/112", "fd00:43::1")] {
            assert_eq!(service_ip(&network.parse().unwrap()).to_string(), ip);
        }
    }

    #[test]
    fn masters_are_grouped_by_port_and_loopback_is_left_out() {
        let masters: BTreeSet<SocketAddr> =
            ["10.0.0.1:6443", "10.0.0.2:6443", "10.0.0.3:7443", "127.0.0.1:6443", "[fd00::1]:6443"]
                .into_iter()
                .map(|address| address.parse().unwrap())
                .collect();
        let by_port = by_port(&masters, true);
        let ports: Vec<(u16, usize)> =
            by_port.iter().map(|(port, ips)| (*port, ips.len())).collect();
        assert_eq!(ports, [(6443, 2), (7443, 1)]);
        let slices = slices(&by_port, true);
        let names: Vec<&Value> = slices.iter().map(|it| &it.object["metadata"]["name"]).collect();
        assert_eq!(names, ["kubernetes", "kubernetes-7443"]);
        assert_eq!(endpoints(&by_port).object["subsets"].as_array().unwrap().len(), 2);
    }
}
