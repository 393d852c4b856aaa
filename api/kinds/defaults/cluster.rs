//! Everything that is no workload.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{each, inside, set, set_text, within};

/// How long a client sticks to its endpoint, in seconds, where nothing is said.
const AFFINITY_S: i64 = 10_800;

/// What was written as plain text goes to where it is read.
pub fn secret(it: &mut Value) {
    set(it, "type", || json!("Opaque"));
    let Some(plain) = it.as_object_mut().and_then(|fields| fields.remove("stringData")) else {
        return;
    };
    let Some(plain) = plain.as_object().filter(|plain| !plain.is_empty()) else { return };
    inside(it, "data", |data| {
        for (key, text) in plain {
            data[key.as_str()] = STANDARD.encode(text.as_str().unwrap_or_default()).into();
        }
    });
}

pub fn service(it: &mut Value) {
    within(it, "spec", |spec| {
        set_text(spec, "sessionAffinity", "None");
        if spec["sessionAffinity"] == "None" {
            remove(spec, "sessionAffinityConfig");
        } else if spec["sessionAffinity"] == "ClientIP" {
            inside(spec, "sessionAffinityConfig", |config| {
                inside(config, "clientIP", |client| {
                    set(client, "timeoutSeconds", || json!(AFFINITY_S));
                });
            });
        }
        set_text(spec, "type", "ClusterIP");
        each(spec, "ports", |port| {
            set_text(port, "protocol", "TCP");
            let unset = |target: &Value| target.is_null() || *target == json!(0) || target == "";
            if port.get("targetPort").is_none_or(unset)
                && let Some(number) = port.get("port").cloned()
            {
                port["targetPort"] = number;
            }
        });
        let kind = spec["type"].as_str().unwrap_or_default().to_owned();
        let has_external_ips =
            spec.get("externalIPs").and_then(Value::as_array).is_some_and(|ips| !ips.is_empty());
        let reachable = matches!(kind.as_str(), "NodePort" | "LoadBalancer")
            || kind == "ClusterIP" && has_external_ips;
        if reachable {
            set_text(spec, "externalTrafficPolicy", "Cluster");
        }
        if matches!(kind.as_str(), "NodePort" | "LoadBalancer" | "ClusterIP") {
            set(spec, "internalTrafficPolicy", || json!("Cluster"));
        }
        if kind == "LoadBalancer" {
            set(spec, "allocateLoadBalancerNodePorts", || json!(true));
        }
    });
    if it.pointer("/spec/type") == Some(&json!("LoadBalancer")) {
        within(it, "status", |status| {
            within(status, "loadBalancer", |balancer| {
                each(balancer, "ingress", |ingress| {
                    if ingress.get("ip").is_some_and(|ip| ip != "") {
                        set(ingress, "ipMode", || json!("VIP"));
                    }
                });
            });
        });
    }
}

fn remove(object: &mut Value, field: &str) {
    if let Some(map) = object.as_object_mut() {
        map.remove(field);
    }
}

pub fn namespace(it: &mut Value) {
    let name = it.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    if !name.is_empty() {
        let name = json!(name);
        inside(it, "metadata", |metadata| {
            inside(metadata, "labels", |labels| {
                labels["kubernetes.io/metadata.name"] = name;
            });
        });
    }
    inside(it, "status", |status| set_text(status, "phase", "Active"));
}

pub fn node(it: &mut Value) {
    within(it, "status", |status| {
        if let Some(capacity) = status.get("capacity").cloned() {
            set(status, "allocatable", || capacity);
        }
    });
}

pub fn volume(it: &mut Value) {
    inside(it, "status", |status| set_text(status, "phase", "Pending"));
    within(it, "spec", |spec| {
        set_text(spec, "persistentVolumeReclaimPolicy", "Retain");
        set_text(spec, "volumeMode", "Filesystem");
        within(spec, "hostPath", |path| set(path, "type", || json!("")));
        within(spec, "iscsi", |source| set_text(source, "iscsiInterface", "default"));
    });
}

pub fn claim(it: &mut Value) {
    inside(it, "status", |status| set_text(status, "phase", "Pending"));
    within(it, "spec", |spec| set_text(spec, "volumeMode", "Filesystem"));
}

pub fn endpoints(it: &mut Value) {
    each(it, "subsets", |subset| {
        each(subset, "ports", |port| set_text(port, "protocol", "TCP"));
    });
}

pub fn endpoint_slice(it: &mut Value) {
    each(it, "ports", |port| {
        set(port, "name", || json!(""));
        set_text(port, "protocol", "TCP");
    });
}

pub fn limit_range(it: &mut Value) {
    within(it, "spec", |spec| {
        each(spec, "limits", |limit| {
            if limit["type"] != "Container" {
                return;
            }
            // The most is the default, the default is what is asked for, and failing both the least.
            for (from, to) in
                [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")]
            {
                let Some(entries) = limit.get(from).and_then(Value::as_object).cloned() else {
                    continue;
                };
                inside(limit, to, |target| {
                    entries.into_iter().for_each(|(resource, value)| {
                        set(target, &resource, || value);
                    });
                });
            }
        });
    });
}

pub fn network_policy(it: &mut Value) {
    within(it, "spec", |spec| {
        for rules in ["ingress", "egress"] {
            each(spec, rules, |rule| {
                each(rule, "ports", |port| set_text(port, "protocol", "TCP"));
            });
        }
        let has_egress =
            spec.get("egress").and_then(Value::as_array).is_some_and(|rules| !rules.is_empty());
        set(spec, "policyTypes", || {
            if has_egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) }
        });
    });
}

pub fn ingress_class(it: &mut Value) {
    within(it, "spec", |spec| {
        within(spec, "parameters", |parameters| set(parameters, "scope", || json!("Cluster")));
    });
}

pub fn binding(it: &mut Value) {
    const GROUP: &str = "rbac.authorization.k8s.io";
    within(it, "roleRef", |role| set_text(role, "apiGroup", GROUP));
    each(it, "subjects", |subject| {
        if subject["kind"] == "User" || subject["kind"] == "Group" {
            set_text(subject, "apiGroup", GROUP);
        }
    });
}

pub fn storage_class(it: &mut Value) {
    set_text(it, "reclaimPolicy", "Delete");
    set_text(it, "volumeBindingMode", "Immediate");
}

pub fn csi_driver(it: &mut Value) {
    within(it, "spec", |spec| {
        set(spec, "attachRequired", || json!(true));
        set(spec, "podInfoOnMount", || json!(false));
        set(spec, "storageCapacity", || json!(false));
        set(spec, "fsGroupPolicy", || json!("ReadWriteOnceWithFSType"));
        set(spec, "volumeLifecycleModes", || json!(["Persistent"]));
        set(spec, "requiresRepublish", || json!(false));
        set(spec, "seLinuxMount", || json!(false));
    });
}

pub fn webhooks(it: &mut Value) {
    let mutating = it["kind"] == "MutatingWebhookConfiguration";
    each(it, "webhooks", |webhook| {
        set(webhook, "failurePolicy", || json!("Fail"));
        set(webhook, "matchPolicy", || json!("Equivalent"));
        set(webhook, "namespaceSelector", || json!({}));
        set(webhook, "objectSelector", || json!({}));
        set(webhook, "timeoutSeconds", || json!(10));
        if mutating {
            set(webhook, "reinvocationPolicy", || json!("Never"));
        }
        each(webhook, "rules", |rule| set(rule, "scope", || json!("*")));
        within(webhook, "clientConfig", |client| {
            within(client, "service", |service| set(service, "port", || json!(443)));
        });
    });
}

pub fn policy(it: &mut Value) {
    within(it, "spec", |spec| {
        set(spec, "failurePolicy", || json!("Fail"));
        within(spec, "matchConstraints", matching);
    });
}

pub fn policy_binding(it: &mut Value) {
    within(it, "spec", |spec| within(spec, "matchResources", matching));
}

fn matching(resources: &mut Value) {
    set(resources, "matchPolicy", || json!("Equivalent"));
    set(resources, "namespaceSelector", || json!({}));
    set(resources, "objectSelector", || json!({}));
    for rules in ["resourceRules", "excludeResourceRules"] {
        each(resources, rules, |rule| set(rule, "scope", || json!("*")));
    }
}

pub fn level(it: &mut Value) {
    within(it, "spec", |spec| {
        within(spec, "exempt", |exempt| {
            set(exempt, "nominalConcurrencyShares", || json!(0));
            set(exempt, "lendablePercent", || json!(0));
        });
        within(spec, "limited", |limited| {
            set(limited, "nominalConcurrencyShares", || json!(30));
            set(limited, "lendablePercent", || json!(0));
            within(limited, "limitResponse", |response| {
                within(response, "queuing", |queuing| {
                    set(queuing, "queues", || json!(64));
                    set(queuing, "handSize", || json!(8));
                    set(queuing, "queueLengthLimit", || json!(50));
                });
            });
        });
    });
}

/// The spec of a claim on devices.
pub fn device_claim(spec: &mut Value) {
    within(spec, "devices", |devices| {
        each(devices, "requests", |request| {
            within(request, "exactly", exactly);
            each(request, "firstAvailable", exactly);
        });
    });
}

fn exactly(request: &mut Value) {
    set_text(request, "allocationMode", "ExactCount");
    if request["allocationMode"] == "ExactCount" {
        set(request, "count", || json!(1));
    }
    each(request, "tolerations", |toleration| set_text(toleration, "operator", "Equal"));
}
