//! Walks through a segment's records from the first to where they end or break.
//!
//! Keeps: a record is handed on only when it is whole and follows in the chain.
//! Memory: one chunk, or the largest record. Never: decides why the records end (`verdict` does).

use std::io;

use super::disk::File;
use super::format::{
    DATA_OFFSET, Kind, Position, RECORD_HEAD_BYTES, RecordHead, SECTOR_BYTES, align, is_zero,
    u32_at,
};

const CHUNK_BYTES: usize = 1 << 20;

pub(super) struct Found<'a> {
    pub(super) offset: u64,
    pub(super) kind: Kind,
    pub(super) index: u64,
    pub(super) id: &'a [u8],
    pub(super) payload: &'a [u8],
}

/// Where the records of a segment end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stop {
    /// Behind the last whole record; at a sector's boundary unless `broken`.
    pub(super) position: Position,
    /// What is wrong with what follows; `None` when nothing seems to.
    pub(super) broken: Option<&'static str>,
}

/// What else is known about places in the segment, looked up as the walk passes them.
pub(super) trait Boundary {
    /// The walk has come to a sector's boundary between two records.
    fn pass(&mut self, position: Position);
}

pub(super) struct Reader<'a> {
    file: &'a dyn File,
    segment_bytes: u64,
    buffer: Vec<u8>,
    start: u64,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a dyn File, segment_bytes: u64) -> Reader<'a> {
        Reader { file, segment_bytes, buffer: Vec::new(), start: 0 }
    }

    /// `count` bytes at `offset`; the caller keeps within the segment.
    fn bytes(&mut self, offset: u64, count: usize) -> io::Result<&[u8]> {
        let end = self.start + self.buffer.len() as u64;
        if offset < self.start || offset + count as u64 > end {
            let chunk = (CHUNK_BYTES.max(count) as u64).min(self.segment_bytes - offset);
            self.buffer.resize(chunk as usize, 0);
            self.start = offset;
            self.file.read_at(&mut self.buffer, offset)?;
        }
        let at = (offset - self.start) as usize;
        Ok(&self.buffer[at..at + count])
    }

    /// Hands every record to `visit`, which may refuse one (it then counts as broken).
    pub(super) fn records(
        &mut self,
        chain: u64,
        boundary: &mut dyn Boundary,
        mut visit: impl FnMut(Found<'_>) -> Result<(), &'static str>,
    ) -> io::Result<Stop> {
        let mut position = Position { offset: DATA_OFFSET, chain };
        let stop = |position, broken| Ok(Stop { position, broken });
        loop {
            let Position { offset, chain } = position;
            if offset % SECTOR_BYTES == 0 {
                boundary.pass(position);
            }
            if offset == self.segment_bytes {
                return stop(position, None);
            }
            // A length is never cut by a sector's end: records are aligned to eight.
            let length = u32_at(self.bytes(offset, 4)?, 0) as usize;
            if length == 0 {
                let next = align(offset, SECTOR_BYTES);
                if next == offset {
                    return stop(position, None);
                }
                if !is_zero(self.bytes(offset, (next - offset) as usize)?) {
                    return stop(position, Some("the padding after a group is not zero"));
                }
                position.offset = next;
                continue;
            }
            if length < RECORD_HEAD_BYTES || offset + length as u64 > self.segment_bytes {
                return stop(position, Some("a record's length is impossible"));
            }
            let head = match RecordHead::parse(self.bytes(offset, RECORD_HEAD_BYTES)?) {
                Ok(head) => head,
                Err(broken) => return stop(position, Some(broken)),
            };
            let record = self.bytes(offset, head.length)?;
            if !head.matches(record) {
                return stop(position, Some("a record's checksum does not match"));
            }
            if head.chain != head.chain_after(chain) {
                return stop(position, Some("a record does not follow the one before it"));
            }
            let found = Found {
                offset,
                kind: head.kind,
                index: head.index,
                id: head.id(record),
                payload: head.payload(record),
            };
            if let Err(broken) = visit(found) {
                return stop(position, Some(broken));
            }
            position = Position { offset: offset + head.length as u64, chain: head.chain };
        }
    }

    /// The first and the last byte in `from..to` that isn't zero.
    pub(super) fn nonzero(&mut self, from: u64, to: u64) -> io::Result<Option<(u64, u64)>> {
        let mut range: Option<(u64, u64)> = None;
        let mut offset = from;
        while offset < to {
            let count = ((to - offset) as usize).min(CHUNK_BYTES);
            let bytes = self.bytes(offset, count)?;
            if let Some(first) = bytes.iter().position(|byte| *byte != 0) {
                let last = bytes.iter().rposition(|byte| *byte != 0).expect("there is one");
                let (first, last) = (offset + first as u64, offset + last as u64);
                range = Some((range.map_or(first, |(first, _)| first), last));
            }
            offset += count as u64;
        }
        Ok(range)
    }

    pub(super) fn zero_sectors(&mut self, from: u64, to: u64) -> io::Result<u32> {
        let mut count = 0;
        for offset in (from..to).step_by(SECTOR_BYTES as usize) {
            count += u32::from(is_zero(self.bytes(offset, SECTOR_BYTES as usize)?));
        }
        Ok(count)
    }
}
