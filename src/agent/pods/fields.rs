//! The downward API: what a pod's containers may know of the pod. Pure.

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use kontiki_api::object::quantity::{Format, Quantity};
use std::borrow::Cow;

use super::view;

/// What a field is on this node, besides what the pod's object says.
#[derive(Clone, Debug, Default)]
pub struct Place {
    pub node: String,
    /// The preferred first.
    pub host: Vec<String>,
    pub pod: Vec<String>,
    /// What the node can give, where a container sets no limit.
    pub cpu_milli: i64,
    pub memory: i64,
}

/// The value of a `fieldRef`.
pub fn field(pod: &Pod, path: &str, place: &Place) -> Result<String, String> {
    let metadata = &pod.metadata;
    let account = || view::spec(pod).service_account_name.clone().unwrap_or_default();
    if let Some((of, key)) = subscript(path) {
        let map = if of == "metadata.labels" { &metadata.labels } else { &metadata.annotations };
        return Ok(map.as_ref().and_then(|it| it.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => view::name(pod).into(),
        "metadata.namespace" => view::namespace(pod).into(),
        "metadata.uid" => view::uid(pod).into(),
        "metadata.labels" => lines(metadata.labels.iter().flatten()),
        "metadata.annotations" => lines(metadata.annotations.iter().flatten()),
        "spec.nodeName" => place.node.clone(),
        "spec.serviceAccountName" => account(),
        "status.hostIP" => place.host.first().cloned().unwrap_or_default(),
        "status.hostIPs" => place.host.join(","),
        "status.podIP" => place.pod.first().cloned().unwrap_or_default(),
        "status.podIPs" => place.pod.join(","),
        other => return Err(format!("unsupported fieldPath: {other}")),
    })
}

fn subscript(path: &str) -> Option<(&str, &str)> {
    let (of, rest) = path.split_once('[')?;
    let key = rest.strip_suffix(']')?.trim_matches(['\'', '"']);
    matches!(of, "metadata.labels" | "metadata.annotations").then_some((of, key))
}

/// `key="value"`, a line each, the value quoted as Go does.
fn lines<'a>(map: impl Iterator<Item = (&'a String, &'a String)>) -> String {
    let lines: Vec<String> = map.map(|(key, value)| format!("{key}={value:?}")).collect();
    lines.join("\n")
}

/// The value of a `resourceFieldRef`. `of` is the container that is meant if none is named.
pub fn resource(
    pod: &Pod,
    of: &Container,
    selector: &ResourceFieldSelector,
    place: &Place,
) -> Result<String, String> {
    let container = match selector.container_name.as_deref().filter(|it| !it.is_empty()) {
        Some(name) => {
            view::container(pod, name).ok_or_else(|| format!("container {name} not found"))?
        }
        None => Cow::Borrowed(of),
    };
    let Some((list, name)) = selector.resource.split_once('.') else {
        return Err(format!("unsupported container resource: {}", selector.resource));
    };
    let said = match list {
        "limits" => view::limit(&container, name),
        "requests" => view::request(&container, name),
        _ => return Err(format!("unsupported container resource: {}", selector.resource)),
    };
    let amount = said.unwrap_or_else(|| match (list, name) {
        ("limits", "cpu") => Quantity::from_milli(place.cpu_milli, Format::DecimalSi),
        ("limits", "memory") => Quantity::new(place.memory, Format::BinarySi),
        _ => Quantity::new(0, Format::DecimalSi),
    });
    let divisor = selector.divisor.as_ref().and_then(|it| it.0.parse::<Quantity>().ok());
    let divisor = divisor.filter(|it| !it.is_zero());
    // Rounded up: half a core is one core to whoever counts cores.
    let up = |amount: i64, by: i64| (amount / by) + i64::from(amount % by > 0);
    Ok(match (name, divisor) {
        ("cpu", None) => up(amount.milli_value(), 1000),
        ("cpu", Some(by)) => up(amount.milli_value(), by.milli_value().max(1)),
        (_, None) => amount.value(),
        (_, Some(by)) => up(amount.value(), by.value().max(1)),
    }
    .to_string())
}
