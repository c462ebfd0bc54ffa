//! HTTP/2 (and HTTP/1.1) on a listener, for a gRPC service and what else has a path there.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;

use crate::proxy::Listener;

/// Connections at once: an Envoy opens one for each worker, secret and filter.
const CONNECTIONS: usize = 1_024;

/// Streams at once of each connection.
const STREAMS: u32 = 1_024;

/// How often a silent client is asked whether it is still there.
const ALIVE: Duration = Duration::from_secs(30);

/// How long a client of HTTP/1.1 may take for its headers.
const HEADERS: Duration = Duration::from_secs(10);

/// Serves until `ended`; then what is under way is dropped.
pub(super) async fn serve<S, F>(listener: Listener, service: S, ended: CancellationToken)
where
    S: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let connections = TaskTracker::new();
    let accept = async {
        loop {
            // The semaphore is never closed.
            let place = Arc::clone(&room).acquire_owned().await.ok();
            let (stream, _) = listener.accept_uncounted().await;
            let (service, ended) = (service.clone(), ended.clone());
            connections.spawn(async move {
                let _place = place;
                let answer = service_fn(move |request| {
                    let answer = service(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                let mut http = auto::Builder::new(TokioExecutor::new());
                http.http1()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADERS);
                http.http2()
                    .timer(TokioTimer::new())
                    .max_concurrent_streams(STREAMS)
                    .keep_alive_interval(ALIVE);
                let connection = http.serve_connection(TokioIo::new(stream), answer);
                // What clients do wrong is theirs to see.
                let _ = ended.run_until_cancelled(connection).await;
            });
        }
    };
    ended.run_until_cancelled(accept).await;
    connections.close();
    connections.wait().await;
}
