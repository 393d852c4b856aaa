//! A clock that stands still while this process does.
//!
//! A process that was stopped (SIGSTOP, a frozen container, a machine too busy to run it) finds afterwards
//! that the write it was at took as long as it stood still. That says nothing of the disk. So a thread that
//! asks nothing of any disk looks at the time again and again, and what it comes too late by counts as time
//! in which nothing here ran. A disk that hangs holds up those who wait for it, and not that thread.
//!
//! Keeps: it never goes back and is never ahead of the time; whoever reads it first after a stop, the thread
//! or another, reads the same.
//! Without the thread ([`FlusherMode::Inline`](super::FlusherMode)) no time is left out.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::time::Instant;

const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A thread that waits for its turn among others may be so late.
const LATE_MAX: Duration = Duration::from_secs(1);

pub(super) struct Awake {
    began: Instant,
    state: Mutex<State>,
    stopped: Condvar,
}

#[derive(Default)]
struct State {
    /// Time in which the process stood still.
    still: Duration,
    /// When the thread last looked; `None` where there is none.
    looked: Option<Instant>,
    stopping: bool,
}

impl State {
    fn late(&self, now: Instant) -> Duration {
        self.looked.map_or(Duration::ZERO, |looked| {
            now.saturating_duration_since(looked).saturating_sub(LATE_MAX)
        })
    }

    fn look(&mut self, now: Instant) {
        self.still += self.late(now);
        self.looked = Some(now);
    }
}

impl Awake {
    /// `looked_after`: its thread is about to run.
    pub(super) fn new(looked_after: bool) -> Awake {
        let began = Instant::now();
        let state = State { looked: looked_after.then_some(began), ..State::default() };
        Awake { began, state: Mutex::new(state), stopped: Condvar::new() }
    }

    /// For how long this process has run since the log was opened.
    pub(super) fn now(&self) -> Duration {
        let state = self.state.lock();
        let now = Instant::now();
        now.saturating_duration_since(self.began).saturating_sub(state.still + state.late(now))
    }

    /// A thread's life: until it is told to stop.
    pub(super) fn run(&self) {
        let mut state = self.state.lock();
        while !state.stopping {
            state.look(Instant::now());
            self.stopped.wait_for(&mut state, LOOK_EVERY);
        }
        state.look(Instant::now());
        state.looked = None;
    }

    pub(super) fn stop(&self) {
        self.state.lock().stopping = true;
        self.stopped.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_later_than_a_busy_machine_explains_is_left_out() {
        let begin = Instant::now();
        let mut state = State::default();
        assert_eq!(state.late(begin + Duration::from_secs(60)), Duration::ZERO, "nobody looks");
        state.look(begin);
        state.look(begin + LOOK_EVERY);
        state.look(begin + LOOK_EVERY + LATE_MAX);
        assert_eq!(state.still, Duration::ZERO);
        let resumed = begin + LOOK_EVERY + LATE_MAX + Duration::from_secs(60);
        assert_eq!(state.late(resumed), Duration::from_secs(60) - LATE_MAX);
        state.look(resumed);
        assert_eq!(state.still, Duration::from_secs(60) - LATE_MAX, "it is counted once");
        assert_eq!(state.late(resumed), Duration::ZERO);
    }

    #[test]
    fn the_clock_goes_on_when_its_thread_has_ended() {
        let clock = Awake::new(true);
        clock.stop();
        clock.run();
        let then = clock.now();
        while clock.now() == then {
            std::thread::yield_now();
        }
    }
}
