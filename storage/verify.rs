//! What must hold of a store that nobody is writing to: every row decodes, and the tables tell one story.
//!
//! Reads everything once, in key order, with a few lookups beside it. `versions` walks Live and Past
//! together, `changes` walks Changes and follows it to the versions, `leases` looks at who hangs on what.
//! Where one table must hold exactly what another one says, each side keeps a [`Ledger`]: a count and a
//! sum of hashes, which agree when the two sets do.
//!
//! Keeps: bounded memory, whatever is found; findings past a bound are counted, not listed. One table that
//! cannot be read does not hide what is wrong with the others.
//! Never: writes, or repairs.
//!
//! What lies below the compacted revision may be there or gone, row by row; there only single rows are
//! looked at.

mod changes;
mod leases;
mod versions;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_128;

use crate::apply::Digest;
use crate::directory::{Directory, Expect};
use crate::engine::{Cursor, KeyAndValue, Open, Read, Span, Table};
use crate::error::Error;
use crate::keys;
use crate::revision::{Index, Revision};
use crate::row::{self, State};

/// Findings that are listed. One fault seldom comes with fewer followers than a person would read.
pub const FINDINGS_MAX: usize = 200;

/// What is known from elsewhere, to hold the store against.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    /// The first and the last entry in the log; one below the first for the last of an empty log.
    pub log: Option<(Index, Index)>,
    /// The digest at some revision, as of another member or of an earlier look.
    pub digest: Option<Digest>,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Where the store says it is; `None` where it does not say.
    pub state: Option<State>,
    /// Rows that were looked at.
    pub rows: u64,
    pub digest: DigestCheck,
    /// The first [`FINDINGS_MAX`].
    pub findings: Vec<Finding>,
    /// Findings beyond those.
    pub unlisted: u64,
}

/// What could be said of the digest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DigestCheck {
    /// The history it begins with is compacted, and no digest inside what is left was known.
    #[default]
    Unchecked,
    /// It was computed again over every change after this revision, and is what the store says.
    Agrees {
        from: Revision,
    },
    Differs {
        from: Revision,
    },
}

/// One thing that does not hold, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub rule: Rule,
    pub place: String,
}

/// What must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// The layout is the one this program knows, and nothing stands where nothing should.
    Layout,
    /// The store says how far it is, and what it says is possible.
    State,
    /// A row can be read and is of the form of its table.
    Decodes,
    /// Revisions are given one after the other, none twice and none beyond the newest; changes of one
    /// revision are numbered from 0 without a gap.
    Order,
    /// The versions of a key follow one another: no two at once, numbers and revisions in step, and the
    /// newest of a key that exists is there.
    Versions,
    /// Changes and versions tell the same.
    Changes,
    /// Leases, the keys attached to them and the leases that keys name are the same.
    Leases,
    /// The digest is that of the changes.
    Digest,
    /// The log goes on where the store ends.
    Log,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rule::Layout => "layout",
            Rule::State => "state",
            Rule::Decodes => "unreadable",
            Rule::Order => "order of revisions",
            Rule::Versions => "versions of a key",
            Rule::Changes => "changes against versions",
            Rule::Leases => "leases",
            Rule::Digest => "digest",
            Rule::Log => "log",
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.place)
    }
}

impl Report {
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    fn find(&mut self, rule: Rule, place: impl fmt::Display) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding { rule, place: place.to_string() });
        } else {
            self.unlisted += 1;
        }
    }

    /// Notes a row that cannot be read. An error of the disk itself is no finding.
    fn note(&mut self, rule: Rule, error: Error) -> Result<(), Error> {
        match error {
            Error::Damaged(place) => {
                self.find(rule, place);
                Ok(())
            }
            Error::Refused { reason, .. } => {
                self.find(rule, reason);
                Ok(())
            }
            other => Err(other),
        }
    }
}

/// Looks at the data directory at `path`, which nobody else may have open. Nothing is served or dropped
/// from it; opening it removes what a crash may have left lying about, as any opening does.
///
/// # Errors
/// [`Error::Refused`] where there is no data directory, or where it is in use; [`Error::Damaged`] where it
/// is condemned or cannot even be opened; what the disk says.
pub fn directory(path: &Path, engine: &dyn Open, known: &Known) -> Result<Report, Error> {
    let Some(identity) = Directory::inspect(path)? else {
        return Err(Error::Refused {
            path: path.to_owned(),
            reason: "holds no data; give the data directory of a master".into(),
        });
    };
    let directory = Directory::open_or_create(path, &Expect::default(), || identity)?;
    let engine = engine.open(&directory.state()?, Arc::new(|_, _, _| true))?;
    store(engine.as_ref(), known)
}

/// Looks at all rows of a store: of an engine that nobody writes to, or of one moment of it.
pub fn store(read: &dyn Read, known: &Known) -> Result<Report, Error> {
    let mut report = Report::default();
    let Some(state) = state(read, &mut report)? else {
        return Ok(report);
    };
    report.state = Some(state.clone());
    against_log(&state, known, &mut report);
    let versions = versions::walk(read, &state, &mut report)?;
    let told = changes::walk(read, &state, known, &mut report)?;
    versions.put.against(told.put, "put", &mut report);
    versions.superseded.against(told.superseded, "superseded", &mut report);
    leases::walk(read, &mut report)?;
    nothing_in_system(read, &mut report)?;
    Ok(report)
}

fn state(read: &dyn Read, report: &mut Report) -> Result<Option<State>, Error> {
    let mut found = None;
    let mut has_layout = false;
    let mut cursor = read.cursor(Table::Meta, ALL)?;
    while let Some((key, value)) = next(&mut *cursor, report)? {
        if key == keys::FORMAT {
            has_layout = true;
            match row::read_format(value) {
                Ok(row::FORMAT) => {}
                Ok(other) => {
                    report.find(Rule::Layout, format_args!("{other}, known is {}", row::FORMAT));
                    return Ok(None);
                }
                Err(error) => report.note(Rule::Layout, error)?,
            }
        } else if key == keys::STATE {
            match State::read(&bytes::Bytes::copy_from_slice(value)) {
                Ok(state) => found = Some(state),
                Err(error) => report.note(Rule::State, error)?,
            }
        } else {
            report.find(Rule::Layout, format_args!("a row {} in meta", shown(key)));
        }
    }
    drop(cursor);
    if !has_layout {
        report.find(Rule::Layout, "the number of the layout is missing");
    }
    if found.is_none() && !report.findings.iter().any(|finding| finding.rule == Rule::State) {
        report.find(Rule::State, "the state of the store is missing");
    }
    Ok(found)
}

fn against_log(state: &State, known: &Known, report: &mut Report) {
    let Some((first, last)) = known.log else { return };
    let applied = state.applied.unwrap_or_default();
    if applied > last {
        report.find(
            Rule::Log,
            format_args!("entry {applied} is applied, the log ends at {last}: it lost its end"),
        );
    }
    if applied.next() < first {
        report.find(
            Rule::Log,
            format_args!("entry {applied} is applied, the log begins at {first}: some are missing"),
        );
    }
}

fn nothing_in_system(read: &dyn Read, report: &mut Report) -> Result<(), Error> {
    let mut cursor = read.cursor(Table::System, ALL)?;
    while let Some((key, _)) = next(&mut *cursor, report)? {
        report.find(Rule::Layout, format_args!("a row {} in system", shown(key)));
    }
    Ok(())
}

const ALL: Span<'static> = Span { lower: b"", upper: None };

/// The next row. A table that breaks off is a finding, and ends there.
fn next<'c>(
    cursor: &'c mut (dyn Cursor + '_),
    report: &mut Report,
) -> Result<Option<KeyAndValue<'c>>, Error> {
    match cursor.next() {
        Ok(row) => {
            report.rows += u64::from(row.is_some());
            Ok(row)
        }
        Err(error) => report.note(Rule::Decodes, error).map(|()| None),
    }
}

/// A set of facts, as a count and a sum: two sets that agree in both are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ledger {
    count: u64,
    sum: u128,
}

impl Ledger {
    /// That `key` had a version of `modified`, which ended at `ended` (zero where that is not told).
    fn enter(&mut self, key: &[u8], modified: Revision, ended: Revision) {
        let fact = [&modified.0.to_be_bytes()[..], &ended.0.to_be_bytes(), key].concat();
        self.count += 1;
        self.sum = self.sum.wrapping_add(xxh3_128(&fact));
    }

    /// Holds the versions against what Changes tells of them.
    fn against(self, told: Ledger, what: &str, report: &mut Report) {
        if self == told {
            return;
        }
        let (there, told) = (self.count, told.count);
        let place = if there == told {
            format!("{there} versions were {what}, by other changes than those that are told")
        } else {
            format!("{there} versions were {what} since the compaction, {told} changes tell so")
        };
        report.find(Rule::Changes, place);
    }
}

/// What versions and changes each say of the time since the compaction.
#[derive(Clone, Copy, Debug, Default)]
struct Ledgers {
    put: Ledger,
    superseded: Ledger,
}

/// A key as a person can read it, cut where it is long.
fn shown(key: &[u8]) -> String {
    const SHOWN_BYTES_MAX: usize = 120;
    let cut = if key.len() > SHOWN_BYTES_MAX { "…" } else { "" };
    format!("\"{}{cut}\"", key[..key.len().min(SHOWN_BYTES_MAX)].escape_ascii())
}
