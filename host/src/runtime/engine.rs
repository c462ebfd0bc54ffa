//! The one wasmtime engine of this process, and the clock that ends calls.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{LazyLock, OnceLock};
use std::thread::{self, Thread};
use std::time::Duration;

use wasmtime::{Config, Engine, Inlining};

use super::pool::preferred;

/// One tick of the clock that deadlines are counted in.
const TICK: Duration = Duration::from_millis(10);

/// After so many ticks without a call the clock stops until the next one.
const IDLE_TICKS: u32 = 10;

/// No call may take longer: half a minute.
const MAX_TICKS: u64 = 3_000;

static ENGINE: LazyLock<Result<Engine, String>> =
    LazyLock::new(|| Engine::new(&config()).map_err(|error| format!("{error:#}")));

/// The engine; the error says why this machine has none.
pub(super) fn engine() -> Result<&'static Engine, &'static str> {
    ENGINE.as_ref().map_err(String::as_str)
}

/// An engine that compiles for every processor of this kind: nothing is found out about
/// this one.
pub(super) fn portable_engine() -> Result<Engine, String> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut config = config();
    config
        .target(&target)
        .and_then(|config| Engine::new(config))
        .map_err(|error| format!("{error:#}"))
}

/// What compiled components are made for. Whatever changes here changes the
/// key of the compilation cache by itself.
fn config() -> Config {
    let mut config = Config::new();
    // WASI 0.2 has no use for it, and calls cost half without.
    config.concurrency_support(false);
    config.epoch_interruption(true);
    config.compiler_inlining(Inlining::Yes);
    // Traps are told apart by their kind; frames are of no use to anyone here.
    config.wasm_backtrace_max_frames(None);
    config.generate_address_map(false);
    config
}

/// A deadline in ticks, at least one.
pub(super) fn ticks(time: Duration) -> u64 {
    let ticks = time.as_millis() / TICK.as_millis();
    // One more, because the first tick may come at once.
    u64::try_from(ticks).unwrap_or(u64::MAX).clamp(1, MAX_TICKS) + 1
}

/// How many calls are running, counted by groups of threads: neighbours on one cache
/// line would wait for each other.
static RUNNING: [Count; 16] = [const { Count(AtomicUsize::new(0)) }; 16];
/// Whether the clock stands, or is about to.
static STOPPED: AtomicBool = AtomicBool::new(false);
static TICKER: OnceLock<Result<Thread, ()>> = OnceLock::new();

#[repr(align(128))]
struct Count(AtomicUsize);

/// A call into a component, which lasts until this is dropped. The clock runs as long as
/// there is one, so that each has its end.
#[must_use]
pub(super) struct Running(&'static Count);

impl Running {
    /// A call that begins now: its deadline may be set afterwards. `None` when the clock
    /// cannot be started.
    pub(super) fn begin() -> Option<Self> {
        let ticker = TICKER.get_or_init(start).as_ref().ok()?;
        let count = &RUNNING[preferred() % RUNNING.len()];
        // First counted, then a look at the clock, which stops first and looks for calls
        // then: one of the two sees the other.
        count.0.fetch_add(1, Ordering::SeqCst);
        if STOPPED.load(Ordering::SeqCst) {
            ticker.unpark();
        }
        Some(Self(count))
    }

    fn any() -> bool {
        RUNNING
            .iter()
            .any(|count| count.0.load(Ordering::SeqCst) > 0)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn start() -> Result<Thread, ()> {
    let engine = engine().map_err(drop)?;
    let ticker = thread::Builder::new()
        .name("portcullis-epoch".to_owned())
        .spawn(move || tick(engine))
        .map_err(drop)?;
    Ok(ticker.thread().clone())
}

fn tick(engine: &'static Engine) {
    let mut idle = 0_u32;
    loop {
        thread::sleep(TICK);
        engine.increment_epoch();
        idle = if Running::any() {
            0
        } else {
            idle.saturating_add(1)
        };
        if idle >= IDLE_TICKS {
            STOPPED.store(true, Ordering::SeqCst);
            if !Running::any() {
                // Until the next call, or for nothing: that costs some ticks.
                thread::park();
            }
            STOPPED.store(false, Ordering::SeqCst);
            idle = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_bounded() {
        assert_eq!(ticks(Duration::ZERO), 2);
        assert_eq!(ticks(Duration::from_secs(1)), 101);
        assert_eq!(ticks(Duration::MAX), MAX_TICKS + 1);
    }

    #[test]
    fn this_machine_has_an_engine() {
        assert!(engine().is_ok());
        assert!(Running::begin().is_some());
    }
}
