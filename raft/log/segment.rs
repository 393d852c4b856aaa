//! Where entries lie: the open segments and an offset per entry.
//!
//! Keeps: each segment holds one run of live indexes, the runs follow each other without a gap,
//! and only the last segment grows. Four bytes of memory per entry.
//! Never: reads a segment; knows only what was written or scanned.

use std::collections::VecDeque;
use std::sync::Arc;

use super::disk::File;

const SUFFIX: &str = ".segment";
/// A segment to be, without a header; harmless at any time.
pub(super) const SPARE_NAME: &str = "spare.prepared";
pub(super) const ANCHOR_NAME: &str = "anchor";
pub(super) const ANCHOR_NEW_NAME: &str = "anchor.new";

pub(super) fn segment_name(sequence: u64) -> String {
    format!("{sequence:016x}{SUFFIX}")
}

/// The sequence number a file's name carries; `None` when it isn't a segment's.
pub(super) fn sequence_of(name: &str) -> Option<u64> {
    let sequence = u64::from_str_radix(name.strip_suffix(SUFFIX)?, 16).ok()?;
    (segment_name(sequence) == name).then_some(sequence)
}

#[derive(Clone)]
pub(super) struct Segment {
    pub(super) sequence: u64,
    pub(super) file: Arc<dyn File>,
    pub(super) bytes: u64,
    /// The entry that `offsets[0]` belongs to; without meaning while that is empty.
    first: u64,
    offsets: Vec<u32>,
}

impl Segment {
    pub(super) fn new(sequence: u64, file: Arc<dyn File>, bytes: u64) -> Segment {
        Segment { sequence, file, bytes, first: 0, offsets: Vec::new() }
    }

    fn last(&self) -> Option<u64> {
        (!self.offsets.is_empty()).then(|| self.first + self.offsets.len() as u64 - 1)
    }
}

/// A few entries that follow each other in one segment.
pub(super) struct Run {
    pub(super) segment: u64,
    pub(super) file: Arc<dyn File>,
    pub(super) segment_bytes: u64,
    pub(super) first: u64,
    pub(super) offsets: Vec<u32>,
}

#[derive(Default)]
pub(super) struct Segments {
    list: VecDeque<Segment>,
}

impl Segments {
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn push(&mut self, segment: Segment) {
        if let Some(last) = self.list.back_mut() {
            assert_eq!(last.sequence + 1, segment.sequence, "segments out of order");
            last.offsets.shrink_to_fit();
        }
        self.list.push_back(segment);
    }

    /// The entry `index` now lies at `offset` of the last segment.
    pub(super) fn add(&mut self, index: u64, offset: u32) {
        let segment = self.list.back_mut().expect("a log has a segment");
        if segment.offsets.is_empty() {
            segment.first = index;
        }
        let next = segment.first + segment.offsets.len() as u64;
        assert_eq!(next, index, "an entry's place is out of order");
        segment.offsets.push(offset);
    }

    pub(super) fn truncate_after(&mut self, kept: u64) {
        for segment in self.list.iter_mut().rev() {
            if segment.offsets.is_empty() {
                continue;
            }
            let keep = (kept + 1).saturating_sub(segment.first) as usize;
            if keep >= segment.offsets.len() {
                break;
            }
            segment.offsets.truncate(keep);
        }
    }

    /// Takes out the oldest segments that hold nothing above `purged`; never the last one.
    pub(super) fn remove_upto(&mut self, purged: u64) -> Vec<u64> {
        let mut removed = Vec::new();
        while self.list.len() > 1 && self.list[0].last().is_none_or(|last| last <= purged) {
            removed.extend(self.list.pop_front().map(|segment| segment.sequence));
        }
        removed
    }

    /// Frees the offsets of a log that begins anew after `purged`, beyond its last entry.
    pub(super) fn clear_upto(&mut self, purged: u64) {
        for segment in &mut self.list {
            if segment.last().is_some_and(|last| last <= purged) {
                segment.offsets = Vec::new();
            }
        }
    }

    /// The lowest entry there is a place for.
    pub(super) fn first(&self) -> Option<u64> {
        self.list.iter().find_map(|segment| segment.last().map(|_| segment.first))
    }

    /// At most `count` entries from `from` on, as far as one segment has them.
    pub(super) fn run(&self, from: u64, count: usize) -> Option<Run> {
        let holds = |segment: &&Segment| {
            segment.last().is_some_and(|last| segment.first <= from && from <= last)
        };
        // The newest first: that is where readers are.
        let segment = self.list.iter().rev().find(holds)?;
        let start = (from - segment.first) as usize;
        let end = segment.offsets.len().min(start + count);
        Some(Run {
            segment: segment.sequence,
            file: segment.file.clone(),
            segment_bytes: segment.bytes,
            first: from,
            offsets: segment.offsets[start..end].to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::disk::Disk;
    use super::super::sim_disk::SimDisk;
    use super::*;

    fn segments(runs: &[std::ops::RangeInclusive<u64>]) -> Segments {
        let disk = SimDisk::new(0);
        let mut segments = Segments::default();
        for (at, run) in runs.iter().enumerate() {
            segments.push(Segment::new(at as u64 + 1, disk.create("x").unwrap(), 1 << 20));
            for index in run.clone() {
                segments.add(index, index as u32 * 8);
            }
        }
        segments
    }

    #[test]
    fn names_carry_their_sequence_number() {
        assert_eq!(sequence_of(&segment_name(0x1f)), Some(0x1f));
        for name in ["1.segment", "000000000000001F.segment", "anchor", "x.segment", SPARE_NAME] {
            assert_eq!(sequence_of(name), None, "{name}");
        }
    }

    #[test]
    fn a_truncation_across_segments_lets_the_last_one_go_on() {
        let mut segments = segments(&[1..=10, 11..=20, 21..=30]);
        segments.truncate_after(5);
        segments.add(6, 48);
        assert_eq!(segments.run(5, 9).map(|run| (run.segment, run.offsets.len())), Some((1, 1)));
        assert_eq!(segments.run(6, 9).map(|run| (run.segment, run.first)), Some((3, 6)));
        assert!(segments.run(7, 9).is_none());
    }

    #[test]
    fn only_whole_old_segments_are_removed_and_never_the_last() {
        let mut segments = segments(&[1..=10, 11..=20, 21..=30]);
        assert_eq!(segments.remove_upto(9), Vec::<u64>::new());
        assert_eq!(segments.remove_upto(20), vec![1, 2]);
        assert_eq!(segments.remove_upto(99), Vec::<u64>::new());
        assert_eq!(segments.first(), Some(21));
        segments.clear_upto(99);
        assert_eq!(segments.first(), None);
    }
}
