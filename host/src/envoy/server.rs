//! A server for Envoy while it runs: what `sds` and `ext_authz` have in common.

use std::io;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;

use super::grpc;
use super::observer::{Counted, ServerObserver};
use crate::member::Member;
use crate::proxy::Listener;

/// Answers until it is dropped.
#[derive(Debug)]
pub(super) struct Server {
    observer: ServerObserver,
    serving: JoinHandle<()>,
}

impl Server {
    /// Answers on `listener` from now on. Needs a tokio runtime.
    pub(super) fn start<S, F>(
        listener: Listener,
        member: &Member,
        counted: Counted,
        answer: S,
    ) -> io::Result<Self>
    where
        S: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let ended = CancellationToken::new();
        let address = listener.address()?;
        let observer = ServerObserver::new(member.clone(), address, counted, ended.clone());
        let serving = tokio::spawn(grpc::serve(listener, answer, ended));
        Ok(Self { observer, serving })
    }

    pub(super) fn observer(&self) -> &ServerObserver {
        &self.observer
    }

    /// Whether it takes connections, or is being stopped. False is a defect that only a
    /// restart mends.
    pub(super) fn is_accepting(&self) -> bool {
        self.observer.draining() || !self.serving.is_finished()
    }

    /// Ends, and waits until it has ended.
    pub(super) async fn stop(mut self) {
        self.observer.end();
        let _ = (&mut self.serving).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.observer.end();
    }
}
