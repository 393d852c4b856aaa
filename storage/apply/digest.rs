//! A running hash over everything that ever changed: two members at one revision with one digest hold the
//! same history, and so the same keys and values.
//!
//! One link of the chain per revision: XXH3 (128 bits) over the digest before, the revision, and each
//! change in order. It guards against faults, not against forgery. Members compare it, so these bytes are
//! as fixed as those on disk.

use xxhash_rust::xxh3::Xxh3Default;

use crate::record::{Event, KeyValue};
use crate::revision::Revision;
use crate::row;

/// The digest of a store, with the revision up to which it covers every change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    pub revision: Revision,
    pub value: u128,
}

pub(crate) struct Digester(Xxh3Default);

impl Digester {
    pub(crate) fn new() -> Digester {
        Digester(Xxh3Default::new())
    }

    pub(crate) fn begin(&mut self, before: u128, revision: Revision) {
        self.0.reset();
        self.0.update(&before.to_be_bytes());
        self.0.update(&revision.0.to_be_bytes());
    }

    pub(crate) fn change(&mut self, event: &Event) {
        let KeyValue { key, value, created, version, lease, .. } = &event.kv;
        let mut head = [0; 41];
        head[0] = row::kind_byte(event.kind);
        head[1..9].copy_from_slice(&created.0.to_be_bytes());
        head[9..17].copy_from_slice(&version.to_be_bytes());
        head[17..25].copy_from_slice(&lease.0.to_be_bytes());
        head[25..33].copy_from_slice(&(key.len() as u64).to_be_bytes());
        head[33..41].copy_from_slice(&(value.len() as u64).to_be_bytes());
        self.0.update(&head);
        self.0.update(key);
        self.0.update(value);
    }

    pub(crate) fn end(&self) -> u128 {
        self.0.digest128()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::EventKind;

    #[test]
    fn the_digest_of_a_change_is_this_number() {
        let kv = KeyValue {
            key: "k".into(),
            value: "v".into(),
            created: Revision(2),
            modified: Revision(2),
            version: 1,
            ..KeyValue::default()
        };
        let mut digester = Digester::new();
        digester.begin(0, Revision(2));
        digester.change(&Event::new(EventKind::Put, kv, None));
        let bytes = [
            [0; 16].as_slice(),
            &[0, 0, 0, 0, 0, 0, 0, 2],
            &[1],
            &[0, 0, 0, 0, 0, 0, 0, 2],
            &[0, 0, 0, 0, 0, 0, 0, 1],
            &[0, 0, 0, 0, 0, 0, 0, 0],
            &[0, 0, 0, 0, 0, 0, 0, 1],
            &[0, 0, 0, 0, 0, 0, 0, 1],
            b"kv",
        ]
        .concat();
        assert_eq!(digester.end(), xxhash_rust::xxh3::xxh3_128(&bytes));
    }
}
