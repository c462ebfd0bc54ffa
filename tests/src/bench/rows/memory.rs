//! Memory of fresh proxies: idle, and for each idle connection.

use anyhow::{Context as _, Result};

use crate::bench::Bench;
use crate::bench::client::Session;
use crate::bench::figures::Figure;
use crate::bench::stand::Stand;

/// Idle connections of one contender.
const CONNECTIONS: u32 = 2_000;
/// A fresh process each time; three are enough for a median.
const PROCESSES: usize = 3;

pub(super) fn measure(bench: &mut Bench) -> Result<Vec<Figure>> {
    let connections = bench.settings.amount(CONNECTIONS);
    let mut idle = Figure::new(
        "resident memory, idle, after one connection",
        "MB",
        Some(25.0),
    );
    let mut each = Figure::new(
        format!("memory of each of {connections} idle connections"),
        "KB",
        Some(12.0),
    );
    for _ in 0..PROCESSES.min(bench.settings.rounds) {
        for contender in &bench.contenders {
            let stand = Stand::start(contender, bench.cores, &bench.application)?;
            let before = stand.running.meter.resident()?;
            let mut sessions = Vec::new();
            for number in 0..connections {
                let session = Session::open(&stand.known, stand.running.address);
                sessions.push(
                    session.with_context(|| format!("{}, connection {number}", stand.name()))?,
                );
            }
            let after = stand.running.meter.resident()?;
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            {
                idle.add(stand.name(), before as f64 / 1e6);
                let more = after.saturating_sub(before) as f64;
                each.add(stand.name(), more / f64::from(connections) / 1e3);
            }
            sessions.into_iter().try_for_each(Session::close)?;
            bench.application.settled(0)?;
        }
    }
    Ok(vec![idle, each])
}
