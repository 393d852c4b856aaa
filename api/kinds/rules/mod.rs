//! What must hold of an object of a built-in kind, and what of it may change: upstream's validation.
//!
//! Keeps: each rule names its field and its reason as upstream does, so that clients and their users read what
//! they know. A rule is pure: the object, and on a change the one before it, and nothing else.
//! Never: changes anything; defaults have been filled in before.

mod certificates;
mod claims;
mod cluster;
mod containers;
mod contents;
mod devices;
mod drivers;
mod field;
mod flow;
mod hooks;
mod jobs;
mod limits;
mod network;
mod pod;
mod policy;
mod rbac;
mod same;
mod service;
#[cfg(test)]
mod tests;
mod volumes;
mod workloads;

use serde_json::Value;

use super::Hooks;
use crate::error::Cause;
use field::{Field, Found};

const HOOKS: &str = "admissionregistration.k8s.io";

/// The rules of a kind: of any object, and of a change of it.
#[derive(Clone, Copy, Default)]
pub(super) struct Rules {
    pub of: Option<fn(&Value) -> Vec<Cause>>,
    /// Of a new object alone.
    pub new: Option<fn(&Value) -> Vec<Cause>>,
    pub change: Option<fn(&Value, &Value) -> Vec<Cause>>,
    /// Puts back what an update passes over in silence.
    pub keep: Option<fn(&mut Value, &Value)>,
}

impl Rules {
    fn of(of: fn(&Value) -> Vec<Cause>) -> Rules {
        Rules { of: Some(of), ..Rules::default() }
    }

    fn and(self, change: fn(&Value, &Value) -> Vec<Cause>) -> Rules {
        Rules { change: Some(change), ..self }
    }

    fn first(self, new: fn(&Value) -> Vec<Cause>) -> Rules {
        Rules { new: Some(new), ..self }
    }

    fn keep(self, keep: fn(&mut Value, &Value)) -> Rules {
        Rules { keep: Some(keep), ..self }
    }

    /// With these rules in it.
    pub fn plug(self, hooks: Hooks) -> Hooks {
        Hooks {
            validate: self.of,
            validate_create: self.new,
            validate_update: self.change,
            prepare_update: self.keep.or(hooks.prepare_update),
            ..hooks
        }
    }
}

pub(super) fn of(group: &str, version: &str, kind: &str) -> Rules {
    match (group, kind) {
        ("", "ConfigMap") => Rules::of(contents::config_map).and(contents::config_map_change),
        ("", "Secret") => Rules::of(contents::secret).and(contents::secret_change),
        ("", "Pod") => Rules::of(pod::pod).first(pod::new_pod).and(pod::change),
        ("", "PodTemplate") => Rules::of(pod::pod_template),
        ("", "Service") => Rules::of(service::service).and(service::change).keep(service::keep),
        ("", "ReplicationController") => Rules::of(workloads::replication_controller),
        ("", "PersistentVolumeClaim") => Rules::of(claims::claim).and(claims::claim_change),
        ("", "PersistentVolume") => Rules::of(claims::volume).and(claims::volume_change),
        ("", "ResourceQuota") => Rules::of(limits::quota).and(limits::quota_change),
        ("", "LimitRange") => Rules::of(limits::limit_range),
        ("", "Node") => Rules::of(cluster::node).and(cluster::node_change),
        ("", "Endpoints") => Rules::of(network::endpoints),
        ("", "Event") => Rules::of(cluster::event),
        ("apps", "Deployment") => Rules::of(workloads::deployment).and(workloads::keeps_selector),
        ("apps", "ReplicaSet") => Rules::of(workloads::replica_set).and(workloads::keeps_selector),
        ("apps", "DaemonSet") => Rules::of(workloads::daemon_set).and(workloads::keeps_selector),
        ("apps", "StatefulSet") => {
            Rules::of(workloads::stateful_set).and(workloads::stateful_set_change)
        }
        ("apps", "ControllerRevision") => {
            Rules::of(workloads::revision).and(workloads::revision_change)
        }
        ("batch", "Job") => Rules::of(jobs::job).and(jobs::job_change),
        ("batch", "CronJob") => Rules::of(jobs::cron_job),
        ("autoscaling", "HorizontalPodAutoscaler") if version == "v2" => {
            Rules::of(policy::autoscaler)
        }
        ("autoscaling", "HorizontalPodAutoscaler") => Rules::of(policy::autoscaler_bounds),
        ("policy", "PodDisruptionBudget") => Rules::of(policy::disruption_budget),
        ("scheduling.k8s.io", "PriorityClass") => {
            Rules::of(policy::priority_class).and(policy::priority_class_change)
        }
        ("networking.k8s.io", "Ingress") => Rules::of(network::ingress),
        ("networking.k8s.io", "IngressClass") => {
            Rules::of(network::ingress_class).and(network::ingress_class_change)
        }
        ("networking.k8s.io", "NetworkPolicy") => Rules::of(network::network_policy),
        ("discovery.k8s.io", "EndpointSlice") => {
            Rules::of(network::endpoint_slice).and(network::endpoint_slice_change)
        }
        ("rbac.authorization.k8s.io", "Role") => Rules::of(rbac::role),
        ("rbac.authorization.k8s.io", "ClusterRole") => Rules::of(rbac::cluster_role),
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => {
            Rules::of(rbac::binding).and(rbac::binding_change)
        }
        ("storage.k8s.io", "StorageClass") => {
            Rules::of(claims::storage_class).and(claims::storage_class_change)
        }
        ("storage.k8s.io", "CSIDriver") => Rules::of(drivers::driver).and(drivers::driver_change),
        ("storage.k8s.io", "CSINode") => Rules::of(drivers::node).and(drivers::node_change),
        ("storage.k8s.io", "VolumeAttachment") => {
            Rules::of(drivers::attachment).and(drivers::attachment_change)
        }
        ("storage.k8s.io", "CSIStorageCapacity") => {
            Rules::of(drivers::capacity).and(drivers::capacity_change)
        }
        ("storage.k8s.io", "VolumeAttributesClass") => {
            Rules::of(drivers::attributes_class).and(drivers::attributes_class_change)
        }
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => Rules::of(flow::flow_schema),
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => {
            Rules::of(flow::priority_level)
        }
        (HOOKS, "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration") => {
            Rules::of(hooks::webhooks)
        }
        (HOOKS, "ValidatingAdmissionPolicy") => Rules::of(hooks::validating_policy),
        (HOOKS, "MutatingAdmissionPolicy") => Rules::of(hooks::mutating_policy),
        (HOOKS, "ValidatingAdmissionPolicyBinding") => Rules::of(hooks::validating_binding),
        (HOOKS, "MutatingAdmissionPolicyBinding") => Rules::of(hooks::policy_binding),
        ("resource.k8s.io", "ResourceClaim") => Rules::of(devices::claim).and(devices::keeps_spec),
        ("resource.k8s.io", "ResourceClaimTemplate") => {
            Rules::of(devices::template).and(devices::keeps_spec)
        }
        ("resource.k8s.io", "DeviceClass") => Rules::of(devices::class),
        ("resource.k8s.io", "ResourceSlice") => {
            Rules::of(devices::slice).and(devices::slice_change)
        }
        ("coordination.k8s.io", "Lease") => Rules::of(cluster::lease),
        ("node.k8s.io", "RuntimeClass") => {
            Rules::of(cluster::runtime_class).and(cluster::runtime_class_change)
        }
        ("certificates.k8s.io", "CertificateSigningRequest") => {
            Rules::of(certificates::signing_request).keep(certificates::keep_request)
        }
        ("certificates.k8s.io", "ClusterTrustBundle") => {
            Rules::of(certificates::trust_bundle).and(certificates::trust_bundle_change)
        }
        ("certificates.k8s.io", "PodCertificateRequest") => {
            Rules::of(certificates::pod_request).and(devices::keeps_spec)
        }
        ("networking.k8s.io", "ServiceCIDR") => {
            Rules::of(network::service_range).and(network::service_range_change)
        }
        ("networking.k8s.io", "IPAddress") => {
            Rules::of(network::address).and(network::address_change)
        }
        _ => Rules::default(),
    }
}
