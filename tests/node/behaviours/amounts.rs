//! What a node has room for, what its pods may take, and what they have taken.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{BUSYBOX, machine, once, pod, runs};
use crate::DEMO;
use crate::kubectl::{PATIENCE, condition, is_ready};

fn phase(pod: &Value) -> &str {
    pod["status"]["phase"].as_str().unwrap_or_default()
}

fn main(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

#[tokio::test]
async fn pods_that_do_not_fit_are_refused_by_the_node_and_made_anew_until_they_do() {
    let mut machine = machine().await;
    let port = json!([{"containerPort": 21017, "hostPort": 21017}]);
    let on_port = |script: &str| runs(script, json!({"ports": port}));
    let spec = |container: Value| {
        json!({"nodeName": "machine", "terminationGracePeriodSeconds": 1,
            "containers": [container]})
    };
    machine.apply(&pod("first", spec(on_port("sleep 10000")))).await;
    machine.until(&["pod", "first"], is_ready).await;
    let set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "ss"},
        "spec": {"serviceName": "ss", "replicas": 1, "selector": {"matchLabels": {"app": "ss"}},
            "template": {"metadata": {"labels": {"app": "ss"}},
                "spec": spec(on_port("sleep 10000"))}}});
    machine.apply(&set).await;
    let refused = |events: &Value| {
        let all = events["items"].as_array().into_iter().flatten();
        let mut of_it = all.filter(|it| it["involvedObject"]["name"] == "ss-0");
        of_it.any(|it| it["reason"] == "NodePorts" && it["type"] == "Warning")
    };
    machine.until(&["events"], refused).await;
    // Its set does not leave it at that.
    let uid = |pod: &Value| pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let one = uid(&machine.until(&["pod", "ss-0"], |pod| !uid(pod).is_empty()).await);
    let other = |pod: &Value| !uid(pod).is_empty() && uid(pod) != one;
    machine.until(&["pod", "ss-0"], other).await;
    machine.does(&["delete", "pod", "first", "--grace-period=0", "--force"]).await;
    machine.until(&["pod", "ss-0"], is_ready).await;

    let asks = json!({"resources": {"requests": {"cpu": "1000"}}});
    machine.apply(&pod("large", spec(runs("true", asks)))).await;
    let large = machine.until(&["pod", "large"], |pod| phase(pod) == "Failed").await;
    assert_eq!(large["status"]["reason"], "OutOfcpu");
    let message = large["status"]["message"].as_str().unwrap();
    let words = "Pod was rejected: Node didn't have enough resource: cpu, requested: 1000000, \
                 used: ";
    assert!(message.starts_with(words), "{message}");
    let mut elsewhere = spec(runs("true", json!({})));
    elsewhere["nodeSelector"] = json!({"disk": "none"});
    machine.apply(&pod("elsewhere", elsewhere)).await;
    let elsewhere = machine.until(&["pod", "elsewhere"], |pod| phase(pod) == "Failed").await;
    assert_eq!(elsewhere["status"]["reason"], "NodeAffinity");
    assert_eq!(machine.stop().await, Some(0), "{}", machine.log());
}

/// Of a container, as it sees its own control group, of either version.
const LIMITS: &str = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max \
                      /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max 2>/dev/null; true";

#[tokio::test]
async fn amounts_are_changed_while_containers_run_and_bound_them() {
    let mut machine = machine().await;
    let amounts = |cpu: &str, memory: &str| {
        let amounts = json!({"cpu": cpu, "memory": memory});
        json!({"requests": amounts, "limits": amounts})
    };
    let policy = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    let stays = runs("sleep 10000", json!({"resources": amounts("100m", "64Mi")}));
    let mut again = stays.clone();
    (again["name"], again["resizePolicy"]) = ("again".into(), policy);
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [stays, again]});
    machine.apply(&pod("web", spec)).await;
    let web = machine.until(&["pod", "web"], is_ready).await;
    assert_eq!(main(&web)["allocatedResources"], amounts("100m", "64Mi")["requests"]);
    assert_eq!(main(&web)["resources"], amounts("100m", "64Mi"));
    let container = |name: &str, cpu: &str, memory: &str| {
        let resources = amounts(cpu, memory);
        json!({"name": name, "resources": resources})
    };
    let resize = |containers: Value| json!({"spec": {"containers": containers}}).to_string();
    let both =
        resize(json!([container("main", "200m", "96Mi"), container("again", "150m", "96Mi")]));
    machine.does(&["patch", "pod", "web", "--subresource=resize", "-p", &both]).await;
    let done = |pod: &Value| {
        let under_way = ["PodResizePending", "PodResizeInProgress"];
        let statuses = &pod["status"]["containerStatuses"];
        let of = |name: &str| {
            let mut all = statuses.as_array().into_iter().flatten();
            all.find(|it| it["name"] == name).cloned().unwrap_or_default()
        };
        is_ready(pod)
            && pod["status"]["observedGeneration"] == pod["metadata"]["generation"]
            && under_way.iter().all(|it| condition(pod, it).is_empty())
            && of("main")["resources"] == amounts("200m", "96Mi")
            && of("main")["restartCount"] == 0
            && of("again")["resources"] == amounts("150m", "96Mi")
            && of("again")["restartCount"] == 1
    };
    machine.until(&["pod", "web"], done).await;
    for (name, quota) in [("main", "20000"), ("again", "15000")] {
        let said = machine.does(&["exec", "web", "-c", name, "--", "sh", "-c", LIMITS]).await;
        let numbers: Vec<&str> = said.split_whitespace().collect();
        assert_eq!(numbers[..2], [(96 << 20).to_string().as_str(), quota], "{name}: {said}");
    }
    // The same by a replacement.
    let mut web = machine.json(&["pod", "web"]).await;
    web["spec"]["containers"][0]["resources"] = amounts("250m", "96Mi");
    let replace = ["replace", "--subresource=resize", "-f", "-"];
    let replaced = machine.run(&replace, &web.to_string()).await;
    assert!(replaced.status.success(), "{replaced:?}");
    let done = |pod: &Value| {
        main(pod)["resources"] == amounts("250m", "96Mi") && main(pod)["restartCount"] == 0
    };
    machine.until(&["pod", "web"], done).await;
    // What there is no room for is said, and nothing changes.
    let too_much = resize(json!([container("main", "1000", "96Mi")]));
    machine.does(&["patch", "pod", "web", "--subresource=resize", "-p", &too_much]).await;
    let web =
        machine.until(&["pod", "web"], |pod| condition(pod, "PodResizePending") == "True").await;
    assert_eq!(main(&web)["allocatedResources"]["cpu"], "250m");
    let conditions = web["status"]["conditions"].as_array().unwrap();
    let pending = conditions.iter().find(|it| it["type"] == "PodResizePending").unwrap();
    assert_eq!(pending["reason"], "Infeasible", "{pending}");

    // Bounds of a whole pod, whose containers say nothing.
    let takes = |name: &str| json!({"name": name, "image": DEMO, "command": ["fill", "48"]});
    let whole = json!({"terminationGracePeriodSeconds": 1, "restartPolicy": "Never",
        "resources": {"limits": {"memory": "64Mi", "cpu": "1"}},
        "containers": [takes("one"), takes("two")]});
    machine.apply(&pod("whole", whole)).await;
    let killed = |pod: &Value| {
        let all = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
        all.into_iter().any(|it| it["state"]["terminated"]["reason"] == "OOMKilled")
    };
    machine.until(&["pod", "whole"], killed).await;
    assert_eq!(machine.stop().await, Some(0), "{}", machine.log());
}

#[tokio::test]
async fn what_was_taken_is_told_in_upstreams_forms() {
    let mut machine = machine().await;
    let busy = runs("i=0; while test $i -lt 20000; do i=$((i+1)); done; sleep 10000", json!({}));
    machine
        .apply(&pod(
            "busy",
            json!({"terminationGracePeriodSeconds": 1,
        "containers": [busy]}),
        ))
        .await;
    machine.until(&["pod", "busy"], is_ready).await;
    machine.apply(&once("over", json!({"name": "main", "image": BUSYBOX}), json!({}))).await;
    machine.until(&["pod", "over"], |pod| phase(pod) == "Succeeded").await;
    let path = "/api/v1/nodes/machine/proxy";
    let more_than = |value: &Value, least: u64| value.as_u64().is_some_and(|it| it > least);
    // The runtime looks at the size of its images now and then.
    let until = Instant::now() + PATIENCE;
    let summary = loop {
        let summary = machine.does(&["get", "--raw", &format!("{path}/stats/summary")]).await;
        let summary: Value = serde_json::from_str(&summary).unwrap();
        if more_than(&summary["node"]["runtime"]["imageFs"]["usedBytes"], 1 << 20) {
            break summary;
        }
        assert!(Instant::now() < until, "{summary:#}");
        sleep(Duration::from_millis(500)).await;
    };
    let node = &summary["node"];
    assert_eq!(node["nodeName"], "machine");
    assert!(more_than(&node["cpu"]["usageCoreNanoSeconds"], 1_000_000), "{node:#}");
    assert!(more_than(&node["memory"]["workingSetBytes"], 1 << 20), "{node:#}");
    assert!(more_than(&node["fs"]["capacityBytes"], 1 << 20), "{node:#}");
    let pods = summary["pods"].as_array().unwrap();
    assert_eq!(pods.len(), 1, "those that run: {pods:#?}");
    let pod = &pods[0];
    assert_eq!(pod["podRef"]["name"], "busy");
    assert!(more_than(&pod["cpu"]["usageCoreNanoSeconds"], 1_000_000), "{pod:#}");
    assert!(more_than(&pod["memory"]["workingSetBytes"], 4096), "{pod:#}");
    assert_eq!(pod["network"]["name"], "eth0", "{pod:#}");
    assert!(more_than(&pod["process_stats"]["process_count"], 0), "{pod:#}");
    let container = &pod["containers"][0];
    assert_eq!(container["name"], "main");
    for number in [
        &container["cpu"]["usageCoreNanoSeconds"],
        &container["memory"]["workingSetBytes"],
        &container["rootfs"]["usedBytes"],
        &container["logs"]["capacityBytes"],
    ] {
        assert!(number.is_u64(), "{container:#}");
    }
    let page = machine.does(&["get", "--raw", &format!("{path}/metrics/resource")]).await;
    for line in [
        "container_cpu_usage_seconds_total{container=\"main\",namespace=\"default\",pod=\"busy\"} ",
        "pod_memory_working_set_bytes{namespace=\"default\",pod=\"busy\"} ",
        "node_memory_working_set_bytes ",
    ] {
        assert!(page.lines().any(|it| it.starts_with(line)), "{line}: {page}");
    }
    let pods = machine.does(&["get", "--raw", &format!("{path}/pods")]).await;
    let pods: Value = serde_json::from_str(&pods).unwrap();
    assert_eq!((&pods["kind"], pods["items"].as_array().unwrap().len()), (&json!("PodList"), 2));
    assert_eq!(machine.stop().await, Some(0), "{}", machine.log());
}
