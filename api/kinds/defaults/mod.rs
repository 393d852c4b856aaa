//! What an object gets that its author left open, kind by kind, as upstream's defaulting does it.
//!
//! Keeps: running a default twice changes nothing more; what the author said stays. Clients and controllers of
//! others rely on each of these being there.
//! Never: needs another object, a clock or chance; that is admission.

use serde_json::{Map, Value, json};

mod cluster;
mod pod;
mod workloads;

pub use pod::pull_policy;

type Default = fn(&mut Value);

/// What completes an object of a built-in kind; `None` where there is nothing to complete.
#[must_use]
pub fn of(group: &str, version: &str, kind: &str) -> Option<Default> {
    let found: Default = match (group, kind) {
        ("", "Pod") => pod::pod,
        ("", "PodTemplate") => |it| template(it, "template"),
        ("", "ReplicationController") => workloads::replication_controller,
        ("", "Service") => cluster::service,
        ("", "Secret") => cluster::secret,
        ("", "PersistentVolume") => cluster::volume,
        ("", "PersistentVolumeClaim") => cluster::claim,
        ("", "Endpoints") => cluster::endpoints,
        ("", "Namespace") => cluster::namespace,
        ("", "Node") => cluster::node,
        ("", "LimitRange") => cluster::limit_range,
        ("apps", "Deployment") => workloads::deployment,
        ("apps", "ReplicaSet") => workloads::replica_set,
        ("apps", "StatefulSet") => workloads::stateful_set,
        ("apps", "DaemonSet") => workloads::daemon_set,
        ("batch", "Job") => workloads::job,
        ("batch", "CronJob") => workloads::cron_job,
        ("autoscaling", "HorizontalPodAutoscaler") if version == "v2" => workloads::autoscaler,
        ("autoscaling", "HorizontalPodAutoscaler") => |it| {
            within(it, "spec", |spec| set(spec, "minReplicas", || json!(1)));
        },
        ("discovery.k8s.io", "EndpointSlice") => cluster::endpoint_slice,
        ("networking.k8s.io", "NetworkPolicy") => cluster::network_policy,
        ("networking.k8s.io", "IngressClass") => cluster::ingress_class,
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => cluster::binding,
        ("storage.k8s.io", "StorageClass") => cluster::storage_class,
        ("storage.k8s.io", "CSIDriver") => cluster::csi_driver,
        ("scheduling.k8s.io", "PriorityClass") => |it| {
            set(it, "preemptionPolicy", || json!("PreemptLowerPriority"));
        },
        (
            "admissionregistration.k8s.io",
            "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration",
        ) => cluster::webhooks,
        (
            "admissionregistration.k8s.io",
            "ValidatingAdmissionPolicy" | "MutatingAdmissionPolicy",
        ) => cluster::policy,
        (
            "admissionregistration.k8s.io",
            "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding",
        ) => cluster::policy_binding,
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => |it| {
            within(it, "spec", |spec| set(spec, "matchingPrecedence", || json!(1000)));
        },
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => cluster::level,
        ("resource.k8s.io", "ResourceClaim") => |it| within(it, "spec", cluster::device_claim),
        ("resource.k8s.io", "ResourceClaimTemplate") => |it| {
            within(it, "spec", |spec| within(spec, "spec", cluster::device_claim));
        },
        _ => return None,
    };
    Some(found)
}

/// Sets a field that is not there.
fn set(object: &mut Value, field: &str, value: impl FnOnce() -> Value) {
    if let Value::Object(map) = object
        && map.get(field).is_none_or(Value::is_null)
    {
        map.insert(field.into(), value());
    }
}

/// Sets a text that is absent or empty.
fn set_text(object: &mut Value, field: &str, value: &str) {
    if let Value::Object(map) = object
        && map.get(field).is_none_or(|text| text.is_null() || text == "")
    {
        map.insert(field.into(), value.into());
    }
}

/// Does something to a field that is there and is an object.
fn within(object: &mut Value, field: &str, complete: impl FnOnce(&mut Value)) {
    if let Some(inner) = object.get_mut(field).filter(|inner| inner.is_object()) {
        complete(inner);
    }
}

/// Does something to a field, which becomes an empty object where it is not there.
fn inside(object: &mut Value, field: &str, complete: impl FnOnce(&mut Value)) {
    set(object, field, || Value::Object(Map::new()));
    within(object, field, complete);
}

/// Does something to every object of a list.
fn each(object: &mut Value, field: &str, complete: impl Fn(&mut Value)) {
    if let Some(items) = object.get_mut(field).and_then(Value::as_array_mut) {
        items.iter_mut().filter(|item| item.is_object()).for_each(complete);
    }
}

/// The pod template of a workload.
fn template(object: &mut Value, field: &str) {
    within(object, field, |template| within(template, "spec", pod::spec));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `object` becomes; a second time must change nothing.
    fn check(group: &str, version: &str, kind: &str, mut object: Value, expected: &Value) {
        let complete = of(group, version, kind).expect("the kind has defaults");
        complete(&mut object);
        assert_eq!(&object, expected);
        complete(&mut object);
        assert_eq!(&object, expected, "defaults are complete after the first time");
    }

    #[test]
    fn a_pod_gets_what_kubelets_and_clients_rely_on() {
        check(
            "",
            "v1",
            "Pod",
            json!({"spec": {"containers": [{"name": "a", "image": "nginx",
                "ports": [{"containerPort": 80}], "livenessProbe": {"httpGet": {"port": 80}},
                "resources": {"limits": {"cpu": "1"}}}],
                "volumes": [{"name": "v"}, {"name": "s", "secret": {"secretName": "x"}}]}}),
            &json!({"spec": {
                "containers": [{"name": "a", "image": "nginx", "imagePullPolicy": "Always",
                    "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "livenessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
                        "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1,
                        "failureThreshold": 3},
                    "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
                    "terminationMessagePath": "/dev/termination-log",
                    "terminationMessagePolicy": "File"}],
                "volumes": [{"name": "v", "emptyDir": {}},
                    {"name": "s", "secret": {"secretName": "x", "defaultMode": 420}}],
                "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "securityContext": {},
                "terminationGracePeriodSeconds": 30, "schedulerName": "default-scheduler",
                "enableServiceLinks": true}}),
        );
    }

    #[test]
    fn an_image_without_tag_or_with_latest_is_always_pulled() {
        let cases = [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("localhost:5000/nginx", "Always"),
            ("localhost:5000/nginx:1.2", "IfNotPresent"),
            ("nginx@sha256:abc", "IfNotPresent"),
            ("nginx:latest@sha256:abc", "Always"),
        ];
        for (image, expected) in cases {
            assert_eq!(pull_policy(image), expected, "{image}");
        }
    }

    #[test]
    fn a_deployment_rolls_a_quarter_at_a_time() {
        check(
            "apps",
            "v1",
            "Deployment",
            json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": 1}}}}),
            &json!({"spec": {"replicas": 1, "revisionHistoryLimit": 10,
                "progressDeadlineSeconds": 600, "strategy": {"type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 1, "maxUnavailable": "25%"}}}}),
        );
        check(
            "apps",
            "v1",
            "Deployment",
            json!({"spec": {"replicas": 0, "strategy": {"type": "Recreate"}}}),
            &json!({"spec": {"replicas": 0, "revisionHistoryLimit": 10,
                "progressDeadlineSeconds": 600, "strategy": {"type": "Recreate"}}}),
        );
    }

    #[test]
    fn a_service_port_targets_itself() {
        check(
            "",
            "v1",
            "Service",
            json!({"spec": {"ports": [{"port": 80}]}}),
            &json!({"spec": {"ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
                "sessionAffinity": "None", "type": "ClusterIP",
                "internalTrafficPolicy": "Cluster"}}),
        );
    }

    #[test]
    fn a_namespace_is_labelled_with_its_name() {
        check(
            "",
            "v1",
            "Namespace",
            json!({"metadata": {"name": "shop"}}),
            &json!({"metadata": {"name": "shop", "labels": {"kubernetes.io/metadata.name": "shop"}},
                "status": {"phase": "Active"}}),
        );
    }

    #[test]
    fn objects_of_any_shape_are_survived() {
        let kinds = [("", "Pod"), ("", "Service"), ("apps", "StatefulSet"), ("batch", "Job")];
        for (group, kind) in kinds {
            for mut object in [
                json!(null),
                json!([]),
                json!({"spec": 1}),
                json!({"spec": {"ports": 7,
                "containers": "x", "template": [], "strategy": null}}),
            ] {
                of(group, "v1", kind).unwrap()(&mut object);
            }
        }
    }
}
