//! Looks for damage at rest: in what nobody may read for months, and in what a read has met.
//!
//! Keeps: slow on purpose, so that others hardly notice: [`PACE`] bytes a second, by one thread. What is found
//! is noted once (`DIR/doubt`) and said (`Replica::damage`).
//! Never: ends a member. A copy of which one block is damaged is better than none, and the others may need
//! it for their quorum; started again, it asks them for a place under a new id.

use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use kontiki_storage::Error;
use tokio::time::Instant;

use crate::replica::Inner;
use crate::runtime::apart;

/// How often it is looked whether a read has met damage.
const LOOK: Duration = Duration::from_secs(5);

/// Of an interval, what passes after the start before the first scrub: the hour in which a master restarts has
/// other work for its disk.
const FIRST: u32 = 24;

/// Bytes a second.
const PACE: u64 = 16 << 20;

pub(crate) async fn run(replica: Arc<Inner>) {
    let interval = replica.config.scrub_interval;
    let mut due = Instant::now() + interval / FIRST;
    let mut known = false;
    loop {
        tokio::select! {
            biased;
            () = tokio::time::sleep(LOOK.min(interval)) => {}
            () = replica.stop.cancelled() => return,
        }
        let damage = replica.store().damage();
        if let Some(error) = damage.as_ref().filter(|_| !known) {
            tracing::error!(
                %error,
                "this member's copy is damaged; started again while the others are up, it comes \
                 back with a whole one"
            );
            replica.snapshots.doubt(error);
        }
        known = damage.is_some();
        if known || Instant::now() < due {
            continue;
        }
        match scrub(&replica).await {
            Ok(bytes) => tracing::info!(bytes, "everything at rest was read"),
            Err(error) => tracing::warn!(%error, "not everything at rest could be read"),
        }
        due = Instant::now() + interval;
    }
}

/// Reads everything, or until this member stops; returns how many bytes that were.
async fn scrub(replica: &Arc<Inner>) -> Result<u64, Error> {
    let store = replica.store().clone();
    let (goes_on, stopped) = mpsc::channel::<()>();
    let mut read = pin!(apart(replica.tasks(), move || {
        let mut bytes = 0;
        store.scrub(&mut |step| {
            bytes += step;
            let pause = Duration::from_secs_f64(step as f64 / PACE as f64);
            match stopped.recv_timeout(pause) {
                Err(RecvTimeoutError::Timeout) => ControlFlow::Continue(()),
                Ok(()) | Err(RecvTimeoutError::Disconnected) => ControlFlow::Break(()),
            }
        })?;
        Ok(bytes)
    }));
    let read = tokio::select! {
        biased;
        read = &mut read => read,
        () = replica.stop.cancelled() => {
            drop(goes_on);
            read.await
        }
    };
    read.unwrap_or_else(|panic| Err(Error::engine("read everything at rest", panic)))
}
