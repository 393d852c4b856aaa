//! The Kubernetes half of a master: the API server on the store, and the loops where this master leads.
//!
//! Keeps: loops run on one master at a time as far as Raft's leadership goes, start from full lists, and are waited
//! for when it ends.

use std::net::IpAddr;
use std::sync::Arc;

use kontiki_api::bootstrap;
use kontiki_api::cluster::wire::ClusterSettings;
use kontiki_api::cluster::{self};
use kontiki_api::object::time::Clock;
use kontiki_api::server::{Config, Server};
use kontiki_raft::Replica;
use kontiki_raft::replica::Role;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::loops::{self, Loops};
use crate::controllers::{Selection, Settings};
use crate::failure::Failure;
use crate::reconcile::leadership::Leadership;

/// Prefix length of a node's part of the pods' network, where that is IPv4 or IPv6.
const NODE_PREFIX: (u8, u8) = (24, 64);

/// What this half is made of.
pub(super) struct Kube {
    pub server: Server,
    replica: Replica,
    settings: Settings,
}

impl Kube {
    /// `url` is where clients outside find this master.
    pub fn new(
        replica: Replica,
        pki: &dyn cluster::Pki,
        cluster: &ClusterSettings,
        url: &str,
        stop: CancellationToken,
    ) -> Result<Kube, Failure> {
        let authorities = pki.authorities();
        let service_cidr = cluster.service_cidr.parse().map_err(|error| {
            Failure::Run(format!("the cluster's services {}: {error}", cluster.service_cidr))
        })?;
        let bundle = authorities.cluster.bundle;
        let bootstrap = bootstrap::Config {
            service_cidrs: vec![service_cidr],
            client_ca: bundle.clone(),
            front_proxy_ca: bundle.clone(),
            server_ca: bundle.clone(),
            server: url.to_owned(),
        };
        let config = Config::new(bootstrap, authorities.service_account_key);
        let server = Server::new(replica.clone(), config, stop)
            .map_err(|error| Failure::Run(format!("the key that signs tokens: {error}")))?;
        let v6 = cluster.cluster_cidr.contains(':');
        let settings = Settings {
            root_ca: bundle.clone(),
            signing_certificate: bundle,
            signing_key: authorities.cluster.key,
            cluster_cidr: cluster.cluster_cidr.clone(),
            node_prefix_length: if v6 { NODE_PREFIX.1 } else { NODE_PREFIX.0 },
            service_cidr: cluster.service_cidr.clone(),
        };
        Ok(Kube { server, replica, settings })
    }

    /// Controllers and scheduler, whenever this master leads, until `stop`.
    pub async fn lead(self, stop: CancellationToken) -> Result<(), String> {
        let Kube { server, replica, settings } = self;
        let (leads, leading) = watch::channel(false);
        let told = {
            let stop = stop.clone();
            let mut status = replica.status();
            async move {
                loop {
                    let now = {
                        let status = status.borrow_and_update();
                        status.role == Role::Leader && status.ready
                    };
                    leads.send_if_modified(|before| std::mem::replace(before, now) != now);
                    tokio::select! {
                        changed = status.changed() => if changed.is_err() { return },
                        () = stop.cancelled() => return,
                    }
                }
            }
        };
        let server = Arc::new(server);
        let running = Leadership::Follow(leading).run(stop, |term| {
            let server = server.clone();
            let settings = settings.clone();
            async move {
                server.ready().await;
                let client = server.client("kube-controller-manager");
                let clock = Clock::System;
                let loops = Loops { client, settings, clock, selection: Selection::default() };
                loops::run(loops, term).await;
            }
        });
        tokio::join!(told, running);
        Ok(())
    }
}

/// Where this master's API is found by others.
pub(super) fn url(address: IpAddr, port: u16) -> String {
    format!("https://{}", std::net::SocketAddr::new(address, port))
}
