//! The control group of a pod, above those of its containers. The runtime makes it and leaves it behind; we set
//! its bounds and take it away.
//!
//! Keeps: both versions of control groups are served; in version 1 there is a hierarchy for each kind of bound.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;

use super::view;
use crate::reconcile::amounts::{limits, requests};

const HIERARCHIES: &str = "/sys/fs/cgroup";
/// One period of the scheduler's quota, in microseconds.
pub const CPU_PERIOD: i64 = 100_000;
const CPU_SHARES_MIN: i64 = 2;
const CPU_SHARES_MAX: i64 = 262_144;
const CPU_WEIGHT_MAX: i64 = 10_000;
/// Less of each period is refused by the kernel.
const CPU_QUOTA_MIN: i64 = 1000;

/// Bounds of all containers of a pod together. What is not said is not bounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    pub cpu_shares: i64,
    /// Microseconds of each period.
    pub cpu_quota: Option<i64>,
    /// Bytes.
    pub memory: Option<i64>,
}

/// Thousandths of a processor as the kernel weighs them.
#[must_use]
pub fn shares(milli: i64) -> i64 {
    (milli * 1024 / 1000).clamp(CPU_SHARES_MIN, CPU_SHARES_MAX)
}

#[must_use]
pub fn quota(milli: i64) -> i64 {
    (milli * CPU_PERIOD / 1000).max(CPU_QUOTA_MIN)
}

/// The bounds that a pod's amounts come to (upstream's `ResourceConfigForPod`): limits count where the pod says
/// them of itself, or all of its containers do.
#[must_use]
pub fn bounds(pod: &Pod) -> Bounds {
    let (asked, limits) = (requests(pod), limits(pod));
    let whole = view::spec(pod).resources.as_ref();
    let is_said = |resource: &str| {
        whole.is_some_and(|it| view::amount(&it.limits, resource).is_some())
            || view::all_containers(pod).all(|it| view::limit(it, resource).is_some())
    };
    Bounds {
        cpu_shares: shares(asked.cpu),
        cpu_quota: (is_said("cpu") && limits.cpu > 0).then(|| quota(limits.cpu)),
        memory: (is_said("memory") && limits.memory > 0).then_some(limits.memory),
    }
}

impl Bounds {
    /// Whatever fits into either fits into these.
    #[must_use]
    pub fn or_wider(self, other: Bounds) -> Bounds {
        let wider = |one: Option<i64>, other: Option<i64>| Some(one?.max(other?));
        Bounds {
            cpu_shares: self.cpu_shares.max(other.cpu_shares),
            cpu_quota: wider(self.cpu_quota, other.cpu_quota),
            memory: wider(self.memory, other.memory),
        }
    }

    /// Puts them in force.
    pub fn set(self, group: &str) -> io::Result<()> {
        match Group::of(group, "cpu") {
            Some(Group::One(folder)) => {
                fs::write(folder.join("cpu.shares"), self.cpu_shares.to_string())?;
                fs::write(folder.join("cpu.cfs_period_us"), CPU_PERIOD.to_string())?;
                let quota = self.cpu_quota.unwrap_or(-1).to_string();
                fs::write(folder.join("cpu.cfs_quota_us"), quota)?;
            }
            Some(Group::Two(folder)) => {
                fs::write(folder.join("cpu.weight"), weight(self.cpu_shares).to_string())?;
                let quota = self.cpu_quota.map_or("max".to_owned(), |it| it.to_string());
                fs::write(folder.join("cpu.max"), format!("{quota} {CPU_PERIOD}"))?;
            }
            None => return Err(missing("processor time")),
        }
        match Group::of(group, "memory") {
            Some(Group::One(folder)) => {
                let bytes = self.memory.unwrap_or(-1).to_string();
                fs::write(folder.join("memory.limit_in_bytes"), bytes)
            }
            Some(Group::Two(folder)) => {
                let bytes = self.memory.map_or("max".to_owned(), |it| it.to_string());
                fs::write(folder.join("memory.max"), bytes)
            }
            None => Err(missing("memory")),
        }
    }
}

/// Shares as version 2 weighs them, as the runtime reckons for containers.
fn weight(shares: i64) -> i64 {
    1 + (shares - CPU_SHARES_MIN) * (CPU_WEIGHT_MAX - 1) / (CPU_SHARES_MAX - CPU_SHARES_MIN)
}

fn missing(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("the kernel counts no {what} here"))
}

/// Where the kernel counts something for a group.
pub enum Group {
    One(PathBuf),
    Two(PathBuf),
}

impl Group {
    /// The group, where it is there.
    #[must_use]
    pub fn of(group: &str, controller: &str) -> Option<Group> {
        let below = group.trim_start_matches('/');
        let one = Path::new(HIERARCHIES).join(controller).join(below);
        if one.exists() {
            return Some(Group::One(one));
        }
        let two = Path::new(HIERARCHIES).join(below);
        two.exists().then_some(Group::Two(two))
    }
}

/// A number that a file of the kernel begins with.
#[must_use]
pub fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.split_whitespace().next()?.parse().ok()
}

/// The memory that a group has now.
#[must_use]
pub fn memory_used(group: &str) -> Option<u64> {
    match Group::of(group, "memory")? {
        Group::One(folder) => number(&folder.join("memory.usage_in_bytes")),
        Group::Two(folder) => number(&folder.join("memory.current")),
    }
}

/// Bounds the processes of all containers of a pod together: one that forks without end must not take the
/// machine's last numbers.
pub fn limit_processes(group: &str, most: u32) -> io::Result<()> {
    match Group::of(group, "pids") {
        Some(Group::One(folder) | Group::Two(folder)) => {
            fs::write(folder.join("pids.max"), most.to_string())
        }
        None => Err(missing("processes")),
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(spec: Value) -> Bounds {
        bounds(&serde_json::from_value(json!({"spec": spec})).unwrap())
    }

    #[test]
    fn a_pod_is_bounded_by_what_it_says_of_itself_or_by_what_all_its_containers_say() {
        let amounts = |cpu: &str, memory: &str| {
            json!({"limits": {"cpu": cpu, "memory": memory},
            "requests": {"cpu": cpu}})
        };
        let (one, two) = (amounts("500m", "64Mi"), amounts("250m", "64Mi"));
        let both = of(json!({"containers": [
            {"name": "a", "resources": one}, {"name": "b", "resources": two}]}));
        let all = Bounds { cpu_shares: 768, cpu_quota: Some(75_000), memory: Some(128 << 20) };
        assert_eq!(both, all);
        let half = of(json!({"containers": [{"name": "a", "resources": one}, {"name": "b"}]}));
        assert_eq!(half, Bounds { cpu_shares: 512, cpu_quota: None, memory: None });
        let whole = of(json!({"resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
            "containers": [{"name": "a", "resources": one}, {"name": "b"}]}));
        assert_eq!((whole.cpu_quota, whole.memory), (Some(100_000), Some(1 << 30)));
        let none = of(json!({"containers": [{"name": "a"}]}));
        assert_eq!(none, Bounds { cpu_shares: 2, cpu_quota: None, memory: None });
        assert_eq!(both.or_wider(half), Bounds { cpu_shares: 768, cpu_quota: None, memory: None });
        assert_eq!((weight(2), weight(1024), weight(262_144)), (1, 39, 10_000));
    }
}
