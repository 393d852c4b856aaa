//! Roles, certificates, leases, admission, flow control, devices: what a cluster is run by.

use serde_json::{Value, json};

use super::cells::{
    age_of, at, condition, flag, labels, list, name, number, or, selector, since, text, text_or,
};
use super::{AGE, Column, Entry, NAME, column, typed};
use crate::object::duration::human;
use crate::object::time::Timestamp;

const ADMISSION: &str = "admissionregistration.k8s.io";
const CERTIFICATES: &str = "certificates.k8s.io";
const DEVICES: &str = "resource.k8s.io";
const FLOW: &str = "flowcontrol.apiserver.k8s.io";
const RBAC: &str = "rbac.authorization.k8s.io";

pub const TABLE: &[Entry] = &[
    (RBAC, "RoleBinding", BINDING, binding),
    (RBAC, "ClusterRoleBinding", BINDING, binding),
    (CERTIFICATES, "CertificateSigningRequest", SIGNING_REQUEST, signing_request),
    (CERTIFICATES, "ClusterTrustBundle", &[NAME, column("SignerName", 0)], |it, _| {
        vec![name(it), text_or(it, "/spec/signerName", "<none>").into()]
    }),
    (CERTIFICATES, "PodCertificateRequest", POD_CERTIFICATE, pod_certificate),
    ("coordination.k8s.io", "Lease", &[NAME, column("Holder", 0), AGE], |it, now| {
        vec![name(it), text(it, "/spec/holderIdentity").into(), age_of(it, now)]
    }),
    ("scheduling.k8s.io", "PriorityClass", PRIORITY, |it, now| {
        vec![
            name(it),
            json!(number(it, "/value")),
            flag(it, "/globalDefault").into(),
            age_of(it, now),
            text(it, "/preemptionPolicy").into(),
        ]
    }),
    ("node.k8s.io", "RuntimeClass", &[NAME, column("Handler", 0), AGE], |it, now| {
        vec![name(it), text(it, "/handler").into(), age_of(it, now)]
    }),
    (ADMISSION, "MutatingWebhookConfiguration", WEBHOOKS, webhooks),
    (ADMISSION, "ValidatingWebhookConfiguration", WEBHOOKS, webhooks),
    (
        ADMISSION,
        "ValidatingAdmissionPolicy",
        &[NAME, typed("Validations", "integer", 0), column("ParamKind", 0), AGE],
        |it, now| policy(it, "/spec/validations", now),
    ),
    (
        ADMISSION,
        "MutatingAdmissionPolicy",
        &[NAME, typed("Mutations", "integer", 0), column("ParamKind", 0), AGE],
        |it, now| policy(it, "/spec/mutations", now),
    ),
    (ADMISSION, "ValidatingAdmissionPolicyBinding", POLICY_BINDING, policy_binding),
    (ADMISSION, "MutatingAdmissionPolicyBinding", POLICY_BINDING, policy_binding),
    (FLOW, "FlowSchema", FLOW_SCHEMA, flow_schema),
    (FLOW, "PriorityLevelConfiguration", LEVEL, level),
    (DEVICES, "DeviceClass", &[NAME, AGE], |it, now| vec![name(it), age_of(it, now)]),
    (DEVICES, "ResourceClaimTemplate", &[NAME, AGE], |it, now| vec![name(it), age_of(it, now)]),
    (DEVICES, "ResourceClaim", &[NAME, column("State", 0), AGE], claim),
    (
        DEVICES,
        "ResourceSlice",
        &[NAME, column("Node", 0), column("Driver", 0), column("Pool", 0), AGE],
        |it, now| {
            vec![
                name(it),
                text(it, "/spec/nodeName").into(),
                text(it, "/spec/driver").into(),
                text(it, "/spec/pool/name").into(),
                age_of(it, now),
            ]
        },
    ),
    (DEVICES, "DeviceTaintRule", TAINT, taint),
    (
        "storagemigration.k8s.io",
        "StorageVersionMigration",
        &[NAME, column("Resource", 0), column("Status", 0)],
        migration,
    ),
    (
        "apiregistration.k8s.io",
        "APIService",
        &[NAME, column("Service", 0), column("Available", 0), AGE],
        service,
    ),
];

const BINDING: &[Column] = &[
    NAME,
    column("Role", 0),
    AGE,
    column("Users", 1),
    column("Groups", 1),
    column("ServiceAccounts", 1),
];

fn binding(it: &Value, now: Timestamp) -> Vec<Value> {
    let of = |kind: &str| {
        let subjects = list(it, "/subjects").iter().filter(|one| text(one, "/kind") == kind);
        let names = subjects.map(|one| match text(one, "/namespace") {
            "" => text(one, "/name").to_owned(),
            namespace => format!("{namespace}/{}", text(one, "/name")),
        });
        Value::from(names.collect::<Vec<_>>().join(", "))
    };
    let role = at(it, "/roleRef");
    vec![
        name(it),
        format!("{}/{}", text(role, "/kind"), text(role, "/name")).into(),
        age_of(it, now),
        of("User"),
        of("Group"),
        of("ServiceAccount"),
    ]
}

const SIGNING_REQUEST: &[Column] = &[
    NAME,
    AGE,
    column("SignerName", 0),
    column("Requestor", 0),
    column("RequestedDuration", 0),
    column("Condition", 0),
];

fn signing_request(it: &Value, now: Timestamp) -> Vec<Value> {
    let has = |kind: &str| {
        list(it, "/status/conditions").iter().any(|condition| text(condition, "/type") == kind)
    };
    let mut state = match () {
        () if has("Denied") => "Denied",
        () if has("Approved") => "Approved",
        () => "Pending",
    }
    .to_owned();
    if has("Failed") {
        state += ",Failed";
    }
    if !text(it, "/status/certificate").is_empty() {
        state += ",Issued";
    }
    let duration = at(it, "/spec/expirationSeconds").as_i64().map(human);
    vec![
        name(it),
        age_of(it, now),
        text_or(it, "/spec/signerName", "<none>").into(),
        text(it, "/spec/username").into(),
        duration.unwrap_or_else(|| "<none>".into()).into(),
        state.into(),
    ]
}

const POD_CERTIFICATE: &[Column] = &[
    NAME,
    column("PodName", 0),
    column("ServiceAccountName", 0),
    column("NodeName", 0),
    column("SignerName", 0),
    column("State", 0),
    column("UnverifiedUserAnnotations", 1),
];

fn pod_certificate(it: &Value, _: Timestamp) -> Vec<Value> {
    let state = list(it, "/status/conditions")
        .iter()
        .map(|condition| text(condition, "/type"))
        .rfind(|kind| matches!(*kind, "Issued" | "Denied" | "Failed"));
    vec![
        name(it),
        text(it, "/spec/podName").into(),
        text(it, "/spec/serviceAccountName").into(),
        text(it, "/spec/nodeName").into(),
        text(it, "/spec/signerName").into(),
        state.unwrap_or("Pending").into(),
        labels(at(it, "/spec/unverifiedUserAnnotations")).into(),
    ]
}

const PRIORITY: &[Column] = &[
    NAME,
    typed("Value", "integer", 0),
    typed("Global-Default", "boolean", 0),
    AGE,
    column("PreemptionPolicy", 1),
];

const WEBHOOKS: &[Column] = &[NAME, typed("Webhooks", "integer", 0), AGE];

fn webhooks(it: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(it), json!(list(it, "/webhooks").len()), age_of(it, now)]
}

fn policy(it: &Value, rules: &str, now: Timestamp) -> Vec<Value> {
    let parameters = match at(it, "/spec/paramKind") {
        Value::Null => "<unset>".to_owned(),
        kind => format!("{}/{}", text(kind, "/apiVersion"), text(kind, "/kind")),
    };
    vec![name(it), json!(list(it, rules).len()), parameters.into(), age_of(it, now)]
}

const POLICY_BINDING: &[Column] = &[NAME, column("PolicyName", 0), column("ParamRef", 0), AGE];

fn policy_binding(it: &Value, now: Timestamp) -> Vec<Value> {
    let parameters = match at(it, "/spec/paramRef") {
        Value::Null => "<unset>".to_owned(),
        reference => match (text(reference, "/namespace"), text(reference, "/name")) {
            (_, "") => selector(at(reference, "/selector")),
            ("", name) => format!("*/{name}"),
            (namespace, name) => format!("{namespace}/{name}"),
        },
    };
    vec![name(it), text(it, "/spec/policyName").into(), parameters.into(), age_of(it, now)]
}

const FLOW_SCHEMA: &[Column] = &[
    NAME,
    column("PriorityLevel", 0),
    typed("MatchingPrecedence", "integer", 0),
    column("DistinguisherMethod", 0),
    AGE,
    column("MissingPL", 0),
];

fn flow_schema(it: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(it),
        text(it, "/spec/priorityLevelConfiguration/name").into(),
        json!(number(it, "/spec/matchingPrecedence")),
        text_or(it, "/spec/distinguisherMethod/type", "<none>").into(),
        age_of(it, now),
        or(condition(it, "Dangling"), "?").into(),
    ]
}

const LEVEL: &[Column] = &[
    NAME,
    column("Type", 0),
    column("NominalConcurrencyShares", 0),
    column("Queues", 0),
    column("HandSize", 0),
    column("QueueLengthLimit", 0),
    AGE,
];

fn level(it: &Value, now: Timestamp) -> Vec<Value> {
    let limited = at(it, "/spec/limited");
    let or_none = |value: &Value| if value.is_null() { json!("<none>") } else { value.clone() };
    let queuing = |field: &str| or_none(at(limited, &format!("/limitResponse/queuing/{field}")));
    vec![
        name(it),
        text(it, "/spec/type").into(),
        or_none(at(limited, "/nominalConcurrencyShares")),
        queuing("queues"),
        queuing("handSize"),
        queuing("queueLengthLimit"),
        age_of(it, now),
    ]
}

fn claim(it: &Value, now: Timestamp) -> Vec<Value> {
    let deleted = at(it, "/metadata/deletionTimestamp").is_string();
    let allocated = !at(it, "/status/allocation").is_null();
    let states = [
        (deleted, "deleted"),
        (!deleted && !allocated, "pending"),
        (allocated, "allocated"),
        (allocated && !list(it, "/status/reservedFor").is_empty(), "reserved"),
    ];
    let states: Vec<_> = states.iter().filter(|(is, _)| *is).map(|(_, state)| *state).collect();
    vec![name(it), states.join(",").into(), age_of(it, now)]
}

const TAINT: &[Column] =
    &[NAME, column("Key", 0), column("Value", 0), column("Effect", 0), column("TimeAdded", 0), AGE];

fn taint(it: &Value, now: Timestamp) -> Vec<Value> {
    let added = match text(it, "/spec/taint/timeAdded") {
        "" => String::new(),
        _ => since(it, "/spec/taint/timeAdded", now),
    };
    vec![
        name(it),
        text(it, "/spec/taint/key").into(),
        text(it, "/spec/taint/value").into(),
        text(it, "/spec/taint/effect").into(),
        added.into(),
        age_of(it, now),
    ]
}

fn migration(it: &Value, _: Timestamp) -> Vec<Value> {
    let resource = match text(it, "/spec/resource/group") {
        "" => text(it, "/spec/resource/resource").to_owned(),
        group => format!("{}.{group}", text(it, "/spec/resource/resource")),
    };
    let state = list(it, "/status/conditions")
        .iter()
        .filter(|condition| text(condition, "/status") == "True")
        .map(|condition| text(condition, "/type"))
        .rfind(|kind| matches!(*kind, "Running" | "Failed" | "Succeeded"));
    vec![name(it), resource.into(), state.unwrap_or("Unknown").into()]
}

fn service(it: &Value, now: Timestamp) -> Vec<Value> {
    let behind = match at(it, "/spec/service") {
        Value::Null => "Local".to_owned(),
        service => format!("{}/{}", text(service, "/namespace"), text(service, "/name")),
    };
    let available = list(it, "/status/conditions")
        .iter()
        .find(|condition| text(condition, "/type") == "Available")
        .map_or_else(
            || "Unknown".to_owned(),
            |condition| match text(condition, "/status") {
                "True" => "True".to_owned(),
                status => format!("{status} ({})", text(condition, "/reason")),
            },
        );
    vec![name(it), behind.into(), available.into(), age_of(it, now)]
}
