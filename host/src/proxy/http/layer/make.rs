//! What `axum::serve` wants: a service for each connection.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::serve::IncomingStream;
use bytes::Bytes;
use http::{Request, Response};
use tower_service::Service;

use super::super::flow::BoxError;
use super::body::Body;
use super::enforced::Enforced;
use super::listener::MeshListener;

/// Makes the service for each connection of a [`MeshListener`], for `axum::serve`.
#[derive(Clone, Debug)]
pub struct MakeEnforced<S>(pub(super) Enforced<S>);

/// [`Enforced`] with the body that axum wants.
#[derive(Clone, Debug)]
pub struct OnAxum<S>(Enforced<S>);

impl<S: Clone> Service<IncomingStream<'_, MeshListener>> for MakeEnforced<S> {
    type Response = OnAxum<S>;
    type Error = Infallible;
    type Future = Ready<Result<OnAxum<S>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, stream: IncomingStream<'_, MeshListener>) -> Self::Future {
        ready(Ok(OnAxum(self.0.on(stream.io().connection()))))
    }
}

impl<S, R> Service<Request<axum::body::Body>> for OnAxum<S>
where
    S: Service<Request<Body<axum::body::Body>>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    R: http_body::Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<axum::body::Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<axum::body::Body>) -> Self::Future {
        let answered = self.0.call(request);
        Box::pin(async move { Ok(answered.await?.map(axum::body::Body::new)) })
    }
}
