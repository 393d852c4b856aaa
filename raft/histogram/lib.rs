//! What openraft counts the sizes of batches with, in the place of the crate of this name.
//!
//! That crate makes tables for sixteen resolutions when the first value is counted: 26 MB that stay in memory,
//! a third of an idle master's, of which openraft uses one kilobyte. Nothing here reads what is counted (the
//! feature of openraft that shows it is off), so powers of two are fine enough.
//!
//! Keeps: the part of the crate's face that openraft names. A value falls into the bucket of its highest bit.
//! Never: allocates more than its 65 counters.

use std::fmt;
use std::marker::PhantomData;

/// One bucket for zero, and one for each highest bit.
const BUCKETS: usize = 65;

/// How often values of each magnitude were counted. `T` is openraft's to name, and means nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: [u64; BUCKETS],
    nothing: PhantomData<T>,
}

impl<T> Histogram<T> {
    #[must_use]
    pub fn new() -> Histogram<T> {
        Histogram { counts: [0; BUCKETS], nothing: PhantomData }
    }

    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    pub fn record_n(&mut self, value: u64, times: u64) {
        let bucket = (u64::BITS - value.leading_zeros()) as usize;
        self.counts[bucket] = self.counts[bucket].saturating_add(times);
    }

    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The smallest value of the bucket below or in which that share of all values lies.
    fn at(&self, share: f64) -> u64 {
        let wanted = (self.total() as f64 * share).ceil() as u64;
        let mut seen = 0u64;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen = seen.saturating_add(*count);
            if *count > 0 && seen >= wanted {
                return if bucket == 0 { 0 } else { 1 << (bucket - 1) };
            }
        }
        0
    }

    #[must_use]
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total(),
            p0_1: self.at(0.001),
            p1: self.at(0.01),
            p5: self.at(0.05),
            p10: self.at(0.1),
            p50: self.at(0.5),
            p90: self.at(0.9),
            p99: self.at(0.99),
            p99_9: self.at(0.999),
        }
    }
}

impl<T> Default for Histogram<T> {
    fn default() -> Histogram<T> {
        Histogram::new()
    }
}

/// Shares of what was counted, each by the value that it does not exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PercentileStats {
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PercentileStats { samples, p50, p90, p99, .. } = self;
        write!(f, "[samples: {samples}, P50: {p50}, P90: {p90}, P99: {p99}]")
    }
}

/// Several of them under each other, each with its name.
#[derive(Debug, Clone, Default)]
pub struct AsciiChart {
    rows: Vec<(String, Histogram)>,
}

impl AsciiChart {
    #[must_use]
    pub fn new() -> AsciiChart {
        AsciiChart::default()
    }

    #[must_use]
    pub fn add(mut self, name: impl Into<String>, histogram: Histogram) -> AsciiChart {
        self.rows.push((name.into(), histogram));
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, histogram) in &self.rows {
            writeln!(f, "{name}: {}", histogram.percentile_stats())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_by_their_magnitude() {
        let mut sizes = Histogram::<()>::new();
        assert_eq!((sizes.total(), sizes.percentile_stats().p99), (0, 0));
        for value in [0, 1, 2, 3, u64::MAX] {
            sizes.record(value);
        }
        sizes.record_n(5, 95);
        let stats = sizes.percentile_stats();
        assert_eq!((stats.samples, stats.p0_1, stats.p50, stats.p99), (100, 0, 4, 4));
        assert_eq!(sizes.at(1.0), 1 << 63);
        let chart = AsciiChart::new().add("sizes", sizes).to_string();
        assert!(chart.starts_with("sizes: [samples: 100, P50: 4"), "{chart}");
    }
}
