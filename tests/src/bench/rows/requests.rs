//! Requests on open connections, each judged by an L7 intention.

use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::bench::Bench;
use crate::bench::client::{Check, config};
use crate::bench::figures::Figure;
use crate::bench::http::client::Client;
use crate::bench::http::{Version, application};
use crate::bench::running::Running;

/// Connections at once.
const CONNECTIONS: u32 = 4;
/// Requests of one slice on each of them.
const REQUESTS: u32 = 1_000;

pub(super) fn http1(bench: &mut Bench) -> Result<Vec<Figure>> {
    measure(bench, Version::Http1, "HTTP/1.1 request, five permissions")
}

pub(super) fn http2(bench: &mut Bench) -> Result<Vec<Figure>> {
    measure(bench, Version::Http2, "HTTP/2 request, five permissions")
}

/// A proxy that judges requests, with connections that are open.
struct Stand {
    name: String,
    running: Running,
    client: Client,
}

fn measure(bench: &Bench, version: Version, title: &str) -> Result<Vec<Figure>> {
    let requests = bench.settings.amount(REQUESTS);
    let mut stands = stands(bench, version)?;
    let mut cpu = Figure::new(format!("{title}: CPU"), "us", None).with_ratios(&[("envoy", 0.7)]);
    let mut wall = Figure::new(format!("{title}: wall"), "us", None);
    let each = f64::from(requests * CONNECTIONS);
    for round in bench.settings.warm_up()..=bench.settings.rounds {
        for place in 0..stands.len() {
            let of = (place + round) % stands.len();
            let Stand {
                name,
                running,
                client,
            } = &mut stands[of];
            let (used, began) = (running.meter.used()?, Instant::now());
            client
                .send(requests)
                .with_context(|| format!("{name}; its log ends:\n{}", running.last_words()))?;
            let (took, used) = (began.elapsed(), running.meter.used()?.since(&used));
            if round > 0 {
                cpu.add(name, used.as_secs_f64() * 1e6 / each);
                wall.add(name, took.as_secs_f64() * 1e6 / each);
            }
        }
    }
    // The order of the contenders, whatever the order of their turns.
    for figure in [&mut cpu, &mut wall] {
        let place = |name: &str| stands.iter().position(|stand| stand.name == name);
        figure.columns.sort_by_key(|column| place(&column.name));
    }
    Ok(vec![cpu, wall])
}

fn stands(bench: &Bench, version: Version) -> Result<Vec<Stand>> {
    let application = application::start()?;
    let mut stands = Vec::new();
    for contender in &bench.contenders {
        let name = contender.name().to_owned();
        let Some(mut running) = contender.start_http(version, bench.cores, application)? else {
            continue;
        };
        let config = config(&contender.client()?, Check::Nothing)?;
        let (client, _) = running
            .until_good(|proxy| Client::open(version, &config, proxy, CONNECTIONS))
            .with_context(|| name.clone())?;
        stands.push(Stand {
            name,
            running,
            client,
        });
    }
    Ok(stands)
}
