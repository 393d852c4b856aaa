//! The newest commits, in order, within a bound in bytes.
//!
//! Keeps true: every commit from `floor` up to the hub's revision is here, and a commit is in the
//! deque of each group it reached for exactly as long as it is here. So the memory of all groups
//! together is bounded with the ring's: an entry is charged for the groups it reached.
//! Never: a commit leaves from the middle, or leaves one of its groups but not the others.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Commit;
use super::group::Group;
use crate::revision::Revision;

/// What it costs to remember that a commit reached a group: the group's entry with the slack of
/// its deque, and the pointer back. Slices of the events come on top.
const REACHED_BYTES: usize = 128;

/// Commits handed out at a time to someone who is behind. They are copied under the hub's lock, so
/// this bounds what the writer may have to wait: a few microseconds.
const COPY_COMMITS_MAX: usize = 256;

pub(super) struct Ring {
    entries: VecDeque<Entry>,
    bytes: usize,
    bytes_max: usize,
    floor: Revision,
}

struct Entry {
    commit: Commit,
    bytes: usize,
    groups: Vec<Arc<Group>>,
}

/// The ring's answer to someone who is behind.
pub(super) enum Recent {
    /// Commits from the asked revision on, and the revision up to which there are no others.
    Commits(Vec<Commit>, Revision),
    /// The ring begins later.
    Gone,
}

impl Ring {
    /// An empty ring in which everything from `floor` on will be found.
    pub(super) fn new(bytes_max: usize, floor: Revision) -> Ring {
        Ring { entries: VecDeque::new(), bytes: 0, bytes_max, floor }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Takes the newest commit, with the groups that hold it, and lets go of the oldest until the
    /// bound holds again. The newest stays in any case: whoever is level reads it from here, and
    /// its memory is in use already.
    pub(super) fn push(&mut self, commit: Commit, groups: Vec<Arc<Group>>) {
        let events: usize = commit.events.iter().map(|event| event.weight()).sum();
        let pointers = commit.events.len() * size_of::<usize>();
        let bytes =
            size_of::<Entry>() + events + pointers + groups.len() * (REACHED_BYTES + pointers);
        self.bytes += bytes;
        self.entries.push_back(Entry { commit, bytes, groups });
        while self.bytes > self.bytes_max && self.entries.len() > 1 {
            self.evict();
        }
    }

    fn evict(&mut self) {
        let entry = self.entries.pop_front().expect("only called while there are entries");
        self.bytes -= entry.bytes;
        self.floor = entry.commit.revision.next();
        for group in &entry.groups {
            group.evict(entry.commit.revision);
        }
    }

    /// Some commits from `from` on, `newest` being the hub's revision.
    pub(super) fn recent(&self, from: Revision, newest: Revision) -> Recent {
        if from < self.floor {
            return Recent::Gone;
        }
        let first = self.entries.partition_point(|entry| entry.commit.revision < from);
        let commits: Vec<Commit> = self
            .entries
            .range(first..)
            .take(COPY_COMMITS_MAX)
            .map(|entry| entry.commit.clone())
            .collect();
        let complete_to = match commits.last() {
            Some(last) if first + commits.len() < self.entries.len() => last.revision,
            _ => newest,
        };
        Recent::Commits(commits, complete_to)
    }
}
