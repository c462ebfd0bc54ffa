//! The decision log: what is logged, and that it never waits.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use portcullis_core::policy::HeaderNeeds;

use super::Decided;
use super::file::{File, Written};
use super::line::{self, About, Shown};
use crate::line_writer::LineWriter;
use crate::runtime::Policy;
use crate::shadow::Verdict;

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Standard output.
    StandardOutput,
    /// A file, to which is appended, or a FIFO. A new file is for its owner alone.
    File(PathBuf),
}

/// What is logged, and where.
#[derive(Clone, Debug)]
pub struct DecisionLogConfig {
    /// Where.
    pub destination: Destination,
    /// Of what is allowed, one in so many; nothing of it if 0. Denials always are.
    pub allows: u64,
    /// Headers whose values are logged, in lower case; of the others that rules look at
    /// only the names.
    pub headers: Vec<String>,
    /// Parameters of queries whose values are logged; of the others only the names.
    pub queries: Vec<String>,
}

/// The decision log cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("the decision log `{}` cannot be opened: {source}", .path.display())]
pub struct DecisionLogError {
    path: PathBuf,
    source: std::io::Error,
}

/// Logs decisions. Clones share it.
#[derive(Clone, Debug)]
pub struct DecisionLog(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    writer: LineWriter,
    written: Arc<Written>,
    allows: u64,
    shown: Shown,
    /// How many allows there were.
    seen: AtomicU64,
    /// Lines for which there was no thread, or that no reader would take.
    lost: AtomicU64,
    /// The digests of the last generations.
    digests: Mutex<Vec<(u64, String)>>,
    next: AtomicU64,
}

impl DecisionLog {
    /// Opens it.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn open(config: DecisionLogConfig) -> Result<Self, DecisionLogError> {
        let written = Arc::new(Written::default());
        let shown = match &config.destination {
            Destination::StandardOutput => PathBuf::from("-"),
            Destination::File(path) => path.clone(),
        };
        let sink = File::open(config.destination, Arc::clone(&written)).map_err(|source| {
            DecisionLogError {
                path: shown,
                source,
            }
        })?;
        Ok(Self(Arc::new(Inner {
            writer: LineWriter::start("decision-log", sink),
            written,
            allows: config.allows,
            shown: Shown {
                headers: config.headers,
                queries: config.queries,
            },
            seen: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            digests: Mutex::default(),
            // Unique among proxies, and in order within one.
            next: AtomicU64::new(rand::random()),
        })))
    }

    /// Opens the file anew with the next line, for it was put aside.
    pub fn reopen(&self) {
        self.0.written.reopen();
    }

    /// How many lines were written.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.0.written.lines()
    }

    /// How many lines were not, for there was no room.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.writer.dropped() + self.0.written.lost() + self.0.lost.load(Ordering::Relaxed)
    }

    /// Waits until what there is is written, but not for long.
    pub fn flush(&self) {
        self.0.writer.flush();
    }

    /// Logs a decision, unless it is an allow that is not sampled. Its id, if it is logged.
    pub(super) fn take(
        &self,
        decided: &Decided<'_>,
        needs: &HeaderNeeds,
        verdict: Option<&Verdict>,
    ) -> Option<String> {
        let always = !decided.decision.is_allowed() || verdict.is_some_and(|one| one.differs);
        let sampled = (!always && self.0.allows > 1).then_some(self.0.allows);
        if !always && !self.is_sampled() {
            return None;
        }
        let id = format!("{:016x}", self.0.next.fetch_add(1, Ordering::Relaxed));
        let destination = portcullis_core::intention::Destination::parse(decided.service);
        let destination = destination.map_or_else(
            |_| decided.service.to_owned(),
            |name| format!("{}/{}/{}", name.partition(), name.namespace(), name.name()),
        );
        let about = About {
            id: &id,
            digest: self.digest(decided.policy, decided.decision.generation),
            destination: &destination,
            needs,
            shown: &self.0.shown,
            sampled,
            verdict,
        };
        let line = line::decision(decided, &about);
        if line.is_none_or(|line| self.0.writer.write(line).is_err()) {
            self.0.lost.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(id)
    }

    /// One of each `allows`, a different place each time so that no rhythm hides from it.
    fn is_sampled(&self) -> bool {
        match self.0.allows {
            0 => false,
            1 => true,
            every => {
                let number = self.0.seen.fetch_add(1, Ordering::Relaxed);
                let (round, place) = (number / every, number % every);
                // A step of SplitMix64.
                let mut mixed = round.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                mixed ^= mixed >> 27;
                place == mixed % every
            }
        }
    }

    /// The digest of a generation; `None` where another came into force meanwhile.
    fn digest(&self, policy: &Policy, generation: u64) -> Option<String> {
        let mut known = self
            .0
            .digests
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let find = |known: &[(u64, String)]| {
            let found = known.iter().find(|(number, _)| *number == generation);
            found.map(|(_, digest)| digest.clone())
        };
        if let Some(digest) = find(&known) {
            return Some(digest);
        }
        if known.len() >= 4 {
            known.remove(0);
        }
        known.push(policy.revision());
        find(&known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_each_so_many_is_sampled() {
        let folder =
            std::env::temp_dir().join(format!("portcullis-log-{:x}", rand::random::<u64>()));
        for (allows, expected) in [(0, 0), (1, 1_000), (10, 100), (7, 142)] {
            let log = DecisionLog::open(DecisionLogConfig {
                destination: Destination::File(folder.clone()),
                allows,
                headers: Vec::new(),
                queries: Vec::new(),
            })
            .unwrap();
            let sampled = (0..1_000).filter(|_| log.is_sampled()).count();
            assert!(sampled.abs_diff(expected) <= 1, "{allows}: {sampled}");
        }
        std::fs::remove_file(&folder).unwrap();
    }
}
