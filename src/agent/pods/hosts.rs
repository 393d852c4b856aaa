//! The hosts file of a pod. Pure, but for reading the node's own.

use k8s_openapi::api::core::v1::Pod;

use super::view;

/// The node's own file; pods in the node's network see its names.
#[must_use]
pub fn of_node() -> String {
    std::fs::read_to_string("/etc/hosts").unwrap_or_default()
}

#[must_use]
pub fn text(pod: &Pod, addresses: &[String], domain: &str, of_node: &str) -> String {
    let mut text = if view::host_network(pod) {
        format!(
            "# Kubernetes-managed hosts file (host network).\n{}\n",
            of_node.trim_end_matches('\n')
        )
    } else {
        let mut text = String::from(
            "# Kubernetes-managed hosts file.\n\
             127.0.0.1\tlocalhost\n\
             ::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\n\
             fe00::0\tip6-mcastprefix\n\
             fe00::1\tip6-allnodes\n\
             fe00::2\tip6-allrouters\n",
        );
        let own = match view::fqdn(pod, domain) {
            Some(full) => format!("{full}\t{}", view::hostname(pod)),
            None => view::hostname(pod),
        };
        addresses.iter().for_each(|address| text.push_str(&format!("{address}\t{own}\n")));
        text
    };
    let aliases = view::spec(pod).host_aliases.as_deref().unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in aliases {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        text.push_str(&format!("{}\t{names}\n", alias.ip));
    }
    text
}
