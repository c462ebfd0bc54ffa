//! Bytes on one connection: to the application, then from it.

use anyhow::Result;

use crate::bench::Bench;
use crate::bench::client;
use crate::bench::figures::Figure;
use crate::bench::stand::{Stand, columns, interleave};

/// Bytes of one slice, each way.
const MEGABYTES: u32 = 200;

pub(super) fn measure(bench: &mut Bench) -> Result<Vec<Figure>> {
    let bytes = u64::from(bench.settings.amount(MEGABYTES)) * 1_000_000;
    let (settings, application) = (bench.settings.clone(), bench.application.clone());
    let stands = bench.stands()?;
    let mut figures = Vec::new();
    let mut sum = Figure::new("bulk bytes, mean of both ways: CPU", "s/GB", Some(0.8));
    type Way = fn(&client::Config, std::net::SocketAddr, u64) -> std::io::Result<()>;
    let ways: [(&str, Way); 2] = [
        ("to the application", client::upload),
        ("from the application", client::download),
    ];
    for (way, send) in ways {
        let mut cpu = Figure::new(format!("bulk bytes {way}: CPU"), "s/GB", None);
        let mut wall = Figure::new(format!("bulk bytes {way}: wall"), "s/GB", None);
        let work = |stand: &Stand| Ok(send(&stand.known, stand.running.address, bytes)?);
        interleave(stands, &application, &settings, work, |name, cost| {
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            let gigabytes = bytes as f64 / 1e9;
            cpu.add(name, cost.cpu.as_secs_f64() / gigabytes);
            wall.add(name, cost.wall.as_secs_f64() / gigabytes);
        })?;
        columns(&mut cpu, stands);
        columns(&mut wall, stands);
        figures.extend([cpu, wall]);
    }
    for (up, down) in figures[0].columns.iter().zip(&figures[2].columns) {
        for (up_sample, down_sample) in up.samples.iter().zip(&down.samples) {
            sum.add(&up.name, f64::midpoint(*up_sample, *down_sample));
        }
    }
    figures.insert(0, sum);
    Ok(figures)
}
