//! Requests that say in other words what a denied one says: other servers may take them
//! for the same.

use portcullis_core::intention::{HttpMatch, PathMatch, ValueMatch};
use portcullis_core::policy::HttpVersion;

use super::finding::Code;
use super::sample::{holds, same_field};
use crate::entries::Asked;

/// A request in other words, and which code its success has.
pub(crate) struct Variant {
    pub(crate) code: Code,
    pub(crate) asked: Asked,
    pub(crate) version: HttpVersion,
    /// What was done, for people.
    pub(crate) how: &'static str,
}

/// The request in other words.
pub(crate) fn variants(asked: &Asked, http: &HttpMatch) -> Vec<Variant> {
    let mut all = Vec::new();
    if http.path.is_some() {
        paths(asked, http, &mut all);
    }
    headers(asked, http, &mut all);
    if asked.method == "GET" && http.methods.iter().any(|method| method == "GET") {
        all.push(Variant {
            code: Code::DenyEscapableHead,
            asked: Asked {
                method: "HEAD".to_owned(),
                ..asked.clone()
            },
            version: HttpVersion::Http1,
            how: "HEAD in place of GET",
        });
    }
    all
}

fn paths(asked: &Asked, http: &HttpMatch, all: &mut Vec<Variant>) {
    let (path, query) = match asked.path.split_once('?') {
        Some((path, query)) => (path, format!("?{query}")),
        None => (asked.path.as_str(), String::new()),
    };
    let mut push = |code, how, path: String| {
        all.push(Variant {
            code,
            asked: Asked {
                path: format!("{path}{query}"),
                ..asked.clone()
            },
            version: HttpVersion::Http1,
            how,
        });
    };
    let inner: Vec<usize> = path
        .match_indices('/')
        .map(|(at, _)| at)
        .filter(|at| *at > 0)
        .collect();
    let put = |at: usize, text: &str| {
        let (before, after) = path.split_at(at);
        format!("{before}{text}{}", after.get(1..).unwrap_or_default())
    };
    push(
        Code::DenyEscapableSlashes,
        "a second slash",
        format!("/{path}"),
    );
    push(
        Code::DenyEscapableSlashes,
        "dot segments behind a second slash, which are removed before slashes are merged",
        format!("/x//..{path}"),
    );
    for at in &inner {
        push(Code::DenyEscapableSlashes, "a second slash", put(*at, "//"));
    }
    for at in &inner {
        for encoded in ["%2F", "%2f", "%5C"] {
            push(
                Code::DenyEscapableEncoding,
                "an encoded slash",
                put(*at, encoded),
            );
        }
    }
    push(
        Code::DenyEscapableEncoding,
        "dot segments behind an encoded slash",
        format!("/x%2F..{path}"),
    );
    push(
        Code::DenyEscapableParameters,
        "dot segments with a path parameter",
        format!("/x/..;a{path}"),
    );
    for at in inner.iter().copied().chain([path.len()]) {
        let (before, after) = path.split_at(at);
        if before.len() > 1 && !before.ends_with('/') {
            let how = "a path parameter";
            push(
                Code::DenyEscapableParameters,
                how,
                format!("{before};a{after}"),
            );
        }
    }
    let other_case: String = path
        .chars()
        .map(|c| match c.is_ascii_lowercase() {
            true => c.to_ascii_uppercase(),
            false => c.to_ascii_lowercase(),
        })
        .collect();
    if other_case != path {
        push(
            Code::DenyEscapableCase,
            "letters in the other case",
            other_case,
        );
    }
    let is_exact_or_slash = match &http.path {
        Some(PathMatch::Prefix(prefix)) => prefix.ends_with('/') && *prefix == path,
        _ => true,
    };
    if is_exact_or_slash && path.len() > 1 {
        let other = match path.strip_suffix('/') {
            Some(without) => without.to_owned(),
            None => format!("{path}/"),
        };
        let how = "a slash at the end more or less";
        push(Code::DenyEscapableTrailingSlash, how, other);
    }
}

fn headers(asked: &Asked, http: &HttpMatch, all: &mut Vec<Variant>) {
    for matcher in &http.headers {
        if matcher.name.starts_with(':') && !matcher.name.eq_ignore_ascii_case(":authority") {
            continue;
        }
        let ours = |name: &String| same_field(name, &matcher.name);
        let Some((name, value)) = asked.headers.iter().find(|(name, _)| ours(name)) else {
            continue;
        };
        let is_host = name == "host";
        let mut push = |code, version, how, values: &[String]| {
            let mut headers = asked.headers.clone();
            headers.retain(|(name, _)| !ours(name));
            headers.extend(values.iter().map(|value| (name.clone(), value.clone())));
            all.push(Variant {
                code,
                asked: Asked {
                    headers,
                    ..asked.clone()
                },
                version,
                how,
            });
        };
        let http1 = HttpVersion::Http1;
        if is_host {
            let how = "another spelling of the host";
            for other in [
                format!("{value}:443"),
                format!("{value}."),
                value.to_ascii_uppercase(),
            ] {
                push(Code::DenyEscapableHost, http1, how, &[other]);
            }
            continue;
        }
        if matcher.value == ValueMatch::Present {
            continue;
        }
        push(
            Code::DenyEscapableMissingHeader,
            http1,
            "the header left out",
            &[],
        );
        if !matcher.invert && !matcher.ignore_case {
            let other: String = value
                .chars()
                .map(|c| match c.is_ascii_lowercase() {
                    true => c.to_ascii_uppercase(),
                    false => c.to_ascii_lowercase(),
                })
                .collect();
            if other != *value {
                let how = "the value in the other case";
                push(Code::DenyEscapableCase, http1, how, &[other]);
            }
        }
        // A value that the matcher would let pass, beside the one that it does not.
        let passing = ["x", "0", "zz", "-"].map(str::to_owned).into_iter();
        let passing = passing
            .chain(super::sample::values(matcher))
            .find(|other| !holds(matcher, other));
        if let Some(other) = passing {
            let how = "the header twice";
            let code = Code::DenyEscapableRepeatedHeader;
            push(code, http1, how, &[value.clone(), other.clone()]);
            push(code, http1, how, &[other, value.clone()]);
        }
        let how = "white space around the value";
        let spaces = [format!(" {value} ")];
        push(Code::DenyEscapableSpaces, HttpVersion::Http2, how, &spaces);
        let last = all.last_mut().map(|variant| &mut variant.asked);
        if let Some(asked) = last.filter(|asked| !asked.headers.iter().any(|(n, _)| n == "host")) {
            asked.authority = Some("service".to_owned());
        }
    }
}
