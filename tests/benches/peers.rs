//! `cargo xtask bench`: our proxy beside Consul's and Envoy. See `tests/benches/README.md`.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use portcullis_tests::bench::figures::MARKDOWN_HEAD;
use portcullis_tests::bench::settings::Settings;
use portcullis_tests::bench::{Bench, meter};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<()> {
    let settings = Settings::parse(std::env::args().skip(1))?;
    let markdown = settings.markdown.clone();
    let before = meter::load_average();
    let mut bench = Bench::new(settings)?;
    let figures = bench.run()?;
    let Some(path) = markdown else {
        return Ok(());
    };
    let mut file = std::fs::File::options()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("cannot write `{}`", path.display()))?;
    writeln!(
        file,
        "{}; load average {before} before, {} after\n\n{MARKDOWN_HEAD}",
        meter::machine(),
        meter::load_average()
    )?;
    for figure in &figures {
        writeln!(file, "{}", figure.markdown())?;
        for note in &figure.notes {
            writeln!(file, "| {note} | | | | |")?;
        }
    }
    for missing in &bench.missing {
        writeln!(file, "\nMissing: {missing}")?;
    }
    Ok(())
}
