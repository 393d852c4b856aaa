//! What to do next for a pod. Pure: the same view gives the same steps.
//!
//! Keeps: init containers run one after the other, each to its end, sidecars stay; only then the
//! others start. A container runs at most once per sandbox at a time. An end that is final is never
//! undone.

use k8s_openapi::api::core::v1::{Container, Pod};
use kontiki_api::object::time::Timestamp;

use super::allocation::changed;
use super::memory::{Memory, Pause, Waiting, crash_pause};
use super::observed::{Observed, Seen};
use super::view::{self, Restart};
use crate::agent::cri::v1::ContainerState;

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// What is left of an earlier sandbox goes, and a new one comes.
    MakeSandbox {
        attempt: u32,
    },
    StopSandbox {
        id: String,
    },
    Start {
        container: String,
        attempt: u32,
        crashed: Option<Pause>,
    },
    /// It ended and waits for its next turn.
    Wait {
        container: String,
        waiting: Waiting,
    },
    Stop {
        id: String,
        container: String,
        why: &'static str,
    },
    /// It is to begin anew, with other amounts.
    Replace {
        id: String,
        container: String,
    },
    /// The runtime is told of the amounts of these containers.
    Resize {
        containers: Vec<String>,
    },
    /// A container that is of no use, not even for its log.
    Remove {
        id: String,
    },
}

/// What to do, and when to look again if nothing happens before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub steps: Vec<Step>,
    pub look_again: Option<Timestamp>,
}

impl Plan {
    fn at(&mut self, when: Timestamp) {
        self.look_again = Some(self.look_again.map_or(when, |it| it.min(when)));
    }
}

/// How the init containers stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    UnderWay,
    Done,
    Failed,
}

/// Decides for a pod that is to run.
#[must_use]
pub fn plan(pod: &Pod, seen: &Observed, memory: &Memory, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    if is_finished(pod, seen, memory) {
        // Sidecars are of no use without the others, and go in the reverse order.
        let last = view::init_containers(pod)
            .iter()
            .rev()
            .find_map(|it| seen.current(&it.name).filter(|it| it.is_running()));
        if let Some(last) = last {
            plan.steps.push(stop(last, "the pod has ended"));
        } else if let Some(sandbox) = seen.sandbox() {
            plan.steps.push(Step::StopSandbox { id: sandbox.id.clone() });
        }
        return plan;
    }
    let Some(sandbox) = seen.sandbox() else {
        match &memory.sandbox {
            Some(waiting) if waiting.until > now => plan.at(waiting.until),
            _ => {
                let last = seen.sandboxes.first().and_then(|it| it.metadata.as_ref());
                let attempt = last.map_or(0, |it| it.attempt + 1);
                plan.steps.push(Step::MakeSandbox { attempt });
            }
        }
        return plan;
    };
    // What ran in a sandbox that is no more.
    for old in seen.containers.iter().filter(|it| it.sandbox != sandbox.id && it.is_running()) {
        plan.steps.push(stop(old, "its sandbox is gone"));
    }
    // Whoever looks around does not wait for what does not begin.
    for container in view::ephemeral_containers(pod) {
        once(&container, seen, memory, now, &mut plan);
    }
    if init(pod, seen, memory, now, &mut plan) == Init::Done {
        for container in view::containers(pod) {
            run(pod, container, seen, memory, now, &mut plan);
        }
    }
    resize(pod, seen, memory, now, &mut plan);
    tidy(pod, seen, &mut plan);
    plan
}

/// Whether nothing is left to be run, however it ended.
#[must_use]
pub fn is_finished(pod: &Pod, seen: &Observed, memory: &Memory) -> bool {
    let policy = view::restart_policy(pod);
    if failed_init(pod, seen) {
        return true;
    }
    let over = |container: &Container| {
        seen.newest(&container.name).is_some_and(|it| {
            it.exited() && !policy.again(it.status.exit_code) && !memory.replaced.contains(it.id())
        })
    };
    policy != Restart::Always && view::containers(pod).iter().all(over)
}

/// An init container has failed for good.
#[must_use]
pub fn failed_init(pod: &Pod, seen: &Observed) -> bool {
    view::restart_policy(pod) == Restart::Never
        && view::init_containers(pod).iter().filter(|it| !view::is_sidecar(it)).any(|it| {
            seen.newest(&it.name).is_some_and(|it| it.exited() && it.status.exit_code != 0)
        })
}

/// Whether a container has begun as far as those that wait for it are concerned.
#[must_use]
pub fn has_started(container: &Container, seen: &Seen, memory: &Memory) -> bool {
    let probed = memory.probed.get(seen.id());
    seen.is_running() && (container.startup_probe.is_none() || probed.is_some_and(|it| it.started))
}

fn init(pod: &Pod, seen: &Observed, memory: &Memory, now: Timestamp, plan: &mut Plan) -> Init {
    // An init container's record may have been cleared away once it was through.
    let began = view::containers(pod).iter().any(|it| seen.current(&it.name).is_some());
    let mut later: Vec<&Container> = Vec::new();
    for container in view::init_containers(pod) {
        let current = seen.current(&container.name);
        if view::is_sidecar(container) {
            run(pod, container, seen, memory, now, plan);
            if !began && !current.is_some_and(|it| has_started(container, it, memory)) {
                return Init::UnderWay;
            }
            continue;
        }
        if began {
            continue;
        }
        match current {
            Some(it) if it.exited() && it.status.exit_code == 0 => later.push(container),
            _ => {
                run(pod, container, seen, memory, now, plan);
                return Init::UnderWay;
            }
        }
    }
    Init::Done
}

/// How init containers stand, for those who only look.
#[must_use]
pub fn init_state(pod: &Pod, seen: &Observed, memory: &Memory) -> Init {
    if failed_init(pod, seen) {
        return Init::Failed;
    }
    let began = view::containers(pod).iter().any(|it| seen.newest(&it.name).is_some());
    let through = |container: &Container| {
        seen.newest(&container.name).is_some_and(|it| {
            if view::is_sidecar(container) {
                has_started(container, it, memory)
            } else {
                it.exited() && it.status.exit_code == 0
            }
        })
    };
    if began || view::init_containers(pod).iter().all(through) {
        Init::Done
    } else {
        Init::UnderWay
    }
}

/// The next step for one container that should run, or have run.
fn run(
    pod: &Pod,
    container: &Container,
    seen: &Observed,
    memory: &Memory,
    now: Timestamp,
    plan: &mut Plan,
) {
    let name = &container.name;
    let is_init = view::init_containers(pod).iter().any(|it| it.name == *name);
    let policy = match view::restart_policy(pod) {
        _ if view::is_sidecar(container) => Restart::Always,
        // An init container that was successful is through.
        Restart::Always if is_init => Restart::OnFailure,
        policy => policy,
    };
    let start = |attempt: u32, crashed| Step::Start { container: name.clone(), attempt, crashed };
    // An image that cannot be had, a secret that is not there: tried again, later.
    if let Some(waiting) = memory.waiting.get(name)
        && waiting.until > now
        && !seen.current(name).is_some_and(Seen::is_running)
    {
        plan.at(waiting.until);
        return;
    }
    let next = seen.newest(name).map_or(0, |it| it.attempt() + 1);
    let Some(current) = seen.current(name) else {
        // In a new sandbox everything begins again, except what has ended for good.
        let over =
            seen.newest(name).is_some_and(|it| it.exited() && !policy.again(it.status.exit_code));
        if !over || is_init {
            plan.steps.push(start(next, None));
        }
        return;
    };
    match current.state() {
        ContainerState::ContainerRunning => {
            if memory.probed.get(current.id()).is_some_and(|it| it.dead) {
                plan.steps.push(stop(current, "a probe failed"));
            } else if policy == Restart::Always && is_of_another_image(container, current) {
                plan.steps.push(stop(current, "its image was changed"));
            } else if begins_anew(container, current, memory) {
                plan.steps.push(Step::Replace { id: current.id().into(), container: name.clone() });
            }
        }
        ContainerState::ContainerCreated => {
            // Made and never started; what it is for may have changed since.
            plan.steps.push(Step::Remove { id: current.id().to_owned() });
            plan.steps.push(start(current.attempt(), None));
        }
        ContainerState::ContainerExited | ContainerState::ContainerUnknown => {
            if policy == Restart::Always && is_of_another_image(container, current) {
                // However it ended: this one has not run yet.
                plan.steps.push(start(next, None));
                return;
            }
            if memory.replaced.contains(current.id()) {
                plan.steps.push(start(next, None));
                return;
            }
            if !policy.again(current.status.exit_code) {
                return;
            }
            let before = memory.crashes.get(name).copied();
            match crash_pause(before, current.started(), current.finished(), now) {
                Ok(pause) => plan.steps.push(start(next, Some(pause))),
                Err(until) => {
                    let seconds = before.map_or(0, |it| it.seconds);
                    plan.steps.push(Step::Wait {
                        container: name.clone(),
                        waiting: Waiting {
                            reason: "CrashLoopBackOff".into(),
                            message: format!(
                                "back-off {} restarting failed container={name} pod={}_{}({})",
                                human(seconds),
                                view::name(pod),
                                view::namespace(pod),
                                view::uid(pod),
                            ),
                            until,
                        },
                    });
                    plan.at(until);
                }
            }
        }
    }
}

/// The next step for a container that runs once, whatever comes of it.
fn once(container: &Container, seen: &Observed, memory: &Memory, now: Timestamp, plan: &mut Plan) {
    let name = &container.name;
    let newest = seen.newest(name);
    if newest.is_some_and(|it| it.state() != ContainerState::ContainerCreated) {
        return;
    }
    if let Some(waiting) = memory.waiting.get(name).filter(|it| it.until > now) {
        plan.at(waiting.until);
        return;
    }
    plan.steps.extend(newest.map(|it| Step::Remove { id: it.id().to_owned() }));
    plan.steps.push(Step::Start { container: name.clone(), attempt: 0, crashed: None });
}

/// Its amounts have changed in a way that it says it has to be begun anew for.
fn begins_anew(container: &Container, seen: &Seen, memory: &Memory) -> bool {
    let (told, given) =
        (memory.allocation.told(container, seen), memory.allocation.container(container));
    let restarts = |resource: &str| {
        container
            .resize_policy
            .iter()
            .flatten()
            .any(|it| it.resource_name == resource && it.restart_policy == "RestartContainer")
    };
    changed(&told, &given).any(restarts)
}

/// Tells the runtime of amounts that it has not been told of.
fn resize(pod: &Pod, seen: &Observed, memory: &Memory, now: Timestamp, plan: &mut Plan) {
    let behind = view::all_containers(pod).filter(|container| {
        let current = seen.current(&container.name);
        current.is_some_and(|it| {
            memory.allocation.is_behind(container, it) && !begins_anew(container, it, memory)
        })
    });
    let containers: Vec<String> = behind.map(|it| it.name.clone()).collect();
    if containers.is_empty() {
        return;
    }
    match &memory.resize.failed {
        Some((_, until)) if *until > now => plan.at(*until),
        _ => plan.steps.push(Step::Resize { containers }),
    }
}

/// Beside its amounts the image is the one thing of a container that can be changed while its pod runs. It
/// matters where containers are always begun anew: elsewhere the end of the old one may be the pod's.
fn is_of_another_image(container: &Container, seen: &Seen) -> bool {
    let made = seen.status.labels.get(view::CONTAINER_IMAGE);
    made.is_some_and(|made| Some(made) != container.image.as_ref())
}

/// Seconds as Go writes a duration.
fn human(seconds: i64) -> String {
    match (seconds / 60, seconds % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}

fn stop(seen: &Seen, why: &'static str) -> Step {
    Step::Stop { id: seen.id().to_owned(), container: seen.name().to_owned(), why }
}

/// Of each name the newest and the one before it stay: `logs --previous` shows that.
fn tidy(pod: &Pod, seen: &Observed, plan: &mut Plan) {
    for container in view::all_containers(pod) {
        let all = seen.containers.iter().filter(|it| it.name() == container.name);
        for old in all.skip(2).filter(|it| !it.is_running()) {
            plan.steps.push(Step::Remove { id: old.id().to_owned() });
        }
    }
}

/// The time by which the pod has to be through.
#[must_use]
pub fn deadline(pod: &Pod) -> Option<Timestamp> {
    let seconds = view::spec(pod).active_deadline_seconds?;
    let start = pod.status.as_ref()?.start_time.as_ref()?;
    Some(Timestamp::from(start.0).plus_seconds(seconds))
}
