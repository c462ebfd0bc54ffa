//! All tests of the workspace in one run of cargo, and their counts.

use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::failure;
use crate::report::Report;
use crate::second_try;
use crate::shell;

/// Everything that runs natively: all but the components.
pub(crate) const NATIVE: [&str; 9] = [
    "--workspace",
    "--exclude",
    "portcullis-policy",
    "--exclude",
    "portcullis-mesh-policy",
    "--exclude",
    "portcullis-envoy",
    "--exclude",
    "portcullis-hostile-*",
];

/// How many tests of a program run at once on two processors: most wait for agents and Envoys
/// more than they compute.
const AT_ONCE: &str = "4";

/// Runs every test.
pub(crate) fn run(report: &mut Report, with_peers: bool) -> Result<()> {
    let skipped = shell::target().join("xtask/skipped.txt");
    let _ = fs::remove_file(&skipped);

    let mut build = cargo_test();
    build.arg("--no-run");
    shell::step(report, "build the tests", &mut build)?;

    let run = || {
        let mut cargo = cargo_test();
        cargo.arg("--no-fail-fast");
        cargo.env("PORTCULLIS_SKIPPED", &skipped);
        if std::env::var_os("RUST_TEST_THREADS").is_none() {
            cargo.env("RUST_TEST_THREADS", AT_ONCE);
        }
        cargo.env("PORTCULLIS_BIN", shell::target().join("release/portcullis"));
        if !with_peers {
            cargo.env("PORTCULLIS_NO_PEERS", "1");
        }
        cargo
    };
    let outcome = shell::step(report, RUN, &mut run());
    let log =
        fs::read_to_string(shell::target().join("xtask/run-the-tests.log")).unwrap_or_default();
    count(report, &log);

    let left_out = fs::read_to_string(&skipped).unwrap_or_default();
    for line in left_out.lines() {
        report.warn(format!("SKIPPED: {line}"));
        report.skipped += 1;
        report.passed = report.passed.saturating_sub(1);
    }
    let failures = failure::failures(&log);
    let told = failure::all_told(&log, &failures);
    let (unstable, broken) = second_try::ask_again(report, failures, run);
    for failure in &unstable {
        report.unstable(failure);
    }
    for failure in &broken {
        report.failed(&failure.to_string());
    }
    if told && broken.is_empty() {
        report.forgive(RUN);
    } else {
        outcome?;
    }
    traces(report)
}

/// The step that runs all tests.
const RUN: &str = "run the tests";

/// The test programs that talk to a real Consul agent.
const OF_CONSUL: [&str; 14] = [
    "api",
    "batch",
    "codec",
    "connections",
    "consul",
    "differential",
    "faults",
    "http",
    "interop",
    "layer",
    "mesh_policy",
    "reload",
    "sidecar",
    "tools",
];

/// Runs the tests of a Consul agent with this one.
pub(crate) fn with_consul(report: &mut Report, agent: &Path) -> Result<()> {
    let mut cargo = shell::command(
        shell::cargo(),
        &["test", "--release", "--package", "portcullis-tests"],
    );
    cargo.args(OF_CONSUL.map(|program| format!("--test={program}")));
    cargo.arg("--no-fail-fast");
    cargo.env("PORTCULLIS_TEST_CONSUL", agent);
    cargo.env("PORTCULLIS_BIN", shell::target().join("release/portcullis"));
    let outcome = shell::step(report, "run the tests of Consul", &mut cargo);
    let log = fs::read_to_string(shell::target().join("xtask/run-the-tests-of-Consul.log"))
        .unwrap_or_default();
    count(report, &log);
    for failure in failure::failures(&log) {
        report.failed(&failure.to_string());
    }
    outcome.map(|_| ())
}

/// The command once more, with the feature that is off by default. Last, because it
/// leaves that command in target/release.
fn traces(report: &mut Report) -> Result<()> {
    let mut cargo = cargo_test();
    // With the features of everything else, so that only what is new is built, and built by
    // both processors.
    cargo.args(["--features", "portcullis/otel"]);
    cargo.args(["--bin", "portcullis", "--test", "otel"]);
    cargo.args([
        "--config",
        "profile.release.package.portcullis.codegen-units=16",
    ]);
    let outcome = shell::step(report, "test the traces", &mut cargo);
    let log =
        fs::read_to_string(shell::target().join("xtask/test-the-traces.log")).unwrap_or_default();
    count(report, &log);
    outcome.map(|_| ())
}

fn cargo_test() -> std::process::Command {
    shell::command(
        shell::cargo(),
        &[&["test", "--release"][..], &NATIVE].concat(),
    )
}

/// Adds up cargo's `test result:` lines.
fn count(report: &mut Report, log: &str) {
    for line in log
        .lines()
        .filter_map(|line| line.trim().strip_prefix("test result: "))
    {
        for part in line.split([';', '.']) {
            let mut words = part.split_whitespace();
            let (Some(number), Some(word)) = (words.next(), words.next()) else {
                continue;
            };
            let Ok(number) = number.parse::<u64>() else {
                continue;
            };
            match word {
                "passed" => report.passed += number,
                "failed" => report.failures_counted += number,
                "ignored" => report.skipped += number,
                _ => {}
            }
        }
    }
}
