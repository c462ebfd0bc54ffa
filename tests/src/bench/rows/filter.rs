//! Our filter in Envoy: requests, connections, and what a million requests leave behind.

use anyhow::Result;

use super::connections::through;
use super::requests::{Stand, measure, million_through};
use crate::bench::Bench;
use crate::bench::figures::Figure;
use crate::bench::filter::{EMPTY, RBAC, contenders};
use crate::bench::http::Version;

/// Of an empty filter and of RBAC, at most so much for each request.
const REQUEST: &[(&str, f64)] = &[(EMPTY, 1.12), (RBAC, 1.30)];
/// Of an empty filter, at most so much for each new connection.
const CONNECTION: &[(&str, f64)] = &[(EMPTY, 1.05)];

/// Requests to an application behind Envoy, then requests that Envoy answers itself.
pub(super) fn requests(bench: &mut Bench) -> Result<Vec<Figure>> {
    let title = "HTTP/1.1 request through Envoy";
    let mut memory = Figure::new("resident memory of Envoy after these requests", "MB", None);
    let mut figures = Vec::new();
    for (by_itself, title) in [
        (false, format!("{title} to the application")),
        (true, format!("{title}, which answers it")),
    ] {
        let contenders = match contenders(bench, by_itself) {
            Ok(contenders) => contenders,
            Err(error) => return Ok(vec![missing(&title, &error)]),
        };
        let (times, stands) = measure(bench, &contenders, Version::Http1, &title, REQUEST)?;
        figures.extend(times);
        if !by_itself {
            look_at(&stands, &mut memory)?;
        }
    }
    figures.push(memory);
    Ok(figures)
}

fn look_at(stands: &[Stand], memory: &mut Figure) -> Result<()> {
    for stand in stands {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        memory.add(&stand.name, stand.running.meter.resident()? as f64 / 1e6);
    }
    Ok(())
}

/// New connections.
pub(super) fn connections(bench: &mut Bench) -> Result<Vec<Figure>> {
    match contenders(bench, false) {
        Ok(contenders) => through(bench, &contenders, CONNECTION),
        Err(error) => Ok(vec![missing("new mTLS connection through Envoy", &error)]),
    }
}

/// One million requests.
pub(super) fn million(bench: &mut Bench) -> Result<Vec<Figure>> {
    let title = "memory of Envoy with the filter";
    Ok(vec![match contenders(bench, false) {
        Ok(contenders) => million_through(bench, &contenders, title)?,
        Err(error) => missing(title, &error),
    }])
}

fn missing(title: &str, error: &anyhow::Error) -> Figure {
    let mut figure = Figure::new(title, "", None);
    figure.notes.push(format!("MISSING envoy: {error:#}"));
    figure
}
