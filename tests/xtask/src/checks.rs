//! Static checks: formatting, clippy, documentation, lists, licences.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::report::Report;
use crate::suite::NATIVE;
use crate::{components, shell};

const CORE_LIST: &str = "guest/core/dependencies.txt";
const PAGES: [&str; 14] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "host/DECISIONS-LOG.md",
    "host/ENVOY.md",
    "host/NATIVE.md",
    "guest/envoy/README.md",
    "host/OPERATIONS.md",
    "host/POLICY-TOOLS.md",
    "host/WHY-DENIED.md",
    "tests/ATTACKS.md",
    "tests/benches/README.md",
    "tests/benches/RESULTS.md",
];

/// Formatting of all code.
pub(crate) fn format(report: &mut Report) -> Result<()> {
    let mut cargo = shell::command(shell::cargo(), &["fmt", "--all", "--check"]);
    shell::step(report, "formatting", &mut cargo).map(|_| ())
}

/// Clippy's arguments after `--`.
const DENY_WARNINGS: [&str; 3] = ["--", "--deny", "warnings"];

/// Clippy for everything native, and for the components as what they are.
pub(crate) fn clippy(report: &mut Report) -> Result<()> {
    let mut guests = components::guest_cargo("clippy");
    guests
        .args([
            "--package",
            "portcullis-policy",
            "--package",
            "portcullis-mesh-policy",
            "--package",
            "portcullis-hostile-*",
        ])
        .args(DENY_WARNINGS);
    shell::step(report, "clippy of the components", &mut guests)?;
    let mut filter = components::filter_cargo("clippy");
    filter
        .args(["--package", "portcullis-envoy"])
        .args(DENY_WARNINGS);
    shell::step(report, "clippy of the Envoy filter", &mut filter)?;
    let mut native = shell::command(
        shell::cargo(),
        &[&["clippy", "--release", "--all-targets"][..], &NATIVE].concat(),
    );
    native.args(DENY_WARNINGS);
    shell::step(report, "clippy", &mut native)?;
    let mut traces = shell::command(
        shell::cargo(),
        &[
            "clippy",
            "--release",
            "--all-targets",
            "--package",
            "portcullis",
            "--features",
            "otel",
        ],
    );
    traces.args(DENY_WARNINGS);
    shell::step(report, "clippy with traces", &mut traces).map(|_| ())
}

/// Documentation, lists, paths and licences.
pub(crate) fn rest(report: &mut Report, with_peers: bool) -> Result<()> {
    documentation(report)?;
    list(report)?;
    paths(report)?;
    named_tests(report)?;
    if with_peers {
        licences(report)?;
    } else {
        report.warn("NOT CHECKED: licences, bans, sources and advisories (--no-peers)");
    }
    Ok(())
}

fn documentation(report: &mut Report) -> Result<()> {
    let mut cargo = shell::command(
        shell::cargo(),
        &[
            "doc",
            "--release",
            "--no-deps",
            "--package",
            "portcullis-core",
            "--package",
            "portcullis",
            "--package",
            "portcullis-dev-agent",
        ],
    );
    cargo.env("RUSTDOCFLAGS", "--deny warnings");
    shell::step(report, "documentation", &mut cargo).map(|_| ())
}

/// The core's dependencies are those of the checked-in list: nothing with a
/// socket or a clock gets in unnoticed.
fn list(report: &mut Report) -> Result<()> {
    let began = report.begin("dependencies of the core");
    let (now, before) = (core_dependencies()?, recorded()?);
    report.end("dependencies of the core", began, now == before);
    if now == before {
        return Ok(());
    }
    let new: Vec<_> = now.difference(&before).collect();
    let gone: Vec<_> = before.difference(&now).collect();
    bail!(
        "`{CORE_LIST}` differs: new {new:?}, gone {gone:?}; if that is meant, `cargo xtask lists --update`"
    )
}

/// Writes the checked-in list anew.
pub(crate) fn update_lists() -> Result<()> {
    let text: String = core_dependencies()?
        .iter()
        .map(|name| format!("{name}\n"))
        .collect();
    fs::write(shell::root().join(CORE_LIST), text)
        .with_context(|| format!("cannot write `{CORE_LIST}`"))
}

fn core_dependencies() -> Result<BTreeSet<String>> {
    let tree = shell::output(
        shell::cargo(),
        &[
            "tree",
            "--package",
            "portcullis-core",
            "--target",
            "wasm32-wasip2",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ],
    )
    .context("`cargo tree` failed")?;
    Ok(tree
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect())
}

fn recorded() -> Result<BTreeSet<String>> {
    let text = fs::read_to_string(shell::root().join(CORE_LIST))
        .with_context(|| format!("cannot read `{CORE_LIST}`"))?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// Every file and folder that the pages name exists, and every section that they link to.
fn paths(report: &mut Report) -> Result<()> {
    let began = report.begin("paths in the pages");
    let mut missing = Vec::new();
    for page in PAGES {
        let text = fs::read_to_string(shell::root().join(page))
            .with_context(|| format!("cannot read `{page}`"))?;
        let folder = Path::new(page).parent().unwrap_or(Path::new(""));
        for named in named_paths(&text) {
            if !shell::root().join(&named).exists() {
                missing.push(format!("`{page}` names `{named}`"));
            }
        }
        for link in links(&text) {
            let (file, section) = link.split_once('#').unwrap_or((link, ""));
            if !shell::root().join(folder).join(file).exists() {
                missing.push(format!("`{page}` links to `{file}`"));
            } else if file.is_empty() && !section.is_empty() && !has_section(&text, section) {
                missing.push(format!("`{page}` links to its section `#{section}`"));
            }
        }
    }
    report.end("paths in the pages", began, missing.is_empty());
    if missing.is_empty() {
        Ok(())
    } else {
        bail!("no such file: {}", missing.join(", "))
    }
}

/// The page that names a test for each attack.
const ATTACKS: &str = "tests/ATTACKS.md";

/// Every test that the page of attacks names exists: `file::function`.
fn named_tests(report: &mut Report) -> Result<()> {
    let began = report.begin("tests in the page of attacks");
    let text = fs::read_to_string(shell::root().join(ATTACKS))
        .with_context(|| format!("cannot read `{ATTACKS}`"))?;
    let named: Vec<(&str, &str)> = text
        .split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|word| word.split_once(".rs::"))
        .collect();
    let is_there = |file: &str, function: &str| {
        let source = fs::read_to_string(shell::root().join(format!("{file}.rs")));
        source.is_ok_and(|source| source.contains(&format!("fn {function}(")))
    };
    let missing: Vec<_> = named
        .iter()
        .filter(|(file, function)| !is_there(file, function))
        .map(|(file, function)| format!("`{file}.rs::{function}`"))
        .collect();
    let good = missing.is_empty() && !named.is_empty();
    report.end("tests in the page of attacks", began, good);
    if good {
        Ok(())
    } else {
        bail!("`{ATTACKS}` names {}", missing.join(", "))
    }
}

/// Paths in backticks: of this repository, so with one of its first folders or a known
/// ending.
fn named_paths(text: &str) -> Vec<String> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| !word.contains(char::is_whitespace) && !word.contains("://"))
        .filter(|word| {
            let first = word.split('/').next().unwrap_or_default();
            let ours = matches!(
                first,
                "guest" | "host" | "wit" | "examples" | "tests" | ".ci" | ".cargo"
            );
            let page = !word.contains('/') && word.ends_with(".md");
            (ours && word.contains('/')) || page
        })
        .filter(|word| !word.contains(['*', '<', '{', '…']))
        // `file::function` is looked for elsewhere.
        .filter(|word| !word.contains("::"))
        .map(str::to_owned)
        .collect()
}

/// Targets of links, from the page's own folder; not those into the web.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .filter(|target| !target.contains("://") && !target.contains(char::is_whitespace))
}

/// Whether a page has a heading to which `#section` leads.
fn has_section(text: &str, section: &str) -> bool {
    text.lines()
        .filter(|line| line.starts_with('#'))
        .any(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let slug: String = title
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect();
            slug == section
        })
}

/// Licences, bans and sources by cargo-deny; advisories where the database can be had.
fn licences(report: &mut Report) -> Result<()> {
    let deny = shell::target().join("peers/tools/bin/cargo-deny");
    if !deny.is_file() {
        bail!(
            "`{}` is missing: `cargo xtask peers` installs it",
            deny.display()
        );
    }
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&deny);
        command.args(arguments).current_dir(shell::root());
        command
    };
    shell::step(
        report,
        "licences, bans, sources",
        &mut run(&[
            "--log-level",
            "error",
            "check",
            "licenses",
            "bans",
            "sources",
        ]),
    )?;
    let fetched = run(&["--log-level", "error", "fetch", "db"])
        .output()
        .is_ok_and(|output| output.status.success());
    if fetched {
        shell::step(
            report,
            "advisories",
            &mut run(&["--log-level", "error", "check", "advisories"]),
        )?;
    } else {
        report.warn("NOT CHECKED: advisories (the RustSec database cannot be reached from here)");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_found_as_links_name_them() {
        let page = "# One\n\n## Clocks, and `x`\n### -health\n";
        for section in ["one", "clocks-and-x", "-health"] {
            assert!(has_section(page, section), "{section}");
        }
        assert!(!has_section(page, "two"));
    }
}
