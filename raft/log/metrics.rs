//! What the log counts about itself. Plain atomics: whoever exports metrics reads them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bounds of the sync histogram in seconds; those of `etcd_disk_wal_fsync_duration_seconds`, so
/// that dashboards and alerts made for it keep their meaning.
pub const SYNC_SECONDS_BOUNDS: [f64; 14] = [
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096,
    8.192,
];

/// Bounds of the histogram of records per group.
pub const GROUP_RECORDS_BOUNDS: [u64; 8] = [1, 4, 16, 64, 256, 1024, 4096, 16384];

#[derive(Debug, Default)]
pub struct Metrics {
    /// Syncs of the log's files, rotation and vouching included.
    pub syncs: AtomicU64,
    /// Groups written; one sync each.
    pub groups: AtomicU64,
    pub records: AtomicU64,
    /// Of records, before padding.
    pub bytes: AtomicU64,
    pub rotations: AtomicU64,
    pub segments_removed: AtomicU64,
    /// Segments that could not be prepared for want of space. Not fatal while `room()` lasts.
    pub prepare_failures: AtomicU64,
    /// Bytes submitted and not yet durable.
    pub pending_bytes: AtomicU64,
    sync_micros: AtomicU64,
    sync_buckets: [AtomicU64; SYNC_SECONDS_BOUNDS.len() + 1],
    group_buckets: [AtomicU64; GROUP_RECORDS_BOUNDS.len() + 1],
    /// Set by [`Log::health`](super::Log::health): how long the write under way has lasted.
    pub stall_micros: AtomicU64,
}

/// Observations per bucket (the last one is without bound), their number and sum.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    pub buckets: Vec<u64>,
    pub count: u64,
    pub sum: f64,
}

impl Metrics {
    /// Durations of group syncs, in seconds.
    pub fn sync_seconds(&self) -> Histogram {
        let sum = self.sync_micros.load(Ordering::Relaxed) as f64 / 1e6;
        histogram(&self.sync_buckets, sum)
    }

    pub fn group_records(&self) -> Histogram {
        histogram(&self.group_buckets, self.records.load(Ordering::Relaxed) as f64)
    }

    pub(super) fn group_synced(&self, took: Duration, records: u64, bytes: u64) {
        let seconds = took.as_secs_f64();
        let bucket = SYNC_SECONDS_BOUNDS.partition_point(|bound| *bound < seconds);
        self.sync_buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sync_micros.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
        let bucket = GROUP_RECORDS_BOUNDS.partition_point(|bound| *bound < records);
        self.group_buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.groups.fetch_add(1, Ordering::Relaxed);
        self.records.fetch_add(records, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

fn histogram(buckets: &[AtomicU64], sum: f64) -> Histogram {
    let buckets: Vec<u64> = buckets.iter().map(|count| count.load(Ordering::Relaxed)).collect();
    Histogram { count: buckets.iter().sum(), buckets, sum }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_is_counted_in_the_first_bucket_that_holds_it() {
        let metrics = Metrics::default();
        metrics.group_synced(Duration::from_millis(1), 1, 100);
        metrics.group_synced(Duration::from_millis(3), 5, 100);
        metrics.group_synced(Duration::from_secs(60), 99_999, 100);
        let syncs = metrics.sync_seconds();
        assert_eq!((syncs.buckets[0], syncs.buckets[2], syncs.buckets[14]), (1, 1, 1));
        assert_eq!((syncs.count, syncs.sum), (3, 60.004));
        let groups = metrics.group_records();
        assert_eq!((groups.buckets[0], groups.buckets[2], groups.buckets[8]), (1, 1, 1));
    }
}
