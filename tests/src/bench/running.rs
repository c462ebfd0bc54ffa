//! A proxy as a process of its own, on the core of the proxies.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use super::client::{Config, Session};
use super::cores::Cores;
use super::meter::Meter;
use super::patience::PATIENCE;
use crate::ports;
use crate::process::Process;

/// A running proxy; killed when dropped.
#[derive(Debug)]
pub struct Running {
    /// Where it takes connections of the mesh.
    pub address: SocketAddr,
    /// What it uses.
    pub meter: Meter,
    process: Process,
    started: Instant,
    log: PathBuf,
    _folder: TempDir,
}

impl Running {
    /// Starts what `command` makes for the port of its listener.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(cores: Cores, command: impl FnOnce(u16) -> Command) -> Result<Self> {
        let [port] = ports::free::<1>();
        let command = command(port);
        let program = command.get_program().display().to_string();
        let mut command = cores.on_proxy(&command);
        let folder = tempfile::tempdir().context("no temporary folder")?;
        let log = folder.path().join("log");
        let file = File::create(&log).context("the log cannot be created")?;
        // In a group of its own: Envoy signals its whole group when it ends.
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("the log cannot be shared")?)
            .stderr(file)
            .process_group(0);
        let started = Instant::now();
        let child = command
            .spawn()
            .with_context(|| format!("`{program}` does not start"))?;
        let process = Process::new(child);
        Ok(Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            meter: Meter::new(process.id()),
            process,
            started,
            log,
            _folder: folder,
        })
    }

    /// Waits until a connection is let through to the application; since the start, how long it took.
    ///
    /// # Errors
    /// When the process ends or never lets it through; with its log.
    pub fn ready(&mut self, client: &Config) -> Result<Duration> {
        let (session, took) = self.until_good(|address| Ok(Session::open(client, address)?))?;
        session.close().context("the first connection broke")?;
        Ok(took)
    }

    /// Tries until `attempt` succeeds; what it gave, and how long that was after the start.
    ///
    /// # Errors
    /// When the process ends or it never succeeds; with its log.
    pub fn until_good<T>(
        &mut self,
        mut attempt: impl FnMut(SocketAddr) -> Result<T>,
    ) -> Result<(T, Duration)> {
        loop {
            let error = match attempt(self.address) {
                Ok(good) => return Ok((good, self.started.elapsed())),
                Err(error) => error,
            };
            if let Some(status) = self.process.wait(Duration::ZERO) {
                bail!("it ended with {status}:\n{}", self.last_words());
            }
            if self.started.elapsed() > PATIENCE {
                bail!("not ready, {error:#}:\n{}", self.last_words());
            }
            std::thread::sleep(Duration::from_micros(500));
        }
    }

    /// Sends a signal by number.
    pub fn signal(&self, signal: i32) {
        self.process.signal(signal);
    }

    /// The end of its log.
    #[must_use]
    pub fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}
