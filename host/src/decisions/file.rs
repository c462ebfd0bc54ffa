//! Where the lines of the decision log go: a file that is appended to, a FIFO, standard
//! output. Runs on a thread of its own, which alone waits for a full disk or a slow reader.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::line;
use super::log::Destination;
use crate::line_writer::Sink;

/// How long it waits before it tries again to write.
const AGAIN: Duration = Duration::from_millis(200);

/// How often it looks whether the file was put aside.
const LOOK: Duration = Duration::from_secs(1);

/// What became of the lines.
#[derive(Debug, Default)]
pub(super) struct Written {
    lines: AtomicU64,
    lost: AtomicU64,
    reopen: AtomicBool,
}

impl Written {
    pub(super) fn lines(&self) -> u64 {
        self.lines.load(Ordering::Relaxed)
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    pub(super) fn reopen(&self) {
        self.reopen.store(true, Ordering::Relaxed);
    }
}

/// An open decision log.
pub(super) struct File {
    destination: Destination,
    file: fs::File,
    written: Arc<Written>,
    looked: Instant,
    failing: bool,
    /// Whether lines are decisions.
    counting: bool,
}

impl File {
    /// Opens it.
    ///
    /// # Errors
    /// When that cannot be done.
    pub(super) fn open(destination: Destination, written: Arc<Written>) -> io::Result<Self> {
        Ok(Self {
            file: open(&destination)?,
            destination,
            written,
            looked: Instant::now(),
            failing: false,
            counting: true,
        })
    }

    /// Goes over to another file if this one was put aside; whether it did.
    fn keep_up(&mut self) -> bool {
        let asked = self.written.reopen.swap(false, Ordering::Relaxed);
        let Destination::File(path) = &self.destination else {
            return false;
        };
        if !asked && self.looked.elapsed() < LOOK {
            return false;
        }
        self.looked = Instant::now();
        if !asked && is_at(&self.file, path) {
            return false;
        }
        match open(&self.destination) {
            Ok(file) => {
                self.file = file;
                true
            }
            Err(error) => {
                let file = path.display();
                tracing::error!(%file, %error, "the decision log cannot be opened again: the file before goes on");
                false
            }
        }
    }

    fn fails(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::error!(
                %error,
                "the decision log cannot be written: decisions wait, and what finds no room is dropped and counted"
            );
        }
    }
}

impl Sink for File {
    fn write(&mut self, lines: &[u8]) {
        let mut rest = lines;
        // Whether a part of the first line is in the file.
        let mut begun = false;
        self.keep_up();
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(0) => self.fails(&io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    let (done, left) = rest.split_at(count.min(rest.len()));
                    let ends = done.iter().filter(|byte| **byte == b'\n').count();
                    let ends = u64::try_from(ends).unwrap_or(u64::MAX);
                    if self.counting {
                        self.written.lines.fetch_add(ends, Ordering::Relaxed);
                    }
                    begun = done.last() != Some(&b'\n');
                    rest = left;
                    if std::mem::take(&mut self.failing) {
                        tracing::info!("the decision log is written again");
                    }
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => self.fails(&error),
            }
            std::thread::sleep(AGAIN);
            if self.keep_up() && begun {
                // The other file must not begin with half a line.
                let end = rest.iter().position(|byte| *byte == b'\n');
                rest = end.and_then(|at| rest.get(at + 1..)).unwrap_or_default();
                self.written
                    .lost
                    .fetch_add(u64::from(self.counting), Ordering::Relaxed);
                begun = false;
            }
        }
    }

    fn dropped(&mut self, count: u64) {
        tracing::warn!(
            dropped = count,
            "decisions were not logged: the decision log was not written fast enough"
        );
        // It is no decision.
        self.counting = false;
        self.write(line::dropped(count).as_bytes());
        self.counting = true;
    }
}

fn open(destination: &Destination) -> io::Result<fs::File> {
    let path = match destination {
        Destination::StandardOutput => {
            let own = io::stdout().as_fd().try_clone_to_owned()?;
            return Ok(own.into());
        }
        Destination::File(path) => path,
    };
    // To open a FIFO for writing alone would wait for its reader.
    let is_fifo = fs::metadata(path).is_ok_and(|about| about.file_type().is_fifo());
    OpenOptions::new()
        .read(is_fifo)
        .append(true)
        .create(!is_fifo)
        .mode(0o600)
        .open(path)
}

/// Whether `path` still leads to this file.
fn is_at(file: &fs::File, path: &Path) -> bool {
    let same = |one: &fs::Metadata, other: &fs::Metadata| {
        (one.dev(), one.ino()) == (other.dev(), other.ino())
    };
    match (file.metadata(), fs::metadata(path)) {
        (Ok(own), Ok(there)) => same(&own, &there),
        (_, Err(error)) => error.kind() != io::ErrorKind::NotFound,
        (Err(_), _) => true,
    }
}
