//! What the records say, told one by one: the log's state without a disk.
//!
//! Keeps: indexes follow each other; a segment's carried state agrees with what the records before
//! it said.
//! Never: repairs or skips a record. One that contradicts the rest is refused, and so counts as
//! broken.

use bytes::Bytes;

use super::error::OpenError;
use super::format::{Carry, Kind};
use super::scan::Found;
use super::segment::Segments;

#[derive(Clone, Debug, Default)]
pub(super) struct Replay {
    /// The last entry's index, or the last purged one; zero when there never was one.
    pub(super) last: u64,
    /// Of `last`; unknown after a truncation, until it is read.
    pub(super) last_id: Option<Bytes>,
    pub(super) purged: Option<(u64, Bytes)>,
    pub(super) vote: Option<Bytes>,
    pub(super) committed: Option<Bytes>,
    /// Nothing was read before: the segment's first record must tell what older ones would have.
    awaits_carry: bool,
    segment_start: bool,
}

impl Replay {
    pub(super) fn first(&self) -> u64 {
        self.purged.as_ref().map_or(0, |(index, _)| *index) + 1
    }

    /// Starts with a segment that may not be the log's first.
    pub(super) fn begin(&mut self, sequence: u64, next_index: u64) {
        self.awaits_carry = sequence > 1;
        self.segment_start = true;
        self.last = next_index.saturating_sub(1);
    }

    pub(super) fn next_segment(&mut self) {
        self.segment_start = true;
    }

    pub(super) fn apply(
        &mut self,
        found: Found<'_>,
        segments: &mut Segments,
    ) -> Result<(), &'static str> {
        let starts = std::mem::take(&mut self.segment_start);
        if found.kind == Kind::Carry {
            return self.carried(starts, found);
        }
        if self.awaits_carry {
            return Err("a segment does not begin with what it carries over");
        }
        let bytes = |bytes: &[u8]| Some(Bytes::copy_from_slice(bytes));
        match found.kind {
            Kind::Entry => {
                if found.index != self.last + 1 {
                    return Err("an entry's index does not follow the one before it");
                }
                self.last = found.index;
                self.last_id = bytes(found.id);
                let offset = u32::try_from(found.offset).map_err(|_| "an offset is too large")?;
                segments.add(found.index, offset);
            }
            Kind::Vote => self.vote = bytes(found.payload),
            Kind::Committed => self.committed = bytes(found.payload),
            Kind::Truncate => {
                if found.index + 1 < self.first() {
                    return Err("a truncation reaches into what was purged");
                }
                if found.index < self.last {
                    self.last = found.index;
                    self.last_id = self.purged_id(found.index);
                    segments.truncate_after(found.index);
                }
            }
            Kind::Purge => {
                self.purged = Some((found.index, Bytes::copy_from_slice(found.id)));
                if found.index >= self.last {
                    self.last = found.index;
                    self.last_id = bytes(found.id);
                    segments.clear_upto(found.index);
                }
            }
            Kind::Carry => unreachable!("handled above"),
        }
        Ok(())
    }

    fn carried(&mut self, starts: bool, found: Found<'_>) -> Result<(), &'static str> {
        let carry = Carry::decode(found.payload).ok_or("what a segment carries over is garbled")?;
        if !starts || found.index != self.last {
            return Err("what a segment carries over is out of place");
        }
        if !self.awaits_carry {
            let known = Carry {
                vote: self.vote.clone(),
                purged: self.purged.clone(),
                committed: self.committed.clone(),
            };
            return match carry == known {
                true => Ok(()),
                false => Err("what a segment carries over differs from the one before it"),
            };
        }
        self.awaits_carry = false;
        Carry { vote: self.vote, purged: self.purged, committed: self.committed } = carry;
        self.last_id = self.purged_id(self.last);
        Ok(())
    }

    fn purged_id(&self, index: u64) -> Option<Bytes> {
        self.purged.clone().filter(|(purged, _)| *purged == index).map(|(_, id)| id)
    }

    /// Every entry that was not purged must lie in a segment that was read.
    pub(super) fn check_complete(
        &self,
        segments: &Segments,
        last_segment: &str,
    ) -> Result<(), OpenError> {
        if self.awaits_carry {
            let what = "what it carries over, and the segments before it, are missing";
            return Err(OpenError::amnesia(last_segment, what));
        }
        let needed = self.first();
        if self.last < needed || segments.first().is_some_and(|first| first <= needed) {
            return Ok(());
        }
        let what = format!("entries from {needed} on are missing with their segments");
        Err(OpenError::amnesia("the directory", what))
    }
}
