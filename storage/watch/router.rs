//! Which groups a changed key reaches.
//!
//! Keeps true: the cost of a lookup follows what matches, not how many groups there are. A single
//! key is one hash lookup; prefixes are one lookup for each distinct prefix length in use (and
//! never more than the key has bytes); what is neither lies in an interval tree.
//! Never: a group is looked at that the key does not reach, except on the way down the tree.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use super::intervals::Intervals;
use crate::request::{KeyRange, after_prefix};

/// A group's place in the hub's table.
pub(super) type GroupId = usize;

/// Each range at most once.
#[derive(Default)]
pub(super) struct Router {
    keys: HashMap<Bytes, GroupId>,
    /// By length, then by prefix. A length without prefixes is taken out: it would cost every
    /// lookup.
    prefixes: BTreeMap<usize, HashMap<Bytes, GroupId>>,
    intervals: Intervals,
}

/// How a range is looked up.
enum Route<'a> {
    Key(&'a Bytes),
    Prefix(&'a Bytes),
    Interval(&'a Bytes, Option<&'a Bytes>),
    /// No key can ever be in it.
    Nowhere,
}

impl Router {
    pub(super) fn insert(&mut self, range: &KeyRange, id: GroupId) {
        let before = match route(range) {
            Route::Key(key) => self.keys.insert(key.clone(), id),
            Route::Prefix(prefix) => {
                self.prefixes.entry(prefix.len()).or_default().insert(prefix.clone(), id)
            }
            Route::Interval(start, end) => {
                self.intervals.insert(start.clone(), end.cloned(), id);
                None
            }
            Route::Nowhere => None,
        };
        assert!(before.is_none(), "{range:?} is routed twice: to {before:?} and {id}");
    }

    pub(super) fn remove(&mut self, range: &KeyRange, id: GroupId) {
        let removed = match route(range) {
            Route::Key(key) => self.keys.remove(key) == Some(id),
            Route::Prefix(prefix) => {
                let length = prefix.len();
                let of_length = self.prefixes.get_mut(&length);
                let of_length = of_length.expect("a routed prefix is listed under its length");
                let removed = of_length.remove(prefix) == Some(id);
                if of_length.is_empty() {
                    self.prefixes.remove(&length);
                }
                removed
            }
            Route::Interval(start, end) => self.intervals.remove(start, end, id),
            Route::Nowhere => true,
        };
        assert!(removed, "{range:?} is not routed to {id}");
    }

    /// Calls `reached` once for each group whose range holds `key`, in no particular order.
    pub(super) fn reach(&self, key: &[u8], mut reached: impl FnMut(GroupId)) {
        if let Some(id) = self.keys.get(key) {
            reached(*id);
        }
        for (length, prefixes) in self.prefixes.range(..=key.len()) {
            if let Some(id) = prefixes.get(&key[..*length]) {
                reached(*id);
            }
        }
        self.intervals.stab(key, &mut reached);
    }
}

fn route(range: &KeyRange) -> Route<'_> {
    match range {
        KeyRange::One(key) => Route::Key(key),
        KeyRange::Between { start, end } if end <= start => Route::Nowhere,
        KeyRange::Between { start, end } if after_prefix(start).as_ref() == Some(end) => {
            Route::Prefix(start)
        }
        KeyRange::Between { start, end } => Route::Interval(start, Some(end)),
        // Nothing comes after the prefix: "everything", and prefixes of 0xff alone.
        KeyRange::From(start) if after_prefix(start).is_none() => Route::Prefix(start),
        KeyRange::From(start) => Route::Interval(start, None),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reached(router: &Router, key: &[u8]) -> Vec<GroupId> {
        let mut ids = Vec::new();
        router.reach(key, |id| ids.push(id));
        ids.sort_unstable();
        ids
    }

    fn key(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    /// Keys over a tiny alphabet, so that ranges touch, nest and end at each other's edges.
    fn any_key() -> impl Strategy<Value = Bytes> {
        let byte = prop::sample::select(vec![0x00_u8, b'a', b'b', 0xfe, 0xff]);
        prop::collection::vec(byte, 0..4).prop_map(Bytes::from)
    }

    fn any_range() -> impl Strategy<Value = KeyRange> {
        prop_oneof![
            any_key().prop_map(KeyRange::One),
            any_key().prop_map(KeyRange::prefix),
            any_key().prop_map(KeyRange::From),
            (any_key(), any_key()).prop_map(|(start, end)| KeyRange::Between { start, end }),
        ]
    }

    proptest! {
        #[test]
        fn a_key_reaches_exactly_the_ranges_that_hold_it(
            ranges in prop::collection::vec(any_range(), 0..60),
            gone in prop::collection::vec(any::<bool>(), 60),
            keys in prop::collection::vec(any_key(), 1..30),
        ) {
            let mut router = Router::default();
            let mut routed: Vec<(KeyRange, GroupId)> = Vec::new();
            for (id, range) in ranges.into_iter().enumerate() {
                // Two spellings of one set may collide where the hub knows one group for each
                // range.
                if routed.iter().all(|(other, _)| *other != range) {
                    router.insert(&range, id);
                    routed.push((range, id));
                }
            }
            let check = |router: &Router, routed: &[(KeyRange, GroupId)]| {
                for key in &keys {
                    let mut wanted: Vec<GroupId> = routed
                        .iter()
                        .filter(|(range, _)| range.contains(key))
                        .map(|(_, id)| *id)
                        .collect();
                    wanted.sort_unstable();
                    assert_eq!(reached(router, key), wanted, "key {key:?}");
                }
            };
            check(&router, &routed);
            let mut gone = gone.into_iter();
            routed.retain(|(range, id)| {
                let stays = !gone.next().unwrap();
                if !stays {
                    router.remove(range, *id);
                }
                stays
            });
            check(&router, &routed);
            for (range, id) in routed.drain(..) {
                router.remove(&range, id);
            }
            prop_assert!(router.keys.is_empty());
            prop_assert!(router.prefixes.is_empty());
            prop_assert!(router.intervals.is_empty());
        }
    }

    #[test]
    fn a_prefix_reaches_the_prefix_itself_and_what_begins_with_it() {
        let mut router = Router::default();
        router.insert(&KeyRange::prefix("/pods/"), 1);
        router.insert(&KeyRange::prefix("/pods/a/"), 2);
        router.insert(&KeyRange::all(), 3);
        assert_eq!(reached(&router, b"/pods/a/x"), [1, 2, 3]);
        assert_eq!(reached(&router, b"/pods/"), [1, 3]);
        assert_eq!(reached(&router, b"/pods"), [3]);
    }

    #[test]
    fn the_end_of_an_interval_is_outside() {
        let mut router = Router::default();
        router.insert(&KeyRange::Between { start: key("b"), end: key("d") }, 1);
        router.insert(&KeyRange::From(key("c")), 2);
        assert_eq!(reached(&router, b"b"), [1]);
        assert_eq!(reached(&router, b"c"), [1, 2]);
        assert_eq!(reached(&router, b"d"), [2]);
    }

    #[test]
    fn an_empty_range_is_reached_by_nothing() {
        let mut router = Router::default();
        let range = KeyRange::Between { start: key("b"), end: key("b") };
        router.insert(&range, 1);
        assert_eq!(reached(&router, b"b"), [0_usize; 0]);
        router.remove(&range, 1);
    }
}
