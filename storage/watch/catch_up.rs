//! How a watcher that is behind its group becomes level again.
//!
//! Keeps true, for the piece that is returned: it holds every matching event from the cursor up to
//! and including `complete_to`, and no other.
//! Never: a lock of the hub held while history is read or keys are compared; more than one reading
//! of history in a call.
//!
//! Why the hand-over to the group has neither gap nor duplicate: a watcher is a member of its
//! group from the start, while it is still behind, so the group collects every match from `floor`
//! on meanwhile (`group.rs`). A piece moves the cursor to `complete_to + 1` and delivers exactly
//! what lies before. Each look begins at the group, under its lock: with `cursor < floor` it goes
//! on here; with `cursor >= floor` all that is missing is in the group, and reading begins at the
//! cursor, wherever that is. It does not matter whether a piece reached past `floor`, or past what
//! was published when it was read: the group's matches below the cursor are skipped. If the floor
//! moves past the cursor again, the watcher is simply behind again. There is no other state to
//! hand over than that one number.

use std::sync::Arc;

use super::group::Match;
use super::hub::Inner;
use super::ring::Recent;
use super::{Commit, Cut, History};
use crate::error::Error;
use crate::request::KeyRange;
use crate::revision::Revision;

/// A piece of what was missed.
pub(super) struct Piece {
    pub(super) matches: Vec<Match>,
    pub(super) complete_to: Revision,
}

/// The next piece from memory; `None` if the ring begins after `from`.
pub(super) fn from_ring(hub: &Inner, range: &KeyRange, from: Revision) -> Option<Piece> {
    let Recent::Commits(commits, mut complete_to) = hub.recent(from) else {
        return None;
    };
    let mut matches = Vec::new();
    let mut bytes = 0;
    for commit in commits {
        let Some(found) = in_range(&commit, range) else {
            continue;
        };
        if bytes > 0 && bytes + found.bytes > hub.options.delivery_bytes_max {
            complete_to = commit.revision.previous();
            break;
        }
        bytes += found.bytes;
        matches.push(found);
    }
    Some(Piece { matches, complete_to })
}

fn in_range(commit: &Commit, range: &KeyRange) -> Option<Match> {
    let count = commit.events.iter().filter(|event| range.contains(&event.kv.key)).count();
    if count == 0 {
        return None;
    }
    let events = if count == commit.events.len() {
        commit.events.clone()
    } else {
        let inside = commit.events.iter().filter(|event| range.contains(&event.kv.key));
        inside.cloned().collect()
    };
    Some(Match::new(commit.revision, events))
}

/// The next piece from the tables. Blocks for one reading of at most `history_bytes_max`.
pub(super) fn from_history(
    hub: &Inner,
    history: &Arc<dyn History>,
    range: &KeyRange,
    from: Revision,
) -> Result<Piece, Cut> {
    // Known to be in vain: not worth a reading.
    check_kept(hub, from)?;
    let replay = match history.events(range, from, hub.options.history_bytes_max) {
        Ok(replay) => replay,
        Err(Error::Compacted { oldest, .. }) => return Err(Cut::Compacted { compacted: oldest }),
        Err(error) => return Err(Cut::Failed(error)),
    };
    // The compaction was announced before its first row vanished: if it is not known here even
    // now, the reading saw everything.
    check_kept(hub, from)?;
    if replay.complete_to < from {
        let reason = format!(
            "history from revision {from} on ends at {}, although {} was published",
            replay.complete_to,
            hub.revision()
        );
        return Err(Cut::Failed(Error::Damaged(reason)));
    }
    let mut before = from.previous();
    let mut matches = Vec::with_capacity(replay.commits.len());
    for Commit { revision, events } in replay.commits {
        assert!(
            before < revision && revision <= replay.complete_to,
            "history gives revision {revision} after {before}, complete to {}",
            replay.complete_to
        );
        before = revision;
        matches.push(Match::new(revision, events));
    }
    Ok(Piece { matches, complete_to: replay.complete_to })
}

fn check_kept(hub: &Inner, from: Revision) -> Result<(), Cut> {
    let compacted = hub.oldest();
    if from < compacted { Err(Cut::Compacted { compacted }) } else { Ok(()) }
}
