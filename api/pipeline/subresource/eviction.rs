//! A pod is asked to go, if its disruption budget allows.
//!
//! Keeps: the budget is charged and the pod is marked in one commit, so neither happens without the other and
//! two evictions never spend the same allowance.

use serde_json::{Value, json};

use super::super::Road;
use super::super::body;
use super::super::change::Writer;
use super::super::delete::{DeleteOptions, Verdict, decide};
use super::super::options::WriteOptions;
use super::super::reply::Reply;
use super::super::shown::{self, Shown};
use super::super::target::Target;
use super::binding::set_condition;
use super::success;
use crate::admission::Operation;
use crate::error::{Cause, Reason, Status};
use crate::object::selector::Labels;
use crate::object::time::Timestamp;
use crate::object::{GroupResource, meta};
use crate::objects::{Committed, Object, Write};
use crate::request::{Request, User};

const ATTEMPTS_MAX: usize = 20;
/// Pods that a budget may wait for: more would make its status grow without bound.
const DISRUPTED_MAX: usize = 2000;
const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

impl Road {
    pub(in super::super) async fn evict(
        &self,
        who: &User,
        target: Target,
        request: Request,
    ) -> Result<Reply, Status> {
        let options = WriteOptions::read("CreateOptions", &request, self.clock.now())?;
        let eviction = body::EVICTION.decode(&request.body)?;
        if meta::name(&eviction) != target.name {
            return Err(Status::bad_request("name in URL does not match name in Eviction object"));
        }
        let wanted = eviction.get("deleteOptions").cloned().unwrap_or_else(|| json!({}));
        let mut delete = DeleteOptions::read(wanted)?;
        delete.dry_run |= options.dry_run;
        let writer =
            Writer { road: self, who, target: &target, options: &options, warnings: Vec::new() };
        let mut attempt = writer.attempt(Operation::Create, None);
        attempt.object = Some(eviction);
        self.admission.mutate(&mut attempt).await?;
        self.admission.validate(&mut attempt).await?;
        let warnings = std::mem::take(&mut attempt.warnings);
        for _ in 0..ATTEMPTS_MAX {
            self.objects.barrier().await?;
            let pod = target.stored(self)?.ok_or_else(|| target.not_found())?;
            delete.check(&target, &pod)?;
            let budget = match may_ignore_budgets(pod.value()?) {
                true => None,
                false => self.budget_of(&target, pod.value()?)?,
            };
            let writes = self.eviction(&target, &delete, &pod, budget.as_ref(), options.now)?;
            if delete.dry_run || writes.is_empty() {
                return Ok(Reply::value(201, success(), warnings));
            }
            if let Committed::At(_) = self.objects.commit(&writes).await? {
                return Ok(Reply::value(201, success(), warnings));
            }
        }
        Err(Status::new(Reason::Timeout, "the pod or its PodDisruptionBudget keeps changing")
            .with_retry_after(10))
    }

    /// What an eviction writes. Nothing, where the pod is on its way already.
    fn eviction(
        &self,
        target: &Target,
        options: &DeleteOptions,
        pod: &Object,
        budget: Option<&(Target, Object)>,
        now: Timestamp,
    ) -> Result<Vec<Write>, Status> {
        let Target { kind, namespace, name, .. } = target;
        let old = pod.value()?;
        let mut writes = match decide(kind, old, options, now) {
            Verdict::Pending => return Ok(Vec::new()),
            Verdict::Mark(mut new) => {
                let why = json!({"reason": "EvictionByEvictionAPI",
                    "message": "Eviction API: evicting"});
                set_condition(&mut new, "DisruptionTarget", now, why);
                let new = shown::to_stored(kind, new);
                vec![Write::put(&kind.stored, namespace, name, &new, pod.revision())]
            }
            Verdict::Remove => {
                let own = Write::delete(&kind.stored, namespace, name, pod.revision());
                let mut writes = vec![own];
                writes.extend(self.release(target, old)?);
                writes
            }
        };
        if let Some((at, budget)) = budget
            && let Some(charged) = charge(old, budget.value()?, now)?
        {
            let write =
                Write::put(&at.kind.stored, namespace, &at.name, &charged, budget.revision());
            writes.push(write);
        }
        Ok(writes)
    }

    /// The one budget that covers the pod.
    fn budget_of(&self, target: &Target, pod: &Value) -> Result<Option<(Target, Object)>, Status> {
        let Some(kind) = self.registry.find("policy", "v1", "poddisruptionbudgets") else {
            return Ok(None);
        };
        let (all, _) = self.objects.list(&kind.stored, Some(&target.namespace))?;
        let mut found = Vec::new();
        for budget in all {
            let shown = Shown::new(&kind, budget)?;
            let selector = meta::at(shown.value()?, &["spec", "selector"]);
            let selector = Labels::from_object(selector).ok().flatten();
            if selector.is_some_and(|it| it.matches(meta::labels(pod))) {
                found.push(shown.stored().clone());
            }
        }
        if found.len() > 1 {
            return Err(Status::new(
                Reason::Unknown,
                "This pod has more than one PodDisruptionBudget, which the eviction subresource \
                 does not support.",
            ));
        }
        let Some(budget) = found.pop() else { return Ok(None) };
        let name = meta::name(budget.value()?).to_owned();
        Ok(Some((Target { kind, sub: String::new(), name, ..target.clone() }, budget)))
    }
}

/// Pods that disturb nobody by going.
fn may_ignore_budgets(pod: &Value) -> bool {
    let phase = meta::text(pod, &["status", "phase"]);
    matches!(phase, "Succeeded" | "Failed" | "Pending") || meta::is_deleting(pod)
}

fn is_ready(pod: &Value) -> bool {
    let conditions = meta::at(pod, &["status", "conditions"]).and_then(Value::as_array);
    conditions
        .into_iter()
        .flatten()
        .any(|it| meta::text(it, &["type"]) == "Ready" && meta::text(it, &["status"]) == "True")
}

/// The budget with the pod charged to it; `None` where the pod may go without; or why it may not go.
fn charge(pod: &Value, budget: &Value, now: Timestamp) -> Result<Option<Value>, Status> {
    let number =
        |field: &str| meta::at(budget, &["status", field]).and_then(Value::as_i64).unwrap_or(0);
    let name = meta::name(budget);
    let (healthy, desired) = (number("currentHealthy"), number("desiredHealthy"));
    if !is_ready(pod) {
        let policy = meta::text(budget, &["spec", "unhealthyPodEvictionPolicy"]);
        if policy == "AlwaysAllow" || (healthy >= desired && desired > 0) {
            return Ok(None);
        }
    }
    if number("observedGeneration") < meta::generation(budget) {
        let message =
            format!("The disruption budget {name} is still being processed by the server.");
        return Err(refused(message).with_retry_after(10));
    }
    let forbidden = |why: &str| {
        Err(Status::forbidden(&GroupResource::new("policy", "poddisruptionbudget"), name, why))
    };
    let allowed = number("disruptionsAllowed");
    if allowed < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    let waited_for = meta::at(budget, &["status", "disruptedPods"]).and_then(Value::as_object);
    if waited_for.is_some_and(|it| it.len() > DISRUPTED_MAX) {
        return forbidden(
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
        );
    }
    if allowed == 0 {
        return Err(refused(if healthy <= desired {
            format!(
                "The disruption budget {name} needs {desired} healthy pods and has {healthy} \
                 currently"
            )
        } else {
            format!("The disruption budget {name} does not allow evicting pods currently")
        }));
    }
    let mut charged = budget.clone();
    let status = &mut charged["status"];
    status["disruptionsAllowed"] = (allowed - 1).into();
    if !status.get("disruptedPods").is_some_and(Value::is_object) {
        status["disruptedPods"] = json!({});
    }
    status["disruptedPods"][meta::name(pod)] = now.rfc3339().into();
    Ok(Some(charged))
}

fn refused(message: String) -> Status {
    Status::new(Reason::TooManyRequests, REFUSED).with_cause(Cause {
        reason: "DisruptionBudget".into(),
        message,
        ..Cause::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(allowed: i64) -> Value {
        json!({"metadata": {"name": "b", "generation": 1}, "spec": {},
            "status": {"observedGeneration": 1, "disruptionsAllowed": allowed,
                "currentHealthy": 2, "desiredHealthy": 2}})
    }

    fn pod(ready: &str) -> Value {
        json!({"metadata": {"name": "p"},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}})
    }

    #[test]
    fn a_budget_is_charged_until_it_is_spent() {
        let now = Timestamp::from_seconds(0);
        let charged = charge(&pod("True"), &budget(1), now).unwrap().unwrap();
        assert_eq!(charged["status"]["disruptionsAllowed"], 0);
        assert_eq!(charged["status"]["disruptedPods"]["p"], now.rfc3339());
        let refused = charge(&pod("True"), &charged, now).unwrap_err();
        assert_eq!(refused.code(), 429);
        let cause = &refused.details().unwrap().causes[0];
        assert_eq!(cause.reason, "DisruptionBudget");
        assert_eq!(
            cause.message,
            "The disruption budget b needs 2 healthy pods and has 2 currently"
        );
    }

    #[test]
    fn an_unready_pod_is_free_while_enough_are_healthy() {
        let now = Timestamp::from_seconds(0);
        assert_eq!(charge(&pod("False"), &budget(0), now).unwrap(), None);
    }

    #[test]
    fn a_budget_that_is_not_up_to_date_allows_nothing() {
        let mut budget = budget(1);
        meta::set(&mut budget, "generation", 2);
        let refused = charge(&pod("True"), &budget, Timestamp::from_seconds(0)).unwrap_err();
        assert_eq!(refused.details().unwrap().retry_after_seconds, 10);
    }
}
