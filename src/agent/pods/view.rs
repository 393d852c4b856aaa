//! What a pod's object says, with upstream's defaults where it says nothing.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, PodSpec};
use kontiki_api::object::quantity::Quantity;
use kontiki_api::object::time::Timestamp;

/// Labels by which the runtime's sandboxes and containers are known, also after a restart of the
/// agent. They are upstream's, so that other tools find their way.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub const POD_UID: &str = "io.kubernetes.pod.uid";
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// What the pod said of the image when the container was made.
pub const CONTAINER_IMAGE: &str = "kontiki.io/image";

static NOTHING: LazyLock<PodSpec> = LazyLock::new(PodSpec::default);
static NO_CONTEXT: LazyLock<PodSecurityContext> = LazyLock::new(PodSecurityContext::default);

#[must_use]
pub fn spec(pod: &Pod) -> &PodSpec {
    pod.spec.as_ref().unwrap_or(&NOTHING)
}

#[must_use]
pub fn security(pod: &Pod) -> &PodSecurityContext {
    spec(pod).security_context.as_ref().unwrap_or(&NO_CONTEXT)
}

#[must_use]
pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

#[must_use]
pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

#[must_use]
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

#[must_use]
pub fn init_containers(pod: &Pod) -> &[Container] {
    spec(pod).init_containers.as_deref().unwrap_or_default()
}

#[must_use]
pub fn containers(pod: &Pod) -> &[Container] {
    &spec(pod).containers
}

/// All of them in the order of their start.
pub fn all_containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    init_containers(pod).iter().chain(containers(pod))
}

/// Containers that somebody has added to look around in a pod that runs.
#[must_use]
pub fn ephemeral_containers(pod: &Pod) -> Vec<Container> {
    // They have the fields of the others, and one more.
    let read = |it| serde_json::from_value(serde_json::to_value(it).ok()?).ok();
    spec(pod).ephemeral_containers.iter().flatten().filter_map(read).collect()
}

/// The container whose processes an ephemeral one is to see.
#[must_use]
pub fn target<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    let mut all = spec(pod).ephemeral_containers.iter().flatten();
    let target = all.find(|it| it.name == name)?.target_container_name.as_deref();
    target.filter(|it| !it.is_empty())
}

/// A container of any kind.
#[must_use]
pub fn container<'a>(pod: &'a Pod, name: &str) -> Option<Cow<'a, Container>> {
    let declared = all_containers(pod).find(|it| it.name == name).map(Cow::Borrowed);
    declared.or_else(|| {
        ephemeral_containers(pod).into_iter().find(|it| it.name == name).map(Cow::Owned)
    })
}

/// An init container that goes on beside the others.
#[must_use]
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    Always,
    OnFailure,
    Never,
}

#[must_use]
pub fn restart_policy(pod: &Pod) -> Restart {
    match spec(pod).restart_policy.as_deref() {
        Some("Never") => Restart::Never,
        Some("OnFailure") => Restart::OnFailure,
        _ => Restart::Always,
    }
}

impl Restart {
    /// Whether a container that ended like this is started again.
    #[must_use]
    pub fn again(self, exit_code: i32) -> bool {
        match self {
            Restart::Always => true,
            Restart::OnFailure => exit_code != 0,
            Restart::Never => false,
        }
    }
}

#[must_use]
pub fn deletion(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.deletion_timestamp.as_ref().map(|time| time.0.into())
}

/// How long the pod may take to end: as the deletion says, or the pod.
#[must_use]
pub fn grace_s(pod: &Pod) -> i64 {
    let said = pod.metadata.deletion_grace_period_seconds;
    said.or(spec(pod).termination_grace_period_seconds).unwrap_or(30).max(1)
}

#[must_use]
pub fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|it| it.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

#[must_use]
pub fn host_network(pod: &Pod) -> bool {
    spec(pod).host_network == Some(true)
}

/// As the pod is called inside.
#[must_use]
pub fn hostname(pod: &Pod) -> String {
    const LABEL_MAX: usize = 63;
    let spec = spec(pod);
    let name = spec.hostname.as_deref().filter(|it| !it.is_empty()).unwrap_or(name(pod));
    if let Some(whole) = spec.hostname_override.as_deref() {
        return whole.to_owned();
    }
    let mut name = name.to_owned();
    name.truncate(LABEL_MAX);
    name.trim_end_matches(['-', '.']).to_owned()
}

/// The name within the cluster, for a pod that has a subdomain.
#[must_use]
pub fn fqdn(pod: &Pod, domain: &str) -> Option<String> {
    let subdomain = spec(pod).subdomain.as_deref().filter(|it| !it.is_empty())?;
    Some(format!("{}.{subdomain}.{}.svc.{domain}", hostname(pod), namespace(pod)))
}

/// `Guaranteed`, `Burstable` or `BestEffort`, as the server has found.
#[must_use]
pub fn quality(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|it| it.qos_class.as_deref()).unwrap_or("BestEffort")
}

type Amounts = Option<BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>;

/// An amount of a container's limits or requests.
#[must_use]
pub fn amount(of: &Amounts, resource: &str) -> Option<Quantity> {
    of.as_ref()?.get(resource)?.0.parse().ok()
}

#[must_use]
pub fn limit(container: &Container, resource: &str) -> Option<Quantity> {
    container.resources.as_ref().and_then(|it| amount(&it.limits, resource))
}

#[must_use]
pub fn request(container: &Container, resource: &str) -> Option<Quantity> {
    let resources = container.resources.as_ref()?;
    amount(&resources.requests, resource).or_else(|| amount(&resources.limits, resource))
}
