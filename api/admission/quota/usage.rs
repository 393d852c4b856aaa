//! What an object takes of a quota, and whether a quota's scopes mean it. Pure: the controller that counts anew
//! asks the same.

use serde_json::Value;

use crate::admission::resources::{Of, ResourceList, of_pod, read};
use crate::admission::volume_resize::class_of;
use crate::live::pod::{containers, items};
use crate::object::Quantity;
use crate::object::quantity::Format;
use crate::object::time::Timestamp;

const CLASS_SUFFIX: &str = ".storageclass.storage.k8s.io/";

/// How objects of a resource are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    Pod,
    Service,
    Claim,
    /// By number alone.
    Number,
}

impl Counted {
    #[must_use]
    pub fn of(group: &str, resource: &str) -> Counted {
        match (group, resource) {
            ("", "pods") => Counted::Pod,
            ("", "services") => Counted::Service,
            ("", "persistentvolumeclaims") => Counted::Claim,
            _ => Counted::Number,
        }
    }
}

/// `count/pods`, `count/deployments.apps`
#[must_use]
pub fn count_name(group: &str, resource: &str) -> String {
    if group.is_empty() { format!("count/{resource}") } else { format!("count/{resource}.{group}") }
}

/// Resources whose number has an older name as well.
fn has_plain_name(group: &str, resource: &str) -> bool {
    const PLAIN: [&str; 4] = ["configmaps", "replicationcontrollers", "resourcequotas", "secrets"];
    group.is_empty() && PLAIN.contains(&resource)
}

/// Whether the quota's `name` limits objects of the resource.
#[must_use]
pub fn concerns(group: &str, resource: &str, name: &str) -> bool {
    if name == count_name(group, resource) {
        return true;
    }
    match Counted::of(group, resource) {
        Counted::Pod => is_of_pods(name),
        Counted::Service => {
            matches!(name, "services" | "services.nodeports" | "services.loadbalancers")
        }
        Counted::Claim => ["persistentvolumeclaims", "requests.storage"].iter().any(|own| {
            name == *own || name.strip_suffix(own).is_some_and(|it| it.ends_with(CLASS_SUFFIX))
        }),
        Counted::Number => has_plain_name(group, resource) && name == resource,
    }
}

fn is_of_pods(name: &str) -> bool {
    const OWN: [&str; 10] = [
        "cpu",
        "memory",
        "ephemeral-storage",
        "requests.cpu",
        "requests.memory",
        "requests.ephemeral-storage",
        "limits.cpu",
        "limits.memory",
        "limits.ephemeral-storage",
        "pods",
    ];
    let huge = name.starts_with("hugepages-") || name.starts_with("requests.hugepages-");
    OWN.contains(&name) || huge || name.strip_prefix("requests.").is_some_and(is_extended)
}

/// A resource that Kubernetes itself does not know: `example.com/gpu`.
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}

fn number(count: usize) -> Quantity {
    Quantity::new(i64::try_from(count).unwrap_or(i64::MAX), Format::DecimalSi)
}

/// What the object takes.
#[must_use]
pub fn usage(group: &str, resource: &str, object: &Value, now: Timestamp) -> ResourceList {
    let mut list = match Counted::of(group, resource) {
        Counted::Pod => of_one_pod(object, now),
        Counted::Service => of_service(object),
        Counted::Claim => of_claim(object),
        Counted::Number => ResourceList::new(),
    };
    list.insert(count_name(group, resource), number(1));
    if has_plain_name(group, resource) {
        list.insert(resource.into(), number(1));
    }
    list
}

/// A pod that has ended, or should have, takes nothing but its place.
fn of_one_pod(pod: &Value, now: Timestamp) -> ResourceList {
    let mut list = ResourceList::new();
    if matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded")) {
        return list;
    }
    let metadata = &pod["metadata"];
    let deletion = metadata["deletionTimestamp"].as_str().and_then(Timestamp::parse);
    let grace = metadata["deletionGracePeriodSeconds"].as_i64();
    if deletion.zip(grace).is_some_and(|(at, grace)| now > at.plus_seconds(grace)) {
        return list;
    }
    list.insert("pods".into(), number(1));
    let is_huge = |name: &str| name.starts_with("hugepages-");
    for (name, quantity) in of_pod(pod, Of::Requests) {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || is_huge(&name) {
            list.insert(format!("requests.{name}"), quantity);
            list.insert(name, quantity);
        } else if is_extended(&name) {
            list.insert(format!("requests.{name}"), quantity);
        }
    }
    for (name, quantity) in of_pod(pod, Of::Limits) {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            list.insert(format!("limits.{name}"), quantity);
        }
    }
    list
}

fn of_service(service: &Value) -> ResourceList {
    let spec = &service["spec"];
    let ports = items(&spec["ports"]).count();
    let given = items(&spec["ports"]).filter(|port| port["nodePort"].as_i64().unwrap_or(0) != 0);
    let (node_ports, balancers) = match spec["type"].as_str() {
        Some("NodePort") => (ports, 0),
        Some("LoadBalancer") if spec["allocateLoadBalancerNodePorts"] == false => {
            (given.count(), 1)
        }
        Some("LoadBalancer") => (ports, 1),
        _ => (0, 0),
    };
    ResourceList::from([
        ("services".into(), number(1)),
        ("services.nodeports".into(), number(node_ports)),
        ("services.loadbalancers".into(), number(balancers)),
    ])
}

fn of_claim(claim: &Value) -> ResourceList {
    let class = class_of(claim);
    let mut list = ResourceList::new();
    let mut insert = |name: &str, quantity: Quantity| {
        list.insert(name.into(), quantity);
        if !class.is_empty() {
            list.insert(format!("{class}{CLASS_SUFFIX}{name}"), quantity);
        }
    };
    insert("persistentvolumeclaims", number(1));
    if let Some(asked) = read(&claim["spec"]["resources"]["requests"]).get("storage") {
        let allocated = read(&claim["status"]["allocatedResources"]);
        let greater = allocated.get("storage").map_or(*asked, |allocated| *allocated.max(asked));
        // A fraction of a byte takes a byte; what is whole keeps its way of writing.
        let whole = Quantity::new(greater.value(), greater.format());
        insert("requests.storage", if whole == greater { greater } else { whole });
    }
    list
}

/// What a pod must say for each container where a quota limits it; the error names what is missing.
pub(super) fn constraints(limited: &[&str], pod: &Value) -> Result<(), String> {
    const MUST: [&str; 6] =
        ["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"];
    let spec = &pod["spec"];
    let of_whole_pod = ["requests", "limits"].iter().any(|field| {
        let list = spec["resources"][field].as_object();
        list.is_some_and(|list| list.keys().any(|it| it == "cpu" || it == "memory"))
    });
    if of_whole_pod {
        return Ok(());
    }
    let mut missing = Vec::new();
    for name in MUST.iter().filter(|name| limited.contains(name)) {
        let (field, resource) = match name.split_once('.') {
            Some((field, resource)) => (field, resource),
            None => ("requests", *name),
        };
        let lists = ["containers", "initContainers"];
        let mut without: Vec<&str> = lists
            .iter()
            .flat_map(|list| items(&spec[*list]))
            .filter(|container| container["resources"][field][resource].is_null())
            .filter_map(|container| container["name"].as_str())
            .collect();
        without.sort_unstable();
        without.dedup();
        if !without.is_empty() {
            missing.push(format!("{name} for: {}", without.join(",")));
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(format!("must specify {}", missing.join("; "))) }
}

/// Whether all scopes of the quota mean the object.
#[must_use]
pub fn in_scope(group: &str, resource: &str, quota: &Value, object: &Value) -> bool {
    let spec = &quota["spec"];
    let counted = Counted::of(group, resource);
    let plain = items(&spec["scopes"])
        .filter_map(Value::as_str)
        .all(|scope| matches_scope(counted, scope, "Exists", &[], object));
    plain
        && items(&spec["scopeSelector"]["matchExpressions"]).all(|expression| {
            let text = |field: &str| expression[field].as_str().unwrap_or_default();
            let values: Vec<&str> =
                items(&expression["values"]).filter_map(Value::as_str).collect();
            matches_scope(counted, text("scopeName"), text("operator"), &values, object)
        })
}

fn matches_scope(
    counted: Counted,
    scope: &str,
    operator: &str,
    values: &[&str],
    object: &Value,
) -> bool {
    let among = |names: &[&str]| {
        let any = || names.iter().any(|name| values.contains(name));
        match operator {
            "In" => any(),
            "NotIn" => names.is_empty() || names.iter().any(|name| !values.contains(name)),
            "Exists" => !names.is_empty(),
            "DoesNotExist" => names.is_empty(),
            _ => false,
        }
    };
    let spec = &object["spec"];
    match (counted, scope) {
        (Counted::Pod, "Terminating") => is_terminating(object),
        (Counted::Pod, "NotTerminating") => !is_terminating(object),
        (Counted::Pod, "BestEffort") => is_best_effort(object),
        (Counted::Pod, "NotBestEffort") => !is_best_effort(object),
        (Counted::Pod, "PriorityClass") => {
            let class = spec["priorityClassName"].as_str().filter(|class| !class.is_empty());
            among(class.as_slice())
        }
        (Counted::Pod, "CrossNamespacePodAffinity") => reaches_other_namespaces(spec),
        (Counted::Claim, "VolumeAttributesClass") => {
            let status = &object["status"];
            let mut classes: Vec<&str> = [
                &spec["volumeAttributesClassName"],
                &status["currentVolumeAttributesClassName"],
                &status["modifyVolumeStatus"]["targetVolumeAttributesClassName"],
            ]
            .into_iter()
            .filter_map(Value::as_str)
            .filter(|class| !class.is_empty())
            .collect();
            classes.dedup();
            among(&classes)
        }
        _ => false,
    }
}

/// It ends by a deadline of its own.
pub(super) fn is_terminating(pod: &Value) -> bool {
    pod["spec"]["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0)
}

/// It asks for no share of a processor or of memory at all.
fn is_best_effort(pod: &Value) -> bool {
    if let Some(class) = pod["status"]["qosClass"].as_str().filter(|class| !class.is_empty()) {
        return class == "BestEffort";
    }
    let asks = |resources: &Value| {
        ["requests", "limits"].iter().any(|field| {
            let list = read(&resources[*field]);
            let some = |name: &str| list.get(name).is_some_and(|quantity| !quantity.is_zero());
            some("cpu") || some("memory")
        })
    };
    let spec = &pod["spec"];
    !asks(&spec["resources"]) && !containers(spec).any(|container| asks(&container["resources"]))
}

fn reaches_other_namespaces(spec: &Value) -> bool {
    let term = |term: &Value| {
        items(&term["namespaces"]).next().is_some() || term["namespaceSelector"].is_object()
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let affinity = &spec["affinity"][*kind];
        items(&affinity["requiredDuringSchedulingIgnoredDuringExecution"]).any(term)
            || items(&affinity["preferredDuringSchedulingIgnoredDuringExecution"])
                .any(|weighted| term(&weighted["podAffinityTerm"]))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(group: &str, resource: &str, object: &Value) -> String {
        let list = usage(group, resource, object, Timestamp::from_seconds(1000));
        list.iter().map(|(name, it)| format!("{name}={it}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_kind_takes_what_it_is_counted_by() {
        let pod = json!({"spec": {"containers": [{"name": "a", "resources": {
            "requests": {"cpu": "1", "example.com/gpu": "2", "hugepages-2Mi": "4Mi"},
            "limits": {"memory": "1Gi"},
        }}]}});
        assert_eq!(
            told("", "pods", &pod),
            "count/pods=1 cpu=1 hugepages-2Mi=4Mi limits.memory=1Gi pods=1 requests.cpu=1 \
             requests.example.com/gpu=2 requests.hugepages-2Mi=4Mi"
        );
        let mut ended = pod.clone();
        ended["status"]["phase"] = "Succeeded".into();
        assert_eq!(told("", "pods", &ended), "count/pods=1");
        let service = json!({"spec": {"type": "LoadBalancer", "ports": [{}, {}]}});
        assert_eq!(
            told("", "services", &service),
            "count/services=1 services=1 services.loadbalancers=1 services.nodeports=2"
        );
        let claim = json!({"spec": {
            "storageClassName": "fast", "resources": {"requests": {"storage": "1Gi"}},
        }});
        assert_eq!(
            told("", "persistentvolumeclaims", &claim),
            "count/persistentvolumeclaims=1 \
             fast.storageclass.storage.k8s.io/persistentvolumeclaims=1 \
             fast.storageclass.storage.k8s.io/requests.storage=1Gi persistentvolumeclaims=1 \
             requests.storage=1Gi"
        );
        assert_eq!(told("", "secrets", &json!({})), "count/secrets=1 secrets=1");
        assert_eq!(told("apps", "deployments", &json!({})), "count/deployments.apps=1");
    }

    #[test]
    fn a_name_limits_what_it_names() {
        for (group, resource, name, is) in [
            ("", "pods", "requests.example.com/gpu", true),
            ("", "pods", "requests.storage", false),
            ("", "persistentvolumeclaims", "requests.storage", true),
            (
                "",
                "persistentvolumeclaims",
                "fast.storageclass.storage.k8s.io/requests.storage",
                true,
            ),
            ("", "services", "services.nodeports", true),
            ("", "secrets", "secrets", true),
            ("apps", "secrets", "secrets", false),
            ("apps", "deployments", "count/deployments.apps", true),
            ("", "pods", "count/deployments.apps", false),
        ] {
            assert_eq!(concerns(group, resource, name), is, "{group}/{resource}: {name}");
        }
    }

    #[test]
    fn scopes_choose_pods() {
        let scoped = |scope: &str, pod: Value| {
            in_scope("", "pods", &json!({"spec": {"scopes": [scope]}}), &json!({ "spec": pod }))
        };
        assert!(scoped("Terminating", json!({"activeDeadlineSeconds": 1})));
        assert!(!scoped("NotTerminating", json!({"activeDeadlineSeconds": 1})));
        assert!(scoped("BestEffort", json!({"containers": [{"name": "a"}]})));
        let asks = json!({"containers": [{"resources": {"limits": {"cpu": "1"}}}]});
        assert!(scoped("NotBestEffort", asks));
        assert!(scoped(
            "CrossNamespacePodAffinity",
            json!({"affinity": {"podAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [{"namespaceSelector": {}}],
            }}})
        ));
        let selector = |operator: &str, values: Value, class: Value| {
            let expression =
                json!({"scopeName": "PriorityClass", "operator": operator, "values": values});
            let quota = json!({"spec": {"scopeSelector": {"matchExpressions": [expression]}}});
            in_scope("", "pods", &quota, &json!({"spec": {"priorityClassName": class}}))
        };
        assert!(selector("In", json!(["high"]), json!("high")));
        assert!(!selector("In", json!(["high"]), Value::Null));
        assert!(selector("NotIn", json!(["high"]), Value::Null));
        assert!(selector("DoesNotExist", json!([]), Value::Null));
        assert!(!in_scope(
            "",
            "services",
            &json!({"spec": {"scopes": ["BestEffort"]}}),
            &json!({})
        ));
    }

    #[test]
    fn what_a_quota_limits_must_be_said() {
        let pod = json!({"spec": {"containers": [
            {"name": "b"}, {"name": "a", "resources": {"requests": {"cpu": "1"}}},
        ], "initContainers": [{"name": "i"}]}});
        assert_eq!(
            constraints(&["limits.cpu", "cpu", "pods"], &pod),
            Err("must specify cpu for: b,i; limits.cpu for: a,b,i".to_owned())
        );
        assert_eq!(constraints(&["pods"], &pod), Ok(()));
    }
}
