//! What is wrong with the permissions of an intention: reach, escapes, patterns.

use std::collections::BTreeSet;

use portcullis_core::intention::{
    Action, HeaderMatch, Intention, Matching, PathMatch, Permission, Rule as Says, ValueMatch,
};
use portcullis_core::policy::HttpVersion;
use portcullis_core::re2::Pattern;

use super::finding::{Code, Evidence, Severity};
use super::{Judges, LintError, Target, escape, reach, sample};
use crate::entries::{ANY_SERVICE, Asked, caller};

/// From how many of a denial's requests other words are looked for.
const WITNESSES: usize = 4;

/// The permission that is looked at.
#[derive(Clone, Copy)]
struct Looked<'i> {
    /// Place of its intention in the set.
    index: usize,
    number: usize,
    permission: &'i Permission,
    uri: &'i str,
}

impl Looked<'_> {
    /// Whether it has decided.
    fn decided(&self, answer: &Evidence) -> bool {
        answer.intention == u32::try_from(self.index).ok()
            && answer.permission == u32::try_from(self.number).ok()
    }

    fn pointer(&self, field: &str) -> String {
        format!("Permissions/{}{field}", self.number)
    }
}

impl Target<'_> {
    pub(super) fn permissions(
        &mut self,
        index: usize,
        judges: &mut Judges<'_>,
    ) -> Result<(), LintError> {
        let set = self.set;
        let Some(intention) = set.intentions().get(index) else {
            return Ok(());
        };
        let Says::Requests { permissions, .. } = &intention.rule else {
            return Ok(());
        };
        if !intention.covers_target || !self.is_http() {
            return Ok(());
        }
        let Some(uri) = self.reaching(index, intention, judges)? else {
            return Ok(());
        };
        for (number, permission) in permissions.iter().enumerate() {
            let looked = Looked {
                index,
                number,
                permission,
                uri: &uri,
            };
            let is_dead = self.never(looked, judges)?;
            let earlier = permissions.get(..number).unwrap_or_default();
            let is_taken = !is_dead && self.taken(looked, earlier, judges)?;
            if !is_dead && !is_taken {
                if permission.action == Action::Deny {
                    self.escapes(looked, judges)?;
                } else {
                    self.prefix(looked, judges)?;
                }
            }
            self.patterns(looked, judges)?;
        }
        Ok(())
    }

    /// A client that the intention decides about.
    fn reaching(
        &self,
        index: usize,
        intention: &Intention,
        judges: &mut Judges<'_>,
    ) -> Result<Option<String>, LintError> {
        let Some(uri) = caller(intention, ANY_SERVICE, self.settings) else {
            return Ok(None);
        };
        let judge = judges.by(self.settings.matching);
        let answer = self.ask(judge, &uri, None)?;
        let decides = |answer: Evidence| answer.intention == u32::try_from(index).ok();
        Ok(answer.is_some_and(decides).then_some(uri))
    }

    /// Whether no request has what the permission asks for; with the finding.
    fn never(&mut self, looked: Looked<'_>, judges: &mut Judges<'_>) -> Result<bool, LintError> {
        let matching = self.settings.matching;
        // A denial also holds for the readings of a path, where slashes need not be merged.
        let is_read_twice =
            matching == Matching::Strict && looked.permission.action == Action::Deny;
        match &looked.permission.http.path {
            Some(PathMatch::Exact(path) | PathMatch::Prefix(path))
                if is_read_twice && path.contains("//") => {}
            Some(PathMatch::Exact(path)) => {
                let (became, _) = self.normalised(path, judges)?;
                if became.as_deref() != Some(path) {
                    let asked = Asked::new("GET", path);
                    let request = Some((&asked, HttpVersion::Http1));
                    let answer = self.ask(judges.by(matching), looked.uri, request)?;
                    let text = never_text("path", path, became.as_deref());
                    let pointer = looked.pointer("/HTTP/PathExact");
                    let code = Code::NeverMatches;
                    self.finding(
                        code,
                        code.severity(),
                        looked.index,
                        &pointer,
                        text,
                        answer.into_iter().collect(),
                    );
                    return Ok(true);
                }
            }
            Some(PathMatch::Prefix(path)) => {
                let (became, merges) = self.normalised(path, judges)?;
                if became.as_deref() != Some(path) && !is_beginning(path, merges) {
                    let asked = Asked::new("GET", path);
                    let request = Some((&asked, HttpVersion::Http1));
                    let answer = self.ask(judges.by(matching), looked.uri, request)?;
                    let text = never_text("prefix", path, became.as_deref());
                    let pointer = looked.pointer("/HTTP/PathPrefix");
                    let code = Code::NeverMatches;
                    self.finding(
                        code,
                        code.severity(),
                        looked.index,
                        &pointer,
                        text,
                        answer.into_iter().collect(),
                    );
                    return Ok(true);
                }
            }
            Some(PathMatch::Regex(pattern)) => {
                let begins = sample::beginnings(pattern).filter(|all| !all.is_empty());
                let is_foreign =
                    |one: &Vec<u8>| one.first().is_some_and(|b| !matches!(b, b'/' | b'*'));
                if begins.is_some_and(|all| all.iter().all(is_foreign)) {
                    let text = format!(
                        "the pattern `{}` must match the whole path, and every path begins with `/`",
                        pattern.as_str()
                    );
                    let pointer = looked.pointer("/HTTP/PathRegex");
                    let code = Code::NeverMatches;
                    self.finding(
                        code,
                        code.severity(),
                        looked.index,
                        &pointer,
                        text,
                        Vec::new(),
                    );
                    return Ok(true);
                }
            }
            None => {}
        }
        Ok(false)
    }

    /// What a path becomes in this mesh, and whether slashes are merged.
    fn normalised(
        &self,
        path: &str,
        judges: &mut Judges<'_>,
    ) -> Result<(Option<String>, bool), LintError> {
        let uri = crate::entries::service_uri(
            &judges.paths.settings.trust_domain,
            "default",
            "default",
            ANY_SERVICE,
        )
        .unwrap_or_default();
        let mut become_of = |path: &str| -> Result<Option<String>, LintError> {
            let asked = Asked::new("GET", path);
            let request = Some((&asked, HttpVersion::Http1));
            let decision = judges.paths.decide(self.target, &uri, request)?;
            Ok(decision.filter(|one| one.is_allowed()).map(|decision| {
                let target = decision.path.unwrap_or_else(|| path.as_bytes().to_vec());
                let target: String = target.iter().map(|byte| char::from(*byte)).collect();
                target.split('?').next().unwrap_or_default().to_owned()
            }))
        };
        let merges = become_of("/a//b")?.as_deref() == Some("/a/b");
        Ok((become_of(path)?, merges))
    }

    /// Whether earlier permissions take all of its requests; with the finding.
    fn taken(
        &mut self,
        looked: Looked<'_>,
        earlier: &[Permission],
        judges: &mut Judges<'_>,
    ) -> Result<bool, LintError> {
        let matching = self.settings.matching;
        let permission = looked.permission;
        let behind = earlier.iter().position(|one| {
            one.action == Action::Allow
                && permission.action == Action::Deny
                && reach::contains(one, permission)
        });
        if let Some(number) = behind {
            let allowed = self.first(looked, judges, |answer| {
                answer.effect == "allow" && answer.permission == u32::try_from(number).ok()
            })?;
            if let (Some(answer), Some(one)) = (allowed, earlier.get(number)) {
                let code = Code::DenyBehindAllow;
                let text = format!(
                    "this denial never decides about an ordinary request: permission {number} ({one}) allows all that it denies"
                );
                let pointer = looked.pointer("");
                self.finding(
                    code,
                    code.severity(),
                    looked.index,
                    &pointer,
                    text,
                    vec![answer],
                );
                return Ok(true);
            }
        }
        let Some(takers) = reach::takers(earlier, permission, matching) else {
            return Ok(false);
        };
        let names: Vec<String> = takers
            .iter()
            .filter_map(|number| Some(format!("{number} ({})", earlier.get(*number)?)))
            .collect();
        let same = takers.iter().all(|number| {
            earlier
                .get(*number)
                .is_some_and(|one| one.action == permission.action)
        });
        let answer = self.first(looked, judges, |answer| {
            let ours = |number: &usize| answer.permission == u32::try_from(*number).ok();
            takers.iter().any(ours)
        })?;
        let text = format!(
            "permission {} takes every request that this one could decide{}",
            names.join(" and "),
            if same { ", with the same action" } else { "" }
        );
        let code = Code::UnreachablePermission;
        let pointer = looked.pointer("");
        self.finding(
            code,
            code.severity(),
            looked.index,
            &pointer,
            text,
            answer.into_iter().collect(),
        );
        Ok(true)
    }

    /// The first request meant for the permission whose answer is as wanted.
    fn first(
        &self,
        looked: Looked<'_>,
        judges: &mut Judges<'_>,
        wanted: impl Fn(&Evidence) -> bool,
    ) -> Result<Option<Evidence>, LintError> {
        for asked in sample::requests(&looked.permission.http) {
            let request = Some((&asked, HttpVersion::Http1));
            let judge = judges.by(self.settings.matching);
            if let Some(answer) = self.ask(judge, looked.uri, request)?
                && wanted(&answer)
            {
                return Ok(Some(answer));
            }
        }
        Ok(None)
    }

    /// Requests that say in other words what the denial denies, and are allowed.
    fn escapes(&mut self, looked: Looked<'_>, judges: &mut Judges<'_>) -> Result<(), LintError> {
        let mut known: BTreeSet<Code> = BTreeSet::new();
        let chosen = self.settings.matching;
        let others = match chosen {
            Matching::Strict => &[Matching::Strict, Matching::Envoy][..],
            Matching::Envoy => &[Matching::Envoy],
        };
        for matching in others {
            let mut witnesses = Vec::new();
            for asked in sample::requests(&looked.permission.http) {
                let request = Some((&asked, HttpVersion::Http1));
                let answer = self.ask(judges.by(*matching), looked.uri, request)?;
                // One that asks for a JWT denies nobody who has none.
                let denied =
                    answer.filter(|answer| looked.decided(answer) && answer.effect == "deny");
                witnesses.extend(denied.map(|answer| (asked, answer)));
            }
            for (asked, denied) in witnesses.iter().take(WITNESSES) {
                for variant in escape::variants(asked, &looked.permission.http) {
                    if known.contains(&variant.code) {
                        continue;
                    }
                    let request = Some((&variant.asked, variant.version));
                    let answer = self.ask(judges.by(*matching), looked.uri, request)?;
                    let Some(allowed) = answer.filter(|answer| answer.effect == "allow") else {
                        continue;
                    };
                    known.insert(variant.code);
                    let only = *matching != chosen;
                    let severity = match (variant.code.severity(), only) {
                        (Severity::Error, true) => Severity::Warning,
                        (_, true) => Severity::Note,
                        (severity, false) => severity,
                    };
                    let by = match (only, allowed.permission) {
                        _ if only => " where Envoy enforces it, or with `matching = envoy`",
                        (_, None) => " by the default policy",
                        (_, Some(_)) => " by a later permission",
                    };
                    let text = format!(
                        "with {} the request is allowed{by}: the denial is escaped",
                        variant.how
                    );
                    let pointer = looked.pointer("");
                    let evidence = vec![denied.clone(), allowed];
                    self.finding(
                        variant.code,
                        severity,
                        looked.index,
                        &pointer,
                        text,
                        evidence,
                    );
                }
            }
        }
        Ok(())
    }

    /// `/v1` is the beginning of `/v10`, too.
    fn prefix(&mut self, looked: Looked<'_>, judges: &mut Judges<'_>) -> Result<(), LintError> {
        let Some(PathMatch::Prefix(prefix)) = &looked.permission.http.path else {
            return Ok(());
        };
        if prefix.ends_with('/') {
            return Ok(());
        }
        let beyond = format!("{prefix}x");
        for mut asked in sample::requests(&looked.permission.http) {
            asked.path.clone_from(&beyond);
            let request = Some((&asked, HttpVersion::Http1));
            let answer = self.ask(judges.by(self.settings.matching), looked.uri, request)?;
            if let Some(answer) = answer.filter(|answer| looked.decided(answer)) {
                let code = Code::BroadPrefix;
                let text = format!(
                    "the prefix `{prefix}` does not end with a segment: `{beyond}` begins so, too"
                );
                let pointer = looked.pointer("/HTTP/PathPrefix");
                self.finding(
                    code,
                    code.severity(),
                    looked.index,
                    &pointer,
                    text,
                    vec![answer],
                );
                break;
            }
        }
        Ok(())
    }

    /// Patterns that match more than they say, or are none.
    fn patterns(&mut self, looked: Looked<'_>, judges: &mut Judges<'_>) -> Result<(), LintError> {
        let http = &looked.permission.http;
        if let Some(PathMatch::Regex(pattern)) = &http.path {
            let field = looked.pointer("/HTTP/PathRegex");
            self.pattern(looked, pattern, &field, None, judges)?;
        }
        for (place, header) in http.headers.iter().enumerate() {
            if let ValueMatch::Regex(pattern) = &header.value {
                let field = looked.pointer(&format!("/HTTP/Header/{place}/Regex"));
                self.pattern(looked, pattern, &field, Some(header), judges)?;
            }
        }
        Ok(())
    }

    fn pattern(
        &mut self,
        looked: Looked<'_>,
        pattern: &Pattern,
        field: &str,
        header: Option<&HeaderMatch>,
        judges: &mut Judges<'_>,
    ) -> Result<(), LintError> {
        let text = pattern.as_str();
        if let Some(use_instead) = plainer(text) {
            let code = Code::NeedlessRegex;
            let said = format!("the pattern `{text}` says no more than {use_instead}");
            self.finding(code, code.severity(), looked.index, field, said, Vec::new());
            return Ok(());
        }
        let everything: &[&str] = match header {
            None => &["/", "/a", "/any/thing/At.all", "/0%20~", "/-_;="],
            Some(_) => &["", "a", "Any Thing", "0", "~;=,\"", " - "],
        };
        let broad = if everything
            .iter()
            .all(|one| pattern.is_full_match(one.as_bytes()))
        {
            let what = if header.is_some() { "value" } else { "path" };
            let one = everything.get(2).copied().unwrap_or("/").to_owned();
            Some((format!("the pattern `{text}` matches every {what}"), one))
        } else {
            dotted(pattern).map(|other| {
                (format!("a dot of the pattern `{text}` stands for any character: it matches `{other}`"), other)
            })
        };
        let Some((said, value)) = broad else {
            return Ok(());
        };
        let mut evidence = None;
        for mut asked in sample::requests(&looked.permission.http) {
            match header {
                None => asked.path.clone_from(&value),
                Some(header) => {
                    for (_, old) in asked
                        .headers
                        .iter_mut()
                        .filter(|(name, _)| sample::same_field(name, &header.name))
                    {
                        old.clone_from(&value);
                    }
                }
            }
            let request = Some((&asked, HttpVersion::Http1));
            let answer = self.ask(judges.by(self.settings.matching), looked.uri, request)?;
            evidence = answer.filter(|answer| looked.decided(answer));
            if evidence.is_some() {
                break;
            }
        }
        let code = Code::BroadRegex;
        self.finding(
            code,
            code.severity(),
            looked.index,
            field,
            said,
            evidence.into_iter().collect(),
        );
        Ok(())
    }
}

fn never_text(what: &str, path: &str, became: Option<&str>) -> String {
    match became {
        Some(became) => format!(
            "no path that is matched has the {what} `{path}`: after normalisation and without query it is `{became}`"
        ),
        None => {
            format!("no request is judged whose path is `{path}`: it is answered 400 or redirected")
        }
    }
}

/// Whether a normalised path may begin so: nothing in it is ever taken out, whatever follows.
fn is_beginning(prefix: &str, merges: bool) -> bool {
    let is_unreserved = |hex: &str| {
        u8::from_str_radix(hex, 16)
            .is_ok_and(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
    };
    let has_needless_escape = prefix
        .match_indices('%')
        .any(|(at, _)| prefix.get(at + 1..at + 3).is_some_and(is_unreserved));
    !(prefix.contains(['?', '#', '\\'])
        || prefix.contains("/./")
        || prefix.contains("/../")
        || merges && prefix.contains("//")
        || has_needless_escape)
}

/// What says the same as a pattern without being one.
fn plainer(pattern: &str) -> Option<String> {
    let is_plain = |text: &str| !text.contains(|c| r"\.+*?()|[]{}^$".contains(c));
    if is_plain(pattern) {
        return Some(format!("the text `{pattern}` itself"));
    }
    let start = pattern
        .strip_suffix(".*")
        .filter(|start| !start.is_empty() && *start != "/")?;
    is_plain(start).then(|| format!("the prefix `{start}`"))
}

/// A text with another character in place of a dot between letters or digits.
fn dotted(pattern: &Pattern) -> Option<String> {
    let text = pattern.as_str();
    let letters: Vec<(usize, char)> = text.char_indices().collect();
    let mut in_class = false;
    let mut previous = None;
    for (place, (at, letter)) in letters.iter().enumerate() {
        let is_escaped = previous == Some('\\');
        match letter {
            '[' if !is_escaped => in_class = true,
            ']' if !is_escaped => in_class = false,
            '.' if !is_escaped && !in_class => {
                let next = letters.get(place + 1).map(|(_, next)| *next);
                let between = previous.is_some_and(char::is_alphanumeric)
                    && next.is_some_and(char::is_alphanumeric);
                if between {
                    let (before, after) = text.split_at(*at);
                    let other = format!("{before}_{}", after.get(1..)?);
                    let found = sample::texts_of(&other).into_iter();
                    return found
                        .into_iter()
                        .find(|other| pattern.is_full_match(other.as_bytes()));
                }
            }
            _ => {}
        }
        previous = if is_escaped { None } else { Some(*letter) };
    }
    None
}
