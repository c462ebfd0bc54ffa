//! Takes connections of the mesh for an application: handshakes at once, one connection
//! after the other to the server.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::super::super::access::{Access, Direction, Ending, tls_version};
use super::super::super::handshakes::Place;
use super::super::super::lifetime::Lifetime;
use super::super::super::listen::{Accepted, ListenAddress, Listener, PlainStream};
use super::super::super::live::Standing;
use super::super::super::proxy_protocol::Route;
use super::super::super::stats::Active;
use super::super::admission::Judged;
use super::super::cutter::{Cause, Cutter};
use super::super::gate::{Gate, Resets as _};
use super::super::inbound::ended;
use super::super::serve::{FAREWELL, fallen, limits, published};
use super::super::xfcc;
use super::connection::{Inner, MeshConnection, MeshIo};
use super::intentions::Intentions;
use crate::tls::MeshStream;

/// How many clients may wait for the server to take them.
const WAITING: usize = 64;

/// A listener whose connections are the mesh's: axum's [`axum::serve::Listener`], and for
/// hyper [`MeshListener::accept`].
///
/// As many handshakes run at once as the limits say; a slow one keeps nobody waiting.
/// Dropping it closes the socket; connections go on.
pub struct MeshListener {
    address: SocketAddr,
    ready: mpsc::Receiver<MeshIo>,
    _stop: DropGuard,
}

/// What a connection runs by, beside its bytes.
struct Guarded {
    connection: MeshConnection,
    standing: Standing,
    generations: watch::Receiver<u64>,
    lifetime: Lifetime,
}

impl MeshListener {
    pub(super) fn bind(intentions: &Intentions, address: SocketAddr) -> io::Result<Self> {
        let listener = Listener::bind(&ListenAddress::Tcp(address), None)?;
        let address = listener.address()?.tcp().unwrap_or(address);
        let shared = &intentions.0.proxy.shared;
        let stop = shared.stop.child_token();
        let (give, ready) = mpsc::channel(WAITING);
        let accepting = accept(listener, intentions.clone(), give, stop.clone());
        shared.tasks.spawn(accepting);
        Ok(Self {
            address,
            ready,
            _stop: stop.drop_guard(),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next connection whose client is verified and has begun to speak. Cancel safe.
    ///
    /// After [`Intentions::shutdown`] there is none, and this waits for ever.
    pub async fn accept(&mut self) -> MeshIo {
        match self.ready.recv().await {
            Some(io) => io,
            None => std::future::pending().await,
        }
    }
}

impl axum::serve::Listener for MeshListener {
    type Io = MeshIo;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (MeshIo, SocketAddr) {
        let io = Self::accept(self).await;
        let from = io.connection().remote_addr().unwrap_or(self.address);
        (io, from)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

impl fmt::Debug for MeshListener {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("MeshListener")
            .field(&self.address)
            .finish()
    }
}

async fn accept(
    listener: Listener,
    intentions: Intentions,
    give: mpsc::Sender<MeshIo>,
    stop: CancellationToken,
) {
    let shared = &intentions.0.proxy.shared;
    let most = &intentions.0.limits;
    let room = Arc::new(Semaphore::new(most.connections.max(1)));
    tokio::select! {
        // Before that there is no certificate to show and no policy to ask.
        () = shared.member.watcher().ready() => {}
        () = stop.cancelled() => return,
    }
    loop {
        let next = async {
            if shared.handshakes.room(most.handshakes).await {
                shared.stats.gave_way();
            }
            listener.accept(&shared.stats).await
        };
        let (stream, from) = tokio::select! {
            () = stop.cancelled() => return,
            accepted = next => accepted,
        };
        let one = Arc::clone(&room).try_acquire_owned().ok();
        let active = Active::new(&shared.stats, most.all_connections);
        let (Some(one), Some(active)) = (one, active) else {
            shared.stats.over_limit();
            stream.reset_on_close(true);
            continue;
        };
        let place = shared.handshakes.begin();
        let (intentions, give) = (intentions.clone(), give.clone());
        shared.tasks.spawn(async move {
            Box::pin(serve(&intentions, (stream, from), place, &give)).await;
            drop((one, active));
        });
    }
}

/// One connection from its first byte to its end.
async fn serve(
    intentions: &Intentions,
    (stream, from): Accepted,
    place: Place,
    give: &mpsc::Sender<MeshIo>,
) {
    let shared = &intentions.0.proxy.shared;
    let mut access = Access::new(Direction::Inbound, from, &shared.service);
    let ours = shared.member.tls().leaf().current();
    access.dst_identity = ours.map(|leaf| leaf.id.to_string());
    access.dst_addr = Some("native".to_owned());
    let _metered = shared.stats.taken(&access);
    let served = async {
        let (io, guarded) = match admit(intentions, stream, place, &mut access).await {
            Ok(admitted) => admitted,
            Err(ending) => return ending,
        };
        if give.send(io).await.is_err() {
            return Ending::shutdown();
        }
        guarded.run(intentions).await
    };
    let ending = tokio::select! {
        ending = served => ending,
        () = shared.cut.cancelled() => Ending::shutdown(),
    };
    shared.stats.ended(&access, &ending);
    // What its requests have not said already.
    if ending.refused {
        access.log(&ending);
    }
}

/// The handshake, and the client's first bytes.
async fn admit(
    intentions: &Intentions,
    stream: PlainStream,
    place: Place,
    access: &mut Access,
) -> Result<(MeshIo, Guarded), Ending> {
    let (inbound, shared) = (&intentions.0.inbound, &intentions.0.proxy.shared);
    let mut route = Route {
        from: access.src_addr,
        to: stream.local_address(),
    };
    // Nobody is refused before a request says what is wanted.
    let accepted = inbound.accept(stream, &mut route, place, None, access);
    let MeshStream {
        stream,
        peer,
        chain,
        epoch,
    } = Box::pin(accepted).await?;
    access.src_identity = Some(peer.id.to_string());
    access.tls = tls_version(stream.get_ref().1);
    let generations = inbound.tls.verifier().policy().subscribe();
    let ours = inbound.tls.leaf().current();
    let element = ours
        .as_ref()
        .zip(chain.first())
        .and_then(|(ours, leaf)| xfcc::element(&ours.id.to_string(), leaf, &peer.id.to_string()));
    let standing = Standing::client(&inbound.tls, &peer, chain, epoch);
    stream.get_ref().0.reset_on_close(true);
    inbound.stats.opened(access);

    let settings = &intentions.0.limits.http;
    let mut gate = Gate::new(stream, limits(settings), Arc::clone(&access.counts));
    let lifetime = Lifetime::new(&intentions.0.limits);
    let speaks = tokio::select! {
        speaks = gate.speaks() => speaks,
        over = lifetime.over(&access.counts) => return Err(over.ending(&inbound.stats)),
    };
    let speaks = match speaks {
        Ok(Some(speaks)) => speaks,
        Ok(None) => {
            gate.get_ref().reset_on_close(false);
            return Err(ended(None));
        }
        Err(error) => return Err(ended(Some(format!("client: {error}")))),
    };
    let connection = MeshConnection(Arc::new(Inner {
        judged: Judged {
            judge: Arc::clone(&inbound.judge),
            peer,
            element,
        },
        from: access.src_addr,
        heads: gate.heads().of(speaks),
        live: Default::default(),
        access: access.same_connection(),
        taken_back: Arc::default(),
        end: Cutter::default(),
        gone: CancellationToken::new(),
        last: shared.stop.child_token(),
        claimed: Default::default(),
    }));
    let io = MeshIo {
        gate,
        connection: connection.clone(),
    };
    let guarded = Guarded {
        connection,
        standing,
        generations,
        lifetime,
    };
    Ok((io, guarded))
}

impl Guarded {
    /// Judges what is under way again, until the application is done with the connection
    /// or it must end.
    async fn run(self, intentions: &Intentions) -> Ending {
        let Self {
            connection,
            standing,
            generations,
            lifetime,
        } = self;
        let Inner {
            judged,
            live,
            gone,
            last,
            ..
        } = &*connection.0;
        let (mut standing, mut generations) = (Some(standing), Some(generations));
        // These go on over the turns of the loop: a judgement is not begun anew, nor is quiet.
        let mut fallen = std::pin::pin!(fallen(&mut standing));
        let mut lived = std::pin::pin!(lifetime.over(&connection.0.access.counts));
        let ending = loop {
            tokio::select! {
                () = gone.cancelled() => return ended(None),
                is_new = published(&mut generations) => {
                    if is_new {
                        live.judge(&judged.judge, &judged.peer);
                        if judged.judge.refuses_all(&judged.peer).is_some() {
                            last.cancel();
                        }
                    }
                }
                () = live.token_ended(judged.judge.clock()) => {
                    live.judge_ended(&judged.judge, &judged.peer, judged.judge.clock());
                }
                ending = &mut fallen => {
                    live.cut(&Cause {
                        code: "certificate-expired",
                        reason: ending.reason.clone(),
                    });
                    break ending;
                }
                over = &mut lived => {
                    break over.ending(&intentions.0.inbound.stats);
                }
                () = intentions.0.proxy.shared.cut.cancelled() => break Ending::shutdown(),
                cause = connection.0.end.wait() => {
                    return Ending::refused(cause.code, cause.reason);
                }
            }
        };
        last.cancel();
        // What is cut off may still tell its client.
        let _ = tokio::time::timeout(FAREWELL, gone.cancelled()).await;
        end(&connection, &ending);
        ending
    }
}

/// Nothing more is read or written.
fn end(connection: &MeshConnection, ending: &Ending) {
    connection.0.end.cut(Cause {
        code: "ended",
        reason: ending.reason.clone(),
    });
}
