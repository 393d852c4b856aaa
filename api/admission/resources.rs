//! What pods and claims ask for, added up: for limits, quotas, and whoever counts likewise.
//!
//! Pure. A quantity that cannot be read counts as absent: it was validated when it came in.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::live::pod::items;
use crate::object::Quantity;

/// Quantities by the name of the resource.
pub type ResourceList = BTreeMap<String, Quantity>;

/// Which of a container's two lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    Requests,
    Limits,
}

impl Of {
    fn field(self) -> &'static str {
        match self {
            Of::Requests => "requests",
            Of::Limits => "limits",
        }
    }
}

#[must_use]
pub fn read(list: &Value) -> ResourceList {
    let list = list.as_object().into_iter().flatten();
    list.filter_map(|(name, value)| Some((name.clone(), Quantity::from_json(value).ok()?)))
        .collect()
}

#[must_use]
pub fn write(list: &ResourceList) -> Value {
    list.iter().map(|(name, quantity)| (name.clone(), quantity.to_string())).collect()
}

pub fn add(to: &mut ResourceList, more: &ResourceList) {
    for (name, quantity) in more {
        let there = to.entry(name.clone()).or_insert(Quantity::ZERO);
        *there = there.plus(*quantity);
    }
}

/// The greater of both, for each resource.
pub fn at_least(list: &mut ResourceList, other: &ResourceList) {
    for (name, quantity) in other {
        match list.get_mut(name) {
            Some(there) => *there = (*there).max(*quantity),
            None => drop(list.insert(name.clone(), *quantity)),
        }
    }
}

/// What the containers of a pod need at the same time: all that run together, or the neediest moment of its
/// start. What is said for the pod as a whole counts instead. Overhead is not in it.
#[must_use]
pub fn of_containers(spec: &Value, of: Of) -> ResourceList {
    sum(spec, of, |container| read(&container["resources"][of.field()]))
}

/// What a pod takes of a quota: the same with its overhead, and as long as a change of a running container is
/// under way, the greater of what it has and what it asks for.
#[must_use]
pub fn of_pod(pod: &Value, of: Of) -> ResourceList {
    let spec = &pod["spec"];
    let mut list = sum(spec, of, |container| of_running(pod, container, of));
    let overhead = read(&spec["overhead"]);
    for (name, quantity) in &overhead {
        let there = list.get(name).copied();
        // Limits are raised only where there are some.
        if of == Of::Requests || there.is_some_and(|it| !it.is_zero()) {
            list.insert(name.clone(), there.unwrap_or_default().plus(*quantity));
        }
    }
    list
}

fn of_running(pod: &Value, container: &Value, of: Of) -> ResourceList {
    let mut asked = read(&container["resources"][of.field()]);
    let statuses = ["containerStatuses", "initContainerStatuses"];
    let status = statuses.iter().flat_map(|list| items(&pod["status"][list]));
    let status = status.into_iter().find(|status| status["name"] == container["name"]);
    let Some(status) = status.filter(|status| status["resources"].is_object()) else {
        return asked;
    };
    let waits = items(&pod["status"]["conditions"]).any(|condition| {
        let reason = condition["reason"].as_str();
        condition["type"] == "PodResizePending" && matches!(reason, Some("Infeasible" | "Deferred"))
    });
    if waits {
        asked.clear();
    }
    at_least(&mut asked, &read(&status["resources"][of.field()]));
    if of == Of::Requests {
        at_least(&mut asked, &read(&status["allocatedResources"]));
    }
    asked
}

fn sum(spec: &Value, of: Of, each: impl Fn(&Value) -> ResourceList) -> ResourceList {
    let mut total = ResourceList::new();
    for container in items(&spec["containers"]) {
        add(&mut total, &each(container));
    }
    // An init container that is restarted runs on beside all that start after it.
    let (mut beside, mut start) = (ResourceList::new(), ResourceList::new());
    for container in items(&spec["initContainers"]) {
        let mut needs = each(container);
        if container["restartPolicy"] == "Always" {
            add(&mut total, &needs);
            add(&mut beside, &needs);
            needs = beside.clone();
        } else {
            add(&mut needs, &beside);
        }
        at_least(&mut start, &needs);
    }
    at_least(&mut total, &start);
    for (name, quantity) in read(&spec["resources"][of.field()]) {
        if matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-") {
            total.insert(name, quantity);
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn container(cpu: &str) -> Value {
        json!({"name": cpu, "resources": {"requests": {"cpu": cpu}}})
    }

    fn cpu(list: &ResourceList) -> String {
        list.get("cpu").map(ToString::to_string).unwrap_or_default()
    }

    #[test]
    fn a_pod_needs_what_runs_together_or_its_neediest_start() {
        let mut sidecar = container("100m");
        sidecar["restartPolicy"] = "Always".into();
        for (init, containers, expected) in [
            (vec![], vec!["1", "500m"], "1500m"),
            (vec![container("2")], vec!["1", "500m"], "2"),
            (vec![sidecar.clone()], vec!["1"], "1100m"),
            (vec![sidecar.clone(), container("2")], vec!["1"], "2100m"),
            (vec![container("2"), sidecar], vec!["1"], "2"),
        ] {
            let containers: Vec<Value> = containers.into_iter().map(container).collect();
            let spec = json!({"initContainers": init, "containers": containers});
            assert_eq!(cpu(&of_containers(&spec, Of::Requests)), expected, "{spec}");
        }
    }

    #[test]
    fn what_is_said_of_the_whole_pod_counts() {
        let spec = json!({
            "containers": [container("1")], "resources": {"requests": {"cpu": "3", "pods": "7"}},
            "overhead": {"cpu": "250m"},
        });
        assert_eq!(cpu(&of_pod(&json!({ "spec": spec }), Of::Requests)), "3250m");
        assert_eq!(cpu(&of_pod(&json!({ "spec": spec }), Of::Limits)), "");
    }

    #[test]
    fn a_container_that_shrinks_is_charged_until_it_has() {
        let pod = json!({
            "spec": {"containers": [container("1")]},
            "status": {"containerStatuses": [
                {"name": "1", "resources": {"requests": {"cpu": "2"}}},
            ]},
        });
        assert_eq!(cpu(&of_pod(&pod, Of::Requests)), "2");
    }
}
