//! A set of keys as few intervals, and whether it holds all of a range.
//!
//! Keeps: intervals are in order, and neither touch nor overlap; so a range is held if one of them holds
//! it, whatever grants it was put together from.

use bytes::Bytes;
use kontiki_storage::request::KeyRange;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges(Vec<Interval>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Interval {
    start: Bytes,
    /// The first key that is not in it; `None` where there is no such key.
    end: Option<Bytes>,
}

impl Ranges {
    pub(crate) fn new(ranges: impl Iterator<Item = KeyRange>) -> Ranges {
        let mut intervals: Vec<Interval> = ranges.filter_map(|range| interval(&range)).collect();
        intervals.sort_by(|a, b| a.start.cmp(&b.start));
        let mut merged: Vec<Interval> = Vec::with_capacity(intervals.len());
        for next in intervals {
            match merged.last_mut() {
                Some(last) if reaches(last, &next.start) => last.end = later(last, next),
                _ => merged.push(next),
            }
        }
        Ranges(merged)
    }

    pub(crate) fn contain(&self, range: &KeyRange) -> bool {
        // An empty range asks for nothing, but is no way to learn whether its start is allowed.
        let wanted = interval(range).unwrap_or_else(|| point(range.start()));
        let after = self.0.partition_point(|it| it.start <= wanted.start);
        let Some(candidate) = after.checked_sub(1).map(|at| &self.0[at]) else {
            return false;
        };
        match (&candidate.end, &wanted.end) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(has), Some(wants)) => wants <= has,
        }
    }

    pub(crate) fn as_key_ranges(&self) -> Vec<KeyRange> {
        let ranges = self.0.iter().map(|it| match &it.end {
            Some(end) => KeyRange::Between { start: it.start.clone(), end: end.clone() },
            None => KeyRange::From(it.start.clone()),
        });
        ranges.collect()
    }
}

fn interval(range: &KeyRange) -> Option<Interval> {
    match range {
        KeyRange::One(key) => Some(point(key)),
        KeyRange::Between { start, end } if start < end => {
            Some(Interval { start: start.clone(), end: Some(end.clone()) })
        }
        KeyRange::Between { .. } => None,
        KeyRange::From(start) => Some(Interval { start: start.clone(), end: None }),
    }
}

fn point(key: &Bytes) -> Interval {
    Interval { start: key.clone(), end: Some([key.as_ref(), &[0]].concat().into()) }
}

fn reaches(interval: &Interval, start: &Bytes) -> bool {
    interval.end.as_ref().is_none_or(|end| start <= end)
}

fn later(one: &Interval, other: Interval) -> Option<Bytes> {
    let one = one.end.clone()?;
    other.end.map(|other| one.max(other))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(0..3u8, 1..4).prop_map(Bytes::from)
    }

    fn range() -> impl Strategy<Value = KeyRange> {
        prop_oneof![
            key().prop_map(KeyRange::One),
            (key(), key()).prop_map(|(start, end)| KeyRange::Between { start, end }),
            key().prop_map(KeyRange::From),
        ]
    }

    /// All keys of up to four bytes of 0, 1 and 2: enough to tell any two of the ranges above apart.
    fn keys() -> Vec<Vec<u8>> {
        let mut all = vec![Vec::new()];
        for length in 0..4 {
            let longer: Vec<Vec<u8>> = all
                .iter()
                .filter(|key| key.len() == length)
                .flat_map(|key| (0..3).map(move |byte| [key.as_slice(), &[byte]].concat()))
                .collect();
            all.extend(longer);
        }
        all
    }

    proptest! {
        #[test]
        fn a_range_is_contained_exactly_if_each_of_its_keys_is(
            held in prop::collection::vec(range(), 0..5), wanted in range(),
        ) {
            let ranges = Ranges::new(held.iter().cloned());
            let covered = |key: &[u8]| held.iter().any(|range| range.contains(key));
            let unbounded = matches!(wanted, KeyRange::From(_));
            let far = b"\xff\xff".as_slice();
            let each = keys().iter().filter(|key| wanted.contains(key)).all(|key| covered(key))
                && (!unbounded || covered(far));
            let empty = matches!(&wanted, KeyRange::Between { start, end } if end <= start);
            if empty {
                prop_assert_eq!(ranges.contain(&wanted), covered(wanted.start()));
            } else {
                prop_assert_eq!(ranges.contain(&wanted), each);
            }
        }

        #[test]
        fn merging_neither_adds_nor_loses_a_key(held in prop::collection::vec(range(), 0..5)) {
            let merged = Ranges::new(held.iter().cloned()).as_key_ranges();
            for key in keys() {
                let before = held.iter().any(|range| range.contains(&key));
                prop_assert_eq!(merged.iter().any(|range| range.contains(&key)), before);
            }
        }
    }
}
