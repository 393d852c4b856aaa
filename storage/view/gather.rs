//! Collects what a walk comes across.
//!
//! Keys and values of many small rows are laid end to end in one buffer and shared out as slices of it:
//! two allocations per key would cost more than reading them.
//!
//! Keeps: a slice that outlives the others holds at most [`CHUNK_BYTES`] in memory besides itself.

use std::cmp::Ordering;

use bytes::Bytes;

use crate::append::append;
use crate::record::KeyValue;
use crate::request::{Order, Range, Target};
use crate::row::Head;

const CHUNK_BYTES: usize = 64 << 10;

/// Keys and values in the order in which they came.
#[derive(Default)]
pub(crate) struct Gathered {
    kvs: Vec<KeyValue>,
    chunk: Vec<u8>,
    /// The lengths of key and value of the newest of `kvs`, which still lie in `chunk`.
    open: Vec<(usize, usize)>,
    bytes: usize,
}

impl Gathered {
    pub(crate) fn push(&mut self, key: &[u8], head: Head, value: &[u8]) {
        let more = key.len() + value.len();
        if self.chunk.len() + more > CHUNK_BYTES {
            self.seal();
            self.chunk.reserve_exact(if more > CHUNK_BYTES { more } else { CHUNK_BYTES });
        }
        self.chunk.extend_from_slice(key);
        append(&mut self.chunk, value);
        self.open.push((key.len(), value.len()));
        self.kvs.push(head.with(Bytes::new(), Bytes::new()));
        self.bytes += more + size_of::<KeyValue>();
    }

    pub(crate) fn len(&self) -> usize {
        self.kvs.len()
    }

    /// What it holds in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn finish(mut self) -> Vec<KeyValue> {
        self.seal();
        self.kvs
    }

    /// Hands the slices of the buffer to those whose they are.
    fn seal(&mut self) {
        let chunk = Bytes::from(std::mem::take(&mut self.chunk));
        let first = self.kvs.len() - self.open.len();
        let mut at = 0;
        for (kv, (key, value)) in self.kvs[first..].iter_mut().zip(self.open.drain(..)) {
            kv.key = chunk.slice(at..at + key);
            at += key;
            kv.value = chunk.slice(at..at + value);
            at += value;
        }
    }
}

/// The first of many in another order than that of the keys, holding about twice what is wanted at most.
pub(crate) struct Sorted {
    kvs: Vec<KeyValue>,
    order: Order,
    target: Target,
    /// `usize::MAX` for all.
    limit: usize,
    dropped: bool,
}

impl Sorted {
    pub(crate) fn new(request: &Range) -> Sorted {
        Sorted {
            kvs: Vec::new(),
            order: request.order,
            target: request.target,
            limit: limit(request),
            dropped: false,
        }
    }

    pub(crate) fn push(&mut self, key: &[u8], head: Head, value: &[u8]) {
        // One buffer each: most of these will be dropped again.
        let both = Bytes::from([key, value].concat());
        self.kvs.push(head.with(both.slice(..key.len()), both.slice(key.len()..)));
        if self.kvs.len() >= self.limit.saturating_mul(2).saturating_add(1024) {
            self.cut();
        }
    }

    /// The keys in their order, and whether there were more than the limit lets through.
    pub(crate) fn finish(mut self) -> (Vec<KeyValue>, bool) {
        self.cut();
        (self.kvs, self.dropped)
    }

    fn cut(&mut self) {
        let (order, target) = (self.order, self.target);
        // Stable, and rows come in key order: what is equal stays in key order on every member.
        self.kvs.sort_by(|a, b| compare(a, b, order, target));
        self.dropped |= self.kvs.len() > self.limit;
        self.kvs.truncate(self.limit);
    }
}

/// The limit of a request as a number of keys.
pub(crate) fn limit(request: &Range) -> usize {
    match request.limit {
        0 => usize::MAX,
        limit => usize::try_from(limit).unwrap_or(usize::MAX),
    }
}

fn compare(a: &KeyValue, b: &KeyValue, order: Order, target: Target) -> Ordering {
    let ascending = match target {
        Target::Key => a.key.cmp(&b.key),
        Target::Version => a.version.cmp(&b.version),
        Target::Created => a.created.cmp(&b.created),
        Target::Modified => a.modified.cmp(&b.modified),
        Target::Value => a.value.cmp(&b.value),
    };
    match order {
        Order::None | Order::Ascending => ascending,
        Order::Descending => ascending.reverse(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_in_comes_out_across_chunks_and_with_values_larger_than_one() {
        let mut gathered = Gathered::default();
        let value = |i: usize| vec![i as u8; [0, 1, 300, CHUNK_BYTES + 1][i % 4]];
        for i in 0..1000 {
            let head = Head { version: i as u64, ..Head::default() };
            gathered.push(format!("{i}").as_bytes(), head, &value(i));
        }
        assert_eq!(gathered.len(), 1000);
        let kvs = gathered.finish();
        for (i, kv) in kvs.iter().enumerate() {
            assert_eq!(kv.key, format!("{i}").as_bytes());
            assert_eq!(kv.value, value(i));
            assert_eq!(kv.version, i as u64);
        }
    }

    #[test]
    fn what_is_equal_stays_in_key_order_in_both_directions() {
        for order in [Order::Ascending, Order::Descending] {
            let request = Range {
                order,
                target: Target::Version,
                limit: 2,
                ..Range::new(crate::request::KeyRange::all())
            };
            let mut sorted = Sorted::new(&request);
            for key in ["a", "b", "c"] {
                sorted.push(key.as_bytes(), Head::default(), b"");
            }
            let (kvs, more) = sorted.finish();
            let keys: Vec<_> = kvs.iter().map(|kv| kv.key.as_ref()).collect();
            assert_eq!((keys, more), (vec![b"a".as_slice(), b"b"], true));
        }
    }

    #[test]
    fn a_long_walk_is_cut_on_the_way_and_loses_nothing() {
        let request = Range {
            order: Order::Descending,
            target: Target::Modified,
            limit: 3,
            ..Range::new(crate::request::KeyRange::all())
        };
        let mut sorted = Sorted::new(&request);
        for i in 0..5000u64 {
            let modified = crate::revision::Revision(i.wrapping_mul(7919) % 5000);
            sorted.push(&i.to_be_bytes(), Head { modified, ..Head::default() }, b"");
            assert!(sorted.kvs.len() < 3 * 2 + 1024);
        }
        let (kvs, more) = sorted.finish();
        let modified: Vec<_> = kvs.iter().map(|kv| kv.modified.0).collect();
        assert_eq!((modified, more), (vec![4999, 4998, 4997], true));
    }
}
