//! What the demo asks, and where it looks for the truth of its claims.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use portcullis::agent_client::{AgentClient, AgentConfig};
use portcullis_core::agent::{HttpRequest, Method, Query, accepted, health, roots};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::children::PATIENCE;
use super::service::ask;
use super::stage::{Ready, Stage};
use super::telling::{claim, command};
use crate::cli::agent::ask as ask_agent;
use crate::cli::failure::Failure;

/// One line of a proxy's access log.
#[derive(Debug)]
pub(crate) struct Access {
    /// Whether it was let through, and not cut.
    pub(crate) allowed: bool,
    /// The reason's name.
    pub(crate) code: String,
    /// The reason in a sentence.
    pub(crate) reason: String,
    /// The client's identity, once its key is proved.
    pub(crate) source: String,
}

impl Access {
    /// Reads a line of a log, if it is one of these.
    pub(crate) fn read(line: &Value) -> Option<Self> {
        if line["target"] != "access" {
            return None;
        }
        let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        Some(Self {
            allowed: line["message"] == "connection closed",
            code: text("code"),
            reason: text("reason"),
            source: text("src.identity"),
        })
    }
}

/// The next refusal or permission in a proxy's access log.
pub(crate) async fn access(stage: &Stage, proxy: &Ready, mark: usize) -> Result<Access, Failure> {
    let process = stage.process(proxy)?;
    match process.log.find(mark, Access::read).await {
        Some(log) => Ok(log),
        None => Err(process.failed("wrote no access log").await),
    }
}

/// How many connections have reached db, this question included.
pub(crate) async fn connections(db: SocketAddr) -> Result<u64, Failure> {
    let answer = ask(db, "connections")
        .await
        .map_err(|error| Failure::while_doing("asking db", &error))?;
    answer
        .parse()
        .map_err(|_| Failure::runtime(format_args!("db answered `{answer}`")))
}

/// `portcullis intention allow|deny web db`.
pub(crate) async fn intention(stage: &Stage, action: &str) -> Result<(), Failure> {
    command(&format!("portcullis intention {action} web db"))?;
    match stage
        .command(&["intention", action, "web", "db"], false)
        .await?
    {
        (0, _) => Ok(()),
        (code, text) => Err(Failure::runtime(format_args!(
            "the intention was not stored ({code}): {text}"
        ))),
    }
}

/// What web answers to a browser.
pub(crate) async fn get(web: SocketAddr) -> Result<String, Failure> {
    let exchange = async {
        let mut stream = TcpStream::connect(web).await?;
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n")
            .await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    exchange
        .await
        .map_err(|error: std::io::Error| Failure::while_doing("asking web", &error))
}

/// Asks again until the answer is `good`, or patience ends: the last answer, and
/// how long it took.
pub(crate) async fn until<T>(
    ask: impl AsyncFn() -> Result<T, Failure>,
    good: impl Fn(&T) -> bool,
) -> Result<(T, Duration), Failure> {
    let began = Instant::now();
    loop {
        let answer = ask().await?;
        if good(&answer) || began.elapsed() > PATIENCE {
            return Ok((answer, began.elapsed()));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A client of the demo's agent.
pub(crate) fn client(address: &str) -> Result<AgentClient, Failure> {
    AgentConfig::at(address)
        .and_then(AgentClient::new)
        .map_err(|error| Failure::from_error(&error))
}

/// Waits until the agent names a healthy instance of `service`.
pub(crate) async fn is_listed(agent: &AgentClient, service: &str) -> Result<(), Failure> {
    let ask = async || {
        ask_agent(
            agent,
            health::request(service, &Query::default()),
            health::decode,
        )
        .await
    };
    let (found, _) = until(ask, |found| found.usable().count() > 0).await?;
    claim(found.usable().count() > 0, "", || {
        format!("the agent lists no healthy instance of {service}")
    })
}

/// The id of the root that signs now.
pub(crate) async fn active_root(agent: &AgentClient) -> Result<String, Failure> {
    let roots = ask_agent(agent, Ok(roots::request(&Query::default())), roots::decode).await?;
    Ok(roots.active_id)
}

/// Makes the agent sign with a new root: another kind of key needs one.
pub(crate) async fn rotate(agent: &AgentClient) -> Result<(), Failure> {
    let request = HttpRequest {
        method: Method::Put,
        path_and_query: "/v1/connect/ca/configuration".to_owned(),
        body: Some(
            br#"{"Provider":"consul","Config":{"PrivateKeyType":"ec","PrivateKeyBits":384}}"#
                .to_vec(),
        ),
        headers: vec![("content-type", "application/json".to_owned())],
        read_timeout_ms: 10_000,
        max_reply: 65_536,
    };
    ask_agent(agent, Ok(request), accepted).await
}
