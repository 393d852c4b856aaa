//! A node: an agent that reaches the masters with a certificate of its own.
//!
//! ```text
//! DIR/pki/node/ca.crt                           whom it believes
//! DIR/pki/node/client.pem                       who it is: certificate and key, replaced together
//! DIR/pki/node/cluster.json                     the ranges of services and pods
//! DIR/pki/node/masters.json                     where masters serve, as last told
//! DIR/assigned/{set,tokens}                     what the node runs, as last told
//! DIR/assigned/{services,endpointslices}        whom services lead to, as last told
//! DIR/assigned/{place,ways}                     where this node and the others are, as last told
//! ```
//! Keeps: before a master has said yes nothing is written. A node that has joined starts without a
//! token.
//! Never: gives its key away; of a signing request only the public half is sent.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};
use kontiki_api::client::Client;
use kontiki_api::client::https::Https;
use kontiki_api::cluster::wire::{ClusterSettings, JoinNode, NodeJoined, PREFIX};
use kontiki_api::object::time::Clock;
use kontiki_api::server::Server;
use prometheus_client::registry::Registry;
use rcgen::{CertificateParams, KeyPair};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::certificate::Renewal;
use super::join::understood;
use super::master::{Join, Signals};
use super::network;
use super::trust::Keeper;
use crate::agent::containerd::{Containerd, Places};
use crate::agent::cri::client as cri;
use crate::agent::images::archives;
use crate::agent::{self, Directories, Way};
use crate::failure::Failure;
use crate::pki::{self, Credentials, Identity, LiveTrust, Readers, Trust};
use crate::proxy::{self, Served};
use crate::remote::Remote;
use crate::service;
use crate::session::{Door, Masters};
use crate::tasks::{Rule, Tasks};

/// Where other tools look for the logs of pods.
const LOGS: &str = "/var/log/pods";
/// Archives of images, below the data directory.
const IMAGES: &str = "images";
/// Where a runtime of the system looks for the network's configuration.
const NETWORK: &str = "/etc/cni/net.d";
/// Before a node beside a master is tried again.
const PAUSE: Duration = Duration::from_secs(10);
/// The cluster's names end with it.
const DOMAIN: &str = "cluster.local";
/// As upstream's kubelet.
const PODS_MAX: u32 = 110;
/// Far more than programs have, and far less than a machine.
const POD_PIDS_MAX: u32 = 4096;

/// What a node is told, all of it decided.
#[derive(Clone, Debug)]
pub struct Settings {
    pub data_dir: PathBuf,
    pub name: String,
    pub address: IpAddr,
    pub labels: Vec<(String, String)>,
    pub join: Option<Join>,
    pub runtime: String,
    /// Somebody asked for this runtime: no other is started in its place.
    pub runtime_given: bool,
}

/// Runs a node until it is told to stop by a signal. Its containers go on.
pub async fn run(settings: Settings) -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::Usage(
            "a node runs containers, which takes root; `kontiki start master` does not".into(),
        ));
    }
    let mut signals = Signals::new()?;
    let stop = CancellationToken::new();
    let member = tokio::select! {
        member = membership(&settings) => member?,
        () = signals.next() => return Ok(()),
    };
    let Member { way, cluster, renewal, certificate, trust } = member;
    service::ready(&format!("node {} is in the cluster", settings.name));
    let mut tasks = Tasks::new(stop.clone());
    tasks.start("trust", Rule::EndsAll, trust.run(stop.clone()));
    tasks.start("certificate", Rule::MayEnd, {
        let stop = stop.clone();
        async move {
            renewal.run(certificate, stop).await;
            Ok(())
        }
    });
    tasks.start("node", Rule::EndsAll, work(settings, cluster, way, stop.clone()));
    tasks.start("signals", Rule::MayEnd, {
        let stop = stop.clone();
        async move {
            tokio::select! {
                () = signals.next() => {
                    tracing::info!("told to stop; containers go on");
                    service::stopping();
                    stop.cancel();
                }
                () = stop.cancelled() => {}
            }
            Ok(())
        }
    });
    tasks.finish().await.map_err(Failure::Run)
}

/// The node half of a process that is a master as well. A node that cannot run must not end the master.
pub async fn beside(
    settings: Settings,
    cluster: ClusterSettings,
    server: &Server,
    stop: CancellationToken,
) {
    if !rustix::process::geteuid().is_root() {
        tracing::warn!("a node runs containers, which takes root: only the master is started");
        return;
    }
    let client = server.client("kontiki-agent");
    loop {
        let door = Door::Here(server.node_channel(&settings.name));
        let way = Way { client: client.clone(), door, kept: Some(kept(&settings)) };
        let work = work(settings.clone(), cluster.clone(), way, stop.clone());
        match Box::pin(work).await {
            Ok(()) => return,
            Err(why) => {
                tracing::error!(why, "the node beside this master has ended; it is tried again")
            }
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Runs the agent with a client that may be of this process or not, and a runtime where there is none.
async fn work(
    settings: Settings,
    cluster: ClusterSettings,
    way: Way,
    stop: CancellationToken,
) -> Result<(), String> {
    let asked = cri::socket_of(&settings.runtime)
        .map_err(|why| format!("--container-runtime-endpoint: {why}"))?;
    if asked.exists() || settings.runtime_given {
        let endpoint = settings.runtime.clone();
        let network = NETWORK.into();
        return Box::pin(node(settings, cluster, &endpoint, network, way, stop)).await;
    }
    let places = Places::new(&settings.data_dir);
    let network = places.network();
    let containerd = Containerd::start(places).await?;
    let endpoint = containerd.endpoint();
    tracing::info!(endpoint, "no container runtime was running; this is ours");
    tokio::try_join!(
        containerd.run(stop.clone()),
        Box::pin(node(settings, cluster, &endpoint, network, way, stop)),
    )?;
    Ok(())
}

/// The agent, and what makes services reachable from here. Images that lie beside the data are brought in
/// before.
async fn node(
    settings: Settings,
    cluster: ClusterSettings,
    endpoint: &str,
    network: PathBuf,
    way: Way,
    stop: CancellationToken,
) -> Result<(), String> {
    let runtime = cri::Client::new(endpoint)?;
    let socket = cri::socket_of(endpoint)?;
    archives::bring_in_all(&settings.data_dir.join(IMAGES), &socket, &runtime).await;
    let parts = network::Parts {
        node: settings.name.clone(),
        addresses: vec![settings.address],
        cluster,
        domain: DOMAIN.into(),
        metrics: proxy::Metrics::default(),
        kept: way.kept.as_ref().and_then(|set| set.parent()).map(Path::to_owned),
    };
    let mut metrics = Registry::default();
    parts.metrics.register(&mut metrics);
    let (served, told) = watch::channel(Served::new());
    let told = Told { dns: parts.dns()?, network, served: told, metrics: Arc::new(metrics) };
    let parts = network::run(parts, way.client.clone(), served, stop.clone());
    tokio::try_join!(parts, agent(settings, told, endpoint, way, stop))?;
    Ok(())
}

/// What the network tells the agent.
struct Told {
    dns: Vec<IpAddr>,
    /// Where the runtime looks for the network's configuration.
    network: PathBuf,
    served: watch::Receiver<Served>,
    metrics: Arc<Registry>,
}

async fn agent(
    settings: Settings,
    told: Told,
    endpoint: &str,
    way: Way,
    stop: CancellationToken,
) -> Result<(), String> {
    let runtime = Arc::new(cri::Client::new(endpoint)?);
    let settings = agent::Settings {
        node: settings.name,
        addresses: vec![settings.address],
        labels: settings.labels,
        directories: Directories {
            pods: settings.data_dir.join("pods"),
            logs: LOGS.into(),
            network: told.network,
            addresses: settings.data_dir.join("addresses"),
        },
        dns: told.dns,
        domain: DOMAIN.into(),
        pods_max: PODS_MAX,
        pod_pids_max: POD_PIDS_MAX,
        served: told.served,
        metrics: told.metrics,
    };
    Box::pin(agent::run(settings, runtime, way, Clock::System, stop)).await
}

/// A node that has joined.
struct Member {
    way: Way,
    cluster: ClusterSettings,
    renewal: Renewal,
    certificate: String,
    trust: Keeper,
}

/// What a node keeps of having joined.
struct Membership {
    ca: String,
    me: Credentials,
    masters: Vec<String>,
    cluster: ClusterSettings,
}

/// The ways to the masters, for requests and for a session; asked for if there are none yet. And who keeps
/// up to date which masters are believed on all of them.
async fn membership(settings: &Settings) -> Result<Member, Failure> {
    let folder = settings.data_dir.join("pki/node");
    let membership = match read(&folder)? {
        Some(membership) => membership,
        None => {
            let Some(join) = &settings.join else {
                return Err(Failure::Usage(
                    "this node is in no cluster; say which (--join https://HOST:6443 --token T; \
                     `kontiki token create --role node` on a master prints a token)"
                        .into(),
                ));
            };
            let membership = ask(settings, join).await?;
            write(&folder, &membership)?;
            membership
        }
    };
    let live = LiveTrust::new(&membership.ca)?;
    let identity = Identity::new(&membership.me)?;
    let tls = identity.client_config(Trust::Live(Arc::clone(&live)))?;
    let mut masters = membership.masters;
    if let Some(join) = &settings.join
        && !masters.contains(&join.endpoint)
    {
        masters.push(join.endpoint.clone());
    }
    let https = Https::new(&masters, &tls, None).map_err(Failure::Run)?;
    let client = Client::new(Arc::new(https), "kontiki-agent");
    let trust = Keeper {
        path: folder.join("ca.crt"),
        bundle: membership.ca,
        live,
        masters: masters.clone(),
        tls: Arc::clone(&tls),
    };
    let file = folder.join("client.pem");
    let masters = Masters::new(masters, tls).with_learned(move |masters| {
        let masters = serde_json::to_string(masters).expect("names are plain text");
        let path = folder.join("masters.json");
        if let Err(error) = pki::replace(&path, masters, Readers::Everyone) {
            tracing::warn!(%error, "where masters are is not remembered");
        }
    });
    let kept = Some(kept(settings));
    let renewal = Renewal { node: settings.name.clone(), client: client.clone(), identity, file };
    let way = Way { client, door: Door::There(masters), kept };
    Ok(Member {
        way,
        cluster: membership.cluster,
        renewal,
        certificate: membership.me.certificate,
        trust,
    })
}

/// Where what is assigned is kept.
fn kept(settings: &Settings) -> PathBuf {
    settings.data_dir.join("assigned/set")
}

/// Asks a master for a certificate.
async fn ask(settings: &Settings, join: &Join) -> Result<Membership, Failure> {
    let tls = pki::client_config(Trust::Fingerprint(join.token.ca), None)?;
    let remote = Remote::new(&join.endpoint, tls)
        .map_err(|reason| Failure::Usage(format!("--join: {reason}")))?;
    let key = KeyPair::generate().map_err(pki::Error::from)?;
    let request = CertificateParams::default().serialize_request(&key).map_err(pki::Error::from)?;
    let mut headers = HeaderMap::new();
    let bearer = HeaderValue::from_str(&join.token.bearer()).expect("tokens are plain letters");
    headers.insert(header::AUTHORIZATION, bearer);
    let asked =
        JoinNode { name: settings.name.clone(), request: request.pem().map_err(pki::Error::from)? };
    let path = format!("{PREFIX}/join/node");
    let joined: NodeJoined =
        remote.post(&path, headers, &asked).await.map_err(|error| understood(error, join))?;
    tracing::info!(node = settings.name, endpoint = join.endpoint, "joined");
    Ok(Membership {
        ca: joined.ca,
        me: Credentials { certificate: joined.certificate, key: key.serialize_pem() },
        masters: joined.masters,
        cluster: joined.settings,
    })
}

fn read(folder: &Path) -> Result<Option<Membership>, Failure> {
    // Written last: where it is the rest is.
    if !folder.join("masters.json").exists() {
        return Ok(None);
    }
    let file = |name: &str| pki::read(&folder.join(name));
    let me = file("client.pem")?;
    let me = Credentials { certificate: me.clone(), key: me };
    Ok(Some(Membership {
        ca: file("ca.crt")?,
        me,
        masters: told(folder, "masters.json")?,
        cluster: told(folder, "cluster.json")?,
    }))
}

fn told<T: serde::de::DeserializeOwned>(folder: &Path, name: &str) -> Result<T, Failure> {
    let path = folder.join(name);
    serde_json::from_str(&pki::read(&path)?)
        .map_err(|error| Failure::Run(format!("{} cannot be read: {error}", path.display())))
}

fn write(folder: &Path, membership: &Membership) -> Result<(), Failure> {
    pki::make_folder(folder)?;
    let me = format!("{}{}", membership.me.certificate, membership.me.key);
    let masters = serde_json::to_string(&membership.masters).expect("names are plain text");
    let cluster = serde_json::to_string(&membership.cluster).expect("ranges are plain text");
    for (name, text, readers) in [
        ("ca.crt", &membership.ca, Readers::Everyone),
        ("client.pem", &me, Readers::Owner),
        ("cluster.json", &cluster, Readers::Everyone),
        ("masters.json", &masters, Readers::Everyone),
    ] {
        pki::replace(&folder.join(name), text, readers)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_has_been_told_is_there_when_it_starts_again() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("node");
        assert!(read(&folder).unwrap().is_none());
        let told = Membership {
            ca: "ca".into(),
            me: Credentials { certificate: "certificate\n".into(), key: "key".into() },
            masters: vec!["https://a:1".into()],
            cluster: ClusterSettings {
                service_cidr: "10.43.0.0/16".into(),
                cluster_cidr: "10.42.0.0/16".into(),
            },
        };
        write(&folder, &told).unwrap();
        let read = read(&folder).unwrap().unwrap();
        let me = "certificate\nkey".to_owned();
        assert_eq!((read.ca, read.me.key, read.masters), (told.ca, me, told.masters));
        assert_eq!(read.cluster, told.cluster);
    }
}
