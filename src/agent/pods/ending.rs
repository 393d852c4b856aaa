//! The end of a pod, and of single containers.
//!
//! Keeps: containers are asked first (the hook, then the signal) and killed when their time is
//! over; sidecars go last. A pod that services lead to is not asked before they have let go of it: a
//! rolling update loses no request, whether or not the pods have hooks that wait. The object goes only
//! when nothing of the pod is left here. A shorter grace takes effect at once.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::time::{Instant, sleep, timeout};

use super::observed::{Observed, Seen};
use super::worker::{Next, Worker};
use super::{Desired, groups, orphans, sandbox, view};
use crate::agent::cri::v1::PodSandboxState;
use crate::agent::probes::{self, Target};
use crate::reconcile::events::Severity;

const RETRY_S: i64 = 2;
const RESYNC_S: i64 = 60;
/// However long a hook took: as upstream.
const GRACE_MIN_S: i64 = 2;
/// How long services may take to let go of a pod that ends. Without a leader among the masters they do not.
const SERVED_WAIT_MAX: Duration = Duration::from_secs(5);
/// Other nodes hear of it when this one does; this is for their rules to be changed too, and for what is under
/// way to be answered.
const OTHERS_WAIT: Duration = Duration::from_secs(1);

impl Worker {
    /// One look at a pod that is to end, or has ended.
    pub async fn end(&mut self, desired: &Desired) -> Next {
        let pod = &desired.pod;
        let retry = Next::At(self.now().plus_seconds(RETRY_S));
        let goes = desired.removed || view::deletion(pod).is_some();
        if self.forgotten {
            // Until the object is seen to be gone.
            return if desired.removed {
                Next::Done
            } else {
                Next::At(self.now().plus_seconds(RESYNC_S))
            };
        }
        let Some(seen) = self.observe(pod).await else { return retry };
        if seen.running().next().is_some() {
            if goes {
                self.report(pod, &seen, false).await;
            }
            self.stop_all(desired, &seen).await;
            return Next::Now;
        }
        let runtime = self.ground.parts.runtime.clone();
        for it in seen.sandboxes.iter().filter(|it| it.state() == PodSandboxState::SandboxReady) {
            if let Err(error) = runtime.stop_sandbox(&it.id).await {
                tracing::warn!(pod = view::name(pod), %error, "the sandbox does not stop");
                return retry;
            }
        }
        self.ground.room.leave(view::uid(pod));
        if !desired.removed && !self.report(pod, &seen, true).await {
            return retry;
        }
        if !goes {
            return Next::At(self.now().plus_seconds(RESYNC_S));
        }
        if let Err(why) = self.clear(pod, &seen).await {
            tracing::warn!(pod = view::name(pod), why, "what is left of the pod does not go");
            return retry;
        }
        if !desired.removed
            && let Err(status) = self.ground.parts.masters.forget(pod).await
        {
            tracing::debug!(pod = view::name(pod), %status, "the pod's object does not go");
            return retry;
        }
        self.forgotten = true;
        Next::Now
    }

    /// Removes everything of the pod from this node.
    async fn clear(&mut self, pod: &Pod, seen: &Observed) -> Result<(), String> {
        let runtime = self.ground.parts.runtime.clone();
        for it in &seen.containers {
            runtime.remove_container(it.id()).await.map_err(|error| error.to_string())?;
        }
        for it in &seen.sandboxes {
            runtime.remove_sandbox(&it.id).await.map_err(|error| error.to_string())?;
        }
        let logs = sandbox::log_directory(&self.ground.parts.settings.directories.logs, pod);
        orphans::remove_folder(&logs).map_err(|error| error.to_string())?;
        self.folder.remove().map_err(|error| error.to_string())?;
        groups::remove(&sandbox::control_group(pod));
        Ok(())
    }

    fn grace_s(&self, desired: &Desired) -> i64 {
        if desired.removed {
            // Whoever took the object away by force does not want to wait.
            return 1;
        }
        view::grace_s(&desired.pod)
    }

    /// Stops everything that runs, until it has stopped or somebody wants it sooner.
    async fn stop_all(&mut self, desired: &Desired, seen: &Observed) {
        let grace = self.grace_s(desired);
        let mut changes = self.desired.clone();
        let sooner = async {
            let is_sooner = |it: &Desired| {
                (it.removed && !desired.removed) || (!it.removed && view::grace_s(&it.pod) < grace)
            };
            if changes.wait_for(is_sooner).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let this: &Worker = self;
        let stops = async {
            let pod = &desired.pod;
            let began = Instant::now();
            let left = || grace - i64::try_from(began.elapsed().as_secs()).unwrap_or(grace);
            let (sidecars, others): (Vec<&Seen>, Vec<&Seen>) = seen.running().partition(|it| {
                view::init_containers(pod)
                    .iter()
                    .any(|spec| spec.name == it.name() && view::is_sidecar(spec))
            });
            join_all(others.into_iter().map(|it| this.stop_seen(pod, seen, it, grace))).await;
            for spec in view::init_containers(pod).iter().rev() {
                for it in sidecars.iter().filter(|it| it.name() == spec.name) {
                    this.stop_seen(pod, seen, it, left().max(GRACE_MIN_S.min(grace))).await;
                }
            }
        };
        tokio::select! {
            () = stops => {}
            () = sooner => {}
        }
    }

    async fn stop_seen(&self, pod: &Pod, seen: &Observed, container: &Seen, grace: i64) {
        let name = container.name();
        self.say(pod, name, Severity::Normal, "Killing", format!("Stopping container {name}"));
        let address = self.place(pod, seen).pod.first().cloned().unwrap_or_default();
        let (began, spec) = (Instant::now(), view::container(pod, name));
        let hook = self.pre_stop(pod, spec.as_deref(), container.id(), address, grace);
        // Who wants it gone this soon does not wait for others.
        if grace > GRACE_MIN_S && !view::host_network(pod) {
            tokio::join!(hook, self.withdrawn(seen));
        } else {
            hook.await;
        }
        self.terminate(pod, container.id(), began, grace).await;
    }

    /// Until no service leads to the pod any more, as far as it is seen here.
    async fn withdrawn(&self, seen: &Observed) {
        let addresses: Vec<IpAddr> =
            seen.addresses().iter().filter_map(|it| it.parse().ok()).collect();
        let mut served = self.ground.parts.settings.served.clone();
        let is_let_go = |served: &BTreeSet<IpAddr>| !addresses.iter().any(|it| served.contains(it));
        if is_let_go(&served.borrow()) {
            return;
        }
        let let_go = timeout(SERVED_WAIT_MAX, served.wait_for(is_let_go)).await.map(drop);
        match let_go {
            Ok(()) => sleep(OTHERS_WAIT).await,
            Err(_) => tracing::debug!(?addresses, "services still lead to a pod that is stopped"),
        }
    }

    /// Stops a container of a pod that goes on.
    pub async fn stop_one(&self, pod: &Pod, container: &Container, id: &str) {
        let probe = container.liveness_probe.as_ref().or(container.startup_probe.as_ref());
        let grace = probe
            .and_then(|it| it.termination_grace_period_seconds)
            .or(view::spec(pod).termination_grace_period_seconds)
            .unwrap_or(30)
            .max(1);
        let address = pod.status.as_ref().and_then(|it| it.pod_ip.clone()).unwrap_or_default();
        let began = Instant::now();
        self.pre_stop(pod, Some(container), id, address, grace).await;
        self.terminate(pod, id, began, grace).await;
    }

    /// Runs the hook, if there is one.
    async fn pre_stop(
        &self,
        pod: &Pod,
        spec: Option<&Container>,
        id: &str,
        address: String,
        grace: i64,
    ) {
        let hook = spec.and_then(|it| it.lifecycle.as_ref()?.pre_stop.as_ref());
        if let (Some(hook), Some(spec)) = (hook, spec) {
            let target = Target {
                runtime: self.ground.parts.runtime.clone(),
                container: id.to_owned(),
                address,
                spec: Arc::new(spec.clone()),
            };
            let wait = Duration::from_secs(grace.unsigned_abs());
            let ran = timeout(wait, probes::hook(&target, hook)).await;
            if let Ok(Err(why)) = ran {
                let message = format!("PreStopHook failed: {why}");
                self.say(pod, &spec.name, Severity::Warning, "FailedPreStopHook", message);
            }
        }
    }

    /// Asks it to end, and kills it when what is left of its grace since `began` is over.
    async fn terminate(&self, pod: &Pod, id: &str, began: Instant, grace: i64) {
        let spent = i64::try_from(began.elapsed().as_secs()).unwrap_or(grace);
        let left = (grace - spent).max(GRACE_MIN_S.min(grace));
        if let Err(error) = self.ground.parts.runtime.stop_container(id, left).await {
            tracing::warn!(pod = view::name(pod), %error, "a container does not stop");
            sleep(Duration::from_secs(1)).await;
        }
    }
}
