//! What this front counts, and what it shows of the store and the replica, under etcd's names where the
//! meaning is the same. `docs/metrics-etcd.md` lists them.
//!
//! Keeps: the number of series is bounded by the services' own methods; nothing a client says becomes a
//! label.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kontiki_raft::replica::Role;

use super::VERSION;
use super::calls::Calls;
use super::front::Front;

#[derive(Clone, Default)]
pub(crate) struct Count(Arc<AtomicU64>);

impl Count {
    pub(crate) fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A change that was agreed on.
#[derive(Clone, Copy)]
pub(crate) enum Write {
    Put,
    Delete,
    Transaction,
}

#[derive(Default)]
pub(crate) struct Metrics {
    pub(crate) ranges: Count,
    puts: Count,
    deletes: Count,
    transactions: Count,
    watch_streams: Count,
    pub(crate) health_good: Count,
    pub(crate) health_bad: Count,
    pub(crate) calls: Calls,
}

/// Counts a stream for as long as it lives.
pub(crate) struct StreamCount(Count);

impl Drop for StreamCount {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metrics {
    pub(crate) fn count(&self, write: Write) {
        match write {
            Write::Put => self.puts.inc(),
            Write::Delete => self.deletes.inc(),
            Write::Transaction => self.transactions.inc(),
        }
    }

    pub(crate) fn watch_stream(&self) -> StreamCount {
        self.watch_streams.inc();
        StreamCount(self.watch_streams.clone())
    }
}

/// The page a Prometheus server reads.
pub(crate) fn page(front: &Front) -> String {
    let mut page = Page(String::with_capacity(16 << 10));
    let metrics = front.metrics();
    replica(&mut page, front);
    store(&mut page, front);
    let counters = [
        ("etcd_mvcc_range_total", "ranges that were read", metrics.ranges.get()),
        ("etcd_mvcc_put_total", "puts that were agreed on", metrics.puts.get()),
        ("etcd_mvcc_delete_total", "deletes that were agreed on", metrics.deletes.get()),
        ("etcd_mvcc_txn_total", "transactions that were answered", metrics.transactions.get()),
        ("etcd_server_health_success", "health checks that passed", metrics.health_good.get()),
        ("etcd_server_health_failures", "health checks that failed", metrics.health_bad.get()),
    ];
    for (name, help, value) in counters {
        page.one("counter", name, help, value);
    }
    let streams = metrics.watch_streams.get();
    page.one("gauge", "etcd_debugging_mvcc_watch_stream_total", "streams of watches", streams);
    metrics.calls.write(&mut page.0);
    page.0
}

fn replica(page: &mut Page, front: &Front) {
    let now = front.replica().status().borrow().clone();
    let leads = now.role == Role::Leader;
    let gauges = [
        ("etcd_server_has_leader", "1 if a leader is known", u64::from(now.leader.is_some())),
        ("etcd_server_is_leader", "1 if this member leads", u64::from(leads)),
        ("etcd_server_is_learner", "1 for a learner", u64::from(now.role == Role::Learner)),
        ("etcd_server_proposals_committed_total", "newest entry agreed on", now.committed.0),
        ("etcd_server_proposals_applied_total", "newest entry applied", now.applied.0),
        ("kontiki_raft_term", "the term", now.term),
        ("kontiki_raft_durable_index", "newest entry durable in the store", now.durable.0),
        ("kontiki_raft_purged_index", "newest entry gone from the log", now.purged.0),
    ];
    for (name, help, value) in gauges {
        page.one("gauge", name, help, value);
    }
    let id = format!("server_id=\"{}\"", front.replica().id());
    page.labelled("gauge", "etcd_server_id", "this member", &id, 1);
    let version = format!("server_version=\"{VERSION}\"");
    page.labelled("gauge", "etcd_server_version", "the level that is served", &version, 1);
}

fn store(page: &mut Page, front: &Front) {
    let store = front.replica().store();
    let (size, watch) = (store.size(), store.hub().stats());
    let quota = front.config().quota_bytes.unwrap_or(0);
    let damaged = u64::from(front.replica().damage().is_some());
    let gauges = [
        ("etcd_mvcc_db_total_size_in_bytes", "bytes of the store", size.disk + size.memory),
        ("etcd_mvcc_db_total_size_in_use_in_bytes", "the same", size.disk + size.memory),
        ("etcd_server_quota_backend_bytes", "the quota; 0 for none", quota),
        ("etcd_debugging_mvcc_current_revision", "the revision", store.revision().0),
        ("etcd_debugging_mvcc_compact_revision", "oldest revision kept", store.compacted().0),
        ("etcd_debugging_mvcc_watcher_total", "watchers", watch.watchers as u64),
        ("etcd_debugging_mvcc_slow_watcher_total", "watchers behind", watch.lagging as u64),
        ("kontiki_watch_ring_bytes", "memory for recent events", watch.ring_bytes as u64),
        ("kontiki_store_damaged", "1 if damage was met in this member's copy", damaged),
        ("kontiki_store_unsynced_bytes", "bytes not yet durable here", size.unsynced),
    ];
    for (name, help, value) in gauges {
        page.one("gauge", name, help, value);
    }
    if let Ok(control) = front.control(&store.view()) {
        let revision = control.auth_revision();
        page.one("gauge", "etcd_debugging_auth_revision", "the auth revision", revision);
    }
}

struct Page(String);

impl Page {
    fn one(&mut self, kind: &str, name: &str, help: &str, value: u64) {
        head(&mut self.0, kind, name, help);
        writeln!(self.0, "{name} {value}").expect("a string takes everything");
    }

    fn labelled(&mut self, kind: &str, name: &str, help: &str, labels: &str, value: u64) {
        head(&mut self.0, kind, name, help);
        writeln!(self.0, "{name}{{{labels}}} {value}").expect("a string takes everything");
    }
}

pub(crate) fn head(page: &mut String, kind: &str, name: &str, help: &str) {
    writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}")
        .expect("a string takes everything");
}
