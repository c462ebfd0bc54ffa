//! What systemd is told, the sockets that it hands over, and its unit files.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use portcullis_tests::api::Api;
use portcullis_tests::echo::Echo;
use portcullis_tests::process::{Process, eventually};
use portcullis_tests::{components, echo, peers, ports, program};
use tempfile::TempDir;

use crate::{Agent, SOON};

/// Stands for systemd: keeps what it is told.
struct Manager {
    folder: TempDir,
    told: Arc<Mutex<Vec<String>>>,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        let told = Arc::new(Mutex::new(Vec::new()));
        let keep = Arc::clone(&told);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length) = socket.recv(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                keep.lock().expect("no panic").push(text);
            }
        });
        Self { folder, told }
    }

    fn told(&self) -> Vec<String> {
        self.told.lock().expect("no panic").clone()
    }

    fn command(&self, agent: SocketAddr, flags: &[&str]) -> Command {
        let mut command = program::portcullis(["proxy", "-log-level=info"]);
        command
            .args(flags)
            .env("CONSUL_HTTP_ADDR", agent.to_string())
            .env("NOTIFY_SOCKET", self.folder.path().join("notify"))
            .env("WATCHDOG_USEC", "600000")
            .env_remove("WATCHDOG_PID")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// Waits for a message that `is` it, after the first `skip`; its place.
    fn waits(&self, what: &str, skip: usize, is: impl Fn(&str) -> bool) -> usize {
        eventually(what, SOON, || {
            let told = self.told();
            let found = told.iter().skip(skip).position(|text| is(text));
            found.map(|place| skip + place)
        })
    }
}

fn has(line: &'static str) -> impl Fn(&str) -> bool {
    move |text| text.lines().any(|found| found == line)
}

#[test]
fn systemd_is_told_of_start_reload_health_and_end() {
    let (agent, manager) = (Agent::start(), Manager::new());
    let app = Echo::start();
    let command = &mut manager.command(
        agent.address(),
        &[
            "-service=db",
            "-listen=127.0.0.1:0",
            &format!("-service-addr={}", app.address()),
        ],
    );
    let mut proxy = Process::new(command.spawn().expect("it starts"));
    let ready = manager.waits("READY", 0, has("READY=1"));
    manager.waits("a status", 0, |text| {
        text.starts_with("STATUS=ready: 0 connections")
    });
    for _ in 0..3 {
        let fed = manager.told().len();
        manager.waits("WATCHDOG", fed, has("WATCHDOG=1"));
    }
    proxy.signal(1);
    let reloading = manager.waits("RELOADING", ready + 1, has("RELOADING=1"));
    let told = manager.told();
    let at: Option<u128> = told[reloading]
        .lines()
        .find_map(|line| line.strip_prefix("MONOTONIC_USEC=")?.parse().ok());
    assert!(at.is_some_and(|at| at > 0), "{:?}", told[reloading]);
    let again = manager.waits("READY again", reloading + 1, has("READY=1"));
    proxy.signal(15);
    manager.waits("STOPPING", again + 1, has("STOPPING=1"));
    let ended = eventually("it ends", SOON, || proxy.wait(Duration::ZERO));
    assert_eq!(ended.code(), Some(0));
    agent.stop();
}

#[test]
fn before_it_is_ready_it_says_what_is_missing_and_lives() {
    let manager = Manager::new();
    // Nobody listens there.
    let [port] = ports::free::<1>();
    let nowhere = SocketAddr::from(([127, 0, 0, 1], port));
    let mut command = manager.command(nowhere, &["-service=web", "-upstream=db:0"]);
    let mut proxy = Process::new(command.spawn().expect("it starts"));
    manager.waits("what is missing", 0, |text| {
        text.starts_with("STATUS=not ready: no leaf certificate yet")
    });
    manager.waits("WATCHDOG", 0, has("WATCHDOG=1"));
    assert!(!manager.told().iter().any(|text| has("READY=1")(text)));
    proxy.signal(15);
    let ended = eventually("it ends", SOON, || proxy.wait(Duration::ZERO));
    assert_eq!(ended.code(), Some(0));
}

#[test]
fn the_watchdog_is_not_fed_while_the_policy_fails() {
    let (agent, manager) = (Agent::start(), Manager::new());
    // This component traps when it is asked about a service of this name.
    let component = format!("-component={}", components::tricks().display());
    let mut command = manager.command(
        agent.address(),
        &["-service=panic", "-upstream=db:0", &component],
    );
    let log = manager.folder.path().join("log");
    command.stderr(fs::File::create(&log).expect("a file"));
    let proxy = Process::new(command.spawn().expect("it starts"));
    manager.waits("READY", 0, has("READY=1"));
    eventually("it is noticed", SOON, || {
        let log = fs::read_to_string(&log).unwrap_or_default();
        (log.matches("the watchdog is not told").count() > 2).then_some(())
    });
    let fed = manager
        .told()
        .iter()
        .filter(|text| has("WATCHDOG=1")(text))
        .count();
    // Before it was asked for the first time it could not know.
    assert_eq!(fed, 0, "{:?}", manager.told());
    drop(proxy);
    agent.stop();
}

/// `command` with these sockets from descriptor 3 on, as systemd starts it.
fn with_sockets(command: &Command, names: &str, first: Stdio, second: Option<Stdio>) -> Command {
    let (count, second_to_4) = match second {
        Some(_) => (2, "4<&1 1>/dev/null"),
        None => (1, ""),
    };
    let mut shell = Command::new("sh");
    shell
        .arg("-c")
        .arg(format!(
            "export LISTEN_PID=$$ LISTEN_FDS={count} LISTEN_FDNAMES='{names}'; exec \"$@\" 3<&0 {second_to_4} 0</dev/null"
        ))
        .arg("sh")
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
        .stdin(first)
        .stdout(second.unwrap_or_else(Stdio::null));
    shell
}

fn stdio(socket: impl Into<std::os::fd::OwnedFd>) -> Stdio {
    Stdio::from(socket.into())
}

fn proxy(agent: SocketAddr, flags: &[&str]) -> Command {
    let mut command = program::portcullis(["proxy", "-log-level=info"]);
    command
        .args(flags)
        .env("CONSUL_HTTP_ADDR", agent.to_string());
    command
}

#[test]
fn sockets_of_systemd_are_used_and_lose_nothing_over_a_restart() {
    let agent = Agent::start();
    agent.agent.allow("web", "db").expect("it is allowed");
    let app = Echo::start();
    let folder = tempfile::tempdir().expect("a folder");

    let inbound = TcpListener::bind("127.0.0.1:0").expect("a port");
    let db = proxy(
        agent.address(),
        &[
            "-service=db",
            &format!("-service-addr={}", app.address()),
            "-register",
            "-drain-timeout=1s",
        ],
    );
    let start_db = || {
        let socket = stdio(inbound.try_clone().expect("a descriptor"));
        let mut command = with_sockets(&db, "inbound", socket, None);
        Process::new(command.stderr(Stdio::null()).spawn().expect("it starts"))
    };

    // The first upstream has no flag, the second takes the place of the flag's address.
    let door = TcpListener::bind("127.0.0.1:0").expect("a port");
    let path = folder.path().join("db.sock");
    let local = UnixListener::bind(&path).expect("a socket");
    let at = door.local_addr().expect("an address");
    let web = proxy(agent.address(), &["-service=web", "-upstream=db2:1"]);
    let mut command = with_sockets(
        &web,
        "upstream-db:upstream-db2",
        stdio(door),
        Some(stdio(local)),
    );
    let log = folder.path().join("log");
    command.stderr(fs::File::create(&log).expect("a file"));
    let mut first = start_db();
    eventually("db is ready", SOON, || {
        let list = Api::new(agent.address(), None).get("/v1/health/connect/db?passing");
        (!list.json().as_array().expect("a list").is_empty()).then_some(())
    });
    // It waits in the kernel until there is a proxy.
    let mut early = TcpStream::connect(at).expect("the socket listens");
    early.write_all(b"ping").expect("it is kept");
    let web = Process::new(command.spawn().expect("it starts"));
    early.set_read_timeout(Some(SOON)).expect("a limit");
    let mut answer = [0; 4];
    early.read_exact(&mut answer).expect("it is served");
    assert_eq!(&answer, b"ping");
    drop(early);

    // db ends and comes back; whoever connects meanwhile is served.
    first.signal(15);
    eventually("it ends", SOON, || first.wait(Duration::ZERO));
    let to_inbound = TcpStream::connect(inbound.local_addr().expect("an address"));
    assert!(to_inbound.is_ok(), "the socket is still there");
    let second = start_db();
    eventually("a connection goes through", SOON, || echo::open(at).ok());

    let shown = fs::read_to_string(&log).expect("a log");
    assert!(
        shown.contains("name=upstream-db ") && shown.contains("name=upstream-db2 "),
        "{shown}"
    );
    assert!(UnixStream::connect(&path).is_ok(), "it listens there");
    drop((web, second));
    assert!(path.exists(), "the file of a socket that is not ours stays");
    agent.stop();
}

#[test]
fn a_socket_without_a_meaning_is_refused_by_name() {
    for (name, because) in [
        ("portcullis@db.socket", "FileDescriptorName="),
        ("upstream-", "FileDescriptorName="),
        ("upstream-a b", "`upstream-a b`"),
    ] {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
        let web = proxy(nowhere, &["-service=web"]);
        let said = program::run(&mut with_sockets(&web, name, stdio(socket), None));
        assert_eq!(said.code, Some(1), "{}", said.err);
        assert!(
            said.err.contains(name) && said.err.contains(because),
            "{}",
            said.err
        );
    }
    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let web = proxy(SocketAddr::from(([127, 0, 0, 1], 1)), &["-service=web"]);
    let said = program::run(&mut with_sockets(&web, "inbound", stdio(datagrams), None));
    assert!(
        said.code == Some(1) && said.err.contains("`inbound`"),
        "{}",
        said.err
    );
}

#[test]
fn the_unit_files_are_in_order() {
    let analyze = Path::new("/usr/bin/systemd-analyze");
    if !analyze.exists() {
        peers::skipped("the_unit_files_are_in_order", "systemd-analyze");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let copy = |from: &str, to: &str| {
        let unit = peers::workspace().join("examples/operations").join(from);
        let text = fs::read_to_string(unit).expect("a unit");
        assert!(text.contains("/usr/local/bin/portcullis") || from.ends_with(".socket"));
        let text = text.replace(
            "/usr/local/bin/portcullis",
            &program::path().display().to_string(),
        );
        let path = folder.path().join(to);
        fs::write(&path, text).expect("a file");
        path
    };
    let service = copy("portcullis@.service", "portcullis@db.service");
    copy("portcullis@.service", "portcullis@.service");
    let socket = copy("portcullis@.socket", "portcullis@db.socket");
    let verified = program::run(
        Command::new(analyze)
            .args(["verify", "--man=no"])
            .args([&service, &socket]),
    );
    assert_eq!(
        (verified.code, verified.err.as_str()),
        (Some(0), ""),
        "{}",
        verified.out
    );
    let secure = program::run(
        Command::new(analyze)
            .args(["security", "--offline=true", "--no-pager", "--threshold=15"])
            .arg(&service),
    );
    assert_eq!(secure.code, Some(0), "{}\n{}", secure.out, secure.err);
}
