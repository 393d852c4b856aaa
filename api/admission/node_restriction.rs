//! NodeRestriction: a node writes itself, its lease and the pods bound to it, and nothing that would draw other
//! pods or rights to it.
//!
//! The Node authorizer has decided by names; here the objects are looked at.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::certificates::subject;
use super::{Attempt, Operation, Plugin};
use crate::auth::node::{LEASES, node_of};
use crate::auth::{Attributes, Authorizer};
use crate::error::Status;
use crate::live::pod::{self, items};
use crate::live::{self};
use crate::object::GroupResource;
use crate::objects::{Object, Objects};

pub(super) struct NodeRestriction {
    objects: Objects,
    authorizer: Arc<dyn Authorizer>,
}

/// Refused in these words, or with another status.
enum No {
    Because(String),
    Status(Status),
}

impl From<Status> for No {
    fn from(status: Status) -> No {
        No::Status(status)
    }
}

type Answer = Result<(), No>;

fn no(why: impl Into<String>) -> Answer {
    Err(No::Because(why.into()))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn validate<'a>(&'a self, attempt: &'a mut Attempt<'_>) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let Some(node) = node_of(attempt.user) else { return Ok(()) };
            if node.is_empty() {
                let user = &attempt.user.name;
                let why = format!("could not determine node from user {user:?}");
                return Err(attempt.forbidden(&why));
            }
            match self.check(node, attempt).await {
                Ok(()) => Ok(()),
                Err(No::Because(why)) => Err(attempt.forbidden(&why)),
                Err(No::Status(status)) => Err(status),
            }
        })
    }
}

impl NodeRestriction {
    pub(super) fn new(objects: Objects, authorizer: Arc<dyn Authorizer>) -> NodeRestriction {
        NodeRestriction { objects, authorizer }
    }

    async fn check(&self, node: &str, attempt: &Attempt<'_>) -> Answer {
        let none = Value::Null;
        let new = attempt.object.as_ref().unwrap_or(&none);
        let old = attempt.old.unwrap_or(&none);
        let create = attempt.is_create();
        match (attempt.kind.group.as_ref(), attempt.kind.resource.as_ref()) {
            ("", "pods") => self.pod(node, attempt, new, old).await,
            ("", "nodes") => own_node(node, attempt, new, old),
            ("", "persistentvolumeclaims") if attempt.subresource == "status" => {
                claim_status(node, new, old)
            }
            ("", "persistentvolumeclaims") => no("may only update PVC status"),
            ("", "serviceaccounts") if create && attempt.subresource == "token" => {
                self.token(node, attempt, new).await
            }
            ("coordination.k8s.io", "leases") => {
                if attempt.namespace != LEASES {
                    return no(format!(
                        "can only access leases in the {LEASES:?} system namespace"
                    ));
                }
                if named(attempt, new) == node {
                    return Ok(());
                }
                no("can only access node lease with the same name as the requesting node")
            }
            ("storage.k8s.io", "csinodes") if named(attempt, new) != node => {
                no("can only access CSINode with the same name as the requesting node")
            }
            ("resource.k8s.io", "resourceslices") => {
                let (object, verb) = match attempt.operation {
                    Operation::Create => (new, "create"),
                    Operation::Delete => (old, "delete"),
                    _ => return Ok(()),
                };
                if object["spec"]["nodeName"] == node {
                    return Ok(());
                }
                no(format!(
                    "can only {verb} ResourceSlice with the same NodeName as the requesting node"
                ))
            }
            ("certificates.k8s.io", "certificatesigningrequests") if create => {
                signing_request(node, new)
            }
            ("certificates.k8s.io", "podcertificaterequests") => {
                self.pod_certificate(node, attempt, new).await
            }
            _ => Ok(()),
        }
    }

    async fn find(
        &self,
        resource: &str,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Object, No> {
        let of = live::stored("", resource, "v1", kind);
        let found = live::find(&self.objects, &of, namespace, name).await?;
        let missing = || Status::not_found(&GroupResource::new("", resource), name);
        Ok(found.ok_or_else(missing)?)
    }

    async fn pod(&self, node: &str, attempt: &Attempt<'_>, new: &Value, old: &Value) -> Answer {
        match (attempt.subresource, attempt.operation) {
            ("", Operation::Create) => {
                mirror_pod(node, new).or_else(no)?;
                let there = self.find("nodes", "Node", "", node).await?;
                let uid = text(&there.value()?["metadata"]["uid"]);
                let told = text(&new["metadata"]["ownerReferences"][0]["uid"]);
                if told == uid {
                    return Ok(());
                }
                no(format!("node {node} UID mismatch: expected {told} got {uid}"))
            }
            ("", Operation::Delete) if old["spec"]["nodeName"] == node => Ok(()),
            ("", Operation::Delete) => {
                no(format!("node {node:?} can only delete pods with spec.nodeName set to itself"))
            }
            ("", operation) => no(format!(
                "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
                operation.name()
            )),
            ("status", Operation::Update) => pod_status(node, new, old).or_else(no),
            ("eviction", Operation::Create) => {
                let name = match attempt.name {
                    "" => text(&new["metadata"]["name"]),
                    name => name,
                };
                let pod = self.find("pods", "Pod", attempt.namespace, name).await?;
                if pod.value()?["spec"]["nodeName"] == node {
                    return Ok(());
                }
                no(format!("node {node} can only evict pods with spec.nodeName set to itself"))
            }
            ("status" | "eviction", operation) => {
                no(format!("unexpected operation {:?}", operation.name()))
            }
            (other, _) => no(format!(
                "unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"
            )),
        }
    }

    async fn token(&self, node: &str, attempt: &Attempt<'_>, request: &Value) -> Answer {
        let to = &request["spec"]["boundObjectRef"];
        let name = text(&to["name"]);
        if to["apiVersion"] != "v1" || to["kind"] != "Pod" || name.is_empty() {
            return no("node requested token not bound to a pod");
        }
        let uid = text(&to["uid"]);
        if uid.is_empty() {
            return no("node requested token with a pod binding without a uid");
        }
        let pod = self.find("pods", "Pod", attempt.namespace, name).await?;
        let pod = pod.value()?;
        if pod["metadata"]["uid"] != uid {
            return no(format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. \
                 The object might have been deleted and then recreated"
            ));
        }
        if pod["spec"]["nodeName"] != node {
            return no("node requested token bound to a pod scheduled on a different node");
        }
        self.audience(attempt, &request["spec"]["audiences"], pod)
    }

    /// A node gets tokens for audiences alone that the pod names, or that it is allowed to by name.
    fn audience(&self, attempt: &Attempt<'_>, audiences: &Value, pod: &Value) -> Answer {
        let asked: Vec<&str> = items(audiences).map(text).collect();
        let audience = match asked.as_slice() {
            [] => "",
            [one] => one,
            _ => return no("node may only request 0 or 1 audiences"),
        };
        if pod_names_audience(pod, audience) || self.driver_names_audience(pod, audience)? {
            return Ok(());
        }
        let allowed = self.authorizer.decide(&Attributes {
            namespace: attempt.namespace,
            version: "v1",
            resource: audience,
            name: attempt.name,
            ..Attributes::of(attempt.user, "request-serviceaccounts-token-audience")
        });
        if allowed.allows() {
            return Ok(());
        }
        no(format!(
            "audience {audience:?} not found in pod spec volume, {} is not authorized to request \
             tokens for this audience",
            attempt.user.name
        ))
    }

    /// Whether a CSI driver of one of the pod's volumes asks for tokens of the audience.
    fn driver_names_audience(&self, pod: &Value, audience: &str) -> Result<bool, No> {
        let namespace = text(&pod["metadata"]["namespace"]);
        let mut drivers: Vec<String> = items(&pod["spec"]["volumes"])
            .filter_map(|volume| volume["csi"]["driver"].as_str().map(str::to_owned))
            .collect();
        let claims = live::stored("", "persistentvolumeclaims", "v1", "PersistentVolumeClaim");
        let volumes = live::stored("", "persistentvolumes", "v1", "PersistentVolume");
        for claim in pod::claim_names(pod) {
            let Some(claim) = self.objects.get(&claims, namespace, &claim)? else { continue };
            let volume = text(&claim.value()?["spec"]["volumeName"]);
            let Some(volume) = self.objects.get(&volumes, "", volume)? else { continue };
            drivers.extend(volume.value()?["spec"]["csi"]["driver"].as_str().map(str::to_owned));
        }
        let of = live::stored("storage.k8s.io", "csidrivers", "v1", "CSIDriver");
        for driver in drivers {
            let Some(driver) = self.objects.get(&of, "", &driver)? else { continue };
            let mut requests = items(&driver.value()?["spec"]["tokenRequests"]);
            if requests.any(|request| text(&request["audience"]) == audience) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn pod_certificate(&self, node: &str, attempt: &Attempt<'_>, request: &Value) -> Answer {
        if !attempt.is_create() {
            return no(format!("unexpected operation {}", attempt.operation.name()));
        }
        if !attempt.subresource.is_empty() {
            return no(format!("unexpected subresource {}", attempt.subresource));
        }
        let spec = &request["spec"];
        let told = text(&spec["nodeName"]);
        if told != node {
            return no(format!(
                "PodCertificateRequest.Spec.NodeName={told:?}, which is not the requesting node \
                 {node:?}"
            ));
        }
        let name = text(&spec["podName"]);
        let account_name = text(&spec["serviceAccountName"]);
        let namespace = attempt.namespace;
        let node_object = self.find("nodes", "Node", "", node).await?;
        let pod = self.find("pods", "Pod", namespace, name).await?;
        let account =
            self.find("serviceaccounts", "ServiceAccount", namespace, account_name).await?;
        let pod = pod.value()?;
        let of = format!("PodCertificateRequest for pod {:?}", format!("{namespace}/{name}"));
        for (field, what, there) in [
            ("nodeUID", "node", node_object.value()?),
            ("podUID", "pod", pod),
            ("serviceAccountUID", "service account", account.value()?),
        ] {
            let (told, uid) = (text(&spec[field]), text(&there["metadata"]["uid"]));
            if told != uid {
                return no(format!(
                    "{of} names {what} UID {told:?}, which differs from the running {what} \
                     ({uid:?})"
                ));
            }
        }
        if pod["spec"]["nodeName"] != node {
            return no(format!(
                "pod \"{namespace}/{name}\" is not running on node {node:?} named in \
                               the PodCertificateRequest"
            ));
        }
        if pod::is_mirror(pod) {
            return no(format!("pod \"{namespace}/{name}\" is a mirror pod"));
        }
        let running = text(&pod["spec"]["serviceAccountName"]);
        if account_name != running {
            return no(format!(
                "{of} contains serviceAccountName ({account_name:?}) that differs from running pod \
                 ({running:?})"
            ));
        }
        Ok(())
    }
}

/// The name of the object: a create has it in the body alone.
fn named<'a>(attempt: &Attempt<'a>, new: &'a Value) -> &'a str {
    if attempt.is_create() { text(&new["metadata"]["name"]) } else { attempt.name }
}

/// The audience of one of the pod's own token volumes.
fn pod_names_audience(pod: &Value, audience: &str) -> bool {
    let sources = items(&pod["spec"]["volumes"]).map(|volume| &volume["projected"]["sources"]);
    sources
        .flat_map(items)
        .map(|source| &source["serviceAccountToken"])
        .any(|token| token.is_object() && text(&token["audience"]) == audience)
}

fn mirror_pod(node: &str, pod: &Value) -> Result<(), String> {
    if !pod::is_mirror(pod) {
        return Err(format!(
            "pod does not have {:?} annotation, node {node:?} can only create mirror pods",
            pod::MIRROR
        ));
    }
    if pod["spec"]["nodeName"] != node {
        return Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let owners: Vec<&Value> = items(&pod["metadata"]["ownerReferences"]).collect();
    let owner = match owners.as_slice() {
        [owner] => owner,
        [] => {
            return Err(format!(
                "node {node:?} can only create pods with an owner reference set to itself"
            ));
        }
        _ => {
            return Err(format!(
                "node {node:?} can only create pods with a single owner reference set to itself"
            ));
        }
    };
    if owner["apiVersion"] != "v1" || owner["kind"] != "Node" || owner["name"] != node {
        return Err(format!(
            "node {node:?} can only create pods with an owner reference set to itself"
        ));
    }
    if owner["controller"] != true {
        return Err(format!(
            "node {node:?} can only create pods with a controller owner reference set to itself"
        ));
    }
    if owner["blockOwnerDeletion"] == true {
        return Err(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
    }
    match names_objects(pod) {
        Some(resource) => {
            Err(format!("node {node:?} can not create pods that reference {resource}"))
        }
        None => Ok(()),
    }
}

/// What of the API a pod would draw to its node.
fn names_objects(pod: &Value) -> Option<&'static str> {
    let spec = &pod["spec"];
    if !text(&spec["serviceAccountName"]).is_empty() {
        return Some("serviceaccounts");
    }
    if !pod::secret_names(pod).is_empty() {
        return Some("secrets");
    }
    if !pod::config_map_names(pod).is_empty() {
        return Some("configmaps");
    }
    if items(&spec["resourceClaims"]).next().is_some() {
        return Some("resourceclaims");
    }
    for volume in items(&spec["volumes"]) {
        let known = [
            ("csi", "csidrivers (via CSI volumes)"),
            ("glusterfs", "endpoints (via glusterFS volumes)"),
            ("persistentVolumeClaim", "persistentvolumeclaims"),
            ("ephemeral", "persistentvolumeclaims (via ephemeral volumes)"),
        ];
        if let Some((_, resource)) = known.iter().find(|(kind, _)| volume[kind].is_object()) {
            return Some(resource);
        }
        for source in items(&volume["projected"]["sources"]) {
            let known = [
                ("serviceAccountToken", "serviceaccounts (via projected volumes)"),
                ("clusterTrustBundle", "clustertrustbundles"),
                ("podCertificate", "podcertificates"),
            ];
            if let Some((_, resource)) = known.iter().find(|(kind, _)| source[kind].is_object()) {
                return Some(resource);
            }
        }
    }
    None
}

fn pod_status(node: &str, new: &Value, old: &Value) -> Result<(), String> {
    if old["spec"]["nodeName"] != node {
        return Err(format!(
            "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
        ));
    }
    if labels(new) != labels(old) {
        return Err(format!("node {node:?} cannot update labels through pod status"));
    }
    let claims = |pod: &Value| -> Vec<(String, String)> {
        items(&pod["status"]["resourceClaimStatuses"])
            .map(|it| (text(&it["name"]).to_owned(), text(&it["resourceClaimName"]).to_owned()))
            .collect()
    };
    if claims(new) != claims(old) {
        return Err(format!("node {node:?} cannot update resource claim statues"));
    }
    let extended = "extendedResourceClaimStatus";
    if new["status"][extended] != old["status"][extended] {
        return Err(format!("node {node:?} cannot update extended resource claim status"));
    }
    Ok(())
}

fn labels(object: &Value) -> std::collections::BTreeMap<&str, &str> {
    let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
    labels.map(|(key, value)| (key.as_str(), text(value))).collect()
}

fn own_node(node: &str, attempt: &Attempt<'_>, new: &Value, old: &Value) -> Answer {
    let name = match attempt.operation {
        Operation::Create if attempt.name.is_empty() => text(&new["metadata"]["name"]),
        _ => attempt.name,
    };
    if name != node {
        return no(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    node_change(node, attempt.operation, new, old).or_else(no)
}

fn node_change(node: &str, operation: Operation, new: &Value, old: &Value) -> Result<(), String> {
    let source = &new["spec"]["configSource"];
    match operation {
        Operation::Create => {
            if !source.is_null() {
                return Err(format!(
                    "node {node:?} is not allowed to create pods with a non-nil configSource"
                ));
            }
            let forbidden = forbidden_labels(new, old);
            if !forbidden.is_empty() {
                let forbidden = forbidden.join(", ");
                return Err(format!(
                    "node {node:?} is not allowed to set the following labels: {forbidden}"
                ));
            }
        }
        Operation::Update => {
            if !source.is_null() && *source != old["spec"]["configSource"] {
                return Err(format!(
                    "node {node:?} is not allowed to update configSource to a new non-nil \
                     configSource"
                ));
            }
            let list = |value: &Value| items(value).cloned().collect::<Vec<_>>();
            if list(&new["spec"]["taints"]) != list(&old["spec"]["taints"]) {
                return Err(format!("node {node:?} is not allowed to modify taints"));
            }
            let owners = |object: &Value| list(&object["metadata"]["ownerReferences"]);
            if owners(new) != owners(old) {
                return Err(format!("node {node:?} is not allowed to modify ownerReferences"));
            }
            let forbidden = forbidden_labels(new, old);
            if !forbidden.is_empty() {
                return Err(format!("is not allowed to modify labels: {}", forbidden.join(", ")));
            }
        }
        _ => {}
    }
    Ok(())
}

/// Labels that changed and are not the node's to set, sorted.
fn forbidden_labels(new: &Value, old: &Value) -> Vec<String> {
    let (new, old) = (labels(new), labels(old));
    let keys: std::collections::BTreeSet<&str> = new.keys().chain(old.keys()).copied().collect();
    let changed = keys.into_iter().filter(|key| new.get(key) != old.get(key));
    changed.filter(|key| !is_the_nodes(key)).map(str::to_owned).collect()
}

fn is_the_nodes(label: &str) -> bool {
    const OWN: [&str; 11] = [
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
        "kubernetes.io/os",
        "kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch",
    ];
    let namespace = label.split_once('/').map_or("", |(namespace, _)| namespace);
    let below = |domain: &str| {
        namespace.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    if below("node-restriction.kubernetes.io") {
        return false;
    }
    let of_kubernetes = below("kubernetes.io") || below("k8s.io");
    !of_kubernetes
        || OWN.contains(&label)
        || below("kubelet.kubernetes.io")
        || below("node.kubernetes.io")
}

fn claim_status(node: &str, new: &Value, old: &Value) -> Answer {
    let without = |claim: &Value| {
        let mut claim = claim.clone();
        for field in ["resourceVersion", "managedFields"] {
            if let Some(metadata) = claim["metadata"].as_object_mut() {
                metadata.remove(field);
            }
        }
        for field in ["capacity", "conditions", "allocatedResourceStatuses", "allocatedResources"] {
            if let Some(status) = claim["status"].as_object_mut() {
                status.remove(field);
            }
        }
        if claim["status"] == json!({}) {
            claim["status"] = Value::Null;
        }
        claim
    };
    if without(new) == without(old) {
        return Ok(());
    }
    no(format!(
        "node {node:?} is not allowed to update fields other than status.quantity and \
         status.conditions"
    ))
}

fn signing_request(node: &str, request: &Value) -> Answer {
    let ours = ["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];
    if !ours.contains(&text(&request["spec"]["signerName"])) {
        return Ok(());
    }
    let subject =
        subject(request).map_err(|error| No::Because(format!("unable to parse csr: {error}")))?;
    if subject.common_name == format!("system:node:{node}") {
        return Ok(());
    }
    no(format!("can only create a node CSR with CN=system:node:{node}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_labels_are_the_nodes_own_and_some_never() {
        for (label, own) in [
            ("kubernetes.io/hostname", true),
            ("node.kubernetes.io/anything", true),
            ("sub.kubelet.kubernetes.io/x", true),
            ("example.com/x", true),
            ("plain", true),
            ("node-restriction.kubernetes.io/x", false),
            ("a.node-restriction.kubernetes.io/x", false),
            ("node-role.kubernetes.io/control-plane", false),
            ("k8s.io/x", false),
            ("notk8s.io/x", true),
        ] {
            assert_eq!(is_the_nodes(label), own, "{label}");
        }
    }

    #[test]
    fn a_node_may_not_lift_its_taints_or_take_roles() {
        let node = |labels: Value, taints: Value| {
            let metadata = json!({ "labels": labels });
            json!({"metadata": metadata, "spec": {"taints": taints}})
        };
        let old = node(json!({}), json!([{"key": "a"}]));
        let check = |new: &Value| node_change("n1", Operation::Update, new, &old);
        assert_eq!(check(&old), Ok(()));
        assert_eq!(
            check(&node(json!({}), json!([]))),
            Err("node \"n1\" is not allowed to modify taints".to_owned())
        );
        let role = node(json!({"node-role.kubernetes.io/x": ""}), json!([{"key": "a"}]));
        assert_eq!(
            check(&role),
            Err("is not allowed to modify labels: node-role.kubernetes.io/x".to_owned())
        );
        assert_eq!(
            node_change("n1", Operation::Create, &role, &Value::Null),
            Err(
                "node \"n1\" is not allowed to set the following labels: node-role.kubernetes.io/x"
                    .to_owned()
            )
        );
    }

    #[test]
    fn a_mirror_pod_is_the_nodes_and_names_nothing() {
        let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "n1", "controller": true});
        let pod = json!({
            "metadata": {"annotations": {(pod::MIRROR): "x"}, "ownerReferences": [owner]},
            "spec": {"nodeName": "n1", "volumes": [{"name": "v", "hostPath": {}}]},
        });
        assert_eq!(mirror_pod("n1", &pod), Ok(()));
        assert!(mirror_pod("n2", &pod).is_err());
        let mut claims = pod.clone();
        claims["spec"]["volumes"] = json!([{"persistentVolumeClaim": {"claimName": "c"}}]);
        assert_eq!(
            mirror_pod("n1", &claims),
            Err("node \"n1\" can not create pods that reference persistentvolumeclaims".to_owned())
        );
    }

    #[test]
    fn a_pods_status_is_written_by_its_node_alone() {
        let old = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"nodeName": "n1"}});
        let mut new = old.clone();
        new["status"] = json!({"phase": "Running"});
        assert_eq!(pod_status("n1", &new, &old), Ok(()));
        assert!(pod_status("n2", &new, &old).is_err());
        new["metadata"]["labels"]["a"] = "c".into();
        assert_eq!(
            pod_status("n1", &new, &old),
            Err("node \"n1\" cannot update labels through pod status".to_owned())
        );
    }
}
