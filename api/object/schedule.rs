//! When something is due again and again, as CronJobs say it: five fields, `@daily` and its like, `@every
//! 90m`.
//!
//! Keeps to what Kubernetes' own parser means: if days of the month and of the week are both given, either
//! will do; a wall-clock time that a change of clocks skips is skipped, one that it repeats is met twice.
//! Pure.

use std::fmt;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, ToSpan, Zoned};

use super::time::Timestamp;

/// A schedule with no moment in so many years has none.
const YEARS_MAX: i16 = 5;
const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// Why a schedule cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

#[derive(Clone, Debug)]
pub struct Schedule {
    zone: TimeZone,
    when: When,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum When {
    Every(i64),
    Fields(Box<Fields>),
}

/// Of each field, the values that fit, as bits.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fields {
    minutes: Field,
    hours: Field,
    days: Field,
    months: Field,
    weekdays: Field,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Field {
    bits: u64,
    /// It was given as `*` or `?`: it asks for nothing.
    star: bool,
}

impl Field {
    fn has(self, value: i8) -> bool {
        u32::try_from(value).is_ok_and(|value| self.bits >> value & 1 == 1)
    }
}

impl Schedule {
    /// Reads a schedule; `zone` is a name such as `Europe/Berlin`, UTC where none is given. A schedule may
    /// begin with its own `TZ=name`.
    pub fn parse(text: &str, zone: Option<&str>) -> Result<Schedule, Error> {
        let mut text = text.trim();
        let mut zone = zone.unwrap_or("UTC");
        if let Some(rest) = text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ=")) {
            let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            (zone, text) = (name, rest.trim());
        }
        let zone = time_zone(zone)?;
        let fields = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            _ => text,
        };
        let when = match fields.strip_prefix("@every ") {
            Some(duration) => When::Every(seconds(duration.trim())?),
            None if fields.starts_with('@') => {
                return Err(Error(format!("unrecognized descriptor: {fields}")));
            }
            None => When::Fields(Box::new(Fields::parse(fields)?)),
        };
        Ok(Schedule { zone, when })
    }

    /// The first moment after `after`; `None` for a schedule that is never due.
    #[must_use]
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        match &self.when {
            When::Every(seconds) => {
                Some(Timestamp::from_seconds(after.as_seconds()).plus_seconds(*seconds))
            }
            When::Fields(fields) => {
                let moment = fields.next(after.moment().to_zoned(self.zone.clone()))?;
                Some(Timestamp::from(moment.timestamp()))
            }
        }
    }

    /// A moment as the clocks of the schedule's zone show it, in RFC 3339.
    #[must_use]
    pub fn local_time(&self, moment: Timestamp) -> String {
        let local = moment.moment().to_zoned(self.zone.clone());
        if local.offset().is_zero() {
            return moment.rfc3339();
        }
        local.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
    }
}

/// The zone of that name, from the system's table of zones.
pub fn time_zone(name: &str) -> Result<TimeZone, Error> {
    if name.is_empty() || name == "UTC" {
        return Ok(TimeZone::UTC);
    }
    TimeZone::get(name).map_err(|_| Error(format!("unknown time zone {name}")))
}

impl Fields {
    fn parse(text: &str) -> Result<Fields, Error> {
        let parts: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = parts.as_slice() else {
            let count = parts.len();
            return Err(Error(format!("expected exactly 5 fields, found {count}: {text:?}")));
        };
        Ok(Fields {
            minutes: field(minutes, 0, 59, &[])?,
            hours: field(hours, 0, 23, &[])?,
            days: field(days, 1, 31, &[])?,
            months: field(months, 1, 12, &MONTHS)?,
            weekdays: field(weekdays, 0, 6, &DAYS)?,
        })
    }

    fn fits_day(&self, moment: &Zoned) -> bool {
        let day = self.days.has(moment.day());
        let weekday = self.weekdays.has(moment.weekday().to_sunday_zero_offset());
        if self.days.star || self.weekdays.star { day && weekday } else { day || weekday }
    }

    /// Goes on from field to field, the largest first, until all fit.
    fn next(&self, after: Zoned) -> Option<Zoned> {
        let last_year = after.year() + YEARS_MAX;
        let into_minute = SignedDuration::new(i64::from(after.second()), after.subsec_nanosecond());
        let mut at = after.checked_sub(into_minute).ok()?.checked_add(1.minute()).ok()?;
        while at.year() <= last_year {
            at = if !self.months.has(at.month()) {
                let month = at.first_of_month().ok()?.checked_add(1.month()).ok()?;
                month.start_of_day().ok()?
            } else if !self.fits_day(&at) {
                at.checked_add(1.day()).ok()?.start_of_day().ok()?
            } else if !self.hours.has(at.hour()) {
                let left = SignedDuration::from_mins(60 - i64::from(at.minute()));
                at.checked_add(left).ok()?
            } else if !self.minutes.has(at.minute()) {
                at.checked_add(SignedDuration::from_mins(1)).ok()?
            } else {
                return Some(at);
            };
        }
        None
    }
}

/// One field: parts between commas, each `*`, a value or a range, with `/step`.
fn field(text: &str, least: u32, most: u32, names: &[&str]) -> Result<Field, Error> {
    let wrong = |why: &str| Error(format!("{why}: {text:?}"));
    let value = |text: &str| {
        let lower = text.to_ascii_lowercase();
        let named = names.iter().position(|name| *name == lower);
        let named = named.and_then(|at| u32::try_from(at).ok()).map(|at| at + least);
        named.or_else(|| text.parse::<u32>().ok()).ok_or_else(|| wrong("failed to parse a number"))
    };
    let mut whole = Field { bits: 0, star: false };
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(value(step)?)),
            None => (part, None),
        };
        let (first, last) = if range == "*" || range == "?" {
            whole.star |= step.is_none_or(|step| step <= 1);
            (least, most)
        } else if let Some((first, last)) = range.split_once('-') {
            (value(first)?, value(last)?)
        } else if step.is_some() {
            (value(range)?, most)
        } else {
            let only = value(range)?;
            (only, only)
        };
        let step = step.unwrap_or(1);
        if first < least || last > most {
            return Err(wrong(&format!("a value is not between {least} and {most}")));
        }
        if first > last || step == 0 {
            return Err(wrong("a range runs backwards or stands still"));
        }
        let step = usize::try_from(step).unwrap_or(usize::MAX);
        whole.bits |= (first..=last).step_by(step).fold(0, |bits, value| bits | 1 << value);
    }
    if whole.bits == 0 {
        return Err(wrong("a field says nothing"));
    }
    Ok(whole)
}

/// A duration as Go writes it: `1h30m`, `90s`. Parts of a second are dropped; there is at least one second.
fn seconds(text: &str) -> Result<i64, Error> {
    let wrong = || Error(format!("failed to parse duration @every {text}"));
    let (mut total, mut rest) = (0.0_f64, text);
    while !rest.is_empty() {
        let end = rest.find(|it: char| !it.is_ascii_digit() && it != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..end].parse().map_err(|_| wrong())?;
        rest = &rest[end..];
        let units = [("ms", 0.001), ("us", 1e-6), ("ns", 1e-9), ("h", 3600.0), ("m", 60.0)];
        let units = units.into_iter().chain([("s", 1.0)]);
        let (unit, scale) =
            units.into_iter().find(|(unit, _)| rest.starts_with(unit)).ok_or_else(wrong)?;
        rest = &rest[unit.len()..];
        total += number * scale;
    }
    if text.is_empty() || !total.is_finite() {
        return Err(wrong());
    }
    #[expect(clippy::cast_possible_truncation, reason = "a float to an int saturates")]
    let whole = total as i64;
    Ok(whole.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    /// The next moments, in UTC.
    fn next(schedule: &str, zone: Option<&str>, after: &str, count: usize) -> Vec<String> {
        let schedule = Schedule::parse(schedule, zone).unwrap();
        let mut moment = at(after);
        let mut moments = Vec::new();
        for _ in 0..count {
            moment = schedule.next(moment).unwrap();
            moments.push(moment.rfc3339());
        }
        moments
    }

    #[test]
    fn fields_say_when() {
        let after = "2026-01-30T10:07:30Z";
        for (schedule, expected) in [
            ("* * * * *", "2026-01-30T10:08:00Z"),
            ("*/15 * * * *", "2026-01-30T10:15:00Z"),
            ("5,35 9-17/4 * * *", "2026-01-30T13:05:00Z"),
            ("0 0 31 * *", "2026-01-31T00:00:00Z"),
            ("0 0 29 feb ?", "2028-02-29T00:00:00Z"),
            ("30 6 * * MON-FRI", "2026-02-02T06:30:00Z"),
            ("0 12 1 * SUN", "2026-02-01T12:00:00Z"),
            ("0 12 15 * SAT", "2026-01-31T12:00:00Z"),
            ("10/20 * * * *", "2026-01-30T10:10:00Z"),
            ("@hourly", "2026-01-30T11:00:00Z"),
            ("@weekly", "2026-02-01T00:00:00Z"),
            ("@yearly", "2027-01-01T00:00:00Z"),
            ("@every 1h30m", "2026-01-30T11:37:30Z"),
        ] {
            assert_eq!(next(schedule, None, after, 1), [expected], "{schedule}");
        }
        assert_eq!(Schedule::parse("0 0 30 2 *", None).unwrap().next(at(after)), None);
    }

    #[test]
    fn what_cannot_be_understood_is_refused() {
        for wrong in [
            "",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 7",
            "5-1 * * * *",
            "*/0 * * * *",
            "x * * * *",
            "@often",
            "@every soon",
        ] {
            assert!(Schedule::parse(wrong, None).is_err(), "{wrong:?}");
        }
        assert!(Schedule::parse("* * * * *", Some("Mars/Olympus")).is_err());
    }

    #[test]
    fn a_zone_shifts_a_schedule_and_its_changes_of_clocks_skip_and_repeat() {
        // Only where the system has a table of zones.
        if time_zone("Europe/Berlin").is_err() {
            return;
        }
        let berlin = Some("Europe/Berlin");
        assert_eq!(
            next("30 2 * * *", berlin, "2026-03-28T00:00:00Z", 2),
            ["2026-03-28T01:30:00Z", "2026-03-30T00:30:00Z"],
            "on the 29th there is no half past two"
        );
        assert_eq!(
            next("30 2 * * *", berlin, "2026-10-25T00:00:00Z", 2),
            ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"],
            "on the 25th there are two"
        );
        let own = Schedule::parse("TZ=Asia/Tokyo 0 9 * * *", None).unwrap();
        let moment = own.next(at("2026-01-01T12:00:00Z")).unwrap();
        assert_eq!(moment.rfc3339(), "2026-01-02T00:00:00Z");
        assert_eq!(own.local_time(moment), "2026-01-02T09:00:00+09:00");
    }
}
