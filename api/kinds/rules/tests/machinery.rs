//! What the machinery itself is told: who has a say in admission, whose requests wait, which drivers and
//! devices there are.

use serde_json::{Value, json};

use super::{said, said_of_change};

const HOOKS: &str = "admissionregistration.k8s.io";
const FLOW: &str = "flowcontrol.apiserver.k8s.io";
const DEVICES: &str = "resource.k8s.io";
const STORAGE: &str = "storage.k8s.io";

/// An object that is well, with one field of it put in another way.
fn bent(well: &Value, pointer: &str, value: Value) -> Value {
    let mut object = well.clone();
    match object.pointer_mut(pointer) {
        Some(place) => *place = value,
        None => {
            let (parent, field) = pointer.rsplit_once('/').unwrap();
            object.pointer_mut(parent).unwrap()[field] = value;
        }
    }
    object
}

/// Each bend of an object, and the one thing that is said of it.
#[track_caller]
fn check(group: &str, kind: &str, well: &Value, bends: &[(&str, Value, &str)]) {
    assert_eq!(said(group, kind, well.clone()), Vec::<String>::new(), "{kind}");
    for (pointer, value, expected) in bends {
        let found = said(group, kind, bent(well, pointer, value.clone()));
        assert_eq!(found, [*expected], "{kind} {pointer} {value}");
    }
}

#[test]
fn a_webhook_says_whom_to_ask_and_about_what() {
    let well = json!({"metadata": {"name": "w"}, "webhooks": [{
        "name": "a.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"service": {"name": "s", "namespace": "n", "port": 443}},
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"],
            "resources": ["pods", "pods/status"]}]}]});
    let bends = [
        (
            "/webhooks/0/name",
            json!("a.b"),
            "webhooks[0].name: Invalid value: \"a.b\": should be a \
            domain with at least three segments separated by dots",
        ),
        (
            "/webhooks/0/sideEffects",
            json!("Some"),
            "webhooks[0].sideEffects: Unsupported value: \
            \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
        ),
        (
            "/webhooks/0/sideEffects",
            Value::Null,
            "webhooks[0].sideEffects: Required value: must \
            specify one of None, NoneOnDryRun",
        ),
        (
            "/webhooks/0/timeoutSeconds",
            json!(31),
            "webhooks[0].timeoutSeconds: Invalid value: 31: \
            the timeout value must be between 1 and 30 seconds",
        ),
        (
            "/webhooks/0/admissionReviewVersions",
            json!(["v2"]),
            "webhooks[0].admissionReviewVersions: Invalid value: [\"v2\"]: must include at least \
            one of v1, v1beta1",
        ),
        (
            "/webhooks/0/clientConfig",
            json!({}),
            "webhooks[0].clientConfig: Required value: exactly \
            one of url or service is required",
        ),
        (
            "/webhooks/0/clientConfig",
            json!({"url": "http://a"}),
            "webhooks[0].clientConfig.url: \
            Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: \
            https://host[/path]",
        ),
        (
            "/webhooks/0/clientConfig/service/name",
            json!(""),
            "webhooks[0].clientConfig.service.name: Required value",
        ),
        (
            "/webhooks/0/rules/0/operations",
            json!(["*", "CREATE"]),
            "webhooks[0].rules[0].operations: Invalid value: [\"*\",\"CREATE\"]: if '*' is \
            present, must not specify other operations",
        ),
        (
            "/webhooks/0/rules/0/resources",
            json!(["*/*", "a"]),
            "webhooks[0].rules[0].resources: \
            Invalid value: [\"*/*\",\"a\"]: if '*/*' is present, must not specify other resources",
        ),
        (
            "/webhooks/0/matchConditions",
            json!([{"name": "c", "expression": " "}]),
            "webhooks[0].matchConditions[0].expression: Required value",
        ),
    ];
    for kind in ["ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"] {
        check(HOOKS, kind, &well, &bends);
    }
    let mut twice = well.clone();
    let hook = twice["webhooks"][0].clone();
    twice["webhooks"].as_array_mut().unwrap().push(hook);
    assert_eq!(
        said(HOOKS, "ValidatingWebhookConfiguration", twice),
        ["webhooks[1].name: Duplicate value: \"a.example.com\""]
    );
}

#[test]
fn a_policy_says_what_it_is_about_and_what_must_hold() {
    let well = json!({"metadata": {"name": "p"}, "spec": {
        "matchConstraints": {"resourceRules": [{"operations": ["CREATE"], "apiGroups": ["apps"],
            "apiVersions": ["v1"], "resources": ["deployments"]}]},
        "validations": [{"expression": "true"}]}});
    check(
        HOOKS,
        "ValidatingAdmissionPolicy",
        &well,
        &[
            ("/spec/matchConstraints", Value::Null, "spec.matchConstraints: Required value"),
            (
                "/spec/matchConstraints/resourceRules",
                json!([]),
                "spec.matchConstraints.resourceRules: Required value",
            ),
            (
                "/spec/validations/0/expression",
                json!(""),
                "spec.validations[0].expression: Required \
            value: expression is not specified",
            ),
            (
                "/spec/validations/0/reason",
                json!("Because"),
                "spec.validations[0].reason: Unsupported \
            value: \"Because\": supported values: \"Forbidden\", \"Invalid\", \
            \"RequestEntityTooLarge\"",
            ),
            (
                "/spec/variables",
                json!([{"name": "1", "expression": "a"}]),
                "spec.variables[0].name: \
            Invalid value: \"1\": must be a valid CEL identifier",
            ),
        ],
    );
    let binding = json!({"metadata": {"name": "b"},
        "spec": {"policyName": "p", "validationActions": ["Deny"]}});
    check(
        HOOKS,
        "ValidatingAdmissionPolicyBinding",
        &binding,
        &[
            ("/spec/policyName", json!(""), "spec.policyName: Required value"),
            (
                "/spec/validationActions",
                json!([]),
                "spec.validationActions: Required value: at least \
            one validation action is required",
            ),
            (
                "/spec/validationActions",
                json!(["Deny", "Warn"]),
                "spec.validationActions: Invalid \
            value: [\"Deny\",\"Warn\"]: must not contain both Deny and Warn (repeating the same \
            validation failure information in the API response and headers serves no purpose)",
            ),
            (
                "/spec/paramRef",
                json!({"parameterNotFoundAction": "Deny"}),
                "spec.paramRef: Required \
            value: one of name or selector must be specified",
            ),
        ],
    );
    let mut mutating = bent(
        &well,
        "/spec/mutations",
        json!([
        {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{}"}}]),
    );
    mutating["spec"]["reinvocationPolicy"] = "Never".into();
    mutating["spec"].as_object_mut().unwrap().remove("validations");
    check(
        HOOKS,
        "MutatingAdmissionPolicy",
        &mutating,
        &[
            (
                "/spec/mutations",
                json!([]),
                "spec.mutations: Required value: mutations must contain at \
            least one item",
            ),
            (
                "/spec/mutations/0/patchType",
                json!("Other"),
                "spec.mutations[0].patchType: Unsupported \
            value: \"Other\": supported values: \"ApplyConfiguration\", \"JSONPatch\"",
            ),
            (
                "/spec/matchConstraints/resourceRules/0/operations",
                json!(["DELETE"]),
                "spec.matchConstraints.resourceRules[0].operations[0]: Unsupported value: \
            \"DELETE\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"UPDATE\"",
            ),
        ],
    );
}

#[test]
fn a_flow_schema_says_whose_requests_go_where() {
    let well = json!({"metadata": {"name": "f"}, "spec": {"matchingPrecedence": 500,
        "priorityLevelConfiguration": {"name": "l"}, "rules": [{
            "subjects": [{"kind": "User", "user": {"name": "u"}}],
            "resourceRules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"],
                "namespaces": ["*"]}]}]}});
    check(
        FLOW,
        "FlowSchema",
        &well,
        &[
            (
                "/spec/matchingPrecedence",
                json!(1),
                "spec.matchingPrecedence: Invalid value: 1: only \
            the schema named 'exempt' may have matchingPrecedence 1",
            ),
            (
                "/spec/matchingPrecedence",
                json!(10001),
                "spec.matchingPrecedence: Invalid value: 10001: \
            must not be greater than 10000",
            ),
            (
                "/spec/priorityLevelConfiguration/name",
                json!(""),
                "spec.priorityLevelConfiguration.name: \
            Required value: must reference a priority level",
            ),
            (
                "/spec/rules/0/subjects",
                json!([]),
                "spec.rules[0].subjects: Required value: subjects \
            must contain at least one value",
            ),
            (
                "/spec/rules/0/subjects/0/group",
                json!({"name": "g"}),
                "spec.rules[0].subjects[0].group: \
            Forbidden: group is forbidden when subject kind is not 'Group'",
            ),
            (
                "/spec/rules/0/resourceRules/0/verbs",
                json!(["*", "get"]),
                "spec.rules[0].resourceRules[0].verbs: Invalid value: [\"*\",\"get\"]: if '*' is \
            present, must not specify other verbs",
            ),
            (
                "/spec/rules/0/resourceRules/0/namespaces",
                json!([]),
                "spec.rules[0].resourceRules[0].namespaces: Required value: resource rules \
            that are not cluster scoped must supply at least one namespace",
            ),
        ],
    );
}

#[test]
fn a_priority_level_has_queues_that_a_hand_can_be_dealt_from() {
    let well = json!({"metadata": {"name": "l"}, "spec": {"type": "Limited", "limited": {
        "limitResponse": {"type": "Queue",
            "queuing": {"queues": 64, "handSize": 6, "queueLengthLimit": 50}}}}});
    let hand = "spec.limited.limitResponse.queuing.handSize";
    check(
        FLOW,
        "PriorityLevelConfiguration",
        &well,
        &[
            (
                "/spec/type",
                json!("Other"),
                "spec.type: Unsupported value: \"Other\": supported values: \
            \"Exempt\", \"Limited\"",
            ),
            (
                "/spec/limited/nominalConcurrencyShares",
                json!(-1),
                "spec.limited.nominalConcurrencyShares: Invalid value: -1: must be a non-negative \
            integer",
            ),
            (
                "/spec/limited/limitResponse/type",
                json!("Reject"),
                "spec.limited.limitResponse.queuing: Forbidden: must be nil if \
            limited.limitResponse.type is not Limited",
            ),
            (
                "/spec/limited/limitResponse/queuing/handSize",
                json!(65),
                &format!("{hand}: Invalid value: 65: should not be greater than queues (64)"),
            ),
            (
                "/spec/limited/limitResponse/queuing/handSize",
                json!(11),
                &format!(
                    "{hand}: Invalid \
            value: 11: required entropy bits of deckSize 64 and handSize 11 should not be greater \
            than 60"
                ),
            ),
        ],
    );
}

#[test]
fn a_storage_driver_says_what_it_can() {
    let driver = json!({"metadata": {"name": "d"}, "spec": {}});
    check(
        STORAGE,
        "CSIDriver",
        &driver,
        &[
            (
                "/spec/fsGroupPolicy",
                json!("Some"),
                "spec.fsGroupPolicy: Unsupported value: \"Some\": \
            supported values: \"File\", \"None\", \"ReadWriteOnceWithFSType\"",
            ),
            (
                "/spec/volumeLifecycleModes",
                json!(["Other"]),
                "spec.volumeLifecycleModes: Unsupported \
            value: \"Other\": supported values: \"Persistent\", \"Ephemeral\"",
            ),
            (
                "/spec/tokenRequests",
                json!([{"audience": "a", "expirationSeconds": 5}]),
                "spec.tokenRequests[0].expirationSeconds: Invalid value: 5: may not specify a \
            duration less than 10 minutes",
            ),
        ],
    );
    let modes = |mode: &str| bent(&driver, "/spec/volumeLifecycleModes", json!([mode]));
    assert_eq!(
        said_of_change(STORAGE, "CSIDriver", &modes("Ephemeral"), &modes("Persistent")),
        ["spec.volumeLifecycleModes: Invalid value: [\"Ephemeral\"]: field is immutable"]
    );
    let node = json!({"metadata": {"name": "n"},
        "spec": {"drivers": [{"name": "d.io", "nodeID": "1", "topologyKeys": ["a"]}]}});
    check(
        STORAGE,
        "CSINode",
        &node,
        &[
            ("/spec/drivers/0/nodeID", json!(""), "spec.drivers[0].nodeID: Required value"),
            (
                "/spec/drivers/0/topologyKeys",
                json!(["a", "a"]),
                "spec.drivers[0]: Duplicate value: \"a\"",
            ),
        ],
    );
    let more = bent(&node, "/spec/drivers/0/allocatable", json!({"count": 5}));
    assert_eq!(said_of_change(STORAGE, "CSINode", &more, &node), Vec::<String>::new());
    let other = bent(&node, "/spec/drivers/0/nodeID", json!("2"));
    assert_eq!(said_of_change(STORAGE, "CSINode", &other, &node).len(), 1);
}

#[test]
fn a_volume_is_attached_from_one_source_and_stays_what_it_was() {
    let well = json!({"metadata": {"name": "a"}, "spec": {"attacher": "d.io", "nodeName": "n",
        "source": {"persistentVolumeName": "v"}}});
    check(
        STORAGE,
        "VolumeAttachment",
        &well,
        &[
            (
                "/spec/source",
                json!({}),
                "spec.source: Required value: must specify exactly one of \
            inlineVolumeSpec and persistentVolumeName",
            ),
            ("/spec/attacher", json!(""), "spec.attacher: Required value"),
        ],
    );
    let other = bent(&well, "/spec/nodeName", json!("m"));
    let found = said_of_change(STORAGE, "VolumeAttachment", &other, &well);
    assert!(found[0].ends_with("field is immutable"), "{found:?}");
    let class = json!({"metadata": {"name": "c"}, "driverName": "d.io", "parameters": {"a": "b"}});
    check(
        STORAGE,
        "VolumeAttributesClass",
        &class,
        &[(
            "/parameters",
            json!({}),
            "parameters: Required value: must contain at least one key/value \
            pair",
        )],
    );
    assert_eq!(
        said_of_change(
            STORAGE,
            "VolumeAttributesClass",
            &bent(&class, "/driverName", json!("e")),
            &class
        ),
        ["driverName: Forbidden: updates to driverName are forbidden."]
    );
}

#[test]
fn a_claim_on_devices_names_what_it_wants() {
    let well = json!({"metadata": {"name": "c"}, "spec": {"devices": {
        "requests": [{"name": "r", "exactly": {"deviceClassName": "gpu"}}],
        "constraints": [{"requests": ["r"], "matchAttribute": "d.io/model"}]}}});
    let required = "spec.devices.requests[0]: Required value: exactly one of `exactly` or \
        `firstAvailable` is required";
    check(
        DEVICES,
        "ResourceClaim",
        &well,
        &[
            ("/spec/devices/requests/0", json!({"name": "r"}), required),
            (
                "/spec/devices/requests/0/exactly/deviceClassName",
                json!(""),
                "spec.devices.requests[0].exactly.deviceClassName: Required value",
            ),
            (
                "/spec/devices/requests/0/exactly/count",
                json!(-1),
                "spec.devices.requests[0].exactly.count: Invalid value: -1: must be greater \
            than zero",
            ),
            (
                "/spec/devices/constraints/0/requests",
                json!(["other"]),
                "spec.devices.constraints[0].requests[0]: Invalid value: \"other\": must be the \
            name of a request in the claim or the name of a request and a \
            subrequest separated by '/'",
            ),
        ],
    );
    let other = bent(&well, "/spec/devices/requests/0/name", json!("s"));
    let found = said_of_change(DEVICES, "ResourceClaim", &other, &well);
    assert!(found[0].starts_with("spec: Invalid value"), "{found:?}");
    let slice = json!({"metadata": {"name": "s"}, "spec": {"driver": "d.io", "nodeName": "n",
        "pool": {"name": "p", "resourceSliceCount": 1}, "devices": [{"name": "a"}]}});
    check(
        DEVICES,
        "ResourceSlice",
        &slice,
        &[
            (
                "/spec/pool/resourceSliceCount",
                json!(0),
                "spec.pool.resourceSliceCount: Invalid value: 0: \
            must be greater than zero",
            ),
            (
                "/spec/devices",
                json!([{"name": "a"}, {"name": "a"}]),
                "spec.devices[1].name: Duplicate value: \"a\"",
            ),
            ("/spec/driver", json!(""), "spec.driver: Required value"),
        ],
    );
}
