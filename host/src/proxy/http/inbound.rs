//! Inbound HTTP: mTLS from the mesh, and then every request is judged.

use std::net::SocketAddr;
use std::sync::Arc;

use portcullis_core::intention::Protocol;
use tokio_rustls::TlsStream;

use super::super::access::{Access, Direction, Ending, tls_version};
use super::super::handshakes::Place;
use super::super::inbound::Inbound;
use super::super::lifetime::Lifetime;
use super::super::listen::PlainStream;
use super::super::listeners::Cut;
use super::super::live::Standing;
use super::super::proxy_protocol::Route;
use super::admission::Judged;
use super::conversation::Conversation;
use super::gate::{Gate, Resets};
use super::onward::{Onward, To};
use super::serve::{Life, limits, serve};
use super::xfcc;
use crate::tls::MeshStream;

impl Resets for TlsStream<PlainStream> {
    fn reset_on_close(&self, reset: bool) {
        self.get_ref().0.reset_on_close(reset);
    }
}

impl Inbound {
    /// One connection of HTTP from its first byte to its end.
    pub(in super::super) async fn serve_http(
        self: &Arc<Self>,
        protocol: Protocol,
        stream: PlainStream,
        from: Option<SocketAddr>,
        place: Place,
        cut: &Cut,
    ) {
        let mut access = Access::new(Direction::Inbound, from, &self.service);
        access.dst_identity = self.tls.leaf().current().map(|leaf| leaf.id.to_string());
        let _metered = self.stats.taken(&access);
        let ending = tokio::select! {
            ending = self.converse(protocol, stream, place, cut, &mut access) => ending,
            cut = cut.cancelled() => cut,
        };
        self.stats.ended(&access, &ending);
        // What its requests have not said already.
        if ending.refused {
            access.log(&ending);
        }
    }

    async fn converse(
        self: &Arc<Self>,
        protocol: Protocol,
        stream: PlainStream,
        place: Place,
        cut: &Cut,
        access: &mut Access,
    ) -> Ending {
        let mut route = Route {
            from: access.src_addr,
            to: stream.local_address(),
        };
        // Nobody is refused before a request says what is wanted.
        let accepted = Box::pin(self.accept(stream, &mut route, place, None, access)).await;
        access.src_addr = route.from;
        let MeshStream {
            stream,
            peer,
            chain,
            epoch,
        } = match accepted {
            Ok(accepted) => accepted,
            Err(ending) => return ending,
        };
        access.src_identity = Some(peer.id.to_string());
        access.tls = tls_version(stream.get_ref().1);
        let generations = self.tls.verifier().policy().subscribe();
        let ours = self.tls.leaf().current();
        let element = ours.as_ref().zip(chain.first()).and_then(|(ours, leaf)| {
            xfcc::element(&ours.id.to_string(), leaf, &peer.id.to_string())
        });
        let standing = Standing::client(&self.tls, &peer, chain, epoch);
        stream.get_ref().0.reset_on_close(true);
        self.stats.opened(access);

        let settings = self.limits.http.clone();
        let mut gate = Gate::new(stream, limits(&settings), Arc::clone(&access.counts));
        let lifetime = Lifetime::new(&self.limits);
        let speaks = tokio::select! {
            speaks = gate.speaks() => speaks,
            over = lifetime.over(&access.counts) => return over.ending(&self.stats),
        };
        let speaks = match speaks {
            Ok(Some(speaks)) => speaks,
            Ok(None) => {
                gate.get_ref().reset_on_close(false);
                return ended(None);
            }
            Err(error) => return ended(Some(format!("client: {error}"))),
        };
        let heads = gate.heads();
        let to = To::Application {
            inbound: Arc::clone(self),
            route,
            tls: access.tls,
            identity: peer.id.to_string(),
        };
        let conversation = Conversation {
            judged: Some(Judged {
                judge: Arc::clone(&self.judge),
                peer,
                element,
            }),
            onward: Onward::new(to, protocol, settings.clone()),
            settings,
            stats: Arc::clone(&self.stats),
            heads: heads.of(speaks),
            live: Default::default(),
            access: access.same_connection(),
            taken_back: Arc::default(),
            calm: Default::default(),
            tunnel: Default::default(),
        };
        let life = Life {
            lifetime,
            standing: Some(standing),
            generations: Some(generations),
            stopping: cut.stopping(),
        };
        match serve(gate, speaks, conversation, life).await {
            Ok(()) => ended(None),
            Err(ending) => ending,
        }
    }
}

/// The end of a connection that was not refused.
pub(super) fn ended(error: Option<String>) -> Ending {
    Ending {
        refused: false,
        code: "connected".into(),
        reason: "its requests were judged one by one".to_owned(),
        error,
    }
}
