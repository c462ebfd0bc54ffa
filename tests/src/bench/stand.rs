//! A contender that runs, and the measuring of one slice of work on it.

use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::application::Application;
use super::client::{self, Check, Config};
use super::contender::Contender;
use super::cores::Cores;
use super::figures::Figure;
use super::running::Running;
use super::settings::Settings;

/// A running contender.
pub(super) struct Stand {
    pub(super) contender: Rc<dyn Contender>,
    pub(super) running: Running,
    /// A client that it has seen.
    pub(super) known: Config,
}

/// What a slice has cost.
pub(super) struct Cost {
    pub(super) cpu: Duration,
    pub(super) wall: Duration,
}

impl Stand {
    pub(super) fn start(
        contender: &Rc<dyn Contender>,
        cores: Cores,
        application: &Application,
    ) -> Result<Self> {
        let name = contender.name();
        let known = client::config(&contender.client()?, Check::Nothing)?;
        let mut running = contender
            .start(cores, application.address)
            .with_context(|| name.to_owned())?;
        running.ready(&known).with_context(|| name.to_owned())?;
        application.settled(0)?;
        Ok(Self {
            contender: Rc::clone(contender),
            running,
            known,
        })
    }

    pub(super) fn name(&self) -> &str {
        self.contender.name()
    }

    /// Does `work`, and measures until the application has seen its end.
    pub(super) fn measure(
        &self,
        application: &Application,
        work: impl FnOnce(&Self) -> Result<()>,
    ) -> Result<Cost> {
        let meter = self.running.meter;
        let before = application.open();
        let (used, began) = (meter.used()?, Instant::now());
        work(self).with_context(|| {
            format!(
                "{}; its log ends:\n{}",
                self.name(),
                self.running.last_words()
            )
        })?;
        let wall = began.elapsed();
        application.settled(before)?;
        Ok(Cost {
            cpu: meter.used()?.since(&used),
            wall,
        })
    }
}

/// Runs `work` on all stands in turn, after one round that does not count, and
/// tells `add` what each slice cost.
pub(super) fn interleave(
    stands: &[Stand],
    application: &Application,
    settings: &Settings,
    mut work: impl FnMut(&Stand) -> Result<()>,
    add: impl FnMut(&str, &Cost),
) -> Result<()> {
    interleave_prepared(
        stands,
        application,
        settings,
        |_| Ok(()),
        |stand, ()| work(stand),
        add,
    )
}

/// The same with something that is made before each slice and does not count.
pub(super) fn interleave_prepared<T>(
    stands: &[Stand],
    application: &Application,
    settings: &Settings,
    mut prepare: impl FnMut(&Stand) -> Result<T>,
    mut work: impl FnMut(&Stand, T) -> Result<()>,
    mut add: impl FnMut(&str, &Cost),
) -> Result<()> {
    for round in settings.warm_up()..=settings.rounds {
        // Whoever follows a heavy neighbour is not always the same.
        for place in 0..stands.len() {
            let stand = &stands[(place + round) % stands.len()];
            let prepared = prepare(stand)?;
            let cost = stand.measure(application, |stand| work(stand, prepared))?;
            if round > 0 {
                add(stand.name(), &cost);
            }
        }
    }
    Ok(())
}

/// The order of the contenders in a table, whatever the order of their turns.
pub(super) fn columns(figure: &mut Figure, stands: &[Stand]) {
    let place = |name: &str| stands.iter().position(|stand| stand.name() == name);
    figure.columns.sort_by_key(|column| place(&column.name));
}
