//! Requests that end at a node: logs, exec, attach, port-forward, proxy.
//!
//! The road permits and admits them and finds the object; the streams themselves are a front's affair.

use serde_json::{Map, Value};

use super::Road;
use super::change::Writer;
use super::options::WriteOptions;
use super::target::{Target, unknown_path};
use crate::admission::Operation;
use crate::error::Status;
use crate::object::meta;
use crate::request::{Request, User, Verb};

/// What may be opened to what.
#[derive(Clone, Debug)]
pub struct Connection {
    pub who: User,
    /// `pods` or `nodes`; who asked for a service gets one of its pods.
    pub resource: String,
    /// `log`, `exec`, `attach`, `portforward` or `proxy`.
    pub subresource: String,
    pub namespace: String,
    /// As the URL has it: `scheme:name:port` is possible.
    pub name: String,
    /// The pod or node.
    pub object: Value,
    /// The query, decoded: `container`, `command` and so on, in order.
    pub query: Vec<(String, String)>,
}

impl Connection {
    /// The node that the pod is on.
    #[must_use]
    pub fn node(&self) -> &str {
        if self.resource == "nodes" {
            meta::name(&self.object)
        } else {
            meta::text(&self.object, &["spec", "nodeName"])
        }
    }

    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The container that is meant: the one that is named, the one the pod calls its default, or the only
    /// one.
    pub fn container(&self) -> Result<&str, Status> {
        let pod = meta::name(&self.object);
        let all: Vec<&str> = ["containers", "initContainers", "ephemeralContainers"]
            .iter()
            .filter_map(|field| meta::at(&self.object, &["spec", field])?.as_array())
            .flatten()
            .map(|it| meta::text(it, &["name"]))
            .collect();
        let default = meta::annotation(&self.object, "kubectl.kubernetes.io/default-container");
        let named = self.parameter("container").filter(|it| !it.is_empty());
        if let Some(named) = named {
            return all.iter().find(|it| **it == named).copied().ok_or_else(|| {
                Status::bad_request(format!("container {named} is not valid for pod {pod}"))
            });
        }
        let main = meta::at(&self.object, &["spec", "containers"]).and_then(Value::as_array);
        let main: Vec<&str> =
            main.into_iter().flatten().map(|it| meta::text(it, &["name"])).collect();
        match (default.filter(|it| all.contains(it)), main.as_slice()) {
            (Some(default), _) => Ok(default),
            (None, [only]) => Ok(only),
            (None, many) => Err(Status::bad_request(format!(
                "a container name must be specified for pod {pod}, choose one of: [{}]",
                many.join(" ")
            ))),
        }
    }
}

/// Whether a request is one of these.
#[must_use]
pub fn connects(request: &Request) -> bool {
    let resource = request.resource.resource.as_str();
    request.resource.group.is_empty()
        && match request.subresource.as_deref() {
            Some("log" | "exec" | "attach" | "portforward") => resource == "pods",
            Some("proxy") => matches!(resource, "pods" | "services" | "nodes"),
            _ => false,
        }
}

impl Road {
    /// Allows a connection, or says why not.
    pub async fn connect(
        &self,
        who: &User,
        request: Request,
        query: Vec<(String, String)>,
    ) -> Result<Connection, Status> {
        self.permit(who, &request)?;
        let sub = request.subresource.clone().unwrap_or_default();
        let shell = matches!(sub.as_str(), "exec" | "attach" | "portforward");
        if shell && request.verb == Verb::Get {
            // A WebSocket begins with GET; what it opens is still something new.
            self.permit_verb(who, &request, "create")?;
        }
        let resource = &request.resource;
        let kind = self
            .registry
            .find(&resource.group, &resource.version, &resource.resource)
            .filter(|kind| kind.subresource(&sub).is_some())
            .ok_or_else(unknown_path)?;
        let full = request.name.clone().unwrap_or_default();
        let target = Target {
            sub,
            namespace: request.namespace.clone().unwrap_or_default(),
            // `https:name:port` means the object `name`.
            name: plain_name(&full).to_owned(),
            kind,
        };
        self.objects.barrier().await?;
        let object = self.shown(&target)?.value()?.clone();
        if target.sub != "log" {
            let options = WriteOptions::for_delete(false, &Value::Null, self.clock.now());
            let asking = Writer {
                road: self,
                who,
                target: &target,
                options: &options,
                warnings: Vec::new(),
            };
            let mut attempt = asking.attempt(Operation::Connect, None);
            attempt.object = Some(options_of(&target.sub, &query));
            self.admission.mutate(&mut attempt).await?;
            self.admission.validate(&mut attempt).await?;
        }
        let connection = Connection {
            who: who.clone(),
            resource: request.resource.resource,
            subresource: target.sub,
            namespace: target.namespace,
            name: full,
            object,
            query,
        };
        if connection.resource == "services" {
            return self.behind(connection);
        }
        if connection.resource == "pods" && connection.subresource != "proxy" {
            if connection.subresource != "portforward" {
                connection.container()?;
            }
            if connection.node().is_empty() {
                let pod = meta::name(&connection.object);
                let why = format!("pod {pod} does not have a host assigned");
                return Err(Status::bad_request(why));
            }
        }
        Ok(connection)
    }
}

fn plain_name(full: &str) -> &str {
    let mut parts = full.splitn(3, ':');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(_), Some(name), Some(_)) => name,
        (Some("http" | "https"), Some(name), None) => name,
        (Some(name), _, _) => name,
        (None, _, _) => full,
    }
}

/// The options as admission sees them (`PodExecOptions` and its like).
fn options_of(sub: &str, query: &[(String, String)]) -> Value {
    let kind = match sub {
        "exec" => "PodExecOptions",
        "attach" => "PodAttachOptions",
        "portforward" => "PodPortForwardOptions",
        _ => "PodProxyOptions",
    };
    let mut value = Map::new();
    value.insert("kind".into(), kind.into());
    value.insert("apiVersion".into(), "v1".into());
    for (name, text) in query {
        match name.as_str() {
            "command" => {
                let list = value.entry("command").or_insert_with(|| Value::Array(Vec::new()));
                if let Some(list) = list.as_array_mut() {
                    list.push(text.as_str().into());
                }
            }
            "stdin" | "stdout" | "stderr" | "tty" => {
                value.insert(name.clone(), matches!(text.as_str(), "true" | "1").into());
            }
            _ => {
                value.insert(name.clone(), text.as_str().into());
            }
        }
    }
    Value::Object(value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_name_of_a_proxied_object_may_stand_between_scheme_and_port() {
        for (full, name) in
            [("web", "web"), ("web:80", "web"), ("https:web:443", "web"), ("http:web:", "web")]
        {
            assert_eq!(plain_name(full), name, "{full}");
        }
    }

    #[test]
    fn a_container_is_named_or_the_only_one() {
        let connection = |containers: &[&str], query: &[(&str, &str)]| Connection {
            who: User::default(),
            resource: "pods".into(),
            subresource: "log".into(),
            namespace: "n".into(),
            name: "p".into(),
            object: json!({"metadata": {"name": "p"}, "spec": {"containers":
                containers.iter().map(|it| json!({"name": it})).collect::<Vec<_>>()}}),
            query: query.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect(),
        };
        assert_eq!(connection(&["a"], &[]).container().unwrap(), "a");
        assert_eq!(connection(&["a", "b"], &[("container", "b")]).container().unwrap(), "b");
        assert_eq!(
            connection(&["a", "b"], &[]).container().unwrap_err().message(),
            "a container name must be specified for pod p, choose one of: [a b]"
        );
        assert_eq!(
            connection(&["a"], &[("container", "x")]).container().unwrap_err().message(),
            "container x is not valid for pod p"
        );
    }
}
