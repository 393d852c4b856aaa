//! A clock for how long something has lasted: it begins with the calendar, and nobody can set it.
//!
//! Keeps: it goes on by itself, whatever becomes of the system's. What was heard of, or has waited, since a
//! moment of it has done so for as long as was really waited, though the calendar jumped meanwhile.
//! Never: is written into objects; what others read is the calendar's.

use std::sync::Arc;

use kontiki_api::object::time::{Clock, Timestamp};
use tokio::time::Instant;

/// All clones show the same.
#[derive(Clone, Debug)]
pub struct Steady(Arc<(Timestamp, Instant)>);

impl Steady {
    #[must_use]
    pub fn from(clock: &Clock) -> Steady {
        Steady(Arc::new((clock.now(), Instant::now())))
    }

    #[must_use]
    pub fn now(&self) -> Timestamp {
        let (began, at) = *self.0;
        let passed = i64::try_from(at.elapsed().as_micros()).unwrap_or(i64::MAX);
        Timestamp::from_micros(began.as_micros().saturating_add(passed))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_calendar_may_jump_forth_and_back_and_no_time_passes_here() {
        let calendar = Clock::set_at(Timestamp::from_seconds(1000));
        let steady = Steady::from(&calendar);
        assert_eq!(steady.now(), Timestamp::from_seconds(1000));
        calendar.advance_seconds(3600);
        assert_eq!(steady.now(), Timestamp::from_seconds(1000));
        tokio::time::advance(Duration::from_secs(5)).await;
        calendar.advance_seconds(-7200);
        assert_eq!(steady.now(), Timestamp::from_seconds(1005));
    }
}
