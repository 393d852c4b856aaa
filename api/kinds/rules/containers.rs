//! The containers of a pod.

use std::collections::BTreeSet;

use serde_json::Value;

use super::field::duplicates;
use super::{Field, Found};

/// The names of a pod's volumes.
pub(super) type Volumes = BTreeSet<String>;

const PULLS: &[&str] = &["Always", "IfNotPresent", "Never"];
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const PROBES: &[&str] = &["livenessProbe", "readinessProbe", "startupProbe"];

pub(super) fn check(spec: &Field<'_>, volumes: &Volumes, found: &mut Found) {
    let (usual, first) = (spec.at("containers"), spec.at("initContainers"));
    let ephemeral = spec.at("ephemeralContainers");
    if usual.is_empty() {
        found.push(usual.required(""));
    }
    for container in usual.items() {
        check_one(&container, volumes, found);
        check_probes(&container, found);
    }
    for container in first.items() {
        check_one(&container, volumes, found);
        if container.at("restartPolicy").text() == "Always" {
            check_probes(&container, found);
            continue;
        }
        for name in PROBES.iter().chain(&["lifecycle"]) {
            if container.at(name).is_set() {
                let why = "may not be set for init containers without restartPolicy=Always";
                found.push(container.at(name).forbidden(why));
            }
        }
    }
    for container in ephemeral.items() {
        check_one(&container, volumes, found);
        for name in PROBES.iter().chain(&["lifecycle", "ports", "resources"]) {
            if !container.at(name).is_empty() {
                found
                    .push(container.at(name).forbidden("cannot be set for an Ephemeral Container"));
            }
        }
    }
    let all = usual.items().chain(first.items()).chain(ephemeral.items());
    duplicates(all.map(|it| it.at("name")), found);
    check_host_ports(&usual, found);
}

/// In a pod of its own an image is written exactly.
pub(super) fn check_images_exactly(spec: &Field<'_>, found: &mut Found) {
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for image in spec.at(list).items().map(|it| it.at("image")) {
            if image.text().trim() != image.text() {
                found.push(image.invalid("must not have leading or trailing whitespace"));
            }
        }
    }
}

fn check_one(container: &Field<'_>, volumes: &Volumes, found: &mut Found) {
    let name = container.at("name");
    if name.is_empty() {
        found.push(name.required(""));
    } else {
        name.must_be_label(found);
    }
    container.at("image").must_not_be_empty(found);
    let message = container.at("terminationMessagePolicy");
    message.must_be_one_of(&["File", "FallbackToLogsOnError"], found);
    container.at("imagePullPolicy").must_be_one_of(PULLS, found);
    for port in container.at("ports").items() {
        check_port(&port, found);
    }
    duplicates(container.at("ports").items().map(|it| it.at("name")), found);
    for variable in container.at("env").items() {
        check_variable(&variable, found);
    }
    for source in container.at("envFrom").items() {
        let (map, secret) = (source.at("configMapRef"), source.at("secretRef"));
        match (map.is_set(), secret.is_set()) {
            (true, true) => {
                found.push(source.invalid("may not have more than one field specified at a time"))
            }
            (false, false) => {
                found.push(source.invalid("must specify one of: `configMapRef` or `secretRef`"));
            }
            (true, false) => map.at("name").must_not_be_empty(found),
            (false, true) => secret.at("name").must_not_be_empty(found),
        }
    }
    check_mounts(container, volumes, found);
    resources(&container.at("resources"), found);
    let security = container.at("securityContext");
    for user in ["runAsUser", "runAsGroup"] {
        security.at(user).must_be_between(0, i64::from(i32::MAX), found);
    }
    if security.at("privileged").is_true()
        && security.at("allowPrivilegeEscalation").value == &Value::Bool(false)
    {
        let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
        found.push(security.invalid(why));
    }
}

fn check_port(port: &Field<'_>, found: &mut Found) {
    let name = port.at("name");
    if !name.is_empty() {
        name.must_be_port_name(found);
    }
    let number = port.at("containerPort");
    if number.number().unwrap_or_default() == 0 {
        found.push(number.required(""));
    } else {
        number.must_be_port(found);
    }
    let host = port.at("hostPort");
    if host.number().unwrap_or_default() != 0 {
        host.must_be_port(found);
    }
    port.at("protocol").must_be_one_of(PROTOCOLS, found);
}

fn check_host_ports(containers: &Field<'_>, found: &mut Found) {
    let mut taken = BTreeSet::new();
    for port in containers.items().flat_map(|it| it.at("ports").items().collect::<Vec<_>>()) {
        let host = port.at("hostPort");
        let Some(number) = host.number().filter(|number| *number != 0) else { continue };
        let text = format!("{}/{}/{number}", port.at("protocol").text(), port.at("hostIP").text());
        if !taken.insert(text.clone()) {
            found.push(crate::schema::causes::duplicate(&host.path, &text.into()));
        }
    }
}

fn check_variable(variable: &Field<'_>, found: &mut Found) {
    let (name, from) = (variable.at("name"), variable.at("valueFrom"));
    if name.is_empty() {
        found.push(name.required(""));
    } else if !name.text().bytes().all(|it| (0x20..0x7f).contains(&it) && it != b'=') {
        found.push(name.invalid(
            "a valid environment variable name must consist only of printable ASCII characters \
             other than '='",
        ));
    }
    if !from.is_set() {
        return;
    }
    let sources = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
    let set: Vec<&str> = sources.into_iter().filter(|name| from.at(name).is_set()).collect();
    if !variable.at("value").is_empty() && !set.is_empty() {
        found.push(from.invalid("may not be specified when `value` is not empty"));
    } else if set.len() > 1 {
        found.push(from.invalid("may not have more than one field specified at a time"));
    } else if set.is_empty() {
        found.push(from.invalid(
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, \
             `secretKeyRef` or `fileKeyRef`",
        ));
    }
    for name in ["configMapKeyRef", "secretKeyRef"] {
        let of = from.at(name);
        if of.is_set() {
            of.at("name").must_not_be_empty(found);
            of.at("key").must_not_be_empty(found);
        }
    }
    if from.at("fieldRef").is_set() {
        from.at("fieldRef.fieldPath").must_not_be_empty(found);
    }
}

fn check_mounts(container: &Field<'_>, volumes: &Volumes, found: &mut Found) {
    let mut places = BTreeSet::new();
    for mount in container.at("volumeMounts").items() {
        let (name, place) = (mount.at("name"), mount.at("mountPath"));
        name.must_not_be_empty(found);
        if !volumes.contains(name.text()) {
            found.push(name.not_found());
        }
        place.must_not_be_empty(found);
        if !places.insert(place.text()) {
            found.push(place.invalid("must be unique"));
        }
        for name in ["subPath", "subPathExpr"] {
            let path = mount.at(name);
            if path.text().starts_with('/') {
                found.push(path.invalid("must be a relative path"));
            }
            if path.text().split('/').any(|part| part == "..") {
                found.push(path.invalid("must not contain '..'"));
            }
        }
        if !mount.at("subPath").is_empty() && !mount.at("subPathExpr").is_empty() {
            found.push(
                mount.at("subPathExpr").invalid("subPathExpr and subPath are mutually exclusive"),
            );
        }
    }
    for device in container.at("volumeDevices").items() {
        if !volumes.contains(device.at("name").text()) {
            found.push(device.at("name").not_found());
        }
        device.at("devicePath").must_not_be_empty(found);
    }
}

/// What a container asks for, and is limited to.
pub(super) fn resources(resources: &Field<'_>, found: &mut Found) {
    let limits = resources.at("limits");
    for (_, limit) in limits.entries() {
        limit.quantity_must_not_be_negative(found);
    }
    for (name, request) in resources.at("requests").entries() {
        request.quantity_must_not_be_negative(found);
        let limit = limits.key(name);
        match (request.quantity(), limit.quantity()) {
            (Some(asked), Some(most)) if most.minus(asked).is_negative() => {
                let why = format!("must be less than or equal to {name} limit of {}", limit.text());
                found.push(request.invalid(&why));
            }
            // What cannot be shared out more than once is asked for as it is limited.
            (Some(asked), Some(most)) if is_whole(name) && !asked.minus(most).is_zero() => {
                let why = format!("must be equal to {name} limit of {}", limit.text());
                found.push(request.invalid(&why));
            }
            (Some(_), None) if is_whole(name) => {
                found.push(limit.required("Limit must be set for non overcommitable resources"));
            }
            _ => {}
        }
    }
}

/// Huge pages, and what others than Kubernetes name.
fn is_whole(name: &str) -> bool {
    name.starts_with("hugepages-") || name.contains('/') && !name.contains("kubernetes.io/")
}

fn check_probes(container: &Field<'_>, found: &mut Found) {
    for name in PROBES {
        let probe = container.at(name);
        if !probe.is_set() {
            continue;
        }
        check_handler(&probe, &["exec", "httpGet", "tcpSocket", "grpc"], found);
        for number in [
            "initialDelaySeconds",
            "timeoutSeconds",
            "periodSeconds",
            "successThreshold",
            "failureThreshold",
        ] {
            probe.at(number).must_not_be_negative(found);
        }
        let grace = probe.at("terminationGracePeriodSeconds");
        if *name == "readinessProbe" {
            if grace.is_set() {
                found.push(grace.invalid("must not be set for readinessProbes"));
            }
            continue;
        }
        if grace.number().is_some_and(|number| number <= 0) {
            found.push(grace.invalid("must be greater than 0"));
        }
        if probe.at("successThreshold").number() != Some(1) {
            found.push(probe.at("successThreshold").invalid("must be 1"));
        }
    }
    for name in ["postStart", "preStop"] {
        let hook = container.at("lifecycle").at(name);
        if hook.is_set() {
            check_handler(&hook, &["exec", "httpGet", "tcpSocket", "sleep"], found);
        }
    }
}

fn check_handler(of: &Field<'_>, kinds: &[&str], found: &mut Found) {
    let set: Vec<&str> = kinds.iter().copied().filter(|name| of.at(name).is_set()).collect();
    if set.is_empty() {
        found.push(of.required("must specify a handler type"));
    }
    for more in set.iter().skip(1) {
        found.push(of.at(more).forbidden("may not specify more than 1 handler type"));
    }
    match set.first() {
        Some(&"exec") => of.at("exec.command").must_not_be_empty(found),
        Some(&"httpGet") => {
            of.at("httpGet.path").must_not_be_empty(found);
            of.at("httpGet.port").must_be_port_or_name(found);
            of.at("httpGet.scheme").must_be_one_of(&["HTTP", "HTTPS"], found);
        }
        Some(&"tcpSocket") => of.at("tcpSocket.port").must_be_port_or_name(found),
        Some(&"grpc") => of.at("grpc.port").must_be_port(found),
        _ => {}
    }
}
