//! The amounts that a pod has on this node, and those that the runtime has been told of.
//!
//! A pod asks; the node gives, when there is room; the runtime is told. Between the three there may be time,
//! and a restart of the agent.
//!
//! ```text
//! PODS/UID/amounts      all of it, as JSON, replaced as a whole
//! ```
//! Keeps: what was given stays given until the node says otherwise, whatever the object asks for by then.
//! Two ways to write one amount are one amount.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use kontiki_api::object::quantity::Quantity;
use serde::{Deserialize, Serialize};

use super::observed::Seen;
use super::view;
use crate::pki::{self, Readers};

/// What can be changed while a container runs.
const RESIZABLE: [&str; 2] = ["cpu", "memory"];

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Allocation {
    /// Of the pod as a whole.
    pod: Option<ResourceRequirements>,
    /// Of its containers, by their names.
    containers: BTreeMap<String, ResourceRequirements>,
    /// What the runtime was told last, by the container's name.
    told: BTreeMap<String, Told>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Told {
    attempt: u32,
    resources: ResourceRequirements,
}

fn resources(container: &Container) -> ResourceRequirements {
    container.resources.clone().unwrap_or_default()
}

/// Requests and limits as numbers.
fn figures(of: &ResourceRequirements) -> [Option<Quantity>; 4] {
    let [cpu, memory] = RESIZABLE;
    [
        view::amount(&of.requests, cpu),
        view::amount(&of.requests, memory),
        view::amount(&of.limits, cpu),
        view::amount(&of.limits, memory),
    ]
}

/// Whether two come to the same.
#[must_use]
pub fn same(one: &ResourceRequirements, other: &ResourceRequirements) -> bool {
    figures(one) == figures(other)
}

/// Which of what can be changed differs.
pub fn changed<'a>(
    one: &'a ResourceRequirements,
    other: &'a ResourceRequirements,
) -> impl Iterator<Item = &'static str> + 'a {
    RESIZABLE.into_iter().filter(|resource| {
        view::amount(&one.requests, resource) != view::amount(&other.requests, resource)
            || view::amount(&one.limits, resource) != view::amount(&other.limits, resource)
    })
}

impl Allocation {
    /// What the pod asks for.
    #[must_use]
    pub fn of(pod: &Pod) -> Allocation {
        let mut allocation = Allocation::default();
        allocation.give(pod);
        allocation
    }

    /// The pod has what it asks for now.
    pub fn give(&mut self, pod: &Pod) {
        self.pod.clone_from(&view::spec(pod).resources);
        let given = view::all_containers(pod).map(|it| (it.name.clone(), resources(it)));
        self.containers = given.collect();
    }

    /// Whether the pod asks for something else than it has.
    #[must_use]
    pub fn differs(&self, pod: &Pod) -> bool {
        let none = ResourceRequirements::default();
        let whole = view::spec(pod).resources.as_ref().unwrap_or(&none);
        !same(self.pod.as_ref().unwrap_or(&none), whole)
            || view::all_containers(pod).any(|it| !same(&self.container(it), &resources(it)))
    }

    /// What a container has, or what it asks for where nothing was given.
    #[must_use]
    pub fn container(&self, container: &Container) -> ResourceRequirements {
        self.containers.get(&container.name).cloned().unwrap_or_else(|| resources(container))
    }

    /// The pod as if it asked for what it has.
    #[must_use]
    pub fn shown_in(&self, pod: &Pod) -> Pod {
        let mut pod = pod.clone();
        let Some(spec) = &mut pod.spec else { return pod };
        spec.resources.clone_from(&self.pod);
        for it in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
            if let Some(given) = self.containers.get(&it.name) {
                it.resources = Some(given.clone());
            }
        }
        pod
    }

    /// The runtime is told of these for an attempt of a container.
    pub fn tell(&mut self, name: &str, attempt: u32, resources: ResourceRequirements) {
        self.told.insert(name.to_owned(), Told { attempt, resources });
    }

    /// What the runtime was told of a container that it shows. One that nothing is known of was made with what
    /// it has.
    #[must_use]
    pub fn told(&self, container: &Container, seen: &Seen) -> ResourceRequirements {
        let told = self.told.get(&container.name).filter(|it| it.attempt == seen.attempt());
        told.map_or_else(|| self.container(container), |it| it.resources.clone())
    }

    /// Whether the runtime still has to be told of what a container has.
    #[must_use]
    pub fn is_behind(&self, container: &Container, seen: &Seen) -> bool {
        seen.is_running() && !same(&self.told(container, seen), &self.container(container))
    }

    /// What was written; nothing, if there is none or it cannot be read.
    #[must_use]
    pub fn read(path: &Path) -> Option<Allocation> {
        let text = fs::read(path).ok()?;
        let read = serde_json::from_slice(&text);
        read.inspect_err(|error| tracing::warn!(file = %path.display(), %error, "is damaged")).ok()
    }

    /// Once this is done, whatever happens to the machine leaves what is written here.
    pub fn write(&self, path: &Path) -> Result<(), String> {
        let text = serde_json::to_vec(self).map_err(|error| error.to_string())?;
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        }
        pki::replace(path, text, Readers::Owner).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(resources: Value) -> Pod {
        let container = json!({"name": "main", "resources": resources});
        serde_json::from_value(json!({"spec": {"containers": [container]}})).unwrap()
    }

    #[test]
    fn amounts_are_told_apart_by_what_they_come_to() {
        let one = pod(json!({"requests": {"cpu": "100m", "memory": "1Gi"}}));
        let allocation = Allocation::of(&one);
        let equal = pod(json!({"requests": {"cpu": "0.1", "memory": "1024Mi"}}));
        assert!(!allocation.differs(&equal));
        let more = pod(json!({"requests": {"cpu": "100m", "memory": "1Gi"},
            "limits": {"cpu": "1"}}));
        assert!(allocation.differs(&more));
        let shown = allocation.shown_in(&more);
        assert_eq!(shown, one);
        let (one, more) = (
            resources(&one.spec.unwrap().containers[0]),
            resources(&more.spec.unwrap().containers[0]),
        );
        assert_eq!(changed(&one, &more).collect::<Vec<_>>(), ["cpu"]);
    }

    #[test]
    fn what_was_given_is_read_again_and_damage_is_as_good_as_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("uid/amounts");
        assert_eq!(Allocation::read(&path), None);
        let mut allocation = Allocation::of(&pod(json!({"limits": {"cpu": "1"}})));
        allocation.tell("main", 3, ResourceRequirements::default());
        allocation.write(&path).unwrap();
        assert_eq!(Allocation::read(&path), Some(allocation));
        fs::write(&path, "{").unwrap();
        assert_eq!(Allocation::read(&path), None);
    }
}
