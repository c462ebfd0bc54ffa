//! How a request is read: its target as the client wrote it, and who is called.

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{Request, Uri};

/// The target of an HTTP/2 request.
pub(super) fn target_of<B>(request: &Request<B>) -> Box<[u8]> {
    let path = request.uri().path_and_query();
    path.map_or_else(Box::default, |path| path.as_str().as_bytes().into())
}

/// Whether the parser behind the gate read the target that the gate saw.
pub(super) fn agrees<B>(request: &Request<B>, target: &[u8]) -> bool {
    let Some(path) = request.uri().path_and_query() else {
        // CONNECT, and what has no path at all.
        return true;
    };
    let whole = target
        .split(|byte| *byte == b'#')
        .next()
        .unwrap_or_default();
    match target.first() {
        Some(b'/' | b'*') => path.as_str().as_bytes() == whole,
        _ => true,
    }
}

/// Who is called, where the target says so. Who the user is, is nobody's business.
pub(super) fn authority(uri: &Uri) -> Option<Box<[u8]>> {
    uri.authority().map(|own| {
        let own = own.as_str();
        own.rsplit_once('@')
            .map_or(own, |(_, host)| host)
            .as_bytes()
            .into()
    })
}

/// A path that is written as it is, byte by byte; nothing if that cannot be.
pub(super) fn written(path: &[u8]) -> Option<PathAndQuery> {
    let written = PathAndQuery::from_maybe_shared(Bytes::copy_from_slice(path)).ok()?;
    // What is matched is what is forwarded.
    (written.as_str().as_bytes() == path).then_some(written)
}
