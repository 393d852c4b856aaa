//! What each check says, word for word.

use serde_json::{Value, json};

use super::*;

fn told(level: Level, version: Version, object: &Value) -> String {
    let pod = Pod { metadata: &object["metadata"], spec: &object["spec"] };
    details(&evaluate(Standard { level, version }, pod))
}

fn baseline(spec: &Value) -> String {
    told(Level::Baseline, Version::Latest, &json!({ "spec": spec }))
}

/// What is said beyond what a pod without any setting is told.
fn restricted(mut spec: Value) -> String {
    spec["securityContext"]["runAsNonRoot"] = true.into();
    if spec["securityContext"]["seccompProfile"].is_null() {
        spec["securityContext"]["seccompProfile"] = json!({"type": "RuntimeDefault"});
    }
    for container in spec["containers"].as_array_mut().into_iter().flatten() {
        container["securityContext"]["allowPrivilegeEscalation"] = false.into();
        container["securityContext"]["capabilities"]["drop"] = json!(["ALL"]);
    }
    told(Level::Restricted, Version::Latest, &json!({ "spec": spec }))
}

#[test]
fn a_plain_pod_is_baseline_and_not_restricted() {
    let pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
    assert_eq!(told(Level::Privileged, Version::Latest, &pod), "");
    assert_eq!(told(Level::Baseline, Version::Latest, &pod), "");
    assert_eq!(
        told(Level::Restricted, Version::Latest, &pod),
        "allowPrivilegeEscalation != false (containers \"a\", \"b\" must set \
         securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (containers \
         \"a\", \"b\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true \
         (pod or containers \"a\", \"b\" must set securityContext.runAsNonRoot=true), \
         seccompProfile (pod or containers \"a\", \"b\" must set \
         securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    );
    assert_eq!(
        told(Level::Restricted, Version::Minor(7), &pod),
        "runAsNonRoot != true (pod or containers \"a\", \"b\" must set \
         securityContext.runAsNonRoot=true)"
    );
}

#[test]
fn a_pod_that_follows_all_rules_is_restricted() {
    assert_eq!(restricted(json!({"containers": [{"name": "a"}]})), "");
}

#[test]
fn baseline_checks_say_what_is_wrong() {
    let container = |of: Value| {
        let mut container = of;
        container["name"] = "a".into();
        json!({"containers": [container, {"name": "b"}]})
    };
    for (spec, expected) in [
        (
            json!({"hostNetwork": true, "hostIPC": true}),
            "host namespaces (hostNetwork=true, hostIPC=true)",
        ),
        (
            container(json!({"securityContext": {"privileged": true}})),
            "privileged (container \"a\" must not set securityContext.privileged=true)",
        ),
        (
            container(json!({"securityContext": {"capabilities": {
                "add": ["SYS_ADMIN", "CHOWN", "FOO"],
            }}})),
            "non-default capabilities (container \"a\" must not include \"FOO\", \"SYS_ADMIN\" in \
             securityContext.capabilities.add)",
        ),
        (
            container(json!({"ports": [{"hostPort": 80}, {"hostPort": 8080}]})),
            "hostPort (container \"a\" uses hostPorts 80, 8080)",
        ),
        (
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}),
            "hostPath volumes (volume \"v\")",
        ),
        (
            container(json!({"livenessProbe": {"httpGet": {"host": "h"}}})),
            "probe or lifecycle host (container \"a\" uses probe or lifecycle host \"h\")",
        ),
        (
            container(json!({"securityContext": {"procMount": "Unmasked"}})),
            "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")",
        ),
        (
            json!({"securityContext": {"seLinuxOptions": {"type": "spc_t", "user": "u"}}}),
            "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"spc_t\"; \
             user may not be set)",
        ),
        (
            json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}),
            "seccompProfile (pod must not set securityContext.seccompProfile.type to \
             \"Unconfined\")",
        ),
        (
            json!({"securityContext": {"sysctls": [
                {"name": "kernel.msgmax"}, {"name": "net.ipv4.tcp_rmem"},
            ]}}),
            "forbidden sysctls (kernel.msgmax)",
        ),
        (
            json!({"securityContext": {"windowsOptions": {"hostProcess": true}}}),
            "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
        ),
        (
            json!({"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}),
            "forbidden AppArmor profile (pod must not set AppArmor profile type to \"Unconfined\")",
        ),
    ] {
        assert_eq!(baseline(&spec), expected);
    }
}

#[test]
fn annotations_of_old_releases_are_looked_at() {
    let pod = json!({
        "metadata": {"annotations": {
            "container.apparmor.security.beta.kubernetes.io/a": "unconfined",
            "seccomp.security.alpha.kubernetes.io/pod": "unconfined",
        }},
        "spec": {"containers": [{"name": "a"}]},
    });
    assert_eq!(
        told(Level::Baseline, Version::Minor(18), &pod),
        "forbidden AppArmor profile (annotation must not set AppArmor profile type to \
         \"container.apparmor.security.beta.kubernetes.io/a=\"unconfined\"\"), seccompProfile \
         (forbidden annotation seccomp.security.alpha.kubernetes.io/pod=\"unconfined\")"
    );
}

#[test]
fn restricted_checks_replace_those_of_the_baseline() {
    let spec = json!({
        "containers": [{"name": "a", "securityContext": {"capabilities": {"add": ["NET_RAW"]}}}],
        "volumes": [
            {"name": "v", "hostPath": {}}, {"name": "w", "nfs": {}}, {"name": "s", "secret": {}},
        ],
    });
    assert_eq!(
        restricted(spec),
        "unrestricted capabilities (container \"a\" must not include \"NET_RAW\" in \
         securityContext.capabilities.add), restricted volume types (volumes \"v\", \"w\" use \
         restricted volume types \"hostPath\", \"nfs\")"
    );
    assert_eq!(
        restricted(json!({"securityContext": {"runAsUser": 0}})),
        "runAsUser=0 (pod must not set runAsUser=0)"
    );
    let mut spec = json!({
        "hostUsers": false, "securityContext": {"runAsUser": 0},
        "containers": [{"name": "a", "securityContext": {"procMount": "Unmasked"}}],
    });
    assert_eq!(baseline(&spec), "");
    spec["securityContext"]["runAsUser"] = 0.into();
    assert_eq!(
        restricted(spec),
        "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")"
    );
}

#[test]
fn ephemeral_and_init_containers_are_looked_at() {
    let bad = |name: &str| json!([{"name": name, "securityContext": {"privileged": true}}]);
    assert_eq!(
        baseline(&json!({"ephemeralContainers": bad("e"), "initContainers": bad("i")})),
        "privileged (containers \"i\", \"e\" must not set securityContext.privileged=true)"
    );
}
