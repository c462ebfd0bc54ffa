//! `portcullis health`: asks a running proxy how it is, for container checks.

use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use portcullis::proxy::ListenAddress;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::duration;
use super::failure::Failure;
use super::output;
use super::proxy::operate;

/// The largest answer that is read.
const MAX_BODY: usize = 64 * 1024;

/// Ask a running proxy whether it takes connections: exit status 0 if so, else 1
///
/// For container and load balancer checks without curl or a shell. What is missing is
/// printed. The proxy, or `sds` or `ext-authz`, must have been started with -health at the
/// same address.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  portcullis health                                 asks 127.0.0.1:15021
  portcullis health -address unix:/run/portcullis/health.sock
  portcullis health -live                           whether the process answers at all, whatever Consul does
Which one: `health` is for running proxies; `check` asks whether one service may call another.")]
pub(crate) struct HealthArgs {
    /// Where the proxy listens by -health: `port`, `address:port` or `unix:path`
    #[arg(long, value_name = "ADDRESS", value_parser = operate::parse, default_value = "127.0.0.1:15021")]
    address: ListenAddress,
    /// Ask only whether it is alive, which does not depend on Consul
    #[arg(long)]
    live: bool,
    /// How long to wait for the answer
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, default_value = "3s")]
    timeout: Duration,
}

/// Runs the command.
pub(crate) async fn run(arguments: &HealthArgs) -> Result<ExitCode, Failure> {
    let path = if arguments.live { "/live" } else { "/ready" };
    let asked = tokio::time::timeout(arguments.timeout, ask(&arguments.address, path)).await;
    let (status, body) = match asked {
        Ok(Ok(answer)) => answer,
        Ok(Err(problem)) => {
            return Err(Failure::runtime(format_args!(
                "no health from `{}`: {problem}; is the proxy running with -health there?",
                arguments.address
            )));
        }
        Err(_) => {
            return Err(Failure::runtime(format_args!(
                "no answer from `{}` within {:?}",
                arguments.address, arguments.timeout
            )));
        }
    };
    if status == 200 {
        output::line(if arguments.live { "alive" } else { "ready" })?;
        return Ok(ExitCode::SUCCESS);
    }
    let missing = missing(&body);
    Err(Failure::runtime(if missing.is_empty() {
        format!(
            "not ready: `{}` answers with status {status}",
            arguments.address
        )
    } else {
        format!("not ready: {}", missing.join("; "))
    }))
}

/// What the answer says is missing.
fn missing(body: &[u8]) -> Vec<String> {
    let document: Value = serde_json::from_slice(body).unwrap_or_default();
    let missing = document["missing"].as_array();
    missing
        .into_iter()
        .flatten()
        .filter_map(|lack| lack["text"].as_str())
        .map(|text| portcullis::escape::escape(text, 500))
        .collect()
}

async fn ask(address: &ListenAddress, path: &str) -> Result<(u16, Bytes), String> {
    let failed = |error: std::io::Error| error.to_string();
    match address {
        ListenAddress::Tcp(address) => {
            let mut address = *address;
            // Where it listens on all addresses it is on this one.
            if address.ip().is_unspecified() {
                address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
            }
            let stream = TcpStream::connect(address).await.map_err(failed)?;
            exchange(stream, &address.to_string(), path).await
        }
        ListenAddress::Unix(socket) => {
            let stream = UnixStream::connect(socket).await.map_err(failed)?;
            exchange(stream, "localhost", path).await
        }
    }
}

async fn exchange<S>(stream: S, host: &str, path: &str) -> Result<(u16, Bytes), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    let connection = tokio::spawn(connection);
    let request = http::Request::get(path)
        .header(http::header::HOST, host)
        .header(http::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(failed)?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), MAX_BODY)
        .collect()
        .await
        .map_err(|error| error.to_string())?
        .to_bytes();
    connection.abort();
    Ok((status, body))
}
