//! What pods ask for and nodes have, as numbers that can be added and compared. Pure.
//!
//! The scheduler reckons by it before a pod is bound, a node when the pod comes: both have to mean the same.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Written;
use kontiki_api::object::quantity::Quantity;

/// An amount of each resource. CPU in thousandths of a core, memory and storage in bytes, others as they count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub cpu: i64,
    pub memory: i64,
    pub storage: i64,
    pub others: BTreeMap<String, i64>,
}

/// An amount of which there is not enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Short {
    pub name: String,
    pub wanted: i64,
    pub used: i64,
    pub have: i64,
}

/// What a container counts for in scoring when it asks for nothing (upstream's non-zero requests).
const CPU_IF_NONE: i64 = 100;
const MEMORY_IF_NONE: i64 = 200 << 20;

impl Resources {
    #[must_use]
    pub fn of(list: Option<&BTreeMap<String, Written>>) -> Resources {
        let mut amounts = Resources::default();
        for (name, written) in list.into_iter().flatten() {
            // What cannot be read was refused by the API; here it counts as nothing.
            let quantity: Quantity = written.0.parse().unwrap_or(Quantity::ZERO);
            match name.as_str() {
                "cpu" => amounts.cpu = quantity.milli_value(),
                "memory" => amounts.memory = quantity.value(),
                "ephemeral-storage" => amounts.storage = quantity.value(),
                // Counted apart.
                "pods" => {}
                other => {
                    amounts.others.insert(other.into(), quantity.value());
                }
            }
        }
        amounts
    }

    pub fn add(&mut self, other: &Resources) {
        self.cpu += other.cpu;
        self.memory += other.memory;
        self.storage += other.storage;
        for (name, amount) in &other.others {
            *self.others.entry(name.clone()).or_insert(0) += amount;
        }
    }

    pub fn subtract(&mut self, other: &Resources) {
        self.cpu -= other.cpu;
        self.memory -= other.memory;
        self.storage -= other.storage;
        for (name, amount) in &other.others {
            if let Some(mine) = self.others.get_mut(name) {
                *mine -= amount;
            }
        }
    }

    /// Amounts of which there is not enough, in upstream's order: what is wanted beside what is used of what
    /// there is. Nobody lacks what they do not ask for.
    #[must_use]
    pub fn short(&self, used: &Resources, have: &Resources) -> Vec<Short> {
        let mut all = vec![
            ("cpu", self.cpu, used.cpu, have.cpu),
            ("memory", self.memory, used.memory, have.memory),
            ("ephemeral-storage", self.storage, used.storage, have.storage),
        ];
        let of = |amounts: &Resources, name: &str| amounts.others.get(name).copied().unwrap_or(0);
        for (name, wanted) in &self.others {
            all.push((name, *wanted, of(used, name), of(have, name)));
        }
        let is_short = |(_, wanted, used, have): &(&str, i64, i64, i64)| {
            *wanted > 0 && *wanted > have.saturating_sub(*used)
        };
        let short = |(name, wanted, used, have): (&str, i64, i64, i64)| Short {
            name: name.to_owned(),
            wanted,
            used,
            have,
        };
        all.into_iter().filter(is_short).map(short).collect()
    }

    /// The larger of each.
    fn raise_to(&mut self, other: &Resources) {
        self.cpu = self.cpu.max(other.cpu);
        self.memory = self.memory.max(other.memory);
        self.storage = self.storage.max(other.storage);
        for (name, amount) in &other.others {
            let mine = self.others.entry(name.clone()).or_insert(0);
            *mine = (*mine).max(*amount);
        }
    }

    fn plus(&self, other: &Resources) -> Resources {
        let mut sum = self.clone();
        sum.add(other);
        sum
    }
}

/// What a pod asks for: its containers together, or the most that starting it needs at once, and its overhead
/// (upstream's `PodRequests`).
#[must_use]
pub fn requests(pod: &Pod) -> Resources {
    pod.spec.as_ref().map(|spec| of_spec(spec, &asked, &asked_of)).unwrap_or_default()
}

/// What a pod counts for on the node that it is on: while its amounts are changed, the larger of what it asks
/// for and what it still has, but for what its node can never give it.
#[must_use]
pub fn counted(pod: &Pod) -> Resources {
    let statuses = pod
        .status
        .iter()
        .flat_map(|it| it.container_statuses.iter().chain(&it.init_container_statuses).flatten());
    let statuses: Vec<&ContainerStatus> = statuses.collect();
    let is_refused = pod
        .status
        .iter()
        .flat_map(|it| it.conditions.iter().flatten())
        .any(|it| it.type_ == "PodResizePending" && it.reason.as_deref() == Some("Infeasible"));
    let most = |container: &Container| {
        let status = statuses.iter().find(|it| it.name == container.name);
        // It will never have what it asks for.
        let mut amounts = match status.and_then(|it| it.allocated_resources.as_ref()) {
            Some(has) if is_refused => Resources::of(Some(has)),
            _ => asked(container),
        };
        if let Some(status) = status {
            amounts.raise_to(&Resources::of(status.allocated_resources.as_ref()));
            let has = status.resources.as_ref().and_then(asked_of);
            amounts.raise_to(&Resources::of(has));
        }
        amounts
    };
    pod.spec.as_ref().map(|spec| of_spec(spec, &most, &asked_of)).unwrap_or_default()
}

/// What a pod may take at most, as far as limits are said (upstream's `PodLimits`).
#[must_use]
pub fn limits(pod: &Pod) -> Resources {
    let limited =
        |container: &Container| Resources::of(container.resources.as_ref().and_then(limited_to));
    pod.spec.as_ref().map(|spec| of_spec(spec, &limited, &limited_to)).unwrap_or_default()
}

/// The same for scoring, where a container that asks for nothing still counts for something.
#[must_use]
pub fn requests_for_scoring(pod: &Pod) -> Resources {
    let at_least = |container: &Container| {
        let mut amounts = asked(container);
        amounts.cpu = if amounts.cpu == 0 { CPU_IF_NONE } else { amounts.cpu };
        amounts.memory = if amounts.memory == 0 { MEMORY_IF_NONE } else { amounts.memory };
        amounts
    };
    pod.spec.as_ref().map(|spec| of_spec(spec, &at_least, &asked_of)).unwrap_or_default()
}

type Amounts = BTreeMap<String, Written>;

fn asked_of(resources: &ResourceRequirements) -> Option<&Amounts> {
    resources.requests.as_ref()
}

fn limited_to(resources: &ResourceRequirements) -> Option<&Amounts> {
    resources.limits.as_ref()
}

fn asked(container: &Container) -> Resources {
    Resources::of(container.resources.as_ref().and_then(asked_of))
}

fn of_spec(
    spec: &PodSpec,
    asked: &dyn Fn(&Container) -> Resources,
    said_of: &dyn Fn(&ResourceRequirements) -> Option<&Amounts>,
) -> Resources {
    let mut running = Resources::default();
    spec.containers.iter().for_each(|container| running.add(&asked(container)));
    let (mut sidecars, mut starting) = (Resources::default(), Resources::default());
    for container in spec.init_containers.iter().flatten() {
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&asked(container));
            starting.raise_to(&sidecars);
        } else {
            starting.raise_to(&sidecars.plus(&asked(container)));
        }
    }
    running.add(&sidecars);
    running.raise_to(&starting);
    // What is said of the whole pod stands for the sum of its parts.
    if let Some(said) = spec.resources.as_ref().and_then(said_of) {
        let whole = Resources::of(Some(said));
        if said.contains_key("cpu") {
            running.cpu = whole.cpu;
        }
        if said.contains_key("memory") {
            running.memory = whole.memory;
        }
    }
    running.add(&Resources::of(spec.overhead.as_ref()));
    running
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn starting_a_pod_may_need_more_than_running_it() {
        let ask = |cpu: &str| json!({"requests": {"cpu": cpu, "example.com/gpu": "1"}});
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "containers": [{"name": "a", "resources": ask("100m")},
                {"name": "b", "resources": ask("200m")}],
            "initContainers": [
                {"name": "s", "restartPolicy": "Always", "resources": ask("50m")},
                {"name": "i", "resources": ask("1")}],
            "overhead": {"cpu": "10m"}}}))
        .unwrap();
        let requests = requests(&pod);
        assert_eq!(requests.cpu, 1000 + 50 + 10, "the init container beside the sidecar");
        assert_eq!(requests.others["example.com/gpu"], 3, "two containers and a sidecar");
    }

    #[test]
    fn who_gives_something_back_has_it_until_it_is_taken() {
        let pod: Pod = serde_json::from_value(json!({
            "spec": {"containers": [
                {"name": "less", "resources": {"requests": {"cpu": "100m"}}},
                {"name": "more", "resources": {"requests": {"cpu": "200m"}}}]},
            "status": {"containerStatuses": [
                {"name": "less", "allocatedResources": {"cpu": "100m"},
                    "resources": {"requests": {"cpu": "300m"}}},
                {"name": "more", "allocatedResources": {"cpu": "50m"}}]}}))
        .unwrap();
        assert_eq!(counted(&pod).cpu, 300 + 200);
        assert_eq!(requests(&pod).cpu, 300);
        let mut refused = pod;
        let infeasible = json!([{"type": "PodResizePending", "status": "True",
            "reason": "Infeasible"}]);
        let conditions = serde_json::from_value(infeasible).unwrap();
        refused.status.as_mut().unwrap().conditions = conditions;
        assert_eq!(counted(&refused).cpu, 300 + 50, "what can never be given is not counted");
    }

    #[test]
    fn who_asks_for_nothing_still_counts_in_scores() {
        let pod: Pod =
            serde_json::from_value(json!({"spec": {"containers": [{"name": "a"}]}})).unwrap();
        assert_eq!(requests(&pod), Resources::default());
        assert_eq!(requests_for_scoring(&pod).cpu, 100);
    }
}
