//! New connections: full handshake, both certificates, one echoed byte, and the end.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};

use crate::bench::Bench;
use crate::bench::client::{self, Config};
use crate::bench::figures::Figure;
use crate::bench::stand::{columns, interleave};

/// How many clients call at the same time.
const CLIENTS: usize = 4;
/// Connections of one slice.
const CONNECTIONS: u32 = 400;

/// With one certificate.
pub(super) fn known(bench: &mut Bench) -> Result<Vec<Figure>> {
    let connections = bench.settings.amount(CONNECTIONS);
    let (rounds, application) = (bench.settings.rounds, bench.application.clone());
    let title = "new mTLS connection, known certificate";
    let mut cpu = Figure::new(format!("{title}: CPU"), "us", Some(450.0))
        .with_ratios(&[("envoy", 0.5), ("consul", 0.33)]);
    let mut wall = Figure::new(format!("{title}: wall, {CLIENTS} clients"), "us", None);
    let stands = bench.stands()?;
    let work = |stand: &_| call(stand, connections, |stand, _| stand.known.clone());
    interleave(stands, &application, rounds, work, |name, cost| {
        let per = f64::from(connections);
        cpu.add(name, cost.cpu.as_secs_f64() * 1e6 / per);
        wall.add(name, cost.wall.as_secs_f64() * 1e6 / per);
    })?;
    columns(&mut cpu, stands);
    columns(&mut wall, stands);
    Ok(vec![cpu, wall])
}

/// Opens that many connections from a few clients at once, each with what `config` gives for
/// its number.
fn call(
    stand: &crate::bench::stand::Stand,
    connections: u32,
    config: impl Fn(&crate::bench::stand::Stand, usize) -> Config,
) -> Result<()> {
    let configs: Vec<Config> = (0..connections as usize)
        .map(|number| config(stand, number))
        .collect();
    let (next, address) = (AtomicUsize::new(0), stand.running.address);
    let client = || -> Result<()> {
        while let Some(config) = configs.get(next.fetch_add(1, Ordering::Relaxed)) {
            client::once(config, address).context("a connection failed")?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        clients.into_iter().try_for_each(|client| {
            client
                .join()
                .unwrap_or_else(|_| anyhow::bail!("a client panicked"))
        })
    })
}
