//! What holds of every kind alike: an object is created, read, listed, changed by each verb, watched all the
//! while, and deleted alone and with others.
//!
//! `tests/conformance` says which conformance tests this stands for.

use serde_json::{Value, json};

use crate::http::{Api, MERGE};
use crate::watches::Stream;

const CHOSEN: &str = "labelSelector=lifecycle%3Dyes";

/// A kind: where its objects are, and all but the metadata of one.
struct Case {
    prefix: &'static str,
    resource: &'static str,
    namespaced: bool,
    kind: &'static str,
    body: Value,
    /// What its status can be said to be.
    status: Option<Value>,
}

fn case(prefix: &'static str, resource: &'static str, kind: &'static str, body: Value) -> Case {
    Case { prefix, resource, namespaced: false, kind, body, status: None }
}

impl Case {
    fn in_namespaces(self) -> Case {
        Case { namespaced: true, ..self }
    }

    fn with_status(self, status: Value) -> Case {
        Case { status: Some(status), ..self }
    }

    fn version(&self) -> &str {
        self.prefix.trim_start_matches("/apis/").trim_start_matches("/api/")
    }

    fn collection(&self) -> String {
        let namespace = if self.namespaced { "/namespaces/default" } else { "" };
        format!("{}{namespace}/{}", self.prefix, self.resource)
    }

    fn object(&self, name: &str) -> Value {
        let mut object = self.body.clone();
        object["kind"] = self.kind.into();
        object["apiVersion"] = self.version().into();
        object["metadata"] = json!({"name": name, "labels": {"lifecycle": "yes"}});
        object
    }
}

fn template() -> Value {
    json!({"metadata": {"labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

fn once() -> Value {
    let mut template = template();
    template["spec"]["restartPolicy"] = "Never".into();
    template
}

fn ready() -> Value {
    json!({"conditions": [{"type": "Checked", "status": "True", "reason": "Test", "message": "m",
        "lastTransitionTime": "2026-01-01T00:00:00Z"}]})
}

fn core() -> Vec<Case> {
    const V1: &str = "/api/v1";
    vec![
        case(V1, "configmaps", "ConfigMap", json!({"data": {"a": "b"}})).in_namespaces(),
        case(V1, "secrets", "Secret", json!({"stringData": {"a": "b"}})).in_namespaces(),
        case(V1, "serviceaccounts", "ServiceAccount", json!({})).in_namespaces(),
        case(V1, "podtemplates", "PodTemplate", json!({"template": template()})).in_namespaces(),
        case(V1, "events", "Event", json!({"involvedObject": {"namespace": "default"}}))
            .in_namespaces(),
        case(V1, "endpoints", "Endpoints", json!({})).in_namespaces(),
        case(
            V1,
            "limitranges",
            "LimitRange",
            json!({"spec": {"limits": [{"type": "Pod", "max": {"cpu": "1"}}]}}),
        )
        .in_namespaces(),
        case(V1, "resourcequotas", "ResourceQuota", json!({"spec": {"hard": {"pods": "5"}}}))
            .in_namespaces()
            .with_status(json!({"hard": {"pods": "5"}, "used": {"pods": "1"}})),
        case(V1, "services", "Service", json!({"spec": {"ports": [{"port": 80}]}}))
            .in_namespaces()
            .with_status(ready()),
        case(V1, "pods", "Pod", json!({"spec": template()["spec"]}))
            .in_namespaces()
            .with_status(json!({"phase": "Running"})),
        case(
            V1,
            "replicationcontrollers",
            "ReplicationController",
            json!({"spec": {"selector": {"a": "b"}, "template": template()}}),
        )
        .in_namespaces()
        .with_status(json!({"replicas": 1})),
        case(
            V1,
            "persistentvolumeclaims",
            "PersistentVolumeClaim",
            json!({"spec": {"accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}}}}),
        )
        .in_namespaces()
        .with_status(json!({"phase": "Pending"})),
        case(
            V1,
            "persistentvolumes",
            "PersistentVolume",
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
                "hostPath": {"path": "/x"}}}),
        )
        .with_status(json!({"phase": "Available", "message": "m"})),
        case(V1, "nodes", "Node", json!({})).with_status(json!({"capacity": {"cpu": "1"}})),
    ]
}

fn of_groups() -> Vec<Case> {
    let selector = json!({"matchLabels": {"a": "b"}});
    let sets = json!({"spec": {"selector": selector, "template": template()}});
    let job = json!({"template": once()});
    let admission = "/apis/admissionregistration.k8s.io/v1";
    let certificates = "/apis/certificates.k8s.io/v1";
    let flow = "/apis/flowcontrol.apiserver.k8s.io/v1";
    let network = "/apis/networking.k8s.io/v1";
    let resource = "/apis/resource.k8s.io/v1";
    let storage = "/apis/storage.k8s.io/v1";
    vec![
        case("/apis/apps/v1", "deployments", "Deployment", sets.clone())
            .in_namespaces()
            .with_status(json!({"replicas": 1})),
        case("/apis/apps/v1", "replicasets", "ReplicaSet", sets.clone())
            .in_namespaces()
            .with_status(json!({"replicas": 1})),
        case("/apis/apps/v1", "statefulsets", "StatefulSet", sets.clone())
            .in_namespaces()
            .with_status(json!({"replicas": 1})),
        case("/apis/apps/v1", "daemonsets", "DaemonSet", sets).in_namespaces().with_status(json!({
            "numberReady": 1, "currentNumberScheduled": 1, "desiredNumberScheduled": 1,
            "numberMisscheduled": 0
        })),
        case(
            "/apis/apps/v1",
            "controllerrevisions",
            "ControllerRevision",
            json!({"revision": 1, "data": {"a": "b"}}),
        )
        .in_namespaces(),
        case("/apis/batch/v1", "jobs", "Job", json!({"spec": job}))
            .in_namespaces()
            .with_status(json!({"active": 1})),
        case(
            "/apis/batch/v1",
            "cronjobs",
            "CronJob",
            json!({"spec": {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": job}}}),
        )
        .in_namespaces()
        .with_status(json!({"lastScheduleTime": "2026-01-01T00:00:00Z"})),
        case(
            "/apis/policy/v1",
            "poddisruptionbudgets",
            "PodDisruptionBudget",
            json!({"spec": {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}}),
        )
        .in_namespaces()
        .with_status(json!({"disruptionsAllowed": 1, "currentHealthy": 1, "desiredHealthy": 1,
            "expectedPods": 1})),
        case("/apis/coordination.k8s.io/v1", "leases", "Lease", json!({"spec": {}}))
            .in_namespaces(),
        case(
            "/apis/events.k8s.io/v1",
            "events",
            "Event",
            json!({"regarding": {"namespace": "default"},
                "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "c",
                "reportingInstance": "i", "action": "a",
                "reason": "r", "type": "Normal", "note": "n"}),
        )
        .in_namespaces(),
        case(
            "/apis/discovery.k8s.io/v1",
            "endpointslices",
            "EndpointSlice",
            json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.9"]}]}),
        )
        .in_namespaces(),
        case(
            network,
            "ingresses",
            "Ingress",
            json!({"spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 1}}}}}),
        )
        .in_namespaces()
        .with_status(json!({"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}]}})),
        case(network, "ingressclasses", "IngressClass", json!({"spec": {"controller": "a.io/b"}})),
        case(network, "networkpolicies", "NetworkPolicy", json!({"spec": {"podSelector": {}}}))
            .in_namespaces(),
        case(network, "servicecidrs", "ServiceCIDR", json!({"spec": {"cidrs": ["10.99.0.0/24"]}}))
            .with_status(ready()),
        case("/apis/scheduling.k8s.io/v1", "priorityclasses", "PriorityClass", json!({"value": 5})),
        case("/apis/node.k8s.io/v1", "runtimeclasses", "RuntimeClass", json!({"handler": "h"})),
        case(
            certificates,
            "certificatesigningrequests",
            "CertificateSigningRequest",
            json!({"spec": {"request": request(), "usages": ["client auth"],
                "signerName": "example.com/s"}}),
        )
        .with_status(ready()),
        case(
            certificates,
            "clustertrustbundles",
            "ClusterTrustBundle",
            json!({"spec": {"trustBundle": anchor()}}),
        ),
        case(
            certificates,
            "podcertificaterequests",
            "PodCertificateRequest",
            json!({"spec": {"signerName": "example.com/s", "podName": "p", "podUID": "1",
                "serviceAccountName": "default", "serviceAccountUID": "2", "nodeName": "n",
                "nodeUID": "3", "maxExpirationSeconds": 86400, "stubPKCS10Request": stub()}}),
        )
        .in_namespaces()
        .with_status(ready()),
        case(
            flow,
            "flowschemas",
            "FlowSchema",
            json!({"spec": {"matchingPrecedence": 99,
                "priorityLevelConfiguration": {"name": "x"}}}),
        )
        .with_status(ready()),
        case(
            flow,
            "prioritylevelconfigurations",
            "PriorityLevelConfiguration",
            json!({"spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 2,
                "limitResponse": {"type": "Reject"}}}}),
        )
        .with_status(ready()),
        case(
            admission,
            "validatingadmissionpolicies",
            "ValidatingAdmissionPolicy",
            json!({"spec": {"matchConstraints": {"resourceRules": [{"apiGroups": ["apps"],
                "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["deployments"]}]},
                "validations": [{"expression": "true"}]}}),
        )
        .with_status(ready()),
        case(
            admission,
            "validatingadmissionpolicybindings",
            "ValidatingAdmissionPolicyBinding",
            json!({"spec": {"policyName": "p", "validationActions": ["Deny"]}}),
        ),
        case(
            admission,
            "mutatingadmissionpolicies",
            "MutatingAdmissionPolicy",
            json!({"spec": {"reinvocationPolicy": "Never", "matchConstraints": {"resourceRules": [
                {"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"],
                    "resources": ["deployments"]}]},
                "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}}]}}),
        ),
        case(
            admission,
            "mutatingadmissionpolicybindings",
            "MutatingAdmissionPolicyBinding",
            json!({"spec": {"policyName": "p"}}),
        ),
        case(
            "/apis/storagemigration.k8s.io/v1",
            "storageversionmigrations",
            "StorageVersionMigration",
            json!({"spec": {"resource": {"group": "apps", "resource": "deployments"}}}),
        )
        .with_status(ready()),
        case(
            resource,
            "devicetaintrules",
            "DeviceTaintRule",
            json!({"spec": {"taint": {"key": "a", "effect": "NoSchedule"}}}),
        )
        .with_status(ready()),
        case(
            resource,
            "resourceslices",
            "ResourceSlice",
            json!({"spec": {"driver": "example.com", "nodeName": "n",
                "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}}}),
        ),
        case(resource, "deviceclasses", "DeviceClass", json!({"spec": {}})),
        case(resource, "resourceclaims", "ResourceClaim", json!({"spec": {}}))
            .in_namespaces()
            .with_status(json!({})),
        case(
            resource,
            "resourceclaimtemplates",
            "ResourceClaimTemplate",
            json!({"spec": {"spec": {}}}),
        )
        .in_namespaces(),
        case(storage, "storageclasses", "StorageClass", json!({"provisioner": "example.com/p"})),
        case(storage, "csidrivers", "CSIDriver", json!({"spec": {}})),
        case(storage, "csinodes", "CSINode", json!({"spec": {"drivers": []}})),
        case(
            storage,
            "csistoragecapacities",
            "CSIStorageCapacity",
            json!({"storageClassName": "s"}),
        )
        .in_namespaces(),
        case(
            storage,
            "volumeattachments",
            "VolumeAttachment",
            json!({"spec": {"attacher": "a", "nodeName": "n",
                "source": {"persistentVolumeName": "v"}}}),
        )
        .with_status(json!({"attached": true})),
        case(
            storage,
            "volumeattributesclasses",
            "VolumeAttributesClass",
            json!({"driverName": "d", "parameters": {"a": "b"}}),
        ),
    ]
}

/// A request for a certificate, in base64 of PEM.
pub fn request() -> String {
    use base64::Engine as _;
    let key = rcgen::KeyPair::generate().unwrap();
    let asked = rcgen::CertificateParams::new(Vec::new()).unwrap();
    let pem = asked.serialize_request(&key).unwrap().pem().unwrap();
    base64::engine::general_purpose::STANDARD.encode(pem)
}

/// The same without the armour.
fn stub() -> String {
    use base64::Engine as _;
    let key = rcgen::KeyPair::generate().unwrap();
    let asked = rcgen::CertificateParams::new(Vec::new()).unwrap();
    let request = asked.serialize_request(&key).unwrap();
    base64::engine::general_purpose::STANDARD.encode(request.der())
}

/// A certificate that others can be signed with.
fn anchor() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut asked = rcgen::CertificateParams::new(Vec::new()).unwrap();
    asked.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    asked.self_signed(&key).unwrap().pem()
}

/// The version of the newest state of a collection.
async fn now(api: &Api, collection: &str) -> String {
    let list = api.get(&format!("{collection}?{CHOSEN}")).await.json();
    list["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}

async fn live(api: &Api, case: &Case) {
    let (collection, resource) = (case.collection(), case.resource);
    let one = format!("{collection}/one");
    let from = now(api, &collection).await;
    let good = |answer: crate::http::Answer| {
        assert_eq!(answer.code, 200, "{resource}: {}", answer.json());
        answer.json()
    };
    let made = api.create(&collection, &case.object("one")).await;
    assert_eq!(made["kind"], case.kind, "{resource}");
    let read = good(api.get(&one).await);
    assert_eq!(read["metadata"]["uid"], made["metadata"]["uid"], "{resource}");
    // In its namespace and in all of them.
    for path in [collection.clone(), format!("{}/{resource}", case.prefix)] {
        let list = good(api.get(&format!("{path}?{CHOSEN}")).await);
        assert_eq!(list["kind"], format!("{}List", case.kind), "{resource}");
        assert_eq!(list["items"].as_array().map(Vec::len), Some(1), "{resource}");
    }
    let patch = json!({"metadata": {"annotations": {"patched": "yes"}}});
    let mut patched = good(api.patch(&one, MERGE, &patch).await);
    assert_eq!(patched["metadata"]["annotations"]["patched"], "yes", "{resource}");
    patched["metadata"]["annotations"]["updated"] = "yes".into();
    let updated = good(api.write("PUT", &one, &patched).await);
    assert_eq!(updated["metadata"]["annotations"]["updated"], "yes", "{resource}");
    let stale = api.write("PUT", &one, &patched).await;
    assert_eq!(stale.code, 409, "{resource}: {}", stale.json());
    let mut changes = 2;
    if let Some(status) = &case.status {
        changes += live_status(api, &one, status, resource).await;
    }
    end(api, &one, resource).await;

    let path = format!("{collection}?watch=true&resourceVersion={from}&{CHOSEN}");
    let mut watch = Stream::at(api, &path, &[]).await;
    let mut told = Vec::new();
    while told.last().is_none_or(|last| last != "DELETED") {
        let event = watch.next().await.expect("the watch goes on");
        told.push(event["type"].as_str().unwrap().to_owned());
    }
    assert_eq!(told.iter().filter(|it| *it == "ADDED").count(), 1, "{resource}: {told:?}");
    let modified = told.iter().filter(|it| *it == "MODIFIED").count();
    assert!(modified >= changes, "{resource}: {told:?}");

    for name in ["two", "three"] {
        api.create(&collection, &case.object(name)).await;
    }
    let gone = api.write("DELETE", &format!("{collection}?{CHOSEN}"), &Value::Null).await;
    assert_eq!(gone.code, 200, "{resource}: {}", gone.json());
    for name in ["two", "three"] {
        end(api, &format!("{collection}/{name}"), resource).await;
    }
}

/// Reads, patches and updates the status; returns how many changes that makes.
async fn live_status(api: &Api, one: &str, status: &Value, resource: &str) -> usize {
    let path = format!("{one}/status");
    let read = api.get(&path).await;
    assert_eq!(read.code, 200, "{resource}: {}", read.json());
    let body = json!({"metadata": {"annotations": {"status": "patched"}}, "status": status});
    let patched = api.patch(&path, MERGE, &body).await;
    assert_eq!(patched.code, 200, "{resource}: {}", patched.json());
    let mut patched = patched.json();
    for (name, value) in status.as_object().unwrap() {
        assert_eq!(&patched["status"][name], value, "{resource}");
    }
    patched["metadata"]["annotations"]["status"] = "updated".into();
    let updated = api.write("PUT", &path, &patched).await;
    assert_eq!(updated.code, 200, "{resource}: {}", updated.json());
    2
}

/// Deletes it, if it is still there, and lets it go if something holds it.
async fn end(api: &Api, path: &str, resource: &str) {
    let now = json!({"gracePeriodSeconds": 0});
    let deleted = api.write("DELETE", path, &now).await;
    assert!(matches!(deleted.code, 200 | 202 | 404), "{resource}: {}", deleted.json());
    if api.get(path).await.code == 200 {
        // Protection of storage, and dependents that no collector is there to look for.
        let free = json!({"metadata": {"finalizers": null}});
        api.patch(path, MERGE, &free).await;
    }
    assert_eq!(api.get(path).await.code, 404, "{resource}");
}

#[tokio::test]
async fn every_object_of_the_core_lives_the_same_life() {
    let api = Api::start().await;
    for case in core() {
        live(&api, &case).await;
    }
}

#[tokio::test]
async fn every_object_of_a_group_lives_the_same_life() {
    let api = Api::start().await;
    for case in of_groups() {
        live(&api, &case).await;
    }
}
