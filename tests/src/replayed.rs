//! An agent that repeats what one has said: each filter gets its own answers by the datacenter
//! that it asks for, `g0`, `g1` and so on.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::stage::ANY;

/// What an agent has said.
#[derive(Clone, Debug)]
pub struct Said {
    /// The list of the destination, as `match` gives it.
    pub intentions: Value,
    /// Of the mesh.
    pub trust_domain: Value,
    /// The root certificate in PEM.
    pub root: String,
    /// Those that it lists with it.
    pub intermediates: Vec<String>,
    /// The `mesh` entry; null if there is none.
    pub mesh: Value,
    /// All `jwt-provider` entries: a list.
    pub providers: Value,
}

/// Starts one. A question that waits for a change is never answered.
///
/// # Panics
/// When there is no port.
pub async fn agent(said: Vec<Said>) -> SocketAddr {
    let listener = TcpListener::bind(ANY).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let said = Arc::new(said);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, Arc::clone(&said)));
        }
    });
    address
}

async fn answer(mut stream: TcpStream, said: Arc<Vec<Said>>) -> Option<()> {
    let mut read = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut read).await.ok()? == 0 {
                return None;
            }
        };
        let head = String::from_utf8(read.drain(..end).collect()).ok()?;
        let target = head.split(' ').nth(1)?;
        let (path, query) = target.split_once('?')?;
        let parameter = |name: &str| {
            query
                .split('&')
                .find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
        };
        if parameter("index").is_some() {
            std::future::pending::<()>().await;
        }
        let place: usize = parameter("dc")?.strip_prefix('g')?.parse().ok()?;
        let said = said.get(place)?;
        let body = match (parameter("name"), path) {
            (Some(name), _) => json!({ name.replace("%2F", "/"): said.intentions }),
            (None, "/v1/config/mesh/mesh") => said.mesh.clone(),
            (None, "/v1/config/jwt-provider") => said.providers.clone(),
            (None, _) => json!({ "ActiveRootID": "1", "TrustDomain": said.trust_domain,
                "Roots": [{ "ID": "1", "Name": "", "RootCert": said.root,
                    "IntermediateCerts": said.intermediates, "Active": true }] }),
        };
        let (status, body) = match body {
            Value::Null => ("404 Not Found", "no such entry".to_owned()),
            body => ("200 OK", body.to_string()),
        };
        let reply = format!(
            "HTTP/1.1 {status}\r\nx-consul-index: 7\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(reply.as_bytes()).await.ok()?;
    }
}
