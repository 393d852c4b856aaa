//! Speaks the Container Runtime Interface over a unix socket.
//!
//! Keeps: every call has a deadline. The connection is made when it is needed and again after it
//! broke.
//! Never: tries a call again; who asked decides.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use super::v1::image_service_client::ImageServiceClient;
use super::v1::runtime_service_client::RuntimeServiceClient;
use super::v1::{self, PodSandboxConfig};
use super::{Answer, Error, Runtime};

/// Upstream's `--runtime-request-timeout`.
const CALL_WAIT_MAX: Duration = Duration::from_secs(120);
/// An image may be large, and the way to it narrow.
const PULL_WAIT_MAX: Duration = Duration::from_secs(30 * 60);
/// As upstream: lists of containers on a full node are large.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// A runtime behind a socket. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

impl Client {
    /// The runtime at `endpoint`: `unix:///run/containerd/containerd.sock`, or the path alone.
    /// Nothing is connected yet.
    pub fn new(endpoint: &str) -> Result<Client, String> {
        let socket = socket_of(endpoint)?;
        let connector = tower::service_fn(move |_: http::Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        // The address is never looked at: the connector knows where to go.
        let channel =
            Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector);
        Ok(Client {
            runtime: RuntimeServiceClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
            images: ImageServiceClient::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        })
    }
}

/// The file that an endpoint names.
pub fn socket_of(endpoint: &str) -> Result<PathBuf, String> {
    let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
    if Path::new(path).is_absolute() {
        Ok(path.into())
    } else {
        Err(format!("{endpoint:?} is no runtime endpoint; give unix:///PATH"))
    }
}

fn timed<T>(message: T, wait: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(wait);
    request
}

/// Waits for an answer no longer than `wait`, whatever the other side makes of the deadline it was
/// told.
async fn within<T>(
    wait: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Error> {
    match tokio::time::timeout(wait, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(understood(&status)),
        Err(_) => Err(Error::Deadline(format!("no answer within {} s", wait.as_secs()))),
    }
}

fn understood(status: &Status) -> Error {
    let message = status.message().to_owned();
    match status.code() {
        Code::Unavailable => Error::Unreachable(message),
        Code::NotFound => Error::NotFound(message),
        Code::DeadlineExceeded | Code::Cancelled => Error::Deadline(message),
        _ => Error::Refused(message),
    }
}

/// What should be gone and is not there has gone.
fn gone(result: Result<v1::Done, Error>) -> Result<(), Error> {
    match result {
        Ok(_) | Err(Error::NotFound(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

fn missing(what: &str) -> Error {
    Error::Refused(format!("the container runtime answers without {what}"))
}

fn selector(label: Option<(&str, &str)>) -> std::collections::BTreeMap<String, String> {
    label.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn spec(reference: &str) -> Option<v1::ImageSpec> {
    Some(v1::ImageSpec { image: reference.to_owned(), ..v1::ImageSpec::default() })
}

/// One call of a service: clones its client, which shares the connection.
macro_rules! call {
    ($client:expr, $method:ident, $wait:expr, $message:expr) => {{
        let mut client = $client.clone();
        let request = timed($message, $wait);
        Box::pin(async move { within($wait, client.$method(request)).await })
    }};
}

impl Runtime for Client {
    fn version(&self) -> Answer<'_, v1::VersionResponse> {
        call!(self.runtime, version, CALL_WAIT_MAX, v1::VersionRequest { version: "v1".into() })
    }

    fn conditions(&self) -> Answer<'_, Vec<v1::RuntimeCondition>> {
        Box::pin(async move {
            let asked: Answer<'_, v1::StatusResponse> =
                call!(self.runtime, status, CALL_WAIT_MAX, v1::StatusRequest { verbose: false });
            Ok(asked.await?.status.ok_or_else(|| missing("a status"))?.conditions)
        })
    }

    fn run_sandbox<'a>(
        &'a self,
        config: &'a PodSandboxConfig,
        handler: &'a str,
    ) -> Answer<'a, String> {
        let message = v1::RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: handler.to_owned(),
        };
        // The network's plugins run in it, and may have to wait for theirs.
        let wait = CALL_WAIT_MAX * 2;
        Box::pin(async move {
            let asked: Answer<'_, v1::RunPodSandboxResponse> =
                call!(self.runtime, run_pod_sandbox, wait, message);
            Ok(asked.await?.pod_sandbox_id)
        })
    }

    fn stop_sandbox<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        let message = v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        Box::pin(async move {
            let asked: Answer<'_, v1::Done> =
                call!(self.runtime, stop_pod_sandbox, CALL_WAIT_MAX, message);
            gone(asked.await)
        })
    }

    fn remove_sandbox<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        let message = v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        Box::pin(async move {
            let asked: Answer<'_, v1::Done> =
                call!(self.runtime, remove_pod_sandbox, CALL_WAIT_MAX, message);
            gone(asked.await)
        })
    }

    fn sandbox_status<'a>(&'a self, id: &'a str) -> Answer<'a, v1::PodSandboxStatus> {
        let message = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        Box::pin(async move {
            let asked: Answer<'_, v1::PodSandboxStatusResponse> =
                call!(self.runtime, pod_sandbox_status, CALL_WAIT_MAX, message);
            asked.await?.status.ok_or_else(|| missing("the sandbox's status"))
        })
    }

    fn sandboxes<'a>(
        &'a self,
        label: Option<(&'a str, &'a str)>,
    ) -> Answer<'a, Vec<v1::PodSandbox>> {
        let filter = v1::PodSandboxFilter { id: String::new(), label_selector: selector(label) };
        let message = v1::ListPodSandboxRequest { filter: Some(filter) };
        Box::pin(async move {
            let asked: Answer<'_, v1::ListPodSandboxResponse> =
                call!(self.runtime, list_pod_sandbox, CALL_WAIT_MAX, message);
            Ok(asked.await?.items)
        })
    }

    fn create_container<'a>(
        &'a self,
        sandbox: &'a str,
        config: &'a v1::ContainerConfig,
        sandbox_config: &'a PodSandboxConfig,
    ) -> Answer<'a, String> {
        let message = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config.clone()),
            sandbox_config: Some(sandbox_config.clone()),
        };
        Box::pin(async move {
            let asked: Answer<'_, v1::CreateContainerResponse> =
                call!(self.runtime, create_container, CALL_WAIT_MAX, message);
            Ok(asked.await?.container_id)
        })
    }

    fn start_container<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        let message = v1::StartContainerRequest { container_id: id.to_owned() };
        Box::pin(async move {
            let asked: Answer<'_, v1::Done> =
                call!(self.runtime, start_container, CALL_WAIT_MAX, message);
            asked.await.map(drop)
        })
    }

    fn stop_container<'a>(&'a self, id: &'a str, grace_s: i64) -> Answer<'a, ()> {
        let message = v1::StopContainerRequest { container_id: id.to_owned(), timeout: grace_s };
        let wait = CALL_WAIT_MAX + Duration::from_secs(grace_s.max(0).unsigned_abs());
        Box::pin(async move {
            let asked: Answer<'_, v1::Done> = call!(self.runtime, stop_container, wait, message);
            gone(asked.await)
        })
    }

    fn remove_container<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        let message = v1::RemoveContainerRequest { container_id: id.to_owned() };
        Box::pin(async move {
            let asked: Answer<'_, v1::Done> =
                call!(self.runtime, remove_container, CALL_WAIT_MAX, message);
            gone(asked.await)
        })
    }

    fn containers<'a>(
        &'a self,
        label: Option<(&'a str, &'a str)>,
    ) -> Answer<'a, Vec<v1::Container>> {
        let filter = v1::ContainerFilter {
            label_selector: selector(label),
            ..v1::ContainerFilter::default()
        };
        let message = v1::ListContainersRequest { filter: Some(filter) };
        Box::pin(async move {
            let asked: Answer<'_, v1::ListContainersResponse> =
                call!(self.runtime, list_containers, CALL_WAIT_MAX, message);
            Ok(asked.await?.containers)
        })
    }

    fn container_status<'a>(&'a self, id: &'a str) -> Answer<'a, v1::ContainerStatus> {
        let message = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        Box::pin(async move {
            let asked: Answer<'_, v1::ContainerStatusResponse> =
                call!(self.runtime, container_status, CALL_WAIT_MAX, message);
            asked.await?.status.ok_or_else(|| missing("the container's status"))
        })
    }

    fn reopen_log<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        let message = v1::ReopenContainerLogRequest { container_id: id.to_owned() };
        Box::pin(async move {
            let asked: Answer<'_, v1::Done> =
                call!(self.runtime, reopen_container_log, CALL_WAIT_MAX, message);
            asked.await.map(drop)
        })
    }

    fn update_container<'a>(
        &'a self,
        id: &'a str,
        resources: &'a v1::LinuxContainerResources,
    ) -> Answer<'a, ()> {
        let message = v1::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(*resources),
        };
        Box::pin(async move {
            let asked: Answer<'_, v1::Done> =
                call!(self.runtime, update_container_resources, CALL_WAIT_MAX, message);
            asked.await.map(drop)
        })
    }

    fn container_stats(&self) -> Answer<'_, Vec<v1::ContainerStats>> {
        let message = v1::ListContainerStatsRequest { filter: None };
        Box::pin(async move {
            let asked: Answer<'_, v1::ListContainerStatsResponse> =
                call!(self.runtime, list_container_stats, CALL_WAIT_MAX, message);
            Ok(asked.await?.stats)
        })
    }

    fn exec_sync<'a>(
        &'a self,
        id: &'a str,
        command: &'a [String],
        timeout_s: i64,
    ) -> Answer<'a, v1::ExecSyncResponse> {
        let message = v1::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command.to_vec(),
            timeout: timeout_s,
        };
        let wait = match timeout_s {
            1.. => Duration::from_secs(timeout_s.unsigned_abs() + 2),
            _ => CALL_WAIT_MAX,
        };
        call!(self.runtime, exec_sync, wait, message)
    }

    fn images(&self) -> Answer<'_, Vec<v1::Image>> {
        Box::pin(async move {
            let message = v1::ListImagesRequest { filter: None };
            let asked: Answer<'_, v1::ListImagesResponse> =
                call!(self.images, list_images, CALL_WAIT_MAX, message);
            Ok(asked.await?.images)
        })
    }

    fn image<'a>(&'a self, reference: &'a str) -> Answer<'a, Option<v1::Image>> {
        let message = v1::ImageStatusRequest { image: spec(reference), verbose: false };
        Box::pin(async move {
            let asked: Answer<'_, v1::ImageStatusResponse> =
                call!(self.images, image_status, CALL_WAIT_MAX, message);
            Ok(asked.await?.image.filter(|image| !image.id.is_empty()))
        })
    }

    fn pull_image<'a>(
        &'a self,
        reference: &'a str,
        auth: Option<v1::AuthConfig>,
        sandbox: &'a PodSandboxConfig,
    ) -> Answer<'a, String> {
        let message = v1::PullImageRequest {
            image: spec(reference),
            auth,
            sandbox_config: Some(sandbox.clone()),
        };
        Box::pin(async move {
            let asked: Answer<'_, v1::PullImageResponse> =
                call!(self.images, pull_image, PULL_WAIT_MAX, message);
            Ok(asked.await?.image_ref)
        })
    }

    fn remove_image<'a>(&'a self, reference: &'a str) -> Answer<'a, ()> {
        let message = v1::RemoveImageRequest { image: spec(reference) };
        Box::pin(async move {
            let asked: Answer<'_, v1::Done> =
                call!(self.images, remove_image, CALL_WAIT_MAX, message);
            gone(asked.await)
        })
    }

    fn image_place(&self) -> Answer<'_, Option<v1::FilesystemUsage>> {
        Box::pin(async move {
            let asked: Answer<'_, v1::ImageFsInfoResponse> =
                call!(self.images, image_fs_info, CALL_WAIT_MAX, v1::ImageFsInfoRequest {});
            let named = |it: &v1::FilesystemUsage| {
                it.fs_id.as_ref().is_some_and(|it| !it.mountpoint.is_empty())
            };
            Ok(asked.await?.image_filesystems.into_iter().find(named))
        })
    }

    fn exec(&self, request: v1::ExecRequest) -> Answer<'_, String> {
        Box::pin(async move {
            let asked: Answer<'_, v1::StreamUrl> =
                call!(self.runtime, exec, CALL_WAIT_MAX, request);
            Ok(asked.await?.url)
        })
    }

    fn attach(&self, request: v1::AttachRequest) -> Answer<'_, String> {
        Box::pin(async move {
            let asked: Answer<'_, v1::StreamUrl> =
                call!(self.runtime, attach, CALL_WAIT_MAX, request);
            Ok(asked.await?.url)
        })
    }

    fn port_forward(&self, request: v1::PortForwardRequest) -> Answer<'_, String> {
        Box::pin(async move {
            let asked: Answer<'_, v1::StreamUrl> =
                call!(self.runtime, port_forward, CALL_WAIT_MAX, request);
            Ok(asked.await?.url)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_path_to_a_socket() {
        for good in ["unix:///run/c.sock", "/run/c.sock"] {
            assert_eq!(socket_of(good).unwrap(), Path::new("/run/c.sock"));
        }
        for bad in ["tcp://1.2.3.4:1", "run/c.sock", ""] {
            assert!(socket_of(bad).unwrap_err().contains("unix:///PATH"), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_runtime_that_is_not_there_is_said_to_be_unreachable() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("nobody.sock");
        let client = Client::new(socket.to_str().unwrap()).unwrap();
        assert!(matches!(client.version().await, Err(Error::Unreachable(_))));
    }
}
