//! Who asks, as handlers see it.

use axum::extract::FromRequestParts;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use portcullis_core::identity::SpiffeId;
use portcullis_core::intention::Decision;

use super::connection::MeshConnection;

/// Who asks, and why it may: in the extensions of every request that the layer lets
/// through, and an argument of axum handlers.
#[derive(Clone, Debug)]
pub struct Caller {
    pub(super) connection: MeshConnection,
    pub(super) decision: Decision,
}

impl Caller {
    /// Its identity, as its certificate proves it.
    #[must_use]
    pub fn identity(&self) -> &SpiffeId {
        self.connection.identity()
    }

    /// Its service, for example `web`; nothing for what is no service, as a mesh gateway.
    #[must_use]
    pub fn service(&self) -> Option<&str> {
        let path = self.identity().service()?;
        Some(path.service.as_str())
    }

    /// The decision that let the request through.
    #[must_use]
    pub fn decision(&self) -> &Decision {
        &self.decision
    }

    /// The connection that it came by.
    #[must_use]
    pub fn connection(&self) -> &MeshConnection {
        &self.connection
    }
}

/// A handler wants the [`Caller`], and no layer has judged the request: a mistake of the
/// application, answered with 500.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("no intentions were enforced for this request: put `Intentions::layer` around the router")]
pub struct NoCaller;

impl IntoResponse for NoCaller {
    fn into_response(self) -> Response {
        tracing::error!("{self}");
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = NoCaller;

    async fn from_request_parts(
        parts: &mut http::request::Parts,
        _: &S,
    ) -> Result<Self, Self::Rejection> {
        parts.extensions.get::<Self>().cloned().ok_or(NoCaller)
    }
}
