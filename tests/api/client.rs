//! A plain HTTP client: one connection for each request.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// No reply takes longer than this, blocked ones included.
const LIMIT: Duration = Duration::from_secs(120);

/// A request to both agents.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) target: String,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
}

/// What an agent answered.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {} {:?}", self.status, self.text()))
    }

    pub(crate) fn index(&self) -> u64 {
        let index = self
            .headers
            .get("x-consul-index")
            .and_then(|value| value.to_str().ok());
        index
            .and_then(|text| text.parse().ok())
            .unwrap_or_else(|| panic!("no index in {self:?}"))
    }
}

pub(crate) async fn send(address: SocketAddr, call: &Call) -> Result<Answer, String> {
    let exchange = async {
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| error.to_string())?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        let mut request = http::Request::builder()
            .method(call.method.clone())
            .uri(&call.target)
            .header("host", address.to_string());
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        let request = request
            .body(Full::new(call.body.clone()))
            .map_err(|error| error.to_string())?;
        let reply = sender
            .send_request(request)
            .await
            .map_err(|error| error.to_string())?;
        let (parts, body) = reply.into_parts();
        let body = body
            .collect()
            .await
            .map_err(|error| error.to_string())?
            .to_bytes();
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        })
    };
    tokio::time::timeout(LIMIT, exchange)
        .await
        .map_err(|_| "no reply in time".to_owned())?
}
