//! Forgets history that is older than any client may rely on.
//!
//! Keeps: a revision can be read and watched from for at least `every`, and is forgotten after twice that,
//! also where nobody writes: tokens of lists end then, as clients of upstream know it. For that it writes a key
//! each time, as upstream's compactor does: what was listed before is older than that.
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
            if !self.leads() {
                before = self.objects.revision();
                continue;
            }
            if before > Revision::EMPTY {
                match self.objects.compact(before).await {
                    Ok(()) => tracing::debug!(revision = %before, "history is forgotten"),
                    Err(error) => tracing::warn!(%error, "history cannot be forgotten now"),
                }
            }
            before = match self.objects.go_on().await {
                Ok(revision) => revision,
                Err(error) => {
                    tracing::warn!(%error, "history cannot go on now");
                    self.objects.revision()
                }
            };
        }
    }

    fn leads(&self) -> bool {
        let replica = self.objects.replica();
        replica.status().borrow().leader == Some(replica.id())
    }
}

#[cfg(test)]
mod tests {
    use kontiki_storage::revision::Revision;
    use serde_json::json;

    use super::*;
    use crate::kinds::kind::Stored;
    use crate::sandbox::Sandbox;

    async fn until(compaction: &Compaction, enough: impl Fn(Revision) -> bool) {
        let forgotten = async {
            while !enough(compaction.objects.replica().store().compacted()) {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = compaction.run() => panic!("it goes on"),
            () = forgotten => {}
        }
    }

    #[tokio::test]
    async fn where_nobody_writes_what_was_listed_is_forgotten_as_well() {
        let sandbox = Sandbox::start().await;
        let objects = sandbox.server.road().objects().clone();
        let listed = objects.revision();
        let compaction = Compaction::new(objects).every(Duration::from_millis(5));
        until(&compaction, |compacted| compacted > listed).await;
    }

    #[tokio::test]
    async fn what_is_old_enough_is_forgotten() {
        let sandbox = Sandbox::start().await;
        let objects = sandbox.server.road().objects().clone();
        let of = Stored {
            group: "".into(),
            resource: "things".into(),
            version: "v1".into(),
            kind: "Thing".into(),
        };
        let value = json!({"kind": "Thing", "apiVersion": "v1", "metadata": {"name": "a"}});
        let one = objects.put(&of, "", "a", &value, Revision::ZERO).await.unwrap();
        let compaction = Compaction::new(objects.clone()).every(Duration::from_millis(5));
        until(&compaction, |compacted| compacted >= one.revision()).await;
    }
}
