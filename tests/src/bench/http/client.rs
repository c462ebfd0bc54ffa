//! The load: connections that stay open, each with one request after another.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::{Version, application, policy};
use crate::bench::client::Config;

/// Open connections to one proxy.
pub struct Client {
    runtime: Runtime,
    version: Version,
    connections: Vec<Connection>,
}

enum Connection {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

impl Client {
    /// Opens `connections` to `proxy`, and asks once on each.
    ///
    /// # Errors
    /// When one fails, or its request is not let through.
    pub fn open(
        version: Version,
        config: &Config,
        proxy: SocketAddr,
        connections: u32,
    ) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("no runtime")?;
        let mut config = rustls::ClientConfig::clone(config);
        config.alpn_protocols = vec![version.alpn().into()];
        let connector = TlsConnector::from(Arc::new(config));
        let open = async {
            let mut all = Vec::new();
            for _ in 0..connections {
                let mut connection = connect(version, &connector, proxy).await?;
                connection.ask(version).await?;
                all.push(connection);
            }
            anyhow::Ok(all)
        };
        let connections = runtime.block_on(open)?;
        Ok(Self {
            runtime,
            version,
            connections,
        })
    }

    /// Sends `requests` on each connection, on all of them at once.
    ///
    /// # Errors
    /// When one fails or is not let through.
    pub fn send(&mut self, requests: u32) -> Result<()> {
        let version = self.version;
        let mut each = JoinSet::new();
        for mut connection in self.connections.drain(..) {
            let asking = async move {
                for _ in 0..requests {
                    connection.ask(version).await?;
                }
                anyhow::Ok(connection)
            };
            each.spawn_on(asking, self.runtime.handle());
        }
        let all = self.runtime.block_on(each.join_all());
        self.connections = all.into_iter().collect::<Result<_>>()?;
        Ok(())
    }
}

async fn connect(
    version: Version,
    connector: &TlsConnector,
    proxy: SocketAddr,
) -> Result<Connection> {
    let stream = TcpStream::connect(proxy).await?;
    stream.set_nodelay(true)?;
    let stream = connector.connect(ServerName::from(proxy.ip()), stream);
    let stream = TokioIo::new(stream.await?);
    Ok(match version {
        Version::Http1 => {
            let (sender, driver) = http1::handshake(stream).await?;
            tokio::spawn(driver);
            Connection::Http1(sender)
        }
        Version::Http2 => {
            let (sender, driver) = http2::handshake(TokioExecutor::new(), stream).await?;
            tokio::spawn(driver);
            Connection::Http2(sender)
        }
    })
}

impl Connection {
    async fn ask(&mut self, version: Version) -> Result<()> {
        let response = match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                sender
                    .send_request(policy::request("/items/42?sort=name"))
                    .await?
            }
            Self::Http2(sender) => {
                sender.ready().await?;
                let mut request = policy::request("https://db.example/items/42?sort=name");
                *request.version_mut() = http::Version::HTTP_2;
                request.headers_mut().remove("host");
                sender.send_request(request).await?
            }
        };
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(
            status == 200 && body == application::ANSWER,
            "{version:?}: {status} {}",
            String::from_utf8_lossy(&body)
        );
        Ok(())
    }
}
