//! Requests that a permission is meant for: paths, methods and headers made from its
//! matchers. Whether they reach it is for the policy to say.

use portcullis_core::intention::{HeaderMatch, HttpMatch, PathMatch, ValueMatch};
use portcullis_core::re2::Pattern;
use regex_syntax::hir::literal::{ExtractKind, Extractor};
use regex_syntax::hir::{Class, Hir, HirKind};

use crate::entries::Asked;

/// How many texts are made of one pattern.
const TEXTS: usize = 4;
/// How long a text of a pattern may be.
const LONGEST: usize = 2_000;
/// How many parts of a pattern are looked at for one text.
const MAX_STEPS: usize = 20_000;

/// Requests that have what `http` asks for, as far as that is easy to find.
pub(crate) fn requests(http: &HttpMatch) -> Vec<Asked> {
    let paths = match &http.path {
        None => vec!["/".to_owned(), "/any/thing".to_owned()],
        Some(path) => paths(path),
    };
    let mut methods: Vec<&str> = http.methods.iter().map(String::as_str).take(2).collect();
    if methods.is_empty() {
        methods.push("GET");
    }
    let headers = headers(&http.headers);
    let mut all = Vec::new();
    for path in &paths {
        for method in &methods {
            let mut asked = Asked::new(method, path);
            asked.headers.clone_from(&headers);
            all.push(as_bytes(with_pseudo(asked, &http.headers)));
        }
    }
    all
}

/// A request has a character for each byte, rules have text.
fn as_bytes(mut asked: Asked) -> Asked {
    let bytes = |text: &str| text.bytes().map(char::from).collect::<String>();
    asked.path = bytes(&asked.path);
    for (_, value) in &mut asked.headers {
        *value = bytes(value);
    }
    asked
}

/// Paths that a matcher is meant for.
pub(crate) fn paths(path: &PathMatch) -> Vec<String> {
    match path {
        PathMatch::Exact(path) => vec![path.clone()],
        PathMatch::Prefix(path) => {
            let below = match path.ends_with('/') {
                true => format!("{path}x"),
                false => format!("{path}/x"),
            };
            vec![path.clone(), below]
        }
        PathMatch::Regex(pattern) => texts(pattern),
    }
}

/// Headers that satisfy the matchers, one value each.
fn headers(matchers: &[HeaderMatch]) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for matcher in matchers {
        let name = match matcher.name.to_ascii_lowercase().as_str() {
            ":authority" => "host".to_owned(),
            other if other.starts_with(':') => continue,
            other => other.to_owned(),
        };
        if found.iter().any(|(known, _)| *known == name) {
            continue;
        }
        let same: Vec<&HeaderMatch> = matchers
            .iter()
            .filter(|other| same_field(&other.name, &matcher.name))
            .collect();
        if same
            .iter()
            .any(|one| one.invert && one.value == ValueMatch::Present)
        {
            continue;
        }
        let mut candidates: Vec<String> = same.iter().flat_map(|one| values(one)).collect();
        candidates.extend(["x", "0", "zz", ""].map(str::to_owned));
        let fits = candidates
            .iter()
            .find(|value| same.iter().all(|one| holds(one, value)));
        if let Some(value) = fits.or_else(|| candidates.first()) {
            found.push((name, value.clone()));
        }
    }
    found
}

/// Whether both names mean one part of a request.
pub(crate) fn same_field(a: &str, b: &str) -> bool {
    let plain = |name: &str| match name.to_ascii_lowercase() {
        name if name == ":authority" => "host".to_owned(),
        name => name,
    };
    plain(a) == plain(b)
}

/// What pseudo headers ask for besides.
fn with_pseudo(mut asked: Asked, matchers: &[HeaderMatch]) -> Asked {
    for matcher in matchers.iter().filter(|one| !one.invert) {
        let value = || {
            values(matcher)
                .into_iter()
                .find(|text| holds(matcher, text))
        };
        match matcher.name.to_ascii_lowercase().as_str() {
            ":path" if !holds(matcher, &asked.path) => {
                if let Some(path) = value().filter(|path| path.starts_with('/')) {
                    asked.path = path;
                }
            }
            ":method" if !holds(matcher, &asked.method) => {
                if let Some(method) = value() {
                    asked.method = method;
                }
            }
            _ => {}
        }
    }
    asked
}

/// Values that a matcher is about.
pub(crate) fn values(matcher: &HeaderMatch) -> Vec<String> {
    match &matcher.value {
        ValueMatch::Present => vec!["x".to_owned()],
        ValueMatch::Exact(text)
        | ValueMatch::Prefix(text)
        | ValueMatch::Suffix(text)
        | ValueMatch::Contains(text) => vec![text.clone()],
        ValueMatch::Regex(pattern) => texts(pattern),
    }
}

/// Whether a single value has what the matcher asks for.
pub(crate) fn holds(matcher: &HeaderMatch, value: &str) -> bool {
    let fold = |text: &str| match matcher.ignore_case {
        true => text.to_ascii_lowercase(),
        false => text.to_owned(),
    };
    let value = fold(value);
    let holds = match &matcher.value {
        ValueMatch::Present => true,
        ValueMatch::Exact(text) => value == fold(text),
        ValueMatch::Prefix(text) => value.starts_with(&fold(text)),
        ValueMatch::Suffix(text) => value.ends_with(&fold(text)),
        ValueMatch::Contains(text) => value.contains(&fold(text)),
        ValueMatch::Regex(pattern) => pattern.is_full_match(value.as_bytes()),
    };
    holds != matcher.invert
}

/// The library's reading of a pattern; it is only used to guess, RE2's front end of the
/// core then judges. `None` where the library cannot read it.
fn hir(pattern: &str) -> Option<Hir> {
    regex_syntax::ParserBuilder::new()
        .unicode(false)
        .utf8(false)
        .build()
        .parse(pattern)
        .ok()
}

/// Some texts that the pattern matches.
pub(crate) fn texts(pattern: &Pattern) -> Vec<String> {
    texts_of(pattern.as_str())
        .into_iter()
        .filter(|text| pattern.is_full_match(text.as_bytes()))
        .collect()
}

/// Some texts that a pattern probably matches.
pub(crate) fn texts_of(pattern: &str) -> Vec<String> {
    let Some(hir) = hir(pattern) else {
        return Vec::new();
    };
    let mut found: Vec<String> = Vec::new();
    for choice in 0..TEXTS {
        let mut walk = Walk {
            choice,
            steps: 0,
            text: Vec::new(),
        };
        walk.through(&hir);
        match String::from_utf8(walk.text) {
            Ok(text) if !found.contains(&text) => found.push(text),
            _ => {}
        }
    }
    found
}

/// A way through a pattern.
struct Walk {
    /// Which branch, and how often what may be repeated.
    choice: usize,
    steps: usize,
    text: Vec<u8>,
}

impl Walk {
    fn through(&mut self, hir: &Hir) {
        // Nested repetitions of nothing would take for ever.
        self.steps += 1;
        if self.text.len() > LONGEST || self.steps > MAX_STEPS {
            return;
        }
        match hir.kind() {
            HirKind::Empty | HirKind::Look(_) => {}
            HirKind::Literal(literal) => self.text.extend_from_slice(&literal.0),
            HirKind::Class(class) => letter(class, self.choice, &mut self.text),
            HirKind::Repetition(repetition) => {
                let wanted = u32::try_from(self.choice).unwrap_or(u32::MAX);
                let most = repetition.max.unwrap_or(u32::MAX);
                let times = repetition.min.saturating_add(wanted).min(most);
                for _ in 0..times.min(1_000) {
                    if self.steps > MAX_STEPS {
                        return;
                    }
                    self.through(&repetition.sub);
                }
            }
            HirKind::Capture(capture) => self.through(&capture.sub),
            HirKind::Concat(parts) => parts.iter().for_each(|part| self.through(part)),
            HirKind::Alternation(parts) => {
                if let Some(part) = parts.get(self.choice % parts.len().max(1)) {
                    self.through(part);
                }
            }
        }
    }
}

/// A character of a class, a plain one if it has some.
fn letter(class: &Class, choice: usize, out: &mut Vec<u8>) {
    let has = |wanted: u8| match class {
        Class::Bytes(class) => class
            .iter()
            .any(|range| range.start() <= wanted && wanted <= range.end()),
        Class::Unicode(class) => class
            .iter()
            .any(|range| range.start() <= char::from(wanted) && char::from(wanted) <= range.end()),
    };
    let plain = b"xyzabc0123456789ABC_-./~";
    let known: Vec<u8> = plain.iter().copied().filter(|byte| has(*byte)).collect();
    if let Some(byte) = known.get(choice % known.len().max(1)) {
        return out.push(*byte);
    }
    match class {
        Class::Bytes(class) => out.extend(class.iter().next().map(|range| range.start())),
        Class::Unicode(class) => {
            if let Some(range) = class.iter().next() {
                out.extend_from_slice(range.start().encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
    }
}

/// What every text that the pattern matches begins with one of; `None` where that is not
/// known for sure.
pub(crate) fn beginnings(pattern: &Pattern) -> Option<Vec<Vec<u8>>> {
    // Flags may fold cases, which the library does otherwise than RE2.
    if pattern.as_str().contains("(?") {
        return None;
    }
    let mut extractor = Extractor::new();
    extractor.kind(ExtractKind::Prefix);
    let found = extractor.extract(&hir(pattern.as_str())?);
    let literals = found.literals()?.iter();
    Some(
        literals
            .map(|literal| literal.as_bytes().to_vec())
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_patterns_match_them() {
        for pattern in [
            "/v[123]/.*",
            "/a|/b",
            r"/items/\d+",
            "(?i)/admin(/.*)?",
            r"^/x\.y$",
            "[a-f0-9]{8}-[a-f0-9]{4}",
        ] {
            let pattern = Pattern::parse(pattern).expect("a pattern");
            assert!(!texts(&pattern).is_empty(), "{pattern:?}");
        }
    }

    #[test]
    fn nested_repetitions_of_nothing_end() {
        let deep = format!("{}(a|b|c|){}", "(".repeat(40), "*)".repeat(40));
        let pattern = Pattern::parse(&deep).expect("a pattern");
        assert!(texts(&pattern).len() <= TEXTS);
    }

    #[test]
    fn beginnings_are_known_or_not() {
        let of = |pattern: &str| beginnings(&Pattern::parse(pattern).expect("a pattern"));
        assert_eq!(of("v1/.*"), Some(vec![b"v1/".to_vec()]));
        assert_eq!(of("(?i)x"), None);
        assert!(of(".*").is_none_or(|all| all.iter().any(Vec::is_empty)));
    }
}
