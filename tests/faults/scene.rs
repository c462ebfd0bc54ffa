//! Where the faults happen: an agent, two proxies, load.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use portcullis_dev_agent::{DefaultPolicy, DevAgent, DevAgentConfig};
use portcullis_tests::api::Api;
use portcullis_tests::load::Counts;
use portcullis_tests::pair::intention;
use portcullis_tests::process::{Process, eventually};
use portcullis_tests::{ports, program};

/// What takes longer does not come.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Tells what was counted, where somebody wants to see it.
pub(crate) fn counted(what: &str, counts: &Counts) {
    if std::env::var_os("PORTCULLIS_TEST_LOG").is_some() {
        eprintln!("COUNTED {what}: {counts}");
    }
}

/// `web` may call `db`.
pub(crate) fn allow(api: &Api) {
    intention(api, "web", "db", "allow", "");
}

/// `web` may not call `db`.
pub(crate) fn deny(api: &Api) {
    intention(api, "web", "db", "deny", "");
}

/// A development agent in this test's process, whose faults can be played.
pub(crate) struct Embedded {
    runtime: tokio::runtime::Runtime,
    agent: Option<DevAgent>,
}

impl Embedded {
    /// An agent under which `web` may call `db`, and nothing else is allowed.
    pub(crate) fn start() -> Self {
        Self::with(DevAgentConfig::for_tests())
    }

    pub(crate) fn with(config: DevAgentConfig) -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let config = DevAgentConfig {
            default_intention_policy: Some(DefaultPolicy::Deny),
            ..config
        };
        let agent = runtime
            .block_on(DevAgent::start(config))
            .expect("the agent starts");
        agent.allow("web", "db").expect("an intention");
        Self {
            runtime,
            agent: Some(agent),
        }
    }

    pub(crate) fn agent(&self) -> &DevAgent {
        self.agent.as_ref().expect("it runs")
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.agent().address()
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        if let Some(agent) = self.agent.take() {
            self.runtime.block_on(agent.shutdown());
        }
    }
}

/// A development agent in a process of its own: `portcullis dev`.
pub(crate) struct Dev {
    port: u16,
    data: Option<std::path::PathBuf>,
    process: Process,
}

impl Dev {
    /// An agent whose state is kept in `data`, under which `web` may call `db`, and nothing
    /// else is allowed.
    pub(crate) fn start(data: Option<&Path>) -> Self {
        let [port] = ports::free();
        let data = data.map(Path::to_owned);
        let dev = Self {
            port,
            process: spawn(command(port, data.as_deref())),
            data,
        };
        dev.answers();
        allow(&dev.api());
        dev
    }

    /// The same by a command that ends in `portcullis dev …`.
    pub(crate) fn by(wrap: impl FnOnce(Command) -> Command, data: &Path) -> Self {
        let [port] = ports::free();
        let dev = Self {
            port,
            process: spawn(wrap(command(port, Some(data)))),
            data: Some(data.to_owned()),
        };
        dev.answers();
        allow(&dev.api());
        dev
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    pub(crate) fn api(&self) -> Api {
        Api::new(self.address(), None)
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// As a power cut would.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same port; with its old state where it has a folder.
    pub(crate) fn restart(&mut self) {
        self.process.kill();
        self.process = spawn(command(self.port, self.data.as_deref()));
        self.answers();
    }

    /// Stops it without its end: it holds its connections and answers nothing.
    pub(crate) fn freeze(&self) {
        self.process.signal(19);
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.process.signal(18);
    }

    fn answers(&self) {
        let api = self.api();
        eventually("the agent answers", SOON, || {
            let reply = api.send("GET", "/v1/status/leader", None).ok()?;
            (reply.status == 200).then_some(())
        });
    }
}

fn command(port: u16, data: Option<&Path>) -> Command {
    let mut command = program::portcullis([
        "dev",
        "-default-intention-policy=deny",
        "-rotation-delay=0s",
    ]);
    command.arg(format!("-listen=127.0.0.1:{port}"));
    if let Some(data) = data {
        command.arg("-data-dir").arg(data);
    }
    command
}

fn spawn(mut command: Command) -> Process {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    Process::new(child.expect("the agent starts"))
}
