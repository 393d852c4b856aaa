//! Leases and locks.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio::time::sleep;

use super::{Ground, Workload};
use crate::client::Client;
use crate::history::{Ask, LeaseAsk, LeaseOutcome, Step};

const TTL_S: std::ops::RangeInclusive<i64> = 2..=6;
const LOCKS: u64 = 2;

async fn granted(ground: &Ground, client: &mut Client) -> Option<(i64, i64)> {
    let lease = i64::try_from(ground.next()).ok()? + 1_000_000;
    let ttl_s = client.random.random_range(TTL_S);
    match client.lease(lease, LeaseAsk::Grant { ttl_s }).await {
        LeaseOutcome::Done { ttl_s } => Some((lease, ttl_s)),
        _ => None,
    }
}

/// A lease with two keys, renewed a few times, then revoked or left to end.
pub async fn leases(ground: Arc<Ground>, mut client: Client) -> Option<String> {
    while !ground.stopped() {
        let Some((lease, ttl_s)) = granted(&ground, &mut client).await else {
            ground.rest(&mut client).await;
            continue;
        };
        for name in ["a", "b"] {
            let value = format!("l{}", ground.next());
            let step = Step::Put { key: format!("t/l/{lease}/{name}"), value, lease };
            client.ask(Workload::Lease.name(), Ask { then: vec![step], ..Ask::default() }).await;
        }
        for _ in 0..client.random.random_range(0..5) {
            sleep(Duration::from_millis(ttl_s.unsigned_abs() * 400)).await;
            client.lease(lease, LeaseAsk::KeepAlive).await;
        }
        if client.random.random_bool(0.3) {
            client.lease(lease, LeaseAsk::Revoke).await;
        }
        ground.rest(&mut client).await;
    }
    None
}

/// A lock, held for a while, then given back with its lease or lost with it.
pub async fn locks(ground: Arc<Ground>, mut client: Client) -> Option<String> {
    while !ground.stopped() {
        let Some((lease, ttl_s)) = granted(&ground, &mut client).await else {
            ground.rest(&mut client).await;
            continue;
        };
        let name = format!("t/k/{}", client.random.random_range(0..LOCKS));
        let outcome = client.lease(lease, LeaseAsk::Lock { name }).await;
        if matches!(outcome, LeaseOutcome::Held { .. }) {
            for _ in 0..client.random.random_range(0..3) {
                sleep(Duration::from_millis(ttl_s.unsigned_abs() * 300)).await;
                client.lease(lease, LeaseAsk::KeepAlive).await;
            }
        }
        if client.random.random_bool(0.7) {
            client.lease(lease, LeaseAsk::Revoke).await;
        }
        ground.rest(&mut client).await;
    }
    None
}
