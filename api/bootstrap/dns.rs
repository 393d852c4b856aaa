//! `kube-system/kube-dns`: the service at which pods ask for names.
//!
//! Every node answers there itself, so it has no endpoints: it is there to keep the address from others, and
//! for clients that look the server up by it.
//! Keeps: it is made if it is not there. Never: changes one that is.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::json;

use super::reconcile::Rule;
use super::{Wanted, ensure};
use crate::client::Client;

/// Which address of the services' range it has.
const NUMBER: usize = 10;
const PORT: u16 = 53;
/// One that somebody took away is back after this long.
const INTERVAL: Duration = Duration::from_secs(60);
/// The namespace may not be there yet.
const RETRY: Duration = Duration::from_secs(1);

/// The address of the cluster's DNS: the tenth of the services' range. None if the range has fewer.
#[must_use]
pub fn service_ip(services: &IpNet) -> Option<IpAddr> {
    let after = |first: IpAddr| match first {
        IpAddr::V4(it) => Some(IpAddr::V4((u32::from(it).checked_add(NUMBER as u32)?).into())),
        IpAddr::V6(it) => Some(IpAddr::V6((u128::from(it).checked_add(NUMBER as u128)?).into())),
    };
    after(services.network()).filter(|it| services.contains(it) && *it != services.broadcast())
}

/// Keeps the service as long as it is polled.
pub async fn keep(client: &Client, services: &IpNet) {
    let Some(ip) = service_ip(services) else { return };
    let mut said = String::new();
    loop {
        let wait = match ensure(client, &service(ip)).await {
            Ok(()) => INTERVAL,
            Err(status) => {
                let why = status.message().to_owned();
                if why != said {
                    tracing::warn!(why, "pods' DNS server has no service");
                    said = why;
                }
                RETRY
            }
        };
        tokio::time::sleep(wait).await;
    }
}

fn service(ip: IpAddr) -> Wanted {
    let port = |name: &str, protocol: &str| {
        let (port, target) = (PORT, PORT);
        json!({"name": name, "port": port, "protocol": protocol, "targetPort": target})
    };
    let object = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "namespace": "kube-system",
            "name": "kube-dns",
            "labels": {
                "k8s-app": "kube-dns",
                "kubernetes.io/cluster-service": "true",
                "kubernetes.io/name": "CoreDNS",
            },
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": ip.to_string(),
            "ipFamilyPolicy": "SingleStack",
            "ports": [port("dns", "UDP"), port("dns-tcp", "TCP")],
        },
    });
    Wanted::new("", "v1", "services", Rule::Once, object)
}
