//! A mesh in one process: development agent, policy, proxies, an application, the access log.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use portcullis::agent_client::{AgentClient, AgentConfig};
use portcullis::connector::Upstream;
use portcullis::member::Member;
use portcullis::proxy::{
    Application, InboundConfig, Limits, ListenAddress, Proxy, ProxyConfig, UpstreamConfig,
};
use portcullis::registration::RegistrationConfig;
use portcullis::runtime::{Component, ComponentOptions, Policy};
use portcullis::watcher::WatcherConfig;
use portcullis_dev_agent::{DefaultPolicy, DevAgent, DevAgentConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tracing::field::{Field, Visit};

/// Anything that takes longer has hung.
pub const HUNG: Duration = Duration::from_secs(60);

/// A free port on loopback, chosen by the system.
pub const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The embedded component, compiled once for each test program.
///
/// # Panics
/// When it cannot be used.
pub fn component() -> Component {
    static COMPONENT: OnceLock<Component> = OnceLock::new();
    COMPONENT
        .get_or_init(|| {
            Component::embedded(&ComponentOptions::default()).expect("the embedded component")
        })
        .clone()
}

/// A policy without documents.
///
/// # Panics
/// When it cannot be made.
pub fn policy() -> Policy {
    Policy::new(&component(), portcullis::runtime::PolicyOptions::default()).expect("a policy")
}

/// A mesh whose default is to deny.
#[derive(Debug)]
pub struct Stage {
    /// The agent.
    pub agent: DevAgent,
}

impl Stage {
    /// Starts an agent.
    ///
    /// # Panics
    /// When it cannot.
    pub async fn new() -> Self {
        Self::with(DevAgentConfig::for_tests()).await
    }

    /// Starts an agent with these settings, and a mesh that denies by default.
    ///
    /// # Panics
    /// When it cannot.
    pub async fn with(config: DevAgentConfig) -> Self {
        capture();
        let config = DevAgentConfig {
            default_intention_policy: Some(DefaultPolicy::Deny),
            ..config
        };
        Self {
            agent: DevAgent::start(config).await.expect("the agent starts"),
        }
    }

    /// A client of the agent.
    ///
    /// # Panics
    /// Never, as its address is good.
    pub fn client(&self) -> AgentClient {
        client(&self.agent.url())
    }

    /// The settings of a member.
    pub fn config(&self, service: &str) -> WatcherConfig {
        WatcherConfig {
            leaf_spread: Duration::ZERO,
            ..WatcherConfig::new(self.client(), policy(), service)
        }
    }

    /// A member, ready.
    ///
    /// # Panics
    /// When it does not get ready.
    pub async fn member(&self, service: &str) -> Member {
        let member = Member::start(self.config(service));
        member.ready(HUNG).await.expect("ready");
        member
    }

    /// The proxy of `service` in front of `application`, registered.
    ///
    /// # Panics
    /// When it cannot start.
    pub async fn inbound(&self, service: &str, application: Application) -> Proxy {
        let register = RegistrationConfig {
            service: service.to_owned(),
            native: false,
            suffix: None,
            address: Ipv4Addr::LOCALHOST.to_string(),
            port: 0,
            local: None,
        };
        let config = ProxyConfig {
            inbound: Some(InboundConfig::new(ANY, application)),
            register: Some(register),
            ..ProxyConfig::default()
        };
        let proxy = Proxy::start(self.member(service).await, config).expect("the proxy starts");
        within(proxy.ready()).await;
        proxy
    }

    /// The proxy of `service` with a listener for `upstream`.
    ///
    /// # Panics
    /// When it cannot start.
    pub async fn outbound(&self, service: &str, upstream: Upstream) -> Proxy {
        let upstreams = vec![UpstreamConfig::new(upstream, ListenAddress::Tcp(ANY))];
        let config = ProxyConfig {
            upstreams,
            limits: Limits::default(),
            ..ProxyConfig::default()
        };
        let proxy = Proxy::start(self.member(service).await, config).expect("the proxy starts");
        within(proxy.ready()).await;
        proxy
    }

    /// Waits until the agent lists `count` healthy instances of `service`.
    ///
    /// # Panics
    /// When it never does.
    pub async fn listed(&self, service: &str, count: usize) {
        let client = self.client();
        let request =
            portcullis_core::agent::health::request(service, &Default::default()).expect("a name");
        eventually("instances are listed", async || {
            let found = client
                .ask(&request, portcullis_core::agent::health::decode)
                .await;
            found.is_ok_and(|found| found.usable().count() == count)
        })
        .await;
    }
}

/// A client of the agent at `url`.
///
/// # Panics
/// When that is no address.
pub fn client(url: &str) -> AgentClient {
    AgentClient::new(AgentConfig::at(url).expect("an address")).expect("a client")
}

/// Where the mesh reaches a proxy.
///
/// # Panics
/// When it has no inbound listener on TCP.
pub fn front(proxy: &Proxy) -> SocketAddr {
    let inbound = proxy.addresses().inbound;
    let address = inbound.as_ref().and_then(ListenAddress::tcp);
    address.expect("an inbound listener on TCP")
}

/// Where local programs reach the first upstream of a proxy.
///
/// # Panics
/// When it has none on TCP.
pub fn door(proxy: &Proxy) -> SocketAddr {
    match &proxy.addresses().upstreams[0] {
        ListenAddress::Tcp(address) => *address,
        ListenAddress::Unix(path) => panic!("{} is not TCP", path.display()),
    }
}

/// Lets `future` finish, or the test fails.
///
/// # Panics
/// When it hangs.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(HUNG, future).await.expect("it hangs")
}

/// Waits until `holds` holds.
///
/// # Panics
/// When it never does.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(
        tokio::time::timeout(HUNG, wait).await.is_ok(),
        "never: {what}"
    );
}

/// An application that sends back what it gets, until its client ends.
#[derive(Clone, Debug)]
pub struct Echo {
    /// Where it listens.
    pub address: SocketAddr,
    /// How many connections it has seen.
    pub seen: Arc<AtomicUsize>,
}

impl Echo {
    /// Starts one.
    ///
    /// # Panics
    /// When it cannot listen.
    pub async fn start() -> Self {
        let listener = TcpListener::bind(ANY).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let seen = Arc::new(AtomicUsize::new(0));
        let echo = Self {
            address,
            seen: Arc::clone(&seen),
        };
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                seen.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                    let _ = write.shutdown().await;
                });
            }
        });
        echo
    }

    /// For a proxy's settings.
    pub fn application(&self) -> Application {
        Application::Tcp(self.address.to_string())
    }

    /// How many connections it has seen.
    pub fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }
}

/// Sends `message` to `door`, ends, and reads the answer to its end.
///
/// # Errors
/// When the connection breaks.
pub async fn ask(door: SocketAddr, message: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(door).await?;
    let exchange = async {
        stream.write_all(message).await?;
        stream.shutdown().await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(answer)
    };
    within(exchange).await
}

/// One line of the access log.
pub type Line = BTreeMap<String, String>;

static LINES: Mutex<Vec<Line>> = Mutex::new(Vec::new());

/// All lines of the access log with this direction and destination, oldest first.
///
/// # Panics
/// When another test panicked while writing one.
pub fn access(direction: &str, service: &str) -> Vec<Line> {
    let lines = LINES.lock().expect("the log");
    let is = |line: &&Line| line["direction"] == direction && line["dst.service"] == service;
    lines.iter().filter(is).cloned().collect()
}

/// Waits for a line with this direction and destination whose `code` is `code`.
///
/// All tests of a file write into one log: only for a service that no other test of it has.
///
/// # Panics
/// When it never comes.
pub async fn logged(direction: &str, service: &str, code: &str) -> Line {
    line(code, || access(direction, service)).await
}

/// Waits for an inbound line of this member, and of no other of its name, whose `code` is `code`.
///
/// # Panics
/// When it never comes, or the member has no leaf.
pub async fn logged_of(member: &Member, code: &str) -> Line {
    let leaf = member.watcher().leaf().current().expect("a leaf");
    // Each CA has a trust domain of its own.
    let identity = leaf.id.to_string();
    let mine = |line: &Line| line.get("dst.identity") == Some(&identity);
    let lines = || {
        let all = access("inbound", member.service());
        all.into_iter().filter(mine).collect()
    };
    line(code, lines).await
}

async fn line(code: &str, lines: impl Fn() -> Vec<Line>) -> Line {
    let wait = async {
        loop {
            let found = lines().into_iter().rev().find(|line| line["code"] == code);
            if let Some(line) = found {
                return line;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    match tokio::time::timeout(HUNG, wait).await {
        Ok(line) => line,
        Err(_) => panic!("no line with `{code}`, but {:?}", lines()),
    }
}

/// Starts to keep the access log of this process.
pub fn capture() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        let _ = tracing::subscriber::set_global_default(Capture);
    });
}

/// Keeps events of the target `access`; shows warnings when `PORTCULLIS_TEST_LOG` is set.
struct Capture;

impl tracing::Subscriber for Capture {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target().starts_with("portcullis")
            || metadata.target() == "access"
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Fields(Line::new());
        event.record(&mut line);
        if std::env::var_os("PORTCULLIS_TEST_LOG").is_some() {
            eprintln!("{} {:?}", event.metadata().level(), line.0);
        }
        if event.metadata().target() == "access"
            && let Ok(mut lines) = LINES.lock()
        {
            lines.push(line.0);
        }
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

struct Fields(Line);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }
}
