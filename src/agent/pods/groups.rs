//! The control group of a pod, above those of its containers. The runtime makes it and leaves it behind; we set
//! its bounds and take it away.

use std::fs;
use std::io;
use std::path::Path;

const HIERARCHIES: &str = "/sys/fs/cgroup";

/// Bounds the processes of all containers of a pod together: one that forks without end must not take the
/// machine's last numbers.
pub fn limit_processes(group: &str, most: u32) -> io::Result<()> {
    // In version 1 there is a hierarchy for it, in version 2 one for all.
    let hierarchies = ["pids", ""].map(|it| Path::new(HIERARCHIES).join(it));
    let files = hierarchies.map(|it| it.join(group.trim_start_matches('/')).join("pids.max"));
    match files.iter().find(|it| it.exists()) {
        Some(file) => fs::write(file, most.to_string()),
        None => Err(io::Error::new(io::ErrorKind::NotFound, "the kernel counts no processes here")),
    }
}

/// Takes a pod's groups away. Those that are still in use stay, as the kernel sees to.
pub fn remove(group: &str) {
    let below = group.trim_start_matches('/');
    let _ = fs::remove_dir(Path::new(HIERARCHIES).join(below));
    for hierarchy in fs::read_dir(HIERARCHIES).into_iter().flatten().flatten() {
        let _ = fs::remove_dir(hierarchy.path().join(below));
    }
}
