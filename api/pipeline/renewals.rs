//! The times in nodes' leases and conditions, as they are shown: of the last beat of the node's session, where
//! that is later than what was written.
//!
//! Keeps: an object that is shown so has the revision at which it rests; who changes it changes what rests.
//! Never: writes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::target::Target;
use crate::live::beats::Beats;
use crate::object::time::Timestamp;
use crate::objects::Object;

pub(super) const NAMESPACE: &str = "kube-node-lease";
const LEASES: &[u8] = b"/registry/coordination.k8s.io/leases/kube-node-lease/";
const NODES: &[u8] = b"/registry/core/nodes/";
/// How often a watch of leases tells of beats.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Shows objects with the times of beats. Cheap to clone.
#[derive(Clone)]
pub(super) struct Renewals(Arc<Beats>);

impl Renewals {
    pub fn new(beats: Arc<Beats>) -> Renewals {
        Renewals(beats)
    }

    /// The object as it is to be shown.
    pub fn show(&self, object: Object) -> Object {
        let key = object.key();
        let (name, write): (_, fn(&[u8], Timestamp) -> Option<Vec<u8>>) =
            if let Some(name) = key.strip_prefix(LEASES) {
                (name, renewed)
            } else if let Some(name) = key.strip_prefix(NODES) {
                (name, heard)
            } else {
                return object;
            };
        let beat = std::str::from_utf8(name).ok().and_then(|name| self.0.of(name));
        match beat.and_then(|beat| write(object.at_rest(), beat.at)) {
            Some(rest) => object.resting_as(rest.into()),
            None => object,
        }
    }

    /// For a watch of leases of nodes: whom it is to be told of. `None` for any other.
    pub fn beating(&self, target: &Target, seen: bool) -> Option<Beating> {
        let of = &target.kind.stored;
        let is_lease = &*of.group == "coordination.k8s.io" && &*of.resource == "leases";
        let is_here = target.namespace.is_empty() || target.namespace == NAMESPACE;
        (is_lease && is_here).then(|| {
            let told = if seen { *self.0.newest().borrow() } else { 0 };
            let mut newest = self.0.newest();
            newest.mark_changed();
            Beating { beats: self.0.clone(), newest, told, not_before: Instant::now() }
        })
    }
}

/// Which beats a watch was told of.
pub(super) struct Beating {
    beats: Arc<Beats>,
    newest: watch::Receiver<u64>,
    told: u64,
    not_before: Instant,
}

impl Beating {
    /// The nodes that were heard since it was asked last, at least one; not at each beat, but soon.
    pub async fn next(&mut self) -> Vec<Arc<str>> {
        loop {
            sleep_until(self.not_before).await;
            if self.newest.changed().await.is_err() {
                // The table is gone, and the server with it.
                std::future::pending::<()>().await;
            }
            let (beats, told) = self.beats.since(self.told);
            self.told = told;
            if !beats.is_empty() {
                self.not_before = Instant::now() + TELL_EVERY;
                return beats.into_iter().map(|(node, _)| node).collect();
            }
        }
    }
}

/// A lease with a later `renewTime`.
fn renewed(rest: &[u8], at: Timestamp) -> Option<Vec<u8>> {
    let (from, to) = next_time(rest, 0, b"\"renewTime\":\"")?;
    let later = is_later(&rest[from..to], at);
    later.then(|| [&rest[..from], at.rfc3339_micros().as_bytes(), &rest[to..]].concat())
}

/// A node with later heartbeats in the conditions that it says of itself.
fn heard(rest: &[u8], at: Timestamp) -> Option<Vec<u8>> {
    let (mut out, mut copied, mut looked) = (Vec::new(), 0, 0);
    while let Some((from, to)) = next_time(rest, looked, b"\"lastHeartbeatTime\":\"") {
        looked = to;
        // Fields are sorted: the type is the last of a condition.
        let is_own = next_time(rest, to, b"\"type\":\"").is_some_and(|(from, to)| {
            let own: [&[u8]; 4] = [b"Ready", b"MemoryPressure", b"DiskPressure", b"PIDPressure"];
            own.contains(&&rest[from..to])
        });
        if is_own && is_later(&rest[from..to], at) {
            out.extend_from_slice(&rest[copied..from]);
            out.extend_from_slice(at.rfc3339().as_bytes());
            copied = to;
        }
    }
    if copied == 0 {
        return None;
    }
    out.extend_from_slice(&rest[copied..]);
    Some(out)
}

fn is_later(written: &[u8], at: Timestamp) -> bool {
    let written = std::str::from_utf8(written).ok().and_then(Timestamp::parse);
    written.is_some_and(|written| at > written)
}

/// Where the text behind `field` lies, which ends with the next quotation mark. Within a text of JSON quotation
/// marks are escaped, so that what looks like a field is one.
fn next_time(rest: &[u8], from: usize, field: &[u8]) -> Option<(usize, usize)> {
    let found = rest[from..].windows(field.len()).position(|it| it == field)?;
    let begin = from + found + field.len();
    let length = rest[begin..].iter().position(|it| *it == b'"')?;
    Some((begin, begin + length))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::objects::object::encode;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    fn shown(rest: Option<Vec<u8>>) -> Option<Value> {
        rest.map(|rest| serde_json::from_slice(&rest).unwrap())
    }

    #[test]
    fn a_lease_shows_the_later_of_what_was_written_and_what_was_heard() {
        let lease = json!({"kind": "Lease", "apiVersion": "coordination.k8s.io/v1",
            "metadata": {"name": "n", "annotations": {"a": "\"renewTime\":\"never\""}},
            "spec": {"holderIdentity": "n", "renewTime": "2026-01-01T00:00:10.000000Z"}});
        let rest = encode(&lease);
        assert_eq!(shown(renewed(&rest, at("2026-01-01T00:00:09Z"))), None);
        let mut later = lease;
        later["spec"]["renewTime"] = "2026-01-01T00:00:11.500000Z".into();
        assert_eq!(shown(renewed(&rest, at("2026-01-01T00:00:11.5Z"))), Some(later));
        assert_eq!(renewed(b"{\"spec\":{}}", at("2026-01-01T00:00:11Z")), None);
    }

    #[test]
    fn a_node_shows_heartbeats_of_its_own_conditions_alone() {
        let condition = |kind: &str, at: &str| {
            json!({"type": kind, "status": "True", "reason": "R", "message": "\"type\":\"Ready\"",
                "lastHeartbeatTime": at, "lastTransitionTime": "2026-01-01T00:00:00Z"})
        };
        let node = |ready: &str| {
            json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": "n"},
                "status": {"conditions": [condition("NetworkUnavailable", "2026-01-01T00:00:01Z"),
                    condition("Ready", ready)]}})
        };
        let rest = encode(&node("2026-01-01T00:00:01Z"));
        let expected = node("2026-01-01T00:00:30Z");
        assert_eq!(shown(heard(&rest, at("2026-01-01T00:00:30.7Z"))), Some(expected));
        assert_eq!(heard(&rest, at("2026-01-01T00:00:00Z")), None);
    }
}
