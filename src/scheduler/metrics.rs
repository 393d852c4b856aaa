//! What the scheduler tells of itself, under upstream's names.
//!
//! Keeps: a process has one set of families, whatever number of terms it leads. What waits is counted when
//! somebody asks.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::{NAME, Scheduler};

/// What an attempt came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Scheduled,
    Unschedulable,
    Error,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Attempt {
    profile: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Tries {
    attempts: String,
}

/// The families. All clones are the same ones.
#[derive(Clone)]
pub struct Metrics(Arc<Families>);

struct Families {
    attempts: Family<Attempt, Counter>,
    attempt_seconds: Family<Attempt, Histogram>,
    algorithm_seconds: Histogram,
    since_seen_seconds: Family<Tries, Histogram>,
    tries: Histogram,
    preemptions: Counter,
    victims: Histogram,
    now: Now,
}

/// The scheduler of this term, if there is one.
#[derive(Clone, Default)]
struct Now(Arc<Mutex<Weak<Scheduler>>>);

impl Metrics {
    #[must_use]
    pub fn new(registry: &mut Registry) -> Metrics {
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 15));
        let long_seconds = || Histogram::new(exponential_buckets(0.01, 2.0, 20));
        let families = Families {
            attempts: Family::default(),
            attempt_seconds: Family::new_with_constructor(seconds),
            algorithm_seconds: seconds(),
            since_seen_seconds: Family::new_with_constructor(long_seconds),
            tries: Histogram::new(exponential_buckets(1.0, 2.0, 5)),
            preemptions: Counter::default(),
            victims: Histogram::new(exponential_buckets(1.0, 2.0, 7)),
            now: Now::default(),
        };
        registry.register(
            "scheduler_schedule_attempts",
            "Attempts to give a pod a node, by what they came to",
            families.attempts.clone(),
        );
        registry.register(
            "scheduler_scheduling_attempt_duration_seconds",
            "How long an attempt took, with its binding",
            families.attempt_seconds.clone(),
        );
        registry.register(
            "scheduler_scheduling_algorithm_duration_seconds",
            "How long it took to decide",
            families.algorithm_seconds.clone(),
        );
        registry.register(
            "scheduler_pod_scheduling_sli_duration_seconds",
            "How long it took from when a pod was first seen until it had a node",
            families.since_seen_seconds.clone(),
        );
        registry.register(
            "scheduler_pod_scheduling_attempts",
            "Attempts that it took to give a pod a node",
            families.tries.clone(),
        );
        registry.register(
            "scheduler_preemption_attempts",
            "Attempts to make room for a pod",
            families.preemptions.clone(),
        );
        registry.register(
            "scheduler_preemption_victims",
            "Pods that had to go, each time that room was made",
            families.victims.clone(),
        );
        registry.register_collector(Box::new(families.now.clone()));
        Metrics(Arc::new(families))
    }

    /// From here on it is this scheduler's pods that are counted.
    pub(super) fn follow(&self, scheduler: &Arc<Scheduler>) {
        *self.0.now.0.lock() = Arc::downgrade(scheduler);
    }

    pub(super) fn decided(&self, took: Duration) {
        self.0.algorithm_seconds.observe(took.as_secs_f64());
    }

    pub(super) fn attempted(&self, outcome: Outcome, took: Duration) {
        let result = match outcome {
            Outcome::Scheduled => "scheduled",
            Outcome::Unschedulable => "unschedulable",
            Outcome::Error => "error",
        };
        let row = Attempt { profile: NAME, result };
        self.0.attempts.get_or_create(&row).inc();
        self.0.attempt_seconds.get_or_create(&row).observe(took.as_secs_f64());
    }

    /// A pod has a node, after so many attempts.
    pub(super) fn scheduled(&self, attempts: u32, since_seen: Duration) {
        self.0.tries.observe(f64::from(attempts));
        // As upstream: what took very many attempts is one row.
        let row = if attempts >= 15 { "15+".to_owned() } else { attempts.to_string() };
        let row = self.0.since_seen_seconds.get_or_create_owned(&Tries { attempts: row });
        row.observe(since_seen.as_secs_f64());
    }

    /// Room was asked for; so many pods have to go for it.
    pub(super) fn preempted(&self, victims: Option<usize>) {
        self.0.preemptions.inc();
        if let Some(victims) = victims {
            self.0.victims.observe(f64::from(u32::try_from(victims).unwrap_or(u32::MAX)));
        }
    }
}

impl fmt::Debug for Now {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Now")
    }
}

impl Collector for Now {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(scheduler) = self.0.lock().upgrade() else { return Ok(()) };
        let waiting = scheduler.waiting.counts();
        let known = scheduler.cluster.lock().counts();
        drop(scheduler);
        let mut gauges = |name: &str, help: &str, label: &'static str, rows: &[(&str, usize)]| {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (row, value) in rows {
                let value = ConstGauge::new(i64::try_from(*value).unwrap_or(i64::MAX));
                value.encode(family.encode_family(&[(label, *row)])?)?;
            }
            Ok(())
        };
        gauges(
            "scheduler_pending_pods",
            "Pods without a node, by what they wait for",
            "queue",
            &[
                ("active", waiting.active),
                ("backoff", waiting.backing_off),
                ("unschedulable", waiting.unfit),
            ],
        )?;
        gauges(
            "scheduler_cache_size",
            "What the scheduler's picture of the cluster holds",
            "type",
            &[("nodes", known.nodes), ("pods", known.pods), ("assumed_pods", known.assumed)],
        )
    }
}
