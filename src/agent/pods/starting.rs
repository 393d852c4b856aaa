//! The start of one container: its image, its environment, its mounts, its hooks.
//!
//! Keeps: whatever is missing is said in the container's status, in upstream's words, and tried
//! again later.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use k8s_openapi::api::core::v1::{Container, Pod, Secret};

use super::container::{Made, check_user, config};
use super::environment::{environment, expand};
use super::memory::{Pause, Waiting};
use super::observed::Observed;
use super::worker::Worker;
use super::{hosts, view};
use crate::agent::cri::v1::{Image, Mount, PodSandboxConfig};
use crate::agent::images::{self, Policy, credentials};
use crate::agent::node;
use crate::agent::probes::{self, Target};
use crate::agent::volumes;
use crate::reconcile::events::Severity;

const RETRY_S: i64 = 5;
/// A name that is no image's does not become one.
const INVALID_S: i64 = 300;

impl Worker {
    /// Starts a container, or says what it waits for.
    pub async fn start(
        &mut self,
        pod: &Pod,
        container: &Container,
        seen: &Observed,
        attempt: u32,
    ) -> Result<(), Waiting> {
        let runtime = self.ground.parts.runtime.clone();
        let name = &container.name;
        let until = self.now().plus_seconds(RETRY_S);
        let waits =
            |reason: &str, message: String| Waiting { reason: reason.into(), message, until };
        let Some(sandbox) = seen.sandbox() else {
            return Err(waits("ContainerCreating", "its sandbox is gone".into()));
        };
        let sandbox_attempt = sandbox.metadata.as_ref().map_or(0, |it| it.attempt);
        let sandbox_config = self.sandbox_config(pod, sandbox_attempt);
        let (reference, image) = match self.image(pod, container, &sandbox_config).await {
            Ok(found) => found,
            Err(waiting) => {
                let message = format!("Error: {}", waiting.reason);
                self.say(pod, name, Severity::Warning, "Failed", message);
                return Err(waiting);
            }
        };
        let failed = |worker: &Worker, reason: &str, message: String| {
            worker.say(pod, name, Severity::Warning, "Failed", format!("Error: {message}"));
            waits(reason, message)
        };
        check_user(pod, container, &image)
            .map_err(|why| failed(self, "CreateContainerConfigError", why))?;
        let made = self.make(pod, container, seen, attempt, reference).await;
        let made = made.map_err(|why| failed(self, "CreateContainerConfigError", why))?;
        let config = config(pod, container, made);
        let given = container.resources.clone().unwrap_or_default();
        self.memory.allocation.tell(name, attempt, given);
        self.keep_amounts(pod);
        let log = std::path::Path::new(&sandbox_config.log_directory).join(name);
        fs::create_dir_all(&log)
            .map_err(|error| failed(self, "CreateContainerError", error.to_string()))?;
        let created = runtime.create_container(&sandbox.id, &config, &sandbox_config).await;
        let id =
            created.map_err(|error| failed(self, "CreateContainerError", error.to_string()))?;
        self.say(pod, name, Severity::Normal, "Created", format!("Container created: {name}"));
        if let Err(error) = runtime.start_container(&id).await {
            return Err(failed(self, "RunContainerError", error.to_string()));
        }
        self.say(pod, name, Severity::Normal, "Started", format!("Container started: {name}"));
        self.post_start(pod, container, seen, id).await;
        Ok(())
    }

    async fn post_start(&self, pod: &Pod, container: &Container, seen: &Observed, id: String) {
        let hook = container.lifecycle.as_ref().and_then(|it| it.post_start.as_ref());
        let Some(hook) = hook else { return };
        let target = Target {
            runtime: self.ground.parts.runtime.clone(),
            container: id.clone(),
            address: self.place(pod, seen).pod.first().cloned().unwrap_or_default(),
            spec: std::sync::Arc::new(container.clone()),
        };
        if let Err(why) = probes::hook(&target, hook).await {
            let message = format!("PostStartHook failed: {why}");
            self.say(pod, &container.name, Severity::Warning, "FailedPostStartHook", message);
            self.stop_one(pod, container, &id).await;
        }
    }

    /// Everything that the container's configuration is made of.
    async fn make(
        &mut self,
        pod: &Pod,
        container: &Container,
        seen: &Observed,
        attempt: u32,
        image: String,
    ) -> Result<Made, String> {
        self.prepare(pod, seen).await?;
        let place = self.place(pod, seen);
        let masters = self.ground.parts.masters.clone();
        let environment = environment(masters.as_ref(), pod, container, &place).await?;
        let known: BTreeMap<String, String> = environment.iter().cloned().collect();
        let expanded = |text: &str| expand(text, &known);
        let mut mounts = volumes::mounts(container, &self.prepared, &expanded)?;
        let mount = |container_path: &str, host_path: &std::path::Path| Mount {
            container_path: container_path.into(),
            host_path: host_path.to_string_lossy().into_owned(),
            ..Mount::default()
        };
        let failed = |error: std::io::Error| error.to_string();
        if !mounts.iter().any(|it| it.container_path.trim_end_matches('/') == "/etc/hosts") {
            let domain = &self.ground.parts.settings.domain;
            let text = hosts::text(pod, &place.pod, domain, &hosts::of_node());
            fs::write(self.folder.hosts(), text).map_err(failed)?;
            mounts.push(mount("/etc/hosts", &self.folder.hosts()));
        }
        if let Some(path) =
            container.termination_message_path.as_deref().filter(|it| !it.is_empty())
        {
            let file = self.folder.last_words(&container.name, attempt);
            fs::create_dir_all(file.parent().unwrap_or(&file)).map_err(failed)?;
            fs::write(&file, "").map_err(failed)?;
            // Whoever the container runs as may write it.
            fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).map_err(failed)?;
            mounts.push(mount(path, &file));
        }
        let target = match view::target(pod, &container.name) {
            None => None,
            Some(name) => {
                let seen = seen.current(name).filter(|it| it.is_running());
                Some(
                    seen.ok_or_else(|| format!("the target container {name:?} does not run"))?.id(),
                )
            }
        };
        Ok(Made {
            attempt,
            image,
            environment,
            mounts,
            memory: node::machine().memory,
            target: target.map(str::to_owned),
        })
    }

    /// The container's image, pulled if need be.
    async fn image(
        &mut self,
        pod: &Pod,
        container: &Container,
        sandbox: &PodSandboxConfig,
    ) -> Result<(String, Image), Waiting> {
        let runtime = self.ground.parts.runtime.clone();
        let now = self.now();
        let said = container.image.clone().unwrap_or_default();
        let waits = |reason: &str, message: String, seconds: i64| Waiting {
            reason: reason.into(),
            message,
            until: now.plus_seconds(seconds),
        };
        let Some(name) = images::normal(&said) else {
            let message = format!(
                "Failed to apply default image tag {said:?}: couldn't parse image name {said:?}: \
                 invalid reference format"
            );
            self.say(pod, &container.name, Severity::Warning, "InspectFailed", message.clone());
            return Err(waits("InvalidImageName", message, INVALID_S));
        };
        let present = runtime.image(&name).await;
        let present =
            present.map_err(|error| waits("ImageInspectError", error.to_string(), RETRY_S))?;
        match (images::policy(container), present) {
            (Policy::IfNotPresent | Policy::Never, Some(image)) => {
                let message = format!("Container image {said:?} already present on machine");
                self.say(pod, &container.name, Severity::Normal, "Pulled", message);
                return Ok((image.id.clone(), image));
            }
            (Policy::Never, None) => {
                let message =
                    format!("Container image {said:?} is not present with pull policy of Never");
                self.say(
                    pod,
                    &container.name,
                    Severity::Warning,
                    "ErrImageNeverPull",
                    message.clone(),
                );
                return Err(waits("ErrImageNeverPull", message, RETRY_S));
            }
            _ => {}
        }
        if let Some((pause, why)) = self.memory.pulls.get(&name)
            && now < pause.until(pause.from)
        {
            let event = format!("Back-off pulling image {said:?}");
            let message = format!("{event}: ErrImagePull: {why}");
            let until = pause.until(pause.from);
            self.say(pod, &container.name, Severity::Normal, "BackOff", event);
            return Err(Waiting { reason: "ImagePullBackOff".into(), message, until });
        }
        match self.pull(pod, container, &name, sandbox).await {
            Ok(image) => {
                self.memory.pulls.remove(&name);
                Ok((image.id.clone(), image))
            }
            Err(why) => {
                let before = self.memory.pulls.get(&name).map(|(pause, _)| *pause);
                let pause = Pause::after(before, self.now());
                self.memory.pulls.insert(name, (pause, why.clone()));
                let message = format!("Failed to pull image {said:?}: {why}");
                self.say(pod, &container.name, Severity::Warning, "Failed", message);
                // Shown for a moment, then that it is waited for.
                Err(waits("ErrImagePull", why, 1))
            }
        }
    }

    async fn pull(
        &self,
        pod: &Pod,
        container: &Container,
        name: &str,
        sandbox: &PodSandboxConfig,
    ) -> Result<Image, String> {
        let runtime = self.ground.parts.runtime.clone();
        let _turn = self.ground.pulls.acquire().await.map_err(|error| error.to_string())?;
        self.say(
            pod,
            &container.name,
            Severity::Normal,
            "Pulling",
            format!("Pulling image {name:?}"),
        );
        let mut ways: Vec<_> = credentials::fitting(&self.pull_secrets(pod).await, name)
            .into_iter()
            .map(Some)
            .collect();
        ways.push(None);
        let mut first = None;
        for way in ways {
            match runtime.pull_image(name, way, sandbox).await {
                Ok(reference) => {
                    let message = format!("Successfully pulled image {name:?}");
                    self.say(pod, &container.name, Severity::Normal, "Pulled", message);
                    let image = runtime.image(&reference).await.map_err(|it| it.to_string())?;
                    return image.ok_or_else(|| format!("image {reference} is gone again"));
                }
                Err(error) => first = first.or(Some(error.to_string())),
            }
        }
        Err(first.unwrap_or_default())
    }

    /// Those that can be had; what is missing shows when the pull fails.
    async fn pull_secrets(&self, pod: &Pod) -> Vec<Secret> {
        let mut found = Vec::new();
        for named in view::spec(pod).image_pull_secrets.iter().flatten() {
            match self.ground.parts.masters.secret(view::namespace(pod), &named.name).await {
                Ok(secret) => found.push(secret),
                Err(status) => {
                    let message = format!(
                        "Unable to retrieve some image pull secrets ({}); attempting to pull the \
                         image may not succeed: {}",
                        named.name,
                        status.message()
                    );
                    self.say(
                        pod,
                        "",
                        Severity::Warning,
                        "FailedToRetrieveImagePullSecret",
                        message,
                    );
                }
            }
        }
        found
    }
}
