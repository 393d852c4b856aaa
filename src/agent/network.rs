//! Tells the runtime's network plugins what they are to do with this node's range of pod addresses.
//!
//! A bridge on the node, and addresses from the range. Routes between nodes, and the masquerading of what
//! leaves the cluster, are others' affairs (`proxy`).
//! Never: touches a configuration that is not ours; if there is one, it stands.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::Directories;

const FILE: &str = "10-kontiki.conflist";
const NAME: &str = "kontiki";
/// Fits into the fifteen letters that the kernel allows.
const BRIDGE: &str = "kontiki0";

/// Where distributions and others put the plugins.
pub const PLUGINS: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];

/// The folder that has the plugins we need.
#[must_use]
pub fn plugins() -> Option<PathBuf> {
    let needed = ["bridge", "host-local", "loopback", "portmap"];
    let all = |folder: &PathBuf| needed.iter().all(|it| folder.join(it).exists());
    PLUGINS.iter().map(PathBuf::from).find(all)
}

/// Writes the configuration for `range`, unless somebody else has decided.
pub fn configure(directories: &Directories, range: &str) -> Result<(), String> {
    let folder = &directories.network;
    let range: ipnet::IpNet =
        range.parse().map_err(|_| format!("{range:?} is no range of addresses"))?;
    let failed = |error: io::Error| format!("{}: {error}", folder.display());
    let others = fs::read_dir(folder).into_iter().flatten().flatten().any(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name != FILE && [".conf", ".conflist", ".json"].iter().any(|end| name.ends_with(end))
    });
    if others {
        return Ok(());
    }
    let text = format!("{:#}\n", configuration(&range, &directories.addresses));
    let file = folder.join(FILE);
    if fs::read_to_string(&file).is_ok_and(|it| it == text) {
        return Ok(());
    }
    fs::create_dir_all(folder).map_err(failed)?;
    let fresh = folder.join(format!("{FILE}.new"));
    fs::write(&fresh, text).map_err(failed)?;
    fs::rename(&fresh, &file).map_err(failed)
}

fn configuration(range: &ipnet::IpNet, addresses: &Path) -> Value {
    let everywhere = if range.addr().is_ipv4() { "0.0.0.0/0" } else { "::/0" };
    json!({
        "cniVersion": "0.4.0",
        "name": NAME,
        "plugins": [
            {
                "type": "bridge",
                "bridge": BRIDGE,
                "isGateway": true,
                "ipMasq": false,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": addresses,
                    "ranges": [[{"subnet": range.to_string()}]],
                    "routes": [{"dst": everywhere}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directories(folder: &Path) -> Directories {
        Directories {
            pods: folder.join("pods"),
            logs: folder.join("logs"),
            network: folder.join("net"),
            addresses: folder.join("addresses"),
        }
    }

    #[test]
    fn a_network_that_somebody_else_has_decided_on_stands() {
        let folder = tempfile::tempdir().unwrap();
        let ours = directories(folder.path());
        for range in ["10.42.3.0/24", "10.42.4.0/24"] {
            configure(&ours, range).unwrap();
            let written = fs::read_to_string(ours.network.join(FILE)).unwrap();
            assert!(written.contains(range), "{written}");
        }
        let folder = tempfile::tempdir().unwrap();
        let other = directories(folder.path());
        fs::create_dir(&other.network).unwrap();
        fs::write(other.network.join("05-other.conf"), "{}").unwrap();
        configure(&other, "10.42.3.0/24").unwrap();
        assert!(!other.network.join(FILE).exists());
        assert!(configure(&other, "ten").unwrap_err().contains("ten"));
    }
}
