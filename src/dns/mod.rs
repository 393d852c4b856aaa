//! The cluster's DNS, on each node: names of services without a pod that serves them.
//!
//! ```text
//! bytes ─► message ─► resolver ─┬─ zone (pure) over records, which informers keep
//!                               └─ cache, upstream: whom the machine itself asks
//! ```
//!
//! The node's role runs [`run`] beside the informers that it was given, and tells the proxy to leave the
//! address alone ([`crate::proxy::Settings::own`]).
//!
//! Keeps: an answer about the cluster waits for nobody. When the masters are away, names stay as they were
//! last seen.
//! Never: says that a name does not exist before the whole view was seen once.

pub mod cache;
pub mod link;
pub mod message;
pub mod records;
pub mod resolver;
pub mod server;
pub mod upstream;
pub mod zone;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::rr::Name;
use ipnet::IpNet;
pub use kontiki_api::bootstrap::dns::service_ip as address;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::reconcile::Informers;
use records::Watched;
use resolver::Resolver;
use server::{Sockets, serve};
pub use upstream::Servers;
use upstream::Upstream;
use zone::Zone;

pub const PORT: u16 = 53;
/// Pause before a socket that could not be had is tried again; doubled up to the most.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Who gives the machine the addresses to listen at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// We do, on a link of our own.
    Ours,
    /// They are there.
    There,
}

/// What the DNS server is told, all of it decided.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `cluster.local`
    pub domain: String,
    /// Where questions come; [`address`] of each range of services, at [`PORT`].
    pub listen: Vec<SocketAddr>,
    pub addresses: Addresses,
    /// Ranges of the addresses of services and pods.
    pub ranges: Vec<IpNet>,
    pub servers: Servers,
}

/// Answers until `stop`. `informers` are run by the caller. An error is a setting that cannot be meant.
pub async fn run(
    settings: Settings,
    informers: Informers,
    stop: CancellationToken,
) -> Result<(), String> {
    let domain = &settings.domain;
    let mut name = Name::from_ascii(domain)
        .map_err(|error| format!("the cluster's domain {domain:?} is no name: {error}"))?
        .to_lowercase();
    name.set_fqdn(true);
    let records = Arc::new(Watched::new(&informers));
    let server = settings.listen.iter().map(SocketAddr::ip).collect();
    let zone = Zone { domain: name, server, ranges: settings.ranges.clone() };
    let upstream = Upstream::new(settings.servers.clone(), settings.listen.clone());
    let resolver = Arc::new(Resolver::new(zone, records.clone(), upstream));
    let servers = settings
        .listen
        .iter()
        .map(|address| listen(*address, settings.addresses, resolver.clone(), stop.clone()));
    let complete = async {
        tokio::select! {
            () = records.completed() => {}
            () = stop.cancelled() => {}
        }
    };
    tokio::join!(futures::future::join_all(servers), complete);
    Ok(())
}

/// Serves one address, however long it takes to have it.
async fn listen(
    address: SocketAddr,
    addresses: Addresses,
    resolver: Arc<Resolver>,
    stop: CancellationToken,
) {
    let mut pause = RETRY_FIRST;
    loop {
        match bind(address, addresses).await {
            Ok(sockets) => {
                tracing::info!(%address, "names of the cluster are answered");
                return serve(sockets, resolver, stop).await;
            }
            Err(error) => tracing::warn!(error, "names of the cluster are not answered yet"),
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = stop.cancelled() => return,
        }
        pause = (pause * 2).min(RETRY_MAX);
    }
}

async fn bind(address: SocketAddr, addresses: Addresses) -> Result<Sockets, String> {
    if addresses == Addresses::Ours {
        link::hold(&[address.ip()]).await?;
    }
    Sockets::bind(address).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            format!("{address}: another server of names has it; stop that one")
        }
        _ => format!("{address}: {error}"),
    })
}
