//! One range request against any rows: a view's, or those a transaction is in the middle of changing.

use std::ops::ControlFlow;

use super::gather::{Gathered, Sorted, limit};
use super::scan::{At, scan};
use crate::engine::Read;
use crate::error::Error;
use crate::request::{Bounds, Order, Range, RangeAnswer, Target};
use crate::revision::Revision;
use crate::row::Head;

/// Where in its history a store is when it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) revision: Revision,
    pub(crate) compacted: Revision,
}

impl Moment {
    /// The point that is meant by the revision of a request, where zero is "now".
    pub(crate) fn at(self, asked: Revision) -> Result<At, Error> {
        if asked > self.revision {
            return Err(Error::Future { asked, newest: self.revision });
        }
        if asked == Revision::ZERO || asked == self.revision {
            return Ok(At::Newest);
        }
        if asked < self.compacted {
            return Err(Error::Compacted { asked, oldest: self.compacted });
        }
        Ok(At::Revision(asked))
    }
}

impl Range {
    /// Whether the answer comes in key order and can be cut off at any key: what can be read in pages.
    #[must_use]
    pub fn streams(&self) -> bool {
        self.in_key_order()
            && self.modified == Bounds::default()
            && self.created == Bounds::default()
    }

    fn in_key_order(&self) -> bool {
        self.target == Target::Key && self.order != Order::Descending
    }

    fn admits(&self, head: Head) -> bool {
        self.modified.admit(head.modified) && self.created.admit(head.created)
    }
}

impl Bounds {
    fn admit(self, revision: Revision) -> bool {
        (self.min == Revision::ZERO || revision >= self.min)
            && (self.max == Revision::ZERO || revision <= self.max)
    }
}

pub(crate) fn range(
    read: &dyn Read,
    moment: Moment,
    request: &Range,
) -> Result<RangeAnswer, Error> {
    let at = moment.at(request.revision)?;
    if request.count_only {
        return count_only(read, at, request);
    }
    let mut answer = if request.in_key_order() {
        in_key_order(read, at, request)?
    } else {
        sorted(read, at, request)?
    };
    if request.keys_only {
        // Only here, because a sort by value needs the values.
        answer.kvs.iter_mut().for_each(|kv| kv.value.clear());
    }
    Ok(answer)
}

fn count_only(read: &dyn Read, at: At, request: &Range) -> Result<RangeAnswer, Error> {
    let mut count = 0;
    scan(read, &request.range, at, |_, _, _| {
        count += 1;
        ControlFlow::Continue(())
    })?;
    Ok(RangeAnswer { count, ..RangeAnswer::default() })
}

fn in_key_order(read: &dyn Read, at: At, request: &Range) -> Result<RangeAnswer, Error> {
    let limit = limit(request);
    let (mut kvs, mut more, mut count) = (Gathered::default(), false, 0);
    scan(read, &request.range, at, |key, head, value| {
        count += 1;
        // After the limit the walk goes on for the sake of the count, and copies nothing.
        if !more && request.admits(head) {
            if kvs.len() < limit {
                kvs.push(key, head, if request.keys_only { b"" } else { value });
            } else {
                more = true;
            }
        }
        ControlFlow::Continue(())
    })?;
    Ok(RangeAnswer { kvs: kvs.finish(), more, count })
}

fn sorted(read: &dyn Read, at: At, request: &Range) -> Result<RangeAnswer, Error> {
    let (mut kvs, mut count) = (Sorted::new(request), 0);
    scan(read, &request.range, at, |key, head, value| {
        count += 1;
        if request.admits(head) {
            kvs.push(key, head, value);
        }
        ControlFlow::Continue(())
    })?;
    let (kvs, more) = kvs.finish();
    Ok(RangeAnswer { kvs, more, count })
}
