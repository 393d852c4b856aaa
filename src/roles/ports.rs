//! The three ports of a master: bound before anything is written, told when all are there.
//!
//! Keeps: a port in use is found before a directory is touched. Port 0 takes the port that this master
//! had before, if that is still free, so that a restart moves nothing.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use super::master::Settings;
use crate::failure::Failure;
use crate::pki::{self, Readers};

/// Told to others when all are bound; dies with the process.
pub const FILE: &str = "ports.json";
/// What the last process had.
const LAST: &str = "last-ports.json";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    pub api: u16,
    pub peer: u16,
    pub store: u16,
}

/// Bound and not yet served.
pub struct Bound {
    pub api: TcpListener,
    pub peer: TcpListener,
    pub store: TcpListener,
    pub ports: Ports,
}

impl Bound {
    pub async fn take(settings: &Settings, run: &Path) -> Result<Bound, Failure> {
        let last = last(run);
        let api =
            bind("--api-port", settings.bind, settings.api_port, last.map(|it| it.api)).await?;
        let peer =
            bind("--peer-port", settings.bind, settings.peer_port, last.map(|it| it.peer)).await?;
        let store =
            bind("--store-port", settings.store_bind, settings.store_port, last.map(|it| it.store))
                .await?;
        let port = |listener: &TcpListener| Ok::<u16, Failure>(listener.local_addr()?.port());
        let ports = Ports { api: port(&api)?, peer: port(&peer)?, store: port(&store)? };
        Ok(Bound { api, peer, store, ports })
    }
}

async fn bind(
    flag: &str,
    address: IpAddr,
    port: u16,
    last: Option<u16>,
) -> Result<TcpListener, Failure> {
    if let (0, Some(last)) = (port, last)
        && let Ok(listener) = TcpListener::bind((address, last)).await
    {
        return Ok(listener);
    }
    let wanted = SocketAddr::new(address, port);
    TcpListener::bind(wanted).await.map_err(|error| {
        let remedy = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                "another program has it; stop that, or choose another port (0 takes a free one)"
            }
            std::io::ErrorKind::PermissionDenied => "choose a port above 1023, or start as root",
            _ => "choose another address (--bind-address) or port",
        };
        Failure::Run(format!("cannot listen on {wanted} ({flag}): {error}: {remedy}"))
    })
}

/// Tells where this master listens.
pub fn tell(run: &Path, ports: Ports) -> Result<(), Failure> {
    let text = serde_json::to_string(&ports).expect("three numbers become JSON");
    for name in [LAST, FILE] {
        pki::replace(&run.join(name), &(text.clone() + "\n"), Readers::Everyone)?;
    }
    Ok(())
}

/// Nobody listens there any more.
pub fn forget(run: &Path) {
    // Whoever reads a leftover finds nobody listening; so it does no harm where it can't be removed.
    let _ = std::fs::remove_file(run.join(FILE));
}

pub fn read(run: &Path) -> Option<Ports> {
    parse(&run.join(FILE))
}

fn last(run: &Path) -> Option<Ports> {
    parse(&run.join(LAST))
}

fn parse(path: &Path) -> Option<Ports> {
    serde_json::from_str(&pki::read(path).ok()?).ok()
}
