//! The container runtime, as the rest of the agent sees it.
//!
//! [`Runtime`] is the door; behind it is [`client::Client`], which speaks the Container Runtime
//! Interface v1 over a unix socket, or in tests a runtime of plain values. The messages are the
//! interface's own ([`v1`]).
//!
//! Keeps: stopping and removing what is not there is done, not an error.

pub mod client;
#[cfg(test)]
pub mod fake;

use futures::future::BoxFuture;

/// The messages, as `proto/cri.proto` has them.
pub mod v1 {
    #![allow(clippy::all, reason = "made by the compiler of the proto")]
    tonic::include_proto!("runtime.v1");
}

use v1::{
    AuthConfig, Container, ContainerConfig, ContainerStats, ContainerStatus, ExecSyncResponse,
    FilesystemUsage, Image, LinuxContainerResources, PodSandbox, PodSandboxConfig,
    PodSandboxStatus, RuntimeCondition, VersionResponse,
};

/// Why the runtime did not do it.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The runtime cannot be reached; what was asked may or may not have been done.
    #[error("the container runtime does not answer: {0}")]
    Unreachable(String),
    #[error("{0}")]
    NotFound(String),
    /// Took longer than it was given.
    #[error("{0}")]
    Deadline(String),
    #[error("{0}")]
    Refused(String),
}

pub type Answer<'a, T> = BoxFuture<'a, Result<T, Error>>;

/// A container runtime.
pub trait Runtime: Send + Sync + 'static {
    fn version(&self) -> Answer<'_, VersionResponse>;
    /// `RuntimeReady`, `NetworkReady`.
    fn conditions(&self) -> Answer<'_, Vec<RuntimeCondition>>;

    fn run_sandbox<'a>(
        &'a self,
        config: &'a PodSandboxConfig,
        handler: &'a str,
    ) -> Answer<'a, String>;
    fn stop_sandbox<'a>(&'a self, id: &'a str) -> Answer<'a, ()>;
    fn remove_sandbox<'a>(&'a self, id: &'a str) -> Answer<'a, ()>;
    fn sandbox_status<'a>(&'a self, id: &'a str) -> Answer<'a, PodSandboxStatus>;
    /// Those that carry the label, or all.
    fn sandboxes<'a>(&'a self, label: Option<(&'a str, &'a str)>) -> Answer<'a, Vec<PodSandbox>>;

    fn create_container<'a>(
        &'a self,
        sandbox: &'a str,
        config: &'a ContainerConfig,
        sandbox_config: &'a PodSandboxConfig,
    ) -> Answer<'a, String>;
    fn start_container<'a>(&'a self, id: &'a str) -> Answer<'a, ()>;
    /// Asks it to end, and kills it after `grace_s`.
    fn stop_container<'a>(&'a self, id: &'a str, grace_s: i64) -> Answer<'a, ()>;
    fn remove_container<'a>(&'a self, id: &'a str) -> Answer<'a, ()>;
    fn containers<'a>(&'a self, label: Option<(&'a str, &'a str)>) -> Answer<'a, Vec<Container>>;
    fn container_status<'a>(&'a self, id: &'a str) -> Answer<'a, ContainerStatus>;
    fn reopen_log<'a>(&'a self, id: &'a str) -> Answer<'a, ()>;
    /// Changes what a container that runs may take.
    fn update_container<'a>(
        &'a self,
        id: &'a str,
        resources: &'a LinuxContainerResources,
    ) -> Answer<'a, ()>;
    /// What the containers that run have taken so far.
    fn container_stats(&self) -> Answer<'_, Vec<ContainerStats>>;

    fn exec_sync<'a>(
        &'a self,
        id: &'a str,
        command: &'a [String],
        timeout_s: i64,
    ) -> Answer<'a, ExecSyncResponse>;

    fn images(&self) -> Answer<'_, Vec<Image>>;
    fn image<'a>(&'a self, reference: &'a str) -> Answer<'a, Option<Image>>;
    /// Answers with what the image is called from now on.
    fn pull_image<'a>(
        &'a self,
        reference: &'a str,
        auth: Option<AuthConfig>,
        sandbox: &'a PodSandboxConfig,
    ) -> Answer<'a, String>;
    fn remove_image<'a>(&'a self, reference: &'a str) -> Answer<'a, ()>;
    /// The disk that holds the images, and what they take of it.
    fn image_place(&self) -> Answer<'_, Option<FilesystemUsage>>;

    /// Where the runtime serves a stream: once, and soon.
    fn exec(&self, request: v1::ExecRequest) -> Answer<'_, String>;
    fn attach(&self, request: v1::AttachRequest) -> Answer<'_, String>;
    fn port_forward(&self, request: v1::PortForwardRequest) -> Answer<'_, String>;
}
