//! Which pods are behind a service, and at which port. Pure.

use serde_json::Value;

use crate::error::{Reason, Status};
use crate::object::meta;

/// The name of the service's port that is meant: by its number, or by itself.
pub(super) fn port_name(service: &Value, wanted: &str) -> Result<String, Status> {
    let Ok(number) = wanted.parse::<u64>() else { return Ok(wanted.to_owned()) };
    let ports = meta::at(service, &["spec", "ports"]).and_then(Value::as_array);
    let found = ports.into_iter().flatten().find(|port| port["port"].as_u64() == Some(number));
    let name = meta::name(service);
    let why = format!("no service port {number} found for service {name:?}");
    let found = found.ok_or_else(|| Status::new(Reason::ServiceUnavailable, why))?;
    Ok(meta::text(found, &["name"]).to_owned())
}

/// The pods that are ready for it, by the service's slices, each with the number of the port there.
pub(super) fn ends<'a>(
    service: &Value,
    port: &str,
    slices: impl Iterator<Item = &'a Value>,
) -> Vec<(String, u64)> {
    let of_service = |slice: &&Value| {
        let label = slice.pointer("/metadata/labels/kubernetes.io~1service-name");
        label.and_then(Value::as_str) == Some(meta::name(service))
    };
    let mut ends = Vec::new();
    for slice in slices.filter(of_service) {
        let ports = slice["ports"].as_array().into_iter().flatten();
        let mut ports = ports.filter(|it| meta::text(it, &["name"]) == port);
        let Some(number) = ports.find_map(|it| it["port"].as_u64()) else { continue };
        let ready = |end: &&Value| end["conditions"]["ready"] != Value::Bool(false);
        for end in slice["endpoints"].as_array().into_iter().flatten().filter(ready) {
            let target = &end["targetRef"];
            if target["kind"] == "Pod" {
                ends.push((meta::text(target, &["name"]).to_owned(), number));
            }
        }
    }
    ends
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_service_leads_to_ready_pods_at_the_port_that_its_own_stands_for() {
        let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [
            {"name": "web", "port": 80}, {"name": "more", "port": 81}]}});
        assert_eq!(port_name(&service, "81").unwrap(), "more");
        assert_eq!(port_name(&service, "web").unwrap(), "web");
        let unknown = port_name(&service, "82").unwrap_err();
        assert_eq!(unknown.message(), "no service port 82 found for service \"s\"");
        let slice = |of: &str, ready: bool| {
            json!({"metadata": {"labels": {"kubernetes.io/service-name": of}},
                "ports": [{"name": "web", "port": 8080}, {"name": "more", "port": 8081}],
                "endpoints": [{"conditions": {"ready": ready},
                    "targetRef": {"kind": "Pod", "name": format!("{of}-{ready}")}},
                    {"addresses": ["192.0.2.1"]}]})
        };
        let slices = [slice("s", true), slice("s", false), slice("other", true)];
        assert_eq!(ends(&service, "more", slices.iter()), [("s-true".to_owned(), 8081)]);
        assert!(ends(&service, "", slices.iter()).is_empty());
    }
}
