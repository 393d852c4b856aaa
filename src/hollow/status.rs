//! What is said of a pod at a moment. Pure.
//!
//! Keeps: what is said already is not said again; times in it stay as they were as long as what they are
//! the times of does. What ended once stays ended.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kontiki_api::object::time::Timestamp;
use serde_json::{Value, json};

use super::orders::{Does, Orders};

/// How long a container that ended stays down before it is started again.
const RESTART_EVERY: Duration = Duration::from_secs(10);

/// When it is: by the calendar, and for this pod.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub now: Timestamp,
    /// How long the pod has been here.
    pub here: Duration,
    /// How long it has been deleted.
    pub ending: Option<Duration>,
}

/// Where the pod is.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub host: IpAddr,
    pub pod: IpAddr,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// All is said.
    Rest,
    Wait(Duration),
    Say {
        /// A patch of the pod's status.
        status: Value,
        /// When there is more to say.
        again: Option<Duration>,
    },
    /// The pod has ended, and its object may go.
    LetGo,
}

/// What the containers are at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Creating,
    Running {
        ready: bool,
    },
    /// Down between two starts.
    Resting {
        code: i32,
        restarts: i32,
    },
    Ended {
        code: i32,
    },
}

pub fn step(pod: &Pod, orders: &Orders, moment: &Moment, place: &Place) -> Step {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let ended = matches!(phase, Some("Succeeded" | "Failed"));
    if let Some(ending) = moment.ending {
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
        let grace = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
        let takes = orders.ends_after.min(grace);
        return if ending < takes {
            Step::Wait(takes - ending)
        } else if !ended {
            // One that stops when it is asked to ends well; one that must be killed does not.
            let code = if orders.ends_after > grace { 137 } else { 0 };
            say(pod, At::Ended { code }, moment, place, Some(Duration::ZERO))
        } else if grace.is_zero() {
            // A finalizer holds it.
            Step::Rest
        } else {
            Step::LetGo
        };
    }
    if ended {
        return Step::Rest;
    }
    let (at, again) = at(pod, orders, moment.here);
    say(pod, at, moment, place, again)
}

/// What the containers are at after so long, and when that changes.
fn at(pod: &Pod, orders: &Orders, here: Duration) -> (At, Option<Duration>) {
    let left = orders.after.checked_sub(here).filter(|left| !left.is_zero());
    let code = match orders.does {
        Does::Hang => return (At::Creating, None),
        Does::Unready => return (At::Running { ready: false }, None),
        Does::Run => return (At::Running { ready: left.is_none() }, left),
        Does::Succeed => 0,
        Does::Fail => 1,
    };
    if left.is_some() {
        return (At::Running { ready: true }, left);
    }
    let policy = pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
    let starts_again = match policy {
        Some("Never") => false,
        Some("OnFailure") => code != 0,
        _ => true,
    };
    if !starts_again {
        return (At::Ended { code }, None);
    }
    let over = here.saturating_sub(orders.after);
    let turns = over.as_secs() / RESTART_EVERY.as_secs();
    let next = RESTART_EVERY * u32::try_from(turns + 1).unwrap_or(u32::MAX);
    let restarts = i32::try_from(turns + 1).unwrap_or(i32::MAX);
    (At::Resting { code, restarts }, Some(next.saturating_sub(over)))
}

/// Says it, if it is not said.
fn say(pod: &Pod, at: At, moment: &Moment, place: &Place, again: Option<Duration>) -> Step {
    let before = pod.status.clone().unwrap_or_default();
    let status = status(pod, &before, at, moment.now, place);
    let said = |status: &PodStatus| {
        let conditions = status.conditions.iter().flatten();
        let conditions: Vec<_> = conditions
            .filter(|it| OWN.contains(&it.type_.as_str()))
            .map(|it| (it.type_.clone(), it.status.clone()))
            .collect();
        (
            status.phase.clone(),
            status.pod_ip.clone(),
            conditions,
            status.container_statuses.clone(),
            status.init_container_statuses.clone(),
        )
    };
    if said(&before) == said(&status) {
        return again.map_or(Step::Rest, Step::Wait);
    }
    Step::Say { status: json!(status), again }
}

/// The conditions that a node says.
const OWN: [&str; 4] = ["ContainersReady", "Initialized", "PodReadyToStartContainers", "Ready"];

fn status(pod: &Pod, before: &PodStatus, at: At, now: Timestamp, place: &Place) -> PodStatus {
    let spec = pod.spec.clone().unwrap_or_default();
    let phase = match at {
        At::Creating => "Pending",
        At::Running { .. } | At::Resting { .. } => "Running",
        At::Ended { code: 0 } => "Succeeded",
        At::Ended { .. } => "Failed",
    };
    let ready = at == (At::Running { ready: true });
    let gates = spec.readiness_gates.iter().flatten().all(|gate| {
        before
            .conditions
            .iter()
            .flatten()
            .any(|it| it.type_ == gate.condition_type && it.status == "True")
    });
    let up = !matches!(at, At::Creating);
    let over = matches!(at, At::Ended { .. });
    let condition = |kind: &str, is: bool, reason: &str| {
        let status = if is { "True" } else { "False" };
        let old = before.conditions.iter().flatten().find(|it| it.type_ == kind);
        let since = old
            .filter(|it| it.status == status)
            .and_then(|it| it.last_transition_time.clone())
            .unwrap_or_else(|| Time(now.moment()));
        let reason = match (is, over) {
            (true, _) => None,
            (false, true) => Some("PodCompleted".to_owned()),
            (false, false) => Some(reason.to_owned()).filter(|it| !it.is_empty()),
        };
        PodCondition {
            type_: kind.into(),
            status: status.into(),
            reason,
            last_transition_time: Some(since),
            observed_generation: pod.metadata.generation,
            ..PodCondition::default()
        }
    };
    let not_ready = "ContainersNotReady";
    let gated = if ready { "ReadinessGatesNotReady" } else { not_ready };
    let conditions = vec![
        condition("ContainersReady", ready, not_ready),
        condition("Initialized", up, "ContainersNotInitialized"),
        condition("PodReadyToStartContainers", up && !over, ""),
        condition("Ready", ready && gates, gated),
    ];
    let container = |container: &Container, old: &Option<Vec<ContainerStatus>>, at: At| {
        let old = old.iter().flatten().find(|it| it.name == container.name);
        container_status(container, old, at, now)
    };
    let first = |it: &Container| {
        // A sidecar runs beside the others; another has ended before they began.
        let sidecar = it.restart_policy.as_deref() == Some("Always");
        let at = if sidecar || !up { at } else { At::Ended { code: 0 } };
        container(it, &before.init_container_statuses, at)
    };
    let init: Vec<_> = spec.init_containers.iter().flatten().map(first).collect();
    let each = |it: &Container| container(it, &before.container_statuses, at);
    let address = up.then(|| place.pod.to_string());
    PodStatus {
        phase: Some(phase.into()),
        conditions: Some(conditions),
        container_statuses: Some(spec.containers.iter().map(each).collect()),
        init_container_statuses: (!init.is_empty()).then_some(init),
        host_ip: Some(place.host.to_string()),
        pod_ips: address.clone().map(|ip| vec![k8s_openapi::api::core::v1::PodIP { ip }]),
        pod_ip: address,
        start_time: Some(before.start_time.clone().unwrap_or_else(|| Time(now.moment()))),
        observed_generation: pod.metadata.generation,
        ..PodStatus::default()
    }
}

fn container_status(
    container: &Container,
    old: Option<&ContainerStatus>,
    at: At,
    now: Timestamp,
) -> ContainerStatus {
    use k8s_openapi::api::core::v1::{
        ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    };
    let old_state = old.and_then(|old| old.state.clone()).unwrap_or_default();
    let began = old_state.running.as_ref().and_then(|running| running.started_at.clone());
    let id = format!("hollow://{}", container.name);
    let moment = || Some(Time(now.moment()));
    let ended = |code: i32| ContainerStateTerminated {
        exit_code: code,
        reason: Some(if code == 0 { "Completed".into() } else { "Error".into() }),
        started_at: began.clone().or_else(moment),
        finished_at: moment(),
        container_id: Some(id.clone()),
        ..ContainerStateTerminated::default()
    };
    let waiting = |reason: &str| ContainerState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason.into()), message: None }),
        ..ContainerState::default()
    };
    let restarts_before = old.map_or(0, |old| old.restart_count);
    let mut last_state = old.and_then(|old| old.last_state.clone());
    let (state, restarts) = match at {
        At::Creating => (waiting("ContainerCreating"), restarts_before),
        At::Running { .. } => {
            let running = ContainerStateRunning { started_at: began.clone().or_else(moment) };
            let state = ContainerState { running: Some(running), ..ContainerState::default() };
            (state, restarts_before)
        }
        At::Resting { code, restarts } => {
            if restarts != restarts_before {
                let terminated = Some(ended(code));
                last_state = Some(ContainerState { terminated, ..ContainerState::default() });
            }
            (waiting("CrashLoopBackOff"), restarts)
        }
        At::Ended { code } => {
            let terminated = match &old_state.terminated {
                Some(terminated) if terminated.exit_code == code => terminated.clone(),
                _ => ended(code),
            };
            let state = ContainerState { terminated: Some(terminated), ..Default::default() };
            (state, restarts_before)
        }
    };
    ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        image_id: container.image.as_deref().map(|it| format!("hollow://{it}")).unwrap_or_default(),
        container_id: (at != At::Creating).then_some(id.clone()),
        ready: at == (At::Running { ready: true }),
        started: Some(matches!(at, At::Running { .. })),
        restart_count: restarts,
        state: Some(state),
        last_state,
        ..ContainerStatus::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place {
        host: IpAddr::V4(std::net::Ipv4Addr::new(198, 18, 0, 1)),
        pod: IpAddr::V4(std::net::Ipv4Addr::new(10, 42, 0, 2)),
    };

    fn pod(policy: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}, "spec": {
            "restartPolicy": policy, "containers": [{"name": "c", "image": "i"}]}}))
        .unwrap()
    }

    fn at(seconds: u64) -> Moment {
        let now = Timestamp::from_seconds(1_700_000_000 + i64::try_from(seconds).unwrap());
        Moment { now, here: Duration::from_secs(seconds), ending: None }
    }

    fn orders(does: Does, after: u64) -> Orders {
        Orders { does, after: Duration::from_secs(after), ..Orders::default() }
    }

    /// Says it, and makes the pod as the API would.
    fn said(pod: &mut Pod, orders: &Orders, moment: &Moment) -> Option<Duration> {
        match step(pod, orders, moment, &PLACE) {
            Step::Say { status, again } => {
                pod.status = Some(serde_json::from_value(status).unwrap());
                again
            }
            other => panic!("{other:?}"),
        }
    }

    fn phase(pod: &Pod) -> (&str, bool, i32) {
        let status = pod.status.as_ref().unwrap();
        let ready =
            status.conditions.iter().flatten().any(|it| it.type_ == "Ready" && it.status == "True");
        let container = &status.container_statuses.as_ref().unwrap()[0];
        (status.phase.as_deref().unwrap(), ready, container.restart_count)
    }

    #[test]
    fn a_pod_is_ready_when_its_time_has_come_and_nothing_is_said_twice() {
        let (mut pod, orders) = (pod("Always"), orders(Does::Run, 5));
        assert_eq!(said(&mut pod, &orders, &at(0)), Some(Duration::from_secs(5)));
        assert_eq!(phase(&pod), ("Running", false, 0));
        let step_at = |pod: &Pod, seconds| step(pod, &orders, &at(seconds), &PLACE);
        assert_eq!(step_at(&pod, 2), Step::Wait(Duration::from_secs(3)));
        assert_eq!(said(&mut pod, &orders, &at(5)), None);
        assert_eq!(phase(&pod), ("Running", true, 0));
        assert_eq!(step_at(&pod, 60), Step::Rest);
    }

    #[test]
    fn what_fails_ends_or_starts_again_as_its_policy_says() {
        for (policy, does, expected) in [
            ("Never", Does::Fail, ("Failed", false, 0)),
            ("Never", Does::Succeed, ("Succeeded", false, 0)),
            ("OnFailure", Does::Succeed, ("Succeeded", false, 0)),
            ("OnFailure", Does::Fail, ("Running", false, 1)),
            ("Always", Does::Succeed, ("Running", false, 1)),
        ] {
            let mut pod = pod(policy);
            said(&mut pod, &orders(does, 0), &at(0));
            assert_eq!(phase(&pod), expected, "{policy} {does:?}");
        }
        let (mut pod, orders) = (pod("Always"), orders(Does::Fail, 0));
        said(&mut pod, &orders, &at(0));
        said(&mut pod, &orders, &at(10));
        assert_eq!(phase(&pod), ("Running", false, 2));
    }

    #[test]
    fn orders_may_change_while_it_runs_and_what_ended_stays_ended() {
        let mut pod = pod("Never");
        said(&mut pod, &orders(Does::Run, 0), &at(0));
        said(&mut pod, &orders(Does::Unready, 0), &at(1));
        assert_eq!(phase(&pod), ("Running", false, 0));
        said(&mut pod, &orders(Does::Fail, 0), &at(2));
        assert_eq!(phase(&pod), ("Failed", false, 0));
        assert_eq!(step(&pod, &orders(Does::Run, 0), &at(3), &PLACE), Step::Rest);
    }

    #[test]
    fn a_deleted_pod_ends_within_its_grace_says_so_and_goes() {
        let mut pod = pod("Always");
        let mut orders = orders(Does::Run, 0);
        orders.ends_after = Duration::from_secs(60);
        said(&mut pod, &orders, &at(0));
        pod.metadata.deletion_timestamp = Some(Time(at(1).now.moment()));
        pod.metadata.deletion_grace_period_seconds = Some(30);
        let ending = |seconds| Moment { ending: Some(Duration::from_secs(seconds)), ..at(1) };
        let wait = step(&pod, &orders, &ending(10), &PLACE);
        assert_eq!(wait, Step::Wait(Duration::from_secs(20)));
        said(&mut pod, &orders, &ending(30));
        assert_eq!(phase(&pod), ("Failed", false, 0), "it had to be killed");
        assert_eq!(step(&pod, &orders, &ending(30), &PLACE), Step::LetGo);
        pod.metadata.deletion_grace_period_seconds = Some(0);
        assert_eq!(step(&pod, &orders, &ending(31), &PLACE), Step::Rest, "a finalizer holds it");
    }
}
