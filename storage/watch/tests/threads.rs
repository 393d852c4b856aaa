//! Real threads: one writer as fast as it can, readers that keep up, lag, leave and come back.
//!
//! What is checked is the model's, so nothing depends on how the threads happen to run.

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

use super::bed::Bed;
use super::model::{Model, any_key};
use crate::record::EventKind;
use crate::request::KeyRange;
use crate::revision::Revision;
use crate::watch::*;

const COMMITS: u64 = 8000;

fn range(number: u64) -> KeyRange {
    match number % 5 {
        0 => KeyRange::all(),
        1 => KeyRange::prefix("/a/"),
        2 => KeyRange::prefix("/b/"),
        3 => KeyRange::From("/b/c".into()),
        _ => KeyRange::One("/a/1".into()),
    }
}

/// Reads up to the last commit. Now and then it does something else meanwhile, or leaves and comes
/// back where it stood.
async fn reads(bed: Arc<Bed>, number: u64, last: Revision) {
    let mut random = StdRng::seed_from_u64(number);
    let mut request = Request::new(range(number)).from(Revision(2));
    let mut watcher = bed.watch(request.clone());
    let mut model = Model::new(&bed.journal, &request, request.start);
    let slow = number.is_multiple_of(3);
    loop {
        let delivery = watcher.next().await.expect("nothing is compacted here");
        model.delivers(&delivery);
        model.checks(&watcher);
        if delivery.revision == last {
            return;
        }
        if slow {
            for _ in 0..random.random_range(0..50) {
                tokio::task::yield_now().await;
            }
        }
        if random.random_bool(0.01) {
            request.start = watcher.cursor();
            watcher = bed.watch(request.clone());
            model = Model::new(&bed.journal, &request, request.start);
        }
    }
}

#[test]
fn a_fast_writer_and_many_readers_on_threads_lose_and_repeat_nothing() {
    let options =
        Options { ring_bytes: 64 << 10, delivery_bytes_max: 8 << 10, history_bytes_max: 32 << 10 };
    let bed = Arc::new(Bed::new(options));
    let last = Revision(COMMITS + 1);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    let writer = {
        let bed = bed.clone();
        std::thread::spawn(move || {
            let mut random = StdRng::seed_from_u64(7);
            let mut written = 0;
            while written < COMMITS - 1 {
                let batch = random.random_range(1..4).min(COMMITS - 1 - written);
                written += batch;
                let commits = (0..batch)
                    .map(|_| {
                        let key = any_key(&mut random);
                        bed.journal.write([(EventKind::Put, key, 20)].into_iter())
                    })
                    .collect();
                bed.hub.publish(commits);
            }
            // The last one reaches every reader.
            let keys = ["/a/1", "/b/1", "/z/1"].map(|key| (EventKind::Put, key.to_owned(), 20));
            bed.commit(keys.into_iter());
        })
    };
    runtime.block_on(async {
        let mut readers = JoinSet::new();
        for number in 0..60 {
            readers.spawn(reads(bed.clone(), number, last));
        }
        readers.join_all().await;
    });
    writer.join().unwrap();
    let stats = bed.hub.stats();
    assert_eq!((stats.watchers, stats.groups, stats.lagging), (0, 0, 0));
}

#[test]
fn joining_and_leaving_beside_a_writer_keeps_the_books_in_order() {
    let bed = Arc::new(Bed::new(Options { ring_bytes: 16 << 10, ..Options::default() }));
    std::thread::scope(|scope| {
        for number in 0..3 {
            let bed = &bed;
            scope.spawn(move || {
                let mut random = StdRng::seed_from_u64(number);
                for _ in 0..2000 {
                    let watched = range(random.random_range(0..5));
                    let before = bed.hub.revision();
                    let mut watcher = bed.watch(Request::new(watched.clone()));
                    let mut told = before;
                    for _ in 0..random.random_range(0..3) {
                        let Some(delivery) = watcher.try_next() else {
                            continue;
                        };
                        for event in delivery.expect("nothing is compacted here").events {
                            assert!(watched.contains(&event.kv.key));
                            assert!(told < event.kv.modified, "one key in each revision");
                            told = event.kv.modified;
                        }
                    }
                }
            });
        }
        let mut random = StdRng::seed_from_u64(99);
        for _ in 0..2000 {
            let key = any_key(&mut random);
            bed.commit([(EventKind::Put, key, 20)].into_iter());
        }
    });
    let stats = bed.hub.stats();
    assert_eq!((stats.watchers, stats.groups, stats.lagging), (0, 0, 0));
}
