//! How a pod is, as its object says. Pure.
//!
//! Keeps: a phase that is final stays; a condition's transition time changes only with its status;
//! conditions of others stay as they are.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
    ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Written;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kontiki_api::object::quantity::{Format, Quantity};
use kontiki_api::object::time::Timestamp;

use super::memory::{Memory, Resize};
use super::observed::{Observed, Seen};
use super::plan::{Init, has_started, init_state};
use super::view;
use crate::agent::cri;
use crate::reconcile::amounts::{Resources, limits, requests};

/// Conditions that this agent decides, and that are always said.
const CONDITIONS: [&str; 5] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];
/// Those that are said while they hold.
pub const RESIZES: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];

/// Who ended the pod for another's sake says so, and that may be somebody else.
const DISRUPTION: &str = "DisruptionTarget";
const BY_US: &str = "TerminationByKubelet";

/// Whether it is this agent that decides on a condition.
#[must_use]
pub fn is_ours(condition: &PodCondition) -> bool {
    let kind = condition.type_.as_str();
    CONDITIONS.contains(&kind)
        || RESIZES.contains(&kind)
        || (kind == DISRUPTION && condition.reason.as_deref() == Some(BY_US))
}

/// What the status is made of, besides the pod.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub seen: &'a Observed,
    pub memory: &'a Memory,
    pub host: &'a [IpAddr],
    pub runtime: &'a str,
    pub now: Timestamp,
    /// Nothing of it will be started any more.
    pub over: bool,
}

/// The status that the pod should have.
#[must_use]
pub fn status(pod: &Pod, view: View<'_>) -> PodStatus {
    let before = pod.status.clone().unwrap_or_default();
    let init = init_state(pod, view.seen, view.memory);
    let of = |container: &Container| container_status(pod, container, init, view);
    let mains: Vec<ContainerStatus> = view::containers(pod).iter().map(of).collect();
    let inits: Vec<ContainerStatus> = view::init_containers(pod).iter().map(of).collect();
    let ephemeral = view::ephemeral_containers(pod);
    // Nobody waits for them to be ready.
    let of = |container| ContainerStatus { ready: false, ..of(container) };
    let ephemeral: Vec<ContainerStatus> = ephemeral.iter().map(of).collect();
    let phase = match before.phase.as_deref() {
        Some(done @ ("Succeeded" | "Failed")) => done.to_owned(),
        _ => phase(pod, init, &mains, view).to_owned(),
    };
    let mut addresses = view.seen.addresses();
    let host: Vec<String> = view.host.iter().map(ToString::to_string).collect();
    if view::host_network(pod) && view.seen.sandbox().is_some() {
        addresses.clone_from(&host);
    }
    if addresses.is_empty() {
        // A pod that has ended still shows where it was.
        addresses = before.pod_ips.iter().flatten().map(|it| it.ip.clone()).collect();
    }
    let (reason, message) = match &view.memory.ended {
        Some(ended) => (Some(ended.reason.clone()), Some(ended.message.clone())),
        None => (before.reason.clone(), before.message.clone()),
    };
    let mut conditions = conditions(pod, &phase, init, &mains, view);
    conditions.extend(resizes(pod, &phase, &before, view));
    if let Some(disruption) = disruption(pod, &before, view) {
        conditions.retain(|it| it.type_ != DISRUPTION);
        conditions.push(disruption);
    }
    // Of a pod that was not let in there is nothing to be said.
    let refused = view.memory.ended.as_ref().is_some_and(|it| it.refused);
    let listed = |all: Vec<ContainerStatus>| Some(all).filter(|it| !it.is_empty() && !refused);
    let given = view.memory.allocation.shown_in(pod);
    PodStatus {
        allocated_resources: Some(written(&requests(&given))).filter(|it| !it.is_empty()),
        conditions: Some(conditions),
        container_statuses: Some(mains).filter(|_| !refused),
        ephemeral_container_statuses: listed(ephemeral),
        init_container_statuses: listed(inits),
        resources: Some(ResourceRequirements {
            requests: Some(written(&requests(&given))).filter(|it| !it.is_empty()),
            limits: Some(written(&limits(&given))).filter(|it| !it.is_empty()),
            ..ResourceRequirements::default()
        }),
        host_ip: host.first().cloned(),
        host_ips: Some(host.into_iter().map(|ip| HostIP { ip }).collect()),
        pod_ip: addresses.first().cloned(),
        pod_ips: Some(addresses.into_iter().map(|ip| PodIP { ip }).collect::<Vec<_>>())
            .filter(|it| !it.is_empty()),
        start_time: before.start_time.clone().or_else(|| Some(time(view.now))),
        observed_generation: pod.metadata.generation,
        phase: Some(phase),
        reason,
        message,
        ..before
    }
}

/// Amounts of a whole pod as the API writes them.
fn written(amounts: &Resources) -> BTreeMap<String, Written> {
    let bytes = |bytes: i64| Quantity::new(bytes, Format::BinarySi);
    let others = amounts.others.iter().map(|(name, amount)| {
        let format =
            if name.starts_with("hugepages-") { Format::BinarySi } else { Format::DecimalSi };
        (name.as_str(), Quantity::new(*amount, format))
    });
    let all = [
        ("cpu", Quantity::from_milli(amounts.cpu, Format::DecimalSi)),
        ("memory", bytes(amounts.memory)),
        ("ephemeral-storage", bytes(amounts.storage)),
    ];
    all.into_iter()
        .chain(others)
        .filter(|(_, amount)| !amount.is_zero())
        .map(|(name, amount)| (name.to_owned(), Written(amount.to_string())))
        .collect()
}

fn time(moment: Timestamp) -> Time {
    Time(Timestamp::from_seconds(moment.as_seconds()).moment())
}

fn phase(pod: &Pod, init: Init, mains: &[ContainerStatus], view: View<'_>) -> &'static str {
    if view.memory.ended.is_some() || init == Init::Failed {
        return "Failed";
    }
    if init == Init::UnderWay && !view.over {
        return "Pending";
    }
    let (mut waiting, mut running, mut stopped, mut well) = (0, 0, 0, 0);
    for status in mains {
        let state = status.state.as_ref();
        let last = status.last_state.as_ref().and_then(|it| it.terminated.as_ref());
        if state.is_some_and(|it| it.running.is_some()) {
            running += 1;
        } else if let Some(ended) = state.and_then(|it| it.terminated.as_ref()) {
            stopped += 1;
            well += usize::from(ended.exit_code == 0);
        } else if last.is_some() {
            stopped += 1;
        } else {
            waiting += 1;
        }
    }
    let sidecars = view::init_containers(pod)
        .iter()
        .any(|it| view.seen.newest(&it.name).is_some_and(Seen::is_running));
    if view.over {
        // Deleted, or nothing to come: what has not ended well has not ended well.
        return if waiting == 0 && stopped == well { "Succeeded" } else { "Failed" };
    }
    match view::restart_policy(pod) {
        _ if waiting > 0 => "Pending",
        _ if running > 0 || stopped == 0 => "Running",
        view::Restart::Always => "Running",
        _ if sidecars => "Running",
        _ if stopped == well => "Succeeded",
        view::Restart::Never => "Failed",
        view::Restart::OnFailure => "Running",
    }
}

fn container_status(
    pod: &Pod,
    container: &Container,
    init: Init,
    view: View<'_>,
) -> ContainerStatus {
    let name = &container.name;
    let before = pod.status.iter().flat_map(|it| {
        let declared = it.container_statuses.iter().chain(&it.init_container_statuses);
        declared.chain(&it.ephemeral_container_statuses).flatten()
    });
    let before = before.into_iter().find(|it| it.name == *name);
    let mut all = view.seen.containers.iter().filter(|it| it.name() == *name);
    let (newest, previous) = (all.next(), all.next());
    let image = container.image.clone().unwrap_or_default();
    let Some(newest) = newest else {
        // What is not in the runtime any more, and had ended, has still ended.
        let kept = before.filter(|it| {
            view.over || it.state.as_ref().is_some_and(|state| state.terminated.is_some())
        });
        if let Some(kept) = kept.filter(|it| it.container_id.is_some()) {
            return ContainerStatus { ready: false, started: Some(false), ..kept.clone() };
        }
        return ContainerStatus {
            name: name.clone(),
            image,
            state: Some(waiting(not_yet(pod, container, init, view))),
            started: Some(false),
            ..ContainerStatus::default()
        };
    };
    let given = view.memory.allocation.container(container);
    let has = match newest.is_running() {
        true => view.memory.allocation.told(container, newest),
        false => given.clone(),
    };
    let ended = newest.exited().then(|| terminated(newest, view));
    let ended_before = previous.filter(|it| it.exited()).map(|it| terminated(it, view));
    let waits = view.memory.waiting.get(name).filter(|_| !view.over);
    let (state, last_state) = match (ended, waits) {
        (Some(ended), Some(it)) => (
            waiting(ContainerStateWaiting {
                reason: Some(it.reason.clone()),
                message: Some(it.message.clone()).filter(|it| !it.is_empty()),
            }),
            Some(ended),
        ),
        // On its way to be begun anew: this is not its end.
        (Some(ended), None) if view.memory.replaced.contains(newest.id()) && !view.over => {
            (waiting(not_yet(pod, container, init, view)), Some(ended))
        }
        (Some(ended), None) => {
            let state = ContainerState { terminated: Some(ended), ..ContainerState::default() };
            (state, ended_before)
        }
        (None, _) if newest.is_running() => {
            let running = ContainerStateRunning { started_at: Some(time(newest.started())) };
            let state = ContainerState { running: Some(running), ..ContainerState::default() };
            (state, ended_before)
        }
        (None, _) => (waiting(not_yet(pod, container, init, view)), ended_before),
    };
    let started = has_started(container, newest, view.memory);
    let ready = started
        && !view.over
        && (container.readiness_probe.is_none()
            || view.memory.probed.get(newest.id()).is_some_and(|it| it.ready));
    // An init container that is through is ready.
    let through = view::init_containers(pod).iter().any(|it| it.name == *name)
        && !view::is_sidecar(container)
        && newest.exited()
        && newest.status.exit_code == 0;
    let said = newest.status.image.as_ref().map(|it| it.image.clone());
    ContainerStatus {
        name: name.clone(),
        image: said.filter(|it| !it.is_empty() && !it.starts_with("sha256:")).unwrap_or(image),
        image_id: newest.status.image_ref.clone(),
        container_id: Some(identity(view.runtime, newest.id())),
        restart_count: i32::try_from(newest.attempt()).unwrap_or(i32::MAX),
        started: Some(started),
        ready: ready || through,
        state: Some(state),
        last_state: last_state
            .map(|it| ContainerState { terminated: Some(it), ..ContainerState::default() }),
        allocated_resources: given.requests,
        resources: Some(has),
        ..ContainerStatus::default()
    }
}

fn waiting(waiting: ContainerStateWaiting) -> ContainerState {
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

/// Why a container has not begun.
fn not_yet(pod: &Pod, container: &Container, init: Init, view: View<'_>) -> ContainerStateWaiting {
    if let Some(waiting) = view.memory.waiting.get(&container.name) {
        return ContainerStateWaiting {
            reason: Some(waiting.reason.clone()),
            message: Some(waiting.message.clone()).filter(|it| !it.is_empty()),
        };
    }
    let is_init = view::init_containers(pod).iter().any(|it| it.name == container.name);
    let has_init = !view::init_containers(pod).is_empty();
    let reason = if has_init && (is_init || init != Init::Done) {
        "PodInitializing"
    } else {
        "ContainerCreating"
    };
    ContainerStateWaiting { reason: Some(reason.into()), message: None }
}

fn identity(runtime: &str, id: &str) -> String {
    format!("{runtime}://{id}")
}

fn terminated(seen: &Seen, view: View<'_>) -> ContainerStateTerminated {
    let status = &seen.status;
    let unknown = status.state() == cri::v1::ContainerState::ContainerUnknown;
    let reason = match (status.reason.as_str(), status.exit_code) {
        _ if unknown => "ContainerStatusUnknown",
        ("", 0) => "Completed",
        ("", _) => "Error",
        (reason, _) => reason,
    };
    let said = view.memory.messages.get(seen.id()).cloned();
    let message = said.or_else(|| Some(status.message.clone())).filter(|it| !it.is_empty());
    ContainerStateTerminated {
        container_id: Some(identity(view.runtime, seen.id())),
        exit_code: if unknown { 137 } else { status.exit_code },
        finished_at: Some(time(seen.finished())),
        started_at: Some(time(seen.started())),
        reason: Some(reason.into()),
        message,
        signal: None,
    }
}

fn conditions(
    pod: &Pod,
    phase: &str,
    init: Init,
    mains: &[ContainerStatus],
    view: View<'_>,
) -> Vec<PodCondition> {
    let before: Vec<PodCondition> =
        pod.status.as_ref().and_then(|it| it.conditions.clone()).unwrap_or_default();
    let sandboxed = view.seen.sandbox().is_some() && !view.over;
    let has_addresses = view::host_network(pod) || !view.seen.addresses().is_empty();
    let (unready, reason): (Vec<&str>, _) = {
        let main = mains.iter().filter(|it| !it.ready).map(|it| it.name.as_str());
        (main.collect(), "ContainersNotReady")
    };
    let over = matches!(phase, "Succeeded" | "Failed");
    let not_ready = match phase {
        "Succeeded" => Some(("PodCompleted", String::new())),
        "Failed" => Some(("PodFailed", String::new())),
        _ if unready.is_empty() => None,
        _ => Some((reason, format!("containers with unready status: [{}]", unready.join(" ")))),
    };
    let closed: Vec<String> = view::spec(pod)
        .readiness_gates
        .iter()
        .flatten()
        .map(|it| &it.condition_type)
        .filter(|gate| !before.iter().any(|it| it.type_ == **gate && it.status == "True"))
        .cloned()
        .collect();
    let gated = (!closed.is_empty()).then(|| {
        let message = format!(
            "corresponding condition of pod readiness gate {closed:?} does not exist or is not \
             True."
        );
        ("ReadinessGatesNotReady", message)
    });
    let waits: Vec<&str> = view::init_containers(pod)
        .iter()
        .filter(|it| {
            !view.seen.newest(&it.name).is_some_and(|it| it.exited() && it.status.exit_code == 0)
        })
        .map(|it| it.name.as_str())
        .collect();
    let uninitialized = (init != Init::Done && phase != "Succeeded").then(|| {
        let message = format!("containers with incomplete status: [{}]", waits.join(" "));
        ("ContainersNotInitialized", message)
    });
    let completed = (phase == "Succeeded").then(|| ("PodCompleted", String::new()));
    let answers = [
        (sandboxed && has_addresses, None),
        (uninitialized.is_none(), uninitialized.or(completed)),
        (!over && not_ready.is_none() && gated.is_none(), not_ready.clone().or(gated)),
        (!over && not_ready.is_none(), not_ready),
        (true, None),
    ];
    let mut all: Vec<PodCondition> = CONDITIONS
        .iter()
        .zip(answers)
        .map(|(kind, (holds, why))| {
            let status = if holds { "True" } else { "False" };
            let old = before.iter().find(|it| it.type_ == *kind);
            let since = old.filter(|it| it.status == status);
            let since = since.and_then(|it| it.last_transition_time.clone());
            let (reason, message) = why.unzip();
            PodCondition {
                type_: (*kind).into(),
                status: status.into(),
                last_transition_time: Some(since.unwrap_or_else(|| time(view.now))),
                reason: reason.map(str::to_owned),
                message: message.filter(|it: &String| !it.is_empty()),
                observed_generation: pod.metadata.generation,
                last_probe_time: None,
            }
        })
        .collect();
    all.extend(before.into_iter().filter(|it| !is_ours(it)));
    all
}

/// That the pod was ended for another's sake, by us now or before.
fn disruption(pod: &Pod, before: &PodStatus, view: View<'_>) -> Option<PodCondition> {
    let is_told = |it: &&PodCondition| it.type_ == DISRUPTION && is_ours(it);
    let told = before.conditions.iter().flatten().find(is_told).cloned();
    let why = view.memory.ended.as_ref().and_then(|it| it.disruption);
    let fresh = |why: &str| PodCondition {
        type_: DISRUPTION.into(),
        status: "True".into(),
        last_transition_time: Some(time(view.now)),
        reason: Some(BY_US.into()),
        message: Some(why.into()),
        observed_generation: pod.metadata.generation,
        last_probe_time: None,
    };
    told.or_else(|| why.map(fresh))
}

/// What is under way about the pod's amounts.
fn resizes(pod: &Pod, phase: &str, before: &PodStatus, view: View<'_>) -> Vec<PodCondition> {
    if view.over || matches!(phase, "Succeeded" | "Failed") {
        return Vec::new();
    }
    let Resize { pending, given, failed } = &view.memory.resize;
    let behind = view::all_containers(pod).any(|container| {
        let seen = view.seen.newest(&container.name);
        seen.is_some_and(|it| view.memory.allocation.is_behind(container, it))
    });
    let condition = |kind: &str, generation: Option<i64>, why: Option<(&str, &String)>| {
        let old = before.conditions.iter().flatten().find(|it| it.type_ == kind);
        let since = old.and_then(|it| it.last_transition_time.clone());
        PodCondition {
            type_: kind.into(),
            status: "True".into(),
            last_transition_time: Some(since.unwrap_or_else(|| time(view.now))),
            reason: why.map(|(reason, _)| reason.to_owned()),
            message: why.map(|(_, message)| message.clone()),
            observed_generation: generation,
            last_probe_time: None,
        }
    };
    let [waits, works] = RESIZES;
    let waits =
        pending.as_ref().map(|it| condition(waits, it.generation, Some((it.reason, &it.message))));
    let works = (behind || given.is_some()).then(|| {
        let generation = given.flatten().or(pod.metadata.generation);
        condition(works, generation, failed.as_ref().map(|(message, _)| ("Error", message)))
    });
    waits.into_iter().chain(works).collect()
}
