//! From the start of the process to the first connection that the policy lets through.

use anyhow::{Context as _, Result};

use crate::bench::Bench;
use crate::bench::client::{self, Check};
use crate::bench::figures::Figure;

pub(super) fn measure(bench: &mut Bench) -> Result<Vec<Figure>> {
    let mut figure = Figure::new("start to first authorised connection", "ms", Some(100.0));
    // Stopped ones would be in the way on the same core.
    bench.stands.clear();
    for round in bench.settings.warm_up()..=bench.settings.rounds {
        for contender in &bench.contenders {
            let name = contender.name();
            let known = client::config(&contender.client()?, Check::Nothing)?;
            let mut running = contender
                .start(bench.cores, bench.application.address)
                .with_context(|| name.to_owned())?;
            let took = running.ready(&known).with_context(|| name.to_owned())?;
            // The first compiles the component, and fills the page cache.
            if round > 0 {
                figure.add(name, took.as_secs_f64() * 1e3);
            }
        }
    }
    bench.application.settled(0)?;
    Ok(vec![figure])
}
