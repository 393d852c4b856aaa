//! The newest entries, in memory: for replication and apply, and for what is not durable yet.
//!
//! Keeps: one unbroken run of indexes that ends at the log's last entry; everything not yet
//! durable is in it.
//! Bounded by bytes, except that nothing leaves before it is durable.

use std::collections::VecDeque;

use super::Record;

/// What a record costs beside its bytes.
const RECORD_OVERHEAD_BYTES: usize = 96;

#[derive(Debug)]
pub(super) struct Cache {
    records: VecDeque<Cached>,
    bytes: usize,
    bytes_max: usize,
}

#[derive(Debug)]
struct Cached {
    /// The place of its operation in the stream: indexes can come twice, places can't.
    operation: u64,
    record: Record,
}

fn cost(record: &Record) -> usize {
    record.id.len() + record.payload.len() + RECORD_OVERHEAD_BYTES
}

impl Cache {
    pub(super) fn new(bytes_max: usize) -> Cache {
        Cache { records: VecDeque::new(), bytes: 0, bytes_max }
    }

    pub(super) fn first(&self) -> Option<u64> {
        self.records.front().map(|cached| cached.record.index)
    }

    pub(super) fn push(&mut self, operation: u64, record: Record) {
        if let Some(last) = self.records.back() {
            assert_eq!(last.record.index + 1, record.index, "a gap in the cache");
        }
        self.bytes += cost(&record);
        self.records.push_back(Cached { operation, record });
    }

    pub(super) fn get(&self, index: u64) -> Option<&Record> {
        let first = self.first()?;
        let at = index.checked_sub(first)?;
        self.records.get(at as usize).map(|cached| &cached.record)
    }

    pub(super) fn truncate_after(&mut self, kept: u64) {
        while self.records.back().is_some_and(|last| last.record.index > kept) {
            let dropped = self.records.pop_back().expect("looked at just now");
            self.bytes -= cost(&dropped.record);
        }
    }

    pub(super) fn purge(&mut self, upto: u64) {
        while self.first().is_some_and(|first| first <= upto) {
            self.pop_first();
        }
    }

    /// Makes room; `durable` operations are on disk.
    pub(super) fn evict(&mut self, durable: u64) {
        while self.bytes > self.bytes_max
            && self.records.front().is_some_and(|first| first.operation <= durable)
        {
            self.pop_first();
        }
    }

    /// The first entry that isn't durable.
    pub(super) fn first_pending(&self, durable: u64) -> Option<u64> {
        let at = self.records.partition_point(|cached| cached.operation <= durable);
        self.records.get(at).map(|cached| cached.record.index)
    }

    fn pop_first(&mut self) {
        if let Some(first) = self.records.pop_front() {
            self.bytes -= cost(&first.record);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn record(index: u64) -> Record {
        Record { index, id: Bytes::new(), payload: Bytes::from(vec![0; 1000]) }
    }

    #[test]
    fn what_is_not_durable_is_never_evicted() {
        let mut cache = Cache::new(2500);
        for index in 1..=5 {
            cache.push(index, record(index));
        }
        cache.evict(0);
        assert_eq!(cache.first(), Some(1));
        cache.evict(2);
        assert_eq!((cache.first(), cache.first_pending(2)), (Some(3), Some(3)));
        cache.evict(5);
        assert_eq!((cache.first(), cache.first_pending(5)), (Some(4), None));
    }

    #[test]
    fn it_can_be_cut_at_both_ends_and_goes_on() {
        let mut cache = Cache::new(1 << 20);
        for index in 1..=5 {
            cache.push(1, record(index));
        }
        cache.truncate_after(3);
        cache.purge(1);
        cache.push(2, record(4));
        assert_eq!((cache.first(), cache.get(1), cache.get(5)), (Some(2), None, None));
        assert_eq!(cache.get(4), Some(&record(4)));
        assert_eq!(cache.first_pending(1), Some(4));
        cache.purge(9);
        assert_eq!((cache.first(), cache.bytes), (None, 0));
    }
}
