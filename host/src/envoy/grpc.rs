//! HTTP/2 (and HTTP/1.1) on a listener, for a gRPC service and what else has a path there.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;
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

/// How long a client may take for its first request, and one of HTTP/1.1 for the headers of each.
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
                let has_asked = Arc::new(Notify::new());
                let asks = Arc::clone(&has_asked);
                let answer = service_fn(move |request| {
                    asks.notify_one();
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
                let mut connection = pin!(ended.run_until_cancelled(connection));
                // Whoever says nothing keeps no place. What clients do wrong is theirs to see.
                tokio::select! {
                    _ = &mut connection => {}
                    asked = timeout(HEADERS, has_asked.notified()) => {
                        if asked.is_ok() {
                            let _ = connection.await;
                        }
                    }
                }
            });
        }
    };
    ended.run_until_cancelled(accept).await;
    connections.close();
    connections.wait().await;
}
