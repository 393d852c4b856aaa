//! Many clients at once, each with one request on its way at a time, for a while.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::Failure;
use crate::options::Options;

/// What a load came to on one side.
pub struct Done {
    pub count: u64,
    pub wall: Duration,
    /// Of the servers, not of the driver.
    pub processor: Duration,
    pub latency: Histogram<u64>,
}

impl Default for Done {
    fn default() -> Done {
        let latency = Histogram::new_with_bounds(1, 60_000_000, 3).expect("sensible bounds");
        Done { count: 0, wall: Duration::ZERO, processor: Duration::ZERO, latency }
    }
}

impl Done {
    pub fn add(&mut self, other: &Done) {
        self.count += other.count;
        self.wall += other.wall;
        self.processor += other.processor;
        self.latency.add(&other.latency).expect("the same bounds");
    }

    pub fn per_second(&self) -> f64 {
        self.count as f64 / self.wall.as_secs_f64()
    }

    pub fn processor_us(&self) -> f64 {
        self.processor.as_secs_f64() * 1e6 / (self.count as f64).max(1.0)
    }
}

/// Processes that are asked, and what they have cost.
pub trait Servers {
    /// Processor time of all of them since they began.
    fn processor(&self) -> Duration;
}

/// Has every worker ask again and again, and measures from the end of the warm-up on. A worker is handed
/// back by its own request, so that it can keep what it has seen. Any error ends it.
pub async fn drive<W, A, F>(
    options: &Options,
    server: &impl Servers,
    workers: Vec<W>,
    ask: A,
) -> Result<Done, Failure>
where
    W: Send + 'static,
    A: Fn(W) -> F + Send + Sync + 'static,
    F: Future<Output = Result<W, Failure>> + Send + 'static,
{
    let ask = Arc::new(ask);
    let (measuring, ending) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let mut tasks = JoinSet::new();
    for mut worker in workers {
        let (ask, measuring, ending) = (ask.clone(), measuring.clone(), ending.clone());
        tasks.spawn(async move {
            let mut latency = Done::default().latency;
            while !ending.load(Ordering::Relaxed) {
                let (counts, began) = (measuring.load(Ordering::Relaxed), Instant::now());
                worker = ask(worker).await?;
                if counts && !ending.load(Ordering::Relaxed) {
                    latency.saturating_record(began.elapsed().as_micros() as u64);
                }
            }
            Ok::<_, Failure>(latency)
        });
    }
    sleep(options.warm_up()).await;
    let (began, before) = (Instant::now(), server.processor());
    measuring.store(true, Ordering::Relaxed);
    sleep(options.duration()).await;
    ending.store(true, Ordering::Relaxed);
    let (wall, processor) = (began.elapsed(), server.processor().saturating_sub(before));
    let mut done = Done { wall, processor, ..Done::default() };
    while let Some(ended) = tasks.join_next().await {
        done.latency.add(ended??)?;
    }
    done.count = done.latency.len();
    Ok(done)
}

/// As long as the keys of pods are.
pub fn key(number: u64) -> String {
    format!("/registry/pods/namespace-{:02}/pod-{number:010}", number % 40)
}

/// Half of it can be compressed, as objects can.
pub fn value(bytes: usize) -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(1);
    let mut value = vec![b'{'; bytes];
    value[..bytes / 2].fill_with(|| random.random());
    value
}
