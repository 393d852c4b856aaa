//! Many at once, each with one request on its way at a time, for a while.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use hdrhistogram::Histogram;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::Failure;
use crate::meter::{Meter, Spent};
use crate::options::Options;

/// How many ask at once.
pub const AT_ONCE: [usize; 3] = [1, 64, 1000];

/// What a load came to.
pub struct Done {
    pub count: u64,
    pub spent: Spent,
    pub latency: Histogram<u64>,
}

/// Has `at_once` tasks call `ask` again and again, each with its own number of the call, and measures from
/// the end of the warm-up on. Any error ends it.
pub async fn drive<F, A>(options: &Options, at_once: usize, ask: A) -> Result<Done, Failure>
where
    A: Fn(u64) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let (ask, next) = (Arc::new(ask), Arc::new(AtomicU64::new(0)));
    let (measuring, ending) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let mut tasks = JoinSet::new();
    for _ in 0..at_once {
        let (ask, next) = (ask.clone(), next.clone());
        let (measuring, ending) = (measuring.clone(), ending.clone());
        tasks.spawn(async move {
            let mut latency = histogram()?;
            while !ending.load(Ordering::Relaxed) {
                let (counts, began) = (measuring.load(Ordering::Relaxed), Instant::now());
                ask(next.fetch_add(1, Ordering::Relaxed)).await?;
                // What never has to wait would not let the clock on.
                tokio::task::consume_budget().await;
                if counts && !ending.load(Ordering::Relaxed) {
                    latency.saturating_record(began.elapsed().as_micros() as u64);
                }
            }
            Ok::<_, Failure>(latency)
        });
    }
    sleep(options.warm_up()).await;
    let meter = Meter::start();
    measuring.store(true, Ordering::Relaxed);
    sleep(options.duration()).await;
    ending.store(true, Ordering::Relaxed);
    let spent = meter.stop();
    let mut latency = histogram()?;
    while let Some(done) = tasks.join_next().await {
        latency.add(done??)?;
    }
    Ok(Done { count: latency.len(), spent, latency })
}

/// Up to a minute, to three digits.
pub fn histogram() -> Result<Histogram<u64>, Failure> {
    Ok(Histogram::new_with_bounds(1, 60_000_000, 3)?)
}

/// As long as the keys of pods are.
pub fn key(number: u64) -> Bytes {
    format!("/registry/pods/namespace-{:02}/pod-{number:010}", number % 40).into()
}

/// Half of it can be compressed, as objects can.
pub fn value(bytes: usize, seed: u64) -> Bytes {
    let mut random = StdRng::seed_from_u64(seed);
    let mut value = vec![b'{'; bytes];
    value[..bytes / 2].fill_with(|| random.random());
    value.into()
}

/// Values to choose from, so that making them costs nothing while it is measured.
pub fn values(bytes: usize) -> Arc<[Bytes]> {
    (0..64).map(|seed| value(bytes, seed)).collect()
}
