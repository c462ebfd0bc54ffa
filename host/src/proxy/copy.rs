//! Copies bytes both ways, each direction until its end.
//!
//! When one side ends its direction the other side is told so and its own
//! direction goes on: half-close. A buffer is held only while bytes move, so that
//! an idle connection costs none.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Size of a buffer: two TLS records.
const BUFFER: usize = 32 * 1024;

/// How many buffers a thread keeps for the next connection.
const SPARE: usize = 64;

thread_local! {
    static POOL: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

fn take() -> Box<[u8]> {
    POOL.with_borrow_mut(Vec::pop)
        .unwrap_or_else(|| vec![0; BUFFER].into_boxed_slice())
}

fn give_back(buffer: Box<[u8]>) {
    POOL.with_borrow_mut(|pool| {
        if pool.len() < SPARE {
            pool.push(buffer);
        }
    });
}

/// Which of the two streams failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The first one.
    A,
    /// The second one.
    B,
}

/// Why copying ended before both directions did.
#[derive(Debug)]
pub(crate) struct CopyError {
    /// The stream that failed.
    pub(crate) side: Side,
    /// How.
    pub(crate) error: io::Error,
}

/// How many bytes have passed so far; readable while copying.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) a_to_b: AtomicU64,
    pub(crate) b_to_a: AtomicU64,
}

/// Copies until both directions have ended.
pub(crate) async fn copy_both<A, B>(a: &mut A, b: &mut B, counts: &Counts) -> Result<(), CopyError>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let mut there = Direction::new();
    let mut back = Direction::new();
    let mut turn = false;
    poll_fn(|cx| {
        let mut there = |cx: &mut Context<'_>, a: &mut A, b: &mut B| {
            there
                .poll(cx, a, b, &counts.a_to_b)
                .map_err(|failed| failed.at(Side::A, Side::B))
        };
        let mut back = |cx: &mut Context<'_>, a: &mut A, b: &mut B| {
            back.poll(cx, b, a, &counts.b_to_a)
                .map_err(|failed| failed.at(Side::B, Side::A))
        };
        // In turns, so that a busy direction cannot use up the task's time for both.
        turn = !turn;
        let (first, second) = if turn {
            (there(cx, a, b)?, back(cx, a, b)?)
        } else {
            (back(cx, a, b)?, there(cx, a, b)?)
        };
        if first.is_ready() && second.is_ready() {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    })
    .await
}

enum Failed {
    Reading(io::Error),
    Writing(io::Error),
}

impl Failed {
    fn at(self, reader: Side, writer: Side) -> CopyError {
        match self {
            Self::Reading(error) => CopyError {
                side: reader,
                error,
            },
            Self::Writing(error) => CopyError {
                side: writer,
                error,
            },
        }
    }
}

/// One direction.
struct Direction {
    buffer: Option<Box<[u8]>>,
    start: usize,
    end: usize,
    unflushed: bool,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Moving,
    Ending,
    Ended,
}

impl Direction {
    const fn new() -> Self {
        Self {
            buffer: None,
            start: 0,
            end: 0,
            unflushed: false,
            state: State::Moving,
        }
    }

    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        count: &AtomicU64,
    ) -> Poll<Result<(), Failed>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            match self.state {
                State::Ended => return Poll::Ready(Ok(())),
                State::Ending => {
                    ready!(Pin::new(&mut *writer).poll_shutdown(cx)).map_err(Failed::Writing)?;
                    self.state = State::Ended;
                }
                State::Moving => {
                    ready!(self.poll_drain(cx, writer, count)).map_err(Failed::Writing)?;
                    match self.poll_fill(cx, reader) {
                        Poll::Ready(Ok(0)) => self.state = State::Ending,
                        Poll::Ready(Ok(_)) => {}
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(Failed::Reading(error))),
                        Poll::Pending => {
                            if self.unflushed {
                                ready!(Pin::new(&mut *writer).poll_flush(cx))
                                    .map_err(Failed::Writing)?;
                                self.unflushed = false;
                            }
                            return Poll::Pending;
                        }
                    }
                }
            }
        }
    }

    /// Writes what is there; afterwards no buffer is held.
    fn poll_drain<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
        count: &AtomicU64,
    ) -> Poll<io::Result<()>> {
        if let Some(buffer) = &self.buffer {
            while self.start < self.end {
                let written =
                    ready!(Pin::new(&mut *writer).poll_write(cx, &buffer[self.start..self.end]))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.start += written;
                self.unflushed = true;
                count.fetch_add(written as u64, Ordering::Relaxed);
            }
        }
        if let Some(buffer) = self.buffer.take() {
            give_back(buffer);
        }
        Poll::Ready(Ok(()))
    }

    /// Reads into a buffer that is kept only if something came.
    fn poll_fill<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
    ) -> Poll<io::Result<usize>> {
        let mut buffer = take();
        let mut into = ReadBuf::new(&mut buffer);
        let polled = Pin::new(reader).poll_read(cx, &mut into);
        let filled = into.filled().len();
        match polled {
            Poll::Ready(Ok(())) if filled > 0 => {
                (self.start, self.end) = (0, filled);
                self.buffer = Some(buffer);
                Poll::Ready(Ok(filled))
            }
            other => {
                give_back(buffer);
                other.map_ok(|()| 0)
            }
        }
    }
}

impl Drop for Direction {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            give_back(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    #[tokio::test]
    async fn one_side_may_end_while_the_other_goes_on() {
        let (mut client, mut a) = duplex(1024);
        let (mut b, mut server) = duplex(1024);
        let counts = Counts::default();
        let copying = copy_both(&mut a, &mut b, &counts);
        let client = async {
            client.write_all(b"question").await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            answer
        };
        let server = async {
            let mut question = Vec::new();
            server.read_to_end(&mut question).await.unwrap();
            server.write_all(&question).await.unwrap();
            server.write_all(&vec![7; 100_000]).await.unwrap();
            server.shutdown().await.unwrap();
        };
        let (copied, answer, ()) = tokio::join!(copying, client, server);
        copied.unwrap();
        assert_eq!(answer.len(), 100_008);
        assert_eq!(counts.a_to_b.load(Ordering::Relaxed), 8);
        assert_eq!(counts.b_to_a.load(Ordering::Relaxed), 100_008);
    }

    #[tokio::test]
    async fn an_idle_connection_holds_no_buffer() {
        let mut direction = Direction::new();
        let (mut reader, mut other) = duplex(64);
        let (mut writer, _keep) = duplex(64);
        let count = AtomicU64::new(0);
        poll_fn(|cx| {
            assert!(
                direction
                    .poll(cx, &mut reader, &mut writer, &count)
                    .is_pending()
            );
            assert!(direction.buffer.is_none());
            Poll::Ready(())
        })
        .await;
        other.write_all(&[1; 8]).await.unwrap();
        poll_fn(|cx| {
            assert!(
                direction
                    .poll(cx, &mut reader, &mut writer, &count)
                    .is_pending()
            );
            assert!(direction.buffer.is_none());
            Poll::Ready(())
        })
        .await;
        assert_eq!(count.load(Ordering::Relaxed), 8);
    }

    #[tokio::test]
    async fn a_broken_side_is_named() {
        let mut a = Broken;
        let (mut b, _server) = duplex(64);
        let failed = copy_both(&mut a, &mut b, &Counts::default())
            .await
            .unwrap_err();
        assert_eq!(failed.side, Side::A);
        assert_eq!(failed.error.kind(), io::ErrorKind::ConnectionReset);
    }

    /// A stream whose reads fail.
    struct Broken;

    impl AsyncRead for Broken {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        }
    }

    impl AsyncWrite for Broken {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(buf.len()))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }
}
