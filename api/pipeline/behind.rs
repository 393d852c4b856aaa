//! Which pod answers for a service that is proxied to.
//!
//! Keeps: only endpoints that are ready are chosen, each as likely as the others.

use rand::seq::IndexedRandom as _;
use serde_json::Value;

use super::Road;
use super::connect::Connection;
use crate::error::{Reason, Status};
use crate::object::meta;

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A pod and its port.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Endpoint {
    pod: String,
    port: u64,
}

impl Road {
    /// The same connection to one of the pods behind the service.
    pub(super) fn behind(&self, connection: Connection) -> Result<Connection, Status> {
        let Connection { namespace, name, object, .. } = &connection;
        let (scheme, port) = scheme_and_port(name);
        let service = meta::name(object);
        let none = || {
            let why = format!("no endpoints available for service {service:?}");
            Status::new(Reason::ServiceUnavailable, why)
        };
        let port = port_name(object, port).ok_or_else(|| {
            Status::new(
                Reason::ServiceUnavailable,
                format!("no service port {port:?} found for service {service:?}"),
            )
        })?;
        let stored = |group: &str, resource: &str| {
            self.registry.find(group, "v1", resource).map(|kind| kind.stored.clone())
        };
        let slices = stored("discovery.k8s.io", "endpointslices").ok_or_else(none)?;
        let (slices, _) = self.objects.list(&slices, Some(namespace))?;
        let mut all = Vec::new();
        for slice in &slices {
            all.extend(endpoints(slice.value()?, service, port));
        }
        let chosen = all.choose(&mut rand::rng()).ok_or_else(none)?;
        let pods = stored("", "pods").ok_or_else(none)?;
        let pod = self.objects.get(&pods, namespace, &chosen.pod)?.ok_or_else(none)?;
        Ok(Connection {
            resource: "pods".into(),
            name: format!("{scheme}:{}:{}", chosen.pod, chosen.port),
            object: pod.value()?.clone(),
            ..connection.clone()
        })
    }
}

/// Of `scheme:name:port`; either may be missing.
fn scheme_and_port(name: &str) -> (&str, &str) {
    match name.split(':').collect::<Vec<_>>()[..] {
        ["", _, port] => ("http", port),
        [scheme, _, port] => (scheme, port),
        [scheme @ ("http" | "https"), _] => (scheme, ""),
        [_, port] => ("http", port),
        _ => ("http", ""),
    }
}

/// What slices call a port of the service; without one, the only port, or the one without a name.
fn port_name<'a>(service: &'a Value, port: &str) -> Option<&'a str> {
    let ports = meta::at(service, &["spec", "ports"])?.as_array()?;
    let name = |it: &'a Value| meta::text(it, &["name"]);
    let number = port.parse::<u64>().ok();
    let is_it = |it: &&Value| {
        name_of(it) == port
            || (number.is_some() && it.get("port").and_then(Value::as_u64) == number)
    };
    match ports.as_slice() {
        [only] if port.is_empty() => Some(name(only)),
        many => many.iter().find(is_it).map(name),
    }
}

fn name_of(port: &Value) -> &str {
    meta::text(port, &["name"])
}

fn endpoints(slice: &Value, service: &str, port: &str) -> Vec<Endpoint> {
    let labels = meta::labels(slice);
    let of = labels.and_then(|it| it.get(SERVICE_NAME)).and_then(Value::as_str);
    if of != Some(service) {
        return Vec::new();
    }
    let list = |field: &str| {
        slice.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
    };
    let Some(port) = list("ports").iter().find(|it| name_of(it) == port) else { return Vec::new() };
    let Some(port) = port.get("port").and_then(Value::as_u64) else { return Vec::new() };
    let is_ready =
        |it: &&Value| meta::at(it, &["conditions", "ready"]) != Some(&Value::Bool(false));
    let is_pod = |it: &&Value| meta::text(it, &["targetRef", "kind"]) == "Pod";
    let pods = list("endpoints").iter().filter(is_ready).filter(is_pod);
    let pod = |it: &Value| Endpoint { pod: meta::text(it, &["targetRef", "name"]).into(), port };
    pods.map(pod).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_port_is_named_by_its_name_its_number_or_not_at_all() {
        let two =
            json!({"spec": {"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]}});
        let one = json!({"spec": {"ports": [{"port": 80}]}});
        for (service, port, name) in [
            (&two, "a", Some("a")),
            (&two, "81", Some("b")),
            (&two, "", None),
            (&two, "82", None),
            (&one, "", Some("")),
            (&one, "80", Some("")),
        ] {
            assert_eq!(port_name(service, port), name, "{port}");
        }
        for (name, parts) in [
            ("web", ("http", "")),
            ("web:80", ("http", "80")),
            ("https:web:443", ("https", "443")),
            ("https:web:", ("https", "")),
            (":web:a", ("http", "a")),
            ("http:web", ("http", "")),
        ] {
            assert_eq!(scheme_and_port(name), parts, "{name}");
        }
    }

    #[test]
    fn only_pods_that_are_ready_answer_for_their_service() {
        let endpoint = |name: &str, kind: &str, conditions: Value| {
            let target = json!({"kind": kind, "name": name});
            json!({"targetRef": target, "conditions": conditions})
        };
        let slice = json!({
            "metadata": {"labels": {SERVICE_NAME: "web"}},
            "ports": [{"name": "a", "port": 8080}],
            "endpoints": [
                endpoint("one", "Pod", json!({"ready": true})),
                endpoint("two", "Pod", json!({"ready": false})),
                endpoint("three", "Pod", json!({})),
                endpoint("four", "Node", json!({"ready": true})),
            ],
        });
        let found: Vec<_> = endpoints(&slice, "web", "a").into_iter().map(|it| it.pod).collect();
        assert_eq!(found, ["one", "three"]);
        assert!(endpoints(&slice, "other", "a").is_empty());
        assert!(endpoints(&slice, "web", "b").is_empty());
    }
}
