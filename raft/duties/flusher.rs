//! Makes the store durable now and then, and lets the log go up to there.
//!
//! The log makes every write durable; the store only follows, so that a restart need not replay all of
//! it. What is durable there is what openraft is told a "snapshot" holds, and so the log is never purged
//! past it.
//!
//! Keeps: purged <= snapshot <= durable.
//! Never: goes on after a sync that failed. What was lost then nobody knows.

use std::sync::Arc;

use kontiki_storage::revision::Index;

use crate::replica::Inner;
use crate::runtime::apart;

/// Syncs the store by time and by bytes, until the replica stops.
pub(crate) async fn run(replica: Arc<Inner>) {
    loop {
        tokio::select! {
            biased;
            () = tokio::time::sleep(replica.config.flush_interval) => {}
            () = replica.progress.flush_wanted.notified() => {}
            () = replica.stop.cancelled() => return,
        }
        if replica.progress.applied() > replica.progress.durable() && !flush(&replica).await {
            return;
        }
        bound_log(&replica).await;
        replica.snapshots.retire();
        replica.observe_space();
    }
}

/// Makes durable what is applied; false when the replica has to stop because that failed.
pub(crate) async fn flush(replica: &Arc<Inner>) -> bool {
    let _alone = replica.flushing.lock().await;
    replica.progress.note_flush_begins();
    let store = replica.store().clone();
    let synced = apart(replica.tasks(), move || store.sync()).await;
    match synced {
        Ok(Ok((index, _mark))) => {
            replica.progress.note_durable(index);
            // openraft asks the state machine for its snapshot, is told what is durable, and purges
            // what is more than `log_entries_kept` behind that.
            if let Err(fatal) = replica.raft().trigger().snapshot().await {
                replica.note_fatal(&fatal);
            }
            true
        }
        Ok(Err(error)) => {
            replica.snapshots.doubt(&error);
            replica.fail(format!("the store cannot be made durable: {error}"));
            false
        }
        Err(panic) => {
            replica.fail(format!("making the store durable broke off: {panic}"));
            false
        }
    }
}

/// Entries can be large: where those that are kept take more than their share of the disk, fewer are.
async fn bound_log(replica: &Arc<Inner>) {
    let (first, last, bytes) = replica.log_extent();
    if bytes <= replica.config.log_bytes_kept_max || last.0 <= first.0 {
        return;
    }
    let entries = last.0 - first.0;
    let kept = (u128::from(entries) * u128::from(replica.config.log_bytes_kept_max)
        / u128::from(bytes)) as u64;
    let upto = Index(last.0 - kept).min(replica.progress.durable());
    if upto.0 > 0
        && let Err(fatal) = replica.raft().trigger().purge_log(upto.0 - 1).await
    {
        replica.note_fatal(&fatal);
    }
}
