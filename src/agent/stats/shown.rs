//! What was taken, in upstream's forms. Pure.

use std::fmt::Write as _;

use kontiki_api::object::time::Timestamp;
use serde_json::{Map, Value, json};

use super::volumes::OfVolume;
use super::{Container, Disk, Interface, OfPod, Taken, Use};

/// Fields that are known.
fn known(fields: &[(&str, Option<Value>)]) -> Value {
    let known = fields.iter().filter_map(|(name, value)| {
        Some(((*name).to_owned(), value.clone().filter(|it| !it.is_null())?))
    });
    Value::Object(known.collect::<Map<String, Value>>())
}

fn number(value: Option<u64>) -> Option<Value> {
    value.map(Value::from)
}

fn time(at: Timestamp) -> Option<Value> {
    Some(at.rfc3339().into())
}

/// The node's summary.
#[must_use]
pub fn summary(taken: &Taken) -> Value {
    let now = taken.now;
    let parts = taken.parts.iter().map(|(name, takes)| {
        known(&[
            ("name", Some((*name).into())),
            ("startTime", time(taken.booted)),
            ("cpu", cpu(now, takes)),
            ("memory", memory(now, takes)),
        ])
    });
    let images = taken.images.map(|it| disk(now, &it));
    let rlimit = json!({
        "time": now.rfc3339(), "maxpid": taken.processes_max, "curproc": taken.processes,
    });
    let node = known(&[
        ("nodeName", Some(taken.node.clone().into())),
        ("systemContainers", Some(parts.collect())),
        ("startTime", time(taken.booted)),
        ("cpu", cpu(now, &taken.takes)),
        ("memory", memory(now, &taken.takes)),
        ("network", network(now, &taken.interfaces)),
        ("fs", taken.disk.map(|it| disk(now, &it))),
        ("runtime", images.map(|it| json!({"imageFs": it, "containerFs": it}))),
        ("rlimit", Some(rlimit)),
    ]);
    let pods: Vec<Value> = taken.pods.iter().map(|it| pod(now, it)).collect();
    json!({"node": node, "pods": pods})
}

fn pod(now: Timestamp, pod: &OfPod) -> Value {
    let containers: Vec<Value> = pod.containers.iter().map(|it| container(now, it)).collect();
    known(&[
        ("podRef", Some(json!({"name": pod.name, "namespace": pod.namespace, "uid": pod.uid}))),
        ("startTime", time(pod.began)),
        ("containers", Some(containers.into())),
        ("cpu", cpu(now, &pod.takes)),
        ("memory", memory(now, &pod.takes)),
        ("network", network(now, &pod.interfaces)),
        ("volume", Some(volumes(now, pod)).filter(|it| !it.is_empty()).map(Value::from)),
        ("ephemeral-storage", ephemeral(pod).map(|it| disk(now, &it))),
        ("process_stats", pod.processes.map(|count| json!({"process_count": count}))),
    ])
}

fn container(now: Timestamp, it: &Container) -> Value {
    known(&[
        ("name", Some(it.name.clone().into())),
        ("startTime", time(it.began)),
        ("cpu", cpu(now, &it.takes)),
        ("memory", memory(now, &it.takes)),
        ("rootfs", it.root.map(|it| disk(now, &it))),
        ("logs", it.logs.map(|it| disk(now, &it))),
    ])
}

fn volumes(now: Timestamp, pod: &OfPod) -> Vec<Value> {
    let one = |it: &OfVolume| {
        let mut one = disk(now, &it.disk);
        one["name"] = it.name.clone().into();
        if let Some(claim) = &it.claim {
            one["pvcRef"] = json!({"name": claim, "namespace": pod.namespace});
        }
        one
    };
    pod.volumes.iter().map(one).collect()
}

/// What the pod has on the node's disk: what its containers write, and its volumes there.
fn ephemeral(pod: &OfPod) -> Option<Disk> {
    let written = pod.containers.iter().flat_map(|it| [it.root, it.logs]).flatten();
    let local = pod.volumes.iter().filter(|it| it.is_local).map(|it| it.disk);
    let all = written.chain(local);
    all.reduce(|sum, it| Disk {
        used: Some(sum.used.unwrap_or(0) + it.used.unwrap_or(0)),
        inodes_used: Some(sum.inodes_used.unwrap_or(0) + it.inodes_used.unwrap_or(0)),
        ..sum
    })
}

fn cpu(now: Timestamp, takes: &Use) -> Option<Value> {
    let total = number(Some(takes.cpu?));
    Some(known(&[
        ("time", time(now)),
        ("usageNanoCores", number(takes.rate)),
        ("usageCoreNanoSeconds", total),
    ]))
}

fn memory(now: Timestamp, takes: &Use) -> Option<Value> {
    let it = takes.memory;
    it.working.or(it.used)?;
    Some(known(&[
        ("time", time(now)),
        ("availableBytes", number(it.available)),
        ("usageBytes", number(it.used)),
        ("workingSetBytes", number(it.working)),
        ("rssBytes", number(it.rss)),
        ("pageFaults", number(it.faults)),
        ("majorPageFaults", number(it.major_faults)),
    ]))
}

fn disk(now: Timestamp, it: &Disk) -> Value {
    known(&[
        ("time", time(now)),
        ("availableBytes", number(Some(it.bytes_free))),
        ("capacityBytes", number(Some(it.bytes))),
        ("usedBytes", number(it.used)),
        ("inodesFree", number(Some(it.inodes_free))),
        ("inodes", number(Some(it.inodes))),
        ("inodesUsed", number(it.inodes_used)),
    ])
}

/// The first interface stands for all, as upstream's default one does.
fn network(now: Timestamp, interfaces: &[Interface]) -> Option<Value> {
    let one = |it: &Interface| {
        json!({
            "name": it.name,
            "rxBytes": it.received,
            "rxErrors": it.receive_errors,
            "txBytes": it.sent,
            "txErrors": it.send_errors,
        })
    };
    let mut first = one(interfaces.first()?);
    first["time"] = now.rfc3339().into();
    first["interfaces"] = interfaces.iter().map(one).collect();
    Some(first)
}

/// A name, what it says, and its lines: labels and value.
type Family = (&'static str, &'static str, &'static str, Vec<(String, f64)>);

/// Processor time and memory for Prometheus.
#[must_use]
pub fn resources(taken: &Taken) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a page of metrics has floats")]
    let float = |value: u64| value as f64;
    let seconds = |takes: &Use| takes.cpu.map(|it| float(it) / 1e9);
    let working = |takes: &Use| takes.memory.working.map(float);
    let labels = |pod: &OfPod| format!("namespace=\"{}\",pod=\"{}\"", pod.namespace, pod.name);
    let of_pods = |what: &dyn Fn(&Use) -> Option<f64>| -> Vec<(String, f64)> {
        taken.pods.iter().filter_map(|it| Some((labels(it), what(&it.takes)?))).collect()
    };
    let of_containers = |what: &dyn Fn(&Use) -> Option<f64>| -> Vec<(String, f64)> {
        let all = taken.pods.iter().flat_map(|pod| pod.containers.iter().map(move |it| (pod, it)));
        all.filter_map(|(pod, it)| {
            let labels = format!("container=\"{}\",{}", it.name, labels(pod));
            Some((labels, what(&it.takes)?))
        })
        .collect()
    };
    let of_node = |value: Option<f64>| value.map(|it| (String::new(), it)).into_iter().collect();
    let families: [Family; 7] = [
        (
            "container_cpu_usage_seconds_total",
            "counter",
            "Cumulative cpu time consumed by the container in core-seconds",
            of_containers(&seconds),
        ),
        (
            "container_memory_working_set_bytes",
            "gauge",
            "Current working set of the container in bytes",
            of_containers(&working),
        ),
        (
            "node_cpu_usage_seconds_total",
            "counter",
            "Cumulative cpu time consumed by the node in core-seconds",
            of_node(seconds(&taken.takes)),
        ),
        (
            "node_memory_working_set_bytes",
            "gauge",
            "Current working set of the node in bytes",
            of_node(working(&taken.takes)),
        ),
        (
            "pod_cpu_usage_seconds_total",
            "counter",
            "Cumulative cpu time consumed by the pod in core-seconds",
            of_pods(&seconds),
        ),
        (
            "pod_memory_working_set_bytes",
            "gauge",
            "Current working set of the pod in bytes",
            of_pods(&working),
        ),
        (
            "resource_scrape_error",
            "gauge",
            "1 if there was an error while getting container metrics, 0 otherwise",
            vec![(String::new(), 0.0)],
        ),
    ];
    let mut page = String::new();
    for (name, kind, help, lines) in families {
        let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}");
        let at = taken.now.as_micros() / 1000;
        for (labels, value) in lines {
            let labels = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
            let at = if name == "resource_scrape_error" { String::new() } else { format!(" {at}") };
            let _ = writeln!(page, "{name}{labels} {value}{at}");
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::super::Memory;
    use super::*;

    fn taken() -> Taken {
        let memory = Memory { working: Some(2048), used: Some(4096), ..Memory::default() };
        let takes = Use { cpu: Some(1_500_000_000), rate: Some(7), memory };
        let root = Disk { bytes: 100, bytes_free: 60, used: Some(5), ..Disk::default() };
        let container =
            Container { name: "main".into(), takes, root: Some(root), ..Container::default() };
        let interface = Interface { name: "eth0".into(), received: 9, ..Interface::default() };
        let pod = OfPod {
            name: "web".into(),
            namespace: "default".into(),
            uid: "u".into(),
            takes,
            containers: vec![container],
            interfaces: vec![interface],
            processes: Some(3),
            volumes: vec![
                OfVolume { name: "work".into(), disk: root, is_local: true, ..OfVolume::default() },
                OfVolume {
                    name: "kept".into(),
                    claim: Some("data".into()),
                    disk: Disk { used: Some(40), ..root },
                    is_local: false,
                },
            ],
            ..OfPod::default()
        };
        let now = Timestamp::from_seconds(1_700_000_000);
        Taken { node: "node".into(), now, takes, pods: vec![pod], ..Taken::default() }
    }

    #[test]
    fn a_summary_has_upstreams_fields_and_leaves_out_what_is_not_known() {
        let summary = summary(&taken());
        let pod = &summary["pods"][0];
        assert_eq!(pod["podRef"], json!({"name": "web", "namespace": "default", "uid": "u"}));
        assert_eq!(pod["containers"][0]["cpu"]["usageCoreNanoSeconds"], 1_500_000_000);
        assert_eq!(pod["memory"]["workingSetBytes"], 2048);
        assert!(pod["memory"].get("rssBytes").is_none());
        assert_eq!(pod["network"]["name"], "eth0");
        assert_eq!(pod["network"]["interfaces"][0]["rxBytes"], 9);
        assert_eq!(pod["ephemeral-storage"]["usedBytes"], 10, "with the volume on the node's disk");
        assert_eq!(pod["volume"][0]["name"], "work");
        assert!(pod["volume"][0].get("pvcRef").is_none());
        assert_eq!(pod["volume"][1]["pvcRef"], json!({"name": "data", "namespace": "default"}));
        assert_eq!(pod["volume"][1]["usedBytes"], 40);
        assert_eq!(pod["volume"][1]["capacityBytes"], 100);
        assert_eq!(pod["process_stats"]["process_count"], 3);
        assert_eq!(summary["node"]["cpu"]["time"], "2023-11-14T22:13:20Z");
        assert!(summary["node"].get("fs").is_none());
    }

    #[test]
    fn a_page_for_prometheus_has_a_line_for_each() {
        let page = resources(&taken());
        for line in [
            "container_cpu_usage_seconds_total{container=\"main\",namespace=\"default\",\
             pod=\"web\"} 1.5 1700000000000",
            "pod_memory_working_set_bytes{namespace=\"default\",pod=\"web\"} 2048 1700000000000",
            "node_cpu_usage_seconds_total 1.5 1700000000000",
            "resource_scrape_error 0",
        ] {
            assert!(page.lines().any(|it| it == line), "{line} is missing in\n{page}");
        }
    }
}
