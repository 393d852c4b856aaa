//! What the proxy tells of itself, under upstream's names where upstream has one.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// All clones are the same.
#[derive(Clone, Debug)]
pub struct Metrics {
    sync_seconds: Histogram,
    failures: Counter,
    services: Gauge<u64, AtomicU64>,
    chains: Gauge<u64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics {
            sync_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            failures: Counter::default(),
            services: Gauge::default(),
            chains: Gauge::default(),
        }
    }
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "kubeproxy_sync_proxy_rules_duration_seconds",
            "Time from a view of the cluster to rules in the kernel",
            self.sync_seconds.clone(),
        );
        registry.register(
            "kubeproxy_sync_proxy_rules_nftables_sync_failures",
            "Changes of the rules that the kernel has refused",
            self.failures.clone(),
        );
        registry.register(
            "kontiki_proxy_services",
            "Services that there are rules for, or were looked at for them",
            self.services.clone(),
        );
        registry.register(
            "kontiki_proxy_chains",
            "Chains of rules in the kernel",
            self.chains.clone(),
        );
    }

    pub(super) fn synced(&self, took: Duration, services: usize, chains: usize) {
        self.sync_seconds.observe(took.as_secs_f64());
        self.services.set(services as u64);
        self.chains.set(chains as u64);
    }

    pub(super) fn failed(&self) {
        self.failures.inc();
    }
}
