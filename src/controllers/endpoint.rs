//! Keeps the Endpoints of services that select pods: the elder form of EndpointSlices, for those who still
//! read it.
//!
//! Keeps: at most [`ADDRESSES_MAX`] addresses, ready ones first; more is told by an annotation.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kontiki_api::Status;
use kontiki_api::client::{Client, DeleteOptions};
use kontiki_api::error::Reason;

use super::endpoint_slice::{
    addresses, find_port, follow_pods, hostname, is_headless, is_kept, protocol, selects, target,
};
use super::service_account::is_settled;
use super::slices::HEADLESS;
use super::{Context, Loop, WORKERS, pods};
use crate::reconcile::{Delta, Informer, Key, Next, Pending, Reconcile, Recorder};

const NAME: &str = "endpoints-controller";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const ADDRESSES_MAX: usize = 1000;

struct Controller {
    client: Client,
    recorder: Recorder,
    services: Informer<Service>,
    pods: Informer<Pod>,
    endpoints: Informer<Endpoints>,
    pending: Pending,
}

pub fn start(context: &Context) -> Vec<Loop> {
    let queue = context.queue(NAME);
    let services = context.informers.of::<Service>();
    let pods = context.informers.of::<Pod>();
    let endpoints = context.informers.of::<Endpoints>();
    services.on({
        let queue = queue.clone();
        move |delta| queue.add(Key::of(&delta.object().metadata))
    });
    follow_pods(&pods, &services, &queue);
    endpoints.on({
        let queue = queue.clone();
        move |delta| {
            // What a service left behind while nobody looked has our label; what people made has not.
            let metadata = &delta.object().metadata;
            let ours = metadata.labels.as_ref().is_some_and(|it| it.contains_key(MANAGED_BY));
            if ours || matches!(delta, Delta::Deleted(_)) {
                queue.add(Key::of(metadata));
            }
        }
    });
    let controller = Controller {
        client: context.client(NAME),
        recorder: context.recorder.of(NAME),
        services,
        pods,
        endpoints,
        pending: Pending::default(),
    };
    vec![Loop::new(controller, queue, WORKERS)]
}

impl Reconcile for Controller {
    type Key = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Status> {
        let Some(service) = self.services.get(key) else {
            self.pending.forget(key);
            return self.delete(key).await;
        };
        if !is_kept(&service) || service.metadata.deletion_timestamp.is_some() {
            return Ok(Next::WhenChanged);
        }
        if !self.pending.seen(key, &self.endpoints) {
            return Ok(Next::Again);
        }
        let mut selected = self.pods.in_namespace(&key.namespace);
        selected.retain(|pod| selects(&service, &pod.metadata));
        let found = self.endpoints.get(key);
        let wanted = wanted(&service, &selected, found.as_deref());
        let written = match found {
            Some(found) if *found == wanted => return Ok(Next::WhenChanged),
            Some(_) => self.client.update(&wanted).await,
            None => self.client.create(&wanted).await,
        };
        match written {
            Ok(written) => self.pending.wrote(key, &written),
            Err(status) if wanted.metadata.uid.is_none() && is_settled(&status) => {
                // It is there and the informer shows it soon, or its namespace is going.
            }
            Err(status) => {
                let message = format!("Failed to write endpoints {key}: {status}");
                self.recorder.warning(&wanted, "FailedToUpdateEndpoint", message);
                return Err(status);
            }
        }
        Ok(Next::WhenChanged)
    }
}

impl Controller {
    async fn delete(&self, key: &Key) -> Result<Next, Status> {
        if self.endpoints.get(key).is_none() {
            return Ok(Next::WhenChanged);
        }
        let options = DeleteOptions::default();
        match self.client.delete::<Endpoints>(&key.namespace, &key.name, &options).await {
            Err(status) if !status.is(Reason::NotFound) => Err(status),
            _ => Ok(Next::WhenChanged),
        }
    }
}

/// The object as it should be, keeping of the one that is there what is not ours.
fn wanted(service: &Service, selected: &[Arc<Pod>], found: Option<&Endpoints>) -> Endpoints {
    let mut subsets = subsets(service, selected);
    let truncated = truncate(&mut subsets);
    let mut metadata = found.map_or_else(
        || ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        |found| found.metadata.clone(),
    );
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if service.spec.as_ref().is_some_and(is_headless) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    metadata.labels = Some(labels);
    let mut annotations = metadata.annotations.take().unwrap_or_default();
    annotations.remove(OVER_CAPACITY);
    if truncated {
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    }
    metadata.annotations = Some(annotations).filter(|it| !it.is_empty());
    Endpoints { metadata, subsets: Some(subsets).filter(|it| !it.is_empty()) }
}

/// Addresses by the ports they share. The order is that of ports and addresses, so that the same pods make
/// the same object.
fn subsets(service: &Service, selected: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let publishes = spec.publish_not_ready_addresses == Some(true);
    let is_ipv6 = match spec.ip_families.as_deref().and_then(<[String]>::first) {
        Some(family) => family == "IPv6",
        None => spec.cluster_ip.as_deref().is_some_and(|it| it.contains(':')),
    };
    type Sides = (Vec<EndpointAddress>, Vec<EndpointAddress>);
    let mut by_ports: BTreeMap<String, (Vec<EndpointPort>, Sides)> = BTreeMap::new();
    for pod in selected {
        let going = pod.metadata.deletion_timestamp.is_some();
        let ip = addresses(pod).into_iter().find(|it| it.is_ipv6() == is_ipv6);
        let Some(ip) = ip.filter(|_| !pods::is_finished(pod) && (publishes || !going)) else {
            continue;
        };
        let service_ports = spec.ports.as_deref().unwrap_or_default();
        let mut ports: Vec<_> = service_ports
            .iter()
            .filter_map(|port| {
                Some(EndpointPort {
                    name: port.name.clone().filter(|it| !it.is_empty()),
                    port: find_port(pod, port)?,
                    protocol: Some(protocol(port.protocol.as_deref()).into()),
                    app_protocol: port.app_protocol.clone(),
                })
            })
            .collect();
        // Only what has no ports to begin with may be without.
        if ports.is_empty() && !(service_ports.is_empty() && is_headless(spec)) {
            continue;
        }
        ports.sort_by_key(|it| (it.name.clone(), it.port, it.protocol.clone()));
        let key = ports.iter().map(|it| format!("{:?}{:06}{:?},", it.name, it.port, it.protocol));
        let (_, (ready, unready)) =
            by_ports.entry(key.collect()).or_insert_with(|| (ports, Sides::default()));
        let side = if publishes || pods::is_ready(pod) { ready } else { unready };
        side.push(EndpointAddress {
            ip: ip.to_string(),
            hostname: hostname(service, pod),
            node_name: pod.spec.as_ref().and_then(|it| it.node_name.clone()),
            target_ref: Some(target(pod)),
        });
    }
    let sorted = |mut side: Vec<EndpointAddress>| {
        side.sort_by_key(|it| it.ip.parse::<IpAddr>().ok());
        Some(side).filter(|it| !it.is_empty())
    };
    by_ports
        .into_values()
        .map(|(ports, (ready, unready))| EndpointSubset {
            addresses: sorted(ready),
            not_ready_addresses: sorted(unready),
            ports: Some(ports).filter(|it| !it.is_empty()),
        })
        .collect()
}

/// Cuts what is too many; tells whether something was.
fn truncate(subsets: &mut Vec<EndpointSubset>) -> bool {
    let mut room = ADDRESSES_MAX;
    let mut cut = false;
    let mut keep = |side: &mut Option<Vec<EndpointAddress>>| {
        let Some(list) = side else { return };
        cut |= list.len() > room;
        list.truncate(room);
        room -= list.len();
        if list.is_empty() {
            *side = None;
        }
    };
    subsets.iter_mut().for_each(|it| keep(&mut it.addresses));
    subsets.iter_mut().for_each(|it| keep(&mut it.not_ready_addresses));
    subsets.retain(|it| it.addresses.is_some() || it.not_ready_addresses.is_some());
    cut
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service() -> Service {
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "shop"},
            "spec": {"clusterIP": "10.43.0.5", "selector": {"app": "web"},
                "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}}))
        .unwrap()
    }

    fn pod(name: &str, ip: &str, ready: &str) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": name, "namespace": "shop"},
                "spec": {"containers": []}, "status": {"phase": "Running", "podIP": ip,
                    "conditions": [{"type": "Ready", "status": ready}]}}))
            .unwrap(),
        )
    }

    #[test]
    fn ready_and_unready_addresses_share_a_subset_and_are_in_order() {
        let pods = [
            pod("c", "10.42.0.10", "True"),
            pod("a", "10.42.0.9", "True"),
            pod("b", "10.42.0.8", "False"),
        ];
        let made = wanted(&service(), &pods, None);
        let subsets = made.subsets.clone().unwrap();
        assert_eq!(subsets.len(), 1);
        let ips: Vec<_> = subsets[0].addresses.iter().flatten().map(|it| it.ip.as_str()).collect();
        assert_eq!(ips, ["10.42.0.9", "10.42.0.10"]);
        assert_eq!(subsets[0].not_ready_addresses.as_ref().unwrap().len(), 1);
        assert_eq!(wanted(&service(), &pods, Some(&made)), made, "nothing to write");
    }

    #[test]
    fn what_is_too_many_is_cut_and_told() {
        let pods: Vec<_> = (0..1001_u32)
            .map(|n| pod("p", &IpAddr::from((n + (10 << 24)).to_be_bytes()).to_string(), "True"))
            .collect();
        let made = wanted(&service(), &pods, None);
        assert_eq!(made.subsets.as_ref().unwrap()[0].addresses.as_ref().unwrap().len(), 1000);
        assert!(made.metadata.annotations.as_ref().unwrap().contains_key(OVER_CAPACITY));
        let less = wanted(&service(), &pods[..3], Some(&made));
        assert_eq!(less.metadata.annotations, None);
    }
}
