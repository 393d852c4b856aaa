//! The rules by which a Job counts failures, waits after them, and is content with less than everything.
//! Pure.

use k8s_openapi::api::batch::v1::{
    PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule, SuccessPolicy,
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kontiki_api::object::time::Timestamp;

use super::indexes::Indexes;
use super::pods::finished_at;
use crate::controllers::amount;

/// After the first failure a Job waits this long; twice as long after each further one.
const BACKOFF_FIRST_S: i64 = 10;
const BACKOFF_MAX_S: i64 = 600;

/// What a failure policy says of a failed pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The failure counts towards the limits.
    pub counts: bool,
    pub fails_index: bool,
    /// The Job has failed, for this reason.
    pub fails_job: Option<String>,
}

/// The first rule that fits decides; a failure that none fits counts.
pub fn judge(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Verdict {
    let rules = policy.map(|policy| policy.rules.as_slice()).unwrap_or_default();
    for (position, rule) in rules.iter().enumerate() {
        let Some(what) = matched(rule, pod) else { continue };
        let counting = Verdict { counts: true, ..Verdict::default() };
        return match rule.action.as_str() {
            "Ignore" => Verdict::default(),
            "FailIndex" => Verdict { fails_index: true, ..counting },
            "FailJob" => {
                let message = format!("{what} matching FailJob rule at index {position}");
                Verdict { fails_job: Some(message), ..counting }
            }
            "Count" => counting,
            _ => continue,
        };
    }
    Verdict { counts: true, ..Verdict::default() }
}

/// What about the pod a rule fits, in words.
fn matched(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let name = format!(
        "{}/{}",
        pod.metadata.namespace.as_deref().unwrap_or_default(),
        pod.metadata.name.as_deref().unwrap_or_default()
    );
    if let Some(codes) = &rule.on_exit_codes {
        let init = status.init_container_statuses.iter().flatten();
        let mut all = status.container_statuses.iter().flatten().chain(init);
        let (container, code) = all.find_map(|it| Some((it, exit_code(it, codes)?)))?;
        return Some(format!(
            "Container {} for pod {name} failed with exit code {code}",
            container.name
        ));
    }
    let patterns = rule.on_pod_conditions.as_deref()?;
    let fits = status.conditions.iter().flatten().find(|condition| {
        patterns.iter().any(|pattern| {
            // Said or not, "True" is meant.
            let wanted = pattern.status.as_deref().unwrap_or("True");
            pattern.type_ == condition.type_ && wanted == condition.status
        })
    })?;
    Some(format!("Pod {name} has condition {}", fits.type_))
}

fn exit_code(
    status: &ContainerStatus,
    wanted: &PodFailurePolicyOnExitCodesRequirement,
) -> Option<i32> {
    let code = status.state.as_ref()?.terminated.as_ref()?.exit_code;
    let named = wanted.container_name.as_ref().is_none_or(|name| *name == status.name);
    let fits = match wanted.operator.as_str() {
        "In" => wanted.values.contains(&code),
        "NotIn" => !wanted.values.contains(&code),
        _ => false,
    };
    (named && code != 0 && fits).then_some(code)
}

/// Which rule of a success policy the indexes that succeeded satisfy, in upstream's words.
pub fn is_content(
    policy: Option<&SuccessPolicy>,
    completions: i32,
    succeeded: &Indexes,
) -> Option<String> {
    if succeeded.is_empty() {
        return None;
    }
    let rules = &policy?.rules;
    let position = rules.iter().position(|rule| match &rule.succeeded_indexes {
        Some(text) => {
            let wanted = Indexes::parse(text, completions);
            let have = wanted.overlap(succeeded);
            !wanted.is_empty()
                && (have == wanted.len() || rule.succeeded_count.is_some_and(|few| have >= few))
        }
        None => rule.succeeded_count.is_some_and(|few| succeeded.len() >= few),
    })?;
    Some(format!("Matched rules at index {position}"))
}

/// Failures in a row, for the delay before the next pods. It lives in memory: a new leader begins afresh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: i32,
    last: Option<Timestamp>,
}

impl Backoff {
    /// Takes note of pods that ended. A success makes earlier failures void.
    #[must_use]
    pub fn after(self, succeeded: &[&Pod], failed: &[&Pod]) -> Backoff {
        let success = succeeded.iter().map(|pod| finished_at(pod)).max();
        let times = failed.iter().map(|pod| finished_at(pod));
        let times: Vec<_> = times.filter(|at| success.is_none_or(|it| *at > it)).collect();
        let before = if success.is_some() { Backoff::default() } else { self };
        Backoff {
            failures: before.failures.saturating_add(amount::count(times.len())),
            last: times.into_iter().max().or(before.last),
        }
    }

    /// Seconds until more pods may be made.
    #[must_use]
    pub fn left_s(self, now: Timestamp) -> i64 {
        self.last.map_or(0, |last| left_s(self.failures, last, now))
    }
}

/// Seconds that are left of the delay after so many failures.
pub fn left_s(failures: i32, last: Timestamp, now: Timestamp) -> i64 {
    if failures <= 0 {
        return 0;
    }
    let doubled = (failures - 1).min(20);
    let delay = (BACKOFF_FIRST_S << doubled).min(BACKOFF_MAX_S);
    let left_us = last.plus_seconds(delay).micros_since(now);
    (left_us.max(0) + 999_999) / 1_000_000
}
