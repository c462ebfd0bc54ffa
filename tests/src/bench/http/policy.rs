//! The intention that all judge by, and the request that its last permission allows.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use serde_json::{Value, json};

use crate::api::Api;
use crate::bench::mesh::CLIENT;

/// The service behind every proxy: not the one of bytes, whose protocol is another.
pub const SERVICE: &str = "shop";

/// Five permissions, of which only the last matches [`request`].
#[must_use]
pub fn permissions() -> Value {
    json!([
        { "Action": "deny", "HTTP": { "PathPrefix": "/admin" } },
        { "Action": "deny", "HTTP": { "Header": [{ "Name": "x-debug", "Present": true }] } },
        { "Action": "allow", "HTTP": { "PathExact": "/health" } },
        { "Action": "allow", "HTTP": { "PathRegex": "/v[0-9]+/users/.*", "Methods": ["GET"] } },
        { "Action": "allow", "HTTP": {
            "PathPrefix": "/items/",
            "Methods": ["GET", "POST"],
            "Header": [{ "Name": "x-tenant", "Prefix": "blue" }],
        }},
    ])
}

/// Gives them to the agent there.
///
/// # Errors
/// When it does not take one.
pub fn put_entries(agent: SocketAddr) -> Result<()> {
    for entry in entries() {
        let reply = Api::new(agent, None)
            .send("PUT", "/v1/config", Some(&entry.to_string()))
            .context("the agent does not answer")?;
        ensure!(reply.status == 200, "`{entry}`: {}", reply.body);
    }
    Ok(())
}

/// The config entries, in the order in which an agent takes them.
#[must_use]
fn entries() -> [Value; 2] {
    [
        json!({ "Kind": "service-defaults", "Name": SERVICE, "Protocol": "http" }),
        json!({
            "Kind": "service-intentions",
            "Name": SERVICE,
            "Sources": [{ "Name": CLIENT, "Permissions": permissions() }],
        }),
    ]
}

/// What is asked: ten headers, as a client of today sends them.
///
/// # Panics
/// Never: it is constant.
#[must_use]
pub fn request(target: &str) -> Request<Empty<Bytes>> {
    let headers = [
        ("accept", "application/json"),
        ("accept-encoding", "gzip, br"),
        ("accept-language", "en-GB,en;q=0.9"),
        ("user-agent", "portcullis-bench/1"),
        ("cache-control", "no-cache"),
        ("cookie", "session=0123456789abcdef; theme=dark"),
        ("referer", "https://shop.example/items"),
        ("x-request-id", "4f1c2b7e-7f57-4c1b-9f6e-5f0e8f0f3c11"),
        ("x-tenant", "blue"),
    ];
    let mut request = Request::get(target).header("host", "db.example");
    for (name, value) in headers {
        request = request.header(name, value);
    }
    request.body(Empty::new()).expect("a request")
}
