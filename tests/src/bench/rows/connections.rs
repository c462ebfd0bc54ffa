//! New connections: full handshake, both certificates, one echoed byte, and the end.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, bail};

use crate::bench::Bench;
use crate::bench::application::Application;
use crate::bench::client::{self, Check, Config};
use crate::bench::contender::{Contender, Ours};
use crate::bench::figures::Figure;
use crate::bench::identity::Identity;
use crate::bench::settings::Settings;
use crate::bench::stand::{Cost, Stand, columns, interleave, interleave_prepared};

/// How many clients call at the same time.
const CLIENTS: usize = 4;
/// Connections of one slice.
const CONNECTIONS: u32 = 400;

/// The same where each brings a certificate that nobody has seen: fewer, as they are made before.
const STRANGERS: u32 = 200;

/// With one certificate.
pub(super) fn known(bench: &mut Bench) -> Result<Vec<Figure>> {
    let (settings, application) = (bench.settings.clone(), bench.application.clone());
    let mut table = Table::new("new mTLS connection, known certificate", Some(450.0));
    table.cpu = table.cpu.with_ratios(&[("envoy", 0.5), ("consul", 0.33)]);
    measure_known(table, bench.stands()?, &application, &settings)
}

/// The same through an Envoy with our filter, and others.
pub(super) fn through(
    bench: &Bench,
    contenders: &[Rc<dyn Contender>],
    goals: &'static [(&'static str, f64)],
) -> Result<Vec<Figure>> {
    let mut table = Table::new("new mTLS connection through Envoy", None);
    table.cpu = table.cpu.with_ratios(goals);
    let stands = contenders
        .iter()
        .map(|contender| Stand::start(contender, bench.cores, &bench.application))
        .collect::<Result<Vec<_>>>()?;
    measure_known(table, &stands, &bench.application, &bench.settings)
}

fn measure_known(
    mut table: Table,
    stands: &[Stand],
    application: &Application,
    settings: &Settings,
) -> Result<Vec<Figure>> {
    let connections = settings.amount(CONNECTIONS);
    let work = |stand: &Stand| {
        let configs = vec![Arc::clone(&stand.known); connections as usize];
        call(stand, &configs)
    };
    interleave(stands, application, settings, work, |name, cost| {
        table.add(name, cost, connections);
    })?;
    Ok(table.figures(stands))
}

/// With a certificate that the proxy has never seen, of a root that it knows.
pub(super) fn strangers(bench: &mut Bench) -> Result<Vec<Figure>> {
    let (settings, connections) = (bench.settings.clone(), bench.settings.amount(STRANGERS));
    let application = bench.application.clone();
    let table = Table::new("new mTLS connection, certificate seen first", Some(1400.0));
    measure_strangers(
        table,
        bench.stands()?,
        &application,
        &settings,
        connections,
        |stand| stand.contender.client(),
    )
}

/// The same through a cross-signed intermediate. Ours is with the real agent here, because
/// its CA is the one that we can sign with.
pub(super) fn cross_signed(bench: &mut Bench) -> Result<Vec<Figure>> {
    let (settings, connections) = (bench.settings.clone(), bench.settings.amount(STRANGERS));
    let title = "new mTLS connection, seen first, cross-signed";
    let mut table = Table::new(title, Some(2300.0));
    let mesh = match &bench.consul {
        Ok(mesh) => Rc::clone(mesh),
        Err(reason) => {
            table.cpu.notes.push(format!("MISSING consul: {reason}"));
            return Ok(table.figures(&[]));
        }
    };
    let ours = Ours::new("ours", bench.ours.clone(), mesh);
    let mut contenders: Vec<Rc<dyn Contender>> = vec![Rc::new(ours)];
    let peers = bench.contenders.iter();
    contenders.extend(
        peers
            .filter(|peer| !peer.name().starts_with("ours"))
            .cloned(),
    );
    let stands = contenders
        .iter()
        .map(|contender| Stand::start(contender, bench.cores, &bench.application))
        .collect::<Result<Vec<_>>>()?;
    measure_strangers(
        table,
        &stands,
        &bench.application,
        &settings,
        connections,
        |stand| stand.contender.cross_signed_client(),
    )
}

fn measure_strangers(
    mut table: Table,
    stands: &[Stand],
    application: &Application,
    settings: &Settings,
    connections: u32,
    identity: impl Fn(&Stand) -> Result<Identity>,
) -> Result<Vec<Figure>> {
    let make = |stand: &Stand| -> Result<Vec<Config>> {
        let client = |_| client::config(&identity(stand)?, Check::Nothing);
        (0..connections).map(client).collect()
    };
    let work = |stand: &Stand, configs: Vec<Config>| call(stand, &configs);
    interleave_prepared(stands, application, settings, make, work, |name, cost| {
        table.add(name, cost, connections);
    })?;
    Ok(table.figures(stands))
}

/// Processor time and time on the wall.
pub(super) struct Table {
    cpu: Figure,
    wall: Figure,
}

impl Table {
    fn new(title: &str, goal: Option<f64>) -> Self {
        Self {
            cpu: Figure::new(format!("{title}: CPU"), "us", goal),
            wall: Figure::new(format!("{title}: wall, {CLIENTS} clients"), "us", None),
        }
    }

    fn add(&mut self, name: &str, cost: &Cost, connections: u32) {
        let per = f64::from(connections);
        self.cpu.add(name, cost.cpu.as_secs_f64() * 1e6 / per);
        self.wall.add(name, cost.wall.as_secs_f64() * 1e6 / per);
    }

    fn figures(mut self, stands: &[Stand]) -> Vec<Figure> {
        columns(&mut self.cpu, stands);
        columns(&mut self.wall, stands);
        vec![self.cpu, self.wall]
    }
}

/// Opens a connection with each of these, from a few clients at once.
fn call(stand: &Stand, configs: &[Config]) -> Result<()> {
    let (next, address) = (AtomicUsize::new(0), stand.running.address);
    let client = || -> Result<()> {
        while let Some(config) = configs.get(next.fetch_add(1, Ordering::Relaxed)) {
            client::once(config, address).context("a connection failed")?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        clients
            .into_iter()
            .try_for_each(|client| client.join().unwrap_or_else(|_| bail!("a client panicked")))
    })
}
