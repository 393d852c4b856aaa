//! Changes, from the compacted revision on, followed to the versions that they speak of; and the digest.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{ALL, DigestCheck, Known, Ledgers, Report, Rule, next, shown};
use crate::apply::{Digest, Digester};
use crate::engine::{Read, Table};
use crate::error::Error;
use crate::keys;
use crate::record::{Event, EventKind, KeyValue};
use crate::revision::Revision;
use crate::row::{self, State};

pub(super) fn walk(
    read: &dyn Read,
    state: &State,
    known: &Known,
    report: &mut Report,
) -> Result<Ledgers, Error> {
    let anchor = anchor(state, known);
    let mut walk = Walk {
        read,
        state,
        ledgers: Ledgers::default(),
        newest: None,
        put: BTreeSet::new(),
        digester: Digester::new(),
        digest: anchor,
        is_open: false,
        has_gap: false,
    };
    let mut cursor = read.cursor(Table::Changes, ALL)?;
    while let Some((row_key, row)) = next(&mut *cursor, report)? {
        let (place, change) = match (keys::read_change(row_key), row::read_change(row)) {
            (Ok(place), Ok(change)) => (place, change),
            (Err(error), _) | (_, Err(error)) => {
                report.note(Rule::Decodes, error)?;
                walk.has_gap = true;
                continue;
            }
        };
        let (kind, previous, key) = change;
        let change = Change { revision: place.0, kind, previous, key: Bytes::copy_from_slice(key) };
        walk.order(place, report);
        walk.change(change, report)?;
    }
    walk.end(anchor, report);
    Ok(walk.ledgers)
}

/// A digest at a revision after which every change is still there.
fn anchor(state: &State, known: &Known) -> Option<Digest> {
    let beginning = Digest { revision: Revision::EMPTY, value: 0 };
    let whole = (state.compacted <= Revision::EMPTY).then_some(beginning);
    let usable =
        |digest: &Digest| state.compacted <= digest.revision && digest.revision <= state.revision;
    known.digest.filter(usable).or(whole)
}

struct Change {
    revision: Revision,
    kind: EventKind,
    /// The version before the revision began; zero for none.
    previous: Revision,
    key: Bytes,
}

struct Walk<'w> {
    read: &'w dyn Read,
    state: &'w State,
    ledgers: Ledgers,
    /// The newest place that was passed.
    newest: Option<(Revision, u32)>,
    /// Keys that were put in the revision that is being walked. A request's size bounds it.
    put: BTreeSet<Bytes>,
    digester: Digester,
    /// As far as it was computed; `None` where it cannot be.
    digest: Option<Digest>,
    is_open: bool,
    /// A change could not be followed, so the digest would differ whatever it is.
    has_gap: bool,
}

impl Walk<'_> {
    fn order(&mut self, (revision, sub): (Revision, u32), report: &mut Report) {
        let State { revision: newest, compacted, .. } = *self.state;
        let first = compacted.max(Revision::EMPTY.next());
        let expected = match self.newest {
            Some((at, last)) if at == revision => (at, last.saturating_add(1)),
            // Below the compaction, whatever the background has not dropped yet.
            _ if revision < first => (revision, sub),
            Some((at, _)) if at >= first => (at.next(), 0),
            Some(_) | None => (first, 0),
        };
        if revision > newest {
            report.find(
                Rule::Order,
                format_args!("a change at revision {revision}, the newest is {newest}"),
            );
        } else if (revision, sub) != expected && revision >= first {
            report.find(
                Rule::Order,
                format_args!(
                    "the change at revision {revision}, number {sub}, is not the one expected: \
                     revision {}, number {}",
                    expected.0, expected.1
                ),
            );
        }
        if self.newest.is_none_or(|(at, _)| at != revision) {
            self.close();
            self.put.clear();
        }
        self.newest = Some((revision, sub));
    }

    fn change(&mut self, change: Change, report: &mut Report) -> Result<(), Error> {
        // At the compacted revision itself a version that its own transaction superseded is gone.
        if change.revision <= self.state.compacted {
            return Ok(());
        }
        let Some(kv) = self.version(&change, report)? else {
            self.has_gap = true;
            return Ok(());
        };
        if let Some(superseded) = self.superseded(&change, &kv) {
            self.check_superseded(&change, superseded, report)?;
        }
        if change.kind == EventKind::Put {
            self.ledgers.put.enter(&change.key, change.revision, Revision::ZERO);
            self.put.insert(change.key.clone());
        }
        if let Some(digest) = self.digest.filter(|digest| digest.revision < change.revision) {
            if !self.is_open {
                self.digester.begin(digest.value, change.revision);
                self.is_open = true;
            }
            self.digester.change(&Event::new(change.kind, kv, None));
        }
        Ok(())
    }

    /// What the change made of its key; `None` and a finding where that is missing.
    fn version(&self, change: &Change, report: &mut Report) -> Result<Option<KeyValue>, Error> {
        let Change { revision, kind, key, .. } = change;
        if *kind == EventKind::Delete {
            let gone = KeyValue { key: key.clone(), modified: *revision, ..KeyValue::default() };
            return Ok(Some(gone));
        }
        match self.find(key, *revision) {
            Ok(Some((kv, _))) => Ok(Some(kv)),
            Ok(None) => {
                report.find(
                    Rule::Changes,
                    format_args!("{} was put at {revision}, no version is of it", shown(key)),
                );
                Ok(None)
            }
            Err(error) => report.note(Rule::Decodes, error).map(|()| None),
        }
    }

    /// The version of `key` that was made at `modified`, and when it ended.
    fn find(
        &self,
        key: &Bytes,
        modified: Revision,
    ) -> Result<Option<(KeyValue, Option<Revision>)>, Error> {
        if let Some(row) = self.read.get(Table::Live, key)? {
            let kv = row::read_live_shared(key.clone(), &row)?;
            if kv.modified == modified {
                return Ok(Some((kv, None)));
            }
        }
        let mut row_key = Vec::with_capacity(key.len() + 16);
        keys::past(key, modified, &mut row_key);
        let row = self.read.get(Table::Past, &row_key)?;
        let found = row.map(|row| row::read_past_shared(key.clone(), &row)).transpose()?;
        Ok(found.map(|(kv, ended)| (kv, Some(ended))))
    }

    /// Which version the change ended: mostly the one before the revision, but a transaction may also
    /// delete what it has put itself, or put again what it has deleted.
    fn superseded(&self, change: &Change, kv: &KeyValue) -> Option<Revision> {
        let before = (change.previous != Revision::ZERO).then_some(change.previous);
        match change.kind {
            EventKind::Put => before.filter(|_| kv.version > 1),
            EventKind::Delete if self.put.contains(&change.key) => Some(change.revision),
            EventKind::Delete => Some(change.previous),
        }
    }

    fn check_superseded(
        &mut self,
        change: &Change,
        superseded: Revision,
        report: &mut Report,
    ) -> Result<(), Error> {
        let Change { revision, key, .. } = change;
        self.ledgers.superseded.enter(key, superseded, *revision);
        let ended = match self.find(key, superseded) {
            Ok(found) => found.map(|(_, ended)| ended),
            Err(error) => return report.note(Rule::Decodes, error),
        };
        let what = match ended {
            Some(Some(ended)) if ended == *revision => return Ok(()),
            Some(Some(ended)) => format!("ends at {ended}"),
            Some(None) => "is the newest".to_owned(),
            None => "is not there".to_owned(),
        };
        report.find(
            Rule::Changes,
            format_args!(
                "{} changed at {revision}, but its version of revision {superseded} {what}",
                shown(key)
            ),
        );
        Ok(())
    }

    /// Ends the revision that was being walked.
    fn close(&mut self) {
        if self.is_open
            && let (Some(digest), Some((revision, _))) = (&mut self.digest, self.newest)
        {
            *digest = Digest { revision, value: self.digester.end() };
        }
        self.is_open = false;
    }

    fn end(&mut self, anchor: Option<Digest>, report: &mut Report) {
        self.close();
        let State { revision, compacted, digest, .. } = *self.state;
        let seen = self.newest.map_or(Revision::EMPTY, |(revision, _)| revision);
        if seen < revision && revision > compacted.max(Revision::EMPTY) {
            report.find(
                Rule::Order,
                format_args!("the newest revision is {revision}, changes end at {seen}"),
            );
            self.has_gap = true;
        }
        let (Some(anchor), Some(computed)) = (anchor, self.digest) else { return };
        let from = anchor.revision;
        report.digest = if computed == (Digest { revision, value: digest }) {
            DigestCheck::Agrees { from }
        } else {
            if !self.has_gap {
                report.find(
                    Rule::Digest,
                    format_args!(
                        "{digest:032x} at revision {revision}, the changes after {from} come to \
                         {:032x}",
                        computed.value
                    ),
                );
            }
            DigestCheck::Differs { from }
        };
    }
}
