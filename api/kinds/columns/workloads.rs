//! apps, batch, autoscaling and policy.

use serde_json::{Value, json};

use super::cells::{
    age_of, at, condition, containers, flag, labels, list, name, number, plain, selector,
    selector_text, since, text, text_or,
};
use super::{AGE, Column, Entry, NAME, column};
use crate::object::duration::human;
use crate::object::time::Timestamp;

pub const TABLE: &[Entry] = &[
    ("apps", "Deployment", DEPLOYMENT, deployment),
    ("apps", "ReplicaSet", REPLICA_SET, replica_set),
    (
        "apps",
        "StatefulSet",
        &[NAME, column("Ready", 0), AGE, column("Containers", 1), column("Images", 1)],
        stateful_set,
    ),
    ("apps", "DaemonSet", DAEMON_SET, daemon_set),
    (
        "apps",
        "ControllerRevision",
        &[NAME, column("Controller", 0), column("Revision", 0), AGE],
        revision,
    ),
    ("batch", "Job", JOB, job),
    ("batch", "CronJob", CRON_JOB, cron_job),
    ("autoscaling", "HorizontalPodAutoscaler", AUTOSCALER, autoscaler),
    (
        "autoscaling",
        "Scale",
        &[NAME, column("Desired", 0), column("Available", 0), AGE],
        |it, now| {
            vec![
                name(it),
                json!(number(it, "/spec/replicas")),
                json!(number(it, "/status/replicas")),
                age_of(it, now),
            ]
        },
    ),
    ("policy", "PodDisruptionBudget", BUDGET, budget),
];

const DEPLOYMENT: &[Column] = &[
    NAME,
    column("Ready", 0),
    column("Up-to-date", 0),
    column("Available", 0),
    AGE,
    column("Containers", 1),
    column("Images", 1),
    column("Selector", 1),
];

fn deployment(it: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(at(it, "/spec/template/spec"));
    vec![
        name(it),
        ready(it).into(),
        json!(number(it, "/status/updatedReplicas")),
        json!(number(it, "/status/availableReplicas")),
        age_of(it, now),
        names,
        images,
        selector_text(at(it, "/spec/selector")).into(),
    ]
}

fn ready(it: &Value) -> String {
    format!("{}/{}", number(it, "/status/readyReplicas"), number(it, "/spec/replicas"))
}

const REPLICA_SET: &[Column] = &[
    NAME,
    column("Desired", 0),
    column("Current", 0),
    column("Ready", 0),
    AGE,
    column("Containers", 1),
    column("Images", 1),
    column("Selector", 1),
];

fn replica_set(it: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(at(it, "/spec/template/spec"));
    vec![
        name(it),
        json!(number(it, "/spec/replicas")),
        json!(number(it, "/status/replicas")),
        json!(number(it, "/status/readyReplicas")),
        age_of(it, now),
        names,
        images,
        selector(at(it, "/spec/selector")).into(),
    ]
}

fn stateful_set(it: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(at(it, "/spec/template/spec"));
    vec![name(it), ready(it).into(), age_of(it, now), names, images]
}

const DAEMON_SET: &[Column] = &[
    NAME,
    column("Desired", 0),
    column("Current", 0),
    column("Ready", 0),
    column("Up-to-date", 0),
    column("Available", 0),
    column("Node Selector", 0),
    AGE,
    column("Containers", 1),
    column("Images", 1),
    column("Selector", 1),
];

fn daemon_set(it: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(at(it, "/spec/template/spec"));
    vec![
        name(it),
        json!(number(it, "/status/desiredNumberScheduled")),
        json!(number(it, "/status/currentNumberScheduled")),
        json!(number(it, "/status/numberReady")),
        json!(number(it, "/status/updatedNumberScheduled")),
        json!(number(it, "/status/numberAvailable")),
        labels(at(it, "/spec/template/spec/nodeSelector")).into(),
        age_of(it, now),
        names,
        images,
        selector(at(it, "/spec/selector")).into(),
    ]
}

fn revision(it: &Value, now: Timestamp) -> Vec<Value> {
    let owners = list(it, "/metadata/ownerReferences");
    let controller = owners.iter().find(|owner| flag(owner, "/controller")).map(|owner| {
        let kind = text(owner, "/kind").to_lowercase();
        let group = text(owner, "/apiVersion").split_once('/').map(|(group, _)| group);
        let of = group.map_or_else(|| kind.clone(), |group| format!("{kind}.{group}"));
        format!("{of}/{}", text(owner, "/name"))
    });
    vec![
        name(it),
        controller.unwrap_or_else(|| "<none>".into()).into(),
        json!(number(it, "/revision")),
        age_of(it, now),
    ]
}

const JOB: &[Column] = &[
    NAME,
    column("Status", 0),
    column("Completions", 0),
    column("Duration", 0),
    AGE,
    column("Containers", 1),
    column("Images", 1),
    column("Selector", 1),
];

fn job(it: &Value, now: Timestamp) -> Vec<Value> {
    let succeeded = number(it, "/status/succeeded");
    let completions = match at(it, "/spec/completions").as_i64() {
        Some(wanted) => format!("{succeeded}/{wanted}"),
        None => match number(it, "/spec/parallelism") {
            parallel @ 2.. => format!("{succeeded}/1 of {parallel}"),
            _ => format!("{succeeded}/1"),
        },
    };
    let moment = |path| Timestamp::parse(text(it, path));
    let duration = moment("/status/startTime").map(|begun| {
        let end = moment("/status/completionTime").unwrap_or(now);
        human(end.micros_since(begun).div_euclid(1_000_000))
    });
    let is = |kind| condition(it, kind) == "True";
    let status = match () {
        () if is("Complete") => "Complete",
        () if is("Failed") => "Failed",
        () if at(it, "/metadata/deletionTimestamp").is_string() => "Terminating",
        () if is("Suspended") => "Suspended",
        () if is("FailureTarget") => "FailureTarget",
        () if is("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    };
    let [names, images] = containers(at(it, "/spec/template/spec"));
    vec![
        name(it),
        status.into(),
        completions.into(),
        duration.unwrap_or_default().into(),
        age_of(it, now),
        names,
        images,
        selector(at(it, "/spec/selector")).into(),
    ]
}

const CRON_JOB: &[Column] = &[
    NAME,
    column("Schedule", 0),
    column("Timezone", 0),
    column("Suspend", 0),
    column("Active", 0),
    column("Last Schedule", 0),
    AGE,
    column("Containers", 1),
    column("Images", 1),
    column("Selector", 1),
];

fn cron_job(it: &Value, now: Timestamp) -> Vec<Value> {
    let suspend = match at(it, "/spec/suspend").as_bool() {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    };
    let last = match text(it, "/status/lastScheduleTime") {
        "" => "<none>".to_owned(),
        _ => since(it, "/status/lastScheduleTime", now),
    };
    let [names, images] = containers(at(it, "/spec/jobTemplate/spec/template/spec"));
    vec![
        name(it),
        text(it, "/spec/schedule").into(),
        text_or(it, "/spec/timeZone", "<none>").into(),
        suspend.into(),
        json!(list(it, "/status/active").len()),
        last.into(),
        age_of(it, now),
        names,
        images,
        selector(at(it, "/spec/jobTemplate/spec/selector")).into(),
    ]
}

const AUTOSCALER: &[Column] = &[
    NAME,
    column("Reference", 0),
    column("Targets", 0),
    column("MinPods", 0),
    column("MaxPods", 0),
    column("Replicas", 0),
    AGE,
];

fn autoscaler(it: &Value, now: Timestamp) -> Vec<Value> {
    let target = at(it, "/spec/scaleTargetRef");
    let least = at(it, "/spec/minReplicas");
    vec![
        name(it),
        format!("{}/{}", text(target, "/kind"), text(target, "/name")).into(),
        targets(it).into(),
        if least.is_null() { "<unset>".into() } else { plain(least).into() },
        json!(number(it, "/spec/maxReplicas")),
        json!(number(it, "/status/currentReplicas")),
        age_of(it, now),
    ]
}

/// Each metric as what it is over what it should be.
fn targets(it: &Value) -> String {
    // autoscaling/v1 knows one metric.
    if let Some(percent) = at(it, "/spec/targetCPUUtilizationPercentage").as_i64() {
        let current = at(it, "/status/currentCPUUtilizationPercentage");
        let current = current.as_i64().map(|percent| format!("{percent}%"));
        return format!("cpu: {}/{percent}%", current.unwrap_or_else(|| "<unknown>".into()));
    }
    let metrics = list(it, "/spec/metrics");
    if metrics.is_empty() {
        return "<none>".into();
    }
    let current = list(it, "/status/currentMetrics");
    let shown: Vec<_> =
        metrics.iter().enumerate().map(|(at, metric)| target(metric, current.get(at))).collect();
    super::cells::cut(&shown, 2, ", ")
}

fn target(metric: &Value, current: Option<&Value>) -> String {
    let (field, named) = match text(metric, "/type") {
        "Resource" => ("resource", true),
        "ContainerResource" => ("containerResource", true),
        "Pods" => ("pods", false),
        "Object" => ("object", false),
        "External" => ("external", false),
        _ => return "<unknown type>".into(),
    };
    let source = &metric[field];
    let now = current.map_or(&Value::Null, |current| at(current, &format!("/{field}/current")));
    let show = |value: &Value, unit: &str| match value {
        Value::Null => "<unknown>".to_owned(),
        value => plain(value) + unit,
    };
    let average = &source["target"]["averageValue"];
    let text_of_target = if !average.is_null() {
        let unit = if matches!(field, "external" | "object") { " (avg)" } else { "" };
        format!("{}/{}{unit}", show(&now["averageValue"], ""), plain(average))
    } else if named {
        let wanted = match &source["target"]["averageUtilization"] {
            Value::Null => "<auto>".to_owned(),
            percent => plain(percent) + "%",
        };
        format!("{}/{wanted}", show(&now["averageUtilization"], "%"))
    } else {
        format!("{}/{}", show(&now["value"], ""), plain(&source["target"]["value"]))
    };
    if named { format!("{}: {text_of_target}", text(source, "/name")) } else { text_of_target }
}

const BUDGET: &[Column] = &[
    NAME,
    column("Min Available", 0),
    column("Max Unavailable", 0),
    column("Allowed Disruptions", 0),
    AGE,
];

fn budget(it: &Value, now: Timestamp) -> Vec<Value> {
    let bound = |path| match at(it, path) {
        Value::Null => Value::from("N/A"),
        bound => plain(bound).into(),
    };
    vec![
        name(it),
        bound("/spec/minAvailable"),
        bound("/spec/maxUnavailable"),
        json!(number(it, "/status/disruptionsAllowed")),
        age_of(it, now),
    ]
}
