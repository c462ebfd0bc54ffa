//! Requests on open connections, each judged by an L7 intention.

use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::bench::Bench;
use crate::bench::client::{Check, config};
use crate::bench::contender::Contender;
use crate::bench::cores::Cores;
use crate::bench::figures::Figure;
use crate::bench::http::client::Client;
use crate::bench::http::{Version, application};
use crate::bench::running::Running;

/// Connections at once.
const CONNECTIONS: u32 = 4;
/// Requests of one slice on each of them.
const REQUESTS: u32 = 1_000;
/// Of Envoy's, at most so much.
const GOALS: &[(&str, f64)] = &[("envoy", 0.7)];
/// Requests over which memory is looked at, and how often.
const MILLION: u32 = 1_000_000;
const PARTS: u32 = 10;

pub(super) fn http1(bench: &mut Bench) -> Result<Vec<Figure>> {
    let title = "HTTP/1.1 request, five permissions";
    let (figures, _) = measure(bench, &bench.contenders, Version::Http1, title, GOALS)?;
    Ok(figures)
}

pub(super) fn http2(bench: &mut Bench) -> Result<Vec<Figure>> {
    let title = "HTTP/2 request, five permissions";
    let (figures, _) = measure(bench, &bench.contenders, Version::Http2, title, GOALS)?;
    Ok(figures)
}

/// A proxy that judges requests, with connections that are open.
pub(super) struct Stand {
    pub(super) name: String,
    pub(super) running: Running,
    client: Client,
}

/// Processor time and time on the wall, and who was measured.
pub(super) fn measure(
    bench: &Bench,
    contenders: &[Rc<dyn Contender>],
    version: Version,
    title: &str,
    goals: &'static [(&'static str, f64)],
) -> Result<(Vec<Figure>, Vec<Stand>)> {
    let requests = bench.settings.amount(REQUESTS);
    let mut stands = stands_of(contenders, bench.cores, version)?;
    let mut cpu = Figure::new(format!("{title}: CPU"), "us", None).with_ratios(goals);
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
    Ok((vec![cpu, wall], stands))
}

/// What a million requests leave behind in our proxy.
pub(super) fn million(bench: &mut Bench) -> Result<Vec<Figure>> {
    let each = bench.settings.amount(MILLION / PARTS / CONNECTIONS);
    let requests = each * CONNECTIONS * PARTS;
    let mut more = Figure::new(
        format!("memory that grew while {requests} requests were judged, after as many as a tenth"),
        "KB",
        None,
    );
    for version in [Version::Http1, Version::Http2] {
        let ours = &bench.contenders[..1];
        for mut stand in stands_of(ours, bench.cores, version)? {
            let name = format!("{}, {}", stand.name, version.alpn());
            for grown in stand.grow(each)? {
                more.add(&name, grown);
            }
        }
    }
    Ok(vec![more])
}

impl Stand {
    /// Sends `each` requests on each connection, and then ten times as many; after each of
    /// these tenths, by how many kilobytes the proxy has grown since the first.
    fn grow(&mut self, each: u32) -> Result<Vec<f64>> {
        self.client.send(each)?;
        let before = self.running.meter.resident()?;
        let tenth = |_| {
            self.client.send(each)?;
            let after = self.running.meter.resident()?;
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            Ok(after.saturating_sub(before) as f64 / 1e3)
        };
        (0..PARTS).map(tenth).collect()
    }
}

/// What a million requests by HTTP/1.1 leave behind in the first of these.
pub(super) fn million_through(
    bench: &Bench,
    contenders: &[Rc<dyn Contender>],
    title: &str,
) -> Result<Figure> {
    let each = bench.settings.amount(MILLION / PARTS / CONNECTIONS);
    let requests = each * CONNECTIONS * PARTS;
    let title = format!("{title}, growth over {requests} requests after as many as a tenth");
    let mut more = Figure::new(title, "KB", None);
    for mut stand in stands_of(
        contenders.get(..1).unwrap_or_default(),
        bench.cores,
        Version::Http1,
    )? {
        let name = stand.name.clone();
        for grown in stand.grow(each)? {
            more.add(&name, grown);
        }
        let now = stand.running.meter.resident()?;
        more.notes
            .push(format!("{} MB at the end", now / 1_000_000));
    }
    Ok(more)
}

fn stands_of(
    contenders: &[Rc<dyn Contender>],
    cores: Cores,
    version: Version,
) -> Result<Vec<Stand>> {
    let application = application::start()?;
    let mut stands = Vec::new();
    for contender in contenders {
        let name = contender.name().to_owned();
        let Some(mut running) = contender.start_http(version, cores, application)? else {
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
