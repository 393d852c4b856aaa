//! The rules as clients meet them: each with the field and the words they get.

mod machinery;

use serde_json::{Value, json};

use super::of;

/// What a rule says of an object, one line for each cause.
fn said(group: &str, kind: &str, object: Value) -> Vec<String> {
    let mut object = object;
    if let Some(default) = crate::kinds::defaults::of(group, "v1", kind) {
        default(&mut object);
    }
    let causes = of(group, "v1", kind).of.map(|rule| rule(&object)).unwrap_or_default();
    causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
}

fn said_of_change(group: &str, kind: &str, new: &Value, old: &Value) -> Vec<String> {
    let change = of(group, "v1", kind).change.unwrap();
    change(new, old).iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
}

fn pod(spec: Value) -> Value {
    let mut spec = spec;
    if spec.get("containers").is_none() {
        spec["containers"] = json!([{"name": "c", "image": "i"}]);
    }
    json!({"metadata": {"name": "p"}, "spec": spec})
}

#[test]
fn a_pod_needs_containers_that_can_run() {
    assert_eq!(said("", "Pod", pod(json!({}))), Vec::<String>::new());
    assert_eq!(
        said("", "Pod", json!({"spec": {"containers": []}})),
        ["spec.containers: Required value"]
    );
    let bad = pod(json!({"restartPolicy": "Sometimes", "containers": [
        {"name": "A", "volumeMounts": [{"name": "v", "mountPath": "/x"}]},
        {"name": "b", "image": "i", "ports": [{"containerPort": 70000}]},
        {"name": "b", "image": "i",
            "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}},
    ]}));
    let fields: Vec<String> =
        said("", "Pod", bad).iter().map(|line| line.split(": ").next().unwrap().into()).collect();
    assert_eq!(
        fields,
        [
            "spec.containers[0].name",
            "spec.containers[0].image",
            "spec.containers[0].volumeMounts[0].name",
            "spec.containers[1].ports[0].containerPort",
            "spec.containers[2].resources.requests[cpu]",
            "spec.containers[2].name",
            "spec.restartPolicy"
        ]
    );
}

#[test]
fn of_a_pod_only_images_and_little_else_may_change() {
    let old = pod(json!({"nodeName": "n"}));
    let mut new = old.clone();
    new["spec"]["containers"][0]["image"] = "other".into();
    new["spec"]["tolerations"] = json!([{"key": "a", "operator": "Exists"}]);
    assert!(said_of_change("", "Pod", &new, &old).is_empty());
    new["spec"]["containers"][0]["command"] = json!(["sh"]);
    let said = said_of_change("", "Pod", &new, &old);
    assert!(
        said[0].starts_with("spec: Forbidden: pod updates may not change fields other"),
        "{said:?}"
    );
    new["spec"]["containers"] = json!([]);
    assert_eq!(
        said_of_change("", "Pod", &new, &old),
        ["spec.containers: Forbidden: pod updates may not add or remove containers"]
    );
}

#[test]
fn a_workload_selects_the_pods_it_makes_and_goes_on_to() {
    let deployment = |selector: &str| {
        json!({"spec": {"replicas": 1, "selector": {"matchLabels": {"app": selector}},
            "template": {"metadata": {"labels": {"app": "a"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
    };
    for kind in ["Deployment", "ReplicaSet", "DaemonSet", "StatefulSet"] {
        assert_eq!(said("apps", kind, deployment("a")), Vec::<String>::new(), "{kind}");
        assert_eq!(
            said("apps", kind, deployment("b")),
            ["spec.template.metadata.labels: Invalid value: {\"app\":\"a\"}: `selector` does not \
              match template `labels`"],
            "{kind}"
        );
    }
    assert_eq!(
        said_of_change("apps", "Deployment", &deployment("b"), &deployment("a")),
        ["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"b\"}}: field is immutable"]
    );
    assert_eq!(
        said_of_change("apps", "StatefulSet", &deployment("b"), &deployment("a")),
        ["spec: Forbidden: updates to statefulset spec for fields other than 'replicas', \
          'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', \
          'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"]
    );
    let mut negative = deployment("a");
    negative["spec"]["replicas"] = json!(-1);
    assert_eq!(
        said("apps", "Deployment", negative),
        ["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]
    );
}

#[test]
fn a_job_keeps_its_template_and_does_not_restart_for_ever() {
    let job = |restarts: &str| {
        json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}}, "spec": {"restartPolicy": restarts,
                "containers": [{"name": "c", "image": "i"}]}}}})
    };
    assert!(said("batch", "Job", job("Never")).is_empty());
    assert_eq!(
        said("batch", "Job", job("Always")),
        ["spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \
             \"Never\""]
    );
    let said = said_of_change("batch", "Job", &job("OnFailure"), &job("Never"));
    assert!(
        said[0].starts_with("spec.template: Invalid value: ") && said[0].ends_with("immutable")
    );
}

#[test]
fn what_is_immutable_in_a_config_map_or_secret_stays() {
    let old = json!({"immutable": true, "data": {"a": "b"}});
    let new = json!({"data": {"a": "c"}});
    for kind in ["ConfigMap", "Secret"] {
        assert_eq!(
            said_of_change("", kind, &new, &old),
            [
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set"
            ]
        );
    }
    assert_eq!(
        said_of_change("", "Secret", &json!({"type": "b"}), &json!({"type": "a"})),
        ["type: Invalid value: \"b\": field is immutable"]
    );
    assert_eq!(
        said("", "ConfigMap", json!({"data": {"a/b": "c"}})),
        ["data[a/b]: Invalid value: \"a/b\": a valid config key must consist of alphanumeric \
          characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used \
          for validation is '[-._a-zA-Z0-9]+')"]
    );
    for (kind, data) in [("ConfigMap", json!({"": "c"})), ("Secret", json!({"": "Yw=="}))] {
        let said = said("", kind, json!({"data": data}));
        assert!(said[0].starts_with("data[]: Invalid value: \"\": a valid config key"), "{said:?}");
    }
    assert_eq!(
        said("", "Secret", json!({"type": "kubernetes.io/tls"})),
        ["data[tls.crt]: Required value", "data[tls.key]: Required value"]
    );
}

#[test]
fn a_services_address_stays_while_it_has_one() {
    let service = |ip: &str| {
        json!({"spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip],
            "ports": [{"port": 80}]}})
    };
    assert!(said("", "Service", service("10.43.0.9")).is_empty());
    assert_eq!(
        said_of_change("", "Service", &service("10.43.0.8"), &service("10.43.0.9")),
        ["spec.clusterIPs[0]: Invalid value: [\"10.43.0.8\"]: may not change once set"]
    );
    let keep = of("", "v1", "Service").keep.unwrap();
    let mut silent = json!({"spec": {"type": "ClusterIP", "ports": [{"port": 80}]}});
    keep(&mut silent, &service("10.43.0.9"));
    assert_eq!(silent["spec"]["clusterIP"], "10.43.0.9");
    assert_eq!(
        said("", "Service", json!({"spec": {"ports": [{"port": 0}, {"name": "a", "port": 1}]}})),
        [
            "spec.ports[0].name: Required value",
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive"
        ]
    );
}

#[test]
fn a_claim_says_how_much_it_wants_and_then_only_grows() {
    let claim = |size: &str, class: &str, phase: &str| {
        json!({"spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class,
            "volumeName": "v", "resources": {"requests": {"storage": size}}},
            "status": {"phase": phase, "capacity": {"storage": "1Gi"}}})
    };
    assert!(said("", "PersistentVolumeClaim", claim("1Gi", "a", "Bound")).is_empty());
    assert_eq!(
        said("", "PersistentVolumeClaim", json!({"spec": {}})),
        [
            "spec.accessModes: Required value: at least 1 access mode is required",
            "spec.resources[storage]: Required value"
        ]
    );
    let change = |new: &Value, old: &Value| said_of_change("", "PersistentVolumeClaim", new, old);
    let old = claim("1Gi", "a", "Bound");
    assert!(change(&claim("2Gi", "a", "Bound"), &old).is_empty());
    let said = change(&claim("1Gi", "b", "Bound"), &old);
    assert!(said[0].starts_with("spec: Forbidden: spec is immutable after creation except"));
    assert_eq!(
        change(&claim("512Mi", "a", "Bound"), &old),
        ["spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"]
    );
}

#[test]
fn the_rules_of_access_are_well_formed() {
    let kind = "Role";
    let group = "rbac.authorization.k8s.io";
    assert_eq!(
        said(group, kind, json!({"rules": [{"apiGroups": [""], "resources": ["pods"]}]})),
        ["rules[0].verbs: Required value: verbs must contain at least one value"]
    );
    let binding = |name: &str| {
        json!({"kind": "RoleBinding", "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
            "subjects": [{"kind": "User", "apiGroup": group, "name": "u"}]})
    };
    assert!(said(group, "RoleBinding", binding("a")).is_empty());
    assert_eq!(
        said_of_change(group, "RoleBinding", &binding("b"), &binding("a")),
        ["roleRef: Invalid value: {\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"Role\",\
          \"name\":\"b\"}: cannot change roleRef"]
    );
}

#[test]
fn the_network_is_described_in_ports_paths_and_ranges() {
    let chosen = json!({"matchExpressions": [{"key": "a", "operator": "Is"}]});
    let policy = json!({"spec": {"podSelector": chosen,
        "egress": [{"to": [{}, {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]}]}});
    assert_eq!(
        said("networking.k8s.io", "NetworkPolicy", policy),
        [
            "spec.podSelector.matchExpressions[0].operator: Invalid value: \"Is\": not a valid \
             selector operator",
            "spec.egress[0].to[0]: Required value: must specify a peer",
            "spec.egress[0].to[1].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a \
             strict subset of `cidr`"
        ]
    );
    let ingress = json!({"spec": {"rules": [{"host": "1.2.3.4", "http": {"paths": [
        {"path": "x", "pathType": "Prefix", "backend": {"service": {"name": "s",
            "port": {"number": 80}}}}]}}]}});
    assert_eq!(
        said("networking.k8s.io", "Ingress", ingress),
        [
            "spec.rules[0].host: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
            "spec.rules[0].http.paths[0].path: Invalid value: \"x\": must be an absolute path"
        ]
    );
}

#[test]
fn limits_are_in_order_and_quotas_name_what_is_counted() {
    let range = json!({"spec": {"limits": [{"type": "Container", "min": {"cpu": "2"},
        "max": {"cpu": "1"}}]}});
    assert_eq!(
        said("", "LimitRange", range)[0],
        "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1"
    );
    assert_eq!(
        said("", "ResourceQuota", json!({"spec": {"hard": {"pods": "-1", "nonsense": "1"}}})),
        [
            "spec.hard[nonsense]: Invalid value: \"nonsense\": must be a standard resource for \
             quota",
            "spec.hard[pods]: Invalid value: \"-1\": must be greater than or equal to 0"
        ]
    );
}

#[test]
fn a_schedule_is_one_and_a_job_made_by_it_has_a_name() {
    let cron = json!({"metadata": {"name": "x".repeat(53)}, "spec": {"schedule": "never",
        "jobTemplate": {"spec": {"template": {"spec": {"restartPolicy": "Never",
            "containers": [{"name": "c", "image": "i"}]}}}}}});
    let said = said("batch", "CronJob", cron);
    assert!(said[0].ends_with("must be no more than 52 characters"), "{said:?}");
    assert!(said[1].starts_with("spec.schedule: Invalid value: \"never\": "), "{said:?}");
    assert_eq!(said.len(), 2);
}
