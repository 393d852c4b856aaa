//! The node agent: runs the pods that are assigned to this node, and says how they are.
//!
//! Two one-way flows that meet only in the store: assignments come in ([`masters`]), status goes
//! out, both over one session with a master (`crate::session`). Between them each pod has a worker
//! of its own ([`pods`]), which compares what is wanted with what the container runtime ([`cri`])
//! shows and takes the next steps. Beside them the session carries what people want of this node:
//! shells, logs, ports ([`tunnels`]).
//!
//! Keeps: containers outlive the agent. What runs is known by the labels in the runtime, never by
//! memory alone.
//! Never: names `raft` or `storage`; opens a port.

pub mod containerd;
pub mod cri;
pub mod images;
pub mod masters;
pub mod network;
pub mod node;
pub mod pods;
pub mod probes;
pub mod rotation;
pub mod stats;
pub mod tokens;
pub mod tunnels;
pub mod volumes;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kontiki_api::client::Client;
use kontiki_api::object::time::Clock;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::reconcile::{Informers, events};
use crate::session::{self, Door, Link, Outbox, Set};
use cri::Runtime;
use masters::Masters;

/// What an agent is told, all of it decided.
#[derive(Clone, Debug)]
pub struct Settings {
    pub node: String,
    /// Addresses of the node, the first the preferred.
    pub addresses: Vec<IpAddr>,
    /// Beside those every node has.
    pub labels: Vec<(String, String)>,
    pub directories: Directories,
    /// Servers that pods ask for names; none: they ask whom the node asks.
    pub dns: Vec<IpAddr>,
    pub domain: String,
    pub pods_max: u32,
    /// Processes of one pod.
    pub pod_pids_max: u32,
    /// Addresses of this node's pods that services lead to now; whoever leads packets here keeps it. Empty
    /// where nobody does.
    pub served: watch::Receiver<BTreeSet<IpAddr>>,
    /// What the node's page of metrics shows.
    pub metrics: Arc<Registry>,
}

/// Where the agent keeps what belongs to pods.
#[derive(Clone, Debug)]
pub struct Directories {
    /// Volumes, one folder per pod by its uid.
    pub pods: PathBuf,
    /// Logs, one folder per pod (`NAMESPACE_NAME_UID/CONTAINER/ATTEMPT.log`).
    pub logs: PathBuf,
    /// Where the network's plugins find what they are to do.
    pub network: PathBuf,
    /// Which addresses of the node's range are given to pods.
    pub addresses: PathBuf,
}

/// The way to the masters.
pub struct Way {
    /// For what is asked now and then: tokens, events.
    pub client: Client,
    pub door: Door,
    /// Where what is assigned is kept for the time when no master answers.
    pub kept: Option<PathBuf>,
}

/// Runs the node until `stop`. What runs in containers goes on without it.
pub async fn run(
    settings: Settings,
    runtime: Arc<dyn Runtime>,
    way: Way,
    clock: Clock,
    stop: CancellationToken,
) -> Result<(), String> {
    let settings = Arc::new(settings);
    let Way { client, door, kept } = way;
    let client = client.named("kontiki-agent");
    let (recorder, writer) = events::recorder(client.clone(), clock.clone());
    let recorder = recorder.of("kubelet");
    let (set, outbox) = (Arc::new(Set::default()), Arc::new(Outbox::default()));
    let tokens = tokens::Tokens::read(kept.as_ref().map(|kept| kept.with_file_name("tokens")));
    let folder = kept.as_ref().and_then(|kept| kept.parent()).map(Path::to_owned);
    let informers = Informers::keeping(client.clone(), folder);
    let masters: Arc<dyn Masters> = Arc::new(masters::Session::new(
        set.clone(),
        outbox.clone(),
        tokens,
        client,
        informers.clone(),
    ));
    let manager = pods::Manager::new(pods::Parts {
        settings: settings.clone(),
        runtime: runtime.clone(),
        masters,
        recorder,
        clock: clock.clone(),
    });
    let ends = Arc::new(tunnels::Ends {
        node: settings.node.clone(),
        runtime: runtime.clone(),
        clock: clock.clone(),
        logs: settings.directories.logs.clone(),
        metrics: settings.metrics.clone(),
        stats: Arc::new(stats::Stats::new(
            settings.clone(),
            runtime.clone(),
            set.clone(),
            clock.clone(),
        )),
    });
    let rotation =
        rotation::Rotation::new(runtime.clone(), settings.directories.logs.clone(), clock.clone());
    let collector = images::collection::Collector::new(runtime.clone(), clock.clone());
    let link = Link {
        node: settings.node.clone(),
        boot: session::boot_id(),
        door,
        set: set.clone(),
        outbox: outbox.clone(),
        orders: ends,
        kept,
    };
    let node = node::Node::new(settings, runtime, set, outbox, clock);
    tokio::join!(
        writer.run(stop.clone()),
        node.run(stop.clone()),
        collector.run(stop.clone()),
        rotation.run(stop.clone()),
        session::run(link, stop.clone()),
        informers.run(stop.clone()),
        manager.run(stop),
    );
    Ok(())
}
