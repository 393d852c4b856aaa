//! What strict decoding keeps, drops and says.

use std::sync::LazyLock;

use serde_json::json;

use super::*;

static DEPLOYMENT: LazyLock<Node> = LazyLock::new(|| Node::named("io.k8s.api.apps.v1.Deployment"));
static POD: LazyLock<Node> = LazyLock::new(|| Node::named("io.k8s.api.core.v1.Pod"));
static CONFIG_MAP: LazyLock<Node> = LazyLock::new(|| Node::named("io.k8s.api.core.v1.ConfigMap"));

fn json_of(node: &Node, text: &str) -> Result<Decoded, String> {
    decode(node, Syntax::Json, text.as_bytes())
}

#[test]
fn unknown_and_duplicate_fields_are_told_with_their_paths_in_the_order_they_were_found() {
    let read = json_of(
        &DEPLOYMENT,
        r#"{"metadata": {"name": "web", "nmae": "x"},
            "spec": {"foo": {"bar": 1}, "replicas": 1, "replicas": 2, "selector": {},
            "template": {"spec": {"containers": [{"name": "a", "imagePullPolicy": "Always",
            "imagePullPolicy": "Never", "nope": 1}]}}}}"#,
    )
    .unwrap();
    assert_eq!(
        read.strict,
        [
            r#"unknown field "metadata.nmae""#,
            r#"unknown field "spec.foo""#,
            r#"duplicate field "spec.replicas""#,
            r#"duplicate field "spec.template.spec.containers[0].imagePullPolicy""#,
            r#"unknown field "spec.template.spec.containers[0].nope""#,
        ]
    );
    let pulled = &read.value["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(*pulled, json!({"name": "a", "imagePullPolicy": "Never", "resources": {}}));
    assert_eq!(read.value["spec"]["replicas"], 2, "the last one wins");
    assert!(read.strict_error().unwrap().starts_with("strict decoding error: unknown field \"m"));
}

#[test]
fn field_names_are_matched_with_their_case() {
    let read = json_of(&POD, r#"{"Metadata": {}, "metadata": {"name": "p"}}"#).unwrap();
    assert_eq!(read.strict, [r#"unknown field "Metadata""#]);
}

#[test]
fn what_comes_out_is_what_go_would_write() {
    let read = json_of(
        &DEPLOYMENT,
        r#"{"kind": "Deployment", "apiVersion": "apps/v1",
            "metadata": {"name": "web", "namespace": "", "labels": {}, "creationTimestamp": null,
                         "finalizers": []},
            "spec": {"replicas": 0, "paused": false, "selector": {"matchLabels": {"a": null}},
                     "template": {"spec": {"hostNetwork": false, "nodeName": "",
                       "terminationGracePeriodSeconds": 0,
                       "containers": [{"name": "c", "args": [], "resources": {"limits":
                          {"cpu": "1000m", "memory": 1024, "x": "1.5Gi"}}}]}}}}"#,
    )
    .unwrap();
    assert_eq!(
        read.value,
        json!({
            "kind": "Deployment", "apiVersion": "apps/v1",
            "metadata": {"name": "web"},
            "spec": {
                "replicas": 0, "selector": {"matchLabels": {"a": ""}}, "strategy": {},
                "template": {"metadata": {}, "spec": {
                    "terminationGracePeriodSeconds": 0,
                    "containers": [{"name": "c", "resources": {"limits":
                        {"cpu": "1", "memory": "1024", "x": "1536Mi"}}}],
                }},
            },
            "status": {},
        })
    );
    assert_eq!(read.strict, Vec::<String>::new());
    let again = reshape(&DEPLOYMENT, read.value.clone()).unwrap();
    assert_eq!(again, read, "what has its shape keeps it");
}

#[test]
fn structures_within_that_go_always_writes_are_there() {
    let service = Node::named("io.k8s.api.core.v1.Service");
    let read = json_of(&service, r#"{"spec": {"ports": [{"port": 80}]}}"#).unwrap();
    assert_eq!(
        read.value,
        json!({"metadata": {}, "spec": {"ports": [{"port": 80, "targetPort": 0}]},
               "status": {"loadBalancer": {}}})
    );
}

#[test]
fn times_and_bytes_are_in_their_one_form() {
    let lease = Node::named("io.k8s.api.coordination.v1.Lease");
    let read = json_of(
        &lease,
        r#"{"metadata": {"creationTimestamp": "2026-01-02T05:04:05.9+02:00"},
            "spec": {"renewTime": "2026-01-02T03:04:05.000006Z"}}"#,
    )
    .unwrap();
    assert_eq!(read.value["metadata"]["creationTimestamp"], "2026-01-02T03:04:05Z");
    assert_eq!(read.value["spec"]["renewTime"], "2026-01-02T03:04:05.000006Z");
    let secret = Node::named("io.k8s.api.core.v1.Secret");
    let read = json_of(&secret, r#"{"data": {"a": "aGVs\nbG8="}}"#).unwrap();
    assert_eq!(read.value["data"]["a"], "aGVsbG8=");
    let told = json_of(&secret, r#"{"data": {"a": "aGV*"}}"#).unwrap_err();
    assert_eq!(told, "illegal base64 data at input byte 3");
}

#[test]
fn a_wrong_type_is_told_in_the_words_of_gos_decoder() {
    for (node, text, told) in [
        (
            &DEPLOYMENT,
            r#"{"spec": {"replicas": "3"}}"#,
            "string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            &DEPLOYMENT,
            r#"{"spec": {"replicas": 1.5}}"#,
            "number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            &DEPLOYMENT,
            r#"{"spec": {"replicas": 3000000000}}"#,
            "number 3000000000 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            &POD,
            r#"{"spec": {"containers": {}}}"#,
            "object into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (
            &POD,
            r#"{"spec": {"containers": [{"name": 7}]}}"#,
            "number into Go struct field Container.spec.containers.name of type string",
        ),
        (&POD, r#"{"spec": []}"#, "array into Go struct field Pod.spec of type v1.PodSpec"),
        (&POD, "[]", "array into Go value of type v1.Pod"),
        (
            &CONFIG_MAP,
            r#"{"data": {"a": true}}"#,
            "bool into Go struct field ConfigMap.data of type string",
        ),
    ] {
        let error = json_of(node, text).unwrap_err();
        assert_eq!(error, format!("json: cannot unmarshal {told}"));
    }
    let told = json_of(&POD, r#"{"spec": {"overhead": {"cpu": "lots"}}}"#).unwrap_err();
    assert!(told.starts_with("quantities must match the regular expression"), "{told}");
}

#[test]
fn broken_bodies_are_refused() {
    for text in ["", "{", r#"{"a": 1} x"#, "nope"] {
        assert!(json_of(&POD, text).unwrap_err().contains("json parse error"), "{text}");
    }
    let deep = format!("{}1{}", r#"{"a":["#.repeat(500), "]}".repeat(500));
    assert!(decode_any(Syntax::Json, deep.as_bytes()).is_err());
    assert!(decode(&CONFIG_MAP, Syntax::Json, b"{\"data\": {\"a\": \"\xff\"}}").is_err());
    assert!(decode(&POD, Syntax::Yaml, b"a: [").is_err());
    assert!(decode(&POD, Syntax::Json, &vec![b' '; BODY_BYTES_MAX + 1]).is_err());
}

#[test]
fn yaml_is_read_into_the_same_types() {
    let read = decode(
        &DEPLOYMENT,
        Syntax::Yaml,
        b"apiVersion: apps/v1\nkind: Deployment\nspec:\n  replicas: 2\n  replicas: 3\n  foo: 1\n  \
          template:\n    metadata:\n      labels: {8: nine}\n    spec:\n      containers:\n      \
          - name: c\n        image: \"1.0\"\n",
    )
    .unwrap();
    assert_eq!(read.value["spec"]["replicas"], 3);
    assert_eq!(read.value["spec"]["template"]["metadata"]["labels"], json!({"8": "nine"}));
    assert_eq!(read.value["spec"]["template"]["spec"]["containers"][0]["image"], "1.0");
    assert_eq!(
        read.strict,
        [
            "yaml: unmarshal errors:\n  line 5: key \"replicas\" already set in map",
            "unknown field \"spec.foo\"",
        ]
    );
}

#[test]
fn whatever_json_it_is_can_be_read_without_a_type() {
    let text = br#"{"a": null, "b": [1, 2.5, {"c": "d"}], "b": 1}"#;
    let read = decode_any(Syntax::Json, text).unwrap();
    assert_eq!(read.value, json!({"a": null, "b": 1}));
    assert_eq!(read.strict, [r#"duplicate field "b""#]);
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_decoding_panic(
        bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _ = decode(&POD, Syntax::Json, &bytes);
        let _ = decode(&POD, Syntax::Yaml, &bytes);
    }
}
