//! `web` reaches the echo behind `db` through two proxy processes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::api::Api;
use crate::echo::Echo;
use crate::load::Load;
use crate::proxy::Proxy;
use crate::{ports, program};

/// What takes longer does not come.
const SOON: Duration = Duration::from_secs(90);

/// Two running proxies and the application between which they stand.
#[derive(Debug)]
pub struct Pair {
    /// The application of `db`.
    pub app: Echo,
    /// Where local programs reach `db` by the proxy of `web`.
    pub door: SocketAddr,
    /// Where the proxy of `db` takes connections from the mesh.
    pub inbound: SocketAddr,
    /// The proxy of `db`.
    pub db: Proxy,
    /// The proxy of `web`.
    pub web: Proxy,
}

impl Pair {
    /// Starts both against `agent` with further `flags`.
    ///
    /// # Panics
    /// When a proxy cannot be started.
    #[must_use]
    pub fn start(agent: SocketAddr, flags: &[&str]) -> Self {
        Self::prepared(agent, |command| {
            command.args(flags);
        })
    }

    /// The same, with each command prepared further.
    ///
    /// # Panics
    /// When a proxy cannot be started.
    #[must_use]
    pub fn prepared(agent: SocketAddr, prepare: impl Fn(&mut Command)) -> Self {
        let app = Echo::start();
        let [inbound, door] = ports::free::<2>();
        let proxy = |flags: &[String]| {
            let mut command = program::portcullis(["proxy"]);
            command
                .args(flags)
                .env("CONSUL_HTTP_ADDR", agent.to_string())
                .env("RUST_LOG", "info");
            prepare(&mut command);
            Proxy::spawn(command)
        };
        let db = proxy(&[
            "-service=db".to_owned(),
            format!("-service-addr={}", app.address()),
            format!("-listen=127.0.0.1:{inbound}"),
            "-register".to_owned(),
        ]);
        let web = proxy(&["-service=web".to_owned(), format!("-upstream=db:{door}")]);
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            app,
            door: local(door),
            inbound: local(inbound),
            db,
            web,
        }
    }

    /// Goes on until a connection of `load` passes.
    ///
    /// # Panics
    /// When none does, with the logs.
    pub fn passes(&self, load: &Load) {
        let began = Instant::now();
        while load.next(1).passed == 0 {
            assert!(began.elapsed() < SOON, "nothing passes\n{}", self.logs());
        }
    }

    /// Goes on until no connection of `load` passes, and answers how many passed until then.
    ///
    /// # Panics
    /// When they never stop to pass, with the logs.
    pub fn refuses(&self, load: &Load) -> u64 {
        let (began, mut late) = (Instant::now(), 0);
        loop {
            match load.next(4).passed {
                0 => return late,
                passed => late += passed,
            }
            assert!(
                began.elapsed() < SOON,
                "they go on passing\n{}",
                self.logs()
            );
        }
    }

    /// Goes on until a connection of `load` is refused and the access log gives `code` once more
    /// than before.
    ///
    /// # Panics
    /// When none is, with the logs.
    pub fn refuses_by(&self, load: &Load, code: &str) {
        let given = |codes: &BTreeMap<String, usize>| codes.get(code).copied();
        let (began, before) = (Instant::now(), given(&self.codes()));
        while given(&self.codes()) == before {
            load.next(1);
            assert!(
                began.elapsed() < SOON,
                "never refused by {code}\n{}",
                self.logs()
            );
        }
    }

    /// What both have logged, for the message of a failure: the access log as a tally.
    #[must_use]
    pub fn logs(&self) -> String {
        format!(
            "db:\n{}\nweb:\n{}",
            shortened(&self.db.log()),
            shortened(&self.web.log())
        )
    }

    /// How often each `code` stands in the access logs of both.
    #[must_use]
    pub fn codes(&self) -> BTreeMap<String, usize> {
        tally(self.db.log().lines().chain(self.web.log().lines()))
    }
}

/// The codes of access lines and how often each was logged.
fn tally<'a>(lines: impl Iterator<Item = &'a str>) -> BTreeMap<String, usize> {
    let mut codes = BTreeMap::new();
    for line in lines.filter(|line| line.contains(" access: ")) {
        let code = line
            .split(" code=")
            .nth(1)
            .and_then(|rest| rest.split(' ').next());
        *codes.entry(code.unwrap_or("?").to_owned()).or_default() += 1;
    }
    codes
}

fn shortened(log: &str) -> String {
    let told: Vec<&str> = log
        .lines()
        .filter(|line| !line.contains(" access: "))
        .collect();
    let end = told.len().saturating_sub(60);
    format!(
        "{}\naccess log: {:?}",
        told[end..].join("\n"),
        tally(log.lines())
    )
}

/// Writes an intention through the agent's API, with a description.
///
/// # Panics
/// When the agent refuses it.
pub fn intention(api: &Api, source: &str, destination: &str, action: &str, description: &str) {
    let path = format!("/v1/connect/intentions/exact?source={source}&destination={destination}");
    let body = json!({ "SourceType": "consul", "Action": action, "Description": description });
    let _ = api.put(&path, &body).good();
}
