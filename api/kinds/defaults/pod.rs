//! Pods, and the pod templates of workloads.

use serde_json::{Value, json};

use super::{each, inside, set, set_text, within};

/// A pod of its own: besides its spec, what templates do not get.
pub fn pod(pod: &mut Value) {
    within(pod, "spec", |it| {
        spec(it);
        for containers in ["containers", "initContainers"] {
            each(it, containers, |container| within(container, "resources", requests));
        }
        within(it, "resources", requests);
        set(it, "enableServiceLinks", || json!(true));
        if it.get("hostNetwork") == Some(&json!(true)) {
            for containers in ["containers", "initContainers"] {
                each(it, containers, |container| each(container, "ports", host_port));
            }
        }
    });
}

/// What is limited is also asked for.
fn requests(resources: &mut Value) {
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else {
        return;
    };
    if limits.is_empty() {
        return;
    }
    inside(resources, "requests", |requests| {
        for (resource, limit) in limits {
            set(requests, &resource, || limit);
        }
    });
}

/// On the host's network a port is the host's.
fn host_port(port: &mut Value) {
    let Some(number) = port.get("containerPort").cloned() else { return };
    if port.get("hostPort").is_none_or(|host| host.is_null() || *host == json!(0)) {
        port["hostPort"] = number;
    }
}

pub fn spec(spec: &mut Value) {
    set_text(spec, "dnsPolicy", "ClusterFirst");
    set_text(spec, "restartPolicy", "Always");
    set(spec, "securityContext", || json!({}));
    set(spec, "terminationGracePeriodSeconds", || json!(30));
    set_text(spec, "schedulerName", "default-scheduler");
    // The old name of the field shows what the new one says, and the other way round.
    let name = ["serviceAccountName", "serviceAccount"]
        .iter()
        .filter_map(|field| spec.get(*field)?.as_str())
        .find(|name| !name.is_empty())
        .map(str::to_owned);
    if let Some(name) = name {
        set_text(spec, "serviceAccountName", &name);
        spec["serviceAccount"] = spec["serviceAccountName"].clone();
    }
    for containers in ["containers", "initContainers", "ephemeralContainers"] {
        each(spec, containers, container);
    }
    each(spec, "volumes", volume);
}

fn container(container: &mut Value) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let policy = pull_policy(image);
    set_text(container, "imagePullPolicy", policy);
    set_text(container, "terminationMessagePath", "/dev/termination-log");
    set_text(container, "terminationMessagePolicy", "File");
    each(container, "ports", |port| set_text(port, "protocol", "TCP"));
    each(container, "env", |variable| within(variable, "valueFrom", field_reference));
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        within(container, probe, |probe| {
            for (field, value) in [
                ("timeoutSeconds", 1),
                ("periodSeconds", 10),
                ("successThreshold", 1),
                ("failureThreshold", 3),
            ] {
                if probe.get(field) == Some(&json!(0)) {
                    probe[field] = json!(value);
                }
                set(probe, field, || json!(value));
            }
            within(probe, "httpGet", http_get);
            within(probe, "grpc", |grpc| set(grpc, "service", || json!("")));
        });
    }
    within(container, "lifecycle", |lifecycle| {
        for hook in ["postStart", "preStop"] {
            within(lifecycle, hook, |hook| within(hook, "httpGet", http_get));
        }
    });
}

fn http_get(action: &mut Value) {
    set_text(action, "path", "/");
    set_text(action, "scheme", "HTTP");
}

fn field_reference(of: &mut Value) {
    within(of, "fieldRef", |field| set_text(field, "apiVersion", "v1"));
    // A divisor that is not said is zero, which stands for one.
    within(of, "resourceFieldRef", |field| set(field, "divisor", || json!("0")));
}

/// When an image is pulled if nothing is said: a tag that moves is looked up each time.
#[must_use]
pub fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, ""), |(name, digest)| (name, digest));
    let after_path = name.rsplit_once('/').map_or(name, |(_, last)| last);
    match after_path.rsplit_once(':') {
        Some((_, "latest")) => "Always",
        None if digest.is_empty() => "Always",
        _ => "IfNotPresent",
    }
}

fn volume(volume: &mut Value) {
    let Some(fields) = volume.as_object() else { return };
    if !fields.iter().any(|(field, value)| field != "name" && !value.is_null()) {
        volume["emptyDir"] = json!({});
    }
    for mounted in ["secret", "configMap", "downwardAPI", "projected"] {
        within(volume, mounted, |source| set(source, "defaultMode", || json!(420)));
    }
    within(volume, "downwardAPI", |source| each(source, "items", field_reference));
    within(volume, "projected", |source| {
        each(source, "sources", |source| {
            within(source, "downwardAPI", |source| each(source, "items", field_reference));
            within(source, "serviceAccountToken", |token| {
                set(token, "expirationSeconds", || json!(3600));
            });
        });
    });
    within(volume, "hostPath", |path| set(path, "type", || json!("")));
    within(volume, "iscsi", |source| set_text(source, "iscsiInterface", "default"));
    within(volume, "rbd", |source| {
        set_text(source, "pool", "rbd");
        set_text(source, "user", "admin");
        set_text(source, "keyring", "/etc/ceph/keyring");
    });
    within(volume, "azureDisk", |source| {
        set_text(source, "cachingMode", "ReadWrite");
        set_text(source, "fsType", "ext4");
        set_text(source, "kind", "Shared");
        set(source, "readOnly", || json!(false));
    });
    within(volume, "scaleIO", |source| {
        set_text(source, "fsType", "xfs");
        set_text(source, "storageMode", "ThinProvisioned");
    });
    within(volume, "image", |source| {
        let reference = source.get("reference").and_then(Value::as_str).unwrap_or_default();
        let policy = pull_policy(reference);
        set_text(source, "pullPolicy", policy);
    });
    within(volume, "ephemeral", |source| {
        within(source, "volumeClaimTemplate", |template| {
            within(template, "spec", |claim| set_text(claim, "volumeMode", "Filesystem"));
        });
    });
}
