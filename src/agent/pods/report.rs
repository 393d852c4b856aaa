//! Tells the masters how the pod is, and collects what its containers have said at their end.
//!
//! Keeps: only changes are told; a report that did not arrive is made again.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Value, json};

use super::container::log_path;
use super::observed::Observed;
use super::status::{RESIZES, View, is_ours, status};
use super::worker::Worker;
use super::{sandbox, view};

/// Upstream's bounds of a container's last words.
const WORDS_BYTES_MAX: u64 = 4096;
const LOG_BYTES_MAX: u64 = 2048;
const LOG_LINES_MAX: usize = 80;

impl Worker {
    /// The pod with the status that was last told, which its object may not show yet.
    pub fn current(&self, pod: &Pod) -> Pod {
        let mut pod = pod.clone();
        let Some(reported) = &self.reported else { return pod };
        let shown = pod.status.take().unwrap_or_default();
        let mut status = reported.clone();
        let mut conditions = status.conditions.take().unwrap_or_default();
        conditions.retain(is_ours);
        conditions.extend(shown.conditions.into_iter().flatten().filter(|it| !is_ours(it)));
        status.conditions = Some(conditions);
        status.qos_class = shown.qos_class;
        pod.status = Some(status);
        pod
    }

    /// Tells what changed. Whether the masters know now.
    pub async fn report(&mut self, pod: &Pod, seen: &Observed, over: bool) -> bool {
        let known = self.current(pod);
        let settings = self.ground.parts.settings.clone();
        let fresh = status(
            &known,
            View {
                seen,
                memory: &self.memory,
                host: &settings.addresses,
                runtime: &self.ground.runtime_name,
                now: self.now(),
                over,
            },
        );
        if matches!(fresh.phase.as_deref(), Some("Succeeded" | "Failed")) {
            // Nothing of it will run any more.
            self.ground.room.leave(view::uid(pod));
        }
        let before = pod.status.clone().unwrap_or_default();
        // What was said of a resize may have come to the object after it was over.
        let lingers = RESIZES.iter().any(|kind| shows(&before, kind) && !shows(&fresh, kind));
        if known.status.as_ref() == Some(&fresh) && !lingers {
            return true;
        }
        match self.ground.parts.masters.report(pod, patch(&before, &fresh)).await {
            Ok(()) => {
                self.reported = Some(fresh);
                true
            }
            Err(status) if status.is(kontiki_api::error::Reason::NotFound) => true,
            Err(status) => {
                tracing::debug!(pod = view::name(pod), %status, "the status was not taken");
                false
            }
        }
    }

    /// Reads what containers that ended have left for their status.
    pub fn collect_last_words(&mut self, pod: &Pod, seen: &Observed) {
        for it in seen.containers.iter().filter(|it| it.exited()) {
            if self.memory.messages.contains_key(it.id()) {
                continue;
            }
            let file = self.folder.last_words(it.name(), it.attempt());
            let mut words = head(&file).unwrap_or_default();
            let from_log = view::container(pod, it.name()).is_some_and(|spec| {
                spec.termination_message_policy.as_deref() == Some("FallbackToLogsOnError")
            });
            if words.is_empty() && from_log && it.status.exit_code != 0 {
                let logs = &self.ground.parts.settings.directories.logs;
                let log = sandbox::log_directory(logs, pod).join(log_path(it.name(), it.attempt()));
                words = tail(&log).unwrap_or_default();
            }
            self.memory.messages.insert(it.id().to_owned(), words);
        }
    }
}

fn shows(status: &PodStatus, kind: &str) -> bool {
    status.conditions.iter().flatten().any(|it| it.type_ == kind)
}

/// A strategic merge patch of what this agent decides, and of nothing else.
fn patch(before: &PodStatus, fresh: &PodStatus) -> Value {
    let ours = fresh.conditions.iter().flatten().filter(|it| is_ours(it));
    let mut ours: Vec<Value> = ours.map(|it| json!(it)).collect();
    let over = RESIZES.iter().filter(|kind| shows(before, kind) && !shows(fresh, kind));
    ours.extend(over.map(|kind| json!({"type": kind, "$patch": "delete"})));
    // Addresses are merged by their value: those that are no more have to be taken out.
    let addresses = |list: Value| match list {
        Value::Array(mut items) if !items.is_empty() => {
            items.insert(0, json!({"$patch": "replace"}));
            Value::Array(items)
        }
        other => other,
    };
    let mut patch = json!({
        "phase": fresh.phase,
        "conditions": ours,
        "containerStatuses": fresh.container_statuses,
        "startTime": fresh.start_time,
        "observedGeneration": fresh.observed_generation,
        "reason": fresh.reason,
        "message": fresh.message,
        "allocatedResources": fresh.allocated_resources,
        "resources": fresh.resources,
    });
    if fresh.ephemeral_container_statuses.is_some() {
        patch["ephemeralContainerStatuses"] = json!(fresh.ephemeral_container_statuses);
    }
    if fresh.init_container_statuses.is_some() {
        patch["initContainerStatuses"] = json!(fresh.init_container_statuses);
    }
    if before.pod_ips != fresh.pod_ips && fresh.pod_ips.is_some() {
        patch["podIP"] = json!(fresh.pod_ip);
        patch["podIPs"] = addresses(json!(fresh.pod_ips));
    }
    if before.host_ips != fresh.host_ips && fresh.host_ip.is_some() {
        patch["hostIP"] = json!(fresh.host_ip);
        patch["hostIPs"] = addresses(json!(fresh.host_ips));
    }
    patch
}

fn head(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(WORDS_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last lines of a log, without what the runtime writes before each.
fn tail(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    // What stands before each line is shorter than this.
    let from = length.saturating_sub(LOG_BYTES_MAX * 2);
    file.seek(SeekFrom::Start(from)).ok()?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES_MAX * 2).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let mut lines: Vec<&str> = text.lines().skip(usize::from(from > 0)).collect();
    let skipped = lines.len().saturating_sub(LOG_LINES_MAX);
    let lines = lines.split_off(skipped);
    let mut said = String::new();
    for line in lines {
        // `TIME stdout F text`, or P where the line goes on.
        let mut parts = line.splitn(4, ' ');
        let whole = parts.nth(2) == Some("F");
        said.push_str(parts.next().unwrap_or_default());
        if whole {
            said.push('\n');
        }
    }
    let bound = usize::try_from(LOG_BYTES_MAX).unwrap_or(usize::MAX);
    let mut from = said.len().saturating_sub(bound);
    while !said.is_char_boundary(from) {
        from += 1;
    }
    Some(said.split_off(from))
}
