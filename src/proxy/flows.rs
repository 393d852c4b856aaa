//! Flows of packets without connections that would go on to where nobody is.
//!
//! The kernel remembers where it has led a flow, and UDP never says that it ends: a client that asks the same
//! again and again would reach a pod that is gone, or, if it asked before there was one, none at all.
//!
//! Keeps: only what a change has made wrong is forgotten.
//! Never: more than [`COMMANDS_MAX`] at once; what is beyond ends by the kernel's own time, in minutes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::family::Family;

/// Flows forgotten after one change.
pub const COMMANDS_MAX: usize = 512;

/// What a client has sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    Service(SocketAddr),
    NodePort(Family, u16),
}

/// Where each target is led.
pub type Udp = BTreeMap<Target, BTreeSet<SocketAddr>>;

/// Arguments for `conntrack`, one list for each kind of flow to forget.
#[must_use]
pub fn stale(before: &Udp, after: &Udp) -> Vec<Vec<String>> {
    let none = BTreeSet::new();
    let mut found = Vec::new();
    for (target, endpoints) in before {
        let now = after.get(target).unwrap_or(&none);
        found.extend(endpoints.difference(now).map(|gone| command(*target, Some(*gone))));
    }
    for (target, endpoints) in after {
        let was = before.get(target).unwrap_or(&none);
        if was.is_empty() && !endpoints.is_empty() {
            found.push(command(*target, None));
        }
    }
    found.truncate(COMMANDS_MAX);
    found
}

fn command(target: Target, led_to: Option<SocketAddr>) -> Vec<String> {
    let (family, address, port) = match target {
        Target::Service(it) => (Family::of(&it.ip()), Some(it.ip()), it.port()),
        Target::NodePort(family, port) => (family, None, port),
    };
    let family = match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    };
    let mut words = vec!["-D", "-f", family, "-p", "udp"].into_iter().map(str::to_owned).collect();
    let mut add = |flag: &str, value: String| {
        let words: &mut Vec<String> = &mut words;
        words.extend([flag.to_owned(), value]);
    };
    add("--dport", port.to_string());
    if let Some(address) = address {
        add("--orig-dst", address.to_string());
    }
    if let Some(endpoint) = led_to {
        add("--dst-nat", endpoint.ip().to_string());
    }
    words
}
