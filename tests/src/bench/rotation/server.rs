//! A member of the mesh that our proxy calls: TLS with client certificates, one echoed byte.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use crate::bench::identity::Identity;
use crate::bench::patience::PATIENCE;

/// A server on a port of its own, for the life of the program.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    identity: Option<Identity>,
    config: Option<Arc<ServerConfig>>,
    client: Option<CertificateDer<'static>>,
}

impl Server {
    /// Listens, and refuses all until it has a certificate.
    pub(super) fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
        let address = listener.local_addr().context("no address")?;
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A caller that is gone is counted by itself.
                let _ = serve(stream, &shared);
            }
        });
        Ok(Self { address, state })
    }

    /// From now on with this certificate, for clients of these roots.
    pub(super) fn serve(
        &self,
        identity: &Identity,
        roots: &[CertificateDer<'static>],
    ) -> Result<()> {
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root.clone()).context("a root cannot be used")?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider))
                .build()
                .context("no verifier")?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .context("no TLS 1.3")?
            .with_client_cert_verifier(verifier)
            .with_single_cert(identity.chain.clone(), identity.key.clone_key())
            .context("the certificate cannot be used")?;
        let mut state = lock(&self.state);
        state.identity = Some(identity.clone());
        state.config = Some(Arc::new(config));
        Ok(())
    }

    /// The same certificate, for clients of these roots.
    pub(super) fn serve_more_roots(&self, roots: &[CertificateDer<'static>]) -> Result<()> {
        let identity = lock(&self.state).identity.clone();
        self.serve(&identity.context("no certificate yet")?, roots)
    }

    /// The certificate of the last client.
    pub(super) fn client(&self) -> Option<CertificateDer<'static>> {
        lock(&self.state).client.clone()
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>) -> io::Result<()> {
    let Some(config) = lock(state).config.clone() else {
        return Ok(());
    };
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let connection = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, stream);
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    let client = stream.conn.peer_certificates();
    let client = client.and_then(|chain| chain.first().cloned());
    lock(state).client = client.map(CertificateDer::into_owned);
    stream.write_all(&byte)?;
    stream.conn.send_close_notify();
    stream.flush()
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
