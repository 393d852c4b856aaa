//! Reads entries back from segments, checked again at every reading.
//!
//! Keeps: an entry is returned only when its checksum and its index are what they must be;
//! anything else is an error of kind `InvalidData` that names the segment and the offset.

use std::io;

use bytes::Bytes;

use super::Record;
use super::error::Doing;
use super::format::{Kind, RECORD_HEAD_BYTES, RecordHead};
use super::segment::{Run, segment_name};

const CHUNK_BYTES: usize = 256 << 10;

/// The first entry of a run.
pub(super) fn read_entry(run: &Run) -> io::Result<Record> {
    let mut records = Vec::new();
    read_run(run, 0, &mut records)?;
    Ok(records.pop().expect("a run has an entry and the first is read whatever its size"))
}

/// Appends the run's entries to `records` until they hold `bytes_max`; at least one when it is
/// empty. Returns whether there is room for more.
pub(super) fn read_run(run: &Run, bytes_max: usize, records: &mut Vec<Record>) -> io::Result<bool> {
    let name = segment_name(run.segment);
    let mut bytes: usize = records.iter().map(Record::bytes).sum();
    let mut chunk = Chunk { run, start: 0, buffer: Vec::new() };
    for (index, offset) in (run.first..).zip(&run.offsets) {
        if bytes >= bytes_max && !records.is_empty() {
            return Ok(false);
        }
        let offset = u64::from(*offset);
        let record = chunk.record(index, offset).map_err(|error| match error {
            RecordError::Io(error) => error,
            RecordError::Damaged(what) => io::Error::new(
                io::ErrorKind::InvalidData,
                format!("log segment {name} is damaged at byte {offset}, entry {index}: {what}"),
            ),
        })?;
        bytes += record.bytes();
        records.push(record);
    }
    Ok(bytes < bytes_max)
}

enum RecordError {
    Io(io::Error),
    Damaged(&'static str),
}

/// Read ahead a little: entries usually lie side by side.
struct Chunk<'a> {
    run: &'a Run,
    start: u64,
    buffer: Vec<u8>,
}

impl Chunk<'_> {
    fn record(&mut self, index: u64, offset: u64) -> Result<Record, RecordError> {
        let head = RecordHead::parse(self.bytes(offset, RECORD_HEAD_BYTES)?)
            .map_err(RecordError::Damaged)?;
        if offset + head.length as u64 > self.run.segment_bytes {
            return Err(RecordError::Damaged("the record's length is impossible"));
        }
        let bytes = self.bytes(offset, head.length)?;
        if !head.matches(bytes) {
            return Err(RecordError::Damaged("the checksum does not match"));
        }
        if head.kind != Kind::Entry || head.index != index {
            return Err(RecordError::Damaged("another record lies in its place"));
        }
        // One allocation for both.
        let id = head.id(bytes).len();
        let payload = head.payload(bytes).len();
        let body = &bytes[RECORD_HEAD_BYTES..RECORD_HEAD_BYTES + id + payload];
        let body = Bytes::copy_from_slice(body);
        Ok(Record { index, id: body.slice(..id), payload: body.slice(id..) })
    }

    fn bytes(&mut self, offset: u64, count: usize) -> Result<&[u8], RecordError> {
        let end = self.start + self.buffer.len() as u64;
        if offset < self.start || offset + count as u64 > end {
            let left = self.run.segment_bytes - offset;
            if left < count as u64 {
                return Err(RecordError::Damaged("the record reaches beyond the segment"));
            }
            // A single entry is not worth a whole chunk.
            let wanted = if self.run.offsets.len() > 1 { CHUNK_BYTES } else { 4096 };
            self.buffer.resize((wanted.max(count) as u64).min(left) as usize, 0);
            self.start = offset;
            self.run
                .file
                .read_at(&mut self.buffer, offset)
                .doing("read", &segment_name(self.run.segment))
                .map_err(|error| match error.kind() {
                    io::ErrorKind::UnexpectedEof => RecordError::Damaged("the file is cut short"),
                    _ => RecordError::Io(error),
                })?;
        }
        let at = (offset - self.start) as usize;
        Ok(&self.buffer[at..at + count])
    }
}
