//! What a connection wants of a node, decided from its query and checked. Pure.

use serde_json::Value;

use super::wire::{self, want::Kind};
use crate::error::{Cause, Status};
use crate::object::time::Timestamp;
use crate::object::{GroupKind, meta};
use crate::pipeline::Connection;

/// Of a command's words together; what the kernel takes at most for one program.
const COMMAND_BYTES_MAX: usize = 2 << 20;

/// What to ask of the node. `protocols` are those of the streams within an upgraded connection, the
/// preferred first.
pub fn want(connection: &Connection, protocols: &[String]) -> Result<wire::Want, Status> {
    let pod = Some(wire::Pod {
        namespace: connection.namespace.clone(),
        name: meta::name(&connection.object).into(),
        uid: meta::text(&connection.object, &["metadata", "uid"]).into(),
    });
    let protocols = protocols.to_vec();
    let container = || connection.container().map(str::to_owned);
    let kind = match connection.subresource.as_str() {
        "exec" => {
            let command: Vec<String> = all(connection, "command");
            if command.iter().all(String::is_empty) {
                let why = "you must specify at least one command for the container";
                return Err(Status::bad_request(why));
            }
            if command.iter().map(String::len).sum::<usize>() > COMMAND_BYTES_MAX {
                let why = format!("a command may have {COMMAND_BYTES_MAX} bytes at most");
                return Err(Status::bad_request(why));
            }
            let streams = Some(streams(connection)?);
            Kind::Exec(wire::Exec { pod, container: container()?, command, streams, protocols })
        }
        "attach" => {
            let streams = Some(streams(connection)?);
            Kind::Attach(wire::Attach { pod, container: container()?, streams, protocols })
        }
        "portforward" => Kind::PortForward(wire::PortForward { pod, protocols }),
        "log" => Kind::Logs(wire::Logs { pod, container: container()?, ..logs(connection)? }),
        _ if connection.resource == "pods" => {
            Kind::Dial(wire::Dial { pod, port: port(connection)? })
        }
        _ => Kind::Kubelet(wire::Kubelet {}),
    };
    Ok(wire::Want { kind: Some(kind) })
}

/// The port in `name:port` or `http:name:port`, or the first that the pod says it has.
fn port(connection: &Connection) -> Result<u32, Status> {
    let parts: Vec<&str> = connection.name.split(':').collect();
    let named = match parts.as_slice() {
        [_] | ["http" | "https", _] | ["" | "http" | "https", _, ""] => None,
        [_, port] | [_, _, port] => Some(*port),
        _ => return Err(Status::bad_request(format!("{:?} names no port", connection.name))),
    };
    let containers = meta::at(&connection.object, &["spec", "containers"]);
    let mut ports = containers
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|it| it.get("ports")?.as_array())
        .flatten();
    let number = |port: &Value| port.get("containerPort").and_then(Value::as_u64);
    let found = match named.map(|text| (text, text.parse::<u16>())) {
        None => ports.find_map(number).or(Some(80)),
        Some((_, Ok(port))) => Some(port.into()),
        Some((name, Err(_))) => ports.find(|it| meta::text(it, &["name"]) == name).and_then(number),
    };
    let port = found.and_then(|port| u32::try_from(port).ok()).filter(|port| *port != 0);
    port.ok_or_else(|| Status::bad_request(format!("{:?} names no port", connection.name)))
}

fn all(connection: &Connection, name: &str) -> Vec<String> {
    let named = connection.query.iter().filter(|(key, _)| key == name);
    named.map(|(_, value)| value.clone()).collect()
}

fn is_set(connection: &Connection, name: &str) -> bool {
    // As upstream reads booleans in a query.
    connection
        .parameter(name)
        .is_some_and(|it| !matches!(it.to_lowercase().as_str(), "false" | "0"))
}

fn streams(connection: &Connection) -> Result<wire::Streams, Status> {
    let set = |name| is_set(connection, name);
    let tty = set("tty");
    // A terminal has one output.
    let stderr = set("stderr") && !tty;
    let streams = wire::Streams { stdin: set("stdin"), stdout: set("stdout"), stderr, tty };
    if streams.stdin || streams.stdout || streams.stderr {
        return Ok(streams);
    }
    Err(Status::bad_request("you must specify at least 1 of stdin, stdout, stderr"))
}

fn logs(connection: &Connection) -> Result<wire::Logs, Status> {
    let mut causes = Vec::new();
    let mut number = |name: &'static str, least: i64, rule: &str| {
        let text = connection.parameter(name).filter(|it| !it.is_empty())?;
        match text.parse::<i64>() {
            Ok(number) if number >= least => Some(number),
            Ok(number) => {
                causes.push(cause(name, format!("Invalid value: {number}: {rule}")));
                None
            }
            Err(_) => {
                causes.push(cause(name, format!("Invalid value: {text:?}: must be a number")));
                None
            }
        }
    };
    let positive = "must be greater than 0";
    let tail_lines = number("tailLines", 0, "must be greater than or equal to 0");
    let limit_bytes = number("limitBytes", 1, positive);
    let since_seconds = number("sinceSeconds", 1, positive);
    let since = connection.parameter("sinceTime").filter(|it| !it.is_empty());
    let since_ns = since.and_then(|text| {
        let found = Timestamp::parse(text).map(|it| it.as_micros().saturating_mul(1000));
        if found.is_none() {
            causes.push(cause("sinceTime", format!("Invalid value: {text:?}: must be a time")));
        }
        found
    });
    if since_seconds.is_some() && since_ns.is_some() {
        let rule = "Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified";
        causes.push(cause("", rule.into()));
    }
    let output = match connection.parameter("stream").unwrap_or("All") {
        "" | "All" => wire::Output::All,
        "Stdout" => wire::Output::Stdout,
        "Stderr" => wire::Output::Stderr,
        other => {
            let rule = r#"supported values: "All", "Stderr", "Stdout""#;
            causes.push(cause("stream", format!("Unsupported value: {other:?}: {rule}")));
            wire::Output::All
        }
    };
    if output != wire::Output::All && tail_lines.is_some() {
        let rule = "Forbidden: `tailLines` and specific `stream` are mutually exclusive for now";
        causes.push(cause("", rule.into()));
    }
    if !causes.is_empty() {
        let kind = GroupKind { group: String::new(), kind: "PodLogOptions".into() };
        return Err(Status::invalid(&kind, meta::name(&connection.object), causes));
    }
    let set = |name| is_set(connection, name);
    Ok(wire::Logs {
        pod: None,
        container: String::new(),
        follow: set("follow"),
        previous: set("previous"),
        timestamps: set("timestamps"),
        since_seconds,
        since_ns,
        tail_lines,
        limit_bytes,
        output: output.into(),
    })
}

fn cause(field: &str, message: String) -> Cause {
    let reason = match message.split(':').next() {
        Some("Forbidden") => "FieldValueForbidden",
        Some("Unsupported value") => "FieldValueNotSupported",
        _ => "FieldValueInvalid",
    };
    Cause { reason: reason.into(), message, field: field.into() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::request::User;

    fn decide(sub: &str, query: &str) -> Result<Kind, Status> {
        let connection = Connection {
            who: User::default(),
            resource: "pods".into(),
            subresource: sub.into(),
            namespace: "n".into(),
            name: "p".into(),
            object: json!({"metadata": {"name": "p", "uid": "u"},
                "spec": {"containers": [{"name": "c"}]}}),
            query: serde_urlencoded::from_str(query).unwrap(),
        };
        want(&connection, &["v4".into()]).map(|it| it.kind.unwrap())
    }

    #[test]
    fn a_command_keeps_its_words_and_a_terminal_has_no_stderr() {
        let Ok(Kind::Exec(exec)) =
            decide("exec", "command=sh&command=&command=a b&stdin=1&stdout=true&stderr=true&tty=1")
        else {
            panic!("an exec");
        };
        assert_eq!(exec.command, ["sh", "", "a b"]);
        let streams = exec.streams.unwrap();
        assert!(streams.stdin && streams.stdout && streams.tty && !streams.stderr);
        assert_eq!((exec.container.as_str(), exec.pod.unwrap().uid.as_str()), ("c", "u"));
    }

    #[test]
    fn what_cannot_be_done_is_refused_before_a_node_is_asked() {
        for (sub, query, code, word) in [
            ("exec", "stdout=1", 400, "at least one command"),
            ("exec", "command=sh", 400, "stdin, stdout, stderr"),
            ("attach", "stdout=false", 400, "stdin, stdout, stderr"),
            ("attach", "stdout=1&container=x", 400, "container x is not valid"),
            ("log", "tailLines=-1", 422, "tailLines"),
            ("log", "limitBytes=0", 422, "limitBytes"),
            ("log", "sinceSeconds=x", 422, "must be a number"),
            ("log", "sinceTime=yesterday", 422, "must be a time"),
            ("log", "sinceTime=2026-01-01T00:00:00Z&sinceSeconds=1", 422, "at most one"),
            ("log", "stream=Both", 422, "Unsupported value"),
            ("log", "stream=Stdout&tailLines=1", 422, "mutually exclusive"),
        ] {
            let status = decide(sub, query).unwrap_err();
            assert_eq!(status.code(), code, "{sub}?{query}: {status}");
            assert!(status.message().contains(word), "{sub}?{query}: {status}");
        }
    }

    #[test]
    fn a_pod_is_dialled_at_the_port_in_its_name_or_at_its_first() {
        let check = |name: &str| {
            let connection = Connection {
                who: User::default(),
                resource: "pods".into(),
                subresource: "proxy".into(),
                namespace: "n".into(),
                name: name.into(),
                object: json!({"spec": {"containers": [{}, {"ports": [
                    {"containerPort": 8080}, {"containerPort": 9, "name": "web"}]}]}}),
                query: Vec::new(),
            };
            port(&connection)
        };
        for (name, wanted) in [
            ("p", 8080),
            ("p:81", 81),
            ("http:p:82", 82),
            ("http:p:", 8080),
            ("https:p:443", 443),
            ("p:web", 9),
        ] {
            assert_eq!(check(name).unwrap(), wanted, "{name}");
        }
        for bad in ["p:none", "p:0", "p:70000", "a:b:c:d"] {
            assert_eq!(check(bad).unwrap_err().code(), 400, "{bad}");
        }
    }

    #[test]
    fn options_of_a_log_are_told_as_they_were_asked_for() {
        let query = "follow=true&timestamps=1&tailLines=0&limitBytes=5\
                     &sinceTime=1970-01-01T00:00:01Z";
        let Ok(Kind::Logs(logs)) = decide("log", query) else { panic!("logs") };
        assert!(logs.follow && logs.timestamps && !logs.previous);
        assert_eq!((logs.tail_lines, logs.limit_bytes), (Some(0), Some(5)));
        assert_eq!((logs.since_ns, logs.since_seconds), (Some(1_000_000_000), None));
    }
}
