//! The Pod Security Standards: which pods each level allows, by version. Pure.
//!
//! Keeps: the order of checks and every word of what they say, which clients and tests compare. A check looks
//! at init, regular and ephemeral containers alike.

use std::collections::BTreeSet;

use serde_json::Value;

use super::policy::{Level, Standard, Version};
use crate::live::pod::{containers, items};

/// What is not allowed: in short, and with the places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub reason: String,
    pub detail: String,
}

fn violation(reason: &str, detail: String) -> Option<Violation> {
    Some(Violation { reason: reason.into(), detail })
}

/// A pod, or what a workload makes its pods of.
#[derive(Clone, Copy, Debug)]
pub struct Pod<'a> {
    pub metadata: &'a Value,
    pub spec: &'a Value,
}

type Check = fn(Pod<'_>, u32) -> Option<Violation>;

/// Name, first minor version, check. In the order of the names, which is the order of messages.
const BASELINE: [(&str, u32, Check); 12] = [
    ("appArmorProfile", 0, app_armor),
    ("capabilities_baseline", 0, capabilities_baseline),
    ("hostNamespaces", 0, host_namespaces),
    ("hostPathVolumes", 0, host_path_volumes),
    ("hostPorts", 0, host_ports),
    ("hostProbesAndHostLifecycle", 34, host_of_probes),
    ("privileged", 0, privileged),
    ("procMount", 0, proc_mount_baseline),
    ("seLinuxOptions", 0, se_linux),
    ("seccompProfile_baseline", 0, seccomp_baseline),
    ("sysctls", 0, sysctls),
    ("windowsHostProcess", 0, windows_host_process),
];

/// The same, with the check of the baseline that it replaces.
const RESTRICTED: [(&str, u32, Check, &str); 7] = [
    ("allowPrivilegeEscalation", 8, privilege_escalation, ""),
    ("capabilities_restricted", 22, capabilities_restricted, "capabilities_baseline"),
    ("procMount_restricted", 35, |pod, _| proc_mount(pod), "procMount"),
    ("restrictedVolumes", 0, restricted_volumes, "hostPathVolumes"),
    ("runAsNonRoot", 0, run_as_non_root, ""),
    ("runAsUser", 23, run_as_user, ""),
    ("seccompProfile_restricted", 19, seccomp_restricted, "seccompProfile_baseline"),
];

/// Everything about the pod that the standard does not allow.
#[must_use]
pub fn evaluate(standard: Standard, pod: Pod<'_>) -> Vec<Violation> {
    let minor = match standard.version {
        Version::Latest => u32::MAX - 1,
        Version::Minor(minor) => minor,
    };
    let stricter = RESTRICTED.iter().filter(|(_, since, ..)| *since <= minor);
    let replaced = |name: &str| {
        standard.level == Level::Restricted && stricter.clone().any(|(.., old)| *old == name)
    };
    let mut found = Vec::new();
    if standard.level >= Level::Baseline {
        let checks = BASELINE.iter().filter(|(name, since, _)| *since <= minor && !replaced(name));
        found.extend(checks.filter_map(|(_, _, check)| check(pod, minor)));
    }
    if standard.level == Level::Restricted {
        found.extend(stricter.filter_map(|(_, _, check, _)| check(pod, minor)));
    }
    found
}

/// `host ports (8080), privileged (…)`
#[must_use]
pub fn details(violations: &[Violation]) -> String {
    let one = |it: &Violation| match it.detail.as_str() {
        "" => it.reason.clone(),
        detail => format!("{} ({detail})", it.reason),
    };
    violations.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[must_use]
pub fn reasons(violations: &[Violation]) -> String {
    violations.iter().map(|it| it.reason.as_str()).collect::<Vec<_>>().join(", ")
}

fn quoted<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}

fn all(set: &BTreeSet<String>) -> String {
    quoted(set.iter().map(String::as_str))
}

fn plural(count: usize, one: &'static str, many: &'static str) -> &'static str {
    if count == 1 { one } else { many }
}

fn of_containers(names: &[&str]) -> String {
    let word = plural(names.len(), "container", "containers");
    format!("{word} {}", quoted(names.iter().copied()))
}

fn name(container: &Value) -> &str {
    container["name"].as_str().unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn is_windows(pod: Pod<'_>) -> bool {
    pod.spec["os"]["name"] == "windows"
}

/// Since 1.35 some rules do not hold for a pod in a user namespace of its own.
fn in_user_namespace(pod: Pod<'_>) -> bool {
    pod.spec["hostUsers"] == false
}

/// Containers for which `bad` holds of their security context.
fn bad_containers<'a>(pod: Pod<'a>, mut bad: impl FnMut(&'a Value) -> bool) -> Vec<&'a str> {
    let wrong = containers(pod.spec).filter(|container| bad(&container["securityContext"]));
    wrong.map(name).collect()
}

/// `pod and containers "a", "b"`, or nothing when nobody set it.
fn setters(by_pod: bool, by_containers: &[&str]) -> Option<String> {
    let pod = by_pod.then(|| "pod".to_owned());
    let inner = (!by_containers.is_empty()).then(|| of_containers(by_containers));
    let all: Vec<String> = pod.into_iter().chain(inner).collect();
    (!all.is_empty()).then(|| all.join(" and "))
}

fn app_armor(pod: Pod<'_>, _: u32) -> Option<Violation> {
    let mut values = BTreeSet::new();
    let mut bad = |context: &Value| {
        let profile = &context["appArmorProfile"];
        let kind = text(&profile["type"]);
        let bad = profile.is_object() && !matches!(kind, "RuntimeDefault" | "Localhost");
        if bad {
            values.insert(kind.to_owned());
        }
        bad
    };
    let by_pod = bad(&pod.spec["securityContext"]);
    let by_containers = bad_containers(pod, bad);
    let mut by: Vec<String> = setters(by_pod, &by_containers).into_iter().collect();
    let prefix = "container.apparmor.security.beta.kubernetes.io/";
    let fine = |value: &str| {
        value.is_empty() || value == "runtime/default" || value.starts_with("localhost/")
    };
    let annotations = pod.metadata["annotations"].as_object().into_iter().flatten();
    let forbidden: BTreeSet<String> = annotations
        .filter(|(key, value)| key.starts_with(prefix) && !fine(text(value)))
        .map(|(key, value)| format!("{key}={:?}", text(value)))
        .collect();
    if !forbidden.is_empty() {
        by.push(plural(forbidden.len(), "annotation", "annotations").into());
    }
    if by.is_empty() {
        return None;
    }
    let told: Vec<&str> = values.iter().chain(&forbidden).map(String::as_str).collect();
    let reason = plural(told.len(), "forbidden AppArmor profile", "forbidden AppArmor profiles");
    let by = by.join(" and ");
    violation(reason, format!("{by} must not set AppArmor profile type to {}", quoted(told)))
}

fn capabilities_baseline(pod: Pod<'_>, _: u32) -> Option<Violation> {
    const ALLOWED: [&str; 13] = [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ];
    let mut added = BTreeSet::new();
    let bad = bad_containers(pod, |context| {
        let wrong: Vec<&str> = items(&context["capabilities"]["add"])
            .map(text)
            .filter(|capability| !ALLOWED.contains(capability))
            .collect();
        added.extend(wrong.iter().map(|&capability| capability.to_owned()));
        !wrong.is_empty()
    });
    if bad.is_empty() {
        return None;
    }
    let (bad, added) = (of_containers(&bad), all(&added));
    violation(
        "non-default capabilities",
        format!("{bad} must not include {added} in securityContext.capabilities.add"),
    )
}

fn host_namespaces(pod: Pod<'_>, _: u32) -> Option<Violation> {
    let shared: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|field| pod.spec[field] == true)
        .map(|field| format!("{field}=true"))
        .collect();
    if shared.is_empty() { None } else { violation("host namespaces", shared.join(", ")) }
}

fn host_path_volumes(pod: Pod<'_>, _: u32) -> Option<Violation> {
    let volumes = items(&pod.spec["volumes"]).filter(|volume| volume["hostPath"].is_object());
    let names: Vec<&str> = volumes.map(name).collect();
    if names.is_empty() {
        return None;
    }
    let word = plural(names.len(), "volume", "volumes");
    violation("hostPath volumes", format!("{word} {}", quoted(names)))
}

fn host_ports(pod: Pod<'_>, _: u32) -> Option<Violation> {
    let mut ports = BTreeSet::new();
    let uses = |container: &&Value| {
        let used = items(&container["ports"]).filter_map(|port| port["hostPort"].as_i64());
        let used: Vec<String> =
            used.filter(|port| *port != 0).map(|port| port.to_string()).collect();
        let any = !used.is_empty();
        ports.extend(used);
        any
    };
    let bad: Vec<&str> = containers(pod.spec).filter(uses).map(name).collect();
    if bad.is_empty() {
        return None;
    }
    let detail = format!(
        "{} {} {} {}",
        of_containers(&bad),
        plural(bad.len(), "uses", "use"),
        plural(ports.len(), "hostPort", "hostPorts"),
        ports.into_iter().collect::<Vec<_>>().join(", ")
    );
    violation("hostPort", detail)
}

fn host_of_probes(pod: Pod<'_>, _: u32) -> Option<Violation> {
    let mut hosts = BTreeSet::new();
    let mut bad = BTreeSet::new();
    for container in containers(pod.spec) {
        let lifecycle = &container["lifecycle"];
        let handlers = [
            &container["livenessProbe"],
            &container["readinessProbe"],
            &container["startupProbe"],
            &lifecycle["postStart"],
            &lifecycle["preStop"],
        ];
        for handler in handlers {
            for kind in ["httpGet", "tcpSocket"] {
                let host = text(&handler[kind]["host"]);
                if !host.is_empty() {
                    hosts.insert(host.to_owned());
                    bad.insert(name(container));
                }
            }
        }
    }
    if bad.is_empty() {
        return None;
    }
    let bad: Vec<&str> = bad.into_iter().collect();
    let detail = format!(
        "{} {} {} {}",
        of_containers(&bad),
        plural(bad.len(), "uses", "use"),
        plural(hosts.len(), "probe or lifecycle host", "probe or lifecycle hosts"),
        all(&hosts)
    );
    violation("probe or lifecycle host", detail)
}

fn privileged(pod: Pod<'_>, _: u32) -> Option<Violation> {
    let bad = bad_containers(pod, |context| context["privileged"] == true);
    if bad.is_empty() {
        return None;
    }
    let bad = of_containers(&bad);
    violation("privileged", format!("{bad} must not set securityContext.privileged=true"))
}

fn proc_mount_baseline(pod: Pod<'_>, minor: u32) -> Option<Violation> {
    if minor >= 35 && in_user_namespace(pod) { None } else { proc_mount(pod) }
}

fn proc_mount(pod: Pod<'_>) -> Option<Violation> {
    let mut kinds = BTreeSet::new();
    let bad = bad_containers(pod, |context| match context["procMount"].as_str() {
        None | Some("Default") => false,
        Some(other) => {
            kinds.insert(other.to_owned());
            true
        }
    });
    if bad.is_empty() {
        return None;
    }
    let (bad, kinds) = (of_containers(&bad), all(&kinds));
    violation("procMount", format!("{bad} must not set securityContext.procMount to {kinds}"))
}

fn se_linux(pod: Pod<'_>, minor: u32) -> Option<Violation> {
    let (mut types, mut user, mut role) = (BTreeSet::new(), false, false);
    let mut bad = |context: &Value| {
        let options = &context["seLinuxOptions"];
        let kind = text(&options["type"]);
        let allowed = matches!(kind, "" | "container_t" | "container_init_t" | "container_kvm_t")
            || (minor >= 31 && kind == "container_engine_t");
        if !allowed {
            types.insert(kind.to_owned());
        }
        let sets = |field: &str| !text(&options[field]).is_empty();
        user |= sets("user");
        role |= sets("role");
        !allowed || sets("user") || sets("role")
    };
    let by_pod = bad(&pod.spec["securityContext"]);
    let by_containers = bad_containers(pod, bad);
    let by = setters(by_pod, &by_containers)?;
    let mut told = Vec::new();
    if !types.is_empty() {
        told.push(format!("{} {}", plural(types.len(), "type", "types"), all(&types)));
    }
    if user {
        told.push("user may not be set".into());
    }
    if role {
        told.push("role may not be set".into());
    }
    let told = told.join("; ");
    violation(
        "seLinuxOptions",
        format!("{by} set forbidden securityContext.seLinuxOptions: {told}"),
    )
}

fn seccomp_baseline(pod: Pod<'_>, minor: u32) -> Option<Violation> {
    if minor >= 19 {
        return seccomp_explicit(pod).0;
    }
    let annotations = &pod.metadata["annotations"];
    let of_pod = "seccomp.security.alpha.kubernetes.io/pod".to_owned();
    let prefix = "container.seccomp.security.alpha.kubernetes.io/";
    let keys = containers(pod.spec).map(|container| format!("{prefix}{}", name(container)));
    let fine = |value: &str| {
        matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/")
    };
    let forbidden: BTreeSet<String> = std::iter::once(of_pod)
        .chain(keys)
        .filter_map(|key| {
            let value = annotations[&key].as_str()?;
            (!fine(value)).then(|| format!("{key}={value:?}"))
        })
        .collect();
    if forbidden.is_empty() {
        return None;
    }
    let word = plural(forbidden.len(), "annotation", "annotations");
    let told = forbidden.into_iter().collect::<Vec<_>>().join(", ");
    violation("seccompProfile", format!("forbidden {word} {told}"))
}

/// A profile that is set and not allowed; with the containers that leave it open.
fn seccomp_explicit<'a>(pod: Pod<'a>) -> (Option<Violation>, Vec<&'a str>) {
    let fine = |kind: &str| matches!(kind, "RuntimeDefault" | "Localhost");
    let profile = &pod.spec["securityContext"]["seccompProfile"];
    let pod_sets_good = profile.is_object() && fine(text(&profile["type"]));
    let (mut kinds, mut open) = (BTreeSet::new(), Vec::new());
    let by_pod = profile.is_object() && !pod_sets_good;
    if by_pod {
        kinds.insert(text(&profile["type"]).to_owned());
    }
    let mut explicit = Vec::new();
    for container in containers(pod.spec) {
        let profile = &container["securityContext"]["seccompProfile"];
        let kind = text(&profile["type"]);
        if !profile.is_object() {
            if !pod_sets_good {
                open.push(name(container));
            }
        } else if !fine(kind) {
            kinds.insert(kind.to_owned());
            explicit.push(name(container));
        }
    }
    let found = setters(by_pod, &explicit).and_then(|by| {
        let kinds = all(&kinds);
        let detail = format!("{by} must not set securityContext.seccompProfile.type to {kinds}");
        violation("seccompProfile", detail)
    });
    (found, open)
}

fn seccomp_restricted(pod: Pod<'_>, minor: u32) -> Option<Violation> {
    if minor >= 25 && is_windows(pod) {
        return None;
    }
    let (found, open) = seccomp_explicit(pod);
    if found.is_some() || open.is_empty() {
        return found;
    }
    let open = of_containers(&open);
    violation(
        "seccompProfile",
        format!(
            "pod or {open} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \
             \"Localhost\""
        ),
    )
}

fn sysctls(pod: Pod<'_>, minor: u32) -> Option<Violation> {
    let allowed = |name: &str| match name {
        "kernel.shm_rmid_forced"
        | "net.ipv4.ip_local_port_range"
        | "net.ipv4.tcp_syncookies"
        | "net.ipv4.ping_group_range"
        | "net.ipv4.ip_unprivileged_port_start" => true,
        "net.ipv4.ip_local_reserved_ports" => minor >= 27,
        "net.ipv4.tcp_keepalive_time"
        | "net.ipv4.tcp_fin_timeout"
        | "net.ipv4.tcp_keepalive_intvl"
        | "net.ipv4.tcp_keepalive_probes" => minor >= 29,
        "net.ipv4.tcp_rmem" | "net.ipv4.tcp_wmem" => minor >= 32,
        _ => false,
    };
    let set = items(&pod.spec["securityContext"]["sysctls"]).map(name);
    let forbidden: Vec<&str> = set.filter(|name| !allowed(name)).collect();
    if forbidden.is_empty() { None } else { violation("forbidden sysctls", forbidden.join(", ")) }
}

fn windows_host_process(pod: Pod<'_>, _: u32) -> Option<Violation> {
    let bad = |context: &Value| context["windowsOptions"]["hostProcess"] == true;
    let by_pod = bad(&pod.spec["securityContext"]);
    let by = setters(by_pod, &bad_containers(pod, bad))?;
    let detail = format!("{by} must not set securityContext.windowsOptions.hostProcess=true");
    violation("hostProcess", detail)
}

fn privilege_escalation(pod: Pod<'_>, minor: u32) -> Option<Violation> {
    if minor >= 25 && is_windows(pod) {
        return None;
    }
    let bad = bad_containers(pod, |context| context["allowPrivilegeEscalation"] != false);
    if bad.is_empty() {
        return None;
    }
    let bad = of_containers(&bad);
    violation(
        "allowPrivilegeEscalation != false",
        format!("{bad} must set securityContext.allowPrivilegeEscalation=false"),
    )
}

fn capabilities_restricted(pod: Pod<'_>, minor: u32) -> Option<Violation> {
    if minor >= 25 && is_windows(pod) {
        return None;
    }
    let keeps = bad_containers(pod, |context| {
        !items(&context["capabilities"]["drop"]).any(|capability| capability == "ALL")
    });
    let mut added = BTreeSet::new();
    let adds = bad_containers(pod, |context| {
        let wrong: Vec<&str> = items(&context["capabilities"]["add"])
            .map(text)
            .filter(|capability| *capability != "NET_BIND_SERVICE")
            .collect();
        added.extend(wrong.iter().map(|&capability| capability.to_owned()));
        !wrong.is_empty()
    });
    let mut told = Vec::new();
    if !keeps.is_empty() {
        let keeps = of_containers(&keeps);
        told.push(format!("{keeps} must set securityContext.capabilities.drop=[\"ALL\"]"));
    }
    if !adds.is_empty() {
        let (adds, added) = (of_containers(&adds), all(&added));
        told.push(format!("{adds} must not include {added} in securityContext.capabilities.add"));
    }
    if told.is_empty() { None } else { violation("unrestricted capabilities", told.join("; ")) }
}

fn restricted_volumes(pod: Pod<'_>, _: u32) -> Option<Violation> {
    const ALLOWED: [&str; 9] = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    const KNOWN: [&str; 21] = [
        "hostPath",
        "gcePersistentDisk",
        "awsElasticBlockStore",
        "gitRepo",
        "nfs",
        "iscsi",
        "glusterfs",
        "rbd",
        "flexVolume",
        "cinder",
        "cephfs",
        "flocker",
        "fc",
        "azureFile",
        "vsphereVolume",
        "quobyte",
        "azureDisk",
        "photonPersistentDisk",
        "portworxVolume",
        "scaleIO",
        "storageos",
    ];
    let (mut bad, mut kinds) = (Vec::new(), BTreeSet::new());
    for volume in items(&pod.spec["volumes"]) {
        if !ALLOWED.iter().any(|kind| volume[kind].is_object()) {
            bad.push(name(volume));
            let kind = KNOWN.iter().find(|kind| volume[kind].is_object());
            kinds.insert((*kind.unwrap_or(&"unknown")).to_owned());
        }
    }
    if bad.is_empty() {
        return None;
    }
    let detail = format!(
        "{} {} {} {} {}",
        plural(bad.len(), "volume", "volumes"),
        quoted(bad.iter().copied()),
        plural(bad.len(), "uses", "use"),
        plural(kinds.len(), "restricted volume type", "restricted volume types"),
        all(&kinds)
    );
    violation("restricted volume types", detail)
}

fn run_as_non_root(pod: Pod<'_>, minor: u32) -> Option<Violation> {
    if minor >= 35 && in_user_namespace(pod) {
        return None;
    }
    let of_pod = &pod.spec["securityContext"]["runAsNonRoot"];
    let explicit = bad_containers(pod, |context| context["runAsNonRoot"] == false);
    if let Some(by) = setters(of_pod == false, &explicit) {
        let detail = format!("{by} must not set securityContext.runAsNonRoot=false");
        return violation("runAsNonRoot != true", detail);
    }
    let open = bad_containers(pod, |context| of_pod != true && context["runAsNonRoot"].is_null());
    if open.is_empty() {
        return None;
    }
    let open = of_containers(&open);
    violation(
        "runAsNonRoot != true",
        format!("pod or {open} must set securityContext.runAsNonRoot=true"),
    )
}

fn run_as_user(pod: Pod<'_>, minor: u32) -> Option<Violation> {
    if minor >= 35 && in_user_namespace(pod) {
        return None;
    }
    let root = |context: &Value| context["runAsUser"] == 0;
    let by = setters(root(&pod.spec["securityContext"]), &bad_containers(pod, root))?;
    violation("runAsUser=0", format!("{by} must not set runAsUser=0"))
}

#[cfg(test)]
mod tests;
