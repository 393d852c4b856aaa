//! Namespaces, priority classes, and the few objects that tell clients about the cluster.

use serde_json::{Value, json};

use super::reconcile::Rule;
use super::{Config, Wanted};

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

pub(super) fn namespaces() -> Vec<Wanted> {
    let namespace = |name: &&str| {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        Wanted::new("", "v1", "namespaces", Rule::Once, object)
    };
    NAMESPACES.iter().map(namespace).collect()
}

pub(super) fn priority_classes() -> Vec<Wanted> {
    let class = |name: &str, value: u32, description: &str| {
        let object = json!({
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": name},
            "value": value,
            "description": description,
        });
        Wanted::new("scheduling.k8s.io", "v1", "priorityclasses", Rule::Once, object)
    };
    vec![
        class(
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
        class(
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to \
             another node if necessary.",
        ),
    ]
}

/// What depends on how this cluster was set up.
pub(super) fn of(config: &Config) -> Vec<Wanted> {
    vec![service_cidr(config), authentication(config), cluster_info(config)]
}

fn service_cidr(config: &Config) -> Wanted {
    let cidrs: Vec<String> =
        config.service_cidrs.iter().map(|cidr| cidr.trunc().to_string()).collect();
    let object = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": cidrs},
    });
    Wanted::new("networking.k8s.io", "v1", "servicecidrs", Rule::Once, object)
}

fn config_map(namespace: &str, name: &str, data: Value) -> Wanted {
    let object = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"namespace": namespace, "name": name},
        "data": data,
    });
    Wanted::new("", "v1", "configmaps", Rule::Fields, object)
}

/// How extension servers know clients, and this server when it asks for one.
fn authentication(config: &Config) -> Wanted {
    let list = |item: &str| json!([item]).to_string();
    let data = json!({
        "client-ca-file": config.client_ca,
        "requestheader-client-ca-file": config.front_proxy_ca,
        "requestheader-allowed-names": list("front-proxy-client"),
        "requestheader-username-headers": list("X-Remote-User"),
        "requestheader-uid-headers": list("X-Remote-Uid"),
        "requestheader-group-headers": list("X-Remote-Group"),
        "requestheader-extra-headers-prefix": list("X-Remote-Extra-"),
    });
    config_map("kube-system", "extension-apiserver-authentication", data)
}

/// Where the cluster is, for those who have a token and nothing else yet.
fn cluster_info(config: &Config) -> Wanted {
    use base64::Engine;
    let authority = base64::engine::general_purpose::STANDARD.encode(&config.server_ca);
    let cluster = json!({"certificate-authority-data": authority, "server": config.server});
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "preferences": {},
        "current-context": "",
        "clusters": [{"name": "", "cluster": cluster}],
        "contexts": null,
        "users": null,
    });
    config_map("kube-public", "cluster-info", json!({"kubeconfig": kubeconfig.to_string()}))
}
