//! Replaces certificates while the master runs, long before they end.
//!
//! Keeps: looks at the calendar at least every hour, so a clock that is put right, or a machine that
//! slept, delays nothing. A failure is told and tried again; the certificates in use stay in use.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

use super::material::Material;

const LOOK_EVERY_MAX: Duration = Duration::from_secs(3600);
const LOOK_EVERY_MIN: Duration = Duration::from_millis(500);
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// The calendar, which certificates are bound to. Nothing else in the binary is.
#[expect(clippy::disallowed_methods, reason = "certificates are good from one date to another")]
pub fn now() -> SystemTime {
    SystemTime::now()
}

pub struct Renewal {
    material: Arc<Material>,
}

impl Renewal {
    pub fn new(material: Arc<Material>) -> Renewal {
        Renewal { material }
    }

    pub async fn run(self, stop: CancellationToken) {
        let mut pause = self.until_due();
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
            // It writes and syncs files: a moment, every few weeks.
            let renewed = tokio::task::block_in_place(|| self.material.renew(now()));
            pause = match renewed {
                Ok(renewed) => {
                    for leaf in renewed {
                        tracing::info!(certificate = leaf.path(), "certificate renewed");
                    }
                    self.until_due()
                }
                Err(error) => {
                    tracing::error!(%error, "certificates are not renewed; tried again soon");
                    TRY_AGAIN_AFTER
                }
            };
        }
    }

    fn until_due(&self) -> Duration {
        let now = now();
        let held = self.material.held();
        let next = held.iter().map(|held| held.renew_at.duration_since(now).unwrap_or_default());
        next.min().unwrap_or(LOOK_EVERY_MAX).clamp(LOOK_EVERY_MIN, LOOK_EVERY_MAX)
    }
}
