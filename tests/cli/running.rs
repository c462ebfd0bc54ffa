//! Commands that run until they are told to stop.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use portcullis_dev_agent::{DefaultPolicy, DevAgent, DevAgentConfig, Token};
use portcullis_tests::process::eventually;
use portcullis_tests::program::{Said, portcullis, run};
use serde_json::Value;

use crate::{refused, refused_as};

/// A command that has said that it is ready.
pub(crate) struct Running {
    child: Child,
    /// The line of JSON that it printed.
    pub(crate) ready: Value,
}

impl Running {
    /// Starts `command` and waits for its line of JSON.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut line = String::new();
        // One byte at a time, so that nothing is swallowed for later.
        let mut out = BufReader::with_capacity(1, child.stdout.take().expect("piped"));
        out.read_line(&mut line).expect("text");
        child.stdout = Some(out.into_inner());
        match serde_json::from_str(&line) {
            Ok(ready) => Self { child, ready },
            Err(error) => {
                child.kill().expect("it can be killed");
                panic!(
                    "`{line}` is no JSON: {error}; {:?}",
                    Said::from(child.wait_with_output().expect("it ends"))
                );
            }
        }
    }

    /// The address under a JSON pointer.
    pub(crate) fn text(&self, pointer: &str) -> String {
        self.ready
            .pointer(pointer)
            .and_then(Value::as_str)
            .expect("a text")
            .to_owned()
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal and waits for the end.
    pub(crate) fn stop(self, signal: &str) -> Said {
        let sent = Command::new("kill")
            .args([&format!("-{signal}"), &self.child.id().to_string()])
            .status();
        assert!(sent.expect("kill starts").success());
        self.child.wait_with_output().expect("it ends").into()
    }
}

/// A development agent in this process.
pub(crate) struct Agent {
    runtime: tokio::runtime::Runtime,
    agent: Option<DevAgent>,
    /// For `CONSUL_HTTP_ADDR`.
    pub(crate) url: String,
}

impl Agent {
    pub(crate) fn start(config: DevAgentConfig) -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let agent = runtime
            .block_on(DevAgent::start(config))
            .expect("the agent starts");
        Self {
            url: agent.url(),
            agent: Some(agent),
            runtime,
        }
    }

    pub(crate) fn open() -> Self {
        Self::start(DevAgentConfig::for_tests())
    }

    /// Denies by default, as a token may do `rules`.
    pub(crate) fn guarded(secret: &str, rules: &str) -> Self {
        Self::start(DevAgentConfig {
            default_policy: DefaultPolicy::Deny,
            tokens: vec![Token::with_rules(secret, rules)],
            ..DevAgentConfig::for_tests()
        })
    }

    /// `portcullis ARGUMENTS` against this agent.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Command {
        let mut command = portcullis(arguments.iter().copied());
        command.env("CONSUL_HTTP_ADDR", &self.url);
        command
    }

    /// The agent itself.
    pub(crate) fn agent(&self) -> &DevAgent {
        self.agent.as_ref().expect("it runs")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(agent) = self.agent.take() {
            self.runtime.block_on(agent.shutdown());
        }
    }
}

#[test]
fn the_dev_agent_serves_until_a_signal() {
    for signal in ["TERM", "INT"] {
        let dev = Running::start(&mut portcullis([
            "dev",
            "-listen",
            "127.0.0.1:0",
            "-output=json",
        ]));
        assert_eq!(dev.ready["default_intention_policy"], "allow");
        assert!(dev.text("/trust_domain").ends_with(".consul"));
        let address = dev.text("/address");
        let list = run(portcullis(["intention", "list"]).env("CONSUL_HTTP_ADDR", &address));
        assert_eq!(list.code, Some(0), "{list:?}");
        let taken = &address["http://".len()..];
        refused(
            &["dev", "-listen", taken],
            1,
            &[taken, "in use", "-listen 127.0.0.1:0"],
        );
        let said = dev.stop(signal);
        assert_eq!((said.code, said.out.as_str()), (Some(0), ""), "{said:?}");
    }
    refused(
        &["dev", "-listen", "0.0.0.0:0"],
        1,
        &["0.0.0.0:0", "loopback", "-allow-non-loopback"],
    );
    refused(
        &["dev", "-listen", "localhost"],
        2,
        &["--listen", "localhost"],
    );
    refused(&["dev", "-data-dir", "/dev/null/x"], 1, &["/dev/null/x"]);
}

#[test]
fn a_proxy_registers_serves_and_leaves() {
    let agent = Agent::open();
    let application = TcpListener::bind("127.0.0.1:0").expect("a port");
    let behind = application.local_addr().expect("an address").to_string();
    let flags = [
        "proxy",
        "-service=db",
        "-service-addr",
        &behind,
        "-listen=127.0.0.1:0",
        "-register=true",
        "-output",
        "json",
    ];
    let db = Running::start(&mut agent.ask(&flags));
    let web = Running::start(&mut agent.ask(&[
        "proxy",
        "-service",
        "web",
        "-upstream",
        "db:0",
        "-output=json",
        "-log-json",
    ]));
    let to_db = web.text("/upstreams/0/listen");
    let (mut client, mut taken) = through(&to_db, &application);
    std::io::Write::write_all(&mut client, b"hello").expect("it takes bytes");
    client
        .shutdown(std::net::Shutdown::Write)
        .expect("half-close");
    let mut heard = String::new();
    taken.read_to_string(&mut heard).expect("text");
    assert_eq!(heard, "hello");
    drop((taken, client));

    let busy = db.text("/listen");
    let again = [
        "proxy",
        "-service",
        "db",
        "-service-addr",
        &behind,
        "-listen",
        &busy,
    ];
    refused_as(&quiet(&mut agent.ask(&again)), 1, &[&busy, "in use", "db"]);

    let said = web.stop("TERM");
    assert_eq!(said.code, Some(0), "{said:?}");
    let lines: Vec<Value> = said
        .err
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect();
    let access = lines
        .iter()
        .find(|line| line["target"] == "access")
        .expect("an access log");
    assert!(
        access["src.identity"]
            .as_str()
            .is_some_and(|id| id.ends_with("/svc/web")),
        "{access}"
    );
    assert!(
        access["dst.identity"]
            .as_str()
            .is_some_and(|id| id.ends_with("/svc/db")),
        "{access}"
    );

    let services = || run(&mut curl(&format!("{}/v1/agent/services", agent.url))).out;
    assert!(services().contains("db-proxy"), "{}", services());
    let said = db.stop("INT");
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(!services().contains("db-proxy"), "{}", services());
}

/// A connection through an upstream's listener, and the application's end of it.
/// Until the instance is known to be healthy there is none, so it is tried again.
fn through(upstream: &str, application: &TcpListener) -> (TcpStream, TcpStream) {
    application.set_nonblocking(true).expect("it can be set");
    let mut client = TcpStream::connect(upstream).expect("the upstream listens");
    eventually(
        "a connection through both proxies",
        Duration::from_secs(60),
        || {
            if let Ok((taken, _)) = application.accept() {
                taken.set_nonblocking(false).expect("it can be set");
                return Some((client.try_clone().expect("it can be cloned"), taken));
            }
            client.set_nonblocking(true).expect("it can be set");
            let gone = !matches!(client.peek(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock);
            if gone {
                client = TcpStream::connect(upstream).expect("the upstream listens");
            } else {
                client.set_nonblocking(false).expect("it can be set");
            }
            None
        },
    )
}

/// Without its own log, so that only the error is left.
fn quiet(command: &mut Command) -> Said {
    run(command.args(["-log-level", "off"]))
}

fn curl(url: &str) -> Command {
    let mut command = Command::new("curl");
    command.args(["--silent", "--fail", url]);
    command
}

#[test]
fn a_second_signal_ends_at_once() {
    let agent = Agent::open();
    let application = TcpListener::bind("127.0.0.1:0").expect("a port");
    let behind = application.local_addr().expect("an address").to_string();
    let inbound = [
        "-service",
        "db",
        "-service-addr",
        &behind,
        "-listen",
        "127.0.0.1:0",
        "-register",
    ];
    let flags: Vec<&str> = ["proxy", "-output", "json", "-upstream", "db:0"]
        .into_iter()
        .chain(inbound)
        .collect();
    let proxy = Running::start(&mut agent.ask(&flags));
    // Its own upstream: one open connection that keeps it from ending.
    let _open = through(&proxy.text("/upstreams/0/listen"), &application);
    let id = proxy.id().to_string();
    let signal = || {
        Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .expect("kill starts")
    };
    assert!(signal().success());
    // The listener goes first: then the first signal has been taken.
    while TcpStream::connect(proxy.text("/listen")).is_ok() {
        std::thread::yield_now();
    }
    let said = proxy.stop("TERM");
    assert_eq!(said.code, Some(143), "{said:?}");
}

#[test]
fn a_proxy_that_cannot_work_says_why_and_one_that_may_later_waits() {
    let agent = Agent::guarded("good", "service \"web\" { policy = \"write\" }");
    let web = ["proxy", "-service", "web", "-upstream", "db:0"];
    refused_as(
        &quiet(&mut agent.ask(&web)),
        1,
        &["ca/leaf/web", "service:write", "-token-file"],
    );
    let wrong = quiet(agent.ask(&web).env("CONSUL_HTTP_TOKEN", "unknown"));
    refused_as(&wrong, 1, &["ca/leaf/web", "ACL not found", "-token-file"]);
    assert!(!wrong.err.contains("unknown\""), "{wrong:?}");
    let missing = [
        "proxy",
        "-service",
        "web",
        "-upstream",
        "db:0",
        "-component",
        "/nonexistent.wasm",
    ];
    refused_as(
        &quiet(&mut agent.ask(&missing)),
        1,
        &["/nonexistent.wasm", "No such file"],
    );

    let closed = portcullis_tests::ports::closed().to_string();
    let mut waiting = portcullis([
        "proxy",
        "-service",
        "web",
        "-upstream",
        "db:0",
        "-http-addr",
        &closed,
    ]);
    let mut child = waiting.stderr(Stdio::piped()).spawn().expect("it starts");
    let mut log = BufReader::new(child.stderr.take().expect("piped")).lines();
    let line = log.find(|line| {
        line.as_ref()
            .is_ok_and(|line| line.contains("waiting for the agent"))
    });
    let line = line.expect("it says so").expect("text");
    assert!(line.contains(&closed), "{line}");
    assert!(
        child.try_wait().expect("it can be asked").is_none(),
        "it must wait"
    );
    let sent = Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status();
    assert!(sent.expect("kill starts").success());
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn the_printed_acl_policy_is_enough() {
    let printed = run(&mut portcullis([
        "proxy",
        "-service",
        "web",
        "-upstream",
        "db:0",
        "-print-acl-policy",
    ]));
    assert_eq!(printed.code, Some(0), "{printed:?}");
    let agent = Agent::guarded("minimal", &printed.out);
    let mut command = agent.ask(&[
        "proxy",
        "-service",
        "web",
        "-upstream",
        "db:0",
        "-output",
        "json",
    ]);
    let web = Running::start(command.env("CONSUL_HTTP_TOKEN", "minimal"));
    let said = web.stop("TERM");
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(!said.err.contains("Permission denied"), "{said:?}");
}

#[test]
fn a_fixed_server_must_have_exactly_its_identity() {
    let agent = Agent::open();
    let application = TcpListener::bind("127.0.0.1:0").expect("a port");
    let behind = application.local_addr().expect("an address").to_string();
    let inbound = ["-service-addr", &behind, "-listen", "127.0.0.1:0"];
    let flags: Vec<&str> = ["proxy", "-service", "db", "-output=json"]
        .into_iter()
        .chain(inbound)
        .collect();
    let db = Running::start(&mut agent.ask(&flags));
    let at = |service: &str| {
        let trust_domain = agent.agent().trust_domain();
        let id = format!("spiffe://{trust_domain}/ns/default/dc/dc1/svc/{service}");
        format!("0={}={id}", db.text("/listen"))
    };
    let web = |upstream: &str| {
        let flags = [
            "proxy",
            "-service",
            "web",
            "-static-upstream",
            upstream,
            "-output=json",
        ];
        Running::start(&mut agent.ask(&flags))
    };
    let right = web(&at("db"));
    drop(through(&right.text("/upstreams/0/listen"), &application));
    assert_eq!(right.stop("TERM").code, Some(0));

    let wrong = web(&at("other"));
    let mut client = TcpStream::connect(wrong.text("/upstreams/0/listen")).expect("it listens");
    // It is closed or reset without a byte.
    assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)));
    assert!(
        application.accept().is_err(),
        "the application must not hear of it"
    );
    let said = wrong.stop("TERM");
    assert!(said.err.contains("/svc/other"), "{said:?}");
    assert_eq!(db.stop("TERM").code, Some(0));
}
