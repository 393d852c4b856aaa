//! Controllers and scheduler in a process of their own, against an API server: several may run, and the
//! one that holds the Lease works.
//!
//! Never: keeps anything on disk, or runs beside masters that run loops themselves (those follow Raft's leader
//! and know no Lease).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use kontiki_api::object::time::Clock;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use super::inspection;
use super::kube::node_prefix_length;
use super::loops::{self, Counted, Loops};
use super::master::Signals;
use crate::controllers::{self, Selection};
use crate::failure::Failure;
use crate::kubeconfig::Access;
use crate::reconcile::leadership::{Elector, Leadership};
use crate::reconcile::requests::counted;
use crate::service;

/// Of the Lease in `kube-system`, as upstream's is called: nothing of another distribution runs beside us.
const LEASE: &str = "kube-controller-manager";

/// What the process is told.
#[derive(Clone, Debug)]
pub struct Settings {
    pub kubeconfig: PathBuf,
    /// Files with the certificate and the key of the CA that signs certificate requests.
    pub signing: Option<(PathBuf, PathBuf)>,
    pub name: String,
    pub selection: Selection,
    pub cluster_cidr: String,
    pub service_cidr: String,
    /// Where it is told whether the process lives, and what it counts.
    pub metrics: Option<SocketAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LeaseName {
    name: &'static str,
}

/// Runs until a signal.
pub async fn run(settings: Settings) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let access = Access::read(&settings.kubeconfig)
        .map_err(|error| Failure::Usage(format!("--kubeconfig: {error}")))?;
    let client = access
        .client("kube-controller-manager")
        .map_err(|error| Failure::Usage(format!("--kubeconfig: {error}")))?;
    let mut registry = Registry::default();
    let host = access.server.trim_start_matches("https://");
    let client = counted(client, host, &mut registry);
    let read = |flag: &str, path: &Path| {
        std::fs::read_to_string(path)
            .map_err(|error| Failure::Usage(format!("{flag} {}: {error}", path.display())))
    };
    let (signing_certificate, signing_key) = match &settings.signing {
        Some((certificate, key)) => (
            read("--cluster-signing-cert-file", certificate)?,
            read("--cluster-signing-key-file", key)?,
        ),
        None => Default::default(),
    };
    let loops = Loops {
        client: client.clone(),
        settings: controllers::Settings {
            root_ca: access.ca.clone(),
            signing_certificate,
            signing_key,
            node_prefix_length: node_prefix_length(&settings.cluster_cidr),
            cluster_cidr: settings.cluster_cidr,
            service_cidr: settings.service_cidr,
        },
        clock: Clock::System,
        selection: settings.selection,
        counted: Counted::new(&mut registry),
    };
    let leads = Family::<LeaseName, Gauge>::default();
    let about = "Whether this process holds the lease";
    registry.register("leader_election_master_status", about, leads.clone());
    leads.get_or_create(&LeaseName { name: LEASE }).set(0);
    let stop = CancellationToken::new();
    let port = match settings.metrics {
        Some(address) => Some(inspection::bind(address).await?),
        None => None,
    };
    let told = async {
        if let Some(port) = port {
            tracing::info!(address = %port.local_addr(), "/metrics and /healthz");
            port.serve(inspection::router(client.clone(), registry), stop.clone()).await;
        }
    };
    let elector = Elector {
        client: client.clone(),
        name: LEASE.into(),
        identity: format!("{}_{}", settings.name, uuid::Uuid::new_v4()),
        clock: Clock::System,
    };
    tracing::info!(server = access.server, identity = elector.identity, "waiting for the lease");
    service::ready("controllers wait for the lease, or have it");
    let leading = Leadership::Lease(elector).run(stop.clone(), |term| {
        let (leads, loops) = (leads.clone(), loops.clone());
        async move {
            leads.get_or_create(&LeaseName { name: LEASE }).set(1);
            loops::run(loops, term).await;
            leads.get_or_create(&LeaseName { name: LEASE }).set(0);
        }
    });
    let working = async { tokio::join!(leading, told) };
    tokio::pin!(working);
    tokio::select! {
        _ = &mut working => {}
        () = signals.next() => {
            tracing::info!("told to stop");
            service::stopping();
            stop.cancel();
            working.await;
        }
    }
    Ok(())
}
