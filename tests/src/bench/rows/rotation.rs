//! New handshakes while the CA is rotated twice: how many fail.

use anyhow::Result;

use crate::bench::Bench;
use crate::bench::figures::Figure;
use crate::bench::mesh::{ConsulMesh, DevMesh, Mesh};
use crate::bench::rotation::Rotation;

/// Handshakes of each of two rotations, at least.
const HANDSHAKES: u32 = 6_000;

pub(super) fn measure(bench: &mut Bench) -> Result<Vec<Figure>> {
    bench.stands.clear();
    let mut figures = vec![with(bench, &DevMesh::start()?)?];
    // An agent of its own: what other rows use keeps its CA.
    match &bench.consul {
        // It takes its time, whatever the amount of work.
        Ok(_) if bench.settings.small() => {}
        Ok(_) => figures.push(with(bench, &ConsulMesh::start()?)?),
        Err(reason) => figures[0].notes.push(format!("MISSING consul: {reason}")),
    }
    Ok(figures)
}

fn with(bench: &Bench, mesh: &dyn Mesh) -> Result<Figure> {
    let agent = mesh.agent_name();
    let title = format!("failed new handshakes under rotation, {agent}");
    let mut figure = Figure::new(title, "", Some(0.0));
    let handshakes = u64::from(bench.settings.amount(HANDSHAKES)).max(100);
    let mut rotation = Rotation::start(&bench.ours, bench.cores, &bench.application, mesh)?;
    let mut failed = 0;
    for outcome in rotation.run(handshakes, bench.settings.small())? {
        let made: u64 = outcome.made.iter().map(|(_, made)| made).sum();
        let kinds: Vec<String> = outcome
            .made
            .iter()
            .map(|(name, made)| format!("{name} {made}"))
            .collect();
        figure.notes.push(format!(
            "{}: {made} handshakes ({}), {} failed",
            outcome.name,
            kinds.join(", "),
            outcome.failed.len()
        ));
        if outcome.before_known > 0 {
            figure.notes.push(format!(
                "{} failed before both proxies knew both roots, which no proxy can avoid",
                outcome.before_known
            ));
        }
        figure.notes.extend(outcome.failed.iter().take(5).cloned());
        failed += outcome.failed.len();
    }
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    figure.add("ours", failed as f64);
    Ok(figure)
}
