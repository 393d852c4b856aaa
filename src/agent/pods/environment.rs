//! A container's environment.
//!
//! Keeps: the order in which it is written, and that a variable sees those before it. Later ones
//! win.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod, Service};
use kontiki_api::error::Reason;

use super::fields::{self, Place};
use super::view;
use crate::agent::masters::Masters;

/// The variables of a container. The error is what its status says.
pub async fn environment(
    masters: &dyn Masters,
    pod: &Pod,
    container: &Container,
    place: &Place,
) -> Result<Vec<(String, String)>, String> {
    let namespace = view::namespace(pod);
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    for service in services(masters, pod).await? {
        all.extend(links(&service));
    }
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(source) = &from.config_map_ref {
            let optional = source.optional == Some(true);
            let found = found(masters.config_map(namespace, &source.name).await, optional)?;
            let data = found.and_then(|it| it.data).unwrap_or_default();
            all.extend(data.into_iter().map(|(key, value)| (format!("{prefix}{key}"), value)));
        } else if let Some(source) = &from.secret_ref {
            let optional = source.optional == Some(true);
            let found = found(masters.secret(namespace, &source.name).await, optional)?;
            for (key, value) in found.and_then(|it| it.data).unwrap_or_default() {
                all.insert(format!("{prefix}{key}"), text(value.0));
            }
        }
    }
    let mut order = Vec::new();
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            Some(source) => resolve(masters, pod, container, source, place).await?,
            None => Some(expand(variable.value.as_deref().unwrap_or_default(), &all)),
        };
        if let Some(value) = value {
            all.insert(variable.name.clone(), value);
            order.retain(|name| name != &variable.name);
            order.push(variable.name.clone());
        }
    }
    // Those from elsewhere first, then as written.
    let mut sorted: Vec<(String, String)> = all
        .iter()
        .filter(|(name, _)| !order.contains(name))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    sorted.extend(order.into_iter().map(|name| {
        let value = all.get(&name).cloned().unwrap_or_default();
        (name, value)
    }));
    Ok(sorted)
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What a reference leads to; nothing, if it is optional and not there.
pub fn found<T>(
    result: Result<T, kontiki_api::Status>,
    optional: bool,
) -> Result<Option<T>, String> {
    match result {
        Ok(object) => Ok(Some(object)),
        Err(status) if status.is(Reason::NotFound) && optional => Ok(None),
        Err(status) => Err(status.message().to_owned()),
    }
}

async fn resolve(
    masters: &dyn Masters,
    pod: &Pod,
    container: &Container,
    source: &EnvVarSource,
    place: &Place,
) -> Result<Option<String>, String> {
    let namespace = view::namespace(pod);
    let absent = |kind: &str, name: &str, key: &str, optional: bool| {
        if optional {
            Ok(None)
        } else {
            Err(format!("couldn't find key {key} in {kind} {namespace}/{name}"))
        }
    };
    if let Some(it) = &source.field_ref {
        return fields::field(pod, &it.field_path, place).map(Some);
    }
    if let Some(it) = &source.resource_field_ref {
        return fields::resource(pod, container, it, place).map(Some);
    }
    if let Some(it) = &source.config_map_key_ref {
        let optional = it.optional == Some(true);
        let map = found(masters.config_map(namespace, &it.name).await, optional)?;
        return match map.and_then(|map| map.data?.remove(&it.key)) {
            Some(value) => Ok(Some(value)),
            None => absent("ConfigMap", &it.name, &it.key, optional),
        };
    }
    if let Some(it) = &source.secret_key_ref {
        let optional = it.optional == Some(true);
        let secret = found(masters.secret(namespace, &it.name).await, optional)?;
        return match secret.and_then(|secret| secret.data?.remove(&it.key)) {
            Some(value) => Ok(Some(text(value.0))),
            None => absent("Secret", &it.name, &it.key, optional),
        };
    }
    Err("a variable's source is of no known kind".into())
}

/// Replaces `$(NAME)` by what is known; `$$` is a dollar, and what is not known stays as written.
#[must_use]
pub fn expand(text: &str, known: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(more) = after.strip_prefix('$') {
            out.push('$');
            rest = more;
        } else if let Some(inner) = after.strip_prefix('(')
            && let Some(end) = inner.find(')')
        {
            let name = &inner[..end];
            match known.get(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&rest[at..at + end + 3]),
            }
            rest = &inner[end + 1..];
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// The services that the pod learns of: its namespace's, if it wants, and the API's always.
async fn services(masters: &dyn Masters, pod: &Pod) -> Result<Vec<Service>, String> {
    const API: &str = "kubernetes";
    let said = |status: kontiki_api::Status| status.message().to_owned();
    let namespace = view::namespace(pod);
    let mut all = masters.services("default").await.map_err(said)?;
    all.retain(|it| it.metadata.name.as_deref() == Some(API));
    if view::spec(pod).enable_service_links != Some(false) {
        let mine = masters.services(namespace).await.map_err(said)?;
        all.extend(
            mine.into_iter()
                .filter(|it| namespace != "default" || it.metadata.name.as_deref() != Some(API)),
        );
    }
    Ok(all)
}

/// The variables for one service, in the style of Docker's links.
fn links(service: &Service) -> Vec<(String, String)> {
    let spec = service.spec.clone().unwrap_or_default();
    let address = spec.cluster_ip.unwrap_or_default();
    let ports = spec.ports.unwrap_or_default();
    let (Some(first), false) = (ports.first(), matches!(address.as_str(), "" | "None")) else {
        return Vec::new();
    };
    let upper = |name: &str| name.to_ascii_uppercase().replace(['-', '.'], "_");
    let name = upper(service.metadata.name.as_deref().unwrap_or_default());
    let host = if address.contains(':') { format!("[{address}]") } else { address.clone() };
    let protocol = |said: &Option<String>| said.as_deref().unwrap_or("TCP").to_owned();
    let url =
        |port: i32, protocol: &str| format!("{}://{host}:{port}", protocol.to_ascii_lowercase());
    let mut all = vec![
        (format!("{name}_SERVICE_HOST"), address.clone()),
        (format!("{name}_SERVICE_PORT"), first.port.to_string()),
        (format!("{name}_PORT"), url(first.port, &protocol(&first.protocol))),
    ];
    for port in &ports {
        if let Some(label) = port.name.as_deref().filter(|it| !it.is_empty()) {
            all.push((format!("{name}_SERVICE_PORT_{}", upper(label)), port.port.to_string()));
        }
        let protocol = protocol(&port.protocol);
        let prefix = format!("{name}_PORT_{}_{protocol}", port.port);
        all.push((prefix.clone(), url(port.port, &protocol)));
        all.push((format!("{prefix}_PROTO"), protocol.to_ascii_lowercase()));
        all.push((format!("{prefix}_PORT"), port.port.to_string()));
        all.push((format!("{prefix}_ADDR"), address.clone()));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_to_variables_are_replaced_and_dollars_escaped() {
        let known = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        for (written, meant) in [
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$$(A)", "$(A)"),
            ("$(B)", "$(B)"),
            ("$A $", "$A $"),
            ("$(A", "$(A"),
            ("", ""),
        ] {
            assert_eq!(expand(written, &known), meant, "{written}");
        }
    }
}
