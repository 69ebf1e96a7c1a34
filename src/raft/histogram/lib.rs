//! openraft's histograms, in 2 KiB each.
//!
//! The crate that openraft asks for computes tables for sixteen precisions when the first histogram is made,
//! uses those of one, and keeps all: 28 MB, two thirds of what an idle member took. This one has the part of
//! its interface that openraft uses, and no tables. Values are counted in four buckets for each power of two.

use std::fmt;
use std::marker::PhantomData;

/// Buckets for each power of two, as a power of two.
const SPLIT: u32 = 2;
const BUCKETS: usize = ((u64::BITS - SPLIT + 1) as usize) << SPLIT;

/// How often each magnitude of a value was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: Box<[u64]>,
    total: u64,
    kind: PhantomData<T>,
}

impl<T> Histogram<T> {
    pub fn new() -> Histogram<T> {
        Histogram {
            counts: vec![0; BUCKETS].into(),
            total: 0,
            kind: PhantomData,
        }
    }

    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    pub fn record_n(&mut self, value: u64, times: u64) {
        self.counts[bucket(value)] += times;
        self.total += times;
    }

    /// The smallest value of the bucket in which `permille` of all values are reached.
    fn reached(&self, permille: u64) -> u64 {
        let rank = (self.total * permille).div_ceil(1000).max(1);
        let mut seen = 0;
        let mut counts = self.counts.iter();
        let found = counts.position(|count| {
            seen += count;
            seen >= rank
        });
        found.map_or(0, lowest)
    }

    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total,
            p0_1: self.reached(1),
            p1: self.reached(10),
            p5: self.reached(50),
            p10: self.reached(100),
            p50: self.reached(500),
            p90: self.reached(900),
            p99: self.reached(990),
            p99_9: self.reached(999),
        }
    }
}

impl<T> Default for Histogram<T> {
    fn default() -> Histogram<T> {
        Histogram::new()
    }
}

fn bucket(value: u64) -> usize {
    let bits = u64::BITS - value.leading_zeros();
    let shift = bits.saturating_sub(SPLIT + 1);
    ((shift as usize) << SPLIT) + (value >> shift) as usize
}

/// The smallest value that falls into a bucket.
fn lowest(bucket: usize) -> u64 {
    let shift = (bucket >> SPLIT).saturating_sub(1);
    ((bucket - (shift << SPLIT)) as u64) << shift
}

/// How values are spread.
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

/// Histograms below each other, a line each.
#[derive(Clone, Debug, Default)]
pub struct AsciiChart {
    lines: Vec<(String, PercentileStats)>,
}

impl AsciiChart {
    pub fn new() -> AsciiChart {
        AsciiChart::default()
    }

    pub fn add<T>(mut self, name: impl Into<String>, histogram: Histogram<T>) -> AsciiChart {
        self.lines.push((name.into(), histogram.percentile_stats()));
        self
    }
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PercentileStats {
            samples,
            p50,
            p99,
            p99_9,
            ..
        } = self;
        write!(out, "n={samples} p50={p50} p99={p99} p99.9={p99_9}")
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = self.lines.iter();
        lines.try_for_each(|(name, stats)| writeln!(out, "{name}: {stats}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_falls_into_the_bucket_that_begins_at_or_below_it() {
        let powers = (0..64).flat_map(|bit| [1u64 << bit, (1 << bit) - 1, (1 << bit) + 1]);
        for value in powers.chain(0..1000).chain([u64::MAX]) {
            let at = bucket(value);
            assert!(at < BUCKETS && lowest(at) <= value, "{value}");
            assert!(at + 1 == BUCKETS || value < lowest(at + 1), "{value}");
        }
    }

    #[test]
    fn percentiles_are_those_of_the_values() {
        let mut histogram = Histogram::<()>::new();
        (1..=1000).for_each(|value| histogram.record(value));
        let stats = histogram.percentile_stats();
        assert_eq!((stats.samples, stats.p0_1, stats.p50), (1000, 1, 448));
        assert_eq!((stats.p90, stats.p99), (896, 896));
        assert_eq!(Histogram::<()>::new().percentile_stats().p50, 0);
    }
}
