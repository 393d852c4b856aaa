//! What the loops tell of themselves, under upstream's names (client-go's workqueue metrics).

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

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
}

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
        };
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
        let name = Name { name: name.into() };
        QueueMetrics {
            depth: self.0.depth.get_or_create_owned(&name),
            adds: self.0.adds.get_or_create_owned(&name),
            retries: self.0.retries.get_or_create_owned(&name),
            waited: self.0.waited.get_or_create_owned(&name),
            worked: self.0.worked.get_or_create_owned(&name),
        }
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

    pub(super) fn taken(&self, waited: Duration, waiting: usize) {
        self.waited.observe(waited.as_secs_f64());
        self.depth(waiting);
    }

    pub(super) fn worked(&self, worked: Duration) {
        self.worked.observe(worked.as_secs_f64());
    }
}
