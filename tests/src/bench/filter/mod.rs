//! Our filter in Envoy, and what it is measured beside: Envoys that differ in nothing else.

mod bootstrap;
mod empty;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

use self::bootstrap::{Answers, Bootstrap};
use super::Bench;
use super::contender::Contender;
use super::cores::Cores;
use super::http::{Version, policy};
use super::identity::Identity;
use super::mesh::{CLIENT, DevMesh, Mesh, SERVICE};
use super::running::Running;
use crate::{components, peers};

/// Envoy that lets everybody pass who has a certificate.
pub const ALONE: &str = "envoy alone";
/// Envoy with a filter of one callback that does nothing.
pub const EMPTY: &str = "empty filter";
/// Envoy's own RBAC.
pub const RBAC: &str = "native RBAC";

/// Who decides in an Envoy.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Judge {
    Nobody,
    Rbac,
    /// A module without a policy.
    Empty(PathBuf),
    /// Ours, with the policy of the dev agent.
    Filter(PathBuf),
}

/// Envoy, one worker, and whoever decides in it.
pub struct InEnvoy {
    name: String,
    judge: Judge,
    answers: Answers,
    binary: PathBuf,
    mesh: Rc<DevMesh>,
    /// Certificates and the empty module.
    folder: Rc<TempDir>,
}

/// Ours first, then other builds of it, an empty filter, RBAC, and Envoy alone. With
/// `by_itself` Envoy answers requests itself, which leaves the filter the largest share.
///
/// # Errors
/// When there is no Envoy here; that is in words for a note.
pub fn contenders(bench: &Bench, by_itself: bool) -> Result<Vec<Rc<dyn Contender>>> {
    ensure!(bench.settings.wants("envoy"), "not asked for");
    if std::env::var_os("PORTCULLIS_NO_PEERS").is_some_and(|value| !value.is_empty()) {
        bail!("left out by PORTCULLIS_NO_PEERS");
    }
    let binary = peers::workspace().join("target/peers/envoy/bin/envoy");
    if !binary.exists() {
        bail!("`target/peers/envoy` is missing: `cargo xtask peers` installs it");
    }
    let folder = prepare(&bench.dev)?;
    let mut judges = vec![("ours".to_owned(), Judge::Filter(components::envoy_filter()))];
    for module in bench.settings.filters_beside() {
        let module = module
            .canonicalize()
            .with_context(|| format!("no filter at `{}`", module.display()))?;
        let name = format!("ours{}", "'".repeat(judges.len()));
        judges.push((name, Judge::Filter(module)));
    }
    let empty = folder.path().join("empty.wasm");
    judges.extend([
        (EMPTY.to_owned(), Judge::Empty(empty)),
        (RBAC.to_owned(), Judge::Rbac),
        (ALONE.to_owned(), Judge::Nobody),
    ]);
    let contender = |(name, judge)| {
        Rc::new(InEnvoy {
            name,
            judge,
            answers: if by_itself {
                Answers::Envoy
            } else {
                Answers::Application
            },
            binary: binary.clone(),
            mesh: Rc::clone(&bench.dev),
            folder: Rc::clone(&folder),
        }) as Rc<dyn Contender>
    };
    Ok(judges.into_iter().map(contender).collect())
}

/// Intentions in the agent, and files for Envoy.
fn prepare(mesh: &DevMesh) -> Result<Rc<TempDir>> {
    policy::put_entries(mesh.agent())?;
    let leaf = mesh
        .agent
        .issue(SERVICE)
        .context("no certificate from the development agent")?;
    let folder = tempfile::tempdir().context("no temporary folder")?;
    for (name, bytes) in [
        ("roots.pem", mesh.agent.roots_pem().concat().into_bytes()),
        ("chain.pem", leaf.chain_pem.into_bytes()),
        ("key.pem", leaf.key_pem.into_bytes()),
        ("empty.wasm", empty::module()),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, bytes).with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    Ok(Rc::new(folder))
}

impl Contender for InEnvoy {
    fn name(&self) -> &str {
        &self.name
    }

    fn client(&self) -> Result<Identity> {
        self.mesh.issue(CLIENT)
    }

    fn cross_signed_client(&self) -> Result<Identity> {
        self.mesh.issue_cross_signed(CLIENT)
    }

    fn start(&self, cores: Cores, application: SocketAddr) -> Result<Running> {
        self.run(cores, application, None)
    }

    fn start_http(
        &self,
        version: Version,
        cores: Cores,
        application: SocketAddr,
    ) -> Result<Option<Running>> {
        self.run(cores, application, Some(version)).map(Some)
    }
}

impl InEnvoy {
    fn run(
        &self,
        cores: Cores,
        application: SocketAddr,
        version: Option<Version>,
    ) -> Result<Running> {
        let agent = &self.mesh.agent;
        let allowed = format!(
            "spiffe://{}/ns/default/dc/{}/svc/{CLIENT}",
            agent.trust_domain(),
            agent.datacenter()
        );
        Running::start(cores, |port| {
            let folder: &Path = self.folder.path();
            let bootstrap = Bootstrap {
                port,
                application,
                agent: agent.address(),
                folder,
                allowed: &allowed,
                judge: &self.judge,
                version,
                answers: self.answers,
            };
            let mut command = Command::new(&self.binary);
            command
                .args(["--concurrency", "1", "--disable-hot-restart"])
                .args(["--log-level", "error", "--config-yaml"])
                .arg(bootstrap.json().to_string());
            command
        })
    }
}
