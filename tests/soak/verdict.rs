//! Whether a process grew: the median of the first third of its samples beside that of the last.

use std::fmt::Write as _;

use crate::samples::{Sample, Samples};

/// How much more the last third may hold: a share of the first, and so much on top.
struct Bound {
    name: &'static str,
    unit: &'static str,
    of: fn(&Sample) -> u64,
    per_cent: u64,
    plus: u64,
}

const BOUNDS: [Bound; 3] = [
    Bound {
        name: "resident",
        unit: "KiB",
        of: |sample| sample.resident,
        per_cent: 10,
        plus: 1024,
    },
    Bound {
        name: "descriptors",
        unit: "",
        of: |sample| sample.descriptors,
        per_cent: 0,
        plus: 6,
    },
    Bound {
        name: "threads",
        unit: "",
        of: |sample| sample.threads,
        per_cent: 0,
        plus: 4,
    },
];

/// A table, and whether all is within the bounds.
pub(crate) fn compare(samples: &Samples) -> (String, bool) {
    let (mut text, mut flat) = (String::new(), true);
    for series in &samples.0 {
        let third = series.samples.len() / 3;
        for bound in &BOUNDS {
            let first = median(&series.samples[..third], bound.of);
            let last = median(&series.samples[series.samples.len() - third..], bound.of);
            let most = first + first * bound.per_cent / 100 + bound.plus;
            let good = last <= most;
            flat &= good;
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "{:<6} {:<12} first third {first:>7} {}  last third {last:>7} {}  at most {most:>7}  {}",
                series.name,
                bound.name,
                bound.unit,
                bound.unit,
                if good { "flat" } else { "GREW" }
            );
        }
    }
    (text, flat)
}

fn median(samples: &[Sample], of: fn(&Sample) -> u64) -> u64 {
    let mut values: Vec<u64> = samples.iter().map(of).collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}
