//! How fast nodes may be given up, by zone: when too many are silent at once, the fault is likely ours. Pure.
//!
//! Keeps: while every node of every zone is silent, none is given up, for then it is us who cannot hear.

use std::collections::{BTreeMap, VecDeque};

use k8s_openapi::api::core::v1::Node;
use kontiki_api::object::time::Timestamp;

use super::health::Ready;

/// Nodes given up in a second: usually, and in a large zone of which much is silent.
const RATE: f64 = 0.1;
const RATE_LARGE: f64 = 0.01;
const LARGE: usize = 50;
/// From which share on a zone counts as partly silent.
const UNHEALTHY: f64 = 0.55;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Initial,
    Normal,
    Partial,
    Full,
}

#[must_use]
pub fn zone_of(node: &Node) -> String {
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|it| it.get(key)).cloned();
    let region = label("topology.kubernetes.io/region").unwrap_or_default();
    let zone = label("topology.kubernetes.io/zone").unwrap_or_default();
    format!("{region}:{zone}")
}

#[must_use]
pub fn state_of(nodes: &[Option<Ready>]) -> State {
    let silent = nodes.iter().filter(|ready| **ready != Some(Ready::True)).count();
    #[expect(clippy::cast_precision_loss, reason = "nodes are few")]
    let share = silent as f64 / nodes.len().max(1) as f64;
    if silent > 0 && silent == nodes.len() {
        State::Full
    } else if silent > 2 && share >= UNHEALTHY {
        State::Partial
    } else {
        State::Normal
    }
}

/// Lets through so many in a second, one at once.
#[derive(Clone, Debug)]
struct Limiter {
    rate: f64,
    tokens: f64,
    at: Timestamp,
}

impl Limiter {
    fn take(&mut self, now: Timestamp) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "a few seconds")]
        let earned = self.rate * now.micros_since(self.at) as f64 / 1e6;
        self.tokens = (self.tokens + earned).clamp(0.0, 1.0);
        self.at = now;
        let may = self.rate > 0.0 && self.tokens >= 1.0;
        if may {
            self.tokens -= 1.0;
        }
        may
    }
}

struct Zone {
    state: State,
    limiter: Limiter,
    /// Nodes to be given up, the longest known first.
    waiting: VecDeque<String>,
}

/// What a change of the whole picture asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing is heard any more: take all nodes back.
    AllSilent,
    /// Something is heard again: begin to count anew.
    HeardAgain,
    Usual,
}

#[derive(Default)]
pub struct Zones(BTreeMap<String, Zone>);

impl Zones {
    /// Takes in how the zones' nodes are.
    pub fn look(&mut self, nodes: &BTreeMap<String, Vec<Option<Ready>>>, now: Timestamp) -> Turn {
        let silent_before =
            !self.0.is_empty() && self.0.values().all(|zone| zone.state == State::Full);
        self.0.retain(|name, _| nodes.contains_key(name));
        let silent_now = nodes.values().all(|nodes| state_of(nodes) == State::Full);
        for (name, nodes) in nodes {
            let limiter = Limiter { rate: RATE, tokens: 1.0, at: now };
            let zone = self.0.entry(name.clone()).or_insert_with(|| Zone {
                state: State::Initial,
                limiter,
                waiting: VecDeque::new(),
            });
            zone.state = state_of(nodes);
            zone.limiter.rate = match zone.state {
                _ if silent_now => 0.0,
                State::Partial if nodes.len() > LARGE => RATE_LARGE,
                State::Partial => 0.0,
                State::Initial | State::Normal | State::Full => RATE,
            };
        }
        match (silent_before, silent_now && !nodes.is_empty()) {
            (false, true) => Turn::AllSilent,
            (true, false) => Turn::HeardAgain,
            _ => Turn::Usual,
        }
    }

    pub fn give_up(&mut self, zone: &str, node: &str) {
        if let Some(zone) = self.0.get_mut(zone)
            && !zone.waiting.iter().any(|it| it == node)
        {
            zone.waiting.push_back(node.into());
        }
    }

    pub fn take_back(&mut self, node: &str) {
        for zone in self.0.values_mut() {
            zone.waiting.retain(|it| it != node);
        }
    }

    /// The nodes whose turn has come.
    pub fn due(&mut self, now: Timestamp) -> Vec<String> {
        let mut due = Vec::new();
        for zone in self.0.values_mut() {
            while !zone.waiting.is_empty() && zone.limiter.take(now) {
                due.extend(zone.waiting.pop_front());
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(silent: usize, heard: usize) -> Vec<Option<Ready>> {
        let mut all = vec![Some(Ready::Unknown); silent];
        all.resize(silent + heard, Some(Ready::True));
        all
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    #[test]
    fn a_zone_is_as_bad_as_its_nodes() {
        let table = [
            ((0, 3), State::Normal),
            ((1, 0), State::Full),
            ((2, 1), State::Normal),
            ((3, 2), State::Partial),
            ((3, 4), State::Normal),
            ((5, 0), State::Full),
        ];
        for ((silent, heard), expected) in table {
            assert_eq!(state_of(&nodes(silent, heard)), expected, "{silent} of {heard}");
        }
    }

    #[test]
    fn nodes_are_given_up_one_in_ten_seconds() {
        let mut zones = Zones::default();
        let picture = BTreeMap::from([("a".to_owned(), nodes(2, 5))]);
        assert_eq!(zones.look(&picture, at(0)), Turn::Usual);
        zones.give_up("a", "n1");
        zones.give_up("a", "n2");
        zones.give_up("a", "n2");
        assert_eq!(zones.due(at(0)), ["n1"]);
        assert!(zones.due(at(9)).is_empty());
        assert_eq!(zones.due(at(10)), ["n2"]);
        zones.give_up("a", "n3");
        zones.take_back("n3");
        assert!(zones.due(at(99)).is_empty());
    }

    #[test]
    fn while_nothing_is_heard_nobody_is_given_up() {
        let mut zones = Zones::default();
        let silent = BTreeMap::from([("a".into(), nodes(2, 0)), ("b".into(), nodes(1, 0))]);
        let heard = BTreeMap::from([("a".into(), nodes(2, 0)), ("b".into(), nodes(0, 1))]);
        assert_eq!(zones.look(&heard, at(0)), Turn::Usual);
        zones.give_up("a", "n1");
        assert_eq!(zones.look(&silent, at(1)), Turn::AllSilent);
        assert_eq!(zones.look(&silent, at(2)), Turn::Usual);
        assert!(zones.due(at(99)).is_empty());
        assert_eq!(zones.look(&heard, at(100)), Turn::HeardAgain);
        assert_eq!(zones.due(at(111)), ["n1"]);
    }
}
