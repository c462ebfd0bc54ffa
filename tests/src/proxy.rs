//! `portcullis proxy` as a process of its own.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::process::{Process, eventually};
use crate::program;

/// Whoever writes nothing for so long has written what gathered.
const QUIET: Duration = Duration::from_millis(50);

/// What takes longer does not come.
const HUNG: Duration = Duration::from_secs(90);

/// A running proxy; killed when dropped. Its log is kept until then.
#[derive(Debug)]
pub struct Proxy {
    process: Process,
    folder: TempDir,
}

impl Proxy {
    /// Starts `portcullis proxy` with these flags against the agent at `agent`.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(agent: SocketAddr, token: Option<&str>, flags: &[&str]) -> Self {
        let mut command = program::portcullis(["proxy", "-log-level=info"]);
        command
            .args(flags)
            .env("CONSUL_HTTP_ADDR", agent.to_string());
        if let Some(token) = token {
            command.env("CONSUL_HTTP_TOKEN", token);
        }
        Self::spawn(command)
    }

    /// Starts Consul's own `consul connect proxy` with these flags.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start_consul(consul: &crate::consul::Consul, flags: &[&str]) -> Self {
        let mut command = Command::new(consul.binary());
        command
            .args(["connect", "proxy", "-log-level=debug"])
            .args(flags);
        command.arg(format!("-http-addr={}", consul.address()));
        Self::spawn(command)
    }

    /// Starts `command`, whatever it is; its output goes to the log.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn spawn(mut command: Command) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let log = File::create(folder.path().join("log")).expect("the log is created");
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log is shared"))
            .stderr(log);
        Self {
            process: Process::new(command.spawn().expect("the proxy starts")),
            folder,
        }
    }

    /// Its process ID.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Sends it a signal by number.
    pub fn signal(&self, signal: i32) {
        self.process.signal(signal);
    }

    /// What it has logged. Lines gather before they are written, so this waits until nothing
    /// more comes, but not for long: for a text that must come there is [`Self::logs`].
    pub fn log(&self) -> String {
        let file = self.folder.path().join("log");
        let length = || fs::metadata(&file).map_or(0, |file| file.len());
        let (began, mut seen) = (Instant::now(), length());
        loop {
            std::thread::sleep(QUIET);
            let now = length();
            if now == seen || began.elapsed() > 10 * QUIET {
                return self.text();
            }
            seen = now;
        }
    }

    /// What stands in the log now.
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.raw_log()).into_owned()
    }

    /// The same, byte by byte.
    pub fn raw_log(&self) -> Vec<u8> {
        fs::read(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Waits until its log has this text.
    ///
    /// # Panics
    /// If it does not come; with the log.
    pub fn logs(&self, text: &str) {
        let mut log = String::new();
        let found = |log: &mut String| {
            *log = self.text();
            log.contains(text).then_some(())
        };
        let began = Instant::now();
        while found(&mut log).is_none() {
            assert!(began.elapsed() < HUNG, "no `{text}` in the log:\n{log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Where it listens for operators in this role, once that is logged.
    pub fn operators_listener(&self, role: &str) -> Option<SocketAddr> {
        let log = self.text();
        let mut lines = log.lines();
        let line = lines.find(|line| {
            line.contains("for operators") && line.ends_with(&format!("role={role}"))
        })?;
        let (_, rest) = line.split_once("listen=")?;
        rest.split(' ').next()?.parse().ok()
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// SIGTERM, and the exit code once it has ended.
    ///
    /// # Panics
    /// If it does not end.
    pub fn stop(&mut self) -> Option<i32> {
        self.process.signal(15);
        let process = &mut self.process;
        eventually("the proxy ends", HUNG, || process.wait(Duration::ZERO)).code()
    }
}
