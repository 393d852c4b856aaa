//! The core group: pods and all they need.

use super::rows::{Row, SCALE, STATUS, Sub, Table};
use crate::kinds::{NameRule, Verbs};

const CREATE_GET: Verbs = Verbs { create: true, get: true, ..Verbs::NONE };
const GET: Verbs = Verbs { get: true, ..Verbs::NONE };
const UPDATE: Verbs = Verbs { update: true, ..Verbs::NONE };
/// Whatever method a client uses is passed on.
const PROXY: Verbs = Verbs { create: true, delete: true, ..Verbs::GET_PATCH_UPDATE };
const ALL_BUT_DELETE_COLLECTION: Verbs = Verbs { delete_collection: false, ..Verbs::ALL };

pub(super) const V1: Table = Table {
    group: "",
    version: "v1",
    package: "io.k8s.api.core.v1",
    priority: 18000,
    rows: &[
        Row::namespaced("Binding", "bindings").verbs(Verbs::CREATE),
        Row::cluster("ComponentStatus", "componentstatuses").short(&["cs"]).verbs(Verbs::GET_LIST),
        Row::namespaced("ConfigMap", "configmaps").short(&["cm"]),
        Row::namespaced("Endpoints", "endpoints").short(&["ep"]).create_on_update(),
        Row::namespaced("Event", "events")
            .short(&["ev"])
            .create_on_update()
            .names(NameRule::PathSegment)
            .selectable(&[
                "involvedObject.kind",
                "involvedObject.namespace",
                "involvedObject.name",
                "involvedObject.uid",
                "involvedObject.apiVersion",
                "involvedObject.resourceVersion",
                "involvedObject.fieldPath",
                "reason",
                "reportingComponent",
                "source",
                "type",
            ]),
        Row::namespaced("LimitRange", "limitranges").short(&["limits"]).create_on_update(),
        Row::cluster("Namespace", "namespaces")
            .short(&["ns"])
            .verbs(ALL_BUT_DELETE_COLLECTION)
            .subresources(&[Sub::of("finalize").verbs(UPDATE), STATUS])
            .names(NameRule::Label)
            .selectable(&["status.phase"])
            .returns_deleted(),
        Row::cluster("Node", "nodes")
            .short(&["no"])
            .subresources(&[
                Sub::of("proxy").verbs(PROXY).kind("", "v1", "NodeProxyOptions"),
                STATUS,
            ])
            .selectable(&["spec.unschedulable"]),
        Row::namespaced("PersistentVolumeClaim", "persistentvolumeclaims")
            .short(&["pvc"])
            .subresources(&[STATUS])
            .returns_deleted(),
        Row::cluster("PersistentVolume", "persistentvolumes")
            .short(&["pv"])
            .subresources(&[STATUS])
            .returns_deleted(),
        Row::namespaced("Pod", "pods")
            .short(&["po"])
            .in_all()
            .generation()
            .returns_deleted()
            .subresources(POD)
            .selectable(&[
                "spec.nodeName",
                "spec.host",
                "spec.restartPolicy",
                "spec.schedulerName",
                "spec.serviceAccountName",
                "spec.hostNetwork",
                "status.phase",
                "status.podIP",
                "status.podIPs",
                "status.nominatedNodeName",
            ]),
        Row::namespaced("PodTemplate", "podtemplates").generation().returns_deleted(),
        Row::namespaced("ReplicationController", "replicationcontrollers")
            .short(&["rc"])
            .in_all()
            .subresources(&[SCALE, STATUS])
            .generation()
            .orphans()
            .selectable(&["status.replicas"]),
        Row::namespaced("ResourceQuota", "resourcequotas")
            .short(&["quota"])
            .subresources(&[STATUS])
            .returns_deleted(),
        Row::namespaced("Secret", "secrets").selectable(&["type"]),
        Row::namespaced("ServiceAccount", "serviceaccounts")
            .short(&["sa"])
            .subresources(&[Sub::of("token").verbs(Verbs::CREATE).kind(
                "authentication.k8s.io",
                "v1",
                "TokenRequest",
            )])
            .returns_deleted(),
        Row::namespaced("Service", "services")
            .short(&["svc"])
            .in_all()
            .subresources(&[
                Sub::of("proxy").verbs(PROXY).kind("", "v1", "ServiceProxyOptions"),
                STATUS,
            ])
            .names(NameRule::Label)
            .create_on_update()
            .returns_deleted()
            .selectable(&["spec.clusterIP", "spec.type"]),
    ],
};

const POD: &[Sub] = &[
    Sub::of("attach").verbs(CREATE_GET).kind("", "v1", "PodAttachOptions"),
    Sub::of("binding").verbs(Verbs::CREATE).kind("", "v1", "Binding"),
    Sub::of("ephemeralcontainers"),
    Sub::of("eviction").verbs(Verbs::CREATE).kind("policy", "v1", "Eviction"),
    Sub::of("exec").verbs(CREATE_GET).kind("", "v1", "PodExecOptions"),
    Sub::of("log").verbs(GET),
    Sub::of("portforward").verbs(CREATE_GET).kind("", "v1", "PodPortForwardOptions"),
    Sub::of("proxy").verbs(PROXY).kind("", "v1", "PodProxyOptions"),
    Sub::of("resize"),
    STATUS,
];
