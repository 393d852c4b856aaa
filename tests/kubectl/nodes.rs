//! Nodes that only the API knows, and what waits for an agent.

use crate::tour::tour;

#[tokio::test]
async fn a_node_is_cordoned_tainted_and_drained() {
    tour(|kubectl| {
        let node = format!("node-{}", kubectl.minor);
        let object = serde_json::json!({"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": node}});
        kubectl.feed(&["create", "-f", "-"], &object.to_string()).good();
        let cordoned = format!("node/{node} cordoned");
        kubectl.says(&["cordon", &node], &cordoned);
        kubectl.shows(&["cordon", &node], &["already cordoned"]);
        kubectl.shows(&["get", "node", &node], &["SchedulingDisabled"]);
        kubectl.says(&["taint", "node", &node, "a=b:NoSchedule"], &format!("node/{node} tainted"));
        kubectl.fails(&["taint", "node", &node, "a=c:NoSchedule"], &["already has"]);
        kubectl.says(&["taint", "node", &node, "a-"], &format!("node/{node} untainted"));
        kubectl.shows(&["describe", "node", &node], &["Unschedulable:", "true"]);
        let pod = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "c", "image": "i"}]}});
        kubectl.feed(&["create", "-f", "-"], &pod.to_string()).good();
        kubectl.shows(
            &["drain", &node, "--force", "--ignore-daemonsets", "--timeout=30s"],
            &["pod/p evicted", "drained"],
        );
        kubectl.says(&["uncordon", &node], &format!("node/{node} uncordoned"));
        kubectl.run(&["delete", "node", &node]).good();
    })
    .await;
}

#[tokio::test]
async fn what_needs_a_running_pod_says_why_it_cannot() {
    tour(|kubectl| {
        kubectl.run(&["run", "p", "--image=busybox"]).good();
        kubectl.fails(&["logs", "p"], &["pod p does not have a host assigned"]);
        kubectl.fails(&["exec", "p", "--", "ls"], &["pod p does not have a host assigned"]);
        kubectl.fails(&["port-forward", "p", ":80"], &["pod is not running"]);
        kubectl.fails(&["top", "pods"], &["Metrics API not available"]);
        kubectl.fails(&["top", "nodes"], &["Metrics API not available"]);
        let debug = ["debug", "p", "--image=busybox", "--profile=general", "-c", "d"];
        kubectl.run(&debug).good();
        let path = "jsonpath={.spec.ephemeralContainers[*].name}";
        kubectl.says(&["get", "pod", "p", "-o", path], "d");
    })
    .await;
}
