//! Waiting for something to become true, with a limit that only a hang reaches.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Anything that takes longer has hung.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks every half millisecond until there is an answer.
///
/// # Errors
/// When there is none within [`PATIENCE`].
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> Result<T> {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return Ok(answer);
        }
        if began.elapsed() > PATIENCE {
            bail!("{what}: not within {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}
