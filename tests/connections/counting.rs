//! A relay before an agent that notes each question and how it was answered.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use portcullis_tests::stage::ANY;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// One question.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Method and path, without the query.
    pub(crate) what: String,
    pub(crate) at: Instant,
    /// When and with what status it was answered.
    pub(crate) answered: Option<(Instant, u16)>,
}

/// A relay; it runs as long as its runtime.
#[derive(Clone, Debug)]
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Relay {
    pub(crate) async fn start(agent: SocketAddr) -> Self {
        let listener = TcpListener::bind(ANY).await.expect("a port");
        let relay = Self {
            address: listener.local_addr().expect("an address"),
            asked: Arc::default(),
        };
        let asked = Arc::clone(&relay.asked);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, agent, Arc::clone(&asked)));
            }
        });
        relay
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.clone()
    }

    /// How often each kind of question was asked, and with what status it was answered.
    pub(crate) fn tally(&self) -> BTreeMap<String, u64> {
        let mut tally = BTreeMap::new();
        for asked in self.asked() {
            let what: Vec<&str> = asked.what.split('/').take(6).collect();
            let what = what.join("/");
            let what = match what.find("/ca/leaf") {
                Some(end) => &what[..end + "/ca/leaf".len()],
                None => what.split("/svc-").next().unwrap_or_default(),
            };
            let status = asked
                .answered
                .map_or_else(|| "waiting".to_owned(), |(_, status)| status.to_string());
            *tally.entry(format!("{what} {status}")).or_default() += 1;
        }
        tally
    }
}

/// Our client asks one thing after the other on a connection, each in one piece.
async fn pass(mut client: TcpStream, agent: SocketAddr, asked: Arc<Mutex<Vec<Asked>>>) {
    let Ok(mut agent) = TcpStream::connect(agent).await else {
        return;
    };
    let (mut there, mut back) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    let mut last = None;
    loop {
        tokio::select! {
            read = client.read(&mut there) => {
                let Ok(length @ 1..) = read else { return };
                let bytes = &there[..length];
                if let Some(what) = question(bytes) {
                    let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
                    last = Some(asked.len());
                    asked.push(Asked { what, at: Instant::now(), answered: None });
                }
                if agent.write_all(bytes).await.is_err() {
                    return;
                }
            }
            read = agent.read(&mut back) => {
                let Ok(length @ 1..) = read else { return };
                let bytes = &back[..length];
                if let (Some(status), Some(number)) = (status(bytes), last.take()) {
                    let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
                    asked[number].answered = Some((Instant::now(), status));
                }
                if client.write_all(bytes).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn question(bytes: &[u8]) -> Option<String> {
    let line = bytes.split(|byte| *byte == b'\r').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let (method, rest) = line.split_once(' ')?;
    let (target, version) = rest.split_once(' ')?;
    if version != "HTTP/1.1" {
        return None;
    }
    let path = target.split('?').next()?;
    Some(format!("{method} {path}"))
}

fn status(bytes: &[u8]) -> Option<u16> {
    let status = bytes.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    std::str::from_utf8(status).ok()?.parse().ok()
}
