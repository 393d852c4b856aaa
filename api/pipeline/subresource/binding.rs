//! A pod is given its node.
//!
//! Keeps: a pod is bound once. What has a node, is being deleted or is held back by gates stays as it is.

use serde_json::{Map, Value, json};

use super::super::Road;
use super::super::body;
use super::super::change::{Edit, Made, Part, Scope, Writer, making};
use super::super::fields::Track;
use super::super::metadata;
use super::super::options::{WriteOptions, unsupported};
use super::super::reply::Reply;
use super::super::target::Target;
use super::success;
use crate::admission::Operation;
use crate::error::Status;
use crate::object::time::Timestamp;
use crate::object::{GroupKind, GroupResource, meta};
use crate::request::{Request, User};
use crate::schema::causes::required;

const PART: Part = Part { prepare: |_, _| {}, check: |_, _| Vec::new(), counts: false };

impl Road {
    /// `pods/binding`, and `bindings`, which names the pod in its body.
    pub(in super::super) async fn bind(
        &self,
        who: &User,
        target: &Target,
        request: &Request,
    ) -> Result<Reply, Status> {
        let options = WriteOptions::read("CreateOptions", request, self.clock.now())?;
        let mut binding = body::BINDING.decode(&request.body)?;
        metadata::place(target, &mut binding)?;
        if target.name.is_empty() {
            let pods = self.registry.find("", "v1", "pods");
            let pods = pods.ok_or_else(super::super::target::unknown_path)?;
            let target = Target {
                kind: pods,
                sub: "binding".into(),
                namespace: target.namespace.clone(),
                name: meta::name(&binding).to_owned(),
            };
            return self.bind_pod(who, &target, &options, binding).await;
        }
        if meta::name(&binding) != target.name {
            return Err(Status::bad_request("name in URL does not match name in Binding object"));
        }
        self.bind_pod(who, target, &options, binding).await
    }

    async fn bind_pod(
        &self,
        who: &User,
        target: &Target,
        options: &WriteOptions,
        binding: Value,
    ) -> Result<Reply, Status> {
        let mut writer = Writer { road: self, who, target, options, warnings: Vec::new() };
        let mut attempt = writer.attempt(Operation::Create, None);
        attempt.object = Some(binding);
        self.admission.mutate(&mut attempt).await?;
        self.admission.validate(&mut attempt).await?;
        let binding = attempt.object.take().unwrap_or_default();
        check(&binding)?;
        let now = options.now;
        let make = making(|pod| {
            let made = bound(pod, &binding, now);
            let made = made.map(|value| Made { value, warnings: Vec::new(), track: Track::Done });
            Box::pin(std::future::ready(made))
        });
        let edit = Edit { make: &make, create: None, scope: Scope::Part(PART), admits: false };
        let Reply { warnings, .. } = writer.edit(&edit).await?;
        Ok(Reply::value(201, success(), warnings))
    }
}

fn check(binding: &Value) -> Result<(), Status> {
    let mut causes = Vec::new();
    let kind = meta::text(binding, &["target", "kind"]);
    if !matches!(kind, "" | "Node") {
        causes.push(unsupported("target.kind", kind, &["Node", "<empty>"]));
    }
    if meta::text(binding, &["target", "name"]).is_empty() {
        causes.push(required("target.name", ""));
    }
    if causes.is_empty() {
        return Ok(());
    }
    let of = GroupKind { group: String::new(), kind: "Binding".into() };
    Err(Status::invalid(&of, meta::name(binding), causes))
}

/// The pod with its node. Pure.
fn bound(pod: &Value, binding: &Value, now: Timestamp) -> Result<Value, Status> {
    let name = meta::name(pod);
    let refuse =
        |why: String| Err(Status::conflict(&GroupResource::new("", "pods/binding"), name, &why));
    let uid = meta::uid(binding);
    if !uid.is_empty() && uid != meta::uid(pod) {
        return refuse(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            meta::uid(pod)
        ));
    }
    let version = meta::resource_version(binding);
    if !version.is_empty() && version != meta::resource_version(pod) {
        return refuse(format!(
            "Precondition failed: ResourceVersion in precondition: {version}, ResourceVersion in \
             object meta: {}",
            meta::resource_version(pod)
        ));
    }
    if meta::is_deleting(pod) {
        return refuse(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let there = meta::text(pod, &["spec", "nodeName"]);
    if !there.is_empty() {
        return refuse(format!("pod {name} is already assigned to node \"{there}\""));
    }
    let gates = meta::at(pod, &["spec", "schedulingGates"]).and_then(Value::as_array);
    if gates.is_some_and(|it| !it.is_empty()) {
        return refuse(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    let mut pod = pod.clone();
    pod["spec"]["nodeName"] = meta::text(binding, &["target", "name"]).into();
    for field in ["annotations", "labels"] {
        let added = meta::at(binding, &["metadata", field]).and_then(Value::as_object);
        let Some(added) = added.filter(|it| !it.is_empty()) else { continue };
        let Some(metadata) = meta::of(&mut pod) else { continue };
        let all = metadata.entry(field).or_insert_with(|| Map::new().into());
        if let Some(all) = all.as_object_mut() {
            all.extend(added.clone());
        }
    }
    set_condition(&mut pod, "PodScheduled", now, json!({}));
    Ok(pod)
}

/// A condition of a pod becomes true; when it became so is kept if it was.
pub(super) fn set_condition(pod: &mut Value, kind: &str, now: Timestamp, more: Value) {
    let generation = meta::generation(pod);
    if !pod.get("status").is_some_and(Value::is_object) {
        pod["status"] = json!({});
    }
    let mut condition = json!({"type": kind, "status": "True", "lastProbeTime": null,
        "lastTransitionTime": now.rfc3339()});
    if generation > 0 {
        condition["observedGeneration"] = generation.into();
    }
    for (name, value) in more.as_object().into_iter().flatten() {
        condition[name] = value.clone();
    }
    let status = &mut pod["status"];
    if !status.get("conditions").is_some_and(Value::is_array) {
        status["conditions"] = json!([]);
    }
    let Some(conditions) = status["conditions"].as_array_mut() else { return };
    match conditions.iter_mut().find(|it| meta::text(it, &["type"]) == kind) {
        Some(there) => {
            if meta::text(there, &["status"]) == "True" {
                condition["lastTransitionTime"] = there["lastTransitionTime"].clone();
            }
            *there = condition;
        }
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding() -> Value {
        json!({"metadata": {"name": "p", "annotations": {"a": "b"}},
            "target": {"kind": "Node", "name": "n1"}})
    }

    #[test]
    fn a_pod_is_bound_once() {
        let now = Timestamp::from_seconds(0);
        let pod = json!({"metadata": {"name": "p", "uid": "u"}, "spec": {}});
        let once = bound(&pod, &binding(), now).unwrap();
        assert_eq!(once["spec"]["nodeName"], "n1");
        assert_eq!(once["metadata"]["annotations"]["a"], "b");
        assert_eq!(once["status"]["conditions"][0]["type"], "PodScheduled");
        let refused = bound(&once, &binding(), now).unwrap_err();
        assert_eq!(refused.code(), 409);
        assert_eq!(
            refused.message(),
            "Operation cannot be fulfilled on pods/binding \
                \"p\": pod p is already assigned to node \
             \"n1\""
        );
    }

    #[test]
    fn what_is_held_back_or_going_is_not_bound() {
        let now = Timestamp::from_seconds(0);
        let gated =
            json!({"metadata": {"name": "p"}, "spec": {"schedulingGates": [{"name": "g"}]}});
        assert!(bound(&gated, &binding(), now).is_err());
        let going =
            json!({"metadata": {"name": "p", "deletionTimestamp": now.rfc3339()}, "spec": {}});
        assert!(bound(&going, &binding(), now).is_err());
    }
}
