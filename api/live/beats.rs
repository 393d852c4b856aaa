//! When each node was last heard of: by this master, whose session its agent holds, or by another that says so.
//!
//! Leases of nodes and the heartbeats in their conditions are answered from here, so that living costs no
//! write.
//!
//! Keeps: what was heard later is never replaced by what was heard before. A reader is a number, not a queue:
//! it is given the last beat of each node since.
//! Never: decides that a node is gone; the node lifecycle controller does, by the leases.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::object::time::Timestamp;

/// Who was silent for longer is forgotten, when there are many.
const FORGOTTEN_AFTER_S: i64 = 3600;
/// So many are looked through for those from time to time.
const LOOKED_THROUGH_EVERY: u64 = 4096;

/// The nodes that were heard of.
#[derive(Debug)]
pub struct Beats {
    state: Mutex<State>,
    newest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    nodes: HashMap<Arc<str>, Beat>,
    number: u64,
}

/// The last of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// By this master's clock.
    pub at: Timestamp,
    /// Of which start of the machine; empty once its session has ended.
    pub boot: Arc<str>,
    /// Its session is here.
    pub here: bool,
    number: u64,
}

impl Default for Beats {
    fn default() -> Beats {
        Beats { state: Mutex::default(), newest: watch::Sender::new(0) }
    }
}

impl Beats {
    /// A node was heard at a moment, by this master or another.
    pub fn heard(&self, node: &str, boot: &str, at: Timestamp, here: bool) {
        let mut state = self.state.lock();
        let mut at = at;
        if let Some(before) = state.nodes.get(node) {
            // Ages are told in whole milliseconds, so the end of a session may look older than its last beat.
            let ends = boot.is_empty() && !before.boot.is_empty() && !before.here && !here;
            if before.at >= at && !ends {
                return;
            }
            at = at.max(before.at);
        }
        state.number += 1;
        let number = state.number;
        if let Some(beat) = state.nodes.get_mut(node) {
            if *beat.boot != *boot {
                beat.boot = boot.into();
            }
            (beat.at, beat.here, beat.number) = (at, here, number);
        } else {
            state.nodes.insert(node.into(), Beat { at, boot: boot.into(), here, number });
        }
        if number.is_multiple_of(LOOKED_THROUGH_EVERY) {
            let oldest = at.plus_seconds(-FORGOTTEN_AFTER_S);
            state.nodes.retain(|_, beat| beat.at >= oldest);
        }
        drop(state);
        self.newest.send_replace(number);
    }

    /// The session of that machine has ended: another may speak for the node.
    pub fn ended(&self, node: &str, boot: &str) {
        let mut state = self.state.lock();
        state.number += 1;
        let number = state.number;
        match state.nodes.get_mut(node) {
            Some(beat) if *beat.boot == *boot && beat.here => {
                (beat.boot, beat.number) = ("".into(), number);
            }
            _ => return,
        }
        drop(state);
        self.newest.send_replace(number);
    }

    #[must_use]
    pub fn of(&self, node: &str) -> Option<Beat> {
        self.state.lock().nodes.get(node).cloned()
    }

    /// The last beats after `number`, in no order, and where to go on.
    #[must_use]
    pub fn since(&self, number: u64) -> (Vec<(Arc<str>, Beat)>, u64) {
        let state = self.state.lock();
        if state.number == number {
            return (Vec::new(), number);
        }
        let later = state.nodes.iter().filter(|(_, beat)| beat.number > number);
        (later.map(|(node, beat)| (node.clone(), beat.clone())).collect(), state.number)
    }

    /// The number of the newest; it changes with each beat.
    #[must_use]
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    #[test]
    fn a_reader_is_given_the_last_beat_of_each_node_since() {
        let beats = Beats::default();
        beats.heard("a", "1", at(10), true);
        beats.heard("b", "1", at(10), false);
        let (all, number) = beats.since(0);
        assert_eq!(all.len(), 2);
        assert_eq!(beats.since(number), (Vec::new(), number));
        beats.heard("a", "1", at(20), true);
        beats.heard("a", "1", at(30), true);
        beats.heard("b", "1", at(5), false);
        let (later, _) = beats.since(number);
        assert_eq!(later.len(), 1, "what is older changes nothing");
        assert_eq!((&*later[0].0, later[0].1.at), ("a", at(30)));
        assert!(*beats.newest().borrow() > number);
    }

    #[test]
    fn a_session_that_ends_makes_room_for_another_machine_and_keeps_the_time() {
        let beats = Beats::default();
        beats.heard("a", "one", at(10), true);
        beats.ended("a", "two");
        assert_eq!(&*beats.of("a").unwrap().boot, "one", "it was not its session");
        beats.ended("a", "one");
        let beat = beats.of("a").unwrap();
        assert_eq!((&*beat.boot, beat.at), ("", at(10)));
    }

    #[test]
    fn who_was_silent_for_long_is_forgotten() {
        let beats = Beats::default();
        beats.heard("old", "1", at(0), true);
        for _ in 0..LOOKED_THROUGH_EVERY {
            let (_, number) = beats.since(0);
            let later = FORGOTTEN_AFTER_S + 10 + i64::try_from(number).unwrap();
            beats.heard("new", "1", at(later), true);
        }
        assert_eq!(beats.of("old"), None);
        assert!(beats.of("new").is_some());
    }
}
