//! What the runtime shows of one pod.

use std::collections::HashMap;

use kontiki_api::object::time::Timestamp;

use super::view::{CONTAINER_NAME, POD_UID};
use crate::agent::cri::v1::{
    Container, ContainerState, ContainerStatus, PodSandboxState, PodSandboxStatus,
};
use crate::agent::cri::{Error, Runtime};

/// Sandboxes and containers of a pod, the newest first.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    pub sandboxes: Vec<PodSandboxStatus>,
    pub containers: Vec<Seen>,
}

/// A container and the sandbox it is in.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    pub sandbox: String,
    pub status: ContainerStatus,
}

impl Seen {
    #[must_use]
    pub fn name(&self) -> &str {
        self.status.labels.get(CONTAINER_NAME).map(String::as_str).unwrap_or_default()
    }

    #[must_use]
    pub fn id(&self) -> &str {
        &self.status.id
    }

    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.status.metadata.as_ref().map_or(0, |it| it.attempt)
    }

    #[must_use]
    pub fn state(&self) -> ContainerState {
        self.status.state()
    }

    #[must_use]
    pub fn is_running(&self) -> bool {
        self.state() == ContainerState::ContainerRunning
    }

    #[must_use]
    pub fn exited(&self) -> bool {
        matches!(self.state(), ContainerState::ContainerExited | ContainerState::ContainerUnknown)
    }

    #[must_use]
    pub fn finished(&self) -> Timestamp {
        moment(self.status.finished_at)
    }

    #[must_use]
    pub fn started(&self) -> Timestamp {
        moment(self.status.started_at)
    }
}

/// A time as the runtime tells it.
#[must_use]
pub fn moment(nanoseconds: i64) -> Timestamp {
    Timestamp::from_micros(nanoseconds / 1000)
}

impl Observed {
    /// The sandbox that containers are started in.
    #[must_use]
    pub fn sandbox(&self) -> Option<&PodSandboxStatus> {
        self.sandboxes.first().filter(|it| it.state() == PodSandboxState::SandboxReady)
    }

    /// The newest container of a name.
    #[must_use]
    pub fn newest(&self, name: &str) -> Option<&Seen> {
        self.containers.iter().find(|it| it.name() == name)
    }

    /// The newest container of a name in the sandbox that is ready.
    #[must_use]
    pub fn current(&self, name: &str) -> Option<&Seen> {
        let sandbox = self.sandbox()?;
        self.containers.iter().find(|it| it.name() == name && it.sandbox == sandbox.id)
    }

    pub fn running(&self) -> impl Iterator<Item = &Seen> {
        self.containers.iter().filter(|it| it.is_running())
    }

    /// The pod's own addresses.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        let network = self.sandbox().and_then(|it| it.network.as_ref());
        let Some(network) = network.filter(|it| !it.ip.is_empty()) else { return Vec::new() };
        let mut all = vec![network.ip.clone()];
        all.extend(network.additional_ips.iter().map(|it| it.ip.clone()));
        all
    }
}

/// Asks the runtime about a pod. `ended` remembers containers that have exited: they do not change
/// any more.
pub async fn observe(
    runtime: &dyn Runtime,
    uid: &str,
    ended: &mut HashMap<String, ContainerStatus>,
) -> Result<Observed, Error> {
    let label = Some((POD_UID, uid));
    let mut sandboxes = Vec::new();
    for sandbox in runtime.sandboxes(label).await? {
        match runtime.sandbox_status(&sandbox.id).await {
            Ok(status) => sandboxes.push(status),
            Err(Error::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
    }
    let mut containers = Vec::new();
    let mut still = HashMap::new();
    for container in runtime.containers(label).await? {
        let Some(status) = status_of(runtime, &container, ended).await? else { continue };
        if status.state() == ContainerState::ContainerExited {
            still.insert(container.id.clone(), status.clone());
        }
        containers.push(Seen { sandbox: container.pod_sandbox_id, status });
    }
    *ended = still;
    sandboxes.sort_by_key(|it| std::cmp::Reverse(it.created_at));
    containers.sort_by_key(|it| std::cmp::Reverse((it.attempt(), it.status.created_at)));
    Ok(Observed { sandboxes, containers })
}

async fn status_of(
    runtime: &dyn Runtime,
    container: &Container,
    ended: &mut HashMap<String, ContainerStatus>,
) -> Result<Option<ContainerStatus>, Error> {
    if let Some(status) = ended.remove(&container.id) {
        return Ok(Some(status));
    }
    match runtime.container_status(&container.id).await {
        Ok(status) => Ok(Some(status)),
        Err(Error::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}
