//! What the kernel has to be told before packets of pods can be led anywhere.
//!
//! Never: turns anything back off; others may need it.

use std::io;
use std::path::Path;

use super::Bridged;
use tokio::process::Command;

const FORWARD: [&str; 2] =
    ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"];
const BRIDGED: [&str; 2] = [
    "/proc/sys/net/bridge/bridge-nf-call-iptables",
    "/proc/sys/net/bridge/bridge-nf-call-ip6tables",
];
const BRIDGE_MODULE: &str = "br_netfilter";

/// Lets packets be forwarded, and those that stay on a bridge be seen. Says whether they are: some kernels have
/// no module for it. A kernel that forwards no IPv4 is an error; one without IPv6 is none.
pub async fn prepare() -> Result<Bridged, String> {
    set(Path::new(FORWARD[0])).map_err(|error| {
        format!("{}: {error}; without it no pod reaches anything: let root set it to 1", FORWARD[0])
    })?;
    if let Err(error) = set(Path::new(FORWARD[1])) {
        tracing::debug!(%error, "IPv6 is not forwarded");
    }
    if !Path::new(BRIDGED[0]).exists() {
        // Whether it has helped is seen by the file.
        let _ = Command::new("modprobe").arg(BRIDGE_MODULE).output().await;
    }
    let seen = BRIDGED.iter().map(|file| set(Path::new(file))).all(|it| it.is_ok());
    Ok(if seen { Bridged::Seen } else { Bridged::Unseen })
}

fn set(file: &Path) -> io::Result<()> {
    if std::fs::read_to_string(file)?.trim() == "1" {
        return Ok(());
    }
    std::fs::write(file, "1")
}
