//! Trailers on their way: what comes behind a body was judged by nobody.
//!
//! RFC 9110, 6.5.1: fields for framing, routing, authentication and the like are no trailers.
//! An application that merges trailers into headers all the same must not read there what
//! the policy looked for in the headers, or what we say about the client.

use std::sync::Arc;

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, HOST, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use portcullis_core::intention::HeaderChange;
use portcullis_core::policy::HeaderNeeds;

use super::hop;
use super::judge::Judge;

/// About the connection or the length of a message, whoever sends it.
const NEVER: [HeaderName; 6] = [
    CONNECTION,
    CONTENT_LENGTH,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Of a gRPC call: they have no names but these that a client would have to know.
const GRPC: HeaderValue =
    HeaderValue::from_static("grpc-status, grpc-message, grpc-status-details-bin");

/// What may not follow a body.
pub(super) enum Trailers {
    /// A request, judged by this one, with these changes to its headers.
    Judged(Arc<Judge>, Box<[HeaderName]>),
    /// Anything else.
    Passed,
}

impl Trailers {
    /// Those of a request that was judged.
    pub(super) fn judged(judge: &Arc<Judge>, changes: &[HeaderChange]) -> Self {
        let names = changes
            .iter()
            .filter_map(|change| HeaderName::try_from(change.name.as_str()).ok());
        Self::Judged(Arc::clone(judge), names.collect())
    }

    /// Takes out what is none.
    pub(super) fn clean(&self, fields: &mut HeaderMap) {
        hop::remove_named(fields);
        for name in NEVER {
            fields.remove(name);
        }
        let Self::Judged(judge, changed) = self else {
            return;
        };
        let needs = judge.needs();
        let names: Vec<HeaderName> = fields
            .keys()
            .filter(|name| is_refused(name, &needs.1) || changed.contains(name))
            .cloned()
            .collect();
        for name in names {
            fields.remove(name);
        }
    }
}

/// Whether a field of this name is none for the end of a request.
fn is_refused(name: &HeaderName, needs: &HeaderNeeds) -> bool {
    let about_the_client =
        [AUTHORIZATION, COOKIE, HOST].contains(name) || name.as_str().starts_with("x-forwarded-");
    about_the_client
        || match needs {
            HeaderNeeds::None => false,
            HeaderNeeds::Named(names) => names.iter().any(|needed| needed == name.as_str()),
            HeaderNeeds::All => true,
        }
}

/// HTTP/1.1 has only the trailers that the head announces. gRPC's are known by their names.
pub(super) fn announce_grpc(headers: &mut HeaderMap) {
    if !headers.contains_key(TRAILER) {
        headers.insert(TRAILER, GRPC);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_judged_in_the_headers_is_no_trailer() {
        let refused = |name: &'static str, needs: &HeaderNeeds| {
            is_refused(&HeaderName::from_static(name), needs)
        };
        let named = HeaderNeeds::Named(vec!["x-tenant".to_owned()]);
        for name in [
            "x-tenant",
            "x-forwarded-client-cert",
            "authorization",
            "host",
        ] {
            assert!(refused(name, &named), "{name}");
        }
        assert!(!refused("x-checksum", &named) && !refused("x-checksum", &HeaderNeeds::None));
        assert!(refused("x-checksum", &HeaderNeeds::All));
    }

    #[test]
    fn a_trailer_says_nothing_about_the_connection() {
        let mut fields = HeaderMap::new();
        for (name, value) in [
            ("connection", "x-mine"),
            ("x-mine", "1"),
            ("content-length", "3"),
            ("transfer-encoding", "chunked"),
            ("grpc-status", "0"),
        ] {
            fields.append(name, HeaderValue::from_static(value));
        }
        Trailers::Passed.clean(&mut fields);
        assert_eq!(fields.len(), 1);
        assert_eq!(fields["grpc-status"], "0");
    }
}
