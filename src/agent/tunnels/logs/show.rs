//! Entries of a log as they are shown. Pure.

use bytes::BytesMut;

/// Which entries, and how.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Older ones are left out.
    pub since_ns: Option<i64>,
    pub timestamps: bool,
    /// Of what is shown.
    pub limit: Option<u64>,
    /// `stdout` or `stderr` alone.
    pub output: Option<&'static str>,
}

/// What is shown of one entry after the other.
pub struct Show {
    options: Options,
    /// The entry before ended its line.
    at_line_start: bool,
}

/// An entry of the file, taken apart.
struct Entry<'a> {
    timestamp: &'a str,
    output: &'a str,
    goes_on: bool,
    /// With the end of the line, where it ends here.
    content: &'a [u8],
}

fn word(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b' ')?;
    Some((std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 1..]))
}

fn read(bytes: &[u8]) -> Option<Entry<'_>> {
    let (timestamp, rest) = word(bytes)?;
    let (output, rest) = word(rest)?;
    let (tags, content) = word(rest)?;
    if !matches!(output, "stdout" | "stderr") {
        return None;
    }
    let goes_on = tags.split(':').next() == Some("P");
    let content = match content.strip_suffix(b"\n") {
        Some(content) if goes_on => content,
        _ => content,
    };
    Some(Entry { timestamp, output, goes_on, content })
}

impl Show {
    #[must_use]
    pub fn new(options: Options) -> Show {
        Show { options, at_line_start: true }
    }

    /// Whether nothing more will be shown.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.options.limit == Some(0)
    }

    /// Adds what is to be seen of an entry. What is none is passed over.
    pub fn entry(&mut self, bytes: &[u8], shown: &mut BytesMut) {
        let Some(entry) = read(bytes) else { return };
        let at_line_start = std::mem::replace(&mut self.at_line_start, !entry.goes_on);
        if self.options.output.is_some_and(|it| it != entry.output) {
            return;
        }
        let written = match (self.options.since_ns, self.options.timestamps) {
            (None, false) => None,
            _ => entry.timestamp.parse::<jiff::Timestamp>().ok(),
        };
        let is_older = |since: i64| written.is_none_or(|it| it.as_nanosecond() < since.into());
        if self.options.since_ns.is_some_and(is_older) {
            return;
        }
        if self.options.timestamps && at_line_start {
            match written {
                Some(written) => self.add(format!("{written:.9} ").as_bytes(), shown),
                None => self.add(format!("{} ", entry.timestamp).as_bytes(), shown),
            }
        }
        self.add(entry.content, shown);
    }

    fn add(&mut self, bytes: &[u8], shown: &mut BytesMut) {
        let length = match &mut self.options.limit {
            None => bytes.len(),
            Some(limit) => {
                let length = usize::try_from(*limit).unwrap_or(usize::MAX).min(bytes.len());
                *limit -= length as u64;
                length
            }
        };
        shown.extend_from_slice(&bytes[..length]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:01.5Z stdout F one\n\
                       2026-01-01T00:00:02.000000001Z stderr P tw\n\
                       nonsense\n\
                       2026-01-01T00:00:02.1Z stderr F:x o\n\
                       2026-01-01T00:00:03Z stdout F three\n";

    fn check(options: Options, wanted: &str) {
        let mut show = Show::new(options);
        let mut shown = BytesMut::new();
        for line in LOG.split_inclusive('\n') {
            show.entry(line.as_bytes(), &mut shown);
        }
        assert_eq!(std::str::from_utf8(&shown).unwrap(), wanted);
    }

    #[test]
    fn a_line_in_parts_is_one_line_with_one_time() {
        check(Options::default(), "one\ntwo\nthree\n");
        check(
            Options { timestamps: true, ..Options::default() },
            "2026-01-01T00:00:01.500000000Z one\n\
             2026-01-01T00:00:02.000000001Z two\n\
             2026-01-01T00:00:03.000000000Z three\n",
        );
    }

    #[test]
    fn entries_are_left_out_by_time_and_by_output() {
        let since = "2026-01-01T00:00:02Z".parse::<jiff::Timestamp>().unwrap().as_nanosecond();
        let since_ns = Some(i64::try_from(since).unwrap());
        check(Options { since_ns, ..Options::default() }, "two\nthree\n");
        check(Options { output: Some("stderr"), ..Options::default() }, "two\n");
    }

    #[test]
    fn the_limit_is_of_what_is_shown() {
        check(Options { limit: Some(6), ..Options::default() }, "one\ntw");
        check(Options { limit: Some(0), ..Options::default() }, "");
    }
}
