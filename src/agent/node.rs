//! The node's own object: that it is there, what it has, and how it is. That it lives is seen by its session.
//!
//! Keeps: the status is said when it has changed. A node that is not ready looks again sooner. Labels and
//! taints that others have set stay.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    ContainerImage, Node as NodeObject, NodeAddress, NodeCondition, NodeDaemonEndpoints,
    NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kontiki_api::object::time::{Clock, Timestamp};
use serde_json::json;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::cri::Runtime;
use super::{Settings, network};
use crate::session::{Origin, Outbox, Set};

/// The version of Kubernetes whose node this is.
pub const KUBELET_VERSION: &str = "v1.37.0+kontiki";

/// Between two looks at the machine.
const PAUSE: Duration = Duration::from_secs(10);
/// The first pause of a node that is not ready; each is twice the one before, up to half a `PAUSE`.
const UNREADY_PAUSE: Duration = Duration::from_millis(200);
/// Below these a node is under pressure; upstream's hard limits of eviction. A tenth of a large disk is enough
/// for long: there it is the bytes that count.
const MEMORY_MIN: i64 = 100 << 20;
const DISK_FREE_PERCENT_MIN: u64 = 10;
const DISK_FREE_BYTES_ENOUGH: u64 = 10 << 30;
const INODES_FREE_PERCENT_MIN: u64 = 5;
const IMAGES_MAX: usize = 50;

/// What this machine has.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    pub cpu_milli: i64,
    /// Bytes.
    pub memory: i64,
    pub pids: i64,
}

static MACHINE: LazyLock<Machine> = LazyLock::new(|| {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let pids = read("/proc/sys/kernel/pid_max").trim().parse().unwrap_or(32768);
    Machine {
        cpu_milli: i64::try_from(cpus).unwrap_or(1) * 1000,
        memory: memory_of("MemTotal:"),
        pids,
    }
});

/// Read once: it does not change.
#[must_use]
pub fn machine() -> Machine {
    *MACHINE
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// A line of `/proc/meminfo`, in bytes.
fn memory_of(label: &str) -> i64 {
    let text = read("/proc/meminfo");
    let line = text.lines().find_map(|line| line.strip_prefix(label));
    let kibibytes = line.and_then(|it| it.split_whitespace().next()?.parse::<i64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

pub struct Node {
    settings: Arc<Settings>,
    runtime: Arc<dyn Runtime>,
    set: Arc<Set>,
    outbox: Arc<Outbox>,
    clock: Clock,
    /// What was said last.
    said: Option<NodeStatus>,
    registered: bool,
}

impl Node {
    #[must_use]
    pub fn new(
        settings: Arc<Settings>,
        runtime: Arc<dyn Runtime>,
        set: Arc<Set>,
        outbox: Arc<Outbox>,
        clock: Clock,
    ) -> Node {
        Node { settings, runtime, set, outbox, clock, said: None, registered: false }
    }

    pub async fn run(mut self, stop: CancellationToken) {
        let mut soon = UNREADY_PAUSE;
        let mut assigned = self.set.changes();
        loop {
            tokio::select! {
                () = self.look() => {}
                () = stop.cancelled() => return,
            }
            let pause = if self.is_ready() { PAUSE } else { soon };
            soon = if pause == PAUSE { UNREADY_PAUSE } else { (soon * 2).min(PAUSE / 2) };
            tokio::select! {
                () = sleep(pause) => {}
                // Its range may have come.
                Ok(()) = assigned.changed(), if !self.is_ready() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    fn is_ready(&self) -> bool {
        let conditions = self.said.iter().flat_map(|said| said.conditions.iter().flatten());
        conditions.into_iter().any(|it| it.type_ == "Ready" && it.status == "True")
    }

    async fn look(&mut self) {
        let status = self.status().await;
        if self.outbox.node_was_missing() {
            tracing::warn!(node = self.settings.node, "the node's object is gone; it is made anew");
            self.registered = false;
        }
        self.say(status);
        self.configure_network();
    }

    /// Says how the node is, where that is not known.
    fn say(&mut self, mut status: NodeStatus) {
        if let Some(said) = &self.said {
            keep_transitions(&mut status, said);
            if self.registered && same(said, &status) && self.is_there() {
                return;
            }
        }
        let mut patch = json!(status);
        // Addresses are merged by their type: those that are no more have to be taken out.
        if let Some(list) = patch["addresses"].as_array_mut() {
            list.insert(0, json!({"$patch": "replace"}));
        }
        let labels = (!self.registered).then(|| self.labels());
        self.outbox.node(&patch, labels);
        (self.registered, self.said) = (true, Some(status));
    }

    /// Whether there is nothing that speaks against it.
    fn is_there(&self) -> bool {
        self.set.origin() != Origin::Master
            || !self.outbox.is_empty()
            || self.set.get("nodes", "", &self.settings.node).is_some()
    }

    fn configure_network(&self) {
        if self.set.origin() == Origin::Nobody {
            return;
        }
        let held = self.set.get("nodes", "", &self.settings.node);
        let node = held.and_then(|held| held.read::<NodeObject>().ok());
        if let Some(range) = node.and_then(|it| it.spec).and_then(|it| it.pod_cidr)
            && let Err(error) = network::configure(&self.settings.directories, &range)
        {
            tracing::warn!(error, "pods' network is not set up");
        }
    }

    fn labels(&self) -> HashMap<String, String> {
        let (os, arch) = ("linux".to_owned(), architecture().to_owned());
        let mut labels = HashMap::from([
            ("kubernetes.io/hostname".to_owned(), self.settings.node.clone()),
            ("kubernetes.io/os".to_owned(), os.clone()),
            ("kubernetes.io/arch".to_owned(), arch.clone()),
            ("beta.kubernetes.io/os".to_owned(), os),
            ("beta.kubernetes.io/arch".to_owned(), arch),
        ]);
        labels.extend(self.settings.labels.iter().cloned());
        labels
    }

    async fn status(&self) -> NodeStatus {
        let machine = machine();
        let disk = disk(&self.settings.directories.pods);
        let mut amounts = BTreeMap::from([
            ("cpu".to_owned(), Quantity(format!("{}", machine.cpu_milli / 1000))),
            ("memory".to_owned(), Quantity(format!("{}Ki", machine.memory / 1024))),
            ("pods".to_owned(), Quantity(self.settings.pods_max.to_string())),
        ]);
        if let Some(disk) = disk {
            let bytes = Quantity(format!("{}Ki", disk.bytes / 1024));
            amounts.insert("ephemeral-storage".to_owned(), bytes);
        }
        let mut allocatable = amounts.clone();
        let left = (machine.memory - MEMORY_MIN).max(0) / 1024;
        allocatable.insert("memory".to_owned(), Quantity(format!("{left}Ki")));
        if let Some(disk) = disk {
            let bytes = disk.bytes / 100 * (100 - DISK_FREE_PERCENT_MIN);
            allocatable.insert("ephemeral-storage".to_owned(), Quantity(bytes.to_string()));
        }
        NodeStatus {
            addresses: Some(self.addresses()),
            capacity: Some(amounts),
            allocatable: Some(allocatable),
            conditions: Some(self.conditions(disk).await),
            daemon_endpoints: Some(NodeDaemonEndpoints::default()),
            images: Some(self.images().await),
            node_info: Some(self.about().await),
            ..NodeStatus::default()
        }
    }

    fn addresses(&self) -> Vec<NodeAddress> {
        let address = |type_: &str, address: String| NodeAddress { type_: type_.into(), address };
        let internal = |it: &IpAddr| address("InternalIP", it.to_string());
        let mut all: Vec<_> = self.settings.addresses.iter().map(internal).collect();
        all.push(address("Hostname", self.settings.node.clone()));
        all
    }

    async fn conditions(&self, disk: Option<Disk>) -> Vec<NodeCondition> {
        let now = Time(Timestamp::from_seconds(self.clock.now().as_seconds()).moment());
        let condition = |type_: &str, holds: bool, reason: &str, message: String| NodeCondition {
            type_: type_.into(),
            status: if holds { "True" } else { "False" }.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_heartbeat_time: Some(now.clone()),
            last_transition_time: Some(now.clone()),
        };
        let pressure = |type_: &str, holds: bool, what: &str| {
            let (verb, reason) = if holds {
                ("has", format!("KubeletHas{what}"))
            } else {
                ("has no", format!("KubeletHasNo{what}"))
            };
            condition(type_, holds, &reason, format!("kubelet {verb} {}", words(what)))
        };
        let memory = memory_of("MemAvailable:") < MEMORY_MIN;
        let full = disk.is_some_and(|it| {
            (it.free_percent < DISK_FREE_PERCENT_MIN && it.free_bytes < DISK_FREE_BYTES_ENOUGH)
                || it.inodes_free_percent < INODES_FREE_PERCENT_MIN
        });
        let pids = processes() > machine().pids / 10 * 9;
        let memory = match memory {
            true => condition(
                "MemoryPressure",
                true,
                "KubeletHasInsufficientMemory",
                "kubelet has insufficient memory available".into(),
            ),
            false => condition(
                "MemoryPressure",
                false,
                "KubeletHasSufficientMemory",
                "kubelet has sufficient memory available".into(),
            ),
        };
        let pids = match pids {
            true => condition(
                "PIDPressure",
                true,
                "KubeletHasInsufficientPID",
                "kubelet has insufficient PID available".into(),
            ),
            false => condition(
                "PIDPressure",
                false,
                "KubeletHasSufficientPID",
                "kubelet has sufficient PID available".into(),
            ),
        };
        let ready = match self.runtime.conditions().await {
            Ok(all) => {
                let bad: Vec<String> = all
                    .iter()
                    .filter(|it| !it.status)
                    .map(|it| {
                        format!(
                            "{} not ready: reason:{} message:{}",
                            it.r#type, it.reason, it.message
                        )
                    })
                    .collect();
                bad.join("; ")
            }
            Err(error) => format!("container runtime is down: {error}"),
        };
        let ready = if ready.is_empty() {
            condition("Ready", true, "KubeletReady", "kubelet is posting ready status".into())
        } else {
            condition("Ready", false, "KubeletNotReady", ready)
        };
        vec![memory, pressure("DiskPressure", full, "DiskPressure"), pids, ready]
    }

    async fn images(&self) -> Vec<ContainerImage> {
        let mut all = self.runtime.images().await.unwrap_or_default();
        all.sort_by_key(|it| std::cmp::Reverse(it.size));
        all.truncate(IMAGES_MAX);
        let image = |it: super::cri::v1::Image| ContainerImage {
            names: Some([it.repo_digests, it.repo_tags].concat()),
            size_bytes: i64::try_from(it.size).ok(),
        };
        all.into_iter().map(image).collect()
    }

    async fn about(&self) -> NodeSystemInfo {
        let release = read("/etc/os-release");
        let pretty = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
        let version = self.runtime.version().await.ok();
        NodeSystemInfo {
            architecture: architecture().into(),
            boot_id: read("/proc/sys/kernel/random/boot_id").trim().into(),
            container_runtime_version: version.map_or_else(String::new, |it| {
                format!("{}://{}", it.runtime_name, it.runtime_version)
            }),
            kernel_version: rustix::system::uname().release().to_string_lossy().into(),
            kube_proxy_version: String::new(),
            kubelet_version: KUBELET_VERSION.into(),
            machine_id: read("/etc/machine-id").trim().into(),
            operating_system: "linux".into(),
            os_image: pretty.unwrap_or("Linux").trim_matches('"').into(),
            system_uuid: system_uuid(),
            ..NodeSystemInfo::default()
        }
    }
}

/// `DiskPressure` as people write it.
fn words(what: &str) -> String {
    let mut text = String::new();
    for letter in what.chars() {
        if letter.is_ascii_uppercase() && !text.is_empty() {
            text.push(' ');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

fn system_uuid() -> String {
    let told = read("/sys/class/dmi/id/product_uuid");
    let told = if told.trim().is_empty() { read("/etc/machine-id") } else { told };
    told.trim().into()
}

/// How many there are.
#[must_use]
pub fn processes() -> i64 {
    // The fourth field of loadavg is running/all.
    let text = read("/proc/loadavg");
    let all = text.split_whitespace().nth(3).and_then(|it| it.split('/').nth(1));
    all.and_then(|it| it.parse().ok()).unwrap_or(0)
}

/// As Go names it.
#[must_use]
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[derive(Clone, Copy, Debug)]
struct Disk {
    bytes: u64,
    free_bytes: u64,
    free_percent: u64,
    inodes_free_percent: u64,
}

fn disk(path: &Path) -> Option<Disk> {
    let there = path.ancestors().find(|it| it.exists())?;
    let found = rustix::fs::statvfs(there).ok()?;
    let percent = |part: u64, whole: u64| (part * 100).checked_div(whole).unwrap_or(100);
    Some(Disk {
        bytes: found.f_blocks * found.f_frsize,
        free_bytes: found.f_bavail * found.f_frsize,
        free_percent: percent(found.f_bavail, found.f_blocks),
        inodes_free_percent: percent(found.f_favail, found.f_files),
    })
}

/// A condition that has not changed changed when it did.
fn keep_transitions(fresh: &mut NodeStatus, told: &NodeStatus) {
    for condition in fresh.conditions.iter_mut().flatten() {
        let before = told.conditions.iter().flatten().find(|it| it.type_ == condition.type_);
        if let Some(before) = before.filter(|it| it.status == condition.status) {
            condition.last_transition_time.clone_from(&before.last_transition_time);
        }
    }
}

/// Whether two say the same, but for when.
fn same(one: &NodeStatus, other: &NodeStatus) -> bool {
    let timeless = |status: &NodeStatus| {
        let mut status = status.clone();
        status.conditions.iter_mut().flatten().for_each(|it| it.last_heartbeat_time = None);
        status
    };
    timeless(one) == timeless(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_read() {
        let machine = machine();
        assert!(machine.cpu_milli >= 1000 && machine.memory > 1 << 20 && machine.pids > 0);
        assert!(disk(Path::new("/nowhere/at/all")).is_some());
    }

    #[test]
    fn a_condition_keeps_the_time_of_its_last_change() {
        let at = |seconds: i64, status: &str| NodeStatus {
            conditions: Some(vec![NodeCondition {
                type_: "Ready".into(),
                status: status.into(),
                last_heartbeat_time: Some(Time(Timestamp::from_seconds(seconds).moment())),
                last_transition_time: Some(Time(Timestamp::from_seconds(seconds).moment())),
                ..NodeCondition::default()
            }]),
            ..NodeStatus::default()
        };
        let told = at(1, "True");
        let mut fresh = at(2, "True");
        keep_transitions(&mut fresh, &told);
        assert!(same(&told, &fresh));
        let mut changed = at(2, "False");
        keep_transitions(&mut changed, &told);
        assert!(!same(&told, &changed));
        let changed = &changed.conditions.unwrap()[0];
        assert_eq!(changed.last_transition_time, changed.last_heartbeat_time);
    }
}
