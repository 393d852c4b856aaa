//! All rows there are now, found by resource or by kind, and in the order in which discovery shows them.
//!
//! Keeps: a reader sees one whole set of rows (a [`Snapshot`]), never half of a change. Every change counts
//! one up, so that whatever was made of the rows (discovery, OpenAPI) is known to be old.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::{Kind, builtin, versions};
use crate::object::GroupVersionKind;

/// Where a group stands in discovery, if it is not built in (CustomResourceDefinitions).
const PRIORITY_CUSTOM: u32 = 1000;

pub struct Registry {
    now: ArcSwap<Snapshot>,
    changing: Mutex<()>,
}

/// The rows at one moment.
#[derive(Default)]
pub struct Snapshot {
    /// Sorted by group, version, resource.
    by_resource: Vec<Arc<Kind>>,
    /// Sorted by group, version, kind.
    by_kind: Vec<Arc<Kind>>,
    groups: Vec<Group>,
    changes: u64,
}

/// An API group, its best version first.
pub struct Group {
    pub name: Arc<str>,
    pub versions: Vec<Version>,
}

pub struct Version {
    pub name: Arc<str>,
    /// Sorted by resource.
    pub kinds: Vec<Arc<Kind>>,
}

impl Default for Registry {
    fn default() -> Registry {
        Registry::builtin()
    }
}

impl Registry {
    /// Every built-in kind that is generally available.
    #[must_use]
    pub fn builtin() -> Registry {
        Registry::of(builtin::kinds().into_iter().map(Arc::new).collect())
    }

    /// These rows and no others.
    #[must_use]
    pub fn of(kinds: Vec<Arc<Kind>>) -> Registry {
        let now = ArcSwap::from_pointee(Snapshot::of(kinds, 0));
        Registry { now, changing: Mutex::default() }
    }

    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.now.load_full()
    }

    /// How often the rows changed.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.now.load().changes
    }

    #[must_use]
    pub fn find(&self, group: &str, version: &str, resource: &str) -> Option<Arc<Kind>> {
        self.now.load().find(group, version, resource).cloned()
    }

    #[must_use]
    pub fn by_gvk(&self, gvk: &GroupVersionKind) -> Option<Arc<Kind>> {
        self.now.load().by_kind(&gvk.group, &gvk.version, &gvk.kind).cloned()
    }

    /// Adds rows; one that is already there by (group, version, resource) is replaced.
    pub fn put(&self, kinds: Vec<Kind>) {
        let kinds: Vec<Arc<Kind>> = kinds.into_iter().map(Arc::new).collect();
        self.change(|rows| {
            rows.retain(|row| !kinds.iter().any(|kind| by_resource(row, kind).is_eq()));
            rows.extend(kinds);
            true
        });
    }

    /// Takes out all rows for which `gone` says so, such as all versions of a CustomResourceDefinition.
    pub fn remove(&self, mut gone: impl FnMut(&Kind) -> bool) {
        self.change(|rows| {
            let before = rows.len();
            rows.retain(|row| !gone(row));
            rows.len() != before
        });
    }

    /// Rows come and go in one step: no reader sees a moment without either.
    pub fn replace(&self, mut gone: impl FnMut(&Kind) -> bool, kinds: Vec<Kind>) {
        let kinds: Vec<Arc<Kind>> = kinds.into_iter().map(Arc::new).collect();
        self.change(|rows| {
            rows.retain(|row| {
                !gone(row) && !kinds.iter().any(|kind| by_resource(row, kind).is_eq())
            });
            rows.extend(kinds);
            true
        });
    }

    fn change(&self, make: impl FnOnce(&mut Vec<Arc<Kind>>) -> bool) {
        let _one_at_a_time = self.changing.lock();
        let now = self.now.load();
        let mut rows = now.by_resource.clone();
        if make(&mut rows) {
            self.now.store(Arc::new(Snapshot::of(rows, now.changes + 1)));
        }
    }
}

impl Snapshot {
    fn of(mut rows: Vec<Arc<Kind>>, changes: u64) -> Snapshot {
        rows.sort_by(|a, b| by_resource(a, b));
        let mut by_kind = rows.clone();
        by_kind
            .sort_by(|a, b| (&a.group, &a.version, &a.kind).cmp(&(&b.group, &b.version, &b.kind)));
        let groups = groups(&rows);
        Snapshot { by_resource: rows, by_kind, groups, changes }
    }

    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    #[must_use]
    pub fn find(&self, group: &str, version: &str, resource: &str) -> Option<&Arc<Kind>> {
        let wanted = (group, version, resource);
        let at = self
            .by_resource
            .binary_search_by(|it| {
                (it.group.as_ref(), it.version.as_ref(), it.resource.as_ref()).cmp(&wanted)
            })
            .ok()?;
        Some(&self.by_resource[at])
    }

    #[must_use]
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Kind>> {
        let wanted = (group, version, kind);
        let at = self
            .by_kind
            .binary_search_by(|it| {
                (it.group.as_ref(), it.version.as_ref(), it.kind.as_ref()).cmp(&wanted)
            })
            .ok()?;
        Some(&self.by_kind[at])
    }

    /// All rows, sorted by group, version and resource.
    pub fn kinds(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.by_resource.iter()
    }

    /// One row for each stored object, in the version in which it rests.
    pub fn stored(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.by_resource.iter().filter(|kind| kind.is_stored_version())
    }

    /// In discovery's order. The core group is among them, with an empty name.
    #[must_use]
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    #[must_use]
    pub fn group(&self, name: &str) -> Option<&Group> {
        self.groups.iter().find(|group| group.name.as_ref() == name)
    }

    /// The resource in the best version that has it.
    #[must_use]
    pub fn preferred(&self, group: &str, resource: &str) -> Option<&Arc<Kind>> {
        let versions = &self.group(group)?.versions;
        versions.iter().find_map(|version| self.find(group, &version.name, resource))
    }

    /// The kind in the best version that has it.
    #[must_use]
    pub fn preferred_kind(&self, group: &str, kind: &str) -> Option<&Arc<Kind>> {
        let versions = &self.group(group)?.versions;
        versions.iter().find_map(|version| self.by_kind(group, &version.name, kind))
    }
}

impl Group {
    /// The version that clients should use.
    #[must_use]
    pub fn preferred(&self) -> Option<&Version> {
        self.versions.first()
    }

    #[must_use]
    pub fn version(&self, name: &str) -> Option<&Version> {
        self.versions.iter().find(|version| version.name.as_ref() == name)
    }
}

fn by_resource(a: &Kind, b: &Kind) -> Ordering {
    (&a.group, &a.version, &a.resource).cmp(&(&b.group, &b.version, &b.resource))
}

/// `rows` are sorted by resource.
fn groups(rows: &[Arc<Kind>]) -> Vec<Group> {
    let mut groups: BTreeMap<&Arc<str>, BTreeMap<&Arc<str>, Vec<Arc<Kind>>>> = BTreeMap::new();
    for row in rows {
        let versions = groups.entry(&row.group).or_default();
        versions.entry(&row.version).or_default().push(row.clone());
    }
    let mut groups: Vec<Group> = groups
        .into_iter()
        .map(|(name, versions)| {
            let mut versions: Vec<Version> = versions
                .into_iter()
                .map(|(name, kinds)| Version { name: name.clone(), kinds })
                .collect();
            versions.sort_by(|a, b| versions::compare(&a.name, &b.name));
            Group { name: name.clone(), versions }
        })
        .collect();
    // Stable: groups of one priority stay in the order of their names.
    groups.sort_by_key(|group| {
        std::cmp::Reverse(builtin::priority(&group.name).unwrap_or(PRIORITY_CUSTOM))
    });
    groups
}

#[cfg(test)]
mod tests;
