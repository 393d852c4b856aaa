//! Forgets history below a revision.
//!
//! A compaction is one number, replicated like any command: from the moment it is applied, no reader
//! sees what lies below it. The space comes back later and in the background, whenever the engine gets
//! round to asking [`Floor::retain`], so nothing ever stops for it.
//!
//! Keeps: the newest version of every live key, whatever its age; everything that a read or a watch at
//! or after the compacted revision can see.
//! Never: lets a row go before the number that condemned it is durable. A crash may bring the state back
//! to before the compaction, and there the row is still needed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::engine::{Retain, Table};
use crate::keys;
use crate::revision::Revision;
use crate::row;

/// The revision below which history may really vanish. It only ever rises; an engine and its store share
/// one, and another engine needs another.
#[derive(Clone, Debug, Default)]
pub struct Floor(Arc<AtomicU64>);

impl Floor {
    #[must_use]
    pub fn new() -> Floor {
        Floor::default()
    }

    #[must_use]
    pub fn get(&self) -> Revision {
        Revision(self.0.load(Ordering::Acquire))
    }

    pub(crate) fn raise(&self, to: Revision) {
        self.0.fetch_max(to.0, Ordering::AcqRel);
    }

    /// The answer for the engine whose rows this floor is about.
    #[must_use]
    pub fn retain(&self) -> Retain {
        let floor = self.clone();
        Arc::new(move |table, key, value| retains(floor.get(), table, key, value))
    }
}

/// Whether a row can be seen by a read or a watch at or after `floor`. What isn't understood is kept.
fn retains(floor: Revision, table: Table, key: &[u8], value: &[u8]) -> bool {
    match table {
        // Visible from `modified` on and up to just before it was superseded.
        Table::Past => row::superseded(value).is_none_or(|superseded| superseded > floor),
        // A watch may begin at the floor itself.
        Table::Changes => keys::read_change(key).map_or(true, |(revision, _)| revision >= floor),
        Table::Meta | Table::Live | Table::Leases | Table::LeaseKeys | Table::System => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Head;

    fn past(superseded: u64) -> Vec<u8> {
        Head::default().past(Revision(superseded)).to_vec()
    }

    #[test]
    fn a_version_goes_when_it_was_superseded_at_or_below_the_floor() {
        let floor = Floor::new();
        let retain = floor.retain();
        assert!(retain(Table::Past, b"k", &past(1)));
        floor.raise(Revision(5));
        assert!(!retain(Table::Past, b"k", &past(5)));
        assert!(retain(Table::Past, b"k", &past(6)));
    }

    #[test]
    fn changes_at_the_floor_stay() {
        assert!(!retains(Revision(5), Table::Changes, &keys::change(Revision(4), 9), b""));
        assert!(retains(Revision(5), Table::Changes, &keys::change(Revision(5), 0), b""));
    }

    #[test]
    fn other_tables_and_rows_not_understood_stay() {
        let floor = Revision(u64::MAX);
        for table in [Table::Meta, Table::Live, Table::Leases, Table::LeaseKeys, Table::System] {
            assert!(retains(floor, table, b"k", &past(1)), "{table:?}");
        }
        assert!(retains(floor, Table::Past, b"k", b"\x02 another form"));
        assert!(retains(floor, Table::Past, b"k", b""));
        assert!(retains(floor, Table::Changes, b"short", b""));
    }

    #[test]
    fn the_floor_never_sinks() {
        let floor = Floor::new();
        floor.raise(Revision(5));
        floor.raise(Revision(3));
        assert_eq!(floor.get(), Revision(5));
    }
}
