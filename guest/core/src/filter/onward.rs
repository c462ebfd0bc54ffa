//! What changes in a request that was let through, where the proxy has normalised it already.

use super::EnvoyRequest;
use crate::intention::HeaderChange;
use crate::jwt::TokenEnds;

/// Changes of a request's header map, in this order: what is removed, what is then set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Onward {
    /// Headers of which all are removed; there are some.
    pub removed: Vec<String>,
    /// Headers that are set, of which there are none by then; `:path` among them.
    pub set: Vec<(String, Vec<u8>)>,
}

impl Onward {
    /// What a decision asks for; `path` is the target that it names. `None` if that is not the
    /// request's own without some parameters of its query: nothing else is rewritten.
    #[must_use]
    pub fn of(
        request: &EnvoyRequest,
        path: Option<Vec<u8>>,
        changes: Vec<HeaderChange>,
    ) -> Option<Self> {
        let mut onward = Self::default();
        if let Some(path) = path {
            if !is_without_parameters(&path, request.path()) {
                return None;
            }
            onward.set.push((":path".to_owned(), path));
        }
        for HeaderChange { name, value } in changes {
            // What is no name is not there; who is called nobody changes.
            if !is_name(&name) || name == "host" {
                continue;
            }
            if request
                .all_headers()
                .any(|(other, _)| other.eq_ignore_ascii_case(name.as_bytes()))
            {
                onward.removed.push(name.clone());
            }
            onward.set.extend(value.map(|value| (name, value)));
        }
        Some(onward)
    }

    /// Whether nothing changes.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.removed.is_empty() && self.set.is_empty()
    }
}

/// When the tokens of a request end.
#[must_use]
pub fn token_ends(request: &EnvoyRequest) -> TokenEnds {
    TokenEnds::of(
        request.path(),
        request.all_headers().map(|(_, value)| value),
    )
}

/// Whether `after` is `before` without some parameters.
fn is_without_parameters(after: &[u8], before: &[u8]) -> bool {
    let (path, query) = split(before);
    let (rest, left) = split(after);
    let mut parts = query.unwrap_or_default().split(|byte| *byte == b'&');
    // In their order: each is looked for behind the one before.
    let is_there = |left: &[u8]| {
        left.split(|byte| *byte == b'&')
            .all(|one| parts.any(|other| other == one))
    };
    path == rest && left.is_none_or(is_there)
}

/// A target's path, and its query.
fn split(target: &[u8]) -> (&[u8], Option<&[u8]>) {
    let place = target.iter().position(|byte| *byte == b'?');
    match place.and_then(|place| target.split_at_checked(place)) {
        Some((path, query)) => (path, query.get(1..)),
        None => (target, None),
    }
}

/// A token of RFC 9110.
fn is_name(name: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(is_token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::HttpVersion;

    fn request(path: &str) -> EnvoyRequest {
        let headers = [
            (":path", path),
            (":authority", "db"),
            ("Authorization", "Bearer x"),
            ("authorization", "y"),
        ];
        EnvoyRequest::of(HttpVersion::Http1, &headers)
    }

    fn change(name: &str, value: Option<&str>) -> HeaderChange {
        HeaderChange {
            name: name.to_owned(),
            value: value.map(|value| value.as_bytes().to_vec()),
        }
    }

    #[test]
    fn only_parameters_are_taken_out_of_a_target() {
        let becomes = |from: &str, to: &str| {
            Onward::of(&request(from), Some(to.as_bytes().to_vec()), Vec::new()).is_some()
        };
        assert!(becomes("/a?t=1", "/a"));
        assert!(becomes("/a?t=1&b=2&c", "/a?b=2&c"));
        assert!(becomes("/a?b=2&t=1", "/a?b=2"));
        assert!(becomes("/a?x&&t=1", "/a?x&"));
        for (from, to) in [
            ("/a?t=1", "/b"),
            ("/a//b", "/a/b"),
            ("/a//b?t=1", "/a/b"),
            ("/a?t=1&b=2", "/a?b=3"),
            ("/a?b=1&c=2", "/a?c=2&b=1"),
            ("/a?b", "/a?b&b"),
            ("/a", "/a?b"),
            ("/a#x", "/a"),
        ] {
            assert!(!becomes(from, to), "{from} {to}");
        }
    }

    #[test]
    fn headers_are_changed_where_there_is_something_to_change() {
        let changes = vec![
            change("authorization", None),
            change("x-claims", None),
            change("x-payload", Some("p")),
            change("host", None),
            change(":path", Some("/b")),
            change("a b", Some("c")),
            change("", Some("c")),
        ];
        let onward = Onward::of(&request("/"), None, changes).unwrap();
        assert_eq!(onward.removed, ["authorization"]);
        assert_eq!(onward.set, [("x-payload".to_owned(), b"p".to_vec())]);
        assert!(!onward.is_nothing());
        let nothing = vec![change("x-claims", None)];
        assert!(
            Onward::of(&request("/"), None, nothing)
                .unwrap()
                .is_nothing()
        );
        let replaced = vec![change("authorization", Some("p"))];
        let onward = Onward::of(&request("/"), None, replaced).unwrap();
        assert_eq!((onward.removed.len(), onward.set.len()), (1, 1));
    }
}
