//! Answers that are ours: refusals, redirections, and that nobody can be reached.
//!
//! They say nothing about the policy but, where it is asked for, the name of the reason.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use super::flow::Flow;

/// Says why, where that is switched on.
pub(super) const REASON: HeaderName = HeaderName::from_static("x-portcullis-reason");

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Whether a request is gRPC: `application/grpc`, or that with a codec.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes) else {
        return false;
    };
    kind.strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+')))
}

/// An answer with this status: for gRPC in its own form, trailers only.
pub(super) fn status<B>(status: StatusCode, grpc: bool) -> Response<Flow<B>> {
    if grpc {
        let mut response = Response::new(Flow::nothing());
        let headers = response.headers_mut();
        let number = HeaderValue::from(grpc_status(status));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(GRPC_STATUS, number);
        headers.insert(GRPC_MESSAGE, HeaderValue::from_static(phrase(status)));
        return response;
    }
    let text = Bytes::from_static(phrase(status).as_bytes());
    let length = text.len();
    let mut response = Response::new(Flow::text(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    response
}

/// 307 to this path.
pub(super) fn redirect<B>(path: &[u8]) -> Response<Flow<B>> {
    let Ok(location) = HeaderValue::from_bytes(path) else {
        return status(StatusCode::BAD_REQUEST, false);
    };
    let mut response = status(StatusCode::TEMPORARY_REDIRECT, false);
    response.headers_mut().insert(LOCATION, location);
    response
}

/// The numbers that Envoy maps statuses to.
const fn grpc_status(status: StatusCode) -> u16 {
    match status {
        StatusCode::BAD_REQUEST => 13,
        StatusCode::FORBIDDEN => 7,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            14
        }
        _ => 2,
    }
}

fn phrase(status: StatusCode) -> &'static str {
    status.canonical_reason().unwrap_or("refused")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_is_told_in_its_own_way() {
        let grpc = |kind: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            is_grpc(&headers)
        };
        assert!(grpc("application/grpc") && grpc("application/grpc+proto"));
        assert!(
            !grpc("application/grpc-web") && !grpc("text/plain") && !is_grpc(&HeaderMap::new())
        );
        let refused: Response<Flow> = status(StatusCode::FORBIDDEN, true);
        assert_eq!(refused.status(), StatusCode::OK);
        assert_eq!(refused.headers()[GRPC_STATUS], "7");
        assert_eq!(
            status::<()>(StatusCode::FORBIDDEN, false).status(),
            StatusCode::FORBIDDEN
        );
    }
}
