//! The machine's own limit: the same records from as many at once, appended in groups to a file that is
//! there already, one `fdatasync` for each group, and nothing else.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::Failure;
use crate::load::{self, drive};
use crate::options::Options;
use crate::report::Limit;

/// Written round and round, as a log takes its segments.
const FILE_BYTES: u64 = 256 << 20;

/// What a command and its record need beside key and value.
const HEAD_BYTES: usize = 48;

struct Record {
    bytes: Bytes,
    done: oneshot::Sender<()>,
}

pub async fn measure(
    options: &Options,
    at_once: usize,
    value_bytes: usize,
) -> Result<Limit, Failure> {
    let directory = tempfile::Builder::new().prefix("limit-").tempdir_in(&options.directory)?;
    let file = prepare(&directory.path().join("log"))?;
    let (queue, waiting) = mpsc::channel(at_once);
    let syncs = Arc::new(AtomicU64::new(0));
    let writer = std::thread::spawn({
        let syncs = syncs.clone();
        move || write_groups(&file, waiting, &syncs)
    });
    let record = load::value(load::key(0).len() + HEAD_BYTES + value_bytes, 1);
    let before = syncs.load(Ordering::Relaxed);
    let done = drive(options, at_once, move |_| {
        let (queue, bytes) = (queue.clone(), record.clone());
        async move {
            let (sender, written) = oneshot::channel();
            queue.send(Record { bytes, done: sender }).await.map_err(|_| "the writer is gone")?;
            Ok(written.await?)
        }
    })
    .await?;
    writer.join().map_err(|_| "the writer panicked")??;
    let whole = (options.warm_up() + options.duration()).as_secs_f64();
    let seconds = done.spent.wall.as_secs_f64();
    Ok(Limit {
        at_once,
        value_bytes,
        per_second: done.count as f64 / seconds,
        syncs_per_second: (syncs.load(Ordering::Relaxed) - before) as f64 / whole,
        processor_us: done.spent.processor.as_secs_f64() * 1e6 / done.count.max(1) as f64,
    })
}

/// A file whose blocks have all been written, so that a sync has nothing to say of its length.
fn prepare(path: &std::path::Path) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    let zeros = vec![0; 1 << 20];
    for _ in 0..FILE_BYTES >> 20 {
        file.write_all(&zeros)?;
    }
    file.sync_all()?;
    Ok(file)
}

fn write_groups(
    file: &File,
    mut waiting: mpsc::Receiver<Record>,
    syncs: &AtomicU64,
) -> io::Result<()> {
    let (mut group, mut answers, mut offset) = (Vec::new(), Vec::new(), 0);
    while let Some(first) = waiting.blocking_recv() {
        let mut next = Some(first);
        while let Some(record) = next {
            group.extend_from_slice(&record.bytes);
            answers.push(record.done);
            next = waiting.try_recv().ok();
        }
        if offset + group.len() as u64 > FILE_BYTES {
            offset = 0;
        }
        file.write_all_at(&group, offset)?;
        file.sync_data()?;
        syncs.fetch_add(1, Ordering::Relaxed);
        offset += group.len() as u64;
        group.clear();
        // Whoever waited may be gone, at the end.
        for answer in answers.drain(..) {
            answer.send(()).ok();
        }
    }
    Ok(())
}
