//! A runtime of plain values: what it is told it does at once, and tests say what its containers
//! do.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::Mutex;

use super::v1::{
    self, ContainerState, ContainerStatus, PodSandboxConfig, PodSandboxNetworkStatus,
    PodSandboxState, PodSandboxStatus,
};
use super::{Answer, Error, Runtime};

#[derive(Default)]
pub struct Fake {
    inner: Mutex<Inner>,
    clock: AtomicI64,
}

#[derive(Default)]
struct Inner {
    sandboxes: BTreeMap<String, PodSandboxStatus>,
    containers: BTreeMap<String, (String, ContainerStatus)>,
    configs: BTreeMap<String, v1::ContainerConfig>,
    made: usize,
    /// What was asked for, in words.
    told: Vec<String>,
    /// Answers of `exec_sync`, by the first word.
    exec: BTreeMap<String, i32>,
    no_images: Vec<String>,
    images: Vec<v1::Image>,
    /// It refuses to change what containers may take.
    stubborn: bool,
}

impl Fake {
    /// What was asked for so far, and is forgotten.
    pub fn told(&self) -> Vec<String> {
        std::mem::take(&mut self.inner.lock().told)
    }

    /// All containers of a name end like this.
    pub fn exit(&self, name: &str, code: i32) {
        let now = self.tick();
        for (_, status) in self.inner.lock().containers.values_mut() {
            let is_it = status.metadata.as_ref().is_some_and(|it| it.name == name);
            if is_it && status.state() == ContainerState::ContainerRunning {
                end(status, code, now);
            }
        }
    }

    pub fn answer_exec(&self, command: &str, code: i32) {
        self.inner.lock().exec.insert(command.into(), code);
    }

    pub fn without_image(&self, name: &str) {
        self.inner.lock().no_images.push(name.into());
    }

    pub fn be_stubborn(&self, stubborn: bool) {
        self.inner.lock().stubborn = stubborn;
    }

    pub fn have_image(&self, image: v1::Image) {
        self.inner.lock().images.push(image);
    }

    /// The newest container of a name as it was asked for.
    pub fn config(&self, name: &str) -> Option<v1::ContainerConfig> {
        let inner = self.inner.lock();
        let mut all = inner
            .configs
            .values()
            .filter(|it| it.metadata.as_ref().is_some_and(|it| it.name == name));
        all.next_back().cloned()
    }

    pub fn is_empty(&self) -> bool {
        let inner = self.inner.lock();
        inner.sandboxes.is_empty() && inner.containers.is_empty()
    }

    /// A moment later.
    fn tick(&self) -> i64 {
        self.clock.fetch_add(1_000_000, Ordering::Relaxed) + 1_700_000_000_000_000_000
    }

    fn with<T>(&self, what: impl FnOnce(&mut Inner) -> Result<T, Error>) -> Answer<'_, T>
    where
        T: Send + 'static,
    {
        let done = what(&mut self.inner.lock());
        Box::pin(async move { done })
    }
}

fn end(status: &mut ContainerStatus, code: i32, now: i64) {
    status.set_state(ContainerState::ContainerExited);
    status.exit_code = code;
    status.finished_at = now;
    status.reason = if code == 0 { "Completed" } else { "Error" }.into();
}

fn fits(labels: &BTreeMap<String, String>, label: Option<(&str, &str)>) -> bool {
    label.is_none_or(|(key, value)| labels.get(key).is_some_and(|it| it == value))
}

fn missing(id: &str) -> Error {
    Error::NotFound(format!("{id} is not there"))
}

impl Runtime for Fake {
    fn version(&self) -> Answer<'_, v1::VersionResponse> {
        self.with(|_| {
            Ok(v1::VersionResponse {
                runtime_name: "fake".into(),
                runtime_version: "1".into(),
                ..v1::VersionResponse::default()
            })
        })
    }

    fn conditions(&self) -> Answer<'_, Vec<v1::RuntimeCondition>> {
        self.with(|_| Ok(Vec::new()))
    }

    fn run_sandbox<'a>(
        &'a self,
        config: &'a PodSandboxConfig,
        _handler: &'a str,
    ) -> Answer<'a, String> {
        let now = self.tick();
        self.with(|inner| {
            inner.made += 1;
            let id = format!("sandbox-{:03}", inner.made);
            inner.told.push("run sandbox".into());
            let mut status = PodSandboxStatus {
                id: id.clone(),
                metadata: config.metadata.clone(),
                created_at: now,
                network: Some(PodSandboxNetworkStatus {
                    ip: "10.0.0.9".into(),
                    additional_ips: Vec::new(),
                }),
                labels: config.labels.clone(),
                ..PodSandboxStatus::default()
            };
            status.set_state(PodSandboxState::SandboxReady);
            inner.sandboxes.insert(id.clone(), status);
            Ok(id)
        })
    }

    fn stop_sandbox<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        let now = self.tick();
        self.with(|inner| {
            inner.told.push("stop sandbox".into());
            if let Some(status) = inner.sandboxes.get_mut(id) {
                status.set_state(PodSandboxState::SandboxNotready);
            }
            for (sandbox, status) in inner.containers.values_mut() {
                if sandbox == id && status.state() == ContainerState::ContainerRunning {
                    end(status, 137, now);
                }
            }
            Ok(())
        })
    }

    fn remove_sandbox<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        self.with(|inner| {
            inner.sandboxes.remove(id);
            inner.containers.retain(|_, (sandbox, _)| sandbox != id);
            Ok(())
        })
    }

    fn sandbox_status<'a>(&'a self, id: &'a str) -> Answer<'a, PodSandboxStatus> {
        self.with(|inner| inner.sandboxes.get(id).cloned().ok_or_else(|| missing(id)))
    }

    fn sandboxes<'a>(
        &'a self,
        label: Option<(&'a str, &'a str)>,
    ) -> Answer<'a, Vec<v1::PodSandbox>> {
        self.with(|inner| {
            let all = inner.sandboxes.values().filter(|it| fits(&it.labels, label));
            let one = |it: &PodSandboxStatus| v1::PodSandbox {
                id: it.id.clone(),
                metadata: it.metadata.clone(),
                state: it.state,
                created_at: it.created_at,
                labels: it.labels.clone(),
                annotations: BTreeMap::new(),
            };
            Ok(all.map(one).collect())
        })
    }

    fn create_container<'a>(
        &'a self,
        sandbox: &'a str,
        config: &'a v1::ContainerConfig,
        _sandbox_config: &'a PodSandboxConfig,
    ) -> Answer<'a, String> {
        let now = self.tick();
        self.with(|inner| {
            inner.made += 1;
            let id = format!("container-{:03}", inner.made);
            let mut status = ContainerStatus {
                id: id.clone(),
                metadata: config.metadata.clone(),
                created_at: now,
                image: config.image.clone(),
                image_ref: "sha256:0".into(),
                labels: config.labels.clone(),
                ..ContainerStatus::default()
            };
            status.set_state(ContainerState::ContainerCreated);
            inner.containers.insert(id.clone(), (sandbox.to_owned(), status));
            inner.configs.insert(id.clone(), config.clone());
            Ok(id)
        })
    }

    fn start_container<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        let now = self.tick();
        self.with(|inner| {
            let (_, status) = inner.containers.get_mut(id).ok_or_else(|| missing(id))?;
            status.set_state(ContainerState::ContainerRunning);
            status.started_at = now;
            let metadata = status.metadata.clone().unwrap_or_default();
            inner.told.push(format!("start {}/{}", metadata.name, metadata.attempt));
            Ok(())
        })
    }

    fn stop_container<'a>(&'a self, id: &'a str, _grace_s: i64) -> Answer<'a, ()> {
        let now = self.tick();
        self.with(|inner| {
            let Some((_, status)) = inner.containers.get_mut(id) else { return Ok(()) };
            let name = status.metadata.clone().unwrap_or_default().name;
            if status.state() == ContainerState::ContainerRunning {
                end(status, 143, now);
            }
            inner.told.push(format!("stop {name}"));
            Ok(())
        })
    }

    fn remove_container<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        self.with(|inner| {
            inner.containers.remove(id);
            Ok(())
        })
    }

    fn containers<'a>(
        &'a self,
        label: Option<(&'a str, &'a str)>,
    ) -> Answer<'a, Vec<v1::Container>> {
        self.with(|inner| {
            let all = inner.containers.values().filter(|(_, it)| fits(&it.labels, label));
            let one = |(sandbox, it): &(String, ContainerStatus)| v1::Container {
                id: it.id.clone(),
                pod_sandbox_id: sandbox.clone(),
                metadata: it.metadata.clone(),
                image: it.image.clone(),
                state: it.state,
                created_at: it.created_at,
                labels: it.labels.clone(),
                ..v1::Container::default()
            };
            Ok(all.map(one).collect())
        })
    }

    fn container_status<'a>(&'a self, id: &'a str) -> Answer<'a, ContainerStatus> {
        self.with(|inner| {
            inner.containers.get(id).map(|(_, it)| it.clone()).ok_or_else(|| missing(id))
        })
    }

    fn reopen_log<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        self.with(|inner| {
            inner.told.push(format!("reopen {id}"));
            Ok(())
        })
    }

    fn update_container<'a>(
        &'a self,
        id: &'a str,
        resources: &'a v1::LinuxContainerResources,
    ) -> Answer<'a, ()> {
        self.with(|inner| {
            let (_, status) = inner.containers.get(id).ok_or_else(|| missing(id))?;
            let name = status.metadata.clone().unwrap_or_default().name;
            inner.told.push(format!("update {name}"));
            if inner.stubborn {
                return Err(Error::Refused("it does not change".into()));
            }
            if let Some(linux) = inner.configs.get_mut(id).and_then(|it| it.linux.as_mut()) {
                linux.resources = Some(*resources);
            }
            Ok(())
        })
    }

    fn container_stats(&self) -> Answer<'_, Vec<v1::ContainerStats>> {
        self.with(|_| Ok(Vec::new()))
    }

    fn exec_sync<'a>(
        &'a self,
        _id: &'a str,
        command: &'a [String],
        _timeout_s: i64,
    ) -> Answer<'a, v1::ExecSyncResponse> {
        self.with(|inner| {
            let word = command.first().cloned().unwrap_or_default();
            inner.told.push(format!("exec {word}"));
            let exit_code = inner.exec.get(&word).copied().unwrap_or(0);
            Ok(v1::ExecSyncResponse { exit_code, ..v1::ExecSyncResponse::default() })
        })
    }

    fn images(&self) -> Answer<'_, Vec<v1::Image>> {
        self.with(|inner| Ok(inner.images.clone()))
    }

    fn image<'a>(&'a self, reference: &'a str) -> Answer<'a, Option<v1::Image>> {
        self.with(|inner| {
            let gone = inner.no_images.iter().any(|it| it == reference);
            let image = v1::Image { id: reference.into(), ..v1::Image::default() };
            Ok((!gone).then_some(image))
        })
    }

    fn pull_image<'a>(
        &'a self,
        reference: &'a str,
        _auth: Option<v1::AuthConfig>,
        _sandbox: &'a PodSandboxConfig,
    ) -> Answer<'a, String> {
        self.with(|inner| {
            inner.told.push(format!("pull {reference}"));
            if inner.no_images.iter().any(|it| it == reference) {
                return Err(Error::NotFound(format!("{reference}: not found")));
            }
            Ok(reference.to_owned())
        })
    }

    fn remove_image<'a>(&'a self, reference: &'a str) -> Answer<'a, ()> {
        self.with(|inner| {
            inner.told.push(format!("remove image {reference}"));
            inner.images.retain(|it| it.id != reference);
            Ok(())
        })
    }

    fn image_place(&self) -> Answer<'_, Option<v1::FilesystemUsage>> {
        self.with(|_| Ok(None))
    }

    fn exec(&self, _request: v1::ExecRequest) -> Answer<'_, String> {
        self.with(|_| Ok(String::new()))
    }

    fn attach(&self, _request: v1::AttachRequest) -> Answer<'_, String> {
        self.with(|_| Ok(String::new()))
    }

    fn port_forward(&self, _request: v1::PortForwardRequest) -> Answer<'_, String> {
        self.with(|_| Ok(String::new()))
    }
}
