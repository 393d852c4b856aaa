//! The three ports of a master: bound before anything is written, told when all are there.
//!
//! ```text
//! DIR/run/ports.json        {"api":6443,"peer":2380,"store":2379}
//! DIR/run/addresses.json    {"api":"0.0.0.0:6443","peer":"0.0.0.0:2380","store":"127.0.0.1:2379"}
//! DIR/run/last-ports.json   the ports of the last process
//! ```
//! Keeps: a port in use is found before a directory is touched. Port 0 takes the port that this master
//! had before, if that is still free, so that a restart moves nothing. Who looks for the master finds the
//! addresses that are really bound, and not what flags said; `ports.json` comes last, and means all of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use super::master::Settings;
use crate::failure::Failure;
use crate::pki::{self, Readers};

/// Told to others when all are bound; dies with the process.
const FILE: &str = "ports.json";
const ADDRESSES: &str = "addresses.json";
/// What the last process had.
const LAST: &str = "last-ports.json";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    pub api: u16,
    pub peer: u16,
    pub store: u16,
}

/// Where a master listens, as the system says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    pub api: SocketAddr,
    pub peer: SocketAddr,
    pub store: SocketAddr,
}

impl Addresses {
    fn ports(&self) -> Ports {
        Ports { api: self.api.port(), peer: self.peer.port(), store: self.store.port() }
    }
}

/// Bound and not yet served.
pub struct Bound {
    pub api: TcpListener,
    pub peer: TcpListener,
    pub store: TcpListener,
    pub addresses: Addresses,
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
        let addresses = Addresses {
            api: api.local_addr()?,
            peer: peer.local_addr()?,
            store: store.local_addr()?,
        };
        Ok(Bound { api, peer, store, addresses, ports: addresses.ports() })
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
pub fn tell(run: &Path, addresses: &Addresses) -> Result<(), Failure> {
    let json = |value: serde_json::Result<String>| value.expect("numbers become JSON") + "\n";
    let ports = json(serde_json::to_string(&addresses.ports()));
    let addresses = json(serde_json::to_string(addresses));
    for (name, text) in [(LAST, &ports), (ADDRESSES, &addresses), (FILE, &ports)] {
        pki::replace(&run.join(name), text, Readers::Everyone)?;
    }
    Ok(())
}

/// Nobody listens there any more.
pub fn forget(run: &Path) {
    // Whoever reads a leftover finds nobody listening; so it does no harm where it can't be removed.
    for name in [FILE, ADDRESSES] {
        let _ = std::fs::remove_file(run.join(name));
    }
}

pub fn read(run: &Path) -> Option<Ports> {
    parse(&run.join(FILE))
}

/// Where the master of this directory listens; `None` where none runs.
pub fn addresses(run: &Path) -> Option<Addresses> {
    parse::<Ports>(&run.join(FILE))?;
    parse(&run.join(ADDRESSES))
}

fn last(run: &Path) -> Option<Ports> {
    parse(&run.join(LAST))
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_str(&pki::read(path).ok()?).ok()
}

/// How what listens at an address is reached from the same machine: every address is reached by the
/// loopback, any other only by itself.
#[must_use]
pub fn from_here(bound: SocketAddr) -> SocketAddr {
    let address = match bound.ip() {
        IpAddr::V4(any) if any.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(any) if any.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        address => address,
    };
    SocketAddr::new(address, bound.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_found_until_it_is_forgotten() {
        let run = tempfile::tempdir().unwrap();
        let run = run.path();
        assert_eq!((addresses(run), read(run)), (None, None));
        let told = Addresses {
            api: "0.0.0.0:6443".parse().unwrap(),
            peer: "10.0.0.1:2380".parse().unwrap(),
            store: "[::1]:2379".parse().unwrap(),
        };
        tell(run, &told).unwrap();
        assert_eq!(addresses(run), Some(told));
        let text = std::fs::read_to_string(run.join("ports.json")).unwrap();
        assert_eq!(text.trim(), r#"{"api":6443,"peer":2380,"store":2379}"#);
        forget(run);
        assert_eq!((addresses(run), read(run)), (None, None));
        assert_eq!(last(run).map(|ports| ports.store), Some(2379));
    }

    #[test]
    fn what_listens_everywhere_is_reached_by_the_loopback_and_others_by_themselves() {
        let reached = |text: &str| from_here(text.parse().unwrap()).to_string();
        assert_eq!(reached("0.0.0.0:1"), "127.0.0.1:1");
        assert_eq!(reached("[::]:1"), "[::1]:1");
        assert_eq!(reached("127.0.0.3:1"), "127.0.0.3:1");
        assert_eq!(reached("192.0.2.1:1"), "192.0.2.1:1");
    }
}
