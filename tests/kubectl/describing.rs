//! What `kubectl describe` and `kubectl events` make of what is stored.

use crate::tour::{deployment, tour};

#[tokio::test]
async fn objects_are_described_from_all_that_belongs_to_them() {
    tour(|kubectl| {
        let file = kubectl.file("one.yaml", &deployment(1));
        kubectl.run(&["create", "-f", &file]).good();
        kubectl.run(&["expose", "deployment", "web", "--port=80"]).good();
        kubectl.run(&["create", "secret", "generic", "s", "--from-literal=key=value"]).good();
        kubectl.run(&["create", "quota", "q", "--hard=pods=50"]).good();
        kubectl.until(&["describe", "deployment", "web"], |said| {
            said.out.contains("NewReplicaSet:")
                && said.out.contains("web-")
                && said.out.contains("ScalingReplicaSet")
        });
        let pods = kubectl.until(&["get", "pods", "-o", "name"], |said| !said.out.is_empty());
        kubectl.shows(
            &["describe", pods.out.trim()],
            &["Service Account:  default", "ReplicaSet/web-", "kube-api-access-"],
        );
        kubectl.shows(&["describe", "service", "web"], &["app=web"]);
        kubectl.shows(&["describe", "secret", "s"], &["key:  5 bytes"]);
        kubectl.until(&["describe", "quota", "q"], |said| {
            said.rows().iter().any(|row| row.as_slice() == ["pods", "1", "50"])
        });
        let labels = format!("kubernetes.io/metadata.name={}", kubectl.namespace);
        kubectl.shows(&["describe", "namespace", &kubectl.namespace], &[&labels, "Active"]);
        kubectl.until(&["events", "--for", "deployment/web"], |said| {
            said.out.contains("ScalingReplicaSet")
        });
        kubectl.until(&["get", "events", "--field-selector", "reason=SuccessfulCreate"], |said| {
            said.out.contains("Created pod: web-")
        });
        let newer = ["get", "events.v1.events.k8s.io", "-o", "jsonpath={.items[*].regarding.kind}"];
        kubectl.until(&newer, |said| said.out.contains("Deployment"));
    })
    .await;
}
