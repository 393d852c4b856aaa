//! Asks containers how they are, and what hooks are run at their beginning and end.
//!
//! Keeps: every question has a deadline. Liveness and readiness are asked only once a startup
//! probe, if there is one, was answered well. Only changes are told.

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{
    Container, ExecAction, GRPCAction, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kontiki_api::tunnel::anyone;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::cri::Runtime;

/// As much of an answer as a status can hold.
const ANSWER_BYTES_MAX: usize = 10 << 10;
/// Hooks have no deadline of their own; this is as long as a pod usually has to end.
pub const HOOK_WAIT_MAX: Duration = Duration::from_secs(30 * 60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
        }
    }
}

/// What a probe has found.
#[derive(Clone, Debug)]
pub struct Finding {
    pub container: String,
    pub kind: Kind,
    pub well: bool,
    /// Often enough to count.
    pub counts: bool,
    pub why: String,
}

/// Whom to ask.
#[derive(Clone)]
pub struct Target {
    pub runtime: Arc<dyn Runtime>,
    /// The container's id.
    pub container: String,
    /// Of the pod.
    pub address: String,
    pub spec: Arc<Container>,
}

/// Whether there is anything to ask.
#[must_use]
pub fn wanted(container: &Container) -> bool {
    container.startup_probe.is_some()
        || container.liveness_probe.is_some()
        || container.readiness_probe.is_some()
}

/// Asks until it is dropped, or nothing more is to be known.
pub async fn watch(target: Target, findings: mpsc::Sender<Finding>) {
    let spec = target.spec.clone();
    if let Some(probe) = &spec.startup_probe
        && !series(&target, Kind::Startup, probe, &findings).await
    {
        return;
    }
    let one = |kind: Kind, probe: Option<&Probe>| {
        let (target, findings, probe) = (target.clone(), findings.clone(), probe.cloned());
        async move {
            if let Some(probe) = probe {
                series(&target, kind, &probe, &findings).await;
            }
        }
    };
    tokio::join!(
        one(Kind::Liveness, spec.liveness_probe.as_ref()),
        one(Kind::Readiness, spec.readiness_probe.as_ref()),
    );
}

fn seconds(said: Option<i32>, otherwise: u64) -> Duration {
    let said = said.and_then(|it| u64::try_from(it).ok());
    Duration::from_secs(said.filter(|it| *it > 0).unwrap_or(otherwise))
}

/// One probe, again and again. Ends with whether it was well, where one answer decides.
async fn series(
    target: &Target,
    kind: Kind,
    probe: &Probe,
    findings: &mpsc::Sender<Finding>,
) -> bool {
    let (period, wait) = (seconds(probe.period_seconds, 10), seconds(probe.timeout_seconds, 1));
    let threshold = |said: Option<i32>, otherwise| said.filter(|it| *it > 0).unwrap_or(otherwise);
    let (enough_well, enough_ill) =
        (threshold(probe.success_threshold, 1), threshold(probe.failure_threshold, 3));
    let delay = probe.initial_delay_seconds.unwrap_or(0);
    let mut next = Instant::now() + Duration::from_secs(u64::try_from(delay).unwrap_or(0));
    let (mut well_count, mut ill_count) = (0, 0);
    loop {
        sleep_until(next).await;
        next = Instant::now() + period;
        let answer = match timeout(wait + Duration::from_secs(1), ask(target, probe, wait)).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {} s", wait.as_secs())),
        };
        let well = answer.is_ok();
        (well_count, ill_count) = if well { (well_count + 1, 0) } else { (0, ill_count + 1) };
        let counts = if well { well_count >= enough_well } else { ill_count >= enough_ill };
        let finding = Finding {
            container: target.container.clone(),
            kind,
            well,
            counts,
            why: answer.err().unwrap_or_default(),
        };
        // A slow worker is waited for: what it has not read yet is not overtaken.
        if findings.send(finding).await.is_err() {
            return false;
        }
        match kind {
            Kind::Startup if counts => return well,
            Kind::Liveness if counts && !well => return false,
            _ => {}
        }
    }
}

async fn ask(target: &Target, probe: &Probe, wait: Duration) -> Result<(), String> {
    if let Some(action) = &probe.exec {
        return exec(target, action, wait).await;
    }
    if let Some(action) = &probe.http_get {
        return get(target, action, "kube-probe/1.37").await;
    }
    if let Some(action) = &probe.tcp_socket {
        return connect(target, action).await;
    }
    match &probe.grpc {
        Some(action) => health(target, action).await,
        None => Err("the probe says nothing of how to ask".into()),
    }
}

/// Runs a hook to its end.
pub async fn hook(target: &Target, handler: &LifecycleHandler) -> Result<(), String> {
    let run = async {
        if let Some(action) = &handler.exec {
            return exec(target, action, HOOK_WAIT_MAX).await;
        }
        if let Some(action) = &handler.http_get {
            return get(target, action, "kube-lifecycle/1.37").await;
        }
        if let Some(action) = &handler.sleep {
            sleep(Duration::from_secs(u64::try_from(action.seconds).unwrap_or(0))).await;
        }
        Ok(())
    };
    timeout(HOOK_WAIT_MAX, run).await.unwrap_or_else(|_| Err("the hook does not end".into()))
}

async fn exec(target: &Target, action: &ExecAction, wait: Duration) -> Result<(), String> {
    let command = action.command.clone().unwrap_or_default();
    let seconds = i64::try_from(wait.as_secs()).unwrap_or(i64::MAX);
    let asked = target.runtime.exec_sync(&target.container, &command, seconds).await;
    let answer = asked.map_err(|error| error.to_string())?;
    if answer.exit_code == 0 {
        return Ok(());
    }
    let mut said = [answer.stdout, answer.stderr].concat();
    said.truncate(ANSWER_BYTES_MAX);
    Err(format!("exit code {}: {}", answer.exit_code, String::from_utf8_lossy(&said).trim()))
}

/// A port by its number, or by the name that the container gives it.
fn port_of(container: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|it| it.name.as_deref() == Some(name))
            .map(|it| it.container_port)
            .or_else(|| name.parse().ok()),
    };
    let number = number.and_then(|it| u16::try_from(it).ok()).filter(|it| *it > 0);
    number.ok_or_else(|| format!("the container has no port {port:?}"))
}

fn host_of<'a>(target: &'a Target, said: Option<&'a String>) -> &'a str {
    said.map(String::as_str).filter(|it| !it.is_empty()).unwrap_or(&target.address)
}

async fn connect(target: &Target, action: &TCPSocketAction) -> Result<(), String> {
    let port = port_of(&target.spec, &action.port)?;
    let host = host_of(target, action.host.as_ref());
    TcpStream::connect((host, port))
        .await
        .map(drop)
        .map_err(|error| format!("{host}:{port}: {error}"))
}

async fn get(target: &Target, action: &HTTPGetAction, agent: &str) -> Result<(), String> {
    let port = port_of(&target.spec, &action.port)?;
    let host = host_of(target, action.host.as_ref());
    let path = action.path.as_deref().filter(|it| !it.is_empty()).unwrap_or("/");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let mut request = Request::builder().method("GET").uri(path);
    let mut named = false;
    for header in action.http_headers.iter().flatten() {
        named |= header.name.eq_ignore_ascii_case("host");
        request = request.header(&header.name, &header.value);
    }
    if !named {
        request = request.header(http::header::HOST, format!("{host}:{port}"));
    }
    request = request.header(http::header::USER_AGENT, agent).header(http::header::ACCEPT, "*/*");
    let request = request.body(Empty::<bytes::Bytes>::new()).map_err(|error| error.to_string())?;
    let failed = |error: &dyn std::fmt::Display| format!("{host}:{port}: {error}");
    let stream = TcpStream::connect((host, port)).await.map_err(|error| failed(&error))?;
    let answer = if action.scheme.as_deref() == Some("HTTPS") {
        let name = rustls::pki_types::ServerName::try_from(host.to_owned());
        let name = name.map_err(|error| failed(&error))?;
        let tls = tokio_rustls::TlsConnector::from(anyone::config());
        let stream = tls.connect(name, stream).await.map_err(|error| failed(&error))?;
        send(TokioIo::new(stream), request).await
    } else {
        send(TokioIo::new(stream), request).await
    };
    let (status, body) = answer.map_err(|error| failed(&error))?;
    if (200..400).contains(&status) {
        return Ok(());
    }
    Err(format!("HTTP probe failed with statuscode: {status} {body}").trim().to_owned())
}

async fn send(
    io: impl hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    request: Request<Empty<bytes::Bytes>>,
) -> Result<(u16, String), String> {
    let said = |error: &dyn std::fmt::Display| error.to_string();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(io).await.map_err(|error| said(&error))?;
    // It ends with this question: whichever is first.
    let asking = async {
        let answer = sender.send_request(request).await.map_err(|error| said(&error))?;
        let status = answer.status().as_u16();
        // What is too long, or breaks off, is no failure: the status has been said.
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map(|it| it.to_bytes()).unwrap_or_default();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    let mut connection = std::pin::pin!(connection);
    let mut asking = std::pin::pin!(asking);
    tokio::select! {
        biased;
        answer = &mut asking => answer,
        ended = &mut connection => match ended {
            Ok(()) => asking.await,
            Err(error) => Err(said(&error)),
        },
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthAnswer {
    /// 1 for serving.
    #[prost(int32, tag = "1")]
    status: i32,
}

/// The health service of gRPC.
async fn health(target: &Target, action: &GRPCAction) -> Result<(), String> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!(
        "http://{}",
        authority(&target.address, action.port)
    ));
    let said = |error: &dyn std::fmt::Display| error.to_string();
    let channel =
        endpoint.map_err(|error| said(&error))?.connect().await.map_err(|error| said(&error))?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|error| said(&error))?;
    let request = HealthRequest { service: action.service.clone().unwrap_or_default() };
    let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec = tonic_prost::ProstCodec::<HealthRequest, HealthAnswer>::default();
    let answer = client.unary(tonic::Request::new(request), path, codec).await;
    match answer.map(tonic::Response::into_inner) {
        Ok(HealthAnswer { status: 1 }) => Ok(()),
        Ok(answer) => Err(format!("the service says that its status is {}", answer.status)),
        Err(status) => Err(status.message().to_owned()),
    }
}

fn authority(address: &str, port: i32) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}
