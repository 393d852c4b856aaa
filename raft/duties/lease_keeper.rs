//! Counts down leases, on the leader only, and ends those that have run out through the log.
//!
//! What a lease holds is in the store; when it ends is known here alone, in monotonic time. A new leader
//! counts from what was last written down of the remaining time ([`Command::LeaseCheckpoint`]), else
//! from the full time: later than the client thinks, never earlier.
//!
//! Keeps: a keep-alive is answered only by a member that has proved, after the question was put, that it
//! leads; and only after a shorter remaining time that was written down, or was on its way there, has been
//! overwritten. Verdicts carry the term in which they were reached and hold in no other. A lease whose end
//! may have been agreed on is not renewed before that is known.
//! Never: ends more than [`EXPIRED_PER_COMMAND_MAX`] leases by one command, so that thousands that run
//! out together leave room for other writes in between.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use kontiki_storage::LeaseId;
use kontiki_storage::lease::{Lease, LeaseChange, Update};
use kontiki_storage::request::Command;
use parking_lot::Mutex;
use tokio::sync::{RwLock, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::read;
use crate::replica::Inner;

/// Most leases that one command ends.
pub(crate) const EXPIRED_PER_COMMAND_MAX: usize = 500;

/// Most leases in one checkpoint.
const CHECKPOINTED_PER_COMMAND_MAX: usize = 1000;

/// Leases shorter than this many checkpoint intervals are not written down: they would run out, or be
/// renewed, before it could matter.
const CHECKPOINT_INTERVALS_MIN: u32 = 2;

/// Pause between two commands that end leases, for other writes to pass.
const EXPIRY_PAUSE: Duration = Duration::from_millis(5);

/// Pause before what was not agreed on is proposed again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// The leader's view of every lease, and of no use on anyone else.
pub(crate) struct Leases {
    book: Mutex<Book>,
    /// The term for which the book is complete; 0 while this member does not lead.
    primed: watch::Sender<u64>,
    /// Counts the commands that ended leases, for those who wait for the fate of one.
    ended: watch::Sender<u64>,
    /// Held alone while shorter times are on their way into the log, and shared by those who overwrite
    /// one: so what overwrites comes after what it overwrites.
    writing: RwLock<()>,
}

#[derive(Default)]
struct Book {
    deadlines: HashMap<LeaseId, Deadline>,
    /// The same, by time.
    queue: BTreeSet<(Instant, LeaseId)>,
    /// On the way to their end: a command that ends them is proposed and not answered yet.
    ending: BTreeSet<LeaseId>,
    /// Less than their full time is written down, or may be about to be.
    shortened: HashSet<LeaseId>,
}

#[derive(Clone, Copy)]
struct Deadline {
    at: Instant,
    ttl: Duration,
}

impl Book {
    fn set(&mut self, id: LeaseId, at: Instant, ttl: Duration) {
        if let Some(old) = self.deadlines.insert(id, Deadline { at, ttl }) {
            self.queue.remove(&(old.at, id));
        }
        self.queue.insert((at, id));
    }

    fn forget(&mut self, id: LeaseId) {
        if let Some(old) = self.deadlines.remove(&id) {
            self.queue.remove(&(old.at, id));
        }
        self.ending.remove(&id);
        self.shortened.remove(&id);
    }

    /// Up to `max` that have run out, marked as ending.
    fn run_out(&mut self, now: Instant, max: usize) -> Vec<LeaseId> {
        let due: Vec<(Instant, LeaseId)> =
            self.queue.iter().take_while(|(at, _)| *at <= now).take(max).copied().collect();
        for entry in &due {
            self.queue.remove(entry);
            self.ending.insert(entry.1);
        }
        due.into_iter().map(|(_, id)| id).collect()
    }

    /// Long leases of which so much time has passed that it is worth writing down.
    fn worn(&self, now: Instant, interval: Duration) -> Vec<LeaseId> {
        let worn = |id: &&LeaseId| self.is_worn(**id, now, interval).is_some();
        let mut worn: Vec<LeaseId> = self.deadlines.keys().filter(worn).copied().collect();
        // What stands in the log follows from what happened, and not from how a table is laid out.
        worn.sort_unstable();
        worn
    }

    /// What is left of a lease, if that is worth writing down.
    fn is_worn(&self, id: LeaseId, now: Instant, interval: Duration) -> Option<Duration> {
        let it = self.deadlines.get(&id)?;
        let left = it.at.saturating_duration_since(now);
        let long = it.ttl >= interval * CHECKPOINT_INTERVALS_MIN;
        // What was renewed within the interval is as good as new.
        (long && left + interval <= it.ttl && !self.ending.contains(&id)).then_some(left)
    }

    /// What to write down of those of `ids` that are still worn; marked as shortened from now on.
    fn shorten(
        &mut self,
        ids: &[LeaseId],
        now: Instant,
        interval: Duration,
    ) -> Vec<(LeaseId, u64)> {
        let worn = |id: &LeaseId| Some((*id, self.is_worn(*id, now, interval)?.as_millis() as u64));
        let remaining: Vec<(LeaseId, u64)> = ids.iter().filter_map(worn).collect();
        self.shortened.extend(remaining.iter().map(|(id, _)| *id));
        remaining
    }

    /// Puts back those whose end was not agreed on.
    fn put_back(&mut self, ids: &[LeaseId]) {
        for id in ids {
            if self.ending.remove(id)
                && let Some(deadline) = self.deadlines.get(id)
            {
                self.queue.insert((deadline.at, *id));
            }
        }
    }
}

impl Default for Leases {
    fn default() -> Leases {
        Leases {
            book: Mutex::default(),
            primed: watch::Sender::new(0),
            ended: watch::Sender::new(0),
            writing: RwLock::new(()),
        }
    }
}

impl Leases {
    /// Renews a lease for its full time; `None` where there is no such lease. On the leader only.
    pub(crate) async fn keep_alive(
        &self,
        replica: &Arc<Inner>,
        id: LeaseId,
    ) -> Result<Option<i64>, Error> {
        let term = self.prove(replica).await?;
        loop {
            let mut ended = self.ended.subscribe();
            let Some(lease) = replica.store().lease(id)? else {
                return Ok(None);
            };
            let ttl = seconds(lease.ttl_s);
            let ending = {
                let mut book = self.book.lock();
                if *self.primed.borrow() != term {
                    return Err(replica.no_leader());
                }
                let ending = book.ending.contains(&id);
                if !ending {
                    book.set(id, Instant::now() + ttl, ttl);
                    if !book.shortened.contains(&id) && !is_shortened(&lease) {
                        return Ok(Some(lease.ttl_s));
                    }
                }
                ending
            };
            if ending {
                // Its end is proposed already. What comes of that decides.
                self.wait_for_verdict(replica, &mut ended).await?;
            } else {
                self.lengthen(replica, term, &lease).await?;
            }
        }
    }

    /// Overwrites a shorter time that is, or may be, written down: the next leader would go by it.
    async fn lengthen(&self, replica: &Arc<Inner>, term: u64, lease: &Lease) -> Result<(), Error> {
        let _after_shortening = self.writing.read().await;
        let remaining_ms = vec![(lease.id, lease.ttl_s.max(0) as u64 * 1000)];
        replica.propose(Command::LeaseCheckpoint { remaining_ms, term }).await?;
        let overwritten =
            replica.store().lease(lease.id)?.is_none_or(|lease| !is_shortened(&lease));
        let mut book = self.book.lock();
        if replica.term() != term || *self.primed.borrow() != term || !overwritten {
            // The fence kept it out. Whoever leads now is to be asked.
            return Err(replica.no_leader());
        }
        book.shortened.remove(&lease.id);
        Ok(())
    }

    async fn wait_for_verdict(
        &self,
        replica: &Inner,
        ended: &mut watch::Receiver<u64>,
    ) -> Result<(), Error> {
        match tokio::time::timeout(replica.config.request_timeout(), ended.changed()).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Error::Unknown("whether the lease has ended is not agreed on".into())),
        }
    }

    /// Seconds granted and seconds left; `None` where there is no such lease. On the leader only.
    pub(crate) async fn time_to_live(
        &self,
        replica: &Arc<Inner>,
        id: LeaseId,
    ) -> Result<Option<(i64, i64)>, Error> {
        self.prove(replica).await?;
        let Some(lease) = replica.store().lease(id)? else {
            return Ok(None);
        };
        let left = match self.book.lock().deadlines.get(&id) {
            Some(deadline) => deadline.at.saturating_duration_since(Instant::now()),
            // Granted a moment ago; the keeper has not entered it yet.
            None => seconds(lease.ttl_s),
        };
        Ok(Some((lease.ttl_s, left.as_secs() as i64)))
    }

    /// Proves that this member leads now, waits until it has applied all that was agreed on, and until
    /// the book is complete. Returns the term.
    async fn prove(&self, replica: &Arc<Inner>) -> Result<u64, Error> {
        let term = replica.term();
        let index = read::read_index(replica).await.map_err(|_| replica.no_leader())?;
        let mut primed = self.primed.subscribe();
        let ready = async {
            replica.progress.reached(index).await;
            primed.wait_for(|primed| *primed >= term).await.ok();
        };
        let limit = replica.config.request_timeout();
        if tokio::time::timeout(limit, ready).await.is_err() || *self.primed.borrow() != term {
            return Err(replica.no_leader());
        }
        Ok(term)
    }
}

/// The duty: from taking over in `term` until `stop`.
pub(crate) async fn run(replica: Arc<Inner>, term: u64, stop: CancellationToken) {
    let leases = &replica.leases;
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = keep(&replica, leases, term) => {}
    }
    leases.primed.send_replace(0);
    *leases.book.lock() = Book::default();
    // Whoever waits for a verdict will get none here.
    leases.ended.send_modify(|count| *count += 1);
}

async fn keep(replica: &Arc<Inner>, leases: &Leases, term: u64) {
    // Changes are listened to before the book is written: none falls between.
    let mut changes = replica.store().lease_changes();
    prime(replica, leases, term).await;
    let interval = replica.config.lease_checkpoint_interval;
    let mut checkpoint_at = Instant::now() + interval;
    loop {
        let next = leases.book.lock().queue.first().map(|(at, _)| *at);
        let due = next.map_or(checkpoint_at, |at| at.min(checkpoint_at));
        if let Ok(update) = tokio::time::timeout_at(due, changes.next()).await {
            match update {
                Some(Update::Changes(changes)) => enter(leases, &changes),
                Some(Update::Reload) => reload(replica, leases),
                None => return,
            }
        }
        // Looked at after every change, too: many of them must not keep a lease alive.
        if Instant::now() >= due {
            expire(replica, leases, term).await;
            if Instant::now() >= checkpoint_at {
                checkpoint(replica, leases, term, interval).await;
                checkpoint_at = Instant::now() + interval;
            }
        }
    }
}

/// Writes the book from the store, once everything of earlier terms is applied.
async fn prime(replica: &Arc<Inner>, leases: &Leases, term: u64) {
    while let Err(reason) = settle(replica).await {
        tracing::debug!(%reason, "leases wait until this leader is confirmed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    *leases.book.lock() = Book::default();
    reload(replica, leases);
    leases.primed.send_replace(term);
}

/// Enters every lease that is not in the book, and strikes out those that are gone.
fn reload(replica: &Inner, leases: &Leases) {
    let present = match replica.store().leases() {
        Ok(present) => present,
        Err(error) => {
            replica.snapshots.doubt(&error);
            return replica.fail(format!("leases cannot be read: {error}"));
        }
    };
    let now = Instant::now();
    let mut book = leases.book.lock();
    let gone: Vec<LeaseId> = {
        let present: HashSet<LeaseId> = present.iter().map(|lease| lease.id).collect();
        book.deadlines.keys().filter(|id| !present.contains(id)).copied().collect()
    };
    gone.into_iter().for_each(|id| book.forget(id));
    for lease in present {
        if !book.deadlines.contains_key(&lease.id) {
            let ttl = seconds(lease.ttl_s);
            let left = lease.remaining_ms.map_or(ttl, |ms| Duration::from_millis(ms).min(ttl));
            book.set(lease.id, now + left, ttl);
            if is_shortened(&lease) {
                book.shortened.insert(lease.id);
            }
        }
    }
}

async fn settle(replica: &Arc<Inner>) -> Result<(), String> {
    let index = read::read_index(replica).await?;
    replica.progress.reached(index).await;
    Ok(())
}

fn enter(leases: &Leases, changes: &[LeaseChange]) {
    let mut book = leases.book.lock();
    for change in changes {
        match change {
            // Renewed already by someone who was quicker than this list, it keeps its later deadline.
            LeaseChange::Granted { id, ttl_s } if !book.deadlines.contains_key(id) => {
                let ttl = seconds(*ttl_s);
                book.set(*id, Instant::now() + ttl, ttl);
            }
            LeaseChange::Revoked { id } => book.forget(*id),
            LeaseChange::Granted { .. } | LeaseChange::Checkpointed { .. } => {}
        }
    }
}

/// Ends what has run out, some at a time.
async fn expire(replica: &Arc<Inner>, leases: &Leases, term: u64) {
    loop {
        let ids = leases.book.lock().run_out(Instant::now(), EXPIRED_PER_COMMAND_MAX);
        if ids.is_empty() {
            return;
        }
        let result = end(replica, &ids, term).await;
        {
            let mut book = leases.book.lock();
            for id in &ids {
                if matches!(replica.store().lease(*id), Ok(None)) {
                    book.forget(*id);
                }
            }
            book.put_back(&ids);
        }
        leases.ended.send_modify(|count| *count += 1);
        if let Err(error) = result {
            tracing::debug!(%error, leases = ids.len(), "ending leases is tried again");
            tokio::time::sleep(RETRY_PAUSE).await;
            return;
        }
        tokio::time::sleep(EXPIRY_PAUSE).await;
    }
}

/// Has the end of leases agreed on, until that is known to have come about or not. Proposals of one
/// leader stand in the log in their order: once a later one is answered, nothing is open about an earlier.
async fn end(replica: &Arc<Inner>, ids: &[LeaseId], term: u64) -> Result<(), Error> {
    loop {
        match replica.propose(Command::LeaseExpire { ids: ids.to_vec(), term }).await {
            Err(Error::Unknown(reason)) => {
                tracing::debug!(reason, leases = ids.len(), "whether leases ended is not known");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            known => return known.map(|_| ()),
        }
    }
}

/// Writes down what is left of long leases, some at a time.
async fn checkpoint(replica: &Arc<Inner>, leases: &Leases, term: u64, interval: Duration) {
    let worn = leases.book.lock().worn(Instant::now(), interval);
    for ids in worn.chunks(CHECKPOINTED_PER_COMMAND_MAX) {
        let shortening = leases.writing.write().await;
        let remaining_ms = leases.book.lock().shorten(ids, Instant::now(), interval);
        if remaining_ms.is_empty() {
            continue;
        }
        let result = replica.propose(Command::LeaseCheckpoint { remaining_ms, term }).await;
        drop(shortening);
        if let Err(error) = result {
            tracing::debug!(%error, "what is left of leases is not written down");
            return;
        }
        tokio::time::sleep(EXPIRY_PAUSE).await;
    }
}

/// Whether less than the full time is written down of a lease.
fn is_shortened(lease: &Lease) -> bool {
    lease.remaining_ms.is_some_and(|ms| Duration::from_millis(ms) < seconds(lease.ttl_s))
}

fn seconds(ttl_s: i64) -> Duration {
    Duration::from_secs(ttl_s.max(0) as u64)
}
