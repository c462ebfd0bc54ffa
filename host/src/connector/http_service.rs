//! The connector as hyper's clients take it: `http://db/path` dials the service `db`.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::{Connector, DialError, Upstream};
use crate::tls::MeshStream;

/// A connection for hyper's clients.
#[derive(Debug)]
pub struct HttpConnection(MeshStream<TcpStream>);

impl HttpConnection {
    /// The stream and its verified peer.
    #[must_use]
    pub fn get_ref(&self) -> &MeshStream<TcpStream> {
        &self.0
    }
}

/// The service that a URI's host names: `db`, `db.service.consul` or `db.service.dc2.consul`,
/// the forms of Consul's own library.
fn upstream(uri: &Uri) -> Option<Upstream> {
    let host = uri.host()?;
    let parts: Vec<&str> = host.split('.').collect();
    let (name, datacenter) = match parts.as_slice() {
        [name] | [name, "service", "consul"] => (*name, None),
        [name, "service", datacenter, "consul"] => (*name, Some((*datacenter).to_owned())),
        _ => (host, None),
    };
    Some(Upstream::Service {
        name: name.to_owned(),
        datacenter,
    })
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<HttpConnection>;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, DialError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let no_host = || DialError::NoInstance {
                service: String::new(),
                because: Some("the URI has no host".to_owned()),
            };
            let upstream = upstream(&uri).ok_or_else(no_host)?;
            let connection = connector.dial_upstream(&upstream).await?;
            Ok(TokioIo::new(HttpConnection(connection.stream)))
        })
    }
}

impl Connection for HttpConnection {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for HttpConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for HttpConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_name_services() {
        let name = |uri: &'static str| upstream(&Uri::from_static(uri));
        let service = |name: &str, datacenter: Option<&str>| {
            Some(Upstream::Service {
                name: name.to_owned(),
                datacenter: datacenter.map(str::to_owned),
            })
        };
        assert_eq!(name("http://db/x"), service("db", None));
        assert_eq!(name("http://db.service.consul:80/"), service("db", None));
        assert_eq!(
            name("https://db.service.dc2.consul/"),
            service("db", Some("dc2"))
        );
        assert_eq!(name("http://a.b/"), service("a.b", None));
        assert_eq!(name("/x"), None);
    }
}
