//! Where we mean to differ from Envoy: which entry of `differences.md` is about a difference.

use std::collections::BTreeSet;

use portcullis_core::http::HttpVersion;
use portcullis_core::intention::{Decision, Effect};
use serde_json::Value;

use crate::ours::{Ours, Setting};
use crate::question::{Answer, Question};
use crate::scene::Scene;

pub(crate) const WIDER_FIRST: &str = "wider source before a narrower one";
pub(crate) const PATTERN: &str = "source name read as a pattern";
pub(crate) const SCHEME: &str = "scheme by a header of the client";
pub(crate) const OWN_HEADERS: &str = "headers that Envoy writes or takes out itself";
pub(crate) const IDENTITY: &str = "identity that intentions are not about";
pub(crate) const TOKEN: &str = "token that the deciding rule does not ask for";
pub(crate) const QUERY: &str = "the method QUERY";
pub(crate) const NO_PATH: &str = "target without a path";
pub(crate) const BAD_HOST: &str = "malformed host beside an address";
pub(crate) const NO_HOST: &str = "request without a host";

/// A question with its answers.
pub(crate) struct Case<'a> {
    pub(crate) scene: &'a Scene,
    pub(crate) setting: &'a Setting,
    pub(crate) list: &'a Value,
    pub(crate) source: &'a str,
    pub(crate) uris: &'a [String],
    pub(crate) question: &'a Question,
    pub(crate) decision: &'a Decision,
    pub(crate) ours: &'a Answer,
    pub(crate) theirs: &'a Answer,
}

impl Case<'_> {
    /// The entry that explains the difference, if one does.
    pub(crate) fn meant(&self) -> Option<&'static str> {
        if self.is_token() {
            return Some(TOKEN);
        }
        if *self.theirs == Answer::NotFound && self.has_no_path() {
            return Some(NO_PATH);
        }
        let is_address = self.question.target.starts_with(b"http://");
        let is_host = |value: &[u8]| value.is_ascii() && !value.contains(&b' ');
        let mut hosts = self
            .question
            .headers
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case(b"host"));
        if is_address && *self.ours == Answer::BadRequest && hosts.any(|(_, value)| !is_host(value))
        {
            return Some(BAD_HOST);
        }
        let has_type = self
            .question
            .headers
            .iter()
            .any(|(name, _)| name == b"content-type");
        if self.question.method == b"QUERY" {
            let (refuses, wanted) = match self.question.version {
                HttpVersion::Http1 => (self.ours, true),
                HttpVersion::Http2 => (self.theirs, false),
            };
            if *refuses == Answer::BadRequest && has_type == wanted {
                return Some(QUERY);
            }
        }
        self.is_wider_first().then_some(WIDER_FIRST)
    }

    /// `*`, or an address that ends with its authority and a query.
    fn has_no_path(&self) -> bool {
        let target = &self.question.target;
        let (start, rest) = target.split_at(target.len().min(7));
        target == b"*"
            || start.eq_ignore_ascii_case(b"http://")
                && rest.contains(&b'?')
                && !rest
                    .split(|byte| *byte == b'?')
                    .next()
                    .is_some_and(|authority| authority.contains(&b'/'))
    }

    /// Both let it through alike, but Envoy took out a token that some rule of the
    /// destination asks for.
    fn is_token(&self) -> bool {
        let (Answer::Allow(ours), Answer::Allow(theirs)) = (self.ours, self.theirs) else {
            return false;
        };
        ours.target == theirs.target
            && ours.has_authorization
            && !theirs.has_authorization
            && self.list.to_string().contains("\"Providers\"")
    }

    /// A rule for all sources decided before one for this source: Envoy takes whichever of
    /// both is not the default's action.
    fn is_wider_first(&self) -> bool {
        let rules = self.list.as_array().map(Vec::as_slice).unwrap_or_default();
        let Some(place) = self
            .decision
            .intention
            .and_then(|place| usize::try_from(place).ok())
        else {
            return false;
        };
        let later = rules.get(place + 1..).unwrap_or_default();
        if rules[place]["SourceName"] != "*"
            || !later.iter().any(|rule| rule["SourceName"] == self.source)
        {
            return false;
        }
        let mut without = rules.to_vec();
        without.remove(place);
        let mut ours = Ours::new();
        ours.load(self.scene, self.setting, &Value::Array(without));
        let [narrower, _] = ours.ask(self.uris, self.question);
        let is_default = (narrower.effect == Effect::Allow) == (self.scene.default == "allow");
        !is_default && narrower.effect.code() == self.theirs.code()
    }
}

/// The page `name`, and what a run must find in it.
pub(crate) fn check_page(
    name: &str,
    page: &str,
    rows: &BTreeSet<String>,
    seen: &BTreeSet<&'static str>,
) {
    let listed: BTreeSet<String> = page
        .lines()
        .filter(|line| line.starts_with("| allow |") || line.starts_with("| deny |"))
        .map(str::to_owned)
        .collect();
    let new: Vec<_> = rows.difference(&listed).map(String::as_str).collect();
    let gone: Vec<_> = listed.difference(rows).map(String::as_str).collect();
    assert!(
        new.is_empty() && gone.is_empty(),
        "`tests/envoy_rbac/{name}` lacks\n{}\nand lists what no longer happens\n{}",
        new.join("\n"),
        gone.join("\n")
    );
    for heading in seen {
        assert!(
            page.lines().any(|line| line == format!("## {heading}")),
            "`{heading}` is not listed"
        );
    }
    for line in page.lines().filter_map(|line| line.strip_prefix("## ")) {
        assert!(seen.contains(line), "`{line}` is listed and never happened");
    }
}
