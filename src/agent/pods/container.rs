//! A container as the runtime is asked for it. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use kontiki_api::object::quantity::Quantity;

use super::environment::expand;
use super::groups::{CPU_PERIOD, quota, shares};
use super::{sandbox, view};
use crate::agent::cri::v1::{
    Capability, ContainerConfig, ContainerMetadata, Image, ImageSpec, Int64Value, KeyValue,
    LinuxContainerConfig, LinuxContainerResources, LinuxContainerSecurityContext, Mount,
    NamespaceMode, NamespaceOption,
};

/// What runs for the node's sake is killed last.
const OOM_GUARANTEED: i64 = -997;
const OOM_BEST_EFFORT: i64 = 1000;

/// What is known only when the container is made.
pub struct Made {
    pub attempt: u32,
    /// What the runtime calls the image.
    pub image: String,
    pub environment: Vec<(String, String)>,
    pub mounts: Vec<Mount>,
    /// Of the node, by which shares of memory are weighed.
    pub memory: i64,
    /// The container whose processes this one is to see.
    pub target: Option<String>,
}

#[must_use]
pub fn config(pod: &Pod, container: &Container, made: Made) -> ContainerConfig {
    let known: BTreeMap<String, String> = made.environment.iter().cloned().collect();
    let expanded = |words: &Option<Vec<String>>| {
        words.iter().flatten().map(|word| expand(word, &known)).collect()
    };
    let labels = [
        (view::POD_NAME, view::name(pod)),
        (view::POD_NAMESPACE, view::namespace(pod)),
        (view::POD_UID, view::uid(pod)),
        (view::CONTAINER_NAME, container.name.as_str()),
        (view::CONTAINER_IMAGE, container.image.as_deref().unwrap_or_default()),
    ];
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: container.name.clone(), attempt: made.attempt }),
        image: Some(ImageSpec { image: made.image, ..ImageSpec::default() }),
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: made.environment.into_iter().map(|(key, value)| KeyValue { key, value }).collect(),
        mounts: made.mounts,
        labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        annotations: BTreeMap::new(),
        log_path: log_path(&container.name, made.attempt),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(LinuxContainerConfig {
            resources: Some(resources(pod, container, made.memory)),
            security_context: Some(security(pod, container, made.target)),
        }),
    }
}

/// Below the pod's folder of logs.
#[must_use]
pub fn log_path(container: &str, attempt: u32) -> String {
    format!("{container}/{attempt}.log")
}

/// What the container may take, by what it and its pod say.
#[must_use]
pub fn resources(pod: &Pod, container: &Container, node_memory: i64) -> LinuxContainerResources {
    let cpu = view::request(container, "cpu").map_or(0, Quantity::milli_value);
    let limit = view::limit(container, "cpu").map(Quantity::milli_value);
    let memory = view::request(container, "memory").map_or(0, Quantity::value);
    LinuxContainerResources {
        cpu_shares: shares(cpu),
        cpu_period: CPU_PERIOD,
        cpu_quota: limit.map_or(0, quota),
        memory_limit_in_bytes: view::limit(container, "memory").map_or(0, Quantity::value),
        oom_score_adj: match view::quality(pod) {
            "Guaranteed" => OOM_GUARANTEED,
            "BestEffort" => OOM_BEST_EFFORT,
            // The more of what it asked for a container uses, the earlier it goes.
            _ => (1000 - 1000 * memory / node_memory.max(1)).clamp(3, 999),
        },
    }
}

/// The container's own words over the pod's.
fn security(
    pod: &Pod,
    container: &Container,
    target: Option<String>,
) -> LinuxContainerSecurityContext {
    /// What shows or changes the whole machine.
    const MASKED: [&str; 10] = [
        "/proc/asound",
        "/proc/acpi",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/proc/sched_debug",
        "/sys/firmware",
    ];
    const READ_ONLY: [&str; 5] =
        ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
    let ours = container.security_context.clone().unwrap_or_default();
    let pods = view::security(pod);
    let number = |value: Option<i64>| value.map(|value| Int64Value { value });
    let capabilities = ours.capabilities.clone().unwrap_or_default();
    let privileged = ours.privileged == Some(true);
    let unmasked = privileged || ours.proc_mount.as_deref() == Some("Unmasked");
    let paths = |paths: &[&str]| {
        if unmasked { Vec::new() } else { paths.iter().map(|it| (*it).to_owned()).collect() }
    };
    let mut groups = pods.supplemental_groups.clone().unwrap_or_default();
    groups.extend(pods.fs_group);
    let seccomp = ours.seccomp_profile.as_ref().or(pods.seccomp_profile.as_ref());
    let user = ours.run_as_user.or(pods.run_as_user);
    LinuxContainerSecurityContext {
        capabilities: Some(Capability {
            add_capabilities: capabilities.add.unwrap_or_default(),
            drop_capabilities: capabilities.drop.unwrap_or_default(),
        }),
        privileged,
        namespace_options: Some(namespaces(pod, target)),
        run_as_user: number(user),
        // The interface has a group only beside a user.
        run_as_group: number(ours.run_as_group.or(pods.run_as_group).filter(|_| user.is_some())),
        readonly_rootfs: ours.read_only_root_filesystem == Some(true),
        supplemental_groups: groups,
        no_new_privs: ours.allow_privilege_escalation == Some(false),
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READ_ONLY),
        seccomp: Some(sandbox::seccomp(seccomp)),
        ..LinuxContainerSecurityContext::default()
    }
}

fn namespaces(pod: &Pod, target: Option<String>) -> NamespaceOption {
    let mut namespaces = sandbox::namespaces(pod);
    if let Some(target) = target {
        namespaces.set_pid(NamespaceMode::Target);
        namespaces.target_id = target;
    }
    namespaces
}

/// Refuses to run as root who said that it must not.
pub fn check_user(pod: &Pod, container: &Container, image: &Image) -> Result<(), String> {
    let ours = container.security_context.clone().unwrap_or_default();
    let pods = view::security(pod);
    if ours.run_as_non_root.or(pods.run_as_non_root) != Some(true) {
        return Ok(());
    }
    let named = || {
        format!(
            "(pod: \"{}_{}({})\", container: {})",
            view::name(pod),
            view::namespace(pod),
            view::uid(pod),
            container.name
        )
    };
    match ours.run_as_user.or(pods.run_as_user) {
        Some(0) => Err(format!("container's runAsUser breaks non-root policy {}", named())),
        Some(_) => Ok(()),
        None if !image.username.is_empty() => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is \
             non-root {}",
            image.username,
            named()
        )),
        None => match &image.uid {
            Some(uid) if uid.value != 0 => Ok(()),
            _ => Err(format!("container has runAsNonRoot and image will run as root {}", named())),
        },
    }
}
