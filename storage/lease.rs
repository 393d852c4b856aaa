//! Leases as the store knows them: how long each was granted for, and what was left when last told.
//!
//! A lease here never runs out by itself, for there is no clock in this crate. The leader's lease keeper
//! counts, and says so with a command. [`Changes`] tells it, on every member, which leases came and went,
//! so that it need not read them all again.
//!
//! Keeps: a change is told after the batch that holds it was written, in the order of the log. Who is too
//! slow for the bounded list is told to read all leases again; it is never told half.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::record::LeaseId;

/// Changes kept for readers that are behind; beyond it they read all leases anew.
const CHANGES_MAX: usize = 16_384;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub id: LeaseId,
    pub ttl_s: i64,
    /// What was left at the last checkpoint; `None` where there was none yet.
    pub remaining_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseChange {
    Granted {
        id: LeaseId,
        ttl_s: i64,
    },
    /// Revoked or expired.
    Revoked {
        id: LeaseId,
    },
    Checkpointed {
        id: LeaseId,
        remaining_ms: u64,
    },
}

/// What a reader of [`Changes`] has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    Changes(Vec<LeaseChange>),
    /// Too much happened, or the whole state was replaced: read all leases (`Store::leases`) again.
    Reload,
}

/// A reader's place among the changes. Take it first and read all leases then: what happened in between
/// is told again, and telling it twice does no harm.
#[derive(Debug)]
pub struct Changes {
    feed: Arc<Mutex<Log>>,
    news: watch::Receiver<()>,
    next: u64,
}

impl Changes {
    /// What happened since the last call; waits for something to happen. `None` once the store is gone.
    pub async fn next(&mut self) -> Option<Update> {
        loop {
            if let Some(update) = self.try_next() {
                return Some(update);
            }
            self.news.changed().await.ok()?;
        }
    }

    /// The same without waiting; `None` where nothing happened.
    pub fn try_next(&mut self) -> Option<Update> {
        self.news.mark_unchanged();
        let log = self.feed.lock();
        let since = std::mem::replace(&mut self.next, log.end());
        if since >= log.end() {
            return None;
        }
        match since.checked_sub(log.first) {
            // The list holds at most `CHANGES_MAX`, so the distance fits.
            Some(skip) => {
                Some(Update::Changes(log.changes.range(skip as usize..).copied().collect()))
            }
            None => Some(Update::Reload),
        }
    }
}

/// The writer's side.
#[derive(Debug)]
pub(crate) struct Feed {
    log: Arc<Mutex<Log>>,
    news: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Log {
    /// The number of the oldest change in the list.
    first: u64,
    changes: VecDeque<LeaseChange>,
}

impl Log {
    fn end(&self) -> u64 {
        self.first + self.changes.len() as u64
    }
}

impl Feed {
    pub(crate) fn new() -> Feed {
        Feed { log: Arc::default(), news: watch::Sender::new(()) }
    }

    pub(crate) fn subscribe(&self) -> Changes {
        let news = self.news.subscribe();
        let next = self.log.lock().end();
        Changes { feed: Arc::clone(&self.log), news, next }
    }

    pub(crate) fn publish(&self, changes: Vec<LeaseChange>) {
        if changes.is_empty() {
            return;
        }
        let mut log = self.log.lock();
        log.changes.extend(changes);
        let surplus = log.changes.len().saturating_sub(CHANGES_MAX);
        log.changes.drain(..surplus);
        log.first += surplus as u64;
        drop(log);
        self.news.send_replace(());
    }

    /// Whatever readers knew is void.
    pub(crate) fn reset(&self) {
        let mut log = self.log.lock();
        log.first = log.end() + 1;
        log.changes.clear();
        drop(log);
        self.news.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(id: i64) -> LeaseChange {
        LeaseChange::Granted { id: LeaseId(id), ttl_s: 60 }
    }

    #[test]
    fn each_reader_is_told_each_change_once_from_its_subscription_on() {
        let feed = Feed::new();
        feed.publish(vec![granted(1)]);
        let (mut one, mut other) = (feed.subscribe(), feed.subscribe());
        assert_eq!(one.try_next(), None);
        feed.publish(vec![granted(2)]);
        assert_eq!(one.try_next(), Some(Update::Changes(vec![granted(2)])));
        feed.publish(vec![granted(3)]);
        assert_eq!(one.try_next(), Some(Update::Changes(vec![granted(3)])));
        assert_eq!(one.try_next(), None);
        assert_eq!(other.try_next(), Some(Update::Changes(vec![granted(2), granted(3)])));
    }

    #[test]
    fn a_reader_that_fell_behind_the_list_reloads_and_goes_on() {
        let feed = Feed::new();
        let mut reader = feed.subscribe();
        feed.publish((0..=CHANGES_MAX as i64).map(granted).collect());
        assert_eq!(reader.try_next(), Some(Update::Reload));
        feed.publish(vec![granted(7)]);
        assert_eq!(reader.try_next(), Some(Update::Changes(vec![granted(7)])));
    }

    #[test]
    fn a_reset_makes_every_reader_reload_even_one_that_was_up_to_date() {
        let feed = Feed::new();
        let mut reader = feed.subscribe();
        feed.reset();
        assert_eq!(reader.try_next(), Some(Update::Reload));
        assert_eq!(reader.try_next(), None);
    }

    #[tokio::test]
    async fn waiting_ends_with_a_change_and_with_the_store() {
        let feed = Feed::new();
        let mut reader = feed.subscribe();
        let waiting = tokio::spawn(async move {
            let update = reader.next().await;
            (update, reader)
        });
        feed.publish(vec![granted(1)]);
        let (update, mut reader) = waiting.await.expect("does not panic");
        assert_eq!(update, Some(Update::Changes(vec![granted(1)])));
        drop(feed);
        assert_eq!(reader.next().await, None);
    }
}
