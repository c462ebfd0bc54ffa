//! The gate before the HTTP/1.1 server: only heads that can be read in one way pass.
//!
//! What two servers in a row would read in different ways ends a connection here, before
//! a byte of it reaches the parser behind: see [`head`] for the rules. The gate follows
//! bodies only as far as it must to know where the next head begins. It also keeps the
//! request target as it arrived, which the parser behind does not, and it holds whatever
//! follows a request to upgrade until that is answered.

mod body;
mod head;

use std::collections::VecDeque;
use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

pub(super) use head::Bad;
use head::{Framing, Head};

use super::super::copy::Counts;
use body::Chunks;

/// How an HTTP/2 connection begins.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How much is read at once.
const READ: usize = 16 * 1024;

/// What stands for a head that was refused: the service answers it.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";

/// A connection that ends with a reset unless it ended well.
pub(super) trait Resets {
    /// Lets it end with a reset, or again as usual.
    fn reset_on_close(&self, reset: bool);
}

/// What a connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaks {
    Http1,
    Http2,
}

/// The limits of a head.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadLimits {
    /// Bytes, the request line included.
    pub(super) bytes: usize,
    /// Headers.
    pub(super) headers: usize,
    /// How long it may take from its first byte to its last.
    pub(super) time: Duration,
}

/// A head that passed, or why it did not.
#[derive(Debug)]
pub(super) struct Passed {
    /// The request target as it arrived, or why the head is refused.
    pub(super) target: Result<Box<[u8]>, Bad>,
    /// Whether what follows is held until it is answered.
    pub(super) holds: bool,
}

/// What follows a head that was held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// More requests.
    Http,
    /// Bytes of another protocol.
    Raw,
}

/// What the gate tells the service, and the service the gate. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Heads(Arc<Mutex<Between>>);

#[derive(Debug, Default)]
struct Between {
    passed: VecDeque<Passed>,
    next: Option<Next>,
    waiting: Option<Waker>,
}

impl Heads {
    /// These, where heads are checked at all.
    pub(super) fn of(self, speaks: Speaks) -> Option<Self> {
        (speaks == Speaks::Http1).then_some(self)
    }

    /// The head that belongs to the next request.
    pub(super) fn take(&self) -> Option<Passed> {
        self.between().passed.pop_front()
    }

    /// Says what follows the head that is held.
    pub(super) fn release(&self, next: Next) {
        let mut between = self.between();
        between.next = Some(next);
        if let Some(waker) = between.waiting.take() {
            waker.wake();
        }
    }

    fn push(&self, passed: Passed) {
        self.between().passed.push_back(passed);
    }

    fn poll_next(&self, cx: &Context<'_>) -> Option<Next> {
        let mut between = self.between();
        let next = between.next.take();
        if next.is_none() {
            between.waiting = Some(cx.waker().clone());
        }
        next
    }

    fn between(&self) -> MutexGuard<'_, Between> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the gate what follows, when the answer is known or given up.
pub(super) struct Release {
    pub(super) heads: Option<Heads>,
    pub(super) next: Next,
}

impl Drop for Release {
    fn drop(&mut self) {
        if let Some(heads) = &self.heads {
            heads.release(self.next);
        }
    }
}

/// Where the reader is.
#[derive(Debug)]
enum State {
    /// Before the first bytes.
    Start,
    /// In a head, of which so many bytes were looked at.
    Head(usize),
    /// In a body with so many bytes left, and then perhaps held.
    Length(u64, bool),
    /// In a body in chunks, and then perhaps held.
    Chunks(Chunks, bool),
    /// After a request to upgrade.
    Held,
    /// After a head that was refused: nothing more is read.
    Refused,
    /// Everything passes.
    Open,
}

/// A stream whose HTTP/1.1 heads are checked.
pub(super) struct Gate<S> {
    inner: S,
    heads: Heads,
    counts: Arc<Counts>,
    limits: HeadLimits,
    state: State,
    /// What was read.
    buffer: BytesMut,
    /// How much of it may pass.
    free: usize,
    /// When the head under way is too late.
    late: Option<Pin<Box<Sleep>>>,
    ended: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Gate<S> {
    /// Bytes are counted in `counts`: those that are read as `a_to_b`.
    pub(super) fn new(inner: S, limits: HeadLimits, counts: Arc<Counts>) -> Self {
        Self {
            inner,
            heads: Heads::default(),
            counts,
            limits,
            state: State::Start,
            buffer: BytesMut::new(),
            free: 0,
            late: None,
            ended: false,
        }
    }

    /// What it tells of heads.
    pub(super) fn heads(&self) -> Heads {
        self.heads.clone()
    }

    /// The stream behind.
    pub(super) fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Waits for the first bytes: whichever ALPN was agreed on, they count. Nothing if the
    /// connection ends before.
    pub(super) async fn speaks(&mut self) -> io::Result<Option<Speaks>> {
        std::future::poll_fn(|cx| self.poll_speaks(cx)).await
    }

    fn poll_speaks(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Speaks>>> {
        loop {
            let seen = self.buffer.len().min(PREFACE.len());
            let differs = self.buffer.get(..seen) != PREFACE.get(..seen);
            if differs && seen > 0 {
                self.state = State::Head(0);
                return Poll::Ready(Ok(Some(Speaks::Http1)));
            }
            if seen == PREFACE.len() {
                (self.state, self.late) = (State::Open, None);
                self.free = self.buffer.len();
                return Poll::Ready(Ok(Some(Speaks::Http2)));
            }
            if self.ended {
                return Poll::Ready(Ok(None));
            }
            if seen > 0 && self.poll_late(cx) {
                self.ended = true;
                continue;
            }
            ready!(self.poll_fill(cx))?;
        }
    }

    /// Reads more into the buffer.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let before = self.buffer.len();
        self.buffer.resize(before + READ, 0);
        let mut space = ReadBuf::new(self.buffer.get_mut(before..).unwrap_or_default());
        let read = Pin::new(&mut self.inner).poll_read(cx, &mut space);
        let count = space.filled().len();
        self.buffer.truncate(before + count);
        ready!(read)?;
        self.count(count);
        self.ended |= count == 0;
        Poll::Ready(Ok(()))
    }

    fn count(&self, count: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.counts.a_to_b.fetch_add(count, Ordering::Relaxed);
    }

    /// Whether the head under way takes too long.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> bool {
        let time = self.limits.time;
        let late = self.late.get_or_insert_with(|| Box::pin(sleep(time)));
        late.as_mut().poll(cx).is_ready()
    }

    /// Lets as much of the buffer pass as can. False if more must be read first.
    fn advance(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            let rest = self.buffer.get(self.free..).unwrap_or_default();
            match &mut self.state {
                State::Start | State::Open => {
                    self.free = self.buffer.len();
                    return self.free > 0;
                }
                State::Refused => return self.free > 0,
                State::Length(left, holds) => {
                    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    self.free += here;
                    *left -= u64::try_from(here).unwrap_or(*left);
                    if *left > 0 {
                        return self.free > 0;
                    }
                    self.state = if *holds { State::Held } else { State::Head(0) };
                }
                State::Chunks(chunks, holds) => match chunks.advance(rest) {
                    Ok((used, done)) => {
                        self.free += used;
                        if !done {
                            return self.free > 0;
                        }
                        self.state = if *holds { State::Held } else { State::Head(0) };
                    }
                    Err(_) => {
                        // The parser behind sees the body break off.
                        self.buffer.truncate(self.free);
                        (self.state, self.ended) = (State::Refused, true);
                        return true;
                    }
                },
                State::Held => match self.heads.poll_next(cx) {
                    None => return self.free > 0,
                    Some(Next::Raw) => self.state = State::Open,
                    Some(Next::Http) => self.state = State::Head(0),
                },
                State::Head(looked) => {
                    if *looked == 0 && rest.starts_with(b"\r\n") {
                        // RFC 9112: an empty line before a request is ignored.
                        let rest = rest.get(2..).unwrap_or_default().to_vec();
                        self.buffer.truncate(self.free);
                        self.buffer.extend_from_slice(&rest);
                        *looked = usize::MAX;
                        continue;
                    }
                    if rest.is_empty() || *looked == 0 && rest == b"\r" {
                        self.late = None;
                        return self.free > 0;
                    }
                    let from = if *looked == usize::MAX { 0 } else { *looked };
                    let end = head::end(rest, from);
                    let longest = end.unwrap_or(rest.len());
                    let outcome = if longest > self.limits.bytes {
                        Err(Bad::TooLarge)
                    } else if let Some(end) = end {
                        let head = rest.get(..end).unwrap_or_default();
                        Head::read(head, self.limits.headers).map(|head| (end, head))
                    } else {
                        *looked = rest.len().max(1);
                        if !self.poll_late(cx) {
                            return self.free > 0;
                        }
                        Err(Bad::TooSlow)
                    };
                    self.late = None;
                    match outcome {
                        Ok((end, head)) => {
                            self.free += end;
                            self.state = match head.framing {
                                Framing::Nothing if head.holds => State::Held,
                                Framing::Nothing => State::Head(0),
                                Framing::Length(length) => State::Length(length, head.holds),
                                Framing::Chunks => State::Chunks(
                                    Chunks::new(self.limits.bytes, self.limits.headers),
                                    head.holds,
                                ),
                            };
                            self.heads.push(Passed {
                                target: Ok(head.target),
                                holds: head.holds,
                            });
                        }
                        Err(bad) => self.refuse(bad),
                    }
                }
            }
        }
    }

    fn refuse(&mut self, bad: Bad) {
        self.heads.push(Passed {
            target: Err(bad),
            holds: false,
        });
        self.buffer.truncate(self.free);
        self.buffer.extend_from_slice(STAND_IN);
        self.free = self.buffer.len();
        self.state = State::Refused;
    }

    fn pass(&mut self, buf: &mut ReadBuf<'_>) {
        let count = self.free.min(buf.remaining());
        buf.put_slice(self.buffer.get(..count).unwrap_or_default());
        self.buffer.advance(count);
        self.free -= count;
        if self.buffer.is_empty() && self.buffer.capacity() > 2 * READ {
            self.buffer = BytesMut::new();
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gate<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let gate = self.get_mut();
        loop {
            if gate.free > 0 || gate.advance(cx) {
                gate.pass(buf);
                return Poll::Ready(Ok(()));
            }
            if gate.ended {
                return Poll::Ready(Ok(()));
            }
            match &mut gate.state {
                // Nothing to look at: straight into the reader's own buffer.
                State::Open if gate.buffer.is_empty() => {
                    let before = buf.filled().len();
                    ready!(Pin::new(&mut gate.inner).poll_read(cx, buf))?;
                    gate.count(buf.filled().len() - before);
                    return Poll::Ready(Ok(()));
                }
                State::Length(left, _) if gate.buffer.is_empty() => {
                    let most = usize::try_from(*left).unwrap_or(usize::MAX);
                    let most = most.min(buf.remaining());
                    let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
                    let read = Pin::new(&mut gate.inner).poll_read(cx, &mut part);
                    let count = part.filled().len();
                    ready!(read)?;
                    buf.advance(count);
                    gate.count(count);
                    let State::Length(left, holds) = &mut gate.state else {
                        continue;
                    };
                    *left -= u64::try_from(count).unwrap_or(*left);
                    if *left == 0 {
                        gate.state = if *holds { State::Held } else { State::Head(0) };
                    }
                    return Poll::Ready(Ok(()));
                }
                State::Refused => return Poll::Pending,
                // Enough to see that the client has gone, no more.
                State::Held if gate.buffer.len() >= READ => return Poll::Pending,
                _ => ready!(gate.poll_fill(cx))?,
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Resets + Unpin> AsyncWrite for Gate<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, bytes))?;
        let count = u64::try_from(written).unwrap_or(u64::MAX);
        self.counts.b_to_a.fetch_add(count, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, bytes))?;
        let count = u64::try_from(written).unwrap_or(u64::MAX);
        self.counts.b_to_a.fetch_add(count, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.inner).poll_shutdown(cx))?;
        // It ends as it should.
        self.inner.reset_on_close(false);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::*;

    impl Resets for DuplexStream {
        fn reset_on_close(&self, _: bool) {}
    }

    const LIMITS: HeadLimits = HeadLimits {
        bytes: 1_000,
        headers: 10,
        time: Duration::from_secs(3600),
    };

    fn gate() -> (DuplexStream, Gate<DuplexStream>) {
        let (far, near) = tokio::io::duplex(1 << 16);
        (far, Gate::new(near, LIMITS, Arc::default()))
    }

    /// What passes of `bytes`, cut into pieces of `size`, and what is told of heads.
    async fn through(bytes: &[u8], size: usize) -> (Vec<u8>, Vec<Result<Vec<u8>, Bad>>) {
        let (mut far, mut gate) = gate();
        let heads = gate.heads();
        let mut passed = Vec::new();
        let mut told = Vec::new();
        let sent = bytes.to_vec();
        let send = tokio::spawn(async move {
            for piece in sent.chunks(size) {
                let _ = far.write_all(piece).await;
                tokio::task::yield_now().await;
            }
        });
        let _ = gate.speaks().await.unwrap();
        let mut part = [0; 700];
        loop {
            // After a refusal nothing is to come; everything else does, however slow we are.
            let refused = told.iter().any(Result::is_err);
            let patience = Duration::from_millis(if refused { 200 } else { 60_000 });
            let read = tokio::time::timeout(patience, gate.read(&mut part)).await;
            match read {
                Ok(Ok(0)) | Err(_) => break,
                Ok(read) => passed.extend_from_slice(&part[..read.unwrap()]),
            }
            while let Some(head) = heads.take() {
                told.push(head.target.map(Vec::from));
            }
        }
        send.await.unwrap();
        (passed, told)
    }

    #[tokio::test]
    async fn what_is_well_formed_passes_as_it_is_however_it_is_cut() {
        let mut bytes = b"GET //a%2f?x HTTP/1.1\r\nhost: h\r\n\r\n".to_vec();
        bytes.extend_from_slice(
            b"POST /b HTTP/1.1\r\nhost: h\r\ncontent-length: 11\r\n\r\nGET / HTTP/",
        );
        bytes
            .extend_from_slice(b"PUT /c HTTP/1.1\r\nhost: h\r\ntransfer-encoding: Chunked\r\n\r\n");
        bytes.extend_from_slice(b"5;x=\"y\"\r\nhello\r\n0\r\ntrailer: 1\r\n\r\n");
        bytes.extend_from_slice(b"DELETE /d HTTP/1.1\r\nhost: h\r\n\r\n");
        for size in [1, 2, 3, 7, 64, 1_000] {
            let (passed, told) = through(&bytes, size).await;
            assert_eq!(
                String::from_utf8(passed).unwrap(),
                String::from_utf8(bytes.clone()).unwrap(),
                "in pieces of {size}"
            );
            let targets: Vec<Vec<u8>> = told.into_iter().map(Result::unwrap).collect();
            assert_eq!(targets, [&b"//a%2f?x"[..], b"/b", b"/c", b"/d"]);
        }
    }

    #[tokio::test]
    async fn after_a_head_that_is_refused_nothing_passes() {
        let bytes = b"GET /a HTTP/1.1\r\nhost: h\r\n\r\nGET /b HTTP/1.1\nhost: h\n\nGET /c HTTP/1.1\r\nhost: h\r\n\r\n";
        let (passed, told) = through(bytes, 1_000).await;
        assert_eq!(told, [Ok(b"/a".to_vec()), Err(Bad::BareLineFeed)]);
        let passed = String::from_utf8(passed).unwrap();
        assert!(passed.ends_with(std::str::from_utf8(STAND_IN).unwrap()));
        assert!(!passed.contains("/b") && !passed.contains("/c"), "{passed}");
    }

    #[tokio::test]
    async fn what_follows_an_upgrade_is_held_until_it_is_answered() {
        let head =
            b"GET /ws HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        for (next, passes) in [(Next::Raw, true), (Next::Http, false)] {
            let (mut far, mut gate) = gate();
            let heads = gate.heads();
            far.write_all(head).await.unwrap();
            far.write_all(b"\x00raw\n\n").await.unwrap();
            gate.speaks().await.unwrap();
            let mut part = [0; 1_000];
            let count = gate.read(&mut part).await.unwrap();
            assert_eq!(part.get(..count).unwrap(), head);
            assert!(heads.take().unwrap().holds);
            let held = tokio::time::timeout(Duration::from_millis(50), gate.read(&mut part)).await;
            assert!(held.is_err(), "held");
            heads.release(next);
            let count = gate.read(&mut part).await.unwrap();
            let after = part.get(..count).unwrap();
            assert_eq!(after == b"\x00raw\n\n", passes);
            assert_eq!(after == STAND_IN, !passes);
        }
    }

    #[tokio::test]
    async fn the_first_bytes_say_what_is_spoken() {
        let (mut far, mut gate) = gate();
        let mut all = PREFACE.to_vec();
        all.extend_from_slice(b"frames");
        far.write_all(&all).await.unwrap();
        drop(far);
        assert_eq!(gate.speaks().await.unwrap(), Some(Speaks::Http2));
        let mut read = Vec::new();
        gate.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, all);

        let (far, mut gate) = self::gate();
        drop(far);
        assert_eq!(gate.speaks().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_head_may_not_take_for_ever() {
        let (mut far, near) = tokio::io::duplex(1 << 16);
        let limits = HeadLimits {
            time: Duration::from_millis(1),
            ..LIMITS
        };
        let mut gate = Gate::new(near, limits, Arc::default());
        let heads = gate.heads();
        far.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        gate.speaks().await.unwrap();
        let mut part = [0; 1_000];
        let count = gate.read(&mut part).await.unwrap();
        assert_eq!(part.get(..count).unwrap(), STAND_IN);
        assert_eq!(heads.take().unwrap().target.unwrap_err(), Bad::TooSlow);
    }
}
