//! The core group, without pods and services.

use serde_json::{Value, json};

use super::cells::{age_of, at, condition, count, list, name, number, or, plain, text, text_or};
use super::{AGE, Column, Entry, NAME, column, pod};
use crate::object::time::Timestamp;

pub const TABLE: &[Entry] = &[
    ("", "Pod", pod::COLUMNS, pod::print),
    ("", "PodTemplate", pod::TEMPLATE_COLUMNS, pod::print_template),
    ("", "Event", pod::EVENT_COLUMNS, pod::print_event),
    ("events.k8s.io", "Event", pod::EVENT_COLUMNS, pod::print_event),
    ("", "Namespace", &[NAME, column("Status", 0), AGE], |it, now| {
        vec![name(it), text(it, "/status/phase").into(), age_of(it, now)]
    }),
    ("", "ConfigMap", &[NAME, column("Data", 0), AGE], |it, now| {
        vec![name(it), json!(count(it, "/data") + count(it, "/binaryData")), age_of(it, now)]
    }),
    ("", "Secret", &[NAME, column("Type", 0), column("Data", 0), AGE], |it, now| {
        vec![name(it), text(it, "/type").into(), json!(count(it, "/data")), age_of(it, now)]
    }),
    ("", "ServiceAccount", &[NAME, AGE], |it, now| vec![name(it), age_of(it, now)]),
    ("", "Node", NODE, node),
    ("", "ReplicationController", REPLICATION, replication),
    ("", "ResourceQuota", &[NAME, column("Request", 0), column("Limit", 0), AGE], quota),
    (
        "",
        "ComponentStatus",
        &[NAME, column("Status", 0), column("Message", 0), column("Error", 0)],
        component,
    ),
];

const NODE: &[Column] = &[
    NAME,
    column("Status", 0),
    column("Roles", 0),
    AGE,
    column("Version", 0),
    column("Internal-IP", 1),
    column("External-IP", 1),
    column("OS-Image", 1),
    column("Kernel-Version", 1),
    column("Container-Runtime", 1),
];

fn node(node: &Value, now: Timestamp) -> Vec<Value> {
    let mut status = match condition(node, "Ready") {
        "True" => "Ready".to_owned(),
        "" => "Unknown".to_owned(),
        _ => "NotReady".to_owned(),
    };
    if super::cells::flag(node, "/spec/unschedulable") {
        status += ",SchedulingDisabled";
    }
    let address = |kind: &str| {
        list(node, "/status/addresses")
            .iter()
            .find(|address| text(address, "/type") == kind)
            .map_or("<none>", |address| text(address, "/address"))
            .to_owned()
    };
    let info = at(node, "/status/nodeInfo");
    let mut kernel = text_or(info, "/kernelVersion", "<unknown>").to_owned();
    if let architecture @ [_, ..] = text(info, "/architecture").as_bytes() {
        kernel += &format!(" ({})", String::from_utf8_lossy(architecture));
    }
    vec![
        name(node),
        status.into(),
        roles(node).into(),
        age_of(node, now),
        text(info, "/kubeletVersion").into(),
        address("InternalIP").into(),
        address("ExternalIP").into(),
        text_or(info, "/osImage", "<unknown>").into(),
        kernel.into(),
        text_or(info, "/containerRuntimeVersion", "<unknown>").into(),
    ]
}

fn roles(node: &Value) -> String {
    let labels = at(node, "/metadata/labels").as_object();
    let mut roles: Vec<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(|(label, value)| match label.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if label == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    or(&roles.join(","), "<none>").to_owned()
}

const REPLICATION: &[Column] = &[
    NAME,
    column("Desired", 0),
    column("Current", 0),
    column("Ready", 0),
    AGE,
    column("Containers", 1),
    column("Images", 1),
    column("Selector", 1),
];

fn replication(it: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = super::cells::containers(at(it, "/spec/template/spec"));
    vec![
        name(it),
        json!(number(it, "/spec/replicas")),
        json!(number(it, "/status/replicas")),
        json!(number(it, "/status/readyReplicas")),
        age_of(it, now),
        names,
        images,
        super::cells::labels(at(it, "/spec/selector")).into(),
    ]
}

fn quota(quota: &Value, now: Timestamp) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (resource, hard) in at(quota, "/status/hard").as_object().into_iter().flatten() {
        let used = &quota["status"]["used"][resource];
        let used = if used.is_null() { "0".to_owned() } else { plain(used) };
        let entry = format!("{resource}: {used}/{}", plain(hard));
        if resource.starts_with("limits.") { limits.push(entry) } else { requests.push(entry) }
    }
    vec![name(quota), requests.join(", ").into(), limits.join(", ").into(), age_of(quota, now)]
}

fn component(it: &Value, _: Timestamp) -> Vec<Value> {
    let health = list(it, "/conditions").iter().find(|one| text(one, "/type") == "Healthy");
    let status = match health.map(|health| text(health, "/status")) {
        Some("True") => "Healthy",
        Some(_) => "Unhealthy",
        None => "Unknown",
    };
    let said = |path| health.map_or("", |health| text(health, path));
    vec![name(it), status.into(), said("/message").into(), said("/error").into()]
}
