//! The tables over a store that changes.

use serde_json::json;

use super::*;
use crate::bed::{Bed, until};

const RBAC: &str = "rbac.authorization.k8s.io";

#[tokio::test]
async fn tables_have_what_was_there_and_follow_what_comes() {
    let bed = Bed::of(1).await;
    let namespace =
        |name: &str| json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name}});
    bed.put("", "namespaces", &namespace("before")).await;
    let live = Arc::new(Live::default());
    let running = tokio::spawn({
        let (live, objects) = (live.clone(), bed.objects());
        async move { live.run(&objects).await }
    });
    live.ready().await;
    assert!(live.namespaces.get("", "before").is_some());
    bed.put("", "namespaces", &namespace("after")).await;
    until("the namespace", || live.namespaces.get("", "after").is_some()).await;
    bed.delete("", "namespaces", "", "before").await;
    until("the deletion", || live.namespaces.get("", "before").is_none()).await;

    let role = json!({"kind": "ClusterRole", "apiVersion": "v1", "metadata": {"name": "r"},
        "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]});
    let reader = json!({"kind": "ClusterRole", "name": "r"});
    let binding = json!({"kind": "ClusterRoleBinding", "apiVersion": "v1",
        "metadata": {"name": "b"}, "roleRef": reader, "subjects": [{"kind": "User", "name": "u"}]});
    bed.put(RBAC, "clusterroles", &role).await;
    bed.put(RBAC, "clusterrolebindings", &binding).await;
    let user = crate::request::User { name: "u".into(), ..Default::default() };
    until("the rule", || !live.rbac().rules_for(&user, "").0.is_empty()).await;
    bed.delete(RBAC, "clusterrolebindings", "", "b").await;
    until("no rule", || live.rbac().rules_for(&user, "").0.is_empty()).await;

    let pod = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"namespace": "n", "name": "p"},
        "spec": {"nodeName": "n1", "imagePullSecrets": [{"name": "s"}]}});
    bed.put("", "pods", &pod).await;
    until("the relation", || live.nodes.relates("n1", Item::Secret, "n", "s")).await;
    bed.delete("", "pods", "n", "p").await;
    until("no relation", || !live.nodes.relates("n1", Item::Secret, "n", "s")).await;
    running.abort();
}
