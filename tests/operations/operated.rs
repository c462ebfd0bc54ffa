//! A proxy with all three listeners, and how they are asked.

use std::net::SocketAddr;
use std::time::Duration;

use portcullis_dev_agent::{DefaultPolicy, DevAgent, DevAgentConfig, Token};
use portcullis_tests::proxy::Proxy;
use portcullis_tests::{process, program};

/// Anything that takes longer has hung.
pub(crate) const HUNG: Duration = Duration::from_secs(60);

/// The token of every proxy here: it must appear nowhere.
pub(crate) const CANARY: &str = "c4n4ry-70k3n-4711-9a10-0123456789ab";

/// An agent with ACLs, on `port`, on which [`CANARY`] may do everything.
pub(crate) async fn agent(port: u16) -> DevAgent {
    start(port, Token::management(CANARY)).await
}

/// The same, on which it may do what `rules` say.
pub(crate) async fn agent_for(port: u16, rules: &str) -> DevAgent {
    start(port, Token::with_rules(CANARY, rules)).await
}

async fn start(port: u16, token: Token) -> DevAgent {
    DevAgent::start(DevAgentConfig {
        listen: SocketAddr::from(([127, 0, 0, 1], port)),
        default_policy: DefaultPolicy::Deny,
        default_intention_policy: Some(DefaultPolicy::Deny),
        tokens: vec![token],
        ..DevAgentConfig::for_tests()
    })
    .await
    .expect("the agent starts")
}

/// A reply.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// Sends a request with exactly these headers, and reads to the end.
pub(crate) fn send(
    mut stream: impl std::io::Read + std::io::Write,
    method: &str,
    path: &str,
    headers: &[String],
    body: &str,
) -> Option<Answer> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    for header in headers {
        text.push_str(header);
        text.push_str("\r\n");
    }
    if !body.is_empty() {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    stream.write_all((text + "\r\n" + body).as_bytes()).ok()?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).ok()?;
    let reply = String::from_utf8(reply).expect("text");
    let (head, body) = reply.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer {
        status,
        head: head.to_owned(),
        body: body.to_owned(),
    })
}

/// The same by TCP.
pub(crate) fn tcp(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[String],
    body: &str,
) -> Option<Answer> {
    let stream = std::net::TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(HUNG)).ok()?;
    send(stream, method, path, headers, body)
}

/// A proxy with all three listeners.
pub(crate) struct Operated {
    pub(crate) proxy: Proxy,
    pub(crate) admin: SocketAddr,
    pub(crate) metrics: SocketAddr,
    pub(crate) health: SocketAddr,
}

impl Operated {
    /// Starts `portcullis proxy` with these flags.
    pub(crate) fn start(agent: SocketAddr, flags: &[&str]) -> Self {
        let mut command = program::portcullis(["proxy", "-admin", "0", "-metrics=0", "-health=0"]);
        command
            .args(flags)
            .env("CONSUL_HTTP_ADDR", agent.to_string())
            .env("CONSUL_HTTP_TOKEN", CANARY);
        let proxy = Proxy::spawn(command);
        let bound =
            |role: &str| process::eventually("a listener", HUNG, || proxy.operators_listener(role));
        let (admin, metrics, health) = (bound("admin"), bound("metrics"), bound("health"));
        Self {
            proxy,
            admin,
            metrics,
            health,
        }
    }

    /// GET of admin.
    pub(crate) fn get(&self, path: &str) -> Answer {
        get(self.admin, path)
    }

    /// POST to admin.
    pub(crate) fn post(&self, path: &str, body: &str) -> Answer {
        let headers = [
            format!("Host: {}", self.admin),
            "Content-Type: application/json".to_owned(),
        ];
        tcp(self.admin, "POST", path, &headers, body).expect("an answer")
    }

    /// Waits until it is ready.
    pub(crate) fn ready(&self) {
        process::eventually("ready", HUNG, || {
            (get(self.health, "/ready").status == 200).then_some(())
        });
    }

    /// Where it takes connections of the mesh.
    pub(crate) fn inbound(&self) -> SocketAddr {
        let config = self.get("/config").json();
        let address = config["listening"]["inbound"].as_str().expect("inbound");
        address.parse().expect("an address")
    }
}

/// GET, as curl does it.
pub(crate) fn get(address: SocketAddr, path: &str) -> Answer {
    tcp(address, "GET", path, &[format!("Host: {address}")], "").expect("an answer")
}
