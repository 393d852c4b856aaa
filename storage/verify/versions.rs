//! Live and Past, walked together: the versions of each key, from the newest on.

use super::{ALL, Ledgers, Report, Rule, next, shown};
use crate::engine::{Cursor, Read, Table};
use crate::error::Error;
use crate::keys;
use crate::record::LeaseId;
use crate::revision::Revision;
use crate::row::{self, Head, State};

/// A version, wherever it stands.
#[derive(Clone, Copy)]
struct Version {
    head: Head,
    /// When it was superseded; `None` for the newest of a key that exists.
    ended: Option<Revision>,
}

pub(super) fn walk(read: &dyn Read, state: &State, report: &mut Report) -> Result<Ledgers, Error> {
    let mut walk = Walk { read, state, ledgers: Ledgers::default() };
    let mut live = read.cursor(Table::Live, ALL)?;
    let mut past = Past { cursor: read.cursor(Table::Past, ALL)?, key: Vec::new(), at: None };
    past.advance(report)?;
    loop {
        // A row that is no version is reported and stepped over; its key still orders the walk.
        let (key, head) = match next(&mut *live, report)? {
            Some((key, row)) => (Some(key.to_vec()), row::read_live(row).map(|(head, _)| head)),
            None => (None, Ok(Head::default())),
        };
        while past.at.is_some() && key.as_ref().is_none_or(|key| past.key < *key) {
            walk.key(None, &mut past, report)?;
        }
        let Some(key) = key else { return Ok(walk.ledgers) };
        let newest = match head {
            Ok(head) => Some(Version { head, ended: None }),
            Err(error) => {
                report.note(Rule::Decodes, error)?;
                None
            }
        };
        walk.live(&key, newest, report)?;
        if past.at.is_some() && past.key == key {
            walk.key(newest, &mut past, report)?;
        }
    }
}

struct Walk<'w> {
    read: &'w dyn Read,
    state: &'w State,
    ledgers: Ledgers,
}

impl Walk<'_> {
    fn live(
        &mut self,
        key: &[u8],
        newest: Option<Version>,
        report: &mut Report,
    ) -> Result<(), Error> {
        if key.is_empty() {
            report.find(Rule::Decodes, "a key without a byte is live");
        }
        let Some(newest) = newest else { return Ok(()) };
        self.version(key, newest, report);
        let lease = newest.head.lease;
        if lease.is_none() {
            return Ok(());
        }
        let mut attached = keys::lease(lease).to_vec();
        attached.extend_from_slice(key);
        if self.get(Table::LeaseKeys, &attached, report)? == Some(false) {
            report.find(
                Rule::Leases,
                format_args!("{} names lease {lease}, under which it does not stand", shown(key)),
            );
        }
        if self.get(Table::Leases, &keys::lease(lease), report)? == Some(false) {
            report.find(Rule::Leases, unknown_lease(key, lease));
        }
        Ok(())
    }

    /// Whether there is such a row; `None` where that cannot be read.
    fn get(&self, table: Table, key: &[u8], report: &mut Report) -> Result<Option<bool>, Error> {
        match self.read.get(table, key) {
            Ok(row) => Ok(Some(row.is_some())),
            Err(error) => report.note(Rule::Decodes, error).map(|()| None),
        }
    }

    /// All past versions of the key that `past` stands on, below `newest`.
    fn key(
        &mut self,
        newest: Option<Version>,
        past: &mut Past<'_>,
        report: &mut Report,
    ) -> Result<(), Error> {
        let key = past.key.clone();
        let mut above = newest;
        while let Some(version) = past.at.filter(|_| past.key == key) {
            self.version(&key, version, report);
            if let Some(above) = above {
                self.follows(&key, above, version, report);
            }
            above = Some(version);
            past.advance(report)?;
        }
        Ok(())
    }

    /// One version by itself.
    fn version(&mut self, key: &[u8], version: Version, report: &mut Report) {
        let Version { head, ended } = version;
        let Head { created, modified, version: number, .. } = head;
        let newest = self.state.revision;
        if modified > newest || ended.is_some_and(|ended| ended > newest) {
            report.find(
                Rule::Order,
                format_args!("{} has a version beyond the newest revision {newest}", shown(key)),
            );
        }
        let puts_fit = number >= 1 && created <= modified && number - 1 <= modified.0 - created.0;
        let first_fits = (number == 1) == (created == modified);
        if created <= Revision::EMPTY || !puts_fit || !first_fits {
            report.find(
                Rule::Versions,
                format_args!(
                    "{}: version {number} of revision {modified}, created at {created}",
                    shown(key)
                ),
            );
        }
        if ended.is_some_and(|ended| ended < modified) {
            report.find(
                Rule::Versions,
                format_args!("{}: the version of revision {modified} ends before it", shown(key)),
            );
        }
        if modified > self.state.compacted {
            self.ledgers.put.enter(key, modified, Revision::ZERO);
        }
        if let Some(ended) = ended.filter(|ended| *ended > self.state.compacted) {
            self.ledgers.superseded.enter(key, modified, ended);
        }
    }

    /// Whether `above` can be what came after `below`.
    fn follows(&self, key: &[u8], above: Version, below: Version, report: &mut Report) {
        let ended = below.ended.unwrap_or_default();
        let overwrote = above.head.created == below.head.created
            && above.head.version.checked_sub(1) == Some(below.head.version);
        let begins_anew = above.head.version == 1;
        let fits = match above.head.modified.cmp(&ended) {
            std::cmp::Ordering::Less => false,
            // Replaced, or deleted and put again by one transaction.
            std::cmp::Ordering::Equal => overwrote || begins_anew,
            // Deleted, and put again later. Below the compaction others may have been between them.
            std::cmp::Ordering::Greater => begins_anew || ended <= self.state.compacted,
        };
        if !fits {
            report.find(
                Rule::Versions,
                format_args!(
                    "{}: version {} of revision {} cannot follow on version {} of revision {}, \
                     superseded at {ended}",
                    shown(key),
                    above.head.version,
                    above.head.modified,
                    below.head.version,
                    below.head.modified,
                ),
            );
        }
    }
}

fn unknown_lease(key: &[u8], lease: LeaseId) -> String {
    format!("{} names lease {lease}, which is not there", shown(key))
}

/// The walk over Past, standing on a version.
struct Past<'r> {
    cursor: Box<dyn Cursor + 'r>,
    key: Vec<u8>,
    at: Option<Version>,
}

impl Past<'_> {
    fn advance(&mut self, report: &mut Report) -> Result<(), Error> {
        self.at = None;
        while let Some((row_key, row)) = next(&mut *self.cursor, report)? {
            self.key.clear();
            let stands_at = keys::read_past(row_key, &mut self.key);
            let (stands_at, version) = match (stands_at, row::read_past(row)) {
                (Ok(stands_at), Ok((head, ended, _))) => {
                    (stands_at, Version { head, ended: Some(ended) })
                }
                (Err(error), _) | (_, Err(error)) => {
                    report.note(Rule::Decodes, error)?;
                    continue;
                }
            };
            if stands_at != version.head.modified {
                report.find(
                    Rule::Versions,
                    format_args!(
                        "{}: a version stands at revision {stands_at} and says {}",
                        shown(&self.key),
                        version.head.modified
                    ),
                );
                continue;
            }
            self.at = Some(version);
            return Ok(());
        }
        Ok(())
    }
}
