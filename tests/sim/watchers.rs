//! Watchers of simulated members: witnesses, who see everything, and those who come and go.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use kontiki_faults::history::{Event, Notice, Session};
use kontiki_raft::replica::Replica;
use kontiki_storage::Revision;
use kontiki_storage::record::EventKind;
use kontiki_storage::request::KeyRange;
use kontiki_storage::watch::{Cut, Request, Watcher};
use rand::RngExt;
use tokio::time::{Instant, sleep, timeout};

use crate::clients::{Client, PREFIX, stored};

const PREFIXES: [&str; 5] = [PREFIX, "t/x/", "t/r/", "t/a/", "t/l/"];

/// A watch as it is asked for, and its record.
fn begin(client: &Client, member: u64, replica: &Replica, session: &mut Session) -> Watcher {
    let prefix = Bytes::copy_from_slice(session.prefix.as_bytes());
    let mut request = Request::new(KeyRange::prefix(prefix)).from(Revision(session.from));
    (request.puts, request.deletes) = (!session.no_put, !session.no_delete);
    request.previous = session.previous;
    session.member = u32::try_from(member).unwrap_or_default();
    let (at, revision) = (client.ground.now(), replica.store().revision().0);
    session.notices.push(Notice { at, revision, created: true, ..Notice::default() });
    replica.watch(request)
}

impl Client {
    fn note_cut(&self, cut: &Cut) {
        if matches!(cut, Cut::TooOld { .. }) {
            self.ground.snapshots.set(self.ground.snapshots.get() + 1);
        }
    }

    /// Watches in turns, from the past, from now on and from the future, and asks for progress.
    pub async fn watch(mut self) {
        let mut next = 0;
        while !self.ground.stop.get() {
            let Some((member, replica)) = self.ground.door(&mut self.random) else {
                sleep(Duration::from_millis(20)).await;
                continue;
            };
            let (newest, compacted) = (self.ground.newest.get(), self.ground.compacted.get());
            let random = &mut self.random;
            let from = match random.random_range(0..12) {
                0..5 if next > 0 => next,
                5 => 0,
                // What will come, and the oldest that is left.
                6 => newest + random.random_range(1..60),
                7..9 if compacted > 0 => compacted,
                _ => newest.saturating_sub(random.random_range(0..200)).max(1),
            };
            let mut session = Session {
                watcher: self.number,
                prefix: PREFIXES[random.random_range(0..PREFIXES.len())].to_owned(),
                from,
                previous: true,
                no_put: random.random_bool(0.1),
                no_delete: random.random_bool(0.1),
                ..Session::default()
            };
            let mut watcher = begin(&self, member, &replica, &mut session);
            drop(replica);
            let until = Instant::now() + self.ground.rest_busy * self.random.random_range(3..80);
            while Instant::now() < until && !self.ground.stop.get() {
                let rest = self.ground.rest_max().mul_f64(self.random.random_range(0.01..4.0));
                // Some do not listen for a while, and ask how far they are before they do again.
                if self.random.random_bool(0.2) {
                    sleep(rest).await;
                    if let Some(revision) = watcher.progress() {
                        let (at, revision) = (self.ground.now(), revision.0);
                        session.notices.push(Notice { at, revision, ..Notice::default() });
                    }
                }
                let notice = match timeout(rest, watcher.next()).await {
                    Ok(Ok(delivery)) => Notice {
                        revision: delivery.revision.0,
                        events: delivery.events.iter().map(|it| event(it)).collect(),
                        ..Notice::default()
                    },
                    Ok(Err(Cut::Compacted { compacted })) => {
                        Notice { compacted: compacted.0, canceled: true, ..Notice::default() }
                    }
                    Ok(Err(cut)) => {
                        self.note_cut(&cut);
                        break;
                    }
                    Err(_) => match watcher.progress() {
                        Some(revision) => Notice { revision: revision.0, ..Notice::default() },
                        None => continue,
                    },
                };
                let cut = notice.canceled;
                session.notices.push(Notice { at: self.ground.now(), ..notice });
                if cut {
                    break;
                }
            }
            next = watcher.cursor().0;
            self.ground.history.borrow_mut().sessions.push(session);
            self.rest().await;
        }
    }

    /// Watches all keys from the first change on, at one member after another, until it has seen `last`.
    pub async fn witness(mut self, last: Rc<Cell<u64>>, reached: Rc<Cell<u64>>) {
        let mut next = 1;
        let seen_all = |next: u64| last.get() > 0 && next > last.get();
        while !seen_all(next) {
            let Some((member, replica)) = self.ground.door(&mut self.random) else {
                sleep(Duration::from_millis(20)).await;
                continue;
            };
            let mut session = Session {
                watcher: self.number,
                prefix: PREFIX.to_owned(),
                from: next,
                previous: true,
                witness: true,
                ..Session::default()
            };
            let mut watcher = begin(&self, member, &replica, &mut session);
            drop(replica);
            let life = self.ground.rest_busy * self.random.random_range(4..80);
            let until = Instant::now() + life;
            while !seen_all(next) {
                let delivery = match tokio::time::timeout_at(until, watcher.next()).await {
                    Ok(Ok(delivery)) => delivery,
                    Ok(Err(cut)) => {
                        self.note_cut(&cut);
                        break;
                    }
                    Err(_) => break,
                };
                let events: Vec<Event> = delivery.events.iter().map(|it| event(it)).collect();
                next = next.max(delivery.revision.0 + 1);
                reached.set(next - 1);
                let (at, revision) = (self.ground.now(), delivery.revision.0);
                session.notices.push(Notice { at, revision, events, ..Notice::default() });
            }
            self.ground.history.borrow_mut().sessions.push(session);
            sleep(Duration::from_millis(1)).await;
        }
    }
}

fn event(event: &kontiki_storage::Event) -> Event {
    let (key, now) = stored(&event.kv);
    Event {
        key,
        revision: now.modified,
        now: (event.kind == EventKind::Put).then_some(now),
        previous: event.previous.as_ref().map(|kv| stored(kv).1),
    }
}
