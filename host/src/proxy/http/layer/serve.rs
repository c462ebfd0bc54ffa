//! One connection served by hyper, with the limits of the intentions.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tower_service::Service;

use super::super::flow::BoxError;
use super::body::Body;
use super::connection::MeshIo;
use super::enforced::Enforced;

/// How often an HTTP/2 client must show that it is there.
const PING: Duration = Duration::from_secs(60);

impl<S> Enforced<S> {
    /// Serves a connection with hyper until it ends: HTTP/1.1 and HTTP/2, upgrades, the
    /// limits of [`crate::proxy::HttpSettings`]. Where nothing more is wanted of its client, it
    /// ends in peace (GOAWAY): see [`super::MeshConnection::is_to_end`].
    ///
    /// # Errors
    /// When the connection breaks, or breaks the rules of HTTP.
    pub fn serve<R>(
        &self,
        io: MeshIo,
    ) -> impl Future<Output = Result<(), BoxError>> + Send + use<S, R>
    where
        S: Service<Request<Body<Incoming>>, Response = Response<R>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
        R: http_body::Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        let connection = io.connection().clone();
        let service = TowerToHyperService::new(self.on(&connection));
        let settings = self.intentions().http();
        let mut server = auto::Builder::new(TokioExecutor::new());
        server
            .http1()
            .half_close(false)
            .max_headers(settings.headers.max(4))
            .max_buf_size((2 * settings.header_bytes).max(16 * 1024))
            .header_read_timeout(None);
        server
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(settings.streams)
            .max_header_list_size(u32::try_from(settings.header_bytes).unwrap_or(u32::MAX))
            .max_pending_accept_reset_streams(20)
            .max_local_error_reset_streams(Some(256))
            .max_send_buf_size(256 * 1024)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING / 3);
        async move {
            let mut served = pin!(server.serve_connection_with_upgrades(TokioIo::new(io), service));
            tokio::select! {
                ended = served.as_mut() => return ended,
                () = connection.is_to_end() => served.as_mut().graceful_shutdown(),
            }
            served.await
        }
    }
}
