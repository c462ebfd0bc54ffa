//! Bodies on their way through: frame by frame, counted, and cut when they must end.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::oneshot;

use super::super::copy::Counts;
use super::cutter::Cutter;
use super::record::Record;
use super::trailers::Trailers;

/// Why a body ends before its end.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body: `B` with what is added here.
pub(super) struct Flow<B = Incoming>(Kind<B>);

enum Kind<B> {
    /// Ours.
    Text(Option<Bytes>),
    /// Passed on.
    Passing(Box<Passing<B>>),
}

struct Passing<B> {
    body: B,
    counts: Arc<Counts>,
    way: Way,
    trailers: Trailers,
    cutter: Cutter,
    /// The body is asked for only once this says so, or is gone.
    hold: Option<oneshot::Receiver<()>>,
    /// Written when the answer has ended.
    record: Option<Box<Record>>,
}

/// What a body gives when it is asked.
type NextFrame = Option<Result<Frame<Bytes>, BoxError>>;

/// Which way a body goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    There,
    Back,
}

impl<B> Flow<B> {
    /// No body.
    pub(super) const fn nothing() -> Self {
        Self(Kind::Text(None))
    }

    /// The same as the answer to HEAD, which has no body. HTTP/1.1's server leaves it out by
    /// itself, HTTP/2's sends what it is given.
    pub(super) fn of_head(self) -> Self {
        match self.0 {
            Kind::Text(_) => Self::nothing(),
            passing @ Kind::Passing(_) => Self(passing),
        }
    }

    /// This text.
    pub(super) const fn text(text: Bytes) -> Self {
        Self(Kind::Text(Some(text)))
    }
}

impl<B: Body> Flow<B> {
    /// A request's body. With `hold` nobody asks the client for it before that says so.
    pub(super) fn there(
        body: B,
        counts: &Arc<Counts>,
        trailers: Trailers,
        cutter: &Cutter,
        hold: Option<oneshot::Receiver<()>>,
    ) -> Self {
        if body.is_end_stream() {
            return Self::nothing();
        }
        Self(Kind::Passing(Box::new(Passing {
            body,
            counts: Arc::clone(counts),
            way: Way::There,
            trailers,
            cutter: cutter.clone(),
            hold,
            record: None,
        })))
    }

    /// An answer's body; with its end the request has ended.
    pub(super) fn back(body: B, cutter: &Cutter, mut record: Box<Record>) -> Self {
        if body.is_end_stream() {
            record.complete();
        }
        Self(Kind::Passing(Box::new(Passing {
            body,
            counts: Arc::clone(record.counts()),
            way: Way::Back,
            trailers: Trailers::Passed,
            cutter: cutter.clone(),
            hold: None,
            record: Some(record),
        })))
    }
}

impl<B> Passing<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(cause) = self.cutter.poll(cx) {
            if let Some(record) = &mut self.record {
                record.cut(cause);
            }
            let reset: BoxError = Box::new(h2::Error::from(h2::Reason::CANCEL));
            return Poll::Ready(Some(Err(reset)));
        }
        if let Some(hold) = &mut self.hold {
            let _ = ready!(Pin::new(hold).poll(cx));
            self.hold = None;
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let frame = frame.map(|frame| frame.map_err(Into::<BoxError>::into));
        let frame = self.clean(frame);
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    let count = u64::try_from(data.len()).unwrap_or(u64::MAX);
                    let counter = match self.way {
                        Way::There => &self.counts.a_to_b,
                        Way::Back => &self.counts.b_to_a,
                    };
                    counter.fetch_add(count, Ordering::Relaxed);
                }
                if self.body.is_end_stream()
                    && let Some(record) = &mut self.record
                {
                    record.complete();
                }
            }
            Some(Err(error)) => {
                if let Some(record) = &mut self.record {
                    record.broke(error);
                }
            }
            None => {
                if let Some(record) = &mut self.record {
                    record.complete();
                }
            }
        }
        Poll::Ready(frame)
    }

    /// The frame without trailers that are none. With the last of them the body has ended.
    fn clean(&self, frame: NextFrame) -> NextFrame {
        let frame = match frame? {
            Ok(frame) => frame,
            Err(error) => return Some(Err(error)),
        };
        match frame.into_trailers() {
            Err(data) => Some(Ok(data)),
            Ok(mut trailers) => {
                self.trailers.clean(&mut trailers);
                (!trailers.is_empty()).then(|| Ok(Frame::trailers(trailers)))
            }
        }
    }
}

impl<B> Body for Flow<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.get_mut().0 {
            Kind::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Kind::Passing(passing) => passing.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Text(text) => text.is_none(),
            Kind::Passing(passing) => passing.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Text(text) => {
                SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64))
            }
            Kind::Passing(passing) => passing.body.size_hint(),
        }
    }
}
