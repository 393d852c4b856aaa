//! Keeps the EndpointSlices of services that select pods.
//!
//! Keeps: at most [`ENDPOINTS_MAX`] endpoints in a slice; a service without endpoints has one empty slice for
//! each address family, so that "none" can be told from "not looked at yet".
//! Not made here: topology hints, and the annotation with the time of the last change.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kontiki_api::Status;
use kontiki_api::client::Client;

use super::ownership::reference_to;
use super::slices::{Group, HEADLESS, MANAGED_BY, SERVICE_NAME, plan, service_of};
use super::{Context, Loop, WORKERS, pods};
use crate::reconcile::{Delta, Informer, Key, Next, Pending, Queue, Reconcile};

const NAME: &str = "endpointslice-controller";
/// As the label on slices says it.
const MANAGER: &str = "endpointslice-controller.k8s.io";
const ENDPOINTS_MAX: usize = 100;
const ZONE: &str = "topology.kubernetes.io/zone";
const BY_SERVICE: &str = "service";

struct Controller {
    client: Client,
    services: Informer<Service>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    slices: Informer<EndpointSlice>,
    pending: Pending,
}

pub fn start(context: &Context) -> Vec<Loop> {
    let queue = context.queue(NAME);
    let services = context.informers.of::<Service>();
    let pods = context.informers.of::<Pod>();
    let slices = context.informers.of::<EndpointSlice>();
    slices.index(BY_SERVICE, |slice| {
        service_of(slice, MANAGER).map(|key| key.to_string()).into_iter().collect()
    });
    services.on({
        let queue = queue.clone();
        move |delta| queue.add(Key::of(&delta.object().metadata))
    });
    follow_pods(&pods, &services, &queue);
    slices.on({
        let queue = queue.clone();
        move |delta| {
            if let Some(key) = service_of(delta.object(), MANAGER) {
                queue.add(key);
            }
        }
    });
    let controller = Controller {
        client: context.client(NAME),
        services,
        pods,
        nodes: context.informers.of::<Node>(),
        slices,
        pending: Pending::default(),
    };
    vec![Loop::new(controller, queue, WORKERS)]
}

/// A change of a pod concerns every service that selects it or did.
pub(super) fn follow_pods(pods: &Informer<Pod>, services: &Informer<Service>, queue: &Queue<Key>) {
    let (services, queue) = (services.clone(), queue.clone());
    pods.on(move |delta| {
        let pod = delta.object();
        let before = match delta {
            Delta::Updated { old, new } if !matters(old, new) => return,
            Delta::Updated { old, .. } => Some(&old.metadata),
            _ => None,
        };
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        for service in services.in_namespace(namespace) {
            if selects(&service, &pod.metadata) || before.is_some_and(|it| selects(&service, it)) {
                queue.add(Key::of(&service.metadata));
            }
        }
    });
}

/// Whether endpoints can tell the two apart.
fn matters(old: &Pod, new: &Pod) -> bool {
    let of = |pod: &Pod| {
        let spec = pod.spec.as_ref();
        (
            pod.metadata.labels.clone(),
            pod.metadata.deletion_timestamp.is_some(),
            pods::is_ready(pod),
            pods::is_finished(pod),
            addresses(pod),
            spec.and_then(|it| it.node_name.clone()),
            spec.and_then(|it| it.hostname.clone()),
        )
    };
    of(old) != of(new)
}

/// Whether the service selects the pod. One without a selector selects nothing here.
pub(super) fn selects(service: &Service, pod: &ObjectMeta) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let labels = pod.labels.as_ref();
    selector.is_some_and(|wanted| {
        !wanted.is_empty()
            && wanted.iter().all(|(key, value)| labels.and_then(|it| it.get(key)) == Some(value))
    })
}

/// Whether endpoints of the service are kept by us: it selects, and is no alias.
pub(super) fn is_kept(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.is_some_and(|it| it.selector.is_some() && it.type_.as_deref() != Some("ExternalName"))
}

pub(super) fn is_headless(spec: &ServiceSpec) -> bool {
    matches!(spec.cluster_ip.as_deref(), None | Some("" | "None"))
}

impl Reconcile for Controller {
    type Key = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Status> {
        let Some(service) = self.services.get(key) else {
            self.pending.forget(key);
            return Ok(Next::WhenChanged);
        };
        if !is_kept(&service) || service.metadata.deletion_timestamp.is_some() {
            return Ok(Next::WhenChanged);
        }
        if !self.pending.seen(key, &self.slices) {
            return Ok(Next::Again);
        }
        let mut selected = self.pods.in_namespace(&key.namespace);
        selected.retain(|pod| selects(&service, &pod.metadata) && may_be_endpoint(pod));
        let publishes = service.spec.as_ref().and_then(|it| it.publish_not_ready_addresses);
        let count = selected.len();
        let on_node: Vec<_> = selected
            .into_iter()
            .map(|pod| (self.node_of(&pod), pod))
            .filter(|(node, _)| node.is_some() || publishes == Some(true))
            .collect();
        let groups = groups(&service, &on_node);
        let mut existing = self.slices.by_index(BY_SERVICE, &key.to_string());
        existing.retain(|slice| slice.metadata.deletion_timestamp.is_none());
        let plan = plan(&existing, groups, ENDPOINTS_MAX, |it| dress(&service, it));
        plan.perform(&self.client, key, &self.pending).await?;
        // A pod on a node that is not known yet: looked for again, without a word.
        Ok(if count > on_node.len() { Next::Again } else { Next::WhenChanged })
    }
}

impl Controller {
    fn node_of(&self, pod: &Pod) -> Option<Arc<Node>> {
        let name = pod.spec.as_ref()?.node_name.as_deref()?;
        self.nodes.get(&Key::new("", name))
    }
}

/// It has an address, and its containers may still answer.
fn may_be_endpoint(pod: &Pod) -> bool {
    !pods::is_finished(pod) && !addresses(pod).is_empty()
}

/// All addresses of the pod that can be read.
pub(super) fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let status = pod.status.as_ref();
    let many = status.and_then(|status| status.pod_ips.as_deref()).unwrap_or_default();
    let mut texts: Vec<_> = many.iter().map(|it| it.ip.as_str()).collect();
    if texts.is_empty() {
        texts.extend(status.and_then(|status| status.pod_ip.as_deref()));
    }
    texts.into_iter().filter_map(|text| text.parse().ok()).collect()
}

/// The families of a service's endpoints.
fn address_types(spec: &ServiceSpec) -> Vec<&'static str> {
    let families = spec.ip_families.as_deref().unwrap_or_default();
    let known = ["IPv4", "IPv6"];
    let named: Vec<_> =
        known.into_iter().filter(|it| families.iter().any(|family| family == it)).collect();
    if !named.is_empty() {
        return named;
    }
    match spec.cluster_ip.as_deref().and_then(|text| text.parse::<IpAddr>().ok()) {
        Some(IpAddr::V4(_)) => vec!["IPv4"],
        Some(IpAddr::V6(_)) => vec!["IPv6"],
        None => known.to_vec(),
    }
}

/// What should be in slices: for each family, the pods by the ports they have for the service.
fn groups(service: &Service, selected: &[(Option<Arc<Node>>, Arc<Pod>)]) -> Vec<Group> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let mut all = Vec::new();
    for address_type in address_types(spec) {
        let mut of_type: Vec<Group> = Vec::new();
        for (node, pod) in selected {
            let endpoint = endpoint(service, spec, pod, node.as_deref(), address_type);
            if endpoint.addresses.is_empty() {
                continue;
            }
            let ports = endpoint_ports(spec, pod);
            match of_type.iter_mut().find(|group| group.ports == ports) {
                Some(group) => group.endpoints.push(endpoint),
                None => of_type.push(Group {
                    address_type: address_type.into(),
                    ports,
                    endpoints: vec![endpoint],
                }),
            }
        }
        if of_type.is_empty() {
            of_type.push(Group { address_type: address_type.into(), ..Group::default() });
        }
        all.extend(of_type);
    }
    all
}

fn endpoint(
    service: &Service,
    spec: &ServiceSpec,
    pod: &Pod,
    node: Option<&Node>,
    address_type: &str,
) -> Endpoint {
    let serving = pods::is_ready(pod);
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let publishes = spec.publish_not_ready_addresses == Some(true);
    let of_type = |it: &IpAddr| it.is_ipv4() == (address_type == "IPv4");
    let labels = node.and_then(|node| node.metadata.labels.as_ref());
    Endpoint {
        addresses: addresses(pod).into_iter().filter(of_type).map(|it| it.to_string()).collect(),
        conditions: Some(EndpointConditions {
            // What is going is not ready, unless the service says that it does not care.
            ready: Some(publishes || serving && !terminating),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        target_ref: Some(target(pod)),
        node_name: pod.spec.as_ref().and_then(|it| it.node_name.clone()),
        zone: labels.and_then(|it| it.get(ZONE)).filter(|it| !it.is_empty()).cloned(),
        hostname: hostname(service, pod),
        ..Endpoint::default()
    }
}

pub(super) fn target(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// The name that DNS knows the pod by: its hostname, if its subdomain is the service.
pub(super) fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let hostname = spec.hostname.as_ref().filter(|it| !it.is_empty())?;
    (spec.subdomain.is_some() && spec.subdomain == service.metadata.name).then(|| hostname.clone())
}

/// The ports of the service as numbers of the pod; those it has not are left out.
fn endpoint_ports(spec: &ServiceSpec, pod: &Pod) -> Vec<EndpointPort> {
    let ports = spec.ports.as_deref().unwrap_or_default();
    ports
        .iter()
        .filter_map(|port| {
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(find_port(pod, port)?),
                protocol: Some(protocol(port.protocol.as_deref()).into()),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

pub(super) fn protocol(text: Option<&str>) -> &str {
    text.filter(|text| !text.is_empty()).unwrap_or("TCP")
}

/// The pod's port that a port of a service means: a number, or the name of a container's port.
pub(super) fn find_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let name = match &port.target_port {
        None => return Some(port.port),
        Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|it| it.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|it| it.ports.iter().flatten());
    let wanted = protocol(port.protocol.as_deref());
    let mut named = ports.filter(|it| it.name.as_ref() == Some(name));
    named.find(|it| protocol(it.protocol.as_deref()) == wanted).map(|it| it.container_port)
}

/// Labels are the service's, with ours over them.
fn dress(service: &Service, metadata: &mut ObjectMeta) {
    let name = service.metadata.name.clone().unwrap_or_default();
    let mut labels: BTreeMap<_, _> = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if service.spec.as_ref().is_some_and(is_headless) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(SERVICE_NAME.into(), name.clone());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    metadata.labels = Some(labels);
    if metadata.name.is_none() {
        metadata.generate_name = Some(format!("{name}-"));
        metadata.namespace.clone_from(&service.metadata.namespace);
        metadata.owner_references = Some(vec![reference_to(service)]);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(spec: Value) -> Service {
        let mut value = json!({"metadata": {"name": "web", "namespace": "shop", "uid": "s"},
            "spec": {"clusterIP": "10.43.0.5", "ipFamilies": ["IPv4"], "selector": {"app": "web"},
                "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}});
        for (field, new) in spec.as_object().unwrap() {
            value["spec"][field] = new.clone();
        }
        serde_json::from_value(value).unwrap()
    }

    fn pod(name: &str, port: u16, ready: &str, changes: Value) -> Arc<Pod> {
        let mut value = json!({"metadata": {"name": name, "namespace": "shop", "uid": name,
                "labels": {"app": "web"}},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "ports": [
                {"name": "http", "containerPort": port}]}]},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.42.0.9"}, {"ip": "fd00::9"}],
                "conditions": [{"type": "Ready", "status": ready}]}});
        for (field, new) in changes.as_object().unwrap() {
            value["metadata"][field] = new.clone();
        }
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn node() -> Option<Arc<Node>> {
        let value = json!({"metadata": {"name": "n", "labels": {ZONE: "east"}}});
        Some(Arc::new(serde_json::from_value(value).unwrap()))
    }

    #[test]
    fn pods_are_grouped_by_the_ports_they_have_for_the_service() {
        let pods = [
            (node(), pod("a", 8080, "True", json!({}))),
            (node(), pod("b", 9090, "True", json!({}))),
        ];
        let groups = groups(&service(json!({})), &pods);
        let ports: Vec<_> = groups.iter().map(|it| it.ports[0].port).collect();
        assert_eq!(ports, [Some(8080), Some(9090)]);
        let endpoint = &groups[0].endpoints[0];
        assert_eq!(endpoint.addresses, ["10.42.0.9"]);
        assert_eq!(endpoint.zone.as_deref(), Some("east"));
    }

    #[test]
    fn conditions_follow_readiness_and_deletion() {
        let going = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        let table = [
            ("True", json!({}), false, (true, true, false)),
            ("False", json!({}), false, (false, false, false)),
            ("True", going.clone(), false, (false, true, true)),
            ("True", going, true, (true, true, true)),
        ];
        for (ready, changes, publishes, expected) in table {
            let service = service(json!({"publishNotReadyAddresses": publishes}));
            let groups = groups(&service, &[(node(), pod("a", 80, ready, changes))]);
            let conditions = groups[0].endpoints[0].conditions.clone().unwrap();
            let found = (conditions.ready, conditions.serving, conditions.terminating);
            let expected = (Some(expected.0), Some(expected.1), Some(expected.2));
            assert_eq!(found, expected, "{ready} {publishes}");
        }
    }

    #[test]
    fn each_family_without_endpoints_has_an_empty_group() {
        let both = service(json!({"ipFamilies": ["IPv6", "IPv4"]}));
        let types: Vec<_> = groups(&both, &[]).into_iter().map(|it| it.address_type).collect();
        assert_eq!(types, ["IPv4", "IPv6"]);
    }

    #[test]
    fn a_headless_service_is_labelled_so() {
        let mut metadata = ObjectMeta::default();
        dress(&service(json!({"clusterIP": "None"})), &mut metadata);
        assert!(metadata.labels.as_ref().unwrap().contains_key(HEADLESS));
        assert_eq!(metadata.generate_name.as_deref(), Some("web-"));
        dress(&service(json!({})), &mut metadata);
        assert!(!metadata.labels.unwrap().contains_key(HEADLESS));
    }
}
