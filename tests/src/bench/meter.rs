//! What a process has used: processor time and memory.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// How much `/proc/PID/stat` may be off: two numbers, in hundredths of a second.
const COARSE: Duration = Duration::from_millis(30);

/// Reads the use of one process.
#[derive(Clone, Copy, Debug)]
pub struct Meter(u32);

/// Processor time of a process until now.
#[derive(Clone, Debug)]
pub struct Used {
    /// Of each thread, to the nanosecond.
    threads: HashMap<String, u64>,
    /// Of all threads, those that ended included, to a hundredth of a second.
    coarse: Duration,
}

impl Meter {
    /// The process with this ID.
    #[must_use]
    pub fn new(process: u32) -> Self {
        Self(process)
    }

    /// Processor time until now.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn used(self) -> Result<Used> {
        let path = format!("/proc/{}/task", self.0);
        let mut threads = HashMap::new();
        for thread in fs::read_dir(&path).with_context(|| format!("cannot read `{path}`"))? {
            let thread = thread?;
            // A thread may end meanwhile.
            let Ok(text) = fs::read_to_string(thread.path().join("schedstat")) else {
                continue;
            };
            let time = text.split_whitespace().next().and_then(|n| n.parse().ok());
            threads.insert(
                thread.file_name().to_string_lossy().into_owned(),
                time.with_context(|| format!("`{path}` has no schedstat"))?,
            );
        }
        let path = format!("/proc/{}/stat", self.0);
        let stat = fs::read_to_string(&path).with_context(|| format!("cannot read `{path}`"))?;
        let ticks = stat.rsplit_once(')').and_then(|(_, fields)| {
            // utime and stime are the 14th and 15th field, and the name is the second.
            let mut fields = fields.split_whitespace().skip(11);
            let user: u64 = fields.next()?.parse().ok()?;
            Some(user + fields.next()?.parse::<u64>().ok()?)
        });
        let ticks = ticks.with_context(|| format!("`{path}` has no times"))?;
        Ok(Used {
            threads,
            coarse: Duration::from_millis(ticks * 10),
        })
    }

    /// Resident memory in bytes.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn resident(self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.0);
        let status = fs::read_to_string(&path).with_context(|| format!("cannot read `{path}`"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib: u64 = line
            .and_then(|line| line.split_whitespace().next())
            .and_then(|number| number.parse().ok())
            .with_context(|| format!("`{path}` has no VmRSS"))?;
        Ok(kib * 1024)
    }
}

impl Used {
    /// What was used since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Duration {
        let fine: u64 = self
            .threads
            .iter()
            .map(|(thread, time)| {
                time.saturating_sub(before.threads.get(thread).copied().unwrap_or(0))
            })
            .sum();
        let fine = Duration::from_nanos(fine);
        let coarse = self.coarse.saturating_sub(before.coarse);
        // Threads that have ended meanwhile are only in the coarse number.
        if coarse > fine + COARSE { coarse } else { fine }
    }
}

/// The load averages of this machine over 1, 5 and 15 minutes.
#[must_use]
pub fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let three: Vec<&str> = text.split_whitespace().take(3).collect();
    three.join(" ")
}

/// The processor's name and how many cores there are.
#[must_use]
pub fn machine() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .and_then(|line| line.split_once(':'))
        .map_or("unknown processor", |(_, name)| name.trim());
    let cores = text
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{name}, {cores} cores, Linux {}", kernel.trim())
}
