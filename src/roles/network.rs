//! What makes services and other nodes' pods reachable from a node: the proxy's rules and the cluster's DNS,
//! on one set of informers, and routes.
//!
//! Never: ends the node because the kernel or a program lacks what these need; pods run without it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use kontiki_api::client::Client;
use kontiki_api::cluster::wire::ClusterSettings;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::dns;
use crate::kept::Kept;
use crate::proxy::nft::Nft;
use crate::proxy::{self, Leaving, kernel};
use crate::reconcile::Informers;
use crate::routes;

/// Whom the machine itself asks for names.
const RESOLVERS: &str = "/etc/resolv.conf";

pub struct Parts {
    pub node: String,
    pub addresses: Vec<IpAddr>,
    pub cluster: ClusterSettings,
    pub domain: String,
    pub metrics: proxy::Metrics,
    /// A folder in which what masters last said is kept, for a start without any.
    pub kept: Option<PathBuf>,
}

impl Parts {
    fn ranges(&self) -> Result<(IpNet, IpNet), String> {
        let range = |text: &str| {
            text.parse::<IpNet>().map_err(|_| format!("the cluster's range {text:?} is none"))
        };
        Ok((range(&self.cluster.service_cidr)?, range(&self.cluster.cluster_cidr)?))
    }

    /// Whom pods ask for names.
    ///
    /// # Errors
    /// A range of the cluster that is none.
    pub fn dns(&self) -> Result<Vec<IpAddr>, String> {
        Ok(dns::address(&self.ranges()?.0).into_iter().collect())
    }
}

/// Runs all of it until `stop`. Rules and routes stay.
pub async fn run(
    parts: Parts,
    client: Client,
    served: watch::Sender<proxy::Served>,
    stop: CancellationToken,
) -> Result<(), String> {
    let (services, pods) = parts.ranges()?;
    let own = parts.dns()?;
    let client = client.named("kontiki-network");
    let kept =
        |name: &'static str| parts.kept.as_ref().map(|folder| Kept::new(folder.join(name), name));
    let (place, ways) = (kept("place"), kept("ways"));
    let informers = Informers::keeping(client.clone(), parts.kept);
    let names = dns::Settings {
        domain: parts.domain,
        listen: own.iter().map(|address| SocketAddr::new(*address, dns::PORT)).collect(),
        addresses: dns::Addresses::Ours,
        ranges: vec![services, pods],
        servers: dns::Servers::File(RESOLVERS.into()),
    };
    let names = dns::run(names, informers.clone(), stop.clone());
    let me = routes::Me { node: parts.node.clone(), addresses: parts.addresses.clone() };
    let ways = routes::run(me, client.clone(), ways, stop.clone());
    let rules = {
        let (informers, stop) = (informers.clone(), stop.clone());
        async move {
            let bridged = match kernel::prepare().await {
                Ok(bridged) => bridged,
                Err(error) => {
                    tracing::error!(error, "services are not reached from this node");
                    return Ok(());
                }
            };
            let settings = proxy::Settings {
                node: parts.node,
                addresses: parts.addresses,
                cluster_cidrs: vec![pods],
                service_cidrs: vec![services],
                own,
                bridged,
                leaving: Leaving::Masqueraded,
                nft: Nft::here(),
                metrics: parts.metrics,
                kept: place,
            };
            proxy::run(settings, client, informers, served, stop).await
        }
    };
    let watch = async {
        informers.run(stop.clone()).await;
        Ok(())
    };
    tokio::try_join!(names, rules, ways, watch)?;
    Ok(())
}
