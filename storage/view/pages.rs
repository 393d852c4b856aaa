//! A large range in pieces, all of one moment, holding one piece in memory at a time.
//!
//! Lists are read again and again. Of one that is larger than the engine's cache, what comes first stays there
//! and the rest passes by: were all of it to be kept, each list would drive out what the next one begins with,
//! and what others read.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::View;
use super::gather::{Gathered, limit};
use super::scan::scan;
use crate::engine::{Cursor, Read, Span, Table};
use crate::error::Error;
use crate::record::KeyValue;
use crate::request::{KeyRange, Range};

/// How much of a range is worth a place in a cache: half of what the engine's holds.
const KEPT_BYTES_MAX: usize = 16 << 20;

/// The pages of one range. It holds its view, and with it an engine snapshot: drop it when done.
///
/// For a range in key order without bounds on revisions ([`Range::streams`]); any other comes as one page.
pub struct Pages {
    view: View,
    request: Range,
    /// What is still to be read; `None` at the end.
    rest: Option<KeyRange>,
    /// Keys handed out, and keys seen.
    taken: usize,
    count: u64,
    more: bool,
    /// Whether what a limit keeps back is counted.
    counts: bool,
    /// Bytes that were read.
    passed: usize,
}

/// Reads that no cache is to remember.
struct Passing<'v>(&'v dyn Read);

impl Pages {
    pub(super) fn new(view: View, request: Range) -> Pages {
        let rest = (!request.count_only).then(|| request.range.clone());
        Pages { view, request, rest, taken: 0, count: 0, more: false, counts: true, passed: 0 }
    }

    /// What the limit keeps back is not counted: to count is to read it.
    #[must_use]
    pub fn without_total(mut self) -> Pages {
        self.counts = false;
        self
    }

    /// The next keys, about `bytes_max` of them but at least one; `None` when all are out.
    pub fn next_page(&mut self, bytes_max: usize) -> Result<Option<Vec<KeyValue>>, Error> {
        // Taken out only on success, so that a failed reader is never told that it has come to the end.
        let Some(rest) = self.rest.clone() else {
            return Ok(None);
        };
        if !self.request.streams() {
            let answer = self.view.range(&self.request)?;
            self.rest = None;
            (self.count, self.more) = (answer.count, answer.more);
            return Ok((!answer.kvs.is_empty()).then_some(answer.kvs));
        }
        let at = self.view.moment().at(self.request.revision)?;
        let room = limit(&self.request) - self.taken;
        let keys_only = self.request.keys_only;
        let mut kvs = Gathered::default();
        let (mut stopped, mut passed) = (None, self.passed);
        let passing = Passing(self.view.read());
        let read = if self.passed < KEPT_BYTES_MAX { self.view.read() } else { &passing };
        let scanned = scan(read, &rest, at, |key, head, value| {
            if kvs.len() == room || (kvs.len() > 0 && kvs.bytes() >= bytes_max) {
                stopped = Some(Bytes::copy_from_slice(key));
                return ControlFlow::Break(());
            }
            passed += key.len() + value.len();
            kvs.push(key, head, if keys_only { b"" } else { value });
            ControlFlow::Continue(())
        });
        self.view.noted(scanned)?;
        self.view.still_there(at)?;
        let rest = stopped.map(|next| from(&rest, next));
        self.more = rest.is_some();
        self.rest = if kvs.len() < room {
            rest
        } else {
            // Nothing more is handed out. What remains is counted, for the total, and passes the cache by.
            let rest = rest.filter(|_| self.counts);
            self.count += rest.map_or(Ok(0), |rest| self.view.count_at(&passing, &rest, at))?;
            None
        };
        self.taken += kvs.len();
        self.passed = passed;
        self.count += kvs.len() as u64;
        let kvs = kvs.finish();
        Ok((!kvs.is_empty()).then_some(kvs))
    }

    /// How many keys the range has ([without](Self::without_total) a total: were handed out), and whether
    /// more are there than the limit let through. To be asked after the last page: it is what an answer in one
    /// piece would have said.
    pub fn totals(&self) -> Result<(u64, bool), Error> {
        if self.request.count_only {
            let answer = self.view.range(&self.request)?;
            return Ok((answer.count, false));
        }
        Ok((self.count, self.more))
    }
}

impl Read for Passing<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.0.get(table, key)
    }

    fn cursor<'r>(&'r self, table: Table, span: Span<'r>) -> Result<Box<dyn Cursor + 'r>, Error> {
        self.0.passing_cursor(table, span)
    }
}

/// The part of `range` that begins with `start`.
fn from(range: &KeyRange, start: Bytes) -> KeyRange {
    match range {
        KeyRange::One(_) => KeyRange::One(start),
        KeyRange::Between { end, .. } => KeyRange::Between { start, end: end.clone() },
        KeyRange::From(_) => KeyRange::From(start),
    }
}
