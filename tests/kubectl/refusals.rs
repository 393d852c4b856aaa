//! What is refused, in the words that users know from elsewhere.

use crate::tour::{deployment, tour};

#[tokio::test]
async fn what_cannot_be_is_refused_field_by_field() {
    tour(|kubectl| {
        let refuse = |object: serde_json::Value, wanted: &[&str]| {
            let said = kubectl.feed(&["create", "-f", "-"], &object.to_string());
            assert!(!said.good, "it should fail: {}", said.told());
            said.has(wanted);
        };
        let pod = |spec: serde_json::Value| {
            serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
                "spec": spec})
        };
        refuse(
            pod(serde_json::json!({"containers": [{"name": "A_b", "image": "i"}]})),
            &["The Pod \"p\" is invalid: spec.containers[0].name: Invalid value: \"A_b\""],
        );
        refuse(
            pod(serde_json::json!({"containers": [{"name": "c"}], "restartPolicy": "Maybe"})),
            &[
                "* spec.containers[0].image: Required value",
                "* spec.restartPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \
                 \"OnFailure\", \"Never\"",
            ],
        );
        refuse(
            pod(serde_json::json!({"containers": [{"name": "c", "image": "i"}],
                "runtimeClassName": "none"})),
            &["pod rejected: RuntimeClass \"none\" not found"],
        );
        refuse(
            pod(serde_json::json!({"containers": [{"name": "c", "image": "i"}],
                "securityContext": {"sysctls": [{"name": "kernel.shm_rmid_forced", "value": "0"},
                    {"name": "foo-", "value": "bar"}]}})),
            &["spec.securityContext.sysctls[1].name: Invalid value: \"foo-\""],
        );
        refuse(
            serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "A"}}),
            &["metadata.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain"],
        );
        refuse(
            serde_json::json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
                "spec": {}}),
            &["The Service \"s\" is invalid: spec.ports: Required value"],
        );
        refuse(
            serde_json::json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"},
                "type": "kubernetes.io/tls"}),
            &["data[tls.crt]: Required value", "data[tls.key]: Required value"],
        );
        refuse(
            serde_json::json!({"apiVersion": "v1", "kind": "Nonsense", "metadata": {"name": "s"}}),
            &["no matches for kind \"Nonsense\" in version \"v1\""],
        );
    })
    .await;
}

#[tokio::test]
async fn what_may_not_change_stays() {
    tour(|kubectl| {
        let file = kubectl.file("one.yaml", &deployment(1));
        kubectl.run(&["create", "-f", &file]).good();
        let selector = r#"{"spec":{"selector":{"matchLabels":{"app":"b"}},
            "template":{"metadata":{"labels":{"app":"b"}}}}}"#;
        kubectl.fails(
            &["patch", "deployment", "web", "-p", selector],
            &["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"b\"}}: field is immu"],
        );
        kubectl.run(&["run", "p", "--image=i"]).good();
        kubectl.fails(
            &["patch", "pod", "p", "-p", r#"{"spec":{"nodeSelector":{"a":"b"}}}"#],
            &["spec: Forbidden: pod updates may not change fields other than"],
        );
        kubectl.run(&["set", "image", "pod/p", "p=other"]).good();
        kubectl.run(&["create", "configmap", "m", "--from-literal=a=b"]).good();
        kubectl.run(&["patch", "cm", "m", "-p", r#"{"immutable":true}"#]).good();
        kubectl.fails(
            &["patch", "cm", "m", "-p", r#"{"data":{"a":"c"}}"#],
            &["data: Forbidden: field is immutable when `immutable` is set"],
        );
        kubectl.run(&["expose", "deployment", "web", "--port=80"]).good();
        let address = r#"{"spec":{"clusterIP":"10.43.255.1","clusterIPs":["10.43.255.1"]}}"#;
        kubectl.fails(
            &["patch", "service", "web", "-p", address],
            &["spec.clusterIPs[0]: Invalid value: [\"10.43.255.1\"]: may not change once set"],
        );
        kubectl.run(&["create", "role", "r", "--verb=get", "--resource=pods"]).good();
        kubectl.run(&["create", "rolebinding", "b", "--role=r", "--user=u"]).good();
        kubectl.fails(
            &["patch", "rolebinding", "b", "-p", r#"{"roleRef":{"name":"other"}}"#],
            &["cannot change roleRef"],
        );
    })
    .await;
}
