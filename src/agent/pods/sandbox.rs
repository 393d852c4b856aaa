//! A pod's sandbox as the runtime is asked for it. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Pod, SeccompProfile};

use super::view;
use crate::agent::Settings;
use crate::agent::cri::v1::{
    DnsConfig, Int64Value, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode,
    NamespaceOption, PodSandboxConfig, PodSandboxMetadata, PortMapping, Protocol, SecurityProfile,
    security_profile::ProfileType,
};

/// As the C library reads it.
const SEARCHES_MAX: usize = 32;
const SERVERS_MAX: usize = 3;

/// Where the pod's logs are.
#[must_use]
pub fn log_directory(logs: &Path, pod: &Pod) -> PathBuf {
    logs.join(format!("{}_{}_{}", view::namespace(pod), view::name(pod), view::uid(pod)))
}

/// Below which control group the pod's containers are. Relative to the hierarchy's root.
#[must_use]
pub fn control_group(pod: &Pod) -> String {
    let uid = view::uid(pod);
    match view::quality(pod) {
        "Guaranteed" => format!("/kubepods/pod{uid}"),
        quality => format!("/kubepods/{}/pod{uid}", quality.to_ascii_lowercase()),
    }
}

#[must_use]
pub fn config(pod: &Pod, attempt: u32, settings: &Settings, host: &Resolver) -> PodSandboxConfig {
    let spec = view::spec(pod);
    let security = view::security(pod);
    let number = |value: Option<i64>| value.map(|value| Int64Value { value });
    let privileged = view::all_containers(pod)
        .any(|it| it.security_context.as_ref().and_then(|it| it.privileged) == Some(true));
    let mut groups = security.supplemental_groups.clone().unwrap_or_default();
    groups.extend(security.fs_group);
    let sysctls = security.sysctls.iter().flatten();
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: view::name(pod).into(),
            namespace: view::namespace(pod).into(),
            uid: view::uid(pod).into(),
            attempt,
        }),
        // In the node's network the node's name stays.
        hostname: if view::host_network(pod) {
            String::new()
        } else if spec.set_hostname_as_fqdn == Some(true) {
            view::fqdn(pod, &settings.domain).unwrap_or_else(|| view::hostname(pod))
        } else {
            view::hostname(pod)
        },
        log_directory: log_directory(&settings.directories.logs, pod).to_string_lossy().into(),
        dns_config: Some(names(pod, &settings.dns, &settings.domain, host)),
        port_mappings: ports(pod),
        labels: labels(pod),
        annotations: pod.metadata.annotations.clone().unwrap_or_default(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: control_group(pod),
            sysctls: sysctls.map(|it| (it.name.clone(), it.value.clone())).collect(),
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(pod)),
                run_as_user: number(security.run_as_user),
                run_as_group: number(
                    security.run_as_group.filter(|_| security.run_as_user.is_some()),
                ),
                supplemental_groups: groups,
                privileged,
                seccomp: Some(seccomp(security.seccomp_profile.as_ref())),
                ..LinuxSandboxSecurityContext::default()
            }),
        }),
    }
}

/// The pod's own labels, and those it is found by.
fn labels(pod: &Pod) -> BTreeMap<String, String> {
    let mut labels = pod.metadata.labels.clone().unwrap_or_default();
    labels.insert(view::POD_NAME.into(), view::name(pod).into());
    labels.insert(view::POD_NAMESPACE.into(), view::namespace(pod).into());
    labels.insert(view::POD_UID.into(), view::uid(pod).into());
    labels
}

#[must_use]
pub fn namespaces(pod: &Pod) -> NamespaceOption {
    let spec = view::spec(pod);
    let node = |yes: Option<bool>, otherwise| match yes {
        Some(true) => NamespaceMode::Node,
        _ => otherwise,
    };
    let processes = if spec.share_process_namespace == Some(true) {
        NamespaceMode::Pod
    } else {
        NamespaceMode::Container
    };
    NamespaceOption {
        network: node(spec.host_network, NamespaceMode::Pod).into(),
        pid: node(spec.host_pid, processes).into(),
        ipc: node(spec.host_ipc, NamespaceMode::Pod).into(),
        target_id: String::new(),
    }
}

/// What is not said is unconfined, as upstream has it without `SeccompDefault`.
#[must_use]
pub fn seccomp(profile: Option<&SeccompProfile>) -> SecurityProfile {
    let (kind, file) = match profile {
        Some(it) if it.type_ == "RuntimeDefault" => (ProfileType::RuntimeDefault, ""),
        Some(it) if it.type_ == "Localhost" => {
            (ProfileType::Localhost, it.localhost_profile.as_deref().unwrap_or_default())
        }
        _ => (ProfileType::Unconfined, ""),
    };
    SecurityProfile { profile_type: kind.into(), localhost_ref: file.into() }
}

fn ports(pod: &Pod) -> Vec<PortMapping> {
    if view::host_network(pod) {
        return Vec::new();
    }
    let declared = view::all_containers(pod).flat_map(|it| it.ports.iter().flatten());
    declared
        .filter(|port| port.host_port.is_some_and(|port| port > 0))
        .map(|port| PortMapping {
            protocol: match port.protocol.as_deref() {
                Some("UDP") => Protocol::Udp,
                Some("SCTP") => Protocol::Sctp,
                _ => Protocol::Tcp,
            }
            .into(),
            container_port: port.container_port,
            host_port: port.host_port.unwrap_or_default(),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        })
        .collect()
}

/// Whom the node asks for names (`resolv.conf`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

impl Resolver {
    #[must_use]
    pub fn parse(text: &str) -> Resolver {
        let mut found = Resolver::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let rest = |words: std::str::SplitWhitespace<'_>| words.map(str::to_owned).collect();
            match words.next() {
                Some("nameserver") => found.servers.extend(words.next().map(str::to_owned)),
                Some("search") => found.searches = rest(words),
                Some("options") => found.options = rest(words),
                _ => {}
            }
        }
        found
    }
}

fn names(pod: &Pod, dns: &[IpAddr], domain: &str, host: &Resolver) -> DnsConfig {
    let spec = view::spec(pod);
    let in_cluster = match spec.dns_policy.as_deref() {
        Some("None" | "Default") => false,
        Some("ClusterFirstWithHostNet") => true,
        _ => !view::host_network(pod),
    };
    let mut found = match spec.dns_policy.as_deref() {
        Some("None") => Resolver::default(),
        _ if in_cluster && !dns.is_empty() => {
            let mut searches = vec![
                format!("{}.svc.{domain}", view::namespace(pod)),
                format!("svc.{domain}"),
                domain.to_owned(),
            ];
            searches.extend(host.searches.iter().cloned());
            Resolver {
                servers: dns.iter().map(ToString::to_string).collect(),
                searches,
                options: vec!["ndots:5".into()],
            }
        }
        _ => host.clone(),
    };
    if let Some(more) = &spec.dns_config {
        let new = |into: &mut Vec<String>, from: &Option<Vec<String>>| {
            for it in from.iter().flatten() {
                if !into.contains(it) {
                    into.push(it.clone());
                }
            }
        };
        new(&mut found.servers, &more.nameservers);
        new(&mut found.searches, &more.searches);
        for option in more.options.iter().flatten() {
            let Some(name) = option.name.as_deref() else { continue };
            let is_it = |it: &String| it.split(':').next() == Some(name);
            found.options.retain(|it| !is_it(it));
            found.options.push(match option.value.as_deref() {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name.to_owned(),
            });
        }
    }
    found.servers.truncate(SERVERS_MAX);
    found.searches.truncate(SEARCHES_MAX);
    DnsConfig { servers: found.servers, searches: found.searches, options: found.options }
}
