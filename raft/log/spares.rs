//! Keeps the next segment ready and removes those that are not needed any more.
//!
//! Keeps: the flusher finds a segment prepared when it needs one, so that neither reserving space
//! nor writing zeros delays a group; want of space shows here, before any write fails.
//! At the bound: one spare. Without space it is tried again every [`RETRY_AFTER`], or at the next
//! group when there is no thread; `Log::room` tells what is left meanwhile.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::disk::{Disk, File};
use super::error::Doing;
use super::files::prepare_spare;
use super::metrics::Metrics;
use super::segment::segment_name;

const RETRY_AFTER: Duration = Duration::from_secs(1);
/// What a member writes when it starts has the disk to itself: zeros for a segment that is needed much later
/// held up its first syncs by a tenth of a second.
const FIRST_AFTER: Duration = Duration::from_secs(1);

pub(super) struct Spares {
    disk: Arc<dyn Disk>,
    segment_bytes: u64,
    written_ahead: bool,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    spare: Option<Arc<dyn File>>,
    wanted: bool,
    /// Somebody is preparing one; there is only one name for it.
    preparing: bool,
    out_of_space: bool,
    remove: Vec<u64>,
    stopping: bool,
}

pub(super) fn is_want_of_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl Spares {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        segment_bytes: u64,
        written_ahead: bool,
        metrics: Arc<Metrics>,
    ) -> Spares {
        Spares {
            disk,
            segment_bytes,
            written_ahead,
            metrics,
            state: Mutex::new(State { wanted: true, ..State::default() }),
            changed: Condvar::new(),
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.state.lock().spare.is_some()
    }

    /// The spare, prepared now if it has to be. The next one is made only when it is asked for,
    /// because until this one is renamed it has the name.
    pub(super) fn take(&self) -> io::Result<Arc<dyn File>> {
        let mut state = self.state.lock();
        loop {
            if let Some(spare) = state.spare.take() {
                assert!(!state.wanted, "a spare was wanted although there was one");
                return Ok(spare);
            }
            if !state.preparing {
                state.wanted = false;
                state.preparing = true;
                drop(state);
                let made = prepare_spare(&*self.disk, self.segment_bytes, self.written_ahead);
                self.state.lock().preparing = false;
                return made;
            }
            self.changed.wait(&mut state);
        }
    }

    /// Asks for a spare. Only when the one that was taken has been renamed.
    pub(super) fn want(&self) {
        self.state.lock().wanted = true;
        self.changed.notify_all();
    }

    /// Asks for the removal of segments nobody needs.
    pub(super) fn remove(&self, sequences: Vec<u64>) {
        self.state.lock().remove.extend(sequences);
        self.changed.notify_all();
    }

    pub(super) fn stop(&self) {
        self.state.lock().stopping = true;
        self.changed.notify_all();
    }

    /// Does what there is to do, once. Fails only for what is final.
    pub(super) fn work(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        let remove = std::mem::take(&mut state.remove);
        let prepare = state.wanted && state.spare.is_none() && !state.preparing;
        state.preparing |= prepare;
        drop(state);
        for sequence in &remove {
            let name = segment_name(*sequence);
            self.disk.remove(&name).doing("remove", &name)?;
            self.metrics.segments_removed.fetch_add(1, Ordering::Relaxed);
        }
        if !prepare {
            return Ok(());
        }
        let made = prepare_spare(&*self.disk, self.segment_bytes, self.written_ahead);
        let mut state = self.state.lock();
        state.preparing = false;
        self.changed.notify_all();
        match made {
            Ok(spare) => {
                state.spare = Some(spare);
                (state.wanted, state.out_of_space) = (false, false);
                Ok(())
            }
            Err(error) if is_want_of_space(&error) => {
                if !state.out_of_space {
                    tracing::warn!(%error, "no space for the log's next segment");
                }
                state.out_of_space = true;
                self.metrics.prepare_failures.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// A thread's life: works until told to stop, or until something is final.
    pub(super) fn run(&self) -> io::Result<()> {
        let idle = |state: &mut State| !state.stopping && state.remove.is_empty();
        self.changed.wait_while_for(&mut self.state.lock(), idle, FIRST_AFTER);
        loop {
            let mut state = self.state.lock();
            loop {
                if state.stopping {
                    return Ok(());
                }
                let wanted = state.wanted && state.spare.is_none() && !state.preparing;
                if !state.remove.is_empty() || (wanted && !state.out_of_space) {
                    break;
                }
                if wanted {
                    // Out of space: look again after a while.
                    if self.changed.wait_for(&mut state, RETRY_AFTER).timed_out() {
                        break;
                    }
                } else {
                    self.changed.wait(&mut state);
                }
            }
            drop(state);
            self.work()?;
        }
    }
}
