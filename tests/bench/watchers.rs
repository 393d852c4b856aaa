//! One put, and however many watch: the time until the last has it, and what that costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kontiki_raft::Replica;
use kontiki_raft::storage::request::KeyRange;
use kontiki_raft::storage::watch::Request;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::Failure;
use crate::ground::Cluster;
use crate::load::{histogram, key, value};
use crate::meter::Meter;
use crate::options::Options;
use crate::report::{Figure, Goal, Measured, Report};
use crate::writes::put;

const VALUE_BYTES: usize = 256;
const WATCHERS: [usize; 3] = [1, 100, 10_000];

/// Watchers that have seen the put at hand, and who waits for all of them.
#[derive(Default)]
struct Gate {
    seen: AtomicUsize,
    all: Notify,
}

pub async fn measure(options: &Options, report: &mut Report) -> Result<(), Failure> {
    if !options.wants("watch") {
        return Ok(());
    }
    let cluster = Cluster::of(1, options).await?;
    let replica = cluster.leader();
    let puts = if options.quick { 50 } else { 300 };
    let bare = fan_out(replica, 0, false, puts).await?;
    for watchers in WATCHERS {
        for (what, apart) in [("watch, one range", false), ("watch, each its own range", true)] {
            let done = fan_out(replica, watchers, apart, puts).await?;
            let figure = |what: String, measured, goal| Figure {
                what,
                members: 1,
                at_once: watchers,
                value_bytes: VALUE_BYTES,
                measured,
                goal,
            };
            let took = Duration::from_micros(done.latency_us);
            report.figure(figure(
                format!("{what}: put to last, median"),
                Measured::Took(took),
                None,
            ));
            let processor = done.processor.saturating_sub(bare.processor);
            let goal = (watchers == 10_000 && !apart)
                .then_some(Goal::ProcessorBelow(Duration::from_millis(20)));
            report.figure(figure(
                format!("{what}: CPU above a put's"),
                Measured::Processor(processor),
                goal,
            ));
        }
    }
    cluster.stop().await;
    Ok(())
}

struct FanOut {
    /// Of one put.
    latency_us: u64,
    processor: Duration,
}

/// Puts one key after the other, each when the last watcher has the one before. Where each watcher has a
/// range of its own, all of them hold the key that is put.
async fn fan_out(
    replica: &Replica,
    watchers: usize,
    apart: bool,
    puts: u32,
) -> Result<FanOut, Failure> {
    let gate = Arc::new(Gate::default());
    let mut tasks = JoinSet::new();
    for number in 0..watchers {
        let range = if apart {
            KeyRange::Between { start: key(0), end: format!("/registry/pods/~{number}").into() }
        } else {
            KeyRange::prefix("/registry/pods/")
        };
        let mut watcher = replica.watch(Request::new(range));
        let gate = gate.clone();
        tasks.spawn(async move {
            while let Ok(delivery) = watcher.next().await {
                let seen = gate.seen.fetch_add(delivery.events.len(), Ordering::AcqRel);
                if seen + delivery.events.len() == watchers {
                    gate.all.notify_one();
                }
            }
        });
    }
    let value = value(VALUE_BYTES, 1);
    let mut latency = histogram()?;
    let warm_up = puts / 5;
    let mut meter = Meter::start();
    for number in 0..puts + warm_up {
        if number == warm_up {
            (meter, latency) = (Meter::start(), histogram()?);
        }
        gate.seen.store(0, Ordering::Release);
        let began = Meter::start();
        replica.propose(put(key(0), value.clone())).await?;
        if watchers > 0 {
            gate.all.notified().await;
        }
        latency.saturating_record(began.stop().wall.as_micros() as u64);
    }
    let spent = meter.stop();
    tasks.shutdown().await;
    Ok(FanOut { latency_us: latency.value_at_quantile(0.5), processor: spent.processor / puts })
}
