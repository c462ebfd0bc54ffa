//! A small blocking client of Consul's HTTP API, independent of the product's own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use crate::echo;

/// A reply.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: String,
}

impl Reply {
    /// The body as JSON.
    ///
    /// # Panics
    /// If it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The first header of this name (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    /// The same reply, if its status is 200.
    ///
    /// # Panics
    /// If the status is another.
    #[must_use]
    pub fn good(self) -> Self {
        assert_eq!(self.status, 200, "{}", self.body);
        self
    }
}

/// One agent and one token.
#[derive(Clone, Debug)]
pub struct Api {
    address: SocketAddr,
    token: Option<String>,
}

impl Api {
    /// The agent at `address`.
    pub fn new(address: SocketAddr, token: Option<&str>) -> Self {
        Self {
            address,
            token: token.map(str::to_owned),
        }
    }

    /// The same agent with another token.
    #[must_use]
    pub fn with_token(&self, token: Option<&str>) -> Self {
        Self::new(self.address, token)
    }

    /// The agent's address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// GET.
    ///
    /// # Panics
    /// If the agent does not answer.
    pub fn get(&self, path: &str) -> Reply {
        self.send("GET", path, None).expect("the agent answers")
    }

    /// PUT of a JSON body.
    ///
    /// # Panics
    /// If the agent does not answer.
    pub fn put(&self, path: &str, body: &Value) -> Reply {
        self.send("PUT", path, Some(&body.to_string()))
            .expect("the agent answers")
    }

    /// PUT without a body.
    ///
    /// # Panics
    /// If the agent does not answer.
    pub fn put_empty(&self, path: &str) -> Reply {
        self.send("PUT", path, None).expect("the agent answers")
    }

    /// POST of a JSON body.
    ///
    /// # Panics
    /// If the agent does not answer.
    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.send("POST", path, Some(&body.to_string()))
            .expect("the agent answers")
    }

    /// DELETE.
    ///
    /// # Panics
    /// If the agent does not answer.
    pub fn delete(&self, path: &str) -> Reply {
        self.send("DELETE", path, None).expect("the agent answers")
    }

    /// Any request. HTTP/1.0, so that the reply ends with the connection.
    ///
    /// # Errors
    /// If the agent does not answer, or not with HTTP.
    pub fn send(&self, method: &str, path: &str, body: Option<&str>) -> std::io::Result<Reply> {
        let mut stream = TcpStream::connect_timeout(&self.address, echo::PATIENCE)?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        let mut head = format!("{method} {path} HTTP/1.0\r\nHost: {}\r\n", self.address);
        if let Some(token) = &self.token {
            head.push_str(&format!("X-Consul-Token: {token}\r\n"));
        }
        if let Some(body) = body {
            head.push_str(&format!(
                "Content-Type: application/json\r\nContent-Length: {}\r\n",
                body.len()
            ));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes())?;
        stream.write_all(body.unwrap_or_default().as_bytes())?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        parse(&bytes).ok_or_else(|| std::io::Error::other("the reply is not HTTP"))
    }
}

fn parse(bytes: &[u8]) -> Option<Reply> {
    let split = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(bytes.get(..split)?).ok()?;
    let body = String::from_utf8_lossy(bytes.get(split + 4..)?).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Some(Reply {
        status,
        headers,
        body,
    })
}
