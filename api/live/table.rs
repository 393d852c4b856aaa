//! Objects of one kind, as they are now, by namespace and name.

use std::collections::BTreeMap;
use std::ops::Bound;

use parking_lot::RwLock;

use crate::objects::Object;

type Rows = BTreeMap<(String, String), Object>;

/// The objects of one kind. `namespace` is empty for cluster scope.
#[derive(Debug, Default)]
pub struct Table {
    rows: RwLock<Rows>,
}

impl Table {
    #[must_use]
    pub fn get(&self, namespace: &str, name: &str) -> Option<Object> {
        self.rows.read().get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// All of one namespace, in the order of their names.
    #[must_use]
    pub fn within(&self, namespace: &str) -> Vec<Object> {
        let rows = self.rows.read();
        let from = Bound::Included((namespace.to_owned(), String::new()));
        let there = rows.range((from, Bound::Unbounded));
        let there = there.take_while(|((of, _), _)| of == namespace);
        there.map(|(_, object)| object.clone()).collect()
    }

    #[must_use]
    pub fn has_within(&self, namespace: &str) -> bool {
        let rows = self.rows.read();
        let from = Bound::Included((namespace.to_owned(), String::new()));
        rows.range((from, Bound::Unbounded)).next().is_some_and(|((of, _), _)| of == namespace)
    }

    /// All, in the order of namespaces and names.
    #[must_use]
    pub fn all(&self) -> Vec<Object> {
        self.rows.read().values().cloned().collect()
    }

    pub(super) fn is(&self, namespace: &str, name: &str, object: Object) {
        self.rows.write().insert((namespace.to_owned(), name.to_owned()), object);
    }

    pub(super) fn gone(&self, namespace: &str, name: &str) {
        self.rows.write().remove(&(namespace.to_owned(), name.to_owned()));
    }
}
