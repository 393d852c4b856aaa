//! What the loops tell of themselves, under upstream's names (client-go's workqueue metrics).
//!
//! Keeps: a process has one set of families, whatever number of terms it leads; the queue of a new term
//! takes the row of that of the last. How long workers are busy is reckoned when somebody asks.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tokio::time::Instant;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Name {
    name: String,
}

/// The families; each queue takes its own row of them. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Families>);

struct Families {
    depth: Family<Name, Gauge>,
    adds: Family<Name, Counter>,
    retries: Family<Name, Counter>,
    waited: Family<Name, Histogram>,
    worked: Family<Name, Histogram>,
    under_way: UnderWay,
}

/// When workers took the keys that they are busy with, by queue.
#[derive(Clone, Debug, Default)]
struct UnderWay(Arc<Mutex<BTreeMap<String, Begun>>>);

type Begun = Arc<Mutex<Vec<Instant>>>;

fn seconds() -> Histogram {
    // Upstream's buckets: 10 ns to 10 s.
    Histogram::new(exponential_buckets(10e-9, 10.0, 10))
}

impl Metrics {
    #[must_use]
    pub fn new(registry: &mut Registry) -> Metrics {
        let families = Families {
            depth: Family::default(),
            adds: Family::default(),
            retries: Family::default(),
            waited: Family::new_with_constructor(seconds),
            worked: Family::new_with_constructor(seconds),
            under_way: UnderWay::default(),
        };
        registry.register_collector(Box::new(families.under_way.clone()));
        registry.register("workqueue_depth", "Keys that wait for a worker", families.depth.clone());
        registry.register(
            "workqueue_adds",
            "Keys that were added to the queue",
            families.adds.clone(),
        );
        registry.register(
            "workqueue_retries",
            "Keys that were added again after a failure",
            families.retries.clone(),
        );
        registry.register(
            "workqueue_queue_duration_seconds",
            "How long a key waited for a worker",
            families.waited.clone(),
        );
        registry.register(
            "workqueue_work_duration_seconds",
            "How long a worker was busy with a key",
            families.worked.clone(),
        );
        Metrics(Arc::new(families))
    }

    /// The row of one queue.
    #[must_use]
    pub fn queue(&self, name: &str) -> QueueMetrics {
        let under_way = Begun::default();
        self.0.under_way.0.lock().insert(name.into(), under_way.clone());
        let name = Name { name: name.into() };
        let row = QueueMetrics {
            depth: self.0.depth.get_or_create_owned(&name),
            adds: self.0.adds.get_or_create_owned(&name),
            retries: self.0.retries.get_or_create_owned(&name),
            waited: self.0.waited.get_or_create_owned(&name),
            worked: self.0.worked.get_or_create_owned(&name),
            under_way,
        };
        row.depth(0);
        row
    }
}

impl Collector for UnderWay {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let now = Instant::now();
        let rows: Vec<(Name, f64, f64)> = {
            let queues = self.0.lock();
            let rows = queues.iter().map(|(name, begun)| {
                let busy = begun.lock();
                let busy = busy.iter().map(|begin| (now - *begin).as_secs_f64());
                let (sum, longest) =
                    busy.fold((0.0, 0.0_f64), |(sum, most), it| (sum + it, most.max(it)));
                (Name { name: name.clone() }, sum, longest)
            });
            rows.collect()
        };
        let mut unfinished = encoder.encode_descriptor(
            "workqueue_unfinished_work_seconds",
            "How long workers have been busy with keys that are not done, all together",
            None,
            MetricType::Gauge,
        )?;
        for (name, sum, _) in &rows {
            ConstGauge::new(*sum).encode(unfinished.encode_family(name)?)?;
        }
        let mut longest = encoder.encode_descriptor(
            "workqueue_longest_running_processor_seconds",
            "How long the worker has been busy that has been so for longest",
            None,
            MetricType::Gauge,
        )?;
        for (name, _, most) in &rows {
            ConstGauge::new(*most).encode(longest.encode_family(name)?)?;
        }
        Ok(())
    }
}

/// What one queue counts.
#[derive(Clone)]
pub struct QueueMetrics {
    depth: Gauge,
    adds: Counter,
    retries: Counter,
    waited: Histogram,
    worked: Histogram,
    under_way: Begun,
}

impl QueueMetrics {
    /// Counts that nobody reads: for tests, and for loops outside a process that has metrics.
    #[must_use]
    pub fn unregistered(name: &str) -> QueueMetrics {
        Metrics::new(&mut Registry::default()).queue(name)
    }

    pub(super) fn added(&self) {
        self.adds.inc();
    }

    pub(super) fn retried(&self) {
        self.retries.inc();
    }

    pub(super) fn depth(&self, waiting: usize) {
        self.depth.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }

    /// A worker took a key at `begin`, which had been ready since `ready`; others wait still.
    pub(super) fn taken(&self, ready: Instant, begin: Instant, waiting: usize) {
        self.waited.observe(begin.saturating_duration_since(ready).as_secs_f64());
        self.depth(waiting);
        self.under_way.lock().push(begin);
    }

    /// The worker is done with what it took at `begin`.
    pub(super) fn worked(&self, begin: Instant, took: Duration) {
        self.worked.observe(took.as_secs_f64());
        let mut under_way = self.under_way.lock();
        if let Some(at) = under_way.iter().position(|it| *it == begin) {
            under_way.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;
    use crate::reconcile::Queue;

    #[tokio::test(start_paused = true)]
    async fn a_queue_is_counted_under_the_names_that_dashboards_know() {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        let queue = Queue::new(metrics.queue("replicaset"));
        let page = |registry: &Registry| {
            let mut text = String::new();
            encode(&mut text, registry).unwrap();
            text
        };
        queue.add("a");
        queue.add("b");
        queue.next().await;
        tokio::time::advance(Duration::from_secs(3)).await;
        queue.next().await;
        tokio::time::advance(Duration::from_secs(4)).await;
        let text = page(&registry);
        for line in [
            "workqueue_adds_total{name=\"replicaset\"} 2",
            "workqueue_depth{name=\"replicaset\"} 0",
            "workqueue_queue_duration_seconds_count{name=\"replicaset\"} 2",
            "workqueue_unfinished_work_seconds{name=\"replicaset\"} 11.0",
            "workqueue_longest_running_processor_seconds{name=\"replicaset\"} 7.0",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        queue.done(&"a");
        queue.add_after_failure("a");
        let text = page(&registry);
        for line in [
            "workqueue_unfinished_work_seconds{name=\"replicaset\"} 4.0",
            "workqueue_work_duration_seconds_sum{name=\"replicaset\"} 7.0",
            "workqueue_retries_total{name=\"replicaset\"} 1",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        // Another term: its workers are busy with nothing yet.
        let _next = metrics.queue("replicaset");
        let text = page(&registry);
        let line = "workqueue_unfinished_work_seconds{name=\"replicaset\"} 0.0";
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
}
