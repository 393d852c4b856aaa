//! The two numbers everything is ordered by. They are never mixed up: they are types, not integers.

use std::fmt;

/// A point in the store's history. An empty store is at revision 1; every change makes the next one.
///
/// All changes of one transaction share a revision and differ in their sub-number, which counts the
/// changed keys from 0 (etcd's `main` and `sub`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl Revision {
    /// Before everything: what a key that does not exist has as its revisions.
    pub const ZERO: Revision = Revision(0);
    /// The revision of a store to which nothing was ever written.
    pub const EMPTY: Revision = Revision(1);

    #[must_use]
    pub fn next(self) -> Revision {
        Revision(self.0 + 1)
    }

    /// The revision before this one; zero stays zero.
    #[must_use]
    pub fn previous(self) -> Revision {
        Revision(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The position of an entry in the replicated log. Entries without changes take an index but no revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Index(pub u64);

impl Index {
    #[must_use]
    pub fn next(self) -> Index {
        Index(self.0 + 1)
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
