//! `cargo xtask soak`: two proxies under steady load for half an hour, and whether they grew.
//!
//! New connections all the time, live ones that exchange bytes, intentions of others that
//! change, denials now and then that cut everything, rotations of the CA, and leaves that
//! are renewed. Ends with 1 when a connection failed that should not have, one passed that
//! should not have, or a proxy grew beyond the bounds of `verdict`.

mod samples;
mod verdict;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use portcullis_tests::api::Api;
use portcullis_tests::load::{Live, Load};
use portcullis_tests::pair::{Pair, intention};
use portcullis_tests::process::{Process, eventually};
use portcullis_tests::{peers, ports, program};
use samples::Samples;
use serde_json::json;

const HELP: &str = "\
Two proxies under steady load, and whether they grow

Usage: cargo xtask soak [--minutes N]

  --minutes N  How long [default: 30]

The samples are kept in target/soak/samples.csv.";

/// Connections that stay.
const LIVE: usize = 40;

/// From one sample to the next.
const EVERY: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let minutes = match arguments.as_slice() {
        [] => Some(30),
        ["--minutes", number] => number.parse().ok().filter(|number| *number > 0),
        _ => None,
    };
    match minutes {
        Some(minutes) => soak(Duration::from_secs(60 * minutes)),
        None => {
            eprintln!("{HELP}");
            ExitCode::from(2)
        }
    }
}

fn soak(length: Duration) -> ExitCode {
    // Fifteen rotations; each leaf lives from one to the next, its root for two more lives.
    let rotate_every = (length / 15).max(Duration::from_secs(10));
    let (agent, address) = agent(rotate_every);
    let api = Api::new(address, None);
    intention(&api, "web", "db", "allow", "");
    let pair = Pair::prepared(address, |command| {
        command.env("RUST_LOG", "info,access=off");
    });
    let load = Load::start(pair.door);
    pair.passes(&load);
    let mut samples = Samples::new(&[
        ("db", pair.db.id()),
        ("web", pair.web.id()),
        ("agent", agent.id()),
    ]);
    println!(
        "{} min, {LIVE} live connections, rotation and leaf life {} s",
        length.as_secs() / 60,
        rotate_every.as_secs()
    );

    let live = Live::start(pair.door, LIVE);
    let mut told = Told::default();
    let (began, mut rotated, mut turn) = (Instant::now(), Instant::now(), 0_u32);
    while began.elapsed() < length {
        turn += 1;
        let counts = load.during(1, || {
            flip_others(&api);
            std::thread::sleep(EVERY);
        });
        told.passed += counts.passed;
        told.failed += counts.failed();
        samples.take(began.elapsed());
        if rotated.elapsed() >= rotate_every {
            told.rotations += 1;
            rotate(&api, told.rotations);
            rotated = Instant::now();
        }
        if turn.is_multiple_of(12) {
            intention(&api, "web", "db", "deny", "");
            pair.refuses(&load);
            let counts = load.next(40);
            told.wrongly += counts.passed;
            told.denied += counts.failed();
            intention(&api, "web", "db", "allow", "");
            pair.passes(&load);
            (told.exchanges, told.cut) = (live.exchanges(), live.broken());
            println!(
                "{:>4} s  {}  {told}",
                began.elapsed().as_secs(),
                samples.latest()
            );
        }
    }
    drop((live, load));
    let folder = peers::workspace().join("target/soak");
    if let Err(error) = fs::create_dir_all(&folder)
        .and_then(|()| fs::write(folder.join("samples.csv"), samples.csv()))
    {
        eprintln!("the samples are not kept: {error}");
    }
    let (text, flat) = verdict::compare(&samples);
    println!("{text}{told}");
    let kept = told.failed == 0 && told.wrongly == 0;
    if !kept {
        eprintln!("{}", pair.logs());
    }
    println!("{}", if flat && kept { "GOOD" } else { "BAD" });
    ExitCode::from(u8::from(!(flat && kept)))
}

/// What became of connections.
#[derive(Default)]
struct Told {
    passed: u64,
    failed: u64,
    denied: u64,
    wrongly: u64,
    exchanges: u64,
    /// Live ones that were cut, by a denial or with the end of a certificate, and opened again.
    cut: u64,
    rotations: u64,
}

impl std::fmt::Display for Told {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "{} passed, {} failed; {} denied, {} of these let through; {} exchanges on live ones, {} of which were cut; {} rotations",
            self.passed,
            self.failed,
            self.denied,
            self.wrongly,
            self.exchanges,
            self.cut,
            self.rotations
        )
    }
}

/// A development agent in a process of its own.
fn agent(leaf_life: Duration) -> (Process, SocketAddr) {
    let [port] = ports::free();
    let mut command = program::portcullis(["dev", "-default-intention-policy=deny"]);
    let child = command
        .arg(format!("-listen=127.0.0.1:{port}"))
        .arg(format!("-leaf-cert-ttl={}s", leaf_life.as_secs()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the agent starts");
    let agent = Process::new(child);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let api = Api::new(address, None);
    eventually("the agent answers", Duration::from_secs(30), || {
        let reply = api.send("GET", "/v1/status/leader", None).ok()?;
        (reply.status == 200).then_some(())
    });
    (agent, address)
}

/// Changes that each make a new generation, and concern nobody here.
fn flip_others(api: &Api) {
    for number in 0..5 {
        let other = format!("other-{number}");
        intention(api, &other, "db", "deny", "");
        intention(api, &other, "db", "allow", "");
    }
}

fn rotate(api: &Api, turn: u64) {
    let bits = if turn.is_multiple_of(2) { 256 } else { 384 };
    let config = json!({ "Provider": "consul", "Config": {
        "PrivateKeyType": "ec", "PrivateKeyBits": bits } });
    let _ = api.put("/v1/connect/ca/configuration", &config).good();
}
