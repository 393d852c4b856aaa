//! What the log promises, tried on a simulated disk and on a real one.
//!
//! `workload` makes operations, runs them and knows what a reopened log may hold; `basic` is the
//! face without faults; `crash` cuts the power everywhere; `damage` breaks every byte; `failure`
//! has the disk refuse; `real` does some of it with threads on a real file system; `stopped` stops the
//! process.

mod basic;
mod crash;
mod damage;
mod failure;
mod real;
mod stopped;
mod workload;

use std::sync::Arc;

use super::*;

const OURS: Identity = Identity { cluster: 0xc1, node: 0x0d };

/// Small enough that a short workload fills several segments and leaves the cache.
fn small() -> Options {
    Options {
        segment_bytes: 9 * PAGE_BYTES,
        cache_bytes: 2000,
        flusher: FlusherMode::Inline,
        group_bytes_max: 6000,
        ..Options::default()
    }
}

fn open(disk: &SimDisk) -> Result<(Log, Opened), OpenError> {
    Log::open(Arc::new(disk.clone()), OURS, small())
}

fn record(index: u64, bytes: usize) -> Record {
    let id = Bytes::from(format!("id {index}"));
    Record { index, id, payload: Bytes::from(vec![index as u8; bytes]) }
}

fn records(indexes: std::ops::RangeInclusive<u64>, bytes: usize) -> Vec<Record> {
    indexes.map(|index| record(index, bytes)).collect()
}

/// A callback that must hear of success, with [`FlusherMode::Inline`] before the call returns.
fn durable() -> Done {
    Box::new(|result| result.unwrap())
}

fn ignored() -> Done {
    Box::new(|_| ())
}

/// Everything submitted by `submit` is written as one batch.
fn as_one_batch(log: &Log, submit: impl FnOnce(&Log)) {
    let inline = log.handle.inline.as_ref().expect("inline logs only");
    let mut flusher = inline.lock();
    submit(log);
    flusher.drain();
}

fn everything(log: &Log) -> Vec<Record> {
    log.read(0, u64::MAX, usize::MAX).unwrap()
}
