//! Peers that call one after another until they are told to stop, and what came of it.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Result, bail};

use crate::bench::application::ECHO;
use crate::bench::client::{self, Config};
use crate::bench::patience::{PATIENCE, until};

/// One way to call.
#[derive(Clone)]
pub(super) enum Call {
    /// With mTLS.
    Mesh(Config, SocketAddr),
    /// Through a local listener of our proxy, which makes the handshake.
    Door(SocketAddr),
}

impl Call {
    pub(super) fn mesh(address: SocketAddr) -> impl Fn(Config) -> Self {
        move |config| Self::Mesh(config, address)
    }

    /// One connection and one echoed byte.
    pub(super) fn once(&self) -> io::Result<()> {
        match self {
            Self::Mesh(config, address) => client::once(config, *address),
            Self::Door(address) => through(*address),
        }
    }
}

/// One echoed byte through a local listener.
pub(super) fn through(door: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&door, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&[ECHO])?;
    stream.read_exact(&mut [0])
}

#[derive(Default)]
struct Tally {
    made: AtomicU64,
    failed: Mutex<Vec<String>>,
}

/// A thread that calls, and what came of it.
type Caller = (&'static str, Arc<Tally>, JoinHandle<()>);

/// Threads that call.
pub(super) struct Callers {
    stop: Arc<AtomicBool>,
    running: Mutex<Vec<Caller>>,
}

impl Callers {
    pub(super) fn new() -> Self {
        Self {
            stop: Arc::default(),
            running: Mutex::default(),
        }
    }

    /// Starts to call.
    pub(super) fn add(&self, name: &'static str, call: Call) {
        let (tally, stop) = (Arc::new(Tally::default()), Arc::clone(&self.stop));
        let counted = Arc::clone(&tally);
        let thread = std::thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                match call.once() {
                    Ok(()) => drop(counted.made.fetch_add(1, Ordering::SeqCst)),
                    Err(error) => counted
                        .failed
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(format!("{name}: {error}")),
                }
            }
        });
        self.lock().push((name, tally, thread));
    }

    /// Handshakes so far.
    pub(super) fn made(&self) -> u64 {
        let running = self.lock();
        running
            .iter()
            .map(|(_, tally, _)| tally.made.load(Ordering::SeqCst))
            .sum()
    }

    /// Waits until there are `made` handshakes.
    pub(super) fn wait(&self, made: u64) -> Result<()> {
        if let Err(error) = until("handshakes", || (self.made() >= made).then_some(())) {
            bail!(
                "{error:#}: {} of {made}, {:?}",
                self.made(),
                self.failures()
            );
        }
        Ok(())
    }

    /// What has failed, at most a few of them.
    pub(super) fn failures(&self) -> Vec<String> {
        let running = self.lock();
        let failures = running.iter().flat_map(|(_, tally, _)| {
            let failed = tally.failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.iter().take(5).cloned().collect::<Vec<_>>()
        });
        failures.collect()
    }

    /// Forgets failures; how many they were.
    pub(super) fn forgive(&self) -> usize {
        let running = self.lock();
        let forgiven = running.iter().map(|(_, tally, _)| {
            let mut failed = tally.failed.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *failed).len()
        });
        forgiven.sum()
    }

    /// Ends all calls; handshakes by kind of peer, and failures.
    pub(super) fn stop(self) -> (Vec<(&'static str, u64)>, Vec<String>) {
        self.stop.store(true, Ordering::SeqCst);
        let (mut made, mut failed) = (Vec::new(), Vec::new());
        for (name, tally, thread) in self.lock().drain(..) {
            if thread.join().is_err() {
                failed.push(format!("{name}: the caller panicked"));
            }
            made.push((name, tally.made.load(Ordering::SeqCst)));
            let mut more = tally.failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.append(&mut more);
        }
        (made, failed)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Caller>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Callers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}
