//! A pod's cells. STATUS is the one word that says what is going on, made from phase, reasons and containers.

use serde_json::{Value, json};

use super::cells::{age_of, flag, list, name, number, or, since, text, text_or};
use super::{AGE, Column, NAME, column};
use crate::object::time::Timestamp;

pub const COLUMNS: &[Column] = &[
    NAME,
    column("Ready", 0),
    column("Status", 0),
    column("Restarts", 0),
    AGE,
    column("IP", 1),
    column("Node", 1),
    column("Nominated Node", 1),
    column("Readiness Gates", 1),
];

/// What is gathered over containers.
#[derive(Default)]
struct Seen<'a> {
    restarts: i64,
    ready: usize,
    /// The last end of a container that was restarted, as written.
    last_restart: &'a str,
}

impl<'a> Seen<'a> {
    fn count(&mut self, container: &'a Value) {
        self.restarts += number(container, "/restartCount");
        let ended = text(container, "/lastState/terminated/finishedAt");
        // Times of one form order as text does.
        if ended > self.last_restart {
            self.last_restart = ended;
        }
    }
}

pub fn print(pod: &Value, now: Timestamp) -> Vec<Value> {
    let init_specs = list(pod, "/spec/initContainers");
    let is_sidecar = |name: &str| {
        let named = init_specs.iter().find(|spec| text(spec, "/name") == name);
        named.is_some_and(|spec| text(spec, "/restartPolicy") == "Always")
    };
    let sidecars = init_specs.iter().filter(|spec| text(spec, "/restartPolicy") == "Always");
    let total = list(pod, "/spec/containers").len() + sidecars.count();

    let phase = text(pod, "/status/phase");
    let mut status = or(text(pod, "/status/reason"), phase).to_owned();
    for condition in list(pod, "/status/conditions") {
        let gated = text(condition, "/reason") == "SchedulingGated";
        if text(condition, "/type") == "PodScheduled" && gated {
            status = "SchedulingGated".into();
        }
    }

    let (mut seen, mut of_sidecars) = (Seen::default(), Seen::default());
    let mut initializing = false;
    for (index, container) in list(pod, "/status/initContainerStatuses").iter().enumerate() {
        seen.count(container);
        let sidecar = is_sidecar(text(container, "/name"));
        if sidecar {
            of_sidecars.count(container);
        }
        let ended = container.pointer("/state/terminated");
        if ended.is_some_and(|ended| number(ended, "/exitCode") == 0) {
            continue;
        }
        if sidecar && flag(container, "/started") {
            of_sidecars.ready += usize::from(flag(container, "/ready"));
            continue;
        }
        let waits = text(container, "/state/waiting/reason");
        status = match ended {
            Some(ended) => format!("Init:{}", end(ended)),
            None if !waits.is_empty() && waits != "PodInitializing" => format!("Init:{waits}"),
            None => format!("Init:{index}/{}", init_specs.len()),
        };
        initializing = true;
        break;
    }

    seen.ready = of_sidecars.ready;
    if !initializing || condition_is_true(pod, "Initialized") {
        seen = of_sidecars;
        status = of_containers(pod, status, &mut seen);
    }
    if super::cells::at(pod, "/metadata/deletionTimestamp").is_string() {
        if text(pod, "/status/reason") == "NodeLost" {
            status = "Unknown".into();
        } else if phase != "Succeeded" && phase != "Failed" {
            status = "Terminating".into();
        }
    }

    let mut restarts = seen.restarts.to_string();
    if seen.restarts != 0 && !seen.last_restart.is_empty() {
        restarts += &format!(" ({} ago)", super::age(seen.last_restart, now));
    }
    vec![
        name(pod),
        format!("{}/{total}", seen.ready).into(),
        status.into(),
        restarts.into(),
        age_of(pod, now),
        text_or(pod, "/status/podIPs/0/ip", "<none>").into(),
        text_or(pod, "/spec/nodeName", "<none>").into(),
        text_or(pod, "/status/nominatedNodeName", "<none>").into(),
        gates(pod).into(),
    ]
}

/// The word for the main containers; counts their restarts and who is ready.
fn of_containers<'a>(pod: &'a Value, mut status: String, seen: &mut Seen<'a>) -> String {
    let (mut running, mut failed) = (false, String::new());
    for container in list(pod, "/status/containerStatuses").iter().rev() {
        seen.count(container);
        let waits = text(container, "/state/waiting/reason");
        if !waits.is_empty() {
            status = waits.into();
        } else if let Some(ended) = container.pointer("/state/terminated") {
            status = end(ended);
            if number(ended, "/exitCode") != 0 {
                failed.clone_from(&status);
            }
        } else if flag(container, "/ready") && container.pointer("/state/running").is_some() {
            running = true;
            seen.ready += 1;
        }
    }
    // One container is done, another still runs or has failed: that is what the pod is about.
    if status == "Completed" {
        if running && condition_is_true(pod, "Ready") {
            status = "Running".into();
        } else if !failed.is_empty() {
            status = failed;
        } else if running {
            status = "NotReady".into();
        }
    }
    status
}

/// Why a container ended.
fn end(terminated: &Value) -> String {
    match (text(terminated, "/reason"), number(terminated, "/signal")) {
        ("", 0) => format!("ExitCode:{}", number(terminated, "/exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.into(),
    }
}

fn condition_is_true(pod: &Value, of: &str) -> bool {
    super::cells::condition(pod, of) == "True"
}

fn gates(pod: &Value) -> String {
    let gates = list(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".into();
    }
    let open =
        gates.iter().filter(|gate| condition_is_true(pod, text(gate, "/conditionType"))).count();
    format!("{open}/{}", gates.len())
}

pub const TEMPLATE_COLUMNS: &[Column] =
    &[NAME, column("Containers", 0), column("Images", 0), column("Pod Labels", 0)];

pub fn print_template(template: &Value, _: Timestamp) -> Vec<Value> {
    let [names, images] = super::cells::containers(&template["template"]["spec"]);
    let labels = super::cells::labels(&template["template"]["metadata"]["labels"]);
    vec![name(template), names, images, labels.into()]
}

pub const EVENT_COLUMNS: &[Column] = &[
    column("Last Seen", 0),
    column("Type", 0),
    column("Reason", 0),
    column("Object", 0),
    column("Subobject", 1),
    column("Source", 1),
    column("Message", 0),
    column("First Seen", 1),
    column("Count", 1),
    Column { priority: 1, ..NAME },
];

pub fn print_event(event: &Value, now: Timestamp) -> Vec<Value> {
    // events.k8s.io names the same things otherwise.
    let modern = event.get("regarding").is_some();
    let pick = |old: &'static str, new: &'static str| if modern { new } else { old };
    let first_at = pick("/firstTimestamp", "/deprecatedFirstTimestamp");
    let last_at = pick("/lastTimestamp", "/deprecatedLastTimestamp");
    let first = match text(event, first_at) {
        "" => since(event, "/eventTime", now),
        _ => since(event, first_at, now),
    };
    let mut last = match text(event, last_at) {
        "" => first.clone(),
        _ => since(event, last_at, now),
    };
    let mut count = number(event, pick("/count", "/deprecatedCount")).max(1);
    if event.get("series").is_some_and(Value::is_object) {
        last = since(event, "/series/lastObservedTime", now);
        count = number(event, "/series/count");
    }
    let object = &event[pick("involvedObject", "regarding")];
    let kind = text(object, "/kind").to_lowercase();
    let target = match text(object, "/name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let source = &event[pick("source", "deprecatedSource")];
    let component = text_or(
        source,
        "/component",
        text(event, pick("/reportingComponent", "/reportingController")),
    );
    let host = text_or(source, "/host", text(event, "/reportingInstance"));
    let from = if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") };
    vec![
        last.into(),
        text(event, "/type").into(),
        text(event, "/reason").into(),
        target.into(),
        text(object, "/fieldPath").into(),
        from.into(),
        text(event, pick("/message", "/note")).trim().into(),
        first.into(),
        json!(count),
        name(event),
    ]
}
