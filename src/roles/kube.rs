//! The Kubernetes half of a master: the API server on the store, and the loops where this master leads.
//!
//! Keeps: loops run on one master at a time as far as Raft's leadership goes, start from full lists, and
//! are waited for when it ends.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use kontiki_api::audit::Audit;
use kontiki_api::bootstrap::{self, dns, masters};
use kontiki_api::cluster::wire::{ClusterSettings, MasterRecord};
use kontiki_api::cluster::{self, Records};
use kontiki_api::node::Peers;
use kontiki_api::object::time::Clock;
use kontiki_api::server::{Config, Server};
use kontiki_raft::Replica;
use kontiki_raft::replica::Role;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::loops::{self, Counted, Loops};
use crate::controllers::{Selection, Settings};
use crate::failure::Failure;
use crate::pki::Material;
use crate::reconcile::leadership::Leadership;

/// Prefix length of a node's part of the pods' network, where that is IPv4 or IPv6.
const NODE_PREFIX: (u8, u8) = (24, 64);

/// What this half is made of.
pub(super) struct Kube {
    pub server: Server,
    replica: Replica,
    pki: Arc<Material>,
    cluster: ClusterSettings,
    bootstrap: bootstrap::Config,
    /// Of the service `kubernetes`.
    service_ip: IpAddr,
    services: ipnet::IpNet,
}

/// How often the list of masters is looked at.
const MASTERS_LOOK: Duration = Duration::from_secs(2);

impl Kube {
    /// `url` is where clients outside find this master.
    pub fn new(
        replica: Replica,
        pki: &Arc<Material>,
        cluster: &ClusterSettings,
        url: &str,
        audit: Option<Arc<Audit>>,
        stop: CancellationToken,
    ) -> Result<Kube, Failure> {
        let authorities = cluster::Pki::authorities(&**pki);
        let service_cidr: ipnet::IpNet = cluster.service_cidr.parse().map_err(|error| {
            Failure::Run(format!("the cluster's services {}: {error}", cluster.service_cidr))
        })?;
        let bundle = authorities.cluster.bundle;
        let bootstrap = bootstrap::Config {
            service_cidrs: vec![service_cidr],
            client_ca: bundle.clone(),
            front_proxy_ca: bundle.clone(),
            server_ca: bundle,
            server: url.to_owned(),
        };
        let mut config = Config::new(bootstrap.clone(), authorities.service_account_key);
        config.peers = Some(peers(&replica, pki, url));
        config.audit = audit;
        let server = Server::new(replica.clone(), config, stop)
            .map_err(|error| Failure::Run(format!("the key that signs tokens: {error}")))?;
        let service_ip = masters::service_ip(&service_cidr);
        let (pki, cluster) = (pki.clone(), cluster.clone());
        let services = service_cidr;
        Ok(Kube { server, replica, pki, cluster, bootstrap, service_ip, services })
    }

    /// Whenever the CAs change, tells everybody who finds them in the API, until `stop`.
    pub fn keep_trust(
        &self,
        stop: CancellationToken,
    ) -> impl Future<Output = Result<(), String>> + use<> {
        let (server, pki) = (self.server.clone(), self.pki.clone());
        let mut bootstrap = self.bootstrap.clone();
        let mut changes = pki.changes();
        async move {
            let client = server.client("apiserver");
            let keep = async {
                server.ready().await;
                while changes.changed().await.is_ok() {
                    let bundle = cluster::Pki::cluster_ca(&*pki);
                    bootstrap.client_ca.clone_from(&bundle);
                    bootstrap.front_proxy_ca.clone_from(&bundle);
                    bootstrap.server_ca = bundle;
                    bootstrap::bootstrap_until_done(&client, &bootstrap).await;
                }
            };
            tokio::select! {
                () = keep => {}
                () = stop.cancelled() => {}
            }
            Ok(())
        }
    }

    /// Keeps the service under which pods find the API pointed at every master, and the one under which they
    /// ask for names, until `stop`.
    pub fn keep_service(
        &self,
        records: Records,
        stop: CancellationToken,
    ) -> impl Future<Output = Result<(), String>> + use<> {
        let (server, service_ip, services) = (self.server.clone(), self.service_ip, self.services);
        async move {
            let (masters, known) = watch::channel(BTreeSet::new());
            let look = async {
                loop {
                    // What cannot be read now is read at the next look.
                    let found = records.masters().unwrap_or_default();
                    let found: BTreeSet<SocketAddr> = found.iter().filter_map(address).collect();
                    masters.send_if_modified(|before| {
                        let changed = !found.is_empty() && *before != found;
                        if changed {
                            *before = found;
                        }
                        changed
                    });
                    tokio::time::sleep(MASTERS_LOOK).await;
                }
            };
            let client = server.client("apiserver");
            let keep = async {
                server.ready().await;
                tokio::join!(
                    masters::keep(&client, service_ip, known),
                    dns::keep(&client, &services),
                );
            };
            tokio::select! {
                () = async { tokio::join!(look, keep); } => {}
                () = stop.cancelled() => {}
            }
            Ok(())
        }
    }

    /// Controllers and scheduler, whenever this master leads, until `stop`.
    pub async fn lead(self, selection: Selection, stop: CancellationToken) -> Result<(), String> {
        let Kube { server, replica, pki, cluster, .. } = self;
        let mut counted = None;
        server.metrics().register(|registry| counted = Some(Counted::new(registry)));
        let loops = Loops {
            client: server.client("kube-controller-manager"),
            settings: settings(&pki, &cluster),
            clock: Clock::System,
            selection,
            counted: counted.expect("the registry calls back at once"),
        };
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
        let running = Leadership::Follow(leading).run(stop, |term| {
            let (server, loops, pki) = (server.clone(), loops.clone(), pki.clone());
            let now = {
                let cluster = cluster.clone();
                move |pki: &Material| settings(pki, &cluster)
            };
            async move {
                tokio::select! {
                    () = server.ready() => {}
                    () = term.cancelled() => return,
                }
                // They hand out the CAs and sign by them: with others they begin anew.
                let mut changes = pki.changes();
                while !term.is_cancelled() {
                    changes.mark_unchanged();
                    let round = term.child_token();
                    let loops = Loops { settings: now(&pki), ..loops.clone() };
                    let running = loops::run(loops, round.clone());
                    tokio::pin!(running);
                    tokio::select! {
                        () = &mut running => return,
                        _ = changes.changed() => {}
                    }
                    round.cancel();
                    running.await;
                }
            }
        });
        tokio::join!(told, running);
        Ok(())
    }
}

/// What the loops are told, with the CAs as they are now.
fn settings(pki: &Material, cluster: &ClusterSettings) -> Settings {
    let authority = cluster::Pki::authorities(pki).cluster;
    Settings {
        root_ca: authority.bundle.clone(),
        signing_certificate: authority.bundle,
        signing_key: authority.key,
        cluster_cidr: cluster.cluster_cidr.clone(),
        node_prefix_length: node_prefix_length(&cluster.cluster_cidr),
        service_cidr: cluster.service_cidr.clone(),
    }
}

/// The other masters, for nodes whose agents are connected there.
fn peers(replica: &Replica, pki: &Arc<Material>, url: &str) -> Peers {
    let (records, pki) = (Records::new(replica.clone()), pki.clone());
    Peers {
        me: url.to_owned(),
        masters: Arc::new(move || {
            // What cannot be read now is read at the next question.
            let records = records.masters().unwrap_or_default();
            records.into_iter().map(|record| record.api).collect()
        }),
        tls: Arc::new(move || pki.as_administrator().map_err(|error| error.to_string())),
    }
}

/// How long the prefix of a node's part of the pods' network is.
pub(super) fn node_prefix_length(cluster_cidr: &str) -> u8 {
    if cluster_cidr.contains(':') { NODE_PREFIX.1 } else { NODE_PREFIX.0 }
}

/// Where a master serves the API, as its record says.
fn address(record: &MasterRecord) -> Option<SocketAddr> {
    record.api.strip_prefix("https://")?.parse().ok()
}

/// Where this master's API is found by others.
pub(super) fn url(address: IpAddr, port: u16) -> String {
    format!("https://{}", std::net::SocketAddr::new(address, port))
}
