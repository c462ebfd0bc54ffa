//! What processes hold, taken every few seconds.

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

/// What one process holds at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) second: u64,
    /// Resident memory, KiB.
    pub(crate) resident: u64,
    pub(crate) descriptors: u64,
    pub(crate) threads: u64,
}

/// A process and its samples.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) name: &'static str,
    process: u32,
    pub(crate) samples: Vec<Sample>,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Samples(pub(crate) Vec<Series>);

impl Samples {
    pub(crate) fn new(processes: &[(&'static str, u32)]) -> Self {
        let series = |&(name, process)| Series {
            name,
            process,
            samples: Vec::new(),
        };
        Self(processes.iter().map(series).collect())
    }

    /// Takes one of each.
    ///
    /// # Panics
    /// When a process is gone.
    pub(crate) fn take(&mut self, at: Duration) {
        for series in &mut self.0 {
            let sample = sample(series.process, at.as_secs())
                .unwrap_or_else(|| panic!("{} is gone", series.name));
            series.samples.push(sample);
        }
    }

    /// The last ones, on one line.
    pub(crate) fn latest(&self) -> String {
        let mut text = String::new();
        for series in &self.0 {
            if let Some(last) = series.samples.last() {
                // Writing to a string does not fail.
                let _ = write!(
                    text,
                    "{}: {:.1} MiB {} fd {} threads  ",
                    series.name,
                    last.resident as f64 / 1024.0,
                    last.descriptors,
                    last.threads
                );
            }
        }
        text
    }

    pub(crate) fn csv(&self) -> String {
        let mut text = "process,second,resident_kib,descriptors,threads\n".to_owned();
        for series in &self.0 {
            for sample in &series.samples {
                let _ = writeln!(
                    text,
                    "{},{},{},{},{}",
                    series.name, sample.second, sample.resident, sample.descriptors, sample.threads
                );
            }
        }
        text
    }
}

fn sample(process: u32, second: u64) -> Option<Sample> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let number = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    Some(Sample {
        second,
        resident: number("VmRSS:")?,
        threads: number("Threads:")?,
        descriptors: u64::try_from(fs::read_dir(format!("/proc/{process}/fd")).ok()?.count())
            .ok()?,
    })
}
