//! Watchers, and the witnesses that everything else is held against.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::RngExt;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::{Ground, PREFIX};
use crate::client::Client;
use crate::history::{Notice, Session};

/// How long watchers have, when everything has healed, to come to the end.
const CATCH_UP: Duration = Duration::from_secs(60);
const WITNESSES: u32 = 2;
/// A witness writes down what it has so far and goes on, so that a session stays of a size.
const WITNESS_LIFE: Duration = Duration::from_secs(60);

/// Watchers on one stream.
const CROWD: usize = 40;

const PREFIXES: [&str; 6] = [PREFIX, "t/x/", "t/r/", "t/a/", "t/l/", "t/s/"];

fn last(notice: &Notice) -> u64 {
    notice.events.last().map_or(0, |event| event.revision)
}

/// The first revision that a session has not shown, if it showed any.
fn after(session: &Session) -> Option<u64> {
    let shown = session.notices.iter().filter(|notice| notice.compacted == 0 && !notice.canceled);
    shown
        .filter_map(|notice| match last(notice) {
            // The answer to the creation says where the member is, not what was shown.
            0 if notice.created => None,
            0 => Some(notice.revision + 1),
            last => Some(last + 1),
        })
        .max()
}

/// Watches in turns; most go on where the last one ended.
pub async fn watch(ground: Arc<Ground>, mut client: Client, nth: u32) -> Option<String> {
    let mut next = 0;
    while !ground.stopped() {
        let random = &mut client.random;
        let newest = ground.newest.load(Ordering::Relaxed);
        let prefix = PREFIXES[if nth == 0 { 0 } else { random.random_range(0..PREFIXES.len()) }];
        let from = match random.random_range(0..10) {
            0..5 if next > 0 => next,
            5 => 0,
            // Some ask for what will come, and some for what was forgotten.
            6 => newest + random.random_range(1..100),
            _ => newest.saturating_sub(random.random_range(0..500)).max(1),
        };
        let session = Session {
            watcher: client.number,
            prefix: prefix.into(),
            from,
            previous: random.random_bool(0.5),
            no_put: random.random_bool(0.1),
            no_delete: random.random_bool(0.1),
            ..Session::default()
        };
        let life = Duration::from_millis(random.random_range(200..8000));
        let session = client.watch(session, life, |_| ground.stopped()).await;
        next = after(&session).unwrap_or(from);
        client.record(session);
    }
    None
}

/// Crowds on one stream each, most of them behind at first.
pub async fn crowd(ground: Arc<Ground>, mut client: Client) -> Option<String> {
    while !ground.stopped() {
        let newest = ground.newest.load(Ordering::Relaxed);
        let random = &mut client.random;
        let sessions = (0..CROWD).map(|_| Session {
            watcher: client.number,
            prefix: PREFIXES[random.random_range(1..PREFIXES.len())].into(),
            from: newest.saturating_sub(random.random_range(0..200)).max(1),
            previous: true,
            ..Session::default()
        });
        let sessions = sessions.collect();
        let life = Duration::from_millis(random.random_range(500..5000));
        let pause = Duration::from_millis(random.random_range(0..8));
        for session in client.crowd(sessions, life, pause).await {
            client.record(session);
        }
        sleep(life).await;
    }
    None
}

/// Those who watch everything from the first write to the last.
pub struct Witnesses {
    tasks: JoinSet<Option<String>>,
    /// How far each has come.
    reached: Vec<Arc<AtomicU64>>,
}

impl Witnesses {
    pub fn start(ground: &Arc<Ground>, from: u64) -> Witnesses {
        let mut witnesses = Witnesses { tasks: JoinSet::new(), reached: Vec::new() };
        for number in 0..WITNESSES {
            let reached = Arc::new(AtomicU64::new(from.saturating_sub(1)));
            witnesses.reached.push(reached.clone());
            let client = ground.client(1000 + number);
            witnesses.tasks.spawn(witness(ground.clone(), client, from, reached));
        }
        witnesses
    }

    /// All of them have seen this revision.
    pub fn reached(&self) -> u64 {
        self.reached.iter().map(|it| it.load(Ordering::Relaxed)).min().unwrap_or_default()
    }

    /// Waits until all have come to `ground.last`; says who has not.
    pub async fn finish(self) -> Vec<String> {
        self.tasks.join_all().await.into_iter().flatten().collect()
    }
}

async fn witness(
    ground: Arc<Ground>,
    mut client: Client,
    from: u64,
    reached: Arc<AtomicU64>,
) -> Option<String> {
    let mut next = from;
    let mut until: Option<Instant> = None;
    loop {
        let done = || {
            let last = ground.last.load(Ordering::Relaxed);
            last > 0 && reached.load(Ordering::Relaxed) >= last
        };
        if done() {
            return None;
        }
        if ground.last.load(Ordering::Relaxed) > 0 {
            let until = *until.get_or_insert_with(|| Instant::now() + CATCH_UP);
            if Instant::now() > until {
                return Some(format!(
                    "witness {} has seen {} and not {}",
                    client.number,
                    reached.load(Ordering::Relaxed),
                    ground.last.load(Ordering::Relaxed)
                ));
            }
        }
        let session = Session {
            watcher: client.number,
            prefix: PREFIX.into(),
            from: next,
            previous: true,
            witness: true,
            ..Session::default()
        };
        let life = if ground.stopped() { Duration::from_secs(5) } else { WITNESS_LIFE };
        let session = client
            .watch(session, life, |notice| {
                let seen = match last(notice) {
                    0 if notice.created || notice.canceled => 0,
                    0 => notice.revision,
                    last => last,
                };
                reached.fetch_max(seen, Ordering::Relaxed);
                ground.note(seen);
                done()
            })
            .await;
        next = after(&session).unwrap_or(next).max(next);
        if session.notices.is_empty() {
            sleep(Duration::from_millis(100)).await;
        }
        client.record(session);
    }
}
