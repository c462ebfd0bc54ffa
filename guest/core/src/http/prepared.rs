//! A request in the form in which it is matched and forwarded.

use std::borrow::Cow;
use std::cell::OnceCell;

use super::bad::BadRequest;
use super::headers::{self, Header, trim};
use super::normalization::{EscapedSlashes, RequestNormalization};
use super::path;
use super::readings;
use super::request::{HttpVersion, RequestRef};
use super::target::{self, Target, check_authority};
use crate::intention::Matching;

/// Headers that Envoy 1.40 keeps in one piece: repeated ones are one value, joined with
/// `,`. Of all others it matches value by value. Observed, header by header.
const JOINED: [&[u8]; 35] = [
    b"accept",
    b"accept-encoding",
    b"access-control-request-headers",
    b"access-control-request-method",
    b"access-control-request-private-network",
    b"authorization",
    b"cache-control",
    b"cdn-loop",
    b"content-encoding",
    b"content-type",
    b"expect",
    b"grpc-accept-encoding",
    b"grpc-timeout",
    b"host",
    b"if-match",
    b"if-modified-since",
    b"if-none-match",
    b"if-range",
    b"if-unmodified-since",
    b"origin",
    b"pragma",
    b"proxy-status",
    b"referer",
    b"te",
    b"user-agent",
    b"via",
    b"x-client-trace-id",
    b"x-envoy-attempt-count",
    b"x-envoy-decorator-operation",
    b"x-forwarded-client-cert",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-port",
    b"x-forwarded-proto",
    b"x-request-id",
];

/// What becomes of a request before any rule is asked.
#[derive(Debug)]
pub enum Preparation<'r> {
    /// It is judged.
    Judged(Prepared<'r>),
    /// It is answered 307; this is the location.
    Redirect(Vec<u8>),
}

/// A request in the form in which it is matched and forwarded.
#[derive(Debug)]
pub struct Prepared<'r> {
    version: HttpVersion,
    method: &'r [u8],
    /// The target as it arrived.
    target: &'r [u8],
    scheme: Option<&'r str>,
    matching: Matching,
    headers: Vec<Header<'r>>,
    /// Path and query as they arrived.
    arrived: Cow<'r, [u8]>,
    /// Path and query in their normalised form; none of CONNECT to an authority.
    path: Option<Cow<'r, [u8]>>,
    /// Where the query begins.
    query: usize,
    is_canonical: bool,
    authority: Option<Cow<'r, [u8]>>,
    readings: OnceCell<Vec<Vec<u8>>>,
}

/// A part of a request that a rule can name like a header.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Field {
    /// `:method`
    Method,
    /// `:path`, with its query.
    Path,
    /// `:authority`, or `host`, which is the same.
    Authority,
    /// `:scheme`
    Scheme,
    /// Another name with a colon, which no request has.
    Unknown,
    /// A header, in lower case.
    Header(Box<[u8]>),
}

impl Field {
    /// The part that this name stands for; case does not count.
    pub(crate) fn named(name: &str) -> Self {
        let name = name.to_ascii_lowercase();
        match name.as_str() {
            ":method" => Self::Method,
            ":path" => Self::Path,
            ":authority" | "host" => Self::Authority,
            ":scheme" => Self::Scheme,
            other if other.starts_with(':') => Self::Unknown,
            _ => Self::Header(name.into_bytes().into()),
        }
    }
}

/// What a request has under a name.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'p> {
    /// Nothing.
    Absent,
    /// A value that can be read in one way only.
    One(&'p [u8]),
    /// Values that can be read in several ways, Envoy's first.
    Several(Vec<Reading<'p>>),
}

/// One way to read what a request has under a name.
#[derive(Debug, PartialEq, Eq)]
pub enum Reading<'p> {
    /// As a single value.
    Single(Cow<'p, [u8]>),
    /// As several, of which any may match.
    Any(Vec<&'p [u8]>),
    /// As several, all of which must match.
    Every(Vec<&'p [u8]>),
}

impl<'r> Prepared<'r> {
    /// Checks a request, and brings its path into the form that is matched and forwarded.
    ///
    /// # Errors
    /// If the request is one that is answered 400, whatever the rules say.
    pub fn read(
        request: impl Into<RequestRef<'r>>,
        normalization: &RequestNormalization,
        matching: Matching,
    ) -> Result<Preparation<'r>, BadRequest> {
        let request = request.into();
        target::check_method(request.method, request.version)?;
        let target = Target::read(request.method, request.path, request.version)?;
        let mut headers =
            headers::read(request.headers, request.version, normalization.underscores)?;
        let authority = authority(request, &target, &mut headers, matching)?;
        if !matches!(request.scheme, None | Some("http" | "https")) {
            return Err(BadRequest::Scheme);
        }
        let mut redirect = false;
        let arrived = target.path.clone().unwrap_or_default();
        let path = match target.path {
            Some(path) if path.first() == Some(&b'/') => {
                let (path, found) = normalize(path, normalization)?;
                redirect = found;
                Some(path)
            }
            other => other,
        };
        let query = path.as_deref().map_or(0, query_of);
        let is_canonical = !normalization.insecure_disable_path_normalization;
        if let (false, Matching::Strict, Some(path @ [b'/', ..])) =
            (is_canonical, matching, path.as_deref())
        {
            // What cannot be normalised has no other readings to look at.
            let path = path.get(..query).unwrap_or_default();
            path::canonical(path).map_err(|_| BadRequest::PathCharacter)?;
        }
        if let (true, Some(path)) = (redirect, &path) {
            return Ok(Preparation::Redirect(path.to_vec()));
        }
        Ok(Preparation::Judged(Self {
            version: request.version,
            method: request.method,
            target: request.path,
            scheme: request.scheme,
            matching,
            headers,
            arrived,
            path,
            query,
            is_canonical,
            authority,
            readings: OnceCell::new(),
        }))
    }

    /// How requests that can be read in several ways are judged.
    pub(crate) const fn matching(&self) -> Matching {
        self.matching
    }

    /// The method.
    #[must_use]
    pub fn method(&self) -> &'r [u8] {
        self.method
    }

    /// The headers in order, without `Host`.
    pub(crate) fn headers(&self) -> &[(&'r [u8], &'r [u8])] {
        &self.headers
    }

    /// The path without its query; `None` of CONNECT to an authority.
    #[must_use]
    pub fn path(&self) -> Option<&[u8]> {
        self.path.as_deref()?.get(..self.query)
    }

    /// The path and its query, as they are forwarded; `None` of CONNECT to an authority.
    #[must_use]
    pub fn path_and_query(&self) -> Option<&[u8]> {
        self.path.as_deref()
    }

    /// The target that is forwarded, if it is not the one that arrived.
    #[must_use]
    pub fn changed_target(&self) -> Option<&[u8]> {
        self.path.as_deref().filter(|path| *path != self.target)
    }

    /// The other ways to read the path: none but for strict matching.
    #[must_use]
    pub fn other_paths(&self) -> &[Vec<u8>] {
        self.readings
            .get_or_init(|| match (self.matching, self.path()) {
                (Matching::Strict, Some(path @ [b'/', ..])) => {
                    let arrived = self.arrived.get(..query_of(&self.arrived));
                    readings::of(arrived.unwrap_or_default(), path, self.is_canonical)
                }
                _ => Vec::new(),
            })
    }

    /// What the request has under a name.
    pub(crate) fn find(&self, field: &Field) -> Found<'_> {
        match field {
            Field::Method => Found::One(self.method),
            Field::Path => self.found_path(),
            Field::Authority => self.found_authority(),
            Field::Scheme => Found::One(self.scheme.unwrap_or("https").as_bytes()),
            Field::Unknown => Found::Absent,
            Field::Header(name) => self.found_header(name),
        }
    }

    /// Whether what it has under a name can be read in several ways.
    pub(crate) fn is_ambiguous(&self, name: &str) -> bool {
        matches!(self.find(&Field::named(name)), Found::Several(_))
    }

    fn found_path(&self) -> Found<'_> {
        let Some(whole) = self.path.as_deref() else {
            return Found::Absent;
        };
        let others = self.other_paths();
        if others.is_empty() {
            return Found::One(whole);
        }
        let query = whole.get(self.query..).unwrap_or_default();
        let others = others
            .iter()
            .map(|path| Reading::Single(Cow::Owned([path.as_slice(), query].concat())));
        Found::Several(
            std::iter::once(Reading::Single(Cow::Borrowed(whole)))
                .chain(others)
                .collect(),
        )
    }

    fn found_authority(&self) -> Found<'_> {
        let Some(authority) = self.authority.as_deref() else {
            return Found::Absent;
        };
        if self.matching == Matching::Envoy || !authority.iter().any(u8::is_ascii_uppercase) {
            return Found::One(authority);
        }
        // Host names have no case.
        Found::Several(vec![
            Reading::Single(Cow::Borrowed(authority)),
            Reading::Single(Cow::Owned(authority.to_ascii_lowercase())),
        ])
    }

    fn found_header(&self, name: &[u8]) -> Found<'_> {
        let mut values = self
            .headers
            .iter()
            .filter(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| *value);
        let Some(first) = values.next() else {
            return Found::Absent;
        };
        let is_strict = self.matching == Matching::Strict;
        let has_edges = |value: &[u8]| is_strict && trim(value).len() != value.len();
        let Some(second) = values.next() else {
            // Envoy makes one header of the cookies of HTTP/2, and none of empty ones.
            if first.is_empty() && self.is_split_cookie(name) {
                return Found::Absent;
            }
            if has_edges(first) {
                return Found::Several(vec![
                    Reading::Single(Cow::Borrowed(first)),
                    Reading::Single(Cow::Borrowed(trim(first))),
                ]);
            }
            return Found::One(first);
        };
        let values: Vec<&[u8]> = [first, second].into_iter().chain(values).collect();
        if self.is_split_cookie(name) && values.iter().all(|value| value.is_empty()) {
            return Found::Absent;
        }
        // Envoy's first: one value, or else any of them.
        let mut readings = Vec::with_capacity(4);
        readings.extend(self.as_one_value(name, &values));
        if !is_strict {
            if readings.is_empty() {
                readings.push(Reading::Any(values));
            }
            return Found::Several(readings);
        }
        let trimmed: Option<Vec<&[u8]>> = values
            .iter()
            .any(|value| has_edges(value))
            .then(|| values.iter().map(|value| trim(value)).collect());
        add_all(name, values, &mut readings);
        if let Some(trimmed) = trimmed {
            add_all(name, trimmed, &mut readings);
        }
        Found::Several(readings)
    }

    /// Whether the header is a cookie that HTTP/2 may have split.
    fn is_split_cookie(&self, name: &[u8]) -> bool {
        name == b"cookie" && self.version == HttpVersion::Http2
    }

    /// How Envoy 1.40 reads a repeated header that it makes one value of.
    fn as_one_value<'p>(&self, name: &[u8], values: &[&'p [u8]]) -> Option<Reading<'p>> {
        let one = if self.is_split_cookie(name) {
            joined_cookies(values)
        } else if JOINED.binary_search(&name).is_ok() {
            // Envoy leaves out empty ones.
            let full: Vec<&[u8]> = values
                .iter()
                .filter(|value| !value.is_empty())
                .copied()
                .collect();
            full.join(&b","[..])
        } else {
            return None;
        };
        Some(Reading::Single(Cow::Owned(one)))
    }
}

/// The cookies of HTTP/2 as Envoy puts them together: empty ones at the beginning leave
/// no trace, later ones do.
fn joined_cookies(values: &[&[u8]]) -> Vec<u8> {
    let mut joined = Vec::new();
    for value in values {
        if !joined.is_empty() {
            joined.extend_from_slice(b"; ");
        }
        joined.extend_from_slice(value);
    }
    joined
}

/// Adds all readings of a repeated header, first that any of its values counts.
fn add_all<'p>(name: &[u8], values: Vec<&'p [u8]>, readings: &mut Vec<Reading<'p>>) {
    let joined = |with: &[u8]| Reading::Single(Cow::Owned(values.join(with)));
    let (by_comma, by_semicolon) = (joined(b","), (name == b"cookie").then(|| joined(b"; ")));
    readings.extend([
        Reading::Any(values.clone()),
        Reading::Every(values),
        by_comma,
    ]);
    readings.extend(by_semicolon);
}

/// Who is called: the target's authority, `:authority`, or `Host`, which is then no header.
fn authority<'r>(
    request: RequestRef<'r>,
    target: &Target<'r>,
    headers: &mut Vec<Header<'r>>,
    matching: Matching,
) -> Result<Option<Cow<'r, [u8]>>, BadRequest> {
    let mut hosts = headers
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case(b"host"))
        .map(|(_, value)| *value);
    let first = hosts.next();
    let more: Vec<&[u8]> = hosts.collect();
    if first.is_some() {
        headers.retain(|(name, _)| !name.eq_ignore_ascii_case(b"host"));
    }
    if !more.is_empty() && matching == Matching::Strict {
        return Err(BadRequest::SeveralHosts);
    }
    for host in first.iter().chain(&more) {
        check_authority(host)?;
    }
    if let Some(authority) = request.authority {
        check_authority(authority)?;
    }
    let own = match request.version {
        HttpVersion::Http1 => target.authority,
        HttpVersion::Http2 => request.authority,
    };
    // In HTTP/1.1 an empty `Host` may come; Envoy answers 400 to it in HTTP/2.
    if request.version == HttpVersion::Http2 && own.or(first).is_some_and(<[u8]>::is_empty) {
        return Err(BadRequest::Authority);
    }
    Ok(match (own, first) {
        (Some(own), _) => Some(Cow::Borrowed(own)),
        (None, Some(first)) if more.is_empty() => Some(Cow::Borrowed(first)),
        (None, Some(first)) => {
            let hosts: Vec<&[u8]> = std::iter::once(first).chain(more).collect();
            Some(Cow::Owned(hosts.join(&b","[..])))
        }
        (None, None) => None,
    })
}

/// Where the query begins: at its `?`, or at the end.
fn query_of(path: &[u8]) -> usize {
    path.iter()
        .position(|byte| *byte == b'?')
        .unwrap_or(path.len())
}

/// The normalised path with its query, and whether the client must ask for it anew.
fn normalize<'r>(
    whole: Cow<'r, [u8]>,
    normalization: &RequestNormalization,
) -> Result<(Cow<'r, [u8]>, bool), BadRequest> {
    let end = query_of(&whole);
    let (path, query) = whole
        .split_at_checked(end)
        .ok_or(BadRequest::TargetCharacter)?;
    let Some((normal, redirect)) = once(path, normalization)? else {
        return Ok((whole, false));
    };
    // What Envoy would change again is read in two ways by two servers in a row.
    if once(&normal, normalization)?.is_some() {
        return Err(BadRequest::NotFixed);
    }
    let mut normal = normal;
    normal.extend_from_slice(query);
    Ok((Cow::Owned(normal), redirect))
}

/// Normalises a path once; `None` if that changes nothing. True is a redirection.
fn once(
    path: &[u8],
    normalization: &RequestNormalization,
) -> Result<Option<(Vec<u8>, bool)>, BadRequest> {
    let mut now = Cow::Borrowed(path);
    let mut redirect = false;
    if normalization.escaped_slashes != EscapedSlashes::Keep
        && let Some(unescaped) = path::unescape_slashes(&now)
    {
        match normalization.escaped_slashes {
            EscapedSlashes::Reject => return Err(BadRequest::EscapedSlash),
            EscapedSlashes::Redirect => redirect = true,
            EscapedSlashes::Forward | EscapedSlashes::Keep => {}
        }
        now = Cow::Owned(unescaped);
    }
    if !normalization.insecure_disable_path_normalization {
        let canonical =
            path::canonical(&now).map_err(|path::Unreadable| BadRequest::PathCharacter)?;
        // What is borrowed is what was there.
        let changed = match canonical {
            Cow::Owned(canonical) if *canonical != *now => Some(canonical),
            _ => None,
        };
        if let Some(canonical) = changed {
            now = Cow::Owned(canonical);
        }
    }
    if normalization.merge_slashes
        && let Some(merged) = path::merge_slashes(&now)
    {
        now = Cow::Owned(merged);
    }
    let is_changed = matches!(&now, Cow::Owned(now) if **now != *path);
    Ok((is_changed || redirect).then(|| (now.into_owned(), redirect)))
}
