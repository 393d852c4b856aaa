//! What load balancers are told that ask whether this node has endpoints of a service.
//!
//! Only services of `externalTrafficPolicy: Local` behind a load balancer have a port for it
//! (`healthCheckNodePort`); it is the one port that a node opens, and the service has asked for it.
//!
//! Keeps: a question has [`HEAD_MAX`] bytes and [`PATIENCE`]; a port answers [`ASKERS_MAX`] at a time, and the
//! others wait in the kernel.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::reconcile::Key;

const HEAD_MAX: usize = 8 << 10;
const PATIENCE: Duration = Duration::from_secs(5);
const ASKERS_MAX: usize = 16;
/// Between attempts to take a port that somebody else has.
const PAUSE: Duration = Duration::from_secs(10);

/// How a service is on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    pub service: Key,
    pub ready: usize,
}

pub type All = BTreeMap<u16, Health>;

/// Answers on the ports that are in `all`, until `stop`.
pub async fn run(mut all: watch::Receiver<All>, stop: CancellationToken) {
    let mut running: BTreeMap<u16, AbortHandle> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    loop {
        let wanted: Vec<u16> = all.borrow_and_update().keys().copied().collect();
        running.retain(|port, task| {
            let keep = wanted.contains(port);
            if !keep {
                task.abort();
            }
            keep
        });
        for port in wanted {
            let answers = all.clone();
            running.entry(port).or_insert_with(|| tasks.spawn(answer_on(port, answers)));
        }
        tokio::select! {
            changed = all.changed() => if changed.is_err() { break },
            Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            () = stop.cancelled() => break,
        }
    }
    tasks.shutdown().await;
}

async fn answer_on(port: u16, answers: watch::Receiver<All>) {
    let listener = loop {
        match listen(port).await {
            Ok(listener) => break listener,
            Err(error) => {
                tracing::warn!(port, %error, "a service's health check cannot be answered");
                sleep(PAUSE).await;
            }
        }
    };
    let places = Arc::new(Semaphore::new(ASKERS_MAX));
    let mut asking = JoinSet::new();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        while asking.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let health = answers.borrow().get(&port).cloned();
                asking.spawn(async move {
                    let _place = place;
                    // Whoever does not read their answer has not wanted it.
                    let _ = timeout(PATIENCE, answer(stream, health)).await;
                });
            }
            Err(error) => {
                tracing::debug!(port, %error, "a question was not taken");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// For both families where the machine has both.
async fn listen(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await,
    }
}

async fn answer(mut stream: TcpStream, health: Option<Health>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|it| it == b"\r\n\r\n") && head.len() < HEAD_MAX {
        let mut part = [0; 1024];
        match stream.read(&mut part).await? {
            0 => break,
            count => head.extend_from_slice(&part[..count]),
        }
    }
    stream.write_all(response(health.as_ref()).as_bytes()).await?;
    stream.shutdown().await
}

/// The whole answer, whatever the question.
fn response(health: Option<&Health>) -> String {
    let ready = health.map_or(0, |it| it.ready);
    let state = if ready > 0 { "200 OK" } else { "503 Service Unavailable" };
    let service =
        health.map(|it| json!({"namespace": it.service.namespace, "name": it.service.name}));
    let body = json!({"service": service, "localEndpoints": ready, "serviceProxyHealthy": true})
        .to_string();
    format!(
        "HTTP/1.1 {state}\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n\
         X-Load-Balancing-Endpoint-Weight: {ready}\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_load_balancer_is_told_whether_there_are_endpoints_here() {
        // A port that is free: taken, and given back.
        let port = listen(0).await.unwrap().local_addr().unwrap().port();
        let health = |ready| {
            let service = Key::new("shop", "web");
            All::from([(port, Health { service, ready })])
        };
        let (tell, told) = watch::channel(health(2));
        let stop = CancellationToken::new();
        let running = tokio::spawn(run(told, stop.clone()));
        let ask = || async move {
            let mut stream = loop {
                match TcpStream::connect(("127.0.0.1", port)).await {
                    Ok(stream) => break stream,
                    Err(_) => tokio::task::yield_now().await,
                }
            };
            stream.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            text
        };
        let text = ask().await;
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        assert!(text.contains("Endpoint-Weight: 2\r\n"), "{text}");
        assert!(text.contains(r#""service":{"name":"web","namespace":"shop"}"#), "{text}");
        tell.send_replace(health(0));
        assert!(ask().await.starts_with("HTTP/1.1 503 "));
        tell.send_replace(All::new());
        while TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            tokio::task::yield_now().await;
        }
        stop.cancel();
        running.await.unwrap();
    }
}
