//! A master: the replicated store, and the fronts on it.
//!
//! Calls downward, in this order: ports, directory, certificates, replica, fronts. `docs/ARCHITECTURE.md`
//! walks through a start.
//!
//! Keeps: whatever is wrong with flags, ports, token or directory is found before anything is written.
//! A directory that joined is never founded. The kubeconfig is there before the API answers.
//! Never: acknowledges anything after it was told to stop and has handed over.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kontiki_api::audit::Audit;
use kontiki_api::cluster::token::Token;
use kontiki_api::cluster::wire::{ClusterSettings, MasterRecord, id_of};
use kontiki_api::cluster::{self, Front};
use kontiki_api::etcd;
use kontiki_api::listener::{Listener, TlsSource};
use kontiki_api::object::time::Clock;
use kontiki_raft::network::grpc;
use kontiki_raft::replica::Role;
use kontiki_raft::storage::Index;
use kontiki_raft::{ClusterId, NodeId, Peer, Replica};
use rand::RngExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::kube::{self, Kube};
use super::place::{self, Place};
use super::ports::{self, Bound};
use super::{address, backups, join, node, strays};
use crate::controllers::Selection;
use crate::failure::Failure;
use crate::pki::{self, Beginning, Origin, Renewal};
use crate::service;
use crate::tasks::{Rule, Tasks};

pub(super) const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// How long requests may go on after the signal, before leadership is handed over without them.
const FRONTS_WAIT_MAX: Duration = Duration::from_secs(5);

/// What a master is told, all of it decided.
#[derive(Clone, Debug)]
pub struct Settings {
    pub data_dir: PathBuf,
    pub name: String,
    /// Somebody asked for this name; otherwise the one in the directory stands.
    pub name_given: bool,
    pub bind: IpAddr,
    pub advertise: IpAddr,
    pub store_bind: IpAddr,
    pub api_port: u16,
    pub peer_port: u16,
    pub store_port: u16,
    pub join: Option<Join>,
    /// For a new cluster. An old one has its own, which must be the ones that were asked for, if any.
    pub cluster: ClusterSettings,
    pub service_asked: Option<String>,
    pub cluster_asked: Option<String>,
    pub first_service: IpAddr,
    pub host: String,
    pub tls_san: Vec<String>,
    pub certificate_life: Duration,
    pub snapshots: Option<Schedule>,
    /// Where copies of those are kept.
    pub snapshot_target: Option<backups::Target>,
    /// Controllers and scheduler run here when this master leads: these of them.
    pub loops: Option<Selection>,
    /// Where requests are written down.
    pub audit: Option<Arc<Audit>>,
    /// A node in the same process.
    pub node: Option<node::Settings>,
}

/// A cluster to join, and what lets one in.
#[derive(Clone, Debug)]
pub struct Join {
    pub endpoint: String,
    pub token: Token,
}

/// When archives are made, and how many are kept.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    pub interval: Duration,
    pub retention: usize,
}

/// Runs a master until it is told to stop by a signal.
pub async fn run(settings: Settings) -> Result<(), Failure> {
    let stop = CancellationToken::new();
    let mut tasks = Tasks::new(stop.clone());
    // From here on a signal is an orderly end, however far the start has come.
    let mut signals = Signals::new()?;
    let started = tokio::select! {
        started = Master::start(settings, stop.clone()) => started,
        () = signals.next() => return Ok(()),
    };
    let master = started?;
    tasks.start("signals", Rule::MayEnd, {
        let stop = stop.clone();
        async move {
            tokio::select! {
                () = signals.next() => {
                    tracing::info!("told to stop");
                    service::stopping();
                    stop.cancel();
                }
                () = stop.cancelled() => {}
            }
            Ok(())
        }
    });
    let run = master.place.directory.run();
    master.serve(&mut tasks, &stop)?;
    let ended = tasks.finish().await;
    ports::forget(&run);
    ended.map_err(Failure::Run)
}

/// The signals by which a process is asked to end.
pub(super) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    pub(super) fn new() -> Result<Signals, Failure> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// A master that has its place in the store, and serves nobody yet.
struct Master {
    settings: Settings,
    me: Peer,
    place: Place,
    bound: Bound,
}

impl Master {
    async fn start(mut settings: Settings, stop: CancellationToken) -> Result<Master, Failure> {
        let path = settings.data_dir.clone();
        let origin = place::origin(&path)?;
        if let Some(origin) = &origin {
            agree(&settings, &origin.settings)?;
            if !settings.name_given {
                settings.name = origin.name.clone();
            }
        }
        let bound = Bound::take(&settings, &path.join("run")).await?;
        let me = me(&settings, &bound);
        let place = match origin {
            Some(origin) => Place::take(&settings, origin, &me).await?,
            None => {
                let origin = begin(&settings, &me).await?;
                Place::take_first(&settings, origin, &me).await?
            }
        };
        let master = Master { settings, me, place, bound };
        if !stop.is_cancelled() && !master.place.origin.joined() {
            master.found().await?;
        }
        Ok(master)
    }

    /// Makes a cluster of this one member, unless that has been done.
    async fn found(&self) -> Result<(), Failure> {
        let Place { replica, identity, origin, .. } = &self.place;
        if replica.store().applied().0 > Index(0) {
            return Ok(());
        }
        match replica.bootstrap(self.me.clone()).await {
            Ok(()) => {
                tracing::info!(cluster = %identity.cluster, "a new cluster");
            }
            // Its first entry was written before, and is about to be agreed on.
            Err(kontiki_raft::Error::Directory { .. }) => replica.read_barrier().await?,
            Err(error) => return Err(error.into()),
        }
        let records = cluster::Records::new(replica.clone());
        records.found(&origin.settings, identity.node).await?;
        Ok(())
    }

    /// Starts everything that serves.
    fn serve(self, tasks: &mut Tasks, stop: &CancellationToken) -> Result<(), Failure> {
        let Master { settings, me, place, bound } = self;
        let Place { origin, identity, directory, material, replica, transport, peer_tls } = place;
        let Bound { api, peer, store, addresses, ports } = bound;
        let api_tls = TlsSource::new(&material.api_tls()).map_err(pki::Error::from)?;
        let store_tls = TlsSource::new(&material.store_tls()).map_err(pki::Error::from)?;
        material.serve(pki::Ports {
            api: Arc::clone(&api_tls),
            store: Arc::clone(&store_tls),
            peers: Arc::clone(&peer_tls),
            api_url: format!("https://{}", ports::from_here(addresses.api)),
        })?;

        // The peers' port stays open while leadership is handed over.
        let peers_stop = CancellationToken::new();
        tasks.start("peers", Rule::EndsAll, {
            let (stop, inbound) = (peers_stop.clone(), replica.inbound());
            let tls = Arc::clone(&peer_tls);
            async move {
                grpc::serve(peer, identity, tls, inbound, stop.cancelled_owned()).await;
                Ok(())
            }
        });

        let record = MasterRecord {
            id: id_of(identity.node),
            name: settings.name.clone(),
            api: kube::url(settings.advertise, ports.api),
            release: RELEASE.into(),
        };
        let front = Front::new(cluster::Parts {
            replica: replica.clone(),
            pki: Arc::clone(&material) as Arc<dyn cluster::Pki>,
            me: record.clone(),
            peer: me.clone(),
            settings: origin.settings.clone(),
            ids_from: origin.ids_from()?,
        });
        let kube = Kube::new(
            replica.clone(),
            &material,
            &origin.settings,
            &record.api,
            settings.audit.clone(),
            stop.clone(),
        )?;
        let api_router = front.public().merge(kube.server.router());
        let store_router =
            front.private().merge(etcd::router(replica.clone(), etcd::Config::new(etcd_clock())));
        let fronts_ended = CancellationToken::new();
        tasks.start("fronts", Rule::EndsAll, {
            let api = Listener::adopt(api, api_tls)?;
            let store = Listener::adopt(store, store_tls)?;
            let (stop, ended) = (stop.clone(), fronts_ended.clone());
            async move {
                tokio::join!(
                    api.serve(api_router, stop.clone()),
                    store.serve(store_router, stop.clone()),
                );
                ended.cancel();
                Ok(())
            }
        });
        ports::tell(&directory.run(), &addresses)?;

        tasks.start("API server", Rule::EndsAll, {
            let server = kube.server.clone();
            async move {
                server.run().await;
                Ok(())
            }
        });
        tasks.start(
            "service kubernetes",
            Rule::EndsAll,
            kube.keep_service(cluster::Records::new(replica.clone()), stop.clone()),
        );
        tasks.start("trust", Rule::EndsAll, kube.keep_trust(stop.clone()));
        tasks.start("service manager", Rule::MayEnd, {
            let (server, stop, api) = (kube.server.clone(), stop.clone(), record.api.clone());
            async move {
                tokio::select! {
                    () = server.ready() => service::ready(&format!("serves at {api}")),
                    () = stop.cancelled() => {}
                }
                Ok(())
            }
        });
        let server = kube.server.clone();
        if let Some(selection) = settings.loops {
            tasks.start("controllers", Rule::EndsAll, kube.lead(selection, stop.clone()));
        }
        if let Some(node) = settings.node {
            let node = node::Settings { name: settings.name.clone(), ..node };
            let cluster = origin.settings.clone();
            let stop = stop.clone();
            tasks.start("node", Rule::MayEnd, async move {
                tokio::select! {
                    () = server.ready() => {}
                    () = stop.cancelled() => return Ok(()),
                }
                // Boxed: a whole agent is large.
                Box::pin(node::beside(node, cluster, &server, stop)).await;
                Ok(())
            });
        }
        tasks.start("replica", Rule::EndsAll, {
            let (replica, stop) = (replica.clone(), stop.clone());
            async move { watch(replica, stop).await }
        });
        tasks.start("shutdown", Rule::MayEnd, {
            let (replica, stop) = (replica.clone(), stop.clone());
            async move {
                stop.cancelled().await;
                wind_down(&replica, &fronts_ended).await;
                peers_stop.cancel();
                Ok(())
            }
        });
        tasks.start("renewal", Rule::EndsAll, {
            let (renewal, stop) = (Renewal::new(Arc::clone(&material)), stop.clone());
            async move {
                renewal.run(stop).await;
                Ok(())
            }
        });
        tasks.start("membership", Rule::MayEnd, {
            let (replica, stop) = (replica.clone(), stop.clone());
            let transport = transport as Arc<dyn kontiki_raft::network::Transport>;
            async move {
                if origin.joined() && replica.store().applied().0 == Index(0) {
                    join::be_added(&*transport, &origin, identity.node, me.clone(), stop.clone())
                        .await
                        .map_err(|failure| failure.to_string())?;
                }
                address::keep_true(replica, transport, me, stop).await
            }
        });
        tasks.start("peers' addresses", Rule::EndsAll, {
            let (replica, stop) = (replica.clone(), stop.clone());
            address::keep_written(replica, directory.path().to_owned(), stop)
        });
        tasks.start("strays", Rule::EndsAll, strays::run(replica.clone(), stop.clone()));
        tasks.start("readiness", Rule::MayEnd, {
            let (front, stop, path) =
                (Arc::clone(&front), stop.clone(), directory.path().to_owned());
            async move { become_ready(&front, &record, &path, &stop).await }
        });
        if let Some(schedule) = settings.snapshots {
            let (stop, path) = (stop.clone(), directory.path().to_owned());
            // Clusters may share a bucket: each has a folder of its own.
            let target = settings.snapshot_target.map(|target| backups::Target {
                folder: target.folder.join(&identity.cluster.to_string()),
                ..target
            });
            let record = front.archives.clone();
            let backups = backups::run(replica, path, schedule, target, record, stop);
            tasks.start("backups", Rule::EndsAll, backups);
        }
        Ok(())
    }
}

/// What a new directory begins with: a cluster of its own, or what the cluster gave to whom it let in.
async fn begin(settings: &Settings, me: &Peer) -> Result<Origin, Failure> {
    let beginning = match &settings.join {
        Some(join) => {
            let beginning = join::ask(settings, join, &me.address).await?;
            agree(settings, &beginning.origin.settings)?;
            beginning
        }
        None => {
            let cluster = ClusterId(rand::rng().random_range(1..=u64::MAX));
            let (name, settings) = (settings.name.clone(), settings.cluster.clone());
            let origin = Origin::new(cluster, NodeId(1), name, Vec::new(), settings);
            Beginning::found(origin, pki::now())?
        }
    };
    beginning.write(&settings.data_dir)?;
    Ok(beginning.origin)
}

/// What was asked for must be what the cluster has.
fn agree(settings: &Settings, cluster: &ClusterSettings) -> Result<(), Failure> {
    let both = [
        ("--service-cidr", &settings.service_asked, &cluster.service_cidr),
        ("--cluster-cidr", &settings.cluster_asked, &cluster.cluster_cidr),
    ];
    for (flag, asked, has) in both {
        if let Some(asked) = asked
            && asked != has
        {
            return Err(Failure::Usage(format!(
                "{flag} {asked} is not that of the cluster, {has}, which was decided when it was \
                 created; leave the flag out"
            )));
        }
    }
    Ok(())
}

/// How this member is entered in the membership.
fn me(settings: &Settings, bound: &Bound) -> Peer {
    let store = settings.store_bind;
    let reached = if store.is_unspecified() {
        Some(settings.advertise)
    } else if store.is_loopback() && !settings.advertise.is_loopback() {
        None
    } else {
        Some(store)
    };
    let url = |address| format!("https://{}", host_and_port(address, bound.ports.store));
    Peer {
        name: settings.name.clone(),
        address: host_and_port(settings.advertise, bound.ports.peer),
        client_urls: reached.map(url).into_iter().collect(),
    }
}

/// The time of day in seconds, as etcd's front wants it for its tokens.
fn etcd_clock() -> etcd::Clock {
    Arc::new(|| u64::try_from(Clock::System.now().as_seconds()).unwrap_or(0))
}

fn host_and_port(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

/// Says when this master serves, and enters it for the others to find.
async fn become_ready(
    front: &Front,
    record: &MasterRecord,
    directory: &Path,
    stop: &CancellationToken,
) -> Result<(), String> {
    let mut status = front.replica.status();
    let ready = async { status.wait_for(|status| status.ready).await.is_ok() };
    let ready = tokio::select! {
        ready = ready => ready,
        () = stop.cancelled() => false,
    };
    if !ready {
        return Ok(());
    }
    let kubeconfig = directory.join("kubeconfig");
    tracing::info!(
        member = record.id,
        api = record.api,
        kubeconfig = %kubeconfig.display(),
        took_ms = front.started.elapsed().as_millis(),
        "ready"
    );
    loop {
        match front.records.enter_master(record).await {
            Ok(()) => return Ok(()),
            Err(error) => tracing::debug!(%error, "this master is not entered yet"),
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
}

/// Notices when this member has stopped or was let go: a process that only looks alive helps nobody.
async fn watch(replica: Replica, stop: CancellationToken) -> Result<(), String> {
    let mut status = replica.status();
    let over = status.wait_for(|status| matches!(status.role, Role::Stopped(_) | Role::Removed));
    tokio::select! {
        over = over => match over.map(|status| status.role.clone()) {
            Ok(Role::Stopped(reason)) => Err(reason),
            Ok(_) => Err("this member was removed from the cluster; start with an empty data \
                          directory to join anew".into()),
            Err(_) => Err("the replica is gone".into()),
        },
        () = stop.cancelled() => Ok(()),
    }
}

/// Hands over, lets requests end, closes watches, and makes the store durable.
async fn wind_down(replica: &Replica, fronts_ended: &CancellationToken) {
    let status = replica.status().borrow().clone();
    if status.role == Role::Leader
        && let Some(successor) = successor(replica)
        && let Err(error) = replica.transfer_leader(successor).await
    {
        tracing::warn!(%error, %successor, "leadership was not handed over");
    }
    replica.store().hub().close();
    if tokio::time::timeout(FRONTS_WAIT_MAX, fronts_ended.cancelled()).await.is_err() {
        tracing::debug!("requests are still under way");
    }
    replica.shutdown().await;
}

/// The voter with the longest log, as the leader knows it.
fn successor(replica: &Replica) -> Option<NodeId> {
    let behind = replica.status().borrow().behind.clone();
    let others = replica.members().into_iter().filter(|it| it.voter && it.id != replica.id());
    others.map(|it| it.id).min_by_key(|id| behind.get(id).copied().unwrap_or(u64::MAX))
}
