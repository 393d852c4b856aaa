//! What is behind a segment whose records end or break: an end, a torn write, or damage.
//!
//! A group is written, a ring slot beside it, and then both are synced by one call; only then is
//! the group acknowledged. A power cut before the sync returned may keep any sectors of the two.
//! So a slot can't prove its own group. It proves that everything before its group was synced
//! (`synced`), because it was written after that sync had returned, and says how long its own
//! group is (`written`).
//!
//! Records that break before `synced` were acknowledged: *damage*. Records that break inside the
//! newest slot's group may be a torn write. Then three facts tell tearing from damage:
//! 1. What was there before a group was zeros, always (segments are not reused, recovery writes
//!    zeros). A torn write leaves each sector old or new, so a torn group has *more zero sectors*
//!    than its image had, and the slot says how many that were. As many zero sectors as the image:
//!    all of it arrived, and something changed it later.
//! 2. Nothing is written behind a group before it is synced. Bytes behind a broken group: it had
//!    been synced.
//! 3. Every slot is valid at all times (the ring starts filled, a sector is old or new). An
//!    invalid slot right after the newest valid one may have vouched for more: then nothing counts
//!    as torn.
//!
//! What stays undecidable: the last group, acknowledged, its next slot not yet on disk, and whole
//! sectors of it turned to zeros. `flusher` keeps that window short (see there).
//!
//! Never here: a read, a write, a clock. The same evidence gives the same verdict.

use super::format::Slot;
use super::scan::Stop;

/// Everything known about the last segment's end.
#[derive(Clone, Debug)]
pub(super) struct Evidence {
    pub(super) stop: Stop,
    /// The furthest place that a slot, the anchor or the segment's header vouches for.
    pub(super) synced: u64,
    pub(super) newest: Slot,
    /// Whether the walk came by `newest.written` with the chain it names.
    pub(super) written_passed: bool,
    /// A slot that may have been written after `newest` is damaged.
    pub(super) ring_suspect: bool,
    /// The last byte at or behind the stop that isn't zero.
    pub(super) last_nonzero: Option<u64>,
    /// Zero sectors found in the newest slot's group.
    pub(super) zero_sectors: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Every byte is accounted for.
    Whole,
    /// What follows the stop was never acknowledged.
    Torn,
    Damaged(&'static str),
}

pub(super) fn judge(evidence: &Evidence) -> Verdict {
    let Evidence { stop, synced, newest, .. } = evidence;
    let end = stop.position.offset;
    if end < *synced {
        return Verdict::Damaged(stop.broken.unwrap_or("synced records are missing"));
    }
    if evidence.written_passed {
        return match evidence.last_nonzero {
            None => Verdict::Whole,
            // The next group, and its slot never arrived: it can't have been acknowledged.
            Some(_) if !evidence.ring_suspect => Verdict::Torn,
            Some(_) => Verdict::Damaged("the records break and so does the ring"),
        };
    }
    // The walk may come to the very end of a torn group: a record that ends in zeros is whole
    // without its last sector, and what followed it there is gone. It can't get beyond.
    if end > newest.written.offset {
        return Verdict::Damaged("the records differ from what the ring says was written");
    }
    if evidence.last_nonzero.is_some_and(|last| last >= newest.written.offset) {
        return Verdict::Damaged("a group is broken although another one was written after it");
    }
    if evidence.zero_sectors <= newest.zero_sectors {
        return Verdict::Damaged("the last group arrived whole and was altered afterwards");
    }
    match evidence.ring_suspect {
        false => Verdict::Torn,
        true => Verdict::Damaged("the records break and so does the ring"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::Position;
    use super::*;

    const SYNCED: u64 = 40 * 512;
    const WRITTEN: u64 = 44 * 512;

    /// A group of four sectors, one of them zero by nature, whose records stop at `end`.
    fn evidence(end: u64) -> Evidence {
        let position = |offset| Position { offset, chain: 1 };
        Evidence {
            stop: Stop { position: position(end), broken: Some("broken") },
            synced: SYNCED,
            newest: Slot {
                number: 40,
                segment: 1,
                synced: position(SYNCED),
                written: position(WRITTEN),
                zero_sectors: 1,
            },
            written_passed: end >= WRITTEN,
            ring_suspect: false,
            last_nonzero: Some(WRITTEN - 1),
            zero_sectors: 1,
        }
    }

    fn check(expected: fn(&Verdict) -> bool, change: impl FnOnce(&mut Evidence), end: u64) {
        let mut evidence = evidence(end);
        change(&mut evidence);
        let verdict = judge(&evidence);
        assert!(expected(&verdict), "{verdict:?} of {evidence:?}");
    }

    fn whole(verdict: &Verdict) -> bool {
        *verdict == Verdict::Whole
    }
    fn torn(verdict: &Verdict) -> bool {
        *verdict == Verdict::Torn
    }
    fn damaged(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Damaged(_))
    }

    #[test]
    fn a_break_before_what_is_vouched_for_is_damage() {
        check(damaged, |e| e.zero_sectors = 9, SYNCED - 512);
    }

    #[test]
    fn a_group_with_more_zero_sectors_than_it_was_written_with_is_torn() {
        check(torn, |e| e.zero_sectors = 2, SYNCED);
        check(torn, |e| e.zero_sectors = 2, SYNCED + 512);
    }

    #[test]
    fn a_broken_group_that_had_arrived_whole_is_damage() {
        check(damaged, |_| (), SYNCED);
    }

    #[test]
    fn a_broken_group_with_another_behind_it_is_damage() {
        check(damaged, |e| (e.zero_sectors, e.last_nonzero) = (2, Some(WRITTEN)), SYNCED);
    }

    #[test]
    fn bytes_behind_the_newest_group_were_never_acknowledged() {
        check(torn, |e| e.last_nonzero = Some(WRITTEN + 5), WRITTEN);
        check(whole, |e| e.last_nonzero = None, WRITTEN);
    }

    #[test]
    fn nothing_counts_as_torn_when_the_ring_may_have_said_more() {
        check(damaged, |e| (e.zero_sectors, e.ring_suspect) = (2, true), SYNCED);
        check(damaged, |e| (e.last_nonzero, e.ring_suspect) = (Some(WRITTEN), true), WRITTEN);
        check(whole, |e| (e.last_nonzero, e.ring_suspect) = (None, true), WRITTEN);
    }

    #[test]
    fn records_that_differ_from_the_ring_are_damage() {
        check(damaged, |e| (e.written_passed, e.zero_sectors) = (false, 9), WRITTEN + 512);
        check(damaged, |e| (e.written_passed, e.last_nonzero) = (false, None), WRITTEN);
    }

    #[test]
    fn a_group_torn_behind_a_record_that_ends_in_zeros_is_torn() {
        let lost = |e: &mut Evidence| {
            (e.written_passed, e.zero_sectors, e.last_nonzero) = (false, 2, None);
        };
        check(torn, lost, WRITTEN);
    }
}
