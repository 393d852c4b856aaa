//! Leases for objects that go by themselves (events).
//!
//! One lease serves all objects that are written within a while, so that thousands of events do not make
//! thousands of leases. An object lives at least as long as asked, and at most that while longer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kontiki_raft::Replica;
use kontiki_storage::LeaseId;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::proposed;
use crate::error::Status;

/// How long a lease takes new objects.
const REUSED_FOR: Duration = Duration::from_secs(300);
/// Objects on one lease: it is revoked in one commit.
const OBJECTS_MAX: u32 = 1000;

#[derive(Clone, Default)]
pub struct Expiry(Arc<Mutex<BTreeMap<i64, Current>>>);

struct Current {
    lease: LeaseId,
    until: Instant,
    objects: u32,
}

impl Expiry {
    /// A lease that runs out no sooner than in `ttl_seconds`. Who asks while one is being granted waits.
    pub(super) async fn lease(
        &self,
        replica: &Replica,
        ttl_seconds: i64,
    ) -> Result<LeaseId, Status> {
        let mut current = self.0.lock().await;
        let now = Instant::now();
        if let Some(current) = current.get_mut(&ttl_seconds)
            && now < current.until
            && current.objects < OBJECTS_MAX
        {
            current.objects += 1;
            return Ok(current.lease);
        }
        let ttl = ttl_seconds.saturating_add(REUSED_FOR.as_secs() as i64);
        let granted = replica.lease_grant(None, ttl).await.map_err(proposed)?;
        let lease = granted.id;
        current.insert(ttl_seconds, Current { lease, until: now + REUSED_FOR, objects: 1 });
        Ok(lease)
    }

    /// The store does not know the lease any more.
    pub(super) async fn forget(&self) {
        self.0.lock().await.clear();
    }
}
