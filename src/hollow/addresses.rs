//! The addresses of hollow pods: out of their node's part of the pods' network.
//!
//! Keeps: no two pods of a node have the same one, whatever the informer shows yet.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;
use parking_lot::Mutex;

/// Of each node: which pod, by uid, was given which address.
#[derive(Default)]
pub struct Addresses(Mutex<HashMap<String, HashMap<String, IpAddr>>>);

impl Addresses {
    /// The address of a pod: the one that it has, or the first that is free. None where the node is full.
    pub fn give(
        &self,
        node: &str,
        network: &IpNet,
        uid: &str,
        taken: impl Iterator<Item = IpAddr>,
    ) -> Option<IpAddr> {
        let mut all = self.0.lock();
        let given = all.entry(node.to_owned()).or_default();
        if let Some(address) = given.get(uid) {
            return Some(*address);
        }
        let taken: HashSet<IpAddr> = taken.chain(given.values().copied()).collect();
        // The first is the node's own.
        let mut free = network.hosts().skip(1).filter(|it| !taken.contains(it));
        let address = free.next()?;
        given.insert(uid.to_owned(), address);
        Some(address)
    }

    /// The pod is gone.
    pub fn take_back(&self, node: &str, uid: &str) {
        let mut all = self.0.lock();
        if let Some(given) = all.get_mut(node) {
            given.remove(uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pod_has_one_of_its_own_and_gives_it_back() {
        let addresses = Addresses::default();
        let network: IpNet = "10.42.7.0/29".parse().unwrap();
        let give = |uid: &str| {
            let taken = ["10.42.7.3".parse().unwrap()];
            addresses.give("n", &network, uid, taken.into_iter()).map(|it| it.to_string())
        };
        assert_eq!(give("a").as_deref(), Some("10.42.7.2"));
        assert_eq!(give("a").as_deref(), Some("10.42.7.2"), "its own");
        assert_eq!(give("b").as_deref(), Some("10.42.7.4"), "another's is passed over");
        assert_eq!(give("c").as_deref(), Some("10.42.7.5"));
        assert_eq!(give("d").as_deref(), Some("10.42.7.6"));
        assert_eq!(give("e"), None, "the node is full");
        addresses.take_back("n", "b");
        assert_eq!(give("e").as_deref(), Some("10.42.7.4"));
    }
}
