//! The one thread that gives space back, and the hints that wait for it.
//!
//! Keeps: at most one hint waits for each table. A further one widens it, so nothing is forgotten and
//! nothing piles up, however often space is asked for.
//! Never: makes whoever hints wait for a compaction.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use parking_lot::{Condvar, Mutex};

use super::{Span, Table};

/// The worker. It ends, and is waited for, when this is dropped.
pub(super) struct Reclaimer {
    waiting: Arc<Waiting>,
    thread: Option<JoinHandle<()>>,
}

/// A part of a table in which rows are no longer retained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hint {
    pub(super) lower: Vec<u8>,
    pub(super) upper: Option<Vec<u8>>,
}

struct Waiting {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    hints: [Option<Hint>; Table::ALL.len()],
    ending: bool,
    #[cfg(test)]
    busy: bool,
}

impl Reclaimer {
    pub(super) fn start(work: impl Fn(Table, Hint) + Send + 'static) -> std::io::Result<Reclaimer> {
        let waiting = Arc::new(Waiting { state: Mutex::default(), changed: Condvar::new() });
        let thread = thread::Builder::new().name("reclaim".to_owned()).spawn({
            let waiting = waiting.clone();
            move || {
                while let Some((table, hint)) = waiting.take() {
                    work(table, hint);
                }
            }
        })?;
        Ok(Reclaimer { waiting, thread: Some(thread) })
    }

    pub(super) fn hint(&self, table: Table, span: Span<'_>) {
        let hint = Hint { lower: span.lower.to_vec(), upper: span.upper.map(<[u8]>::to_vec) };
        let mut state = self.waiting.state.lock();
        let slot = &mut state.hints[table as usize];
        *slot = Some(match slot.take() {
            Some(earlier) => earlier.and(hint),
            None => hint,
        });
        self.waiting.changed.notify_all();
    }

    /// Takes no more work; the work at hand goes on until whoever owns the engine cuts it short.
    pub(super) fn end(&self) {
        self.waiting.state.lock().ending = true;
        self.waiting.changed.notify_all();
    }

    /// Returns once nothing waits and nothing is at work.
    #[cfg(test)]
    pub(super) fn settle(&self) {
        let mut state = self.waiting.state.lock();
        while state.busy || state.hints.iter().any(Option::is_some) {
            self.waiting.changed.wait(&mut state);
        }
    }
}

impl Drop for Reclaimer {
    fn drop(&mut self) {
        self.end();
        if let Some(thread) = self.thread.take() {
            // It panics only with the work, which has then been reported by the panic itself.
            let _ = thread.join();
        }
    }
}

impl Waiting {
    /// The next hint; `None` when it is time to end.
    fn take(&self) -> Option<(Table, Hint)> {
        let mut state = self.state.lock();
        #[cfg(test)]
        {
            state.busy = false;
            self.changed.notify_all();
        }
        loop {
            if state.ending {
                return None;
            }
            for table in Table::ALL {
                if let Some(hint) = state.hints[table as usize].take() {
                    #[cfg(test)]
                    {
                        state.busy = true;
                    }
                    return Some((table, hint));
                }
            }
            self.changed.wait(&mut state);
        }
    }
}

impl Hint {
    /// The smallest span that holds both.
    fn and(self, other: Hint) -> Hint {
        let upper = match (self.upper, other.upper) {
            (Some(one), Some(two)) => Some(one.max(two)),
            _ => None,
        };
        Hint { lower: self.lower.min(other.lower), upper }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn hints_that_wait_are_one_wider_hint_for_each_table() {
        let (begin, may_begin) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let reclaimer = Reclaimer::start(move |table, hint| {
            tell.send((table, hint)).unwrap();
            may_begin.recv().unwrap();
        })
        .unwrap();
        let span = |lower: &'static str, upper: Option<&'static str>| Span {
            lower: lower.as_bytes(),
            upper: upper.map(str::as_bytes),
        };
        reclaimer.hint(Table::Past, span("a", Some("b")));
        let first = told.recv().unwrap();
        assert_eq!(first.1, Hint { lower: b"a".to_vec(), upper: Some(b"b".to_vec()) });
        reclaimer.hint(Table::Past, span("m", Some("n")));
        reclaimer.hint(Table::Past, span("c", Some("d")));
        reclaimer.hint(Table::Changes, span("x", Some("y")));
        reclaimer.hint(Table::Changes, span("z", None));
        begin.send(()).unwrap();
        let second = told.recv().unwrap();
        begin.send(()).unwrap();
        let third = told.recv().unwrap();
        begin.send(()).unwrap();
        let past = Hint { lower: b"c".to_vec(), upper: Some(b"n".to_vec()) };
        assert_eq!(second, (Table::Past, past));
        assert_eq!(third, (Table::Changes, Hint { lower: b"x".to_vec(), upper: None }));
        reclaimer.settle();
        drop(reclaimer);
        assert!(told.recv().is_err(), "nothing else was asked for");
    }
}
