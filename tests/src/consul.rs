//! A real Consul agent on ports of its own.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::api::Api;
use crate::process::{Process, eventually};
use crate::{peers, ports};

/// The management token of an agent with ACLs.
pub const MANAGEMENT_TOKEN: &str = "11111111-2222-4333-8444-555555555555";

/// How the agent is set up.
#[derive(Clone, Debug, Default)]
pub struct Options {
    acls: bool,
    persistent: bool,
    grpc: bool,
    peering: bool,
    extra: String,
}

impl Options {
    /// As `consul agent -dev`: no ACLs, nothing kept.
    pub fn new() -> Self {
        Self::default()
    }

    /// ACLs with the default policy `deny` and [`MANAGEMENT_TOKEN`].
    #[must_use]
    pub fn with_acls(mut self) -> Self {
        self.acls = true;
        self
    }

    /// State survives [`Consul::restart`].
    #[must_use]
    pub fn persistent(mut self) -> Self {
        self.persistent = true;
        self
    }

    /// Serves xDS, for Envoys.
    #[must_use]
    pub fn with_grpc(mut self) -> Self {
        self.grpc = true;
        self
    }

    /// Can be peered with other clusters; they reach it by gRPC over TLS.
    #[must_use]
    pub fn with_peering(mut self) -> Self {
        self.peering = true;
        self
    }

    /// Further configuration, in HCL.
    #[must_use]
    pub fn with_config(mut self, hcl: &str) -> Self {
        self.extra.push_str(hcl);
        self.extra.push('\n');
        self
    }

    fn hcl(&self) -> String {
        let mut hcl = self.extra.clone();
        if self.acls {
            hcl.push_str(&format!(
                "acl {{ enabled = true default_policy = \"deny\" \
                 tokens {{ initial_management = \"{MANAGEMENT_TOKEN}\" agent = \"{MANAGEMENT_TOKEN}\" }} }}\n"
            ));
        }
        if self.persistent {
            hcl.push_str("connect { enabled = true }\n");
            // Elections of a single server need no patience.
            hcl.push_str("performance { raft_multiplier = 1 }\n");
        }
        hcl
    }
}

/// A running agent; killed when dropped.
#[derive(Debug)]
pub struct Consul {
    binary: PathBuf,
    folder: TempDir,
    options: Options,
    ports: [u16; 6],
    process: Process,
}

impl Consul {
    /// Starts an agent and waits until it has a leader and a CA; `None` where
    /// peers are left out on purpose.
    ///
    /// # Panics
    /// If the agent is missing or does not get ready.
    pub fn start(test: &str, options: Options) -> Option<Self> {
        let binary = peers::require(test, "consul")?;
        let mut folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("agent.hcl"), options.hcl())
            .expect("the configuration is written");
        // Another test may take a port in between: then again with others.
        for attempt in 0..5 {
            let ports = ports::free::<6>();
            let process = spawn(&binary, folder.path(), &options, ports);
            let mut consul = Self {
                binary: binary.clone(),
                folder,
                options: options.clone(),
                ports,
                process,
            };
            if consul.becomes_ready() {
                return Some(consul);
            }
            eprintln!("attempt {attempt}: the agent ended early\n{}", consul.log());
            folder = consul.into_folder();
        }
        panic!("the Consul agent does not start");
    }

    /// The address of its HTTP API.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports[0]))
    }

    /// The address of its xDS, with [`Options::with_grpc`].
    pub fn grpc(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports[4]))
    }

    /// Its HTTP API, with the management token where it has ACLs.
    pub fn api(&self) -> Api {
        Api::new(
            self.address(),
            self.options.acls.then_some(MANAGEMENT_TOKEN),
        )
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// The `consul` program, to run other commands of it.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Kills the agent as a power cut would.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same ports; with its old state if it is persistent.
    ///
    /// # Panics
    /// If it does not get ready.
    pub fn restart(&mut self) {
        self.process.kill();
        self.process = spawn(&self.binary, self.folder.path(), &self.options, self.ports);
        assert!(
            self.becomes_ready(),
            "the agent does not come back\n{}",
            self.log()
        );
    }

    /// Creates a token with these ACL rules.
    ///
    /// # Panics
    /// If the agent refuses them.
    pub fn token(&self, name: &str, rules: &str) -> String {
        let api = self.api();
        let _ = api
            .put(
                "/v1/acl/policy",
                &serde_json::json!({ "Name": name, "Rules": rules }),
            )
            .good();
        let token = api
            .put(
                "/v1/acl/token",
                &serde_json::json!({ "Description": name, "Policies": [{ "Name": name }] }),
            )
            .good();
        token.json()["SecretID"]
            .as_str()
            .expect("a token has a secret")
            .to_owned()
    }

    fn becomes_ready(&mut self) -> bool {
        let api = self.api();
        eventually("a leader and a CA", Duration::from_secs(60), || {
            if self.process.wait(Duration::ZERO).is_some() {
                return Some(false);
            }
            let roots = api.send("GET", "/v1/agent/connect/ca/roots", None).ok()?;
            let ready = roots.status == 200 && roots.body.contains("BEGIN CERTIFICATE");
            ready.then_some(true)
        })
    }

    fn into_folder(self) -> TempDir {
        let Self {
            folder,
            mut process,
            ..
        } = self;
        process.kill();
        folder
    }
}

fn spawn(binary: &Path, folder: &Path, options: &Options, ports: [u16; 6]) -> Process {
    let [http, serf_lan, serf_wan, server, grpc, grpc_tls] = ports;
    let grpc = if options.grpc { i32::from(grpc) } else { -1 };
    let grpc_tls = if options.peering {
        i32::from(grpc_tls)
    } else {
        -1
    };
    let log = File::create(folder.join("log")).expect("the log is created");
    let mut command = Command::new(binary);
    command.arg("agent");
    if options.persistent {
        command
            .args(["-server", "-bootstrap-expect=1"])
            .arg("-data-dir")
            .arg(folder.join("data"));
    } else {
        command.arg("-dev");
    }
    command
        .args([
            "-node=node-a",
            "-bind=127.0.0.1",
            "-client=127.0.0.1",
            "-log-level=info",
        ])
        .arg("-dns-port=-1")
        .arg(format!("-grpc-tls-port={grpc_tls}"))
        .arg(format!("-grpc-port={grpc}"))
        .arg(format!("-http-port={http}"))
        .arg(format!("-serf-lan-port={serf_lan}"))
        .arg(format!("-serf-wan-port={serf_wan}"))
        .arg(format!("-server-port={server}"))
        .arg("-config-file")
        .arg(folder.join("agent.hcl"))
        .env_remove("CONSUL_HTTP_ADDR")
        .env_remove("CONSUL_HTTP_TOKEN")
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("the log is shared"))
        .stderr(log);
    Process::new(command.spawn().expect("the agent starts"))
}
