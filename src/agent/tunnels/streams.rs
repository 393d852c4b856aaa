//! What the container runtime serves: it is asked where, and its answer is upgraded to SPDY/3.1 there.
//!
//! Keeps: only an address of this machine is dialled: the runtime's own, or a pod's that is here.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, UPGRADE};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use kontiki_api::Status;
use kontiki_api::error::Reason;
use kontiki_api::tunnel::{Duplex, Tunnel, wire};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Ends;
use crate::agent::cri::v1;
use crate::agent::cri::{Answer, Error};

const PROTOCOL: &str = "x-stream-protocol-version";
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(10);
/// Of a refusal.
const BODY_BYTES_MAX: usize = 64 << 10;

pub async fn exec(ends: &Ends, exec: wire::Exec) -> Result<Tunnel, Status> {
    let seen = ends.running(exec.pod.as_ref(), &exec.container).await?;
    let streams = exec.streams.unwrap_or_default();
    let served = ends.runtime.exec(v1::ExecRequest {
        container_id: seen.id().to_owned(),
        cmd: exec.command,
        tty: streams.tty,
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
    });
    upgrade(served, &exec.protocols).await
}

pub async fn attach(ends: &Ends, attach: wire::Attach) -> Result<Tunnel, Status> {
    let seen = ends.running(attach.pod.as_ref(), &attach.container).await?;
    let streams = attach.streams.unwrap_or_default();
    let served = ends.runtime.attach(v1::AttachRequest {
        container_id: seen.id().to_owned(),
        stdin: streams.stdin,
        tty: streams.tty,
        stdout: streams.stdout,
        stderr: streams.stderr,
    });
    upgrade(served, &attach.protocols).await
}

pub async fn port_forward(ends: &Ends, forward: wire::PortForward) -> Result<Tunnel, Status> {
    let observed = ends.pod(forward.pod.as_ref()).await?;
    let sandbox = observed.sandbox().ok_or_else(|| not_here(forward.pod.as_ref()))?;
    let request = v1::PortForwardRequest { pod_sandbox_id: sandbox.id.clone(), port: Vec::new() };
    upgrade(ends.runtime.port_forward(request), &forward.protocols).await
}

/// A connection to a port of a pod, at the pod's own address.
pub async fn dial(ends: &Ends, dial: wire::Dial) -> Result<Box<dyn Duplex>, Status> {
    let observed = ends.pod(dial.pod.as_ref()).await?;
    let port = u16::try_from(dial.port).ok().filter(|port| *port != 0);
    let port = port.ok_or_else(|| Status::bad_request(format!("{} is no port", dial.port)))?;
    let address: Option<IpAddr> = observed.addresses().first().and_then(|it| it.parse().ok());
    let address = address.ok_or_else(|| not_here(dial.pod.as_ref()))?;
    Ok(Box::new(connect(SocketAddr::new(address, port)).await?))
}

fn not_here(pod: Option<&wire::Pod>) -> Status {
    let name = pod.map(|it| it.name.as_str()).unwrap_or_default();
    Status::internal(format!("unable to upgrade connection: pod {name:?} does not run here"))
}

async fn connect(address: SocketAddr) -> Result<TcpStream, Status> {
    let failed = |why: &dyn std::fmt::Display| {
        let why = format!("error trying to reach service: dial tcp {address}: {why}");
        Status::new(Reason::ServiceUnavailable, why)
    };
    let stream = timeout(CONNECT_WAIT_MAX, TcpStream::connect(address)).await;
    let stream = stream.map_err(|_| failed(&"no answer in time"))?.map_err(|it| failed(&it))?;
    stream.set_nodelay(true).map_err(|it| failed(&it))?;
    Ok(stream)
}

/// Goes where the runtime says and asks for SPDY/3.1 there.
async fn upgrade(served: Answer<'_, String>, protocols: &[String]) -> Result<Tunnel, Status> {
    let url = served.await.map_err(|error| match error {
        Error::NotFound(why) => Status::internal(format!("container not found: {why}")),
        error => Status::internal(error.to_string()),
    })?;
    let (address, uri) = place(&url)?;
    let stream = connect(address).await?;
    let failed = |error: &dyn std::fmt::Display| {
        Status::internal(format!("the container runtime's stream cannot be opened: {error}"))
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(&error))?;
    // Hands the connection over when it is upgraded, and ends by that.
    tokio::spawn(connection.with_upgrades());
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(uri)
        .header(HOST, address.to_string())
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "SPDY/3.1")
        .header(CONTENT_LENGTH, "0");
    for protocol in protocols {
        request = request.header(PROTOCOL, protocol);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| failed(&error))?;
    let answer = sender.send_request(request).await.map_err(|error| failed(&error))?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refused(answer).await);
    }
    let agreed = answer.headers().get(PROTOCOL).and_then(|it| it.to_str().ok());
    let protocol = agreed.unwrap_or_default().to_owned();
    let bytes = hyper::upgrade::on(answer).await.map_err(|error| failed(&error))?;
    Ok(Tunnel { protocol, bytes: Box::new(TokioIo::new(bytes)) })
}

async fn refused(answer: Response<Incoming>) -> Status {
    let code = answer.status();
    let body = Limited::new(answer.into_body(), BODY_BYTES_MAX).collect().await;
    let text = body.map(|it| it.to_bytes()).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    Status::internal(format!("the container runtime answers {code}: {text}"))
}

/// Where a stream is served: an address of this machine, and the path there.
fn place(url: &str) -> Result<(SocketAddr, Uri), Status> {
    let strange = || {
        let why = "serves streams at";
        Status::internal(format!(
            "the container runtime {why} {url:?}, which is not http:// with an address of this \
             machine; turn TLS off for its stream server, which listens on loopback"
        ))
    };
    let uri: Uri = url.parse().map_err(|_| strange())?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let address: Option<IpAddr> = match host {
        "localhost" => Some(IpAddr::from([127, 0, 0, 1])),
        host => host.parse().ok(),
    };
    let path = uri.path_and_query().map_or("/", |it| it.as_str()).parse().map_err(|_| strange())?;
    match (uri.scheme_str(), address) {
        (Some("http"), Some(address)) => {
            Ok((SocketAddr::new(address, uri.port_u16().unwrap_or(80)), path))
        }
        _ => Err(strange()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_served_at_an_address_without_tls() {
        let (address, path) = place("http://127.0.0.1:4321/exec/abc").unwrap();
        assert_eq!((address.to_string().as_str(), path.path()), ("127.0.0.1:4321", "/exec/abc"));
        let (address, _) = place("http://[::1]:1/attach/x").unwrap();
        assert_eq!(address.to_string(), "[::1]:1");
        for bad in ["https://127.0.0.1:1/x", "http://example.com/x", "/exec/x", ""] {
            assert!(place(bad).is_err(), "{bad}");
        }
    }
}
