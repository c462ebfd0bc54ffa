//! Envoy's secret discovery service: our leaf with its key, and the roots of the mesh.
//!
//! The secrets have these names: [`LEAF`] is a TLS certificate, [`ROOTS`] a validation
//! context with nothing but the roots, so that listeners and clusters can add what else they
//! demand. [`BUNDLES`] is one with the roots of peers, too, each for its own trust domain
//! alone. Whoever reaches the socket gets a private key: it is a unix socket, never TCP.
//!
//! <https://www.envoyproxy.io/docs/envoy/v1.38.0/configuration/security/secret>

mod bundles;
mod secrets;
mod stream;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use http::Request;
use hyper::body::Incoming;
use tokio::sync::mpsc;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};
use tower_service::Service as _;

use super::relay::Relay;
use super::server::Server;
use super::{ServerObserver, observer};
use crate::member::Member;
use crate::proxy::{ListenAddress, Listener};
use secrets::Secrets;
use stream::Subscription;

pub use bundles::BUNDLES;
pub use secrets::{LEAF, ROOTS};

/// The largest question: Envoy describes its node in it.
const MAX_QUESTION: usize = 1024 * 1024;

/// Answers that wait for a client to read them.
const WAITING: usize = 4;

/// A server of leaf and roots, until it is dropped.
#[derive(Debug)]
pub struct Sds {
    server: Server,
    counts: Arc<Counted>,
}

/// What a server has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Streams that are open.
    pub streams: u64,
    /// Answers that were sent.
    pub sent: u64,
    /// Answers that Envoy took over.
    pub accepted: u64,
    /// Answers that Envoy refused.
    pub refused: u64,
}

/// The same, while it is counted.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    streams: AtomicU64,
    sent: AtomicU64,
    accepted: AtomicU64,
    refused: AtomicU64,
}

impl Counted {
    pub(crate) fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            streams: read(&self.streams),
            sent: read(&self.sent),
            accepted: read(&self.accepted),
            refused: read(&self.refused),
        }
    }
}

impl Sds {
    /// Listens at `path`, with these permissions of the socket, and serves the leaf and roots
    /// of `member`; with a relay also the questions that it answers. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn start(
        member: &Member,
        path: PathBuf,
        mode: u32,
        relay: Option<Relay>,
    ) -> io::Result<Self> {
        let listener = Listener::bind(&ListenAddress::Unix(path), Some(mode))?;
        let counts = Arc::<Counted>::default();
        let service = Service {
            secrets: Secrets::of(member.watcher()),
            counts: Arc::clone(&counts),
        };
        let service =
            SecretDiscoveryServiceServer::new(service).max_decoding_message_size(MAX_QUESTION);
        let answer = move |request: Request<Incoming>| {
            let (mut service, relay) = (service.clone(), relay.clone());
            async move {
                match relay.filter(|_| Relay::is_for(request.uri().path())) {
                    Some(relay) => relay.answer(request).await,
                    None => {
                        let Ok(response) = service.call(request).await;
                        response
                    }
                }
            }
        };
        let counted = observer::Counted::Sds(Arc::clone(&counts));
        let server = Server::start(listener, member, counted, answer)?;
        Ok(Self { server, counts })
    }

    /// Where the socket is.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self.server.observer().address() {
            ListenAddress::Unix(path) => path,
            ListenAddress::Tcp(_) => Path::new(""),
        }
    }

    /// What it has done so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts.counts()
    }

    /// Whether it takes connections, or is being stopped. False is a defect that only a
    /// restart mends.
    #[must_use]
    pub fn is_accepting(&self) -> bool {
        self.server.is_accepting()
    }

    /// Sees how it does, for operators.
    #[must_use]
    pub fn observer(&self) -> ServerObserver {
        self.server.observer().clone()
    }

    /// Ends all streams and takes the socket away. Envoy goes on with what it has, and asks
    /// again.
    pub async fn stop(self) {
        self.server.stop().await;
    }
}

struct Service {
    secrets: Secrets,
    counts: Arc<Counted>,
}

#[tonic::async_trait]
impl SecretDiscoveryService for Service {
    type DeltaSecretsStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_secrets(
        &self,
        _: tonic::Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Err(Status::unimplemented(
            "there is no incremental discovery here: set `api_type: GRPC` in `sds_config`, not DELTA_GRPC",
        ))
    }

    type StreamSecretsStream = ReceiverStream<Result<DiscoveryResponse, Status>>;

    async fn stream_secrets(
        &self,
        request: tonic::Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let (send, receive) = mpsc::channel(WAITING);
        let subscription = Subscription::new(self.secrets.clone(), Arc::clone(&self.counts));
        tokio::spawn(async move {
            let ended = send.clone();
            tokio::select! {
                refused = subscription.run(request.into_inner(), &send) => {
                    if let Err(status) = refused {
                        tracing::warn!(problem = status.message(), "a question of Envoy is refused");
                        let _ = send.send(Err(status)).await;
                    }
                }
                () = ended.closed() => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(receive)))
    }

    async fn fetch_secrets(
        &self,
        request: tonic::Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        let request = request.into_inner();
        let names = stream::names(&request)?;
        let found = self.secrets.current(&names);
        if let Some(missing) = found.missing {
            return Err(Status::unavailable(format!(
                "there is no `{missing}` yet: the Consul agent has not given it"
            )));
        }
        self.counts.sent.fetch_add(1, Ordering::Relaxed);
        Ok(Response::new(found.response(String::new())))
    }
}
