//! Shows Endpoints that people wrote themselves as EndpointSlices, which is what proxies read.
//!
//! Never: touches a slice that it does not manage, or mirrors what other controllers made of a selector.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kontiki_api::Status;
use kontiki_api::client::Client;

use super::ownership::reference_to;
use super::slices::{Group, MANAGED_BY, SERVICE_NAME, plan, service_of};
use super::{Context, Loop, WORKERS};
use crate::reconcile::{Informer, Key, Next, Pending, Reconcile};

const NAME: &str = "endpointslice-mirroring-controller";
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that speak of the Endpoints object itself.
const OWN: [&str; 2] = [
    "endpoints.kubernetes.io/last-change-trigger-time",
    "kubectl.kubernetes.io/last-applied-configuration",
];
const ENDPOINTS_MAX: usize = 1000;
const BY_ENDPOINTS: &str = "mirrored-endpoints";

struct Controller {
    client: Client,
    services: Informer<Service>,
    endpoints: Informer<Endpoints>,
    slices: Informer<EndpointSlice>,
    pending: Pending,
}

pub fn start(context: &Context) -> Vec<Loop> {
    let queue = context.queue(NAME);
    let services = context.informers.of::<Service>();
    let endpoints = context.informers.of::<Endpoints>();
    let slices = context.informers.of::<EndpointSlice>();
    slices.index(BY_ENDPOINTS, |slice| {
        service_of(slice, MANAGER).map(|key| key.to_string()).into_iter().collect()
    });
    services.on({
        let queue = queue.clone();
        move |delta| queue.add(Key::of(&delta.object().metadata))
    });
    endpoints.on({
        let queue = queue.clone();
        move |delta| queue.add(Key::of(&delta.object().metadata))
    });
    slices.on({
        let queue = queue.clone();
        move |delta| {
            if let Some(key) = service_of(delta.object(), MANAGER) {
                queue.add(key);
            }
        }
    });
    let client = context.client(NAME);
    let pending = Pending::default();
    let controller = Controller { client, services, endpoints, slices, pending };
    vec![Loop::new(controller, queue, WORKERS)]
}

impl Reconcile for Controller {
    type Key = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Status> {
        if !self.pending.seen(key, &self.slices) {
            return Ok(Next::Again);
        }
        let existing = self.slices.by_index(BY_ENDPOINTS, &key.to_string());
        let service = self.services.get(key);
        let endpoints = self.endpoints.get(key);
        let endpoints = endpoints.filter(|it| is_mirrored(it, service.as_deref()));
        let plan = match &endpoints {
            Some(endpoints) => {
                let groups = groups(endpoints.subsets.as_deref().unwrap_or_default());
                plan(&existing, groups, ENDPOINTS_MAX, |it| dress(endpoints, it))
            }
            None => plan(&existing, Vec::new(), ENDPOINTS_MAX, |_| {}),
        };
        plan.perform(&self.client, key, &self.pending).await?;
        Ok(Next::WhenChanged)
    }
}

/// Whether the object is one that people keep: its service selects nothing.
fn is_mirrored(endpoints: &Endpoints, service: Option<&Service>) -> bool {
    let has = |map: &Option<BTreeMap<String, String>>, key: &str| {
        map.as_ref().and_then(|map| map.get(key)).cloned()
    };
    let metadata = &endpoints.metadata;
    let selects =
        |service: &Service| service.spec.as_ref().is_some_and(|spec| spec.selector.is_some());
    has(&metadata.labels, SKIP).as_deref() != Some("true")
        && has(&metadata.annotations, LEADER).is_none()
        && metadata.deletion_timestamp.is_none()
        && service.is_some_and(|service| !selects(service))
}

fn groups(subsets: &[EndpointSubset]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for subset in subsets {
        let ports = ports(subset);
        let ready = subset.addresses.iter().flatten().map(|it| (it, true));
        let unready = subset.not_ready_addresses.iter().flatten().map(|it| (it, false));
        // An address that does not read as one is left out, as upstream does.
        for (address_type, endpoint) in
            ready.chain(unready).filter_map(|(it, ready)| endpoint(it, ready))
        {
            let same =
                |group: &&mut Group| group.address_type == address_type && group.ports == ports;
            match groups.iter_mut().find(same) {
                Some(group) => group.endpoints.push(endpoint),
                None => groups.push(Group {
                    address_type: address_type.into(),
                    ports: ports.clone(),
                    endpoints: vec![endpoint],
                }),
            }
        }
    }
    // One subset was one slice; so it stays, and what is beyond is not shown.
    groups.iter_mut().for_each(|group| group.endpoints.truncate(ENDPOINTS_MAX));
    groups
}

fn ports(subset: &EndpointSubset) -> Vec<EndpointPort> {
    let ports = subset.ports.as_deref().unwrap_or_default();
    ports
        .iter()
        .map(|port| EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(port.port),
            protocol: port.protocol.clone(),
            app_protocol: port.app_protocol.clone(),
        })
        .collect()
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Option<(&'static str, Endpoint)> {
    let ip: IpAddr = address.ip.parse().ok()?;
    let endpoint = Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..Default::default() }),
        hostname: address.hostname.clone().filter(|it| !it.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    };
    Some((if ip.is_ipv4() { "IPv4" } else { "IPv6" }, endpoint))
}

fn dress(endpoints: &Endpoints, metadata: &mut ObjectMeta) {
    let name = endpoints.metadata.name.clone().unwrap_or_default();
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.into(), name.clone());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    metadata.labels = Some(labels);
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| !OWN.contains(&key.as_str()));
    metadata.annotations = Some(annotations).filter(|it| !it.is_empty());
    if metadata.name.is_none() {
        metadata.generate_name = Some(format!("{name}-"));
        metadata.namespace.clone_from(&endpoints.metadata.namespace);
        metadata.owner_references = Some(vec![reference_to(endpoints)]);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn endpoints(metadata: Value) -> Endpoints {
        serde_json::from_value(json!({"metadata": metadata, "subsets": [
            {"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}, {"ip": "none"}],
             "notReadyAddresses": [{"ip": "10.0.0.2"}], "ports": [{"port": 80}]}]}))
        .unwrap()
    }

    fn service(spec: Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": "db"}, "spec": spec})).unwrap()
    }

    #[test]
    fn only_what_people_keep_is_mirrored() {
        let plain = endpoints(json!({"name": "db"}));
        assert!(is_mirrored(&plain, Some(&service(json!({})))));
        assert!(!is_mirrored(&plain, None));
        assert!(!is_mirrored(&plain, Some(&service(json!({"selector": {"a": "b"}})))));
        let skipped = endpoints(json!({"name": "db", "labels": {SKIP: "true"}}));
        assert!(!is_mirrored(&skipped, Some(&service(json!({})))));
        let election = endpoints(json!({"name": "db", "annotations": {LEADER: "{}"}}));
        assert!(!is_mirrored(&election, Some(&service(json!({})))));
    }

    #[test]
    fn addresses_are_sorted_into_families_and_keep_their_state() {
        let groups = groups(endpoints(json!({"name": "db"})).subsets.as_deref().unwrap());
        let told: Vec<_> = groups
            .iter()
            .flat_map(|group| group.endpoints.iter().map(|it| (group.address_type.as_str(), it)))
            .map(|(family, it)| {
                let ready = it.conditions.as_ref().and_then(|it| it.ready).unwrap();
                format!("{family} {} {ready}", it.addresses[0])
            })
            .collect();
        assert_eq!(told, ["IPv4 10.0.0.1 true", "IPv4 10.0.0.2 false", "IPv6 fd00::1 true"]);
    }
}
