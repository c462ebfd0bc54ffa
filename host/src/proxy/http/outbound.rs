//! Outbound HTTP: requests of local programs, each sent through the mesh.

use std::net::SocketAddr;
use std::sync::Arc;

use portcullis_core::intention::Protocol;

use super::super::access::{Access, Direction, Ending};
use super::super::lifetime::Lifetime;
use super::super::listen::PlainStream;
use super::super::listeners::Cut;
use super::super::outbound::Outbound;
use super::conversation::Conversation;
use super::gate::{Gate, Resets};
use super::inbound::ended;
use super::onward::{Onward, To};
use super::serve::{Life, limits, serve};

impl Resets for PlainStream {
    fn reset_on_close(&self, reset: bool) {
        Self::reset_on_close(self, reset);
    }
}

impl Outbound {
    /// One connection of a local program from its first byte to its end.
    pub(in super::super) async fn serve_http(
        self: &Arc<Self>,
        protocol: Protocol,
        local: PlainStream,
        from: Option<SocketAddr>,
        cut: &Cut,
    ) {
        let mut access = Access::new(Direction::Outbound, from, self.upstream.name());
        let leaf = self.connector.tls().leaf().current();
        access.src_identity = leaf.map(|leaf| leaf.id.to_string());
        let _metered = self.stats.taken(&access);
        local.reset_on_close(true);
        let ending = tokio::select! {
            ending = self.converse(protocol, local, cut, &mut access) => ending,
            cut = cut.cancelled() => cut,
        };
        self.stats.ended(&access, &ending);
        if ending.refused {
            access.log(&ending);
        }
    }

    async fn converse(
        self: &Arc<Self>,
        protocol: Protocol,
        local: PlainStream,
        cut: &Cut,
        access: &mut Access,
    ) -> Ending {
        self.stats.opened(access);
        let settings = self.limits.http.clone();
        let mut gate = Gate::new(local, limits(&settings), Arc::clone(&access.counts));
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
            Err(error) => return ended(Some(format!("local program: {error}"))),
        };
        let heads = gate.heads();
        let conversation = Conversation {
            judged: None,
            onward: Onward::new(To::Mesh(Arc::clone(self)), protocol, settings.clone()),
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
            standing: None,
            generations: None,
            stopping: cut.stopping(),
        };
        match serve(gate, speaks, conversation, life).await {
            Ok(()) => ended(None),
            Err(ending) => ending,
        }
    }
}
