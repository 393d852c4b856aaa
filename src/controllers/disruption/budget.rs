//! How many pods of a budget may be ended now. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kontiki_api::object::time::Timestamp;

use super::super::pods;

/// How long an eviction may take until its pod shows it.
pub const EVICTION_S: i64 = 120;
const CONDITION: &str = "DisruptionAllowed";

/// Whether the budget has to know how many pods its controllers want, not only how many there are.
#[must_use]
pub fn asks_for_scale(budget: &PodDisruptionBudget) -> bool {
    let Some(spec) = &budget.spec else { return false };
    spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_)))
}

/// How many pods there should be, and how many of them have to be healthy. `scale` is what their controllers
/// want.
#[must_use]
pub fn expected(budget: &PodDisruptionBudget, pods: usize, scale: i32) -> (i32, i32) {
    let spec = budget.spec.as_ref();
    if let Some(most) = spec.and_then(|spec| spec.max_unavailable.as_ref()) {
        return (scale, (scale - share(most, scale)).max(0));
    }
    match spec.and_then(|spec| spec.min_available.as_ref()) {
        Some(IntOrString::Int(least)) => (i32::try_from(pods).unwrap_or(i32::MAX), *least),
        Some(least) => (scale, share(least, scale)),
        None => (i32::try_from(pods).unwrap_or(i32::MAX), 0),
    }
}

/// A number, or a percentage of `whole` rounded up.
fn share(of: &IntOrString, whole: i32) -> i32 {
    match of {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let product = percent.saturating_mul(i64::from(whole));
            i32::try_from(product.saturating_add(99).div_euclid(100)).unwrap_or(i32::MAX)
        }
    }
}

/// The evictions that are under way: granted, and not shown by their pods yet.
#[must_use]
pub fn under_way(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    now: Timestamp,
) -> BTreeMap<String, Time> {
    let known = budget.status.as_ref().and_then(|status| status.disrupted_pods.clone());
    let mut known = known.unwrap_or_default();
    known.retain(|name, since| {
        let pod = pods.iter().find(|pod| pod.metadata.name.as_ref() == Some(name));
        pod.is_some_and(|pod| pod.metadata.deletion_timestamp.is_none())
            && now <= Timestamp::from(since.0).plus_seconds(EVICTION_S)
    });
    known
}

#[must_use]
pub fn healthy(pods: &[Arc<Pod>], under_way: &BTreeMap<String, Time>) -> i32 {
    let counts = |pod: &&Arc<Pod>| {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        pods::is_ready(pod)
            && pod.metadata.deletion_timestamp.is_none()
            && !under_way.contains_key(name)
    };
    i32::try_from(pods.iter().filter(counts).count()).unwrap_or(i32::MAX)
}

/// The status that says so.
#[must_use]
pub fn status(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    scale: i32,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    let (expected, desired) = expected(budget, pods.len(), scale);
    let under_way = under_way(budget, pods, now);
    let current = healthy(pods, &under_way);
    let allowed = if expected <= 0 { 0 } else { (current - desired).max(0) };
    let reason = if allowed > 0 { "SufficientPods" } else { "InsufficientPods" };
    PodDisruptionBudgetStatus {
        current_healthy: Some(current),
        desired_healthy: Some(desired),
        expected_pods: Some(expected),
        disruptions_allowed: Some(allowed),
        disrupted_pods: Some(under_way).filter(|it| !it.is_empty()),
        observed_generation: budget.metadata.generation,
        conditions: Some(with_condition(budget, allowed > 0, reason, "", now)),
    }
}

/// The status of a budget that could not be counted: nothing is allowed.
#[must_use]
pub fn failed(
    budget: &PodDisruptionBudget,
    why: &str,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    PodDisruptionBudgetStatus {
        disruptions_allowed: Some(0),
        observed_generation: budget.metadata.generation,
        conditions: Some(with_condition(budget, false, "SyncFailed", why, now)),
        ..budget.status.clone().unwrap_or_default()
    }
}

fn with_condition(
    budget: &PodDisruptionBudget,
    allowed: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> Vec<Condition> {
    let mut all = budget.status.as_ref().and_then(|it| it.conditions.clone()).unwrap_or_default();
    let before = all.iter().find(|it| it.type_ == CONDITION).cloned();
    all.retain(|it| it.type_ != CONDITION);
    let state = if allowed { "True" } else { "False" };
    let since = before.filter(|it| it.status == state).map(|it| it.last_transition_time);
    all.push(Condition {
        type_: CONDITION.into(),
        status: state.into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: since.unwrap_or_else(|| Time(now.moment())),
        observed_generation: budget.metadata.generation,
    });
    all
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn budget(spec: Value, status: Value) -> PodDisruptionBudget {
        serde_json::from_value(json!({"metadata": {"name": "b", "generation": 2},
            "spec": spec, "status": status}))
        .unwrap()
    }

    fn pods(ready: usize, not_ready: usize) -> Vec<Arc<Pod>> {
        let one = |n: usize| {
            let state = if n < ready { "True" } else { "False" };
            let value = json!({"metadata": {"name": format!("p{n}")}, "status": {
                "conditions": [{"type": "Ready", "status": state}]}});
            Arc::new(serde_json::from_value(value).unwrap())
        };
        (0..ready + not_ready).map(one).collect()
    }

    #[test]
    fn a_budget_allows_what_is_healthy_beyond_what_it_wants() {
        let nothing = json!({"currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0,
            "disruptionsAllowed": 0});
        let table = [
            (json!({"minAvailable": 2}), 3, 0, 9, [3, 2, 1]),
            (json!({"minAvailable": 2}), 1, 2, 9, [3, 2, 0]),
            (json!({"minAvailable": "50%"}), 5, 0, 5, [5, 3, 2]),
            (json!({"maxUnavailable": 1}), 5, 0, 5, [5, 4, 1]),
            (json!({"maxUnavailable": "30%"}), 10, 0, 10, [10, 7, 3]),
            (json!({"maxUnavailable": 9}), 3, 0, 3, [3, 0, 3]),
            (json!({"minAvailable": 0}), 0, 0, 0, [0, 0, 0]),
        ];
        for (spec, ready, not_ready, scale, expected) in table {
            let budget = budget(spec.clone(), nothing.clone());
            let found = status(&budget, &pods(ready, not_ready), scale, Timestamp::default());
            let found = [found.expected_pods, found.desired_healthy, found.disruptions_allowed];
            assert_eq!(found, expected.map(Some), "{spec}");
        }
    }

    #[test]
    fn an_eviction_under_way_counts_until_it_shows_or_fails() {
        let budget = budget(
            json!({"minAvailable": 1}),
            json!({"currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0,
                "disruptionsAllowed": 0, "disruptedPods": {"p0": "2026-01-01T00:00:00Z",
                    "other": "2026-01-01T00:00:00Z"}}),
        );
        let at = |text: &str| Timestamp::parse(text).unwrap();
        let early = status(&budget, &pods(2, 0), 2, at("2026-01-01T00:01:00Z"));
        assert_eq!(early.disrupted_pods.as_ref().map(BTreeMap::len), Some(1));
        assert_eq!((early.current_healthy, early.disruptions_allowed), (Some(1), Some(0)));
        let late = status(&budget, &pods(2, 0), 2, at("2026-01-01T00:02:01Z"));
        assert_eq!(late.disrupted_pods, None);
        assert_eq!(late.disruptions_allowed, Some(1));
    }
}
