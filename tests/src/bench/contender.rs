//! Who is measured: our proxy, Consul's and Envoy, each in front of the same application.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use anyhow::{Context as _, Result, bail};
use portcullis_testkit::TestCa;
use serde_json::Value;
use tempfile::TempDir;

use super::cores::Cores;
use super::envoy;
use super::http::{self, Version, policy};
use super::identity::Identity;
use super::mesh::{CLIENT, ConsulMesh, Mesh, SERVICE, successor};
use super::running::Running;
use crate::peers;

/// One kind of proxy, of which any number can be started.
pub trait Contender {
    /// How tables name it.
    fn name(&self) -> &str;

    /// Another certificate for a client that it lets in, with a key of its own.
    ///
    /// # Errors
    /// When none can be issued.
    fn client(&self) -> Result<Identity>;

    /// The same, signed by a CA that it knows only through a cross-signed intermediate, as
    /// in the middle of a rotation.
    ///
    /// # Errors
    /// When nobody here can sign such a chain.
    fn cross_signed_client(&self) -> Result<Identity>;

    /// Starts a proxy in front of `application`, with no other flags than needed.
    ///
    /// # Errors
    /// When it cannot be started.
    fn start(&self, cores: Cores, application: SocketAddr) -> Result<Running>;

    /// The same where requests are judged; `None` by a proxy that knows none.
    ///
    /// # Errors
    /// When it cannot be started.
    fn start_http(
        &self,
        _: Version,
        _: Cores,
        _application: SocketAddr,
    ) -> Result<Option<Running>> {
        Ok(None)
    }
}

/// `portcullis proxy` as it is shipped, access log included.
pub struct Ours {
    name: String,
    binary: PathBuf,
    mesh: Rc<dyn Mesh>,
}

impl Ours {
    /// The command at `binary`, with the agent of `mesh`.
    pub fn new(name: impl Into<String>, binary: PathBuf, mesh: Rc<dyn Mesh>) -> Self {
        Self {
            name: name.into(),
            binary,
            mesh,
        }
    }
}

impl Contender for Ours {
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
        policy::put_entries(self.mesh.agent())?;
        self.run(cores, application, Some(version)).map(Some)
    }
}

impl Ours {
    fn run(&self, cores: Cores, application: SocketAddr, http: Option<Version>) -> Result<Running> {
        Running::start(cores, |port| {
            let mut command = Command::new(&self.binary);
            without_variables(&mut command);
            command
                .arg("proxy")
                .arg(format!("-service-addr={application}"))
                .arg(format!("-listen=127.0.0.1:{port}"))
                .env("CONSUL_HTTP_ADDR", self.mesh.agent().to_string());
            match http {
                None => command.args(["-service", SERVICE]),
                Some(version) => command
                    .args(["-service", policy::SERVICE])
                    .arg(format!("-protocol={}", version.protocol())),
            };
            command
        })
    }
}

/// `consul connect proxy`, with a real Consul agent.
pub struct ConsulProxy(pub Rc<ConsulMesh>);

impl Contender for ConsulProxy {
    fn name(&self) -> &str {
        "consul"
    }

    fn client(&self) -> Result<Identity> {
        self.0.issue(CLIENT)
    }

    fn cross_signed_client(&self) -> Result<Identity> {
        self.0.issue_cross_signed(CLIENT)
    }

    fn start(&self, cores: Cores, application: SocketAddr) -> Result<Running> {
        Running::start(cores, |port| {
            let mut command = Command::new(self.0.consul.binary());
            without_variables(&mut command);
            command
                .args(["connect", "proxy"])
                .arg(format!("-service={SERVICE}"))
                .arg(format!("-service-addr={application}"))
                .arg(format!("-listen=127.0.0.1:{port}"))
                .arg(format!("-http-addr={}", self.0.agent()));
            command
        })
    }
}

/// Envoy with TLS, the RBAC network filter and a TCP proxy, configured from a file.
pub struct Envoy {
    binary: PathBuf,
    ca: TestCa,
    next: TestCa,
    folder: TempDir,
}

impl Envoy {
    /// Prepares its certificates.
    ///
    /// # Errors
    /// When there is no Envoy here.
    pub fn prepare() -> Result<Self> {
        if std::env::var_os("PORTCULLIS_NO_PEERS").is_some_and(|value| !value.is_empty()) {
            bail!("left out by PORTCULLIS_NO_PEERS");
        }
        let binary = peers::workspace().join("target/peers/envoy/bin/envoy");
        if !binary.exists() {
            bail!("`target/peers/envoy` is missing: `cargo xtask peers` installs it");
        }
        let ca = TestCa::new("11111111-2222-3333-4444-555555555555.consul");
        let folder = tempfile::tempdir().context("no temporary folder")?;
        let server = ca.service(SERVICE).issue();
        for (name, text) in [
            ("roots.pem", ca.pem()),
            ("chain.pem", server.pem()),
            ("key.pem", server.key_pem()),
        ] {
            write(&folder.path().join(name), &text)?;
        }
        Ok(Self {
            binary,
            next: successor(&ca),
            ca,
            folder,
        })
    }
}

impl Contender for Envoy {
    fn name(&self) -> &str {
        "envoy"
    }

    fn client(&self) -> Result<Identity> {
        Ok(Identity::from(&self.ca.service(CLIENT).issue()))
    }

    fn cross_signed_client(&self) -> Result<Identity> {
        Ok(Identity::from(&self.next.service(CLIENT).issue()))
    }

    fn start(&self, cores: Cores, application: SocketAddr) -> Result<Running> {
        self.run(cores, |port, folder, allowed| {
            envoy::bootstrap(port, application, folder, allowed)
        })
    }

    fn start_http(
        &self,
        version: Version,
        cores: Cores,
        application: SocketAddr,
    ) -> Result<Option<Running>> {
        self.run(cores, |port, folder, allowed| {
            http::envoy::bootstrap(version, port, application, folder, allowed)
        })
        .map(Some)
    }
}

impl Envoy {
    fn run(&self, cores: Cores, bootstrap: impl Fn(u16, &Path, &str) -> Value) -> Result<Running> {
        Running::start(cores, |port| {
            let allowed = self.ca.service_id(CLIENT);
            let mut command = Command::new(&self.binary);
            command
                .args(["--concurrency", "1", "--disable-hot-restart"])
                .args(["--log-level", "error", "--config-yaml"])
                .arg(bootstrap(port, self.folder.path(), &allowed).to_string());
            command
        })
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write `{}`", path.display()))
}

/// Leaves out what would change the settings.
fn without_variables(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CONSUL_")
            || text.starts_with("CONNECT_")
            || text == "RUST_LOG"
            || text == "LOG_FORMAT"
        {
            command.env_remove(&name);
        }
    }
}
