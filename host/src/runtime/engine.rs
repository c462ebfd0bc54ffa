//! The one wasmtime engine of this process, and the clock that ends calls.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, OnceLock};
use std::thread::{self, Thread};
use std::time::Duration;

use wasmtime::{Config, Engine, Inlining};

/// One tick of the clock that deadlines are counted in.
const TICK: Duration = Duration::from_millis(10);

/// After so many ticks without a call the clock stops; longer than any deadline.
const IDLE_TICKS: u32 = 6_000;

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

/// A deadline in ticks, at least one and never longer than the clock runs.
pub(super) fn ticks(time: Duration) -> u64 {
    let ticks = time.as_millis() / TICK.as_millis();
    // One more, because the first tick may come at once.
    u64::try_from(ticks)
        .unwrap_or(u64::MAX)
        .clamp(1, u64::from(IDLE_TICKS) / 2)
        + 1
}

static CALLED: AtomicBool = AtomicBool::new(false);
static TICKER: OnceLock<Result<Thread, ()>> = OnceLock::new();

/// Makes sure that the clock runs for a call that begins now. False when it cannot.
pub(super) fn keep_ticking() -> bool {
    if CALLED.load(Ordering::Relaxed) {
        return true;
    }
    CALLED.store(true, Ordering::SeqCst);
    match TICKER.get_or_init(start) {
        Ok(ticker) => {
            ticker.unpark();
            true
        }
        Err(()) => {
            CALLED.store(false, Ordering::SeqCst);
            false
        }
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
        idle = if CALLED.swap(false, Ordering::SeqCst) {
            0
        } else {
            idle.saturating_add(1)
        };
        if idle >= IDLE_TICKS {
            // A call that begins now sets the flag first and wakes us afterwards.
            while !CALLED.load(Ordering::SeqCst) {
                thread::park();
            }
            idle = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_shorter_than_the_clock_runs() {
        assert_eq!(ticks(Duration::ZERO), 2);
        assert_eq!(ticks(Duration::from_secs(1)), 101);
        assert!(ticks(Duration::MAX) < u64::from(IDLE_TICKS));
    }

    #[test]
    fn this_machine_has_an_engine() {
        assert!(engine().is_ok());
        assert!(keep_ticking());
    }
}
