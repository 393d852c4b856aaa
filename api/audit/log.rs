//! The file that events go to, a line each.
//!
//! ```text
//! audit.log                              what is written now
//! audit-2026-01-31T12-00-00.000.log      what was before, by the time at which it was put aside
//! ```
//! Keeps: a line is whole. A file grows to its largest size and no further, and of old ones no more are kept,
//! and for no longer, than was asked for.
//! Never: holds a request up, or refuses it, because its event cannot be written; that is counted and told.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::object::time::{Clock, Timestamp};

const DAY_SECONDS: i64 = 24 * 60 * 60;
/// As upstream, where nothing is said.
const SIZE_MAX: u64 = 100 << 20;

/// Where events go and how long they stay.
#[derive(Clone, Debug)]
pub struct Place {
    /// `-` is standard output.
    pub path: PathBuf,
    /// Zero: 100 MiB.
    pub megabytes_max: u64,
    /// Zero: all of them.
    pub backups_max: usize,
    /// Zero: for ever.
    pub days_max: u64,
}

pub(super) struct Log {
    place: Place,
    clock: Clock,
    open: Mutex<Open>,
}

enum Open {
    Output,
    File { file: File, size: u64 },
}

impl Log {
    pub(super) fn open(place: Place, clock: Clock) -> std::io::Result<Log> {
        let open = if place.path == Path::new("-") {
            Open::Output
        } else {
            let file = append(&place.path)?;
            let size = file.metadata()?.len();
            Open::File { file, size }
        };
        Ok(Log { place, clock, open: Mutex::new(open) })
    }

    pub(super) fn write(&self, line: &str) -> std::io::Result<()> {
        let mut line = line.to_owned();
        line.push('\n');
        let mut open = self.open.lock();
        let Open::File { file, size } = &mut *open else {
            return std::io::stdout().lock().write_all(line.as_bytes());
        };
        let length = line.len() as u64;
        if *size > 0 && *size + length > self.size_max() {
            *file = self.put_aside()?;
            *size = 0;
        }
        file.write_all(line.as_bytes())?;
        *size += length;
        Ok(())
    }

    fn size_max(&self) -> u64 {
        if self.place.megabytes_max == 0 { SIZE_MAX } else { self.place.megabytes_max << 20 }
    }

    /// Begins another file, and forgets those that are too many or too old.
    fn put_aside(&self) -> std::io::Result<File> {
        let now = self.clock.now();
        let path = &self.place.path;
        std::fs::rename(path, aside(path, now))?;
        let file = append(path)?;
        let mut old = old_ones(path)?;
        old.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        for (index, (at, path)) in old.iter().enumerate() {
            let many = self.place.backups_max > 0 && index >= self.place.backups_max;
            let age = now.as_seconds() - at.as_seconds();
            let days = i64::try_from(self.place.days_max).unwrap_or(i64::MAX);
            let late = days > 0 && age > days.saturating_mul(DAY_SECONDS);
            if many || late {
                std::fs::remove_file(path)?;
            }
        }
        Ok(file)
    }
}

fn append(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// What the file is called when it is put aside.
fn aside(path: &Path, at: Timestamp) -> PathBuf {
    let (start, end) = around(path);
    // 2026-01-31T12:00:00.000000Z, to the millisecond and without what file systems mind.
    let time = at.rfc3339_micros().replace(':', "-");
    path.with_file_name(format!("{start}{}{end}", &time[..23]))
}

/// What stands before and behind the time in such a name.
fn around(path: &Path) -> (String, String) {
    let text =
        |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let extension = text(path.extension());
    let end = if extension.is_empty() { extension } else { format!(".{extension}") };
    (format!("{}-", text(path.file_stem())), end)
}

fn old_ones(path: &Path) -> std::io::Result<Vec<(Timestamp, PathBuf)>> {
    let (start, end) = around(path);
    let folder = path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let time = name.strip_prefix(&start).and_then(|rest| rest.strip_suffix(&end));
        let time = time.and_then(|time| {
            let (day, hour) = time.split_once('T')?;
            Timestamp::parse(&format!("{day}T{}Z", hour.replace('-', ":")))
        });
        found.extend(time.map(|time| (time, folder.join(name))));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_put_aside_when_they_are_full_and_old_ones_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let clock = Clock::set_at(Timestamp::parse("2026-01-31T12:00:00Z").unwrap());
        let place = Place { path: path.clone(), megabytes_max: 1, backups_max: 2, days_max: 3 };
        std::fs::write(folder.path().join("audit-of-others.log"), "x").unwrap();
        let log = Log::open(place.clone(), clock.clone()).unwrap();
        let line = "x".repeat(600 << 10);
        let names = || {
            let entries = std::fs::read_dir(folder.path()).unwrap();
            let mut names: Vec<String> =
                entries.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names.join(" ")
        };
        for _ in 0..4 {
            log.write(&line).unwrap();
            clock.advance_seconds(1);
        }
        assert_eq!(
            names(),
            "audit-2026-01-31T12-00-02.000.log audit-2026-01-31T12-00-03.000.log \
             audit-of-others.log audit.log"
        );
        drop(log);
        // What was written before is gone on with, and counted.
        let log = Log::open(place, clock.clone()).unwrap();
        clock.advance_seconds(4 * DAY_SECONDS);
        log.write(&line).unwrap();
        assert_eq!(names(), "audit-2026-02-04T12-00-04.000.log audit-of-others.log audit.log");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), line.len() as u64 + 1);
    }

    #[test]
    fn a_place_that_cannot_be_written_to_is_told_at_once() {
        let place = Place {
            path: "/nowhere/audit.log".into(),
            megabytes_max: 0,
            backups_max: 0,
            days_max: 0,
        };
        assert!(Log::open(place, Clock::System).is_err());
    }
}
