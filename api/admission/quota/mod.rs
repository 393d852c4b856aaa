//! ResourceQuota: a namespace takes no more than it may.
//!
//! Keeps: the new usage is committed with the object, and only if the quota is still what it was counted
//! from. So the sum of what was let in never passes a limit, whoever writes at the same time and wherever.
//! Objects of a namespace with quotas are let in one after another on each master, so that writers do not
//! outrun each other again and again.

pub mod usage;

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Mutex as Turn;

use super::resources::{ResourceList, add, read, write};
use super::{Attempt, Operation, Plugin};
use crate::error::Status;
use crate::kinds::kind::Stored;
use crate::live::{self, Live};
use crate::object::Quantity;
use crate::object::time::{Clock, Timestamp};
use crate::objects::{Object, Objects, Write};

use usage::{Counted, concerns, constraints, in_scope, is_terminating};

/// Namespaces whose turns are kept before those that nobody waits for are let go.
const TURNS_KEPT: usize = 1024;

pub(super) struct ResourceQuota {
    live: Arc<Live>,
    objects: Objects,
    quotas: Stored,
    clock: Clock,
    turns: Mutex<HashMap<String, Arc<Turn<()>>>>,
}

impl ResourceQuota {
    pub(super) fn new(live: Arc<Live>, objects: Objects, clock: Clock) -> ResourceQuota {
        let quotas = live::stored("", "resourcequotas", "v1", "ResourceQuota");
        ResourceQuota { live, objects, quotas, clock, turns: Mutex::default() }
    }

    fn turn_of(&self, namespace: &str) -> Arc<Turn<()>> {
        let mut turns = self.turns.lock();
        if turns.len() >= TURNS_KEPT {
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        }
        turns.entry(namespace.to_owned()).or_default().clone()
    }

    async fn take(&self, attempt: &mut Attempt<'_>) -> Result<(), Status> {
        let namespace = attempt.namespace.to_owned();
        // A quota says nothing before it was counted, and by then the table knows of it.
        if !handles(attempt) || !self.live.quotas.has_within(&namespace) {
            return Ok(());
        }
        if !attempt.dry_run {
            attempt.held.push(self.turn_of(&namespace).lock_owned().await);
        }
        let now = self.clock.now();
        let quotas = self.read(&namespace)?;
        let charged = match count(attempt, &quotas, now) {
            // What this member has may be old: usage that was given back elsewhere is not in it yet.
            Err(_) => {
                self.objects.barrier().await?;
                let quotas = self.read(&namespace)?;
                count(attempt, &quotas, now).map_err(|why| attempt.forbidden(&why))?
            }
            Ok(charged) => charged,
        };
        for (quota, used) in charged {
            let mut value = quota.value()?.clone();
            value["status"]["used"] = write(&used);
            let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let revision = quota.revision();
            attempt.along.push(Write::put(&self.quotas, &namespace, &name, &value, revision));
        }
        Ok(())
    }

    fn read(&self, namespace: &str) -> Result<Vec<Object>, Status> {
        Ok(self.objects.list(&self.quotas, Some(namespace))?.0)
    }
}

impl Plugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn charge<'a>(&'a self, attempt: &'a mut Attempt<'_>) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move { self.take(attempt).await })
    }
}

/// Which writes change what an object takes.
fn handles(attempt: &Attempt<'_>) -> bool {
    if attempt.namespace.is_empty() {
        return false;
    }
    let counted = Counted::of(&attempt.kind.group, &attempt.kind.resource);
    let both = || attempt.object.as_ref().zip(attempt.old);
    match (attempt.operation, attempt.subresource) {
        (Operation::Create, "") => true,
        (Operation::Update, "") => match counted {
            Counted::Service | Counted::Claim => true,
            Counted::Pod => {
                both().is_some_and(|(new, old)| is_terminating(new) != is_terminating(old))
            }
            Counted::Number => false,
        },
        (Operation::Update, "resize") => counted == Counted::Pod,
        (Operation::Update, "status") => {
            let changed = |new: &Value, old: &Value| {
                let status = |field: &str| new["status"][field] != old["status"][field];
                status("allocatedResources")
                    || status("currentVolumeAttributesClassName")
                    || status("modifyVolumeStatus")
            };
            counted == Counted::Claim && both().is_some_and(|(new, old)| changed(new, old))
        }
        _ => false,
    }
}

/// Each quota that the write takes of, with its new usage; the error is why it may not.
fn count(
    attempt: &Attempt<'_>,
    quotas: &[Object],
    now: Timestamp,
) -> Result<Vec<(Object, ResourceList)>, String> {
    let Some(object) = &attempt.object else { return Ok(Vec::new()) };
    let taking = Taking {
        group: &attempt.kind.group,
        resource: &attempt.kind.resource,
        object,
        old: attempt.old.filter(|_| attempt.operation == Operation::Update),
        refuses: attempt.subresource != "status",
        now,
    };
    let mut charged = Vec::new();
    for quota in quotas {
        let value = quota.value().map_err(|status| status.message().to_owned())?;
        if let Some(used) = taking.of(value)? {
            charged.push((quota.clone(), used));
        }
    }
    Ok(charged)
}

/// A write that takes of quotas.
struct Taking<'a> {
    group: &'a str,
    resource: &'a str,
    object: &'a Value,
    /// What it replaces.
    old: Option<&'a Value>,
    /// Whether it can be refused: a status tells what is so already.
    refuses: bool,
    now: Timestamp,
}

impl Taking<'_> {
    /// The new usage of one quota; `None`: it takes nothing of it.
    fn of(&self, quota: &Value) -> Result<Option<ResourceList>, String> {
        let name = quota["metadata"]["name"].as_str().unwrap_or_default();
        let hard = read(&quota["status"]["hard"]);
        let used = read(&quota["status"]["used"]);
        let limited: Vec<&str> = hard
            .keys()
            .map(String::as_str)
            .filter(|name| concerns(self.group, self.resource, name))
            .collect();
        if limited.is_empty() || !in_scope(self.group, self.resource, quota, self.object) {
            return Ok(None);
        }
        if Counted::of(self.group, self.resource) == Counted::Pod {
            let said = constraints(&limited, self.object);
            said.map_err(|missing| format!("failed quota: {name}: {missing}"))?;
        }
        if limited.iter().any(|resource| !used.contains_key(*resource)) {
            let limited = limited.join(",");
            return Err(format!("status unknown for quota: {name}, resources: {limited}"));
        }
        let mut asked = usage::usage(self.group, self.resource, self.object, self.now);
        let negative: Vec<&str> = asked
            .iter()
            .filter(|(_, it)| it.is_negative())
            .map(|(name, _)| name.as_str())
            .collect();
        if !negative.is_empty() {
            let negative = negative.join(",");
            return Err(format!("quota usage is negative for resource(s): {negative}"));
        }
        // What the object took before counts only if it was in the quota before.
        if let Some(old) = self.old.filter(|old| in_scope(self.group, self.resource, quota, old)) {
            for (name, before) in usage::usage(self.group, self.resource, old, self.now) {
                if let Some(now) = asked.get_mut(&name) {
                    *now = now.minus(before).max(Quantity::ZERO);
                }
            }
        }
        asked.retain(|name, quantity| !quantity.is_zero() && hard.contains_key(name));
        if asked.is_empty() {
            return Ok(None);
        }
        let mut next = used.clone();
        add(&mut next, &asked);
        let over = |name: &&String| next.get(*name) > hard.get(*name);
        let exceeded: Vec<&String> = asked.keys().filter(over).collect();
        if self.refuses && !exceeded.is_empty() {
            let told = |list: &ResourceList| {
                let of = |name: &&String| list.get(*name).map(|it| format!("{name}={it}"));
                exceeded.iter().filter_map(of).collect::<Vec<_>>().join(",")
            };
            return Err(format!(
                "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
                told(&asked),
                told(&used),
                told(&hard)
            ));
        }
        Ok(Some(next))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn quota(hard: Value, used: Value) -> Value {
        json!({"metadata": {"name": "q"}, "status": {"hard": hard, "used": used}})
    }

    fn taking<'a>(object: &'a Value, old: Option<&'a Value>) -> Taking<'a> {
        let now = Timestamp::from_seconds(0);
        Taking { group: "", resource: "pods", object, old, refuses: true, now }
    }

    fn pod(cpu: &str) -> Value {
        json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
    }

    #[test]
    fn what_fits_is_added_and_what_does_not_is_told() {
        let limits = quota(
            json!({"pods": "3", "requests.cpu": "1", "secrets": "1"}),
            json!({"pods": "2", "requests.cpu": "500m", "secrets": "1"}),
        );
        let small = pod("500m");
        let used = taking(&small, None).of(&limits).unwrap().unwrap();
        assert_eq!(write(&used), json!({"pods": "3", "requests.cpu": "1", "secrets": "1"}));
        let large = pod("600m");
        assert_eq!(
            taking(&large, None).of(&limits).unwrap_err(),
            "exceeded quota: q, requested: requests.cpu=600m, used: requests.cpu=500m, limited: \
             requests.cpu=1"
        );
        let full = quota(json!({"pods": "2"}), json!({"pods": "2"}));
        assert_eq!(
            taking(&small, None).of(&full).unwrap_err(),
            "exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2"
        );
    }

    #[test]
    fn a_quota_that_was_never_counted_lets_nothing_in() {
        let fresh = quota(json!({"pods": "3", "cpu": "1"}), json!({}));
        let pod = pod("1");
        assert_eq!(
            taking(&pod, None).of(&fresh).unwrap_err(),
            "status unknown for quota: q, resources: cpu,pods"
        );
    }

    #[test]
    fn a_change_is_charged_for_the_difference() {
        let limits = quota(json!({"requests.cpu": "2"}), json!({"requests.cpu": "1"}));
        let (before, after) = (pod("1"), pod("1500m"));
        let used = taking(&after, Some(&before)).of(&limits).unwrap().unwrap();
        assert_eq!(write(&used), json!({"requests.cpu": "1500m"}));
        assert_eq!(taking(&before, Some(&after)).of(&limits), Ok(None));
    }

    #[test]
    fn what_the_quota_does_not_limit_is_free() {
        let other = quota(json!({"secrets": "0"}), json!({"secrets": "0"}));
        let pod = pod("1");
        assert_eq!(taking(&pod, None).of(&other), Ok(None));
    }
}
