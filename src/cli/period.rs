//! Lengths of time as people write them: `90s`, `15m`, `12h`, `30d`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];
/// A hundred years.
const SECONDS_MAX: u64 = 100 * 365 * 86_400;

impl Period {
    /// Shorter certificates would be renewed all the time.
    pub const CERTIFICATE_MIN: Period = Period::seconds(10);

    pub const fn seconds(seconds: u64) -> Period {
        Period(Duration::from_secs(seconds))
    }

    pub const fn hours(hours: u64) -> Period {
        Period::seconds(hours * 3600)
    }

    pub const fn days(days: u64) -> Period {
        Period::seconds(days * 86_400)
    }
}

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Period, String> {
        let wrong = || format!("{text:?} is no length of time; write 90s, 15m, 12h or 30d");
        let (number, unit) = UNITS
            .iter()
            .find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))
            .ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let seconds =
            number.checked_mul(*unit).filter(|it| *it <= SECONDS_MAX).ok_or_else(wrong)?;
        Ok(Period::seconds(seconds))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let whole = |(_, unit): &&(&str, u64)| seconds > 0 && seconds.is_multiple_of(*unit);
        let (name, unit) = UNITS.iter().find(whole).unwrap_or(&UNITS[3]);
        write!(f, "{}{name}", seconds / unit)
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Period, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Period;

    proptest! {
        #[test]
        fn what_is_printed_is_read_again(seconds in 0..super::SECONDS_MAX) {
            let period = Period::seconds(seconds);
            prop_assert_eq!(period.to_string().parse::<Period>(), Ok(period));
        }
    }

    #[test]
    fn people_write_it_short() {
        assert_eq!("12h".parse(), Ok(Period::hours(12)));
        assert_eq!(Period::seconds(0).to_string(), "0s");
        assert_eq!(Period::days(30).to_string(), "30d");
        for bad in ["", "12", "h", "-1h", "1.5h", "1w", "99999999999999d"] {
            assert!(bad.parse::<Period>().is_err(), "{bad}");
        }
    }
}
