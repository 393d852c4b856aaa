//! Sets of completion indexes, as statuses and success policies write them: `0,2-5,7`. Pure.

use std::fmt;

/// Ordered ranges, with gaps between them; both ends belong to a range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indexes(Vec<(i32, i32)>);

impl Indexes {
    /// Reads what a status has. What is not below `completions`, or cannot be read, is left out.
    #[must_use]
    pub fn parse(text: &str, completions: i32) -> Indexes {
        let mut ranges = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) else {
                continue;
            };
            if first >= 0 && first <= last && first < completions {
                ranges.push((first, last.min(completions - 1)));
            }
        }
        Indexes(ranges).joined()
    }

    #[must_use]
    pub fn with(&self, indexes: impl IntoIterator<Item = i32>) -> Indexes {
        let more = indexes.into_iter().map(|index| (index, index));
        Indexes(self.0.iter().copied().chain(more).collect()).joined()
    }

    #[must_use]
    pub fn and(&self, other: &Indexes) -> Indexes {
        Indexes(self.0.iter().chain(&other.0).copied().collect()).joined()
    }

    fn joined(mut self) -> Indexes {
        self.0.sort_unstable();
        let mut joined: Vec<(i32, i32)> = Vec::with_capacity(self.0.len());
        for (first, last) in self.0 {
            match joined.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => {
                    before.1 = before.1.max(last)
                }
                _ => joined.push((first, last)),
            }
        }
        Indexes(joined)
    }

    #[must_use]
    pub fn contains(&self, index: i32) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < index);
        self.0.get(at).is_some_and(|(first, _)| *first <= index)
    }

    #[must_use]
    pub fn len(&self) -> i32 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many are in both.
    #[must_use]
    pub fn overlap(&self, other: &Indexes) -> i32 {
        let pairs = self.0.iter().flat_map(|a| other.0.iter().map(move |b| (a, b)));
        pairs.map(|(a, b)| (a.1.min(b.1) - a.0.max(b.0) + 1).max(0)).sum()
    }

    /// The first `count` indexes below `completions` that are not in here.
    #[must_use]
    pub fn missing(&self, completions: i32, count: usize) -> Vec<i32> {
        let mut missing = Vec::new();
        let mut next = 0;
        for (first, last) in self.0.iter().copied().chain([(completions, completions)]) {
            let room = count - missing.len();
            missing.extend((next..first.min(completions)).take(room));
            next = next.max(last.saturating_add(1));
        }
        missing
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (first, last)) in self.0.iter().enumerate() {
            let comma = if position > 0 { "," } else { "" };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_are_written_as_statuses_have_them() {
        assert_eq!(Indexes::default().with([3, 1, 2, 7, 5, 8]).to_string(), "1-3,5,7,8");
        assert_eq!(Indexes::parse("0,2-5,9,x,7-99", 10).to_string(), "0,2-5,7-9");
        assert_eq!(Indexes::parse("", 10), Indexes::default());
        assert_eq!(Indexes::parse("0-2,4", 9).overlap(&Indexes::parse("1-8", 9)), 3);
    }

    proptest! {
        #[test]
        fn a_set_of_indexes_is_a_set(numbers in proptest::collection::btree_set(0..40i32, 0..30)) {
            let indexes = Indexes::default().with(numbers.iter().copied());
            prop_assert_eq!(indexes.len() as usize, numbers.len());
            prop_assert_eq!(&Indexes::parse(&indexes.to_string(), 40), &indexes);
            prop_assert!((0..40).all(|index| indexes.contains(index) == numbers.contains(&index)));
            let missing: BTreeSet<i32> = indexes.missing(40, 100).into_iter().collect();
            let expected: BTreeSet<i32> = (0..40).filter(|it| !numbers.contains(it)).collect();
            prop_assert_eq!(missing, expected);
            let capped = indexes.missing(40, 3);
            prop_assert!(capped.len() <= 3);
        }
    }
}
