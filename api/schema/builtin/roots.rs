//! The types from which all other built-in types can be reached, with the function that describes each.

use k8s_openapi::api;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions;
use k8s_openapi::apimachinery::pkg::apis::meta;
use k8s_openapi::apimachinery::pkg::{runtime, version};
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration;
use schemars::SchemaGenerator;

/// Upstream's name of the package, and what puts its types' schemas into a generator.
pub(super) struct Package {
    pub name: &'static str,
    pub types: &'static [(&'static str, fn(&mut SchemaGenerator))],
}

macro_rules! describe {
    (($($path:ident)::+) $type:ident) => {
        |generator| {
            generator.subschema_for::<$($path)::+::$type>();
        }
    };
}

macro_rules! packages {
    ($($name:literal $path:tt { $($type:ident)+ })+) => {
        pub(super) static PACKAGES: &[Package] = &[$(Package {
            name: $name,
            types: &[$((stringify!($type), describe!($path $type))),+],
        }),+];
    };
}

packages! {
    "io.k8s.api.core.v1" (api::core::v1) {
        Binding ComponentStatus ConfigMap Endpoints Event LimitRange Namespace Node PersistentVolume
        PersistentVolumeClaim Pod PodTemplate ReplicationController ResourceQuota Secret Service
        ServiceAccount TopologySelectorTerm
    }
    "io.k8s.api.admissionregistration.v1" (api::admissionregistration::v1) {
        MutatingAdmissionPolicy MutatingAdmissionPolicyBinding MutatingWebhookConfiguration
        ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding ValidatingWebhookConfiguration
    }
    "io.k8s.api.apps.v1" (api::apps::v1) {
        ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet
    }
    "io.k8s.api.authentication.v1" (api::authentication::v1) {
        SelfSubjectReview TokenRequest TokenReview
    }
    "io.k8s.api.authorization.v1" (api::authorization::v1) {
        LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview SubjectAccessReview
    }
    "io.k8s.api.autoscaling.v1" (api::autoscaling::v1) { HorizontalPodAutoscaler Scale }
    "io.k8s.api.autoscaling.v2" (api::autoscaling::v2) { HorizontalPodAutoscaler }
    "io.k8s.api.batch.v1" (api::batch::v1) { CronJob Job }
    "io.k8s.api.certificates.v1" (api::certificates::v1) {
        CertificateSigningRequest ClusterTrustBundle PodCertificateRequest
    }
    "io.k8s.api.coordination.v1" (api::coordination::v1) { Lease }
    "io.k8s.api.discovery.v1" (api::discovery::v1) { EndpointSlice }
    "io.k8s.api.events.v1" (api::events::v1) { Event }
    "io.k8s.api.flowcontrol.v1" (api::flowcontrol::v1) { FlowSchema PriorityLevelConfiguration }
    "io.k8s.api.networking.v1" (api::networking::v1) {
        IPAddress Ingress IngressClass NetworkPolicy ServiceCIDR
    }
    "io.k8s.api.node.v1" (api::node::v1) { RuntimeClass }
    "io.k8s.api.policy.v1" (api::policy::v1) { Eviction PodDisruptionBudget }
    "io.k8s.api.rbac.v1" (api::rbac::v1) { ClusterRole ClusterRoleBinding Role RoleBinding }
    "io.k8s.api.resource.v1" (api::resource::v1) {
        DeviceClass DeviceTaintRule ResourceClaim ResourceClaimTemplate ResourceSlice
    }
    "io.k8s.api.scheduling.v1" (api::scheduling::v1) { PriorityClass }
    "io.k8s.api.storage.v1" (api::storage::v1) {
        CSIDriver CSINode CSIStorageCapacity StorageClass VolumeAttachment VolumeAttributesClass
    }
    "io.k8s.api.storagemigration.v1" (api::storagemigration::v1) { StorageVersionMigration }
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1" (apiextensions::v1) {
        CustomResourceDefinition
    }
    "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1" (apiregistration::v1) { APIService }
    "io.k8s.apimachinery.pkg.runtime" (runtime) { RawExtension }
    "io.k8s.apimachinery.pkg.version" (version) { Info }
    "io.k8s.apimachinery.pkg.apis.meta.v1" (meta::v1) {
        APIGroup APIGroupList APIResourceList APIVersions DeleteOptions LabelSelector ListMeta
        ObjectMeta Patch Status
    }
}
