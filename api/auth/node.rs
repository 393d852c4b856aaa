//! The Node authorizer: a node may touch what its pods need, its own objects, and little else.
//!
//! Keeps: secrets, config maps, claims, volumes, tokens and resource claims only over a pod that is bound to
//! the node. What a node may not write of its own objects is refused by `admission::node_restriction`.
//! Decisions are pure over the live graph.

use std::sync::{Arc, OnceLock};

use crate::auth::rbac::{allows, policy};
use crate::auth::{Attributes, Authorizer, Decision};
use crate::live::Live;
use crate::live::nodes::{Item, NodeGraph};
use crate::live::rbac::Rule;
use crate::request::User;

pub const GROUP_NODES: &str = "system:nodes";
const USER_PREFIX: &str = "system:node:";
pub const LEASES: &str = "kube-node-lease";

/// The node that a user is. `Some("")`: one of the nodes, but which?
#[must_use]
pub fn node_of(user: &User) -> Option<&str> {
    if !user.groups.iter().any(|group| group == GROUP_NODES) {
        return None;
    }
    user.name.strip_prefix(USER_PREFIX)
}

/// Decides for nodes alone.
pub struct NodeAuthorizer {
    live: Arc<Live>,
}

impl NodeAuthorizer {
    #[must_use]
    pub fn new(live: Arc<Live>) -> NodeAuthorizer {
        NodeAuthorizer { live }
    }
}

impl Authorizer for NodeAuthorizer {
    fn decide(&self, attributes: &Attributes<'_>) -> Decision {
        decide(&self.live.nodes, attributes)
    }
}

/// Rules that hold for every node alike: the ClusterRole `system:node`.
fn uniform() -> &'static [Rule] {
    static RULES: OnceLock<Vec<Rule>> = OnceLock::new();
    RULES.get_or_init(|| policy::rules_of_cluster_role("system:node"))
}

/// Ok: allowed. The error is why there is no opinion; mostly it becomes part of a message to the node.
type Answer = Result<(), String>;

#[must_use]
pub fn decide(graph: &NodeGraph, asked: &Attributes<'_>) -> Decision {
    let Some(node) = node_of(asked.user) else { return Decision::NoOpinion(String::new()) };
    if node.is_empty() {
        return Decision::NoOpinion(format!("unknown node for user {:?}", asked.user.name));
    }
    match answer(graph, node, asked) {
        Ok(()) => Decision::Allow(String::new()),
        Err(reason) => Decision::NoOpinion(reason),
    }
}

fn answer(graph: &NodeGraph, node: &str, asked: &Attributes<'_>) -> Answer {
    if asked.is_resource() {
        match (asked.group, asked.resource) {
            ("", "secrets") => return read(graph, node, Item::Secret, asked),
            ("", "configmaps") => return read(graph, node, Item::ConfigMap, asked),
            ("", "persistentvolumeclaims") if asked.subresource == "status" => {
                return match asked.verb {
                    "update" | "patch" => related(graph, node, Item::Claim, asked),
                    _ => no("can only get/update/patch this type"),
                };
            }
            ("", "persistentvolumeclaims") => return get(graph, node, Item::Claim, asked),
            ("", "persistentvolumes") => return get(graph, node, Item::Volume, asked),
            ("resource.k8s.io", "resourceclaims") => {
                return get(graph, node, Item::ResourceClaim, asked);
            }
            ("storage.k8s.io", "volumeattachments") => {
                return get(graph, node, Item::Attachment, asked);
            }
            ("", "serviceaccounts") => return service_account(graph, node, asked),
            ("coordination.k8s.io", "leases") => return lease(node, asked),
            ("storage.k8s.io", "csinodes") => return csi_node(node, asked),
            ("resource.k8s.io", "resourceslices") => return resource_slice(graph, node, asked),
            ("", "nodes") => return own_node(node, asked),
            ("", "pods") => return pod(graph, node, asked),
            ("certificates.k8s.io", "podcertificaterequests") => {
                return certificate_request(graph, node, asked);
            }
            _ => {}
        }
    }
    if uniform().iter().any(|rule| allows(rule, asked)) { Ok(()) } else { no("") }
}

fn no(reason: &str) -> Answer {
    Err(reason.to_owned())
}

/// The request is narrowed to this node by a field selector.
fn selects(asked: &Attributes<'_>, node: &str) -> bool {
    asked.field_selector.iter().any(|(field, value)| field == "spec.nodeName" && value == node)
}

fn related(graph: &NodeGraph, node: &str, item: Item, asked: &Attributes<'_>) -> Answer {
    if asked.name.is_empty() {
        return no("No Object name found");
    }
    if graph.relates(node, item, asked.namespace, asked.name) {
        return Ok(());
    }
    Err(format!("no relationship found between node '{node}' and this object"))
}

fn get(graph: &NodeGraph, node: &str, item: Item, asked: &Attributes<'_>) -> Answer {
    if asked.verb != "get" {
        return no("can only get individual resources of this type");
    }
    if !asked.subresource.is_empty() {
        return no("cannot get subresource");
    }
    related(graph, node, item, asked)
}

fn read(graph: &NodeGraph, node: &str, item: Item, asked: &Attributes<'_>) -> Answer {
    if !matches!(asked.verb, "get" | "list" | "watch") {
        return no("can only read resources of this type");
    }
    if !asked.subresource.is_empty() {
        return no("cannot read subresource");
    }
    if asked.namespace.is_empty() {
        return no("can only read namespaced object of this type");
    }
    related(graph, node, item, asked)
}

fn service_account(graph: &NodeGraph, node: &str, asked: &Attributes<'_>) -> Answer {
    if asked.verb == "get" && asked.subresource.is_empty() {
        return read(graph, node, Item::ServiceAccount, asked);
    }
    if asked.verb != "create" || asked.name.is_empty() {
        return no("can only create tokens for individual service accounts");
    }
    if asked.subresource != "token" {
        return no("can only create token subresource of serviceaccount");
    }
    related(graph, node, Item::ServiceAccount, asked)
}

fn lease(node: &str, asked: &Attributes<'_>) -> Answer {
    if !matches!(asked.verb, "get" | "create" | "update" | "patch" | "delete") {
        return no("can only get, create, update, patch, or delete a node lease");
    }
    if asked.namespace != LEASES {
        return Err(format!("can only access leases in the {LEASES:?} system namespace"));
    }
    // The name of a new lease is in its body: node_restriction looks at it.
    if asked.verb != "create" && asked.name != node {
        return no("can only access node lease with the same name as the requesting node");
    }
    Ok(())
}

fn csi_node(node: &str, asked: &Attributes<'_>) -> Answer {
    if !matches!(asked.verb, "get" | "create" | "update" | "patch" | "delete") {
        return no("can only get, create, update, patch, or delete a CSINode");
    }
    if !asked.subresource.is_empty() {
        return no("cannot authorize CSINode subresources");
    }
    if asked.verb != "create" && asked.name != node {
        return no("can only access CSINode with the same name as the requesting node");
    }
    Ok(())
}

fn resource_slice(graph: &NodeGraph, node: &str, asked: &Attributes<'_>) -> Answer {
    if !asked.subresource.is_empty() {
        return no("cannot authorize ResourceSlice subresources");
    }
    match asked.verb {
        "create" => Ok(()),
        "get" | "update" | "patch" | "delete" => related(graph, node, Item::ResourceSlice, asked),
        "watch" | "list" | "deletecollection" if selects(asked, node) => Ok(()),
        "watch" | "list" | "deletecollection" => {
            no("can only list/watch/deletecollection resourceslices with nodeName field selector")
        }
        _ => no("only the following verbs are allowed for a ResourceSlice: get, watch, list, \
                 create, update, patch, delete, deletecollection"),
    }
}

fn certificate_request(graph: &NodeGraph, node: &str, asked: &Attributes<'_>) -> Answer {
    if !asked.subresource.is_empty() {
        return no("nodes may not access the status subresource of PodCertificateRequests");
    }
    match asked.verb {
        "create" => Ok(()),
        "get" => related(graph, node, Item::CertificateRequest, asked),
        "list" | "watch" if selects(asked, node) => Ok(()),
        "list" | "watch" => {
            no("can only list/watch podcertificaterequests with nodeName field selector")
        }
        verb => Err(format!("nodes may not {verb} podcertificaterequests")),
    }
}

fn own_node(node: &str, asked: &Attributes<'_>) -> Answer {
    match (asked.subresource, asked.verb) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(()),
        ("", "get" | "list" | "watch") if asked.name == node => Ok(()),
        ("", "get" | "list" | "watch") if asked.name.is_empty() => {
            Err(format!("node '{node}' cannot read all nodes, only its own Node object"))
        }
        ("", "get" | "list" | "watch") => {
            Err(format!("node '{node}' cannot read '{}', only its own Node object", asked.name))
        }
        _ => no(""),
    }
}

fn pod(graph: &NodeGraph, node: &str, asked: &Attributes<'_>) -> Answer {
    match (asked.subresource, asked.verb) {
        ("", "get") => get(graph, node, Item::Pod, asked),
        ("", "list" | "watch") if selects(asked, node) => Ok(()),
        ("", "list" | "watch") if !asked.name.is_empty() => related(graph, node, Item::Pod, asked),
        ("", "list" | "watch") => no("can only list/watch pods with spec.nodeName field selector"),
        ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => {
            Ok(())
        }
        _ => no(""),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn graph() -> NodeGraph {
        let graph = NodeGraph::default();
        graph.pod_is(&json!({
            "metadata": {"namespace": "ns", "name": "p"},
            "spec": {"nodeName": "n1", "serviceAccountName": "bot",
                     "imagePullSecrets": [{"name": "s"}]},
        }));
        graph
    }

    /// `node verb resource[.group][/sub] namespace name [selected node]`, `-` for none.
    fn check(asked: &str) -> Result<(), String> {
        let words: Vec<&str> = asked.split(' ').map(|it| if it == "-" { "" } else { it }).collect();
        let user = User {
            name: format!("system:node:{}", words[0]),
            groups: vec![GROUP_NODES.into()],
            ..User::default()
        };
        let (resource, subresource) = words[2].split_once('/').unwrap_or((words[2], ""));
        let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
        let selected: Vec<(String, String)> = words
            .get(5)
            .map(|node| ("spec.nodeName".to_owned(), (*node).to_owned()))
            .into_iter()
            .collect();
        let attributes = Attributes {
            group,
            resource,
            subresource,
            namespace: words[3],
            name: words[4],
            field_selector: &selected,
            ..Attributes::of(&user, words[1])
        };
        match decide(&graph(), &attributes) {
            Decision::Allow(_) => Ok(()),
            Decision::NoOpinion(reason) | Decision::Deny(reason) => Err(reason),
        }
    }

    #[test]
    fn a_node_may_what_its_pods_need() {
        for asked in [
            "n1 get secrets ns s",
            "n1 watch secrets ns s",
            "n1 create serviceaccounts/token ns bot",
            "n1 get serviceaccounts ns bot",
            "n1 list pods - - n1",
            "n1 get pods ns p",
            "n1 update pods/status ns p",
            "n1 get nodes - n1",
            "n1 patch nodes/status - n1",
            "n1 update leases.coordination.k8s.io kube-node-lease n1",
            "n1 create leases.coordination.k8s.io kube-node-lease -",
            "n1 list services - -",
            "n1 list resourceslices.resource.k8s.io - - n1",
            "n1 create certificatesigningrequests.certificates.k8s.io - -",
        ] {
            assert_eq!(check(asked), Ok(()), "{asked}");
        }
    }

    #[test]
    fn a_node_may_nothing_of_others() {
        let unrelated = "no relationship found between node 'n2' and this object";
        for (asked, reason) in [
            ("n2 get secrets ns s", unrelated),
            ("n1 list secrets ns -", "No Object name found"),
            ("n1 list secrets - -", "can only read namespaced object of this type"),
            ("n1 update secrets ns s", "can only read resources of this type"),
            ("n2 create serviceaccounts/token ns bot", unrelated),
            (
                "n1 create serviceaccounts ns -",
                "can only create tokens for individual service accounts",
            ),
            ("n1 list pods - -", "can only list/watch pods with spec.nodeName field selector"),
            ("n1 list pods - - n2", "can only list/watch pods with spec.nodeName field selector"),
            ("n1 get nodes - n2", "node 'n1' cannot read 'n2', only its own Node object"),
            ("n1 list nodes - -", "node 'n1' cannot read all nodes, only its own Node object"),
            ("n1 delete nodes - n1", ""),
            (
                "n1 update leases.coordination.k8s.io kube-node-lease n2",
                "can only access node lease with the same name as the requesting node",
            ),
            (
                "n1 get leases.coordination.k8s.io default n1",
                "can only access leases in the \"kube-node-lease\" system namespace",
            ),
            ("- get secrets ns s", "unknown node for user \"system:node:\""),
            ("n1 list deployments.apps - -", ""),
        ] {
            assert_eq!(check(asked), Err(reason.to_owned()), "{asked}");
        }
    }

    #[test]
    fn whoever_is_no_node_gets_no_opinion() {
        let user = User { name: "system:node:n1".into(), ..User::default() };
        let decision = decide(&graph(), &Attributes::of(&user, "get"));
        assert_eq!(decision, Decision::NoOpinion(String::new()));
    }
}
