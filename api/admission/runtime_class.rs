//! RuntimeClass: the class must be there, and adds what running in it costs and where it can run.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::resources::read;
use super::{Attempt, Plugin};
use crate::error::Status;
use crate::kinds::kind::Stored;
use crate::live::pod::items;
use crate::live::{self, Live};
use crate::objects::{Object, Objects};

pub(super) struct RuntimeClass {
    live: Arc<Live>,
    objects: Objects,
    classes: Stored,
}

impl RuntimeClass {
    pub(super) fn new(live: Arc<Live>, objects: Objects) -> RuntimeClass {
        let classes = live::stored("node.k8s.io", "runtimeclasses", "v1", "RuntimeClass");
        RuntimeClass { live, objects, classes }
    }

    async fn class(&self, attempt: &Attempt<'_>) -> Result<Option<Object>, Status> {
        let Some(pod) = &attempt.object else { return Ok(None) };
        let Some(name) = pod["spec"]["runtimeClassName"].as_str() else { return Ok(None) };
        let found = match self.live.runtime_classes.get("", name) {
            Some(class) => Some(class),
            None => live::find(&self.objects, &self.classes, "", name).await?,
        };
        let why = format!("pod rejected: RuntimeClass {name:?} not found");
        found.map(Some).ok_or_else(|| attempt.forbidden(&why))
    }
}

fn concerns(attempt: &Attempt<'_>) -> bool {
    attempt.is_create() && attempt.is_of("", "pods")
}

impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn mutate<'a>(&'a self, attempt: &'a mut Attempt<'_>) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            if !concerns(attempt) {
                return Ok(());
            }
            let Some(class) = self.class(attempt).await? else { return Ok(()) };
            let class = class.value()?;
            let filled = attempt.object.as_mut().map_or(Ok(()), |pod| fill_in(pod, class));
            filled.map_err(|why| attempt.forbidden(&why))
        })
    }

    fn validate<'a>(&'a self, attempt: &'a mut Attempt<'_>) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            if !concerns(attempt) {
                return Ok(());
            }
            let class = self.class(attempt).await?;
            let class = class.as_ref().map(Object::value).transpose()?.unwrap_or(&Value::Null);
            let pod = attempt.object.as_ref().unwrap_or(&Value::Null);
            check_overhead(pod, class).map_err(|why| attempt.forbidden(why))
        })
    }
}

fn check_overhead(pod: &Value, class: &Value) -> Result<(), &'static str> {
    let (wanted, given) = (&class["overhead"]["podFixed"], &pod["spec"]["overhead"]);
    if !class["overhead"].is_object() && !given.is_null() {
        return Err("pod rejected: Pod Overhead set without corresponding RuntimeClass defined \
                    Overhead");
    }
    if class["overhead"].is_object() && read(wanted) != read(given) {
        return Err("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead");
    }
    Ok(())
}

fn fill_in(pod: &mut Value, class: &Value) -> Result<(), String> {
    if class["overhead"].is_object() {
        let given = &pod["spec"]["overhead"];
        if given.as_object().is_some_and(|it| !it.is_empty()) {
            check_overhead(pod, class)?;
        }
        if !class["overhead"]["podFixed"].is_null() {
            pod["spec"]["overhead"] = class["overhead"]["podFixed"].clone();
        }
    }
    let scheduling = &class["scheduling"];
    for (key, value) in scheduling["nodeSelector"].as_object().into_iter().flatten() {
        let own = &mut pod["spec"]["nodeSelector"][key];
        if !own.is_null() && own != value {
            return Err(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; \
                 pod.spec.nodeSelector[{key}] = {}",
                value.as_str().unwrap_or_default(),
                own.as_str().unwrap_or_default()
            ));
        }
        *own = value.clone();
    }
    if scheduling.is_object() {
        let merged = merge(&pod["spec"]["tolerations"], &scheduling["tolerations"]);
        if !merged.is_empty() {
            pod["spec"]["tolerations"] = json!(merged);
        }
    }
    Ok(())
}

/// All tolerations of both, without those that another one includes.
fn merge(first: &Value, second: &Value) -> Vec<Value> {
    let all: Vec<&Value> = items(first).chain(items(second)).collect();
    let mut merged: Vec<Value> = Vec::new();
    for (at, toleration) in all.iter().enumerate() {
        let before = merged.iter().any(|other| includes(other, toleration));
        let later = all[at + 1..].iter();
        let after =
            later.into_iter().any(|other| *other != *toleration && includes(other, toleration));
        if !before && !after {
            merged.push((*toleration).clone());
        }
    }
    merged
}

/// Whether everything that `one` tolerates is tolerated by `other`.
fn includes(other: &Value, one: &Value) -> bool {
    if other == one {
        return true;
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (key, operator) = (text(&other["key"]), text(&other["operator"]));
    if text(&one["key"]) != key && !(key.is_empty() && operator == "Exists") {
        return false;
    }
    let effect = text(&other["effect"]);
    if text(&one["effect"]) != effect && !effect.is_empty() {
        return false;
    }
    if effect == "NoExecute"
        && let Some(seconds) = other["tolerationSeconds"].as_i64()
        && one["tolerationSeconds"].as_i64().is_none_or(|own| own > seconds)
    {
        return false;
    }
    match operator.as_str() {
        "Equal" | "" => text(&one["operator"]) == "Equal" && one["value"] == other["value"],
        "Exists" => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class() -> Value {
        json!({
            "overhead": {"podFixed": {"cpu": "250m"}},
            "scheduling": {"nodeSelector": {"kata": "yes"},
                           "tolerations": [{"key": "kata", "operator": "Exists"}]},
        })
    }

    #[test]
    fn the_class_says_what_it_costs_and_where_it_runs() {
        let mut pod = json!({"spec": {"tolerations": [{"key": "a", "operator": "Exists"}]}});
        fill_in(&mut pod, &class()).unwrap();
        let filled = json!({
            "overhead": {"cpu": "250m"}, "nodeSelector": {"kata": "yes"},
            "tolerations": [
                {"key": "a", "operator": "Exists"},
                {"key": "kata", "operator": "Exists"},
            ],
        });
        assert_eq!(pod["spec"], filled);
        fill_in(&mut pod, &class()).unwrap();
        assert_eq!(pod["spec"], filled, "again it changes nothing");
        assert_eq!(check_overhead(&pod, &class()), Ok(()));
        assert!(check_overhead(&pod, &Value::Null).is_err());
    }

    #[test]
    fn a_selector_that_contradicts_is_refused() {
        let mut pod = json!({"spec": {"nodeSelector": {"kata": "no"}}});
        assert_eq!(
            fill_in(&mut pod, &class()).unwrap_err(),
            "conflict: runtimeClass.scheduling.nodeSelector[kata] = yes; \
             pod.spec.nodeSelector[kata] = no"
        );
    }

    #[test]
    fn a_toleration_that_another_includes_goes() {
        let all = json!([{"operator": "Exists"}]);
        let one = json!([{"key": "a", "operator": "Equal", "value": "b"}]);
        assert_eq!(merge(&one, &all), [json!({"operator": "Exists"})]);
        assert_eq!(merge(&all, &one), [json!({"operator": "Exists"})]);
        assert_eq!(merge(&one, &one).len(), 1);
    }
}
