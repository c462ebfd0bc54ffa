//! The demo's processes: this program again, started, watched and ended.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::cli::failure::Failure;

/// How long a process may take to say where it listens, or to log something.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// How long a process may take to end before it is killed.
const LAST_WISH: Duration = Duration::from_secs(5);

/// How long the last words of a process may take to arrive.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The lines of this many events are kept for a later look.
const LINES_KEPT: usize = 50_000;

/// Lines of JSON that a process has written, oldest first.
#[derive(Clone, Default)]
pub(crate) struct Lines {
    inner: Arc<LinesInner>,
}

#[derive(Default)]
struct LinesInner {
    lines: Mutex<Record>,
    news: Notify,
}

#[derive(Default)]
struct Record {
    kept: VecDeque<Value>,
    dropped: usize,
    last_text: String,
    ended: bool,
}

impl Lines {
    /// How many lines have arrived: a place to search from later.
    pub(crate) fn mark(&self) -> usize {
        let record = self
            .inner
            .lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        record.dropped + record.kept.len()
    }

    /// All lines after `mark` that `wanted` picks.
    pub(crate) fn since<T>(&self, mark: usize, wanted: impl Fn(&Value) -> Option<T>) -> Vec<T> {
        let record = self
            .inner
            .lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        record
            .kept
            .iter()
            .skip(mark.saturating_sub(record.dropped))
            .filter_map(wanted)
            .collect()
    }

    /// The first line after `mark` that `wanted` picks; waits for it.
    pub(crate) async fn find<T>(
        &self,
        mark: usize,
        wanted: impl Fn(&Value) -> Option<T>,
    ) -> Option<T> {
        let end = Instant::now() + PATIENCE;
        loop {
            let mut news = std::pin::pin!(self.inner.news.notified());
            news.as_mut().enable();
            if let Some(found) = self.since(mark, &wanted).into_iter().next() {
                return Some(found);
            }
            if self
                .inner
                .lines
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .ended
            {
                return None;
            }
            timeout_at(end, news).await.ok()?;
        }
    }

    /// The last line, as it was written: what a process that ended said last.
    pub(crate) fn last_text(&self) -> String {
        self.inner
            .lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .last_text
            .clone()
    }

    /// Reads `source` to its end, copying it to `copy`.
    fn follow(&self, source: impl AsyncRead + Unpin + Send + 'static, copy: Option<PathBuf>) {
        let lines = self.clone();
        tokio::spawn(async move {
            let mut copy = match copy {
                Some(path) => tokio::fs::File::create(path).await.ok(),
                None => None,
            };
            let mut source = BufReader::new(source).lines();
            while let Ok(Some(line)) = source.next_line().await {
                if let Some(copy) = &mut copy {
                    let _ = copy.write_all(format!("{line}\n").as_bytes()).await;
                }
                let mut record = lines
                    .inner
                    .lines
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                if let Ok(value) = serde_json::from_str(&line) {
                    record.kept.push_back(value);
                }
                if record.kept.len() > LINES_KEPT {
                    record.kept.pop_front();
                    record.dropped += 1;
                }
                record.last_text = line;
                drop(record);
                lines.inner.news.notify_waiters();
            }
            lines
                .inner
                .lines
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .ended = true;
            lines.inner.news.notify_waiters();
        });
    }
}

/// A running process of the demo.
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    /// What it prints.
    pub(crate) printed: Lines,
    /// What it logs.
    pub(crate) log: Lines,
}

impl Process {
    /// What to say when the process did not do what it should.
    pub(crate) async fn failed(&self, what: &str) -> Failure {
        // What it says last may still be on its way.
        let _ = tokio::time::timeout(LAST_WORDS, self.log.find::<()>(0, |_| None)).await;
        let said = readable(&self.log.last_text());
        Failure::runtime(format_args!("{} {what}: {said}", self.name))
    }

    /// Asks the process to end, waits, and kills it if it will not.
    /// Whether it ended by itself and with exit status 0.
    async fn end(mut self) -> bool {
        // The end of its input is its sign to stop.
        drop(self.child.stdin.take());
        match tokio::time::timeout(LAST_WISH, self.child.wait()).await {
            Ok(Ok(status)) => status.success(),
            _ => {
                let _ = self.child.kill().await;
                false
            }
        }
    }
}

/// What a line of a log says to people.
fn readable(line: &str) -> String {
    let Ok(log) = serde_json::from_str::<Value>(line) else {
        return if line.is_empty() {
            "it said nothing".to_owned()
        } else {
            line.to_owned()
        };
    };
    let message = log["message"].as_str().unwrap_or(line);
    match log["error"].as_str() {
        Some(error) => format!("{message}: {error}"),
        None => message.to_owned(),
    }
}

/// Starts this program again, and again.
pub(crate) struct Children {
    program: PathBuf,
    logs: PathBuf,
}

impl Children {
    /// Children whose logs go to the directory `logs`.
    ///
    /// Fails when this program cannot find itself.
    pub(crate) fn new(logs: &Path) -> Result<Self, Failure> {
        let program = std::env::current_exe()
            .map_err(|error| Failure::while_doing("cannot find this program's own file", &error))?;
        Ok(Self {
            program,
            logs: logs.to_owned(),
        })
    }

    fn command(&self, arguments: &[String]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            // What is set for a real agent must not reach into the demo.
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| {
                let name = name.to_string_lossy();
                !(name.starts_with("CONSUL_")
                    || name.starts_with("CONNECT_")
                    || name == "PORTCULLIS_DEV_TOKEN_FILE"
                    || name == "RUST_LOG"
                    || name == "LOG_FORMAT")
            }))
            .kill_on_drop(true);
        command
    }

    /// Starts `portcullis ARGUMENTS`, to run until the end of its input.
    ///
    /// Fails when the process cannot be started.
    pub(crate) fn start(
        &self,
        name: &'static str,
        arguments: &[String],
    ) -> Result<Process, Failure> {
        let mut child = self
            .command(arguments)
            .arg("--until-stdin-closes")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C goes to us, and we end them in order.
            .process_group(0)
            .spawn()
            .map_err(|error| Failure::while_doing(format_args!("cannot start {name}"), &error))?;
        let (printed, log) = (Lines::default(), Lines::default());
        if let Some(stdout) = child.stdout.take() {
            printed.follow(stdout, None);
        }
        if let Some(stderr) = child.stderr.take() {
            log.follow(
                stderr,
                Some(self.logs.join(format!("{}.log", name.replace(' ', "-")))),
            );
        }
        Ok(Process {
            name,
            child,
            printed,
            log,
        })
    }

    /// Runs `portcullis ARGUMENTS` to its end: exit status and standard output.
    ///
    /// Fails when it cannot be started or dies of a signal.
    pub(crate) async fn output(&self, arguments: &[String]) -> Result<(i32, String), Failure> {
        let what = || format!("`portcullis {}`", arguments.join(" "));
        let output = self
            .command(arguments)
            .stdin(Stdio::null())
            .output()
            .await
            .map_err(|error| Failure::while_doing(what(), &error))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        match output.status.code() {
            Some(0) => Ok((0, text)),
            // An answer is a denial, silence a failure.
            Some(1) if !text.is_empty() => Ok((1, text)),
            _ => {
                let errors = String::from_utf8_lossy(&output.stderr);
                Err(Failure::runtime(format_args!(
                    "{} failed: {}",
                    what(),
                    errors.trim()
                )))
            }
        }
    }
}

/// Ends all, in order; the names of those that did not end well.
pub(crate) async fn end_all(processes: Vec<Process>) -> Vec<&'static str> {
    let mut bad = Vec::new();
    for process in processes {
        let name = process.name;
        if !process.end().await {
            bad.push(name);
        }
    }
    bad
}
