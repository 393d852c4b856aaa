//! The one place that asks what time it is, and how time is written in objects.
//!
//! Rooms that decide are given a [`Timestamp`]; those that act hold a [`Clock`], which tests set by hand.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// A moment in microseconds since the epoch, UTC. Kubernetes' `Time` keeps whole seconds of it, `MicroTime`
/// all six digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    #[must_use]
    pub fn from_micros(micros: i64) -> Timestamp {
        Timestamp(micros)
    }

    #[must_use]
    pub fn from_seconds(seconds: i64) -> Timestamp {
        Timestamp(seconds.saturating_mul(1_000_000))
    }

    #[must_use]
    pub fn as_micros(self) -> i64 {
        self.0
    }

    /// Whole seconds, rounded down.
    #[must_use]
    pub fn as_seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    #[must_use]
    pub fn plus_seconds(self, seconds: i64) -> Timestamp {
        Timestamp(self.0.saturating_add(seconds.saturating_mul(1_000_000)))
    }

    /// `self - earlier` in microseconds; negative when `earlier` is the later one.
    #[must_use]
    pub fn micros_since(self, earlier: Timestamp) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// As `metav1.Time` is written: `2026-01-02T03:04:05Z`.
    #[must_use]
    pub fn rfc3339(self) -> String {
        self.moment().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    /// As `metav1.MicroTime` is written: `2026-01-02T03:04:05.000006Z`.
    #[must_use]
    pub fn rfc3339_micros(self) -> String {
        self.moment().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
    }

    /// Reads RFC 3339 with any offset and any precision; finer than a microsecond is cut off.
    #[must_use]
    pub fn parse(text: &str) -> Option<Timestamp> {
        let moment: jiff::Timestamp = text.parse().ok()?;
        Some(Timestamp(moment.as_microsecond()))
    }

    /// The type of built-in objects' fields.
    #[must_use]
    pub fn moment(self) -> jiff::Timestamp {
        jiff::Timestamp::from_microsecond(self.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
    }
}

impl From<jiff::Timestamp> for Timestamp {
    fn from(moment: jiff::Timestamp) -> Timestamp {
        Timestamp(moment.as_microsecond())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rfc3339())
    }
}

/// Tells the time. Cheap to clone; all clones of a set clock show the same.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    #[default]
    System,
    /// A clock that stands where it was set.
    Set(Arc<AtomicI64>),
}

impl Clock {
    #[must_use]
    pub fn set_at(now: Timestamp) -> Clock {
        Clock::Set(Arc::new(AtomicI64::new(now.0)))
    }

    #[must_use]
    pub fn now(&self) -> Timestamp {
        match self {
            Clock::System => {
                #[expect(clippy::disallowed_methods, reason = "this is the one place")]
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
            }
            Clock::Set(at) => Timestamp(at.load(Ordering::Relaxed)),
        }
    }

    /// Moves a set clock; the system's cannot be moved.
    pub fn advance_seconds(&self, seconds: i64) {
        if let Clock::Set(at) = self {
            at.fetch_add(seconds.saturating_mul(1_000_000), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_written_as_kubernetes_does() {
        let moment = Timestamp::parse("2026-01-02T05:04:05.123456789+02:00").unwrap();
        assert_eq!(moment.rfc3339(), "2026-01-02T03:04:05Z");
        assert_eq!(moment.rfc3339_micros(), "2026-01-02T03:04:05.123456Z");
        assert_eq!(Timestamp::parse("yesterday"), None);
    }
}
