//! What the scheduler looks up besides nodes and pods: namespaces, volumes, budgets.

use std::sync::Arc;

use k8s_openapi::ListableResource;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use kontiki_api::client::Typed;

use crate::reconcile::{Informer, Informers, Key};

/// Objects of one kind: as they are now, or as a test has them.
pub enum Table<K> {
    Live(Informer<K>),
    #[cfg(test)]
    Fixed(std::collections::BTreeMap<Key, Arc<K>>),
}

impl<K: Typed + ListableResource> Table<K> {
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        match self {
            Table::Live(informer) => informer.get(key),
            #[cfg(test)]
            Table::Fixed(objects) => objects.get(key).cloned(),
        }
    }

    #[must_use]
    pub fn list(&self) -> Vec<Arc<K>> {
        match self {
            Table::Live(informer) => informer.list(),
            #[cfg(test)]
            Table::Fixed(objects) => objects.values().cloned().collect(),
        }
    }

    #[must_use]
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        match self {
            Table::Live(informer) => informer.in_namespace(namespace),
            #[cfg(test)]
            Table::Fixed(objects) => objects
                .iter()
                .filter(|(key, _)| key.namespace == namespace)
                .map(|(_, object)| object.clone())
                .collect(),
        }
    }
}

pub struct World {
    pub namespaces: Table<Namespace>,
    pub claims: Table<PersistentVolumeClaim>,
    pub volumes: Table<PersistentVolume>,
    pub classes: Table<StorageClass>,
    pub budgets: Table<PodDisruptionBudget>,
}

impl World {
    #[must_use]
    pub fn live(informers: &Informers) -> World {
        World {
            namespaces: Table::Live(informers.of()),
            claims: Table::Live(informers.of()),
            volumes: Table::Live(informers.of()),
            classes: Table::Live(informers.of()),
            budgets: Table::Live(informers.of()),
        }
    }

    #[must_use]
    pub fn namespace(&self, name: &str) -> Option<Arc<Namespace>> {
        self.namespaces.get(&Key::new("", name))
    }
}

#[cfg(test)]
impl World {
    /// A world with nothing in it.
    pub fn empty() -> World {
        use std::collections::BTreeMap;

        World {
            namespaces: Table::Fixed(BTreeMap::new()),
            claims: Table::Fixed(BTreeMap::new()),
            volumes: Table::Fixed(BTreeMap::new()),
            classes: Table::Fixed(BTreeMap::new()),
            budgets: Table::Fixed(BTreeMap::new()),
        }
    }
}
