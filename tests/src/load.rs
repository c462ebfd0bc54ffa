//! Steady load: callers that open one connection after the other, and live ones that stay.
//!
//! Every connection is counted in the phase in which it began, so a test can say exactly
//! what became of those that began after something happened.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::echo;
use crate::process::eventually;

/// Callers at the same time.
const CALLERS: usize = 4;

/// From the end of one connection to the beginning of the next of a caller.
const PAUSE: Duration = Duration::from_millis(8);

/// Nothing takes longer unless it hangs.
const HUNG: Duration = Duration::from_secs(300);

/// What became of connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Opened, echoed, closed.
    pub passed: u64,
    /// Nobody listened.
    pub refused: u64,
    /// Ended before the echo came: what a denied one looks like.
    pub closed: u64,
    /// No echo within [`echo::PATIENCE`].
    pub hung: u64,
    /// Another answer than the echo.
    pub wrong: u64,
}

impl Counts {
    /// All of them.
    #[must_use]
    pub fn all(&self) -> u64 {
        self.passed + self.failed()
    }

    /// All that did not pass.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.refused + self.closed + self.hung + self.wrong
    }

    fn add(&mut self, outcome: &io::Result<()>) {
        let counter = match outcome {
            Ok(()) => &mut self.passed,
            Err(error) => match error.kind() {
                ErrorKind::ConnectionRefused => &mut self.refused,
                ErrorKind::TimedOut | ErrorKind::WouldBlock => &mut self.hung,
                ErrorKind::Other => &mut self.wrong,
                _ => &mut self.closed,
            },
        };
        *counter += 1;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} passed", self.passed)?;
        for (number, name) in [
            (self.refused, "refused"),
            (self.closed, "closed"),
            (self.hung, "hung"),
            (self.wrong, "wrong"),
        ] {
            if number > 0 {
                write!(formatter, ", {number} {name}")?;
            }
        }
        Ok(())
    }
}

/// Callers at work until this is dropped.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    callers: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    door: SocketAddr,
    stop: AtomicBool,
    phases: Mutex<Vec<Phase>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Phase {
    under_way: u64,
    counts: Counts,
}

impl Load {
    /// Starts callers of what listens at `door`, which must lead to an echo.
    #[must_use]
    pub fn start(door: SocketAddr) -> Self {
        let shared = Arc::new(Shared {
            door,
            stop: AtomicBool::new(false),
            phases: Mutex::new(vec![Phase::default()]),
        });
        let callers = (0..CALLERS)
            .map(|_| {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || shared.call())
            })
            .collect();
        Self { shared, callers }
    }

    /// What becomes of the next connections, at least `count` of them, that begin from now on.
    ///
    /// # Panics
    /// When they hang.
    pub fn next(&self, count: u64) -> Counts {
        self.during(count, || ())
    }

    /// What becomes of the connections that begin while `happening` runs, and of more until
    /// there are at least `count`.
    ///
    /// # Panics
    /// When they hang.
    pub fn during(&self, count: u64, happening: impl FnOnce()) -> Counts {
        let began = self.shared.begin_phase();
        happening();
        eventually("connections are made", HUNG, || {
            (self.shared.phase_of(began).counts.all() >= count).then_some(())
        });
        let _ = self.shared.begin_phase();
        eventually("connections end", HUNG, || {
            let phase = self.shared.phase_of(began);
            (phase.under_way == 0).then_some(phase.counts)
        })
    }

    /// Everything since the start.
    #[must_use]
    pub fn total(&self) -> Counts {
        let mut total = Counts::default();
        for phase in self.shared.phases().iter() {
            total.passed += phase.counts.passed;
            total.refused += phase.counts.refused;
            total.closed += phase.counts.closed;
            total.hung += phase.counts.hung;
            total.wrong += phase.counts.wrong;
        }
        total
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for caller in self.callers.drain(..) {
            let _ = caller.join();
        }
    }
}

impl Shared {
    fn call(&self) {
        while !self.stop.load(Ordering::SeqCst) {
            let phase = self.enter();
            let outcome = echo::open(self.door).map(drop);
            self.leave(phase, &outcome);
            std::thread::sleep(PAUSE);
        }
    }

    /// Counts a connection under way in the current phase.
    fn enter(&self) -> usize {
        let mut phases = self.phases();
        let last = phases.len() - 1;
        phases[last].under_way += 1;
        last
    }

    fn leave(&self, phase: usize, outcome: &io::Result<()>) {
        let mut phases = self.phases();
        phases[phase].under_way -= 1;
        phases[phase].counts.add(outcome);
    }

    fn begin_phase(&self) -> usize {
        let mut phases = self.phases();
        phases.push(Phase::default());
        phases.len() - 1
    }

    fn phase_of(&self, phase: usize) -> Phase {
        self.phases()[phase]
    }

    fn phases(&self) -> MutexGuard<'_, Vec<Phase>> {
        self.phases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connections that stay, each with an exchange now and then. One that breaks is counted
/// and opened again.
#[derive(Debug)]
pub struct Live {
    state: Arc<LiveState>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct LiveState {
    stop: AtomicBool,
    exchanges: AtomicU64,
    broken: AtomicU64,
}

impl Live {
    /// Opens `count` connections to the echo behind `door`.
    ///
    /// # Panics
    /// When one cannot be opened.
    #[must_use]
    pub fn start(door: SocketAddr, count: usize) -> Self {
        let state = Arc::new(LiveState::default());
        let threads = (0..count)
            .map(|_| {
                let state = Arc::clone(&state);
                let mut stream = echo::open(door).expect("a live connection");
                std::thread::spawn(move || {
                    while !state.stop.load(Ordering::SeqCst) {
                        std::thread::sleep(Duration::from_millis(20));
                        match echo::exchange(&mut stream) {
                            Ok(()) => {
                                state.exchanges.fetch_add(1, Ordering::SeqCst);
                            }
                            Err(_) => {
                                state.broken.fetch_add(1, Ordering::SeqCst);
                                let Some(another) = state.open(door) else {
                                    return;
                                };
                                stream = another;
                            }
                        }
                    }
                })
            })
            .collect();
        Self { state, threads }
    }

    /// Exchanges that went well.
    #[must_use]
    pub fn exchanges(&self) -> u64 {
        self.state.exchanges.load(Ordering::SeqCst)
    }

    /// Connections that broke.
    #[must_use]
    pub fn broken(&self) -> u64 {
        self.state.broken.load(Ordering::SeqCst)
    }
}

impl LiveState {
    /// Tries until it works or it is over.
    fn open(&self, door: SocketAddr) -> Option<TcpStream> {
        while !self.stop.load(Ordering::SeqCst) {
            if let Ok(stream) = echo::open(door) {
                return Some(stream);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        None
    }
}

impl Live {
    /// Ends all that are left, in order.
    pub fn end(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.end();
    }
}
