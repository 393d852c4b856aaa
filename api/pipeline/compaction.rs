//! Forgets history that is older than any client may rely on.
//!
//! Keeps: a revision can be read and watched from for at least `every`, and is forgotten after twice that.
//! Every member runs this; a member that does not lead proposes the same or less, which does no harm.

use std::time::Duration;

use kontiki_storage::revision::Revision;
use tokio::time::{MissedTickBehavior, interval};

use crate::objects::Objects;

/// As upstream's API server asks of etcd.
const EVERY: Duration = Duration::from_secs(300);

/// The loop that forgets.
pub struct Compaction {
    objects: Objects,
    every: Duration,
}

impl Compaction {
    #[must_use]
    pub fn new(objects: Objects) -> Compaction {
        Compaction { objects, every: EVERY }
    }

    #[must_use]
    pub fn every(self, every: Duration) -> Compaction {
        Compaction { every, ..self }
    }

    /// Runs as long as it is polled.
    pub async fn run(&self) {
        let mut ticks = interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        let mut before = self.objects.revision();
        loop {
            ticks.tick().await;
            let now = self.objects.revision();
            if self.leads() && before > Revision::EMPTY {
                match self.objects.compact(before).await {
                    Ok(()) => tracing::debug!(revision = %before, "history is forgotten"),
                    Err(error) => tracing::warn!(%error, "history cannot be forgotten now"),
                }
            }
            before = now;
        }
    }

    fn leads(&self) -> bool {
        let replica = self.objects.replica();
        replica.status().borrow().leader == Some(replica.id())
    }
}
