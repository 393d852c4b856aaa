//! Priority: a pod's number comes from its class alone.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::{Attempt, Operation, Plugin};
use crate::error::Status;
use crate::kinds::kind::Stored;
use crate::live::{self, Live};
use crate::objects::{Object, Objects};

pub(super) struct Priority {
    live: Arc<Live>,
    objects: Objects,
    classes: Stored,
}

impl Priority {
    pub(super) fn new(live: Arc<Live>, objects: Objects) -> Priority {
        let classes = live::stored("scheduling.k8s.io", "priorityclasses", "v1", "PriorityClass");
        Priority { live, objects, classes }
    }

    /// The class a pod has if it names none; the one of least value if there are several.
    fn default_class(&self) -> Option<Object> {
        let all = self.live.priority_classes.all();
        let value = |class: &Object| class.value().ok().map(|it| it["value"].as_i64());
        let is_default =
            |class: &Object| class.value().is_ok_and(|class| class["globalDefault"] == true);
        all.into_iter().filter(is_default).min_by_key(value)
    }

    async fn class(&self, name: &str) -> Result<Option<Object>, Status> {
        match self.live.priority_classes.get("", name) {
            Some(class) => Ok(Some(class)),
            None => live::find(&self.objects, &self.classes, "", name).await,
        }
    }

    async fn of_new_pod(&self, attempt: &mut Attempt<'_>) -> Result<(), Status> {
        let Some(pod) = &attempt.object else { return Ok(()) };
        let name = pod["spec"]["priorityClassName"].as_str().unwrap_or_default().to_owned();
        let class = if name.is_empty() {
            self.default_class()
        } else {
            let found = self.class(&name).await?;
            let why = format!("no PriorityClass with name {name} was found");
            Some(found.ok_or_else(|| attempt.forbidden(&why))?)
        };
        let none = json!({"value": 0, "preemptionPolicy": "PreemptLowerPriority"});
        let class = class.as_ref().map(Object::value).transpose()?.unwrap_or(&none);
        let filled = attempt.object.as_mut().map_or(Ok(()), |pod| fill_in(pod, class));
        filled.map_err(|why| attempt.forbidden(&why))
    }

    fn check_default(&self, attempt: &Attempt<'_>) -> Result<(), Status> {
        let Some(class) = &attempt.object else { return Ok(()) };
        if class["globalDefault"] != true {
            return Ok(());
        }
        let Some(there) = self.default_class() else { return Ok(()) };
        let name = &there.value()?["metadata"]["name"];
        if attempt.is_create() || *name != class["metadata"]["name"] {
            let name = name.as_str().unwrap_or_default();
            return Err(attempt.forbidden(&format!(
                "PriorityClass {name} is already marked as default. Only one default can exist"
            )));
        }
        Ok(())
    }
}

fn fill_in(pod: &mut Value, class: &Value) -> Result<(), String> {
    let spec = &mut pod["spec"];
    let value = class["value"].as_i64().unwrap_or_default();
    if let Some(given) = spec["priority"].as_i64().filter(|given| *given != value) {
        return Err(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority \
             admission controller computed {value} from the given PriorityClass name"
        ));
    }
    if let Some(name) = class["metadata"]["name"].as_str() {
        spec["priorityClassName"] = name.into();
    }
    spec["priority"] = value.into();
    let Some(policy) = class["preemptionPolicy"].as_str() else { return Ok(()) };
    if let Some(given) = spec["preemptionPolicy"].as_str().filter(|given| *given != policy) {
        return Err(format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; \
             priority admission controller computed {policy} from the given PriorityClass name"
        ));
    }
    spec["preemptionPolicy"] = policy.into();
    Ok(())
}

/// An update that leaves them out keeps them.
fn keep(pod: &mut Value, old: &Value) {
    for field in ["priority", "preemptionPolicy"] {
        if pod["spec"][field].is_null() && !old["spec"][field].is_null() {
            pod["spec"][field] = old["spec"][field].clone();
        }
    }
}

impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn mutate<'a>(&'a self, attempt: &'a mut Attempt<'_>) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            if !attempt.is_of("", "pods") {
                return Ok(());
            }
            match (attempt.operation, attempt.object.as_mut(), attempt.old) {
                (Operation::Create, ..) => self.of_new_pod(attempt).await,
                (Operation::Update, Some(pod), Some(old)) => {
                    keep(pod, old);
                    Ok(())
                }
                _ => Ok(()),
            }
        })
    }

    fn validate<'a>(&'a self, attempt: &'a mut Attempt<'_>) -> BoxFuture<'a, Result<(), Status>> {
        let writes = matches!(attempt.operation, Operation::Create | Operation::Update);
        let concerns = writes && attempt.is_of("scheduling.k8s.io", "priorityclasses");
        let checked = if concerns { self.check_default(attempt) } else { Ok(()) };
        Box::pin(async { checked })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_decides_and_a_number_of_ones_own_is_refused() {
        let class = json!({"metadata": {"name": "high"}, "value": 7, "preemptionPolicy": "Never"});
        let mut pod = json!({"spec": {}});
        fill_in(&mut pod, &class).unwrap();
        let filled =
            json!({"priorityClassName": "high", "priority": 7, "preemptionPolicy": "Never"});
        assert_eq!(pod["spec"], filled);
        fill_in(&mut pod, &class).unwrap();
        assert_eq!(
            fill_in(&mut json!({"spec": {"priority": 8}}), &class).unwrap_err(),
            "the integer value of priority (8) must not be provided in pod spec; priority \
             admission controller computed 7 from the given PriorityClass name"
        );
    }
}
