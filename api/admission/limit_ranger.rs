//! LimitRanger: what a namespace asks of each container, pod and claim, and what they get if they say nothing.
//!
//! Keeps: the words of a refusal, and that defaults of one range are seen by the next.

use futures::future::BoxFuture;
use serde_json::Value;

use super::resources::{Of, ResourceList, of_containers, read};
use super::{Attempt, Operation, Plugin};
use crate::error::Status;
use crate::live;
use crate::live::current::Current;
use crate::live::pod::items;
use crate::object::Quantity;
use crate::objects::Objects;

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

pub(super) struct LimitRanger(Current);

impl LimitRanger {
    pub(super) fn new(objects: Objects) -> LimitRanger {
        let ranges = live::stored("", "limitranges", "v1", "LimitRange");
        LimitRanger(Current::new(objects, ranges))
    }

    fn fill_in(&self, attempt: &mut Attempt<'_>) -> Result<(), Status> {
        let of_pod = attempt.is_below("", "pods");
        for range in self.0.within(attempt.namespace)? {
            if let Some(pod) = attempt.object.as_mut().filter(|_| of_pod) {
                default_resources(pod, range.value()?);
            }
        }
        Ok(())
    }

    fn check(&self, attempt: &Attempt<'_>) -> Result<(), Status> {
        let Some(object) = &attempt.object else { return Ok(()) };
        for range in self.0.within(attempt.namespace)? {
            let range = range.value()?;
            let wrong = if attempt.is_below("", "pods") {
                check_pod(object, range)
            } else {
                check_claim(object, range)
            };
            match wrong.as_slice() {
                [] => {}
                [one] => return Err(attempt.forbidden(one)),
                several => return Err(attempt.forbidden(&format!("[{}]", several.join(", ")))),
            }
        }
        Ok(())
    }
}

/// Pods when they are made or resized, claims whenever they are written; nothing that is going.
fn concerns(attempt: &Attempt<'_>) -> bool {
    let going = attempt.old.is_some_and(|old| old["metadata"]["deletionTimestamp"].is_string());
    let kind = match attempt.operation {
        Operation::Create => {
            attempt.is_of("", "pods") || attempt.is_of("", "persistentvolumeclaims")
        }
        Operation::Update => {
            attempt.is_of("", "persistentvolumeclaims")
                || (attempt.is_below("", "pods") && attempt.subresource == "resize")
        }
        _ => false,
    };
    kind && !going
}

impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn mutate<'a>(&'a self, attempt: &'a mut Attempt<'_>) -> BoxFuture<'a, Result<(), Status>> {
        let filled = if concerns(attempt) { self.fill_in(attempt) } else { Ok(()) };
        Box::pin(async { filled })
    }

    fn validate<'a>(&'a self, attempt: &'a mut Attempt<'_>) -> BoxFuture<'a, Result<(), Status>> {
        let checked = if concerns(attempt) { self.check(attempt) } else { Ok(()) };
        Box::pin(async { checked })
    }
}

fn limits_for<'a>(range: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    items(&range["spec"]["limits"]).filter(move |limit| limit["type"] == kind)
}

/// Gives each container what the range says for those that say nothing, and notes what was given.
fn default_resources(pod: &mut Value, range: &Value) {
    let mut notes = Vec::new();
    for (list, kind) in [("containers", "container"), ("initContainers", "init container")] {
        let containers = pod["spec"].get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let name = container["name"].as_str().unwrap_or_default().to_owned();
            for (field, source, word) in
                [("requests", "defaultRequest", "request"), ("limits", "default", "limit")]
            {
                let mut given: Vec<&str> = Vec::new();
                for limit in limits_for(range, "Container") {
                    for (resource, value) in limit[source].as_object().into_iter().flatten() {
                        let there = &container["resources"][field][resource];
                        // A later limit of one range wins over an earlier one, never over the container.
                        if there.is_null() || given.contains(&resource.as_str()) {
                            container["resources"][field][resource] = value.clone();
                            given.push(resource);
                        }
                    }
                }
                given.sort_unstable();
                given.dedup();
                if !given.is_empty() {
                    notes.push(format!("{} {word} for {kind} {name}", given.join(", ")));
                }
            }
        }
    }
    if !notes.is_empty() {
        let note = format!("LimitRanger plugin set: {}", notes.join("; "));
        pod["metadata"]["annotations"][ANNOTATION] = note.into();
    }
}

fn check_pod(pod: &Value, range: &Value) -> Vec<String> {
    let spec = &pod["spec"];
    let mut wrong = Vec::new();
    for limit in items(&range["spec"]["limits"]) {
        match limit["type"].as_str() {
            Some("Container") => {
                for container in
                    ["containers", "initContainers"].iter().flat_map(|it| items(&spec[*it]))
                {
                    let asked = Asked {
                        kind: "Container",
                        requests: read(&container["resources"]["requests"]),
                        limits: read(&container["resources"]["limits"]),
                    };
                    asked.check(limit, &mut wrong);
                }
            }
            Some("Pod") => {
                let asked = Asked {
                    kind: "Pod",
                    requests: of_containers(spec, Of::Requests),
                    limits: of_containers(spec, Of::Limits),
                };
                asked.check(limit, &mut wrong);
            }
            _ => {}
        }
    }
    wrong
}

fn check_claim(claim: &Value, range: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let requests = read(&claim["spec"]["resources"]["requests"]);
    let asked = Asked { kind: "PersistentVolumeClaim", requests, limits: ResourceList::new() };
    for limit in limits_for(range, "PersistentVolumeClaim") {
        for (resource, enforced) in read(&limit["min"]) {
            wrong.extend(asked.minimum(&resource, enforced));
        }
        for (resource, enforced) in read(&limit["max"]) {
            wrong.extend(asked.maximum_request(&resource, enforced));
        }
    }
    wrong
}

/// What one container, pod or claim asks for.
struct Asked {
    kind: &'static str,
    requests: ResourceList,
    limits: ResourceList,
}

impl Asked {
    fn check(&self, limit: &Value, wrong: &mut Vec<String>) {
        for (resource, enforced) in read(&limit["min"]) {
            wrong.extend(self.minimum(&resource, enforced));
        }
        for (resource, enforced) in read(&limit["max"]) {
            wrong.extend(self.maximum(&resource, enforced));
        }
        for (resource, enforced) in read(&limit["maxLimitRequestRatio"]) {
            wrong.extend(self.ratio(&resource, enforced));
        }
    }

    fn bound(&self, word: &str, resource: &str, enforced: Quantity) -> String {
        format!("{word} {resource} usage per {} is {enforced}", self.kind)
    }

    fn minimum(&self, resource: &str, enforced: Quantity) -> Option<String> {
        let bound = self.bound("minimum", resource, enforced);
        let Some(request) = self.requests.get(resource) else {
            return Some(format!("{bound}.  No request is specified"));
        };
        if *request < enforced {
            return Some(format!("{bound}, but request is {request}"));
        }
        let limit = self.limits.get(resource).filter(|limit| **limit < enforced)?;
        Some(format!("{bound}, but limit is {limit}"))
    }

    fn maximum(&self, resource: &str, enforced: Quantity) -> Option<String> {
        let bound = self.bound("maximum", resource, enforced);
        let Some(limit) = self.limits.get(resource) else {
            return Some(format!("{bound}.  No limit is specified"));
        };
        if *limit > enforced {
            return Some(format!("{bound}, but limit is {limit}"));
        }
        let request = self.requests.get(resource).filter(|request| **request > enforced)?;
        Some(format!("{bound}, but request is {request}"))
    }

    fn maximum_request(&self, resource: &str, enforced: Quantity) -> Option<String> {
        let bound = self.bound("maximum", resource, enforced);
        match self.requests.get(resource) {
            None => Some(format!("{bound}.  No request is specified")),
            Some(request) if *request > enforced => {
                Some(format!("{bound}, but request is {request}"))
            }
            Some(_) => None,
        }
    }

    fn ratio(&self, resource: &str, enforced: Quantity) -> Option<String> {
        let bound =
            format!("{resource} max limit to request ratio per {} is {enforced}", self.kind);
        let some = |list: &ResourceList| list.get(resource).copied().filter(|it| !it.is_zero());
        let Some(request) = some(&self.requests) else {
            return Some(format!("{bound}, but no request is specified or request is 0"));
        };
        let Some(limit) = some(&self.limits) else {
            return Some(format!("{bound}, but no limit is specified or limit is 0"));
        };
        let ratio = limit.as_f64() / request.as_f64();
        (ratio > enforced.as_f64()).then(|| format!("{bound}, but provided ratio is {ratio:.6}"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn range(limit: Value) -> Value {
        json!({"spec": {"limits": [limit]}})
    }

    #[test]
    fn a_container_that_says_nothing_gets_the_defaults_and_a_note() {
        let defaults = range(json!({
            "type": "Container",
            "default": {"cpu": "1", "memory": "1Gi"},
            "defaultRequest": {"cpu": "100m"},
        }));
        let mut pod = json!({"metadata": {}, "spec": {
            "containers": [{"name": "a", "resources": {"limits": {"memory": "2Gi"}}}],
            "initContainers": [{"name": "i"}],
        }});
        default_resources(&mut pod, &defaults);
        assert_eq!(
            pod["spec"]["containers"][0]["resources"],
            json!({"limits": {"cpu": "1", "memory": "2Gi"}, "requests": {"cpu": "100m"}})
        );
        assert_eq!(
            pod["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu request for container a; cpu limit for container a; cpu \
             request for init container i; cpu, memory limit for init container i"
        );
        let once = pod.clone();
        default_resources(&mut pod, &defaults);
        assert_eq!(pod, once, "again it changes nothing");
    }

    #[test]
    fn what_is_out_of_range_is_told() {
        let pod = json!({"spec": {"containers": [{"name": "a", "resources": {
            "requests": {"cpu": "50m"}, "limits": {"cpu": "4"},
        }}]}});
        for (limit, expected) in [
            (
                json!({"type": "Container", "min": {"cpu": "100m"}}),
                vec!["minimum cpu usage per Container is 100m, but request is 50m"],
            ),
            (
                json!({"type": "Container", "max": {"cpu": "2"}}),
                vec!["maximum cpu usage per Container is 2, but limit is 4"],
            ),
            (
                json!({"type": "Container", "max": {"memory": "1Gi"}}),
                vec!["maximum memory usage per Container is 1Gi.  No limit is specified"],
            ),
            (
                json!({"type": "Pod", "maxLimitRequestRatio": {"cpu": "2"}}),
                vec![
                    "cpu max limit to request ratio per Pod is 2, but provided ratio is 80.000000",
                ],
            ),
            (json!({"type": "Pod", "min": {"cpu": "50m"}, "max": {"cpu": "4"}}), vec![]),
        ] {
            assert_eq!(check_pod(&pod, &range(limit)), expected);
        }
    }

    #[test]
    fn claims_are_held_to_their_size() {
        let claim = json!({"spec": {"resources": {"requests": {"storage": "10Gi"}}}});
        let limit = |bound: Value| {
            let mut limit = json!({"type": "PersistentVolumeClaim"});
            limit["max"] = json!({ "storage": bound });
            range(limit)
        };
        assert!(check_claim(&claim, &limit(json!("10Gi"))).is_empty());
        assert_eq!(
            check_claim(&claim, &limit(json!("1Gi"))),
            ["maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 10Gi"]
        );
    }
}
