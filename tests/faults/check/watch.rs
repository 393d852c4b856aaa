//! What a watcher is promised: its events in order, each once, none left out, those of one revision
//! together, from where it asked on; that progress does not overtake events; that filters and previous
//! values are what they say.

use std::collections::BTreeMap;

use super::log::Log;
use super::order::Replayed;
use super::state::{Change, State};
use super::{Violation, violation};
use crate::history::{Event, Notice, Session};

#[must_use]
pub fn check(
    sessions: &[Session],
    log: &Log,
    replayed: &Replayed,
    compacted: u64,
) -> Vec<Violation> {
    let mut found = Vec::new();
    for session in sessions {
        let mut reader = Reader {
            session,
            log,
            state: &replayed.state,
            compacted,
            next: None,
            found: &mut found,
        };
        if session.from > 0 {
            reader.next = Some(session.from);
        }
        for notice in &session.notices {
            reader.read(notice);
        }
    }
    found
}

struct Reader<'h> {
    session: &'h Session,
    log: &'h Log,
    state: &'h State,
    compacted: u64,
    /// Everything below has been shown, or was not asked for. Not known before the first notice of a
    /// watch that begins "now".
    next: Option<u64>,
    found: &'h mut Vec<Violation>,
}

impl Reader<'_> {
    fn complain(&mut self, promise: &str, what: &str) {
        let Session { watcher, member, prefix, from, .. } = self.session;
        let who = format!("watcher {watcher} at member {member} of {prefix:?} from {from}");
        self.found.push(violation(promise, format!("{who}: {what}")));
    }

    /// What of one revision is to be shown.
    fn expected(&self, changes: &[Change], revision: u64) -> Vec<Event> {
        let session = self.session;
        changes
            .iter()
            .filter(|change| change.key.starts_with(&session.prefix))
            .filter(|change| {
                !(if change.now.is_some() { session.no_put } else { session.no_delete })
            })
            .map(|change| Event {
                key: change.key.clone(),
                revision,
                now: change.now.clone(),
                previous: session
                    .previous
                    .then(|| self.state.at(&change.key, revision.saturating_sub(1)))
                    .flatten(),
            })
            .collect()
    }

    /// Revisions of which something is to be shown.
    fn due(&self, from: u64, until: u64) -> Vec<(u64, Vec<Event>)> {
        if from > until {
            return Vec::new();
        }
        let due = self.log.range(from..=until);
        due.map(|(revision, entry)| (*revision, self.expected(&entry.changes, *revision)))
            .filter(|(_, events)| !events.is_empty())
            .collect()
    }

    fn read(&mut self, notice: &Notice) {
        if notice.compacted > 0 {
            let next = self.next.unwrap_or(notice.revision + 1);
            if next >= notice.compacted || notice.compacted > self.compacted {
                self.complain(
                    "history that is kept is shown",
                    &format!("cut off at {} by a compaction of {}", next, notice.compacted),
                );
            }
            return;
        }
        if notice.created && self.next.is_none() {
            self.next = Some(notice.revision + 1);
        }
        let Some(next) = self.next else { return };
        if notice.events.is_empty() {
            // A watch of the future is told nothing before its time, and what it is told then is no
            // promise about the past.
            if !notice.created && !notice.canceled {
                let late = self.due(next, notice.revision);
                if let Some((revision, _)) = late.first() {
                    let what = format!(
                        "progress up to {} before the events of {revision}",
                        notice.revision
                    );
                    self.complain("progress does not overtake events", &what);
                }
                self.next = Some(next.max(notice.revision + 1));
            }
            return;
        }
        self.events(next, notice);
    }

    fn events(&mut self, next: u64, notice: &Notice) {
        let mut shown: BTreeMap<u64, Vec<&Event>> = BTreeMap::new();
        let mut last = 0;
        for event in &notice.events {
            if event.revision < last {
                let what = format!("{} after {last}", event.revision);
                self.complain("events come in order", &what);
            }
            last = last.max(event.revision);
            shown.entry(event.revision).or_default().push(event);
        }
        let due = self.due(next, last);
        for revision in shown.keys().filter(|revision| **revision < next) {
            let what = if *revision < self.session.from {
                format!("revision {revision}, which it did not ask for")
            } else {
                format!("revision {revision} again, or the rest of it")
            };
            self.complain("events come once, and those of a revision together", &what);
        }
        for (revision, expected) in due {
            match shown.remove(&revision) {
                None => {
                    let what =
                        format!("revision {revision} was left out before {last}: {expected:?}");
                    self.complain("no event is left out", &what);
                }
                Some(events) => self.one(revision, &events, &expected),
            }
        }
        for (revision, events) in shown {
            if revision >= next {
                let what =
                    format!("revision {revision}: {events:?}, of which the log knows nothing");
                self.complain("nothing is made up", &what);
            }
        }
        self.next = Some(last + 1);
    }

    fn one(&mut self, revision: u64, events: &[&Event], expected: &[Event]) {
        let keys = |events: &[&Event]| -> Vec<_> {
            events.iter().map(|event| (event.key.clone(), event.now.clone())).collect()
        };
        let wanted: Vec<&Event> = expected.iter().collect();
        if keys(events) != keys(&wanted) {
            let what = format!("revision {revision} as {events:?} instead of {expected:?}");
            return self.complain("events come once, and those of a revision together", &what);
        }
        for (event, wanted) in events.iter().zip(expected) {
            let forgotten = event.previous.is_none() && revision <= self.compacted + 1;
            if event.previous != wanted.previous && !forgotten {
                let what = format!(
                    "revision {revision}: {:?} instead of {:?}",
                    event.previous, wanted.previous
                );
                self.complain("previous values are those before", &what);
            }
        }
    }
}
