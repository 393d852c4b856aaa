//! What the node and its pods take, as upstream's kubelet tells it (`/stats/summary`, `/metrics/resource`).
//!
//! ```text
//! runtime (containers) ─┐
//! kernel (pods, node) ──┴─► Taken ─► shown (pure): summary, lines for Prometheus
//! ```
//! Keeps: a look costs nothing when nobody asks. A rate is that since the look before, so the first has none.
//! Never: fails for what one pod or file lacks; what is not known is left out.

mod kernel;
mod shown;
mod volumes;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kontiki_api::object::time::{Clock, Timestamp};
use parking_lot::Mutex;
use serde_json::Value;

use super::Settings;
use super::cri::v1::{self, ContainerState};
use super::cri::{Error, Runtime};
use super::pods::{observed, sandbox, view};
use super::volumes::PodFolder;
use crate::session::Set;
use volumes::{OfVolume, Volumes};

/// A rate over less says little.
const APART_MIN_MICROS: i64 = 500_000;

/// Processor time and memory of something.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Use {
    /// Nanoseconds of all processors together, since it began.
    pub cpu: Option<u64>,
    /// Billionths of a processor, since the look before.
    pub rate: Option<u64>,
    pub memory: Memory,
}

/// Bytes, and faults since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Memory {
    pub used: Option<u64>,
    /// Without what the kernel could take back at once.
    pub working: Option<u64>,
    /// Until its limit.
    pub available: Option<u64>,
    pub rss: Option<u64>,
    pub faults: Option<u64>,
    pub major_faults: Option<u64>,
}

/// A file system, and what somebody takes of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Disk {
    pub bytes: u64,
    pub bytes_free: u64,
    pub inodes: u64,
    pub inodes_free: u64,
    pub used: Option<u64>,
    pub inodes_used: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Interface {
    pub name: String,
    pub received: u64,
    pub receive_errors: u64,
    pub sent: u64,
    pub send_errors: u64,
}

#[derive(Clone, Debug, Default)]
pub struct Container {
    pub name: String,
    pub began: Timestamp,
    pub takes: Use,
    pub root: Option<Disk>,
    pub logs: Option<Disk>,
}

#[derive(Clone, Debug, Default)]
pub struct OfPod {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub began: Timestamp,
    pub takes: Use,
    pub containers: Vec<Container>,
    pub interfaces: Vec<Interface>,
    pub processes: Option<u64>,
    /// Where they were asked for.
    pub volumes: Vec<OfVolume>,
}

/// What one look has shown.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    pub node: String,
    pub now: Timestamp,
    pub booted: Timestamp,
    pub takes: Use,
    /// The agent's process, and all pods together.
    pub parts: Vec<(&'static str, Use)>,
    pub disk: Option<Disk>,
    pub images: Option<Disk>,
    pub interfaces: Vec<Interface>,
    pub processes: i64,
    pub processes_max: i64,
    pub pods: Vec<OfPod>,
}

/// Looks when it is asked.
pub struct Stats {
    pub settings: Arc<Settings>,
    pub runtime: Arc<dyn Runtime>,
    pub set: Arc<Set>,
    pub clock: Clock,
    /// What each had taken at the look before.
    before: Mutex<BTreeMap<String, (Timestamp, u64)>>,
    volumes: Volumes,
}

impl Stats {
    #[must_use]
    pub fn new(
        settings: Arc<Settings>,
        runtime: Arc<dyn Runtime>,
        set: Arc<Set>,
        clock: Clock,
    ) -> Stats {
        let (before, volumes) = (Mutex::default(), Volumes::default());
        Stats { settings, runtime, set, clock, before, volumes }
    }

    /// The node's summary, as `/stats/summary` gives it.
    pub async fn summary(&self) -> Result<Value, Error> {
        let pods = self.assigned();
        let mut taken = self.look(&pods).await?;
        for it in &mut taken.pods {
            let Some(pod) = pods.iter().find(|pod| view::uid(pod) == it.uid) else { continue };
            let folder = PodFolder::new(&self.settings.directories.pods, &it.uid);
            it.volumes = self.volumes.of(pod, &folder, &self.set, taken.now).await;
        }
        Ok(shown::summary(&taken))
    }

    /// Processor time and memory, as `/metrics/resource` gives them.
    pub async fn resources(&self) -> Result<String, Error> {
        Ok(shown::resources(&self.look(&self.assigned()).await?))
    }

    fn assigned(&self) -> Vec<Pod> {
        let (pods, _) = self.set.list("pods", "");
        pods.iter().filter_map(|(_, held)| held.read().ok()).collect()
    }

    /// The pods of this node, as they were assigned.
    #[must_use]
    pub fn pods(&self) -> Value {
        let (pods, _) = self.set.list("pods", "");
        let items: Vec<Value> = pods.iter().filter_map(|(_, held)| held.read().ok()).collect();
        serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
    }

    async fn look(&self, pods: &[Pod]) -> Result<Taken, Error> {
        let listed = self.runtime.containers(None).await?;
        let running = i32::from(ContainerState::ContainerRunning);
        let running: Vec<_> = listed.into_iter().filter(|it| it.state == running).collect();
        let stats = self.runtime.container_stats().await?;
        let images = self.runtime.image_place().await.ok().flatten();
        let images = images.and_then(|it| {
            let mut disk = kernel::disk(Path::new(&it.fs_id.as_ref()?.mountpoint))?;
            disk.used = it.used_bytes.map(|it| it.value);
            disk.inodes_used = it.inodes_used.map(|it| it.value);
            Some(disk)
        });
        let shown = pods.iter().filter_map(|pod| {
            let of_it = |it: &&v1::Container| {
                it.labels.get(view::POD_UID).is_some_and(|uid| uid == view::uid(pod))
            };
            let of_it: Vec<_> = running.iter().filter(of_it).collect();
            (!of_it.is_empty()).then(|| self.pod(pod, &of_it, &stats, images))
        });
        let (processes, processes_max) = kernel::processes();
        let mut taken = Taken {
            node: self.settings.node.clone(),
            now: self.clock.now(),
            booted: kernel::booted(),
            takes: kernel::node(),
            parts: vec![("kubelet", kernel::this()), ("pods", kernel::group("/kubepods"))],
            disk: kernel::disk(&self.settings.directories.pods),
            images,
            interfaces: kernel::interfaces(None),
            processes,
            processes_max,
            pods: shown.collect(),
        };
        self.rate(&mut taken);
        Ok(taken)
    }

    fn pod(
        &self,
        pod: &Pod,
        running: &[&v1::Container],
        stats: &[v1::ContainerStats],
        images: Option<Disk>,
    ) -> OfPod {
        let group = sandbox::control_group(pod);
        let logs = sandbox::log_directory(&self.settings.directories.logs, pod);
        let containers: Vec<Container> = running
            .iter()
            .filter_map(|it| {
                let found = stats.iter().find(|stats| {
                    stats.attributes.as_ref().is_some_and(|about| about.id == it.id)
                })?;
                Some(container(it, found, &logs, images))
            })
            .collect();
        let mut takes = kernel::group(&group);
        if takes.cpu.is_none() {
            // A runtime that puts groups elsewhere.
            takes = sum(containers.iter().map(|it| it.takes));
        }
        let began = pod.status.as_ref().and_then(|it| it.start_time.as_ref());
        OfPod {
            name: view::name(pod).into(),
            namespace: view::namespace(pod).into(),
            uid: view::uid(pod).into(),
            began: began.map(|it| it.0.into()).unwrap_or_default(),
            takes,
            interfaces: match view::host_network(pod) {
                true => Vec::new(),
                false => kernel::process_of(&group)
                    .map_or_else(Vec::new, |it| kernel::interfaces(Some(it))),
            },
            processes: kernel::processes_of(&group),
            containers,
            volumes: Vec::new(),
        }
    }

    /// Rates since the look before, and what the next one starts from.
    fn rate(&self, taken: &mut Taken) {
        let now = taken.now;
        let mut before = self.before.lock();
        let mut after = BTreeMap::new();
        let mut rate = |key: String, takes: &mut Use| {
            let Some(cpu) = takes.cpu else { return };
            let known = before.get(&key).copied();
            let apart = known.map_or(0, |(at, _)| now.micros_since(at));
            if let Some((_, earlier)) = known.filter(|_| apart > 0) {
                let micros = u128::from(apart.unsigned_abs());
                let nanoseconds = u128::from(cpu.saturating_sub(earlier));
                takes.rate = u64::try_from(nanoseconds * 1_000_000 / micros).ok();
            }
            let is_old = known.is_none() || apart >= APART_MIN_MICROS;
            after.insert(key, if is_old { (now, cpu) } else { known.unwrap_or((now, cpu)) });
        };
        rate(String::new(), &mut taken.takes);
        for (name, takes) in &mut taken.parts {
            rate((*name).to_owned(), takes);
        }
        for pod in &mut taken.pods {
            rate(pod.uid.clone(), &mut pod.takes);
            for container in &mut pod.containers {
                let key = format!("{}/{}", pod.uid, container.name);
                rate(key, &mut container.takes);
            }
        }
        *before = after;
    }
}

fn container(
    it: &v1::Container,
    stats: &v1::ContainerStats,
    logs: &Path,
    images: Option<Disk>,
) -> Container {
    let value = |it: &Option<v1::UInt64Value>| it.as_ref().map(|it| it.value);
    let cpu = stats.cpu.as_ref();
    let memory = stats.memory.unwrap_or_default();
    let name = it.metadata.as_ref().map(|it| it.name.clone()).unwrap_or_default();
    let root = stats.writable_layer.as_ref().and_then(|layer| {
        let (used, inodes_used) = (value(&layer.used_bytes), value(&layer.inodes_used));
        images.map(|disk| Disk { used, inodes_used, ..disk })
    });
    Container {
        began: observed::moment(it.created_at),
        takes: Use {
            cpu: cpu.and_then(|it| value(&it.usage_core_nano_seconds)),
            rate: None,
            memory: Memory {
                used: value(&memory.usage_bytes).or_else(|| value(&memory.working_set_bytes)),
                working: value(&memory.working_set_bytes),
                available: value(&memory.available_bytes).filter(|it| *it > 0),
                rss: value(&memory.rss_bytes),
                faults: value(&memory.page_faults),
                major_faults: value(&memory.major_page_faults),
            },
        },
        root,
        logs: kernel::folder(&logs.join(&name)),
        name,
    }
}

fn sum(all: impl Iterator<Item = Use>) -> Use {
    let add = |one: Option<u64>, other: Option<u64>| match (one, other) {
        (None, None) => None,
        (one, other) => Some(one.unwrap_or(0) + other.unwrap_or(0)),
    };
    all.fold(Use::default(), |sum, it| Use {
        cpu: add(sum.cpu, it.cpu),
        rate: None,
        memory: Memory {
            used: add(sum.memory.used, it.memory.used),
            working: add(sum.memory.working, it.memory.working),
            available: None,
            rss: add(sum.memory.rss, it.memory.rss),
            faults: add(sum.memory.faults, it.memory.faults),
            major_faults: add(sum.memory.major_faults, it.memory.major_faults),
        },
    })
}
