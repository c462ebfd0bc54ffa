//! What is wrong with intentions as a whole: names, order, protocol, JWT.

use portcullis_core::identity::SpiffeId;
use portcullis_core::intention::{
    Action, DefaultPolicy, Intention, Jwt, Matching, Origin, Problem, Rule as Says,
};
use portcullis_core::policy::HttpVersion::Http1;
use portcullis_core::re2::Pattern;

use super::finding::{Code, Evidence, Severity};
use super::{Judges, LintError, Target};
use crate::entries::{ANY_SERVICE, Asked, caller};

impl Target<'_> {
    /// What the policy itself says about the list.
    pub(super) fn problems(
        &mut self,
        problems: &[Problem],
        judges: &mut Judges<'_>,
    ) -> Result<(), LintError> {
        for problem in problems {
            let mut parts = problem.pointer.splitn(3, '/');
            let place = parts.nth(1).and_then(|part| part.parse::<u32>().ok());
            let pointer = parts.next().unwrap_or_default();
            let intentions = self.set.intentions().iter();
            let index =
                place.and_then(|place| intentions.clone().position(|one| one.place == place));
            let Some(index) = index else { continue };
            let is_covered = intentions
                .clone()
                .nth(index)
                .is_some_and(|one| one.covers_target);
            let code = match problem.denies {
                true if problem.text.contains("is not a pattern that can be used") => {
                    Code::InvalidRegex
                }
                true => Code::UnreadableRule,
                false
                    if problem.text.contains("covers nobody")
                        || problem.text.contains("the same names as") =>
                {
                    Code::UnreachableIntention
                }
                // The rule is in the list by our own doing.
                false if !is_covered => continue,
                // What the agent states counts for nothing, and it will state it anew.
                false if pointer == "Precedence" => continue,
                false => Code::IgnoredField,
            };
            let mut evidence = None;
            let broken = intentions.clone().nth(index).filter(|_| problem.denies);
            let uri = broken.and_then(|broken| caller(broken, ANY_SERVICE, self.settings));
            if let Some(uri) = uri {
                let answer = self.ask(judges.by(self.settings.matching), &uri, None)?;
                evidence = answer.filter(|answer| answer.intention == u32::try_from(index).ok());
            }
            let text = problem.text.clone();
            let evidence = evidence.into_iter().collect();
            self.finding(code, code.severity(), index, pointer, text, evidence);
        }
        Ok(())
    }

    /// Names, order, protocol and JWT of each intention.
    pub(super) fn intentions(&mut self, judges: &mut Judges<'_>) -> Result<(), LintError> {
        let set = self.set;
        for (index, intention) in set.intentions().iter().enumerate() {
            if !intention.covers_target || matches!(intention.rule, Says::Unreadable { .. }) {
                continue;
            }
            self.on_tcp(index, intention, judges)?;
            self.jwt(index, intention, judges)?;
            self.name(index, intention, judges)?;
            for (earlier, wider) in set.intentions().iter().enumerate().take(index) {
                self.order(earlier, wider, index, intention, judges)?;
            }
        }
        Ok(())
    }

    /// Permissions and JWT where no request is ever seen.
    fn on_tcp(
        &mut self,
        index: usize,
        intention: &Intention,
        judges: &mut Judges<'_>,
    ) -> Result<(), LintError> {
        if self.entries.protocol(self.target) != Some("tcp") {
            return Ok(());
        }
        let (code, text) = match &intention.rule {
            Says::Requests { .. } => (
                Code::L7OnTcp,
                "the destination speaks TCP, where permissions deny every connection",
            ),
            Says::Connection {
                action: Action::Allow,
                jwt: Some(_),
            } => (
                Code::JwtOnTcp,
                "the destination speaks TCP, where no connection carries a JWT",
            ),
            _ => return Ok(()),
        };
        let Some(uri) = caller(intention, ANY_SERVICE, self.settings) else {
            return Ok(());
        };
        let answer = self.ask(judges.by(self.settings.matching), &uri, None)?;
        self.finding(
            code,
            code.severity(),
            index,
            "",
            text.to_owned(),
            answer.into_iter().collect(),
        );
        Ok(())
    }

    fn jwt(
        &mut self,
        index: usize,
        intention: &Intention,
        judges: &mut Judges<'_>,
    ) -> Result<(), LintError> {
        let default = match self.settings.default_policy {
            DefaultPolicy::Allow => Action::Allow,
            _ => Action::Deny,
        };
        // Where it stands, whether it matters, and what it asks for.
        let mut all: Vec<(String, bool, &Jwt)> = Vec::new();
        match &intention.rule {
            Says::Connection { action, jwt } => {
                all.extend(
                    jwt.iter()
                        .map(|jwt| (String::new(), *action != default, jwt)),
                );
            }
            Says::Requests { permissions, jwt } => {
                let matters = permissions.iter().any(|one| one.action != default);
                all.extend(jwt.iter().map(|jwt| (String::new(), matters, jwt)));
                for (number, one) in permissions.iter().enumerate() {
                    let place = format!("Permissions/{number}/JWT");
                    all.extend(
                        one.jwt
                            .iter()
                            .map(|jwt| (place.clone(), one.action != default, jwt)),
                    );
                }
            }
            Says::Unreadable { .. } => {}
        }
        for (pointer, matters, jwt) in all {
            if !matters {
                let code = Code::JwtWithoutEffect;
                let text = format!(
                    "the action is the default policy's ({default}), so requests without the JWT fare no worse"
                );
                let answers = self.without_token(intention, &pointer, judges)?;
                self.finding(code, code.severity(), index, &pointer, text, answers);
                continue;
            }
            let unknown = |name: &str| self.entries.has_provider(name) == Some(false);
            let never = match jwt.providers.as_slice() {
                [] => Some("no provider is named".to_owned()),
                all if all.iter().all(|one| unknown(&one.name)) => {
                    let names: Vec<String> =
                        all.iter().map(|one| format!("`{}`", one.name)).collect();
                    Some(format!("there is no `jwt-provider` {}", names.join(" or ")))
                }
                _ => None,
            };
            if let Some(text) = never {
                let code = Code::JwtNeverSatisfied;
                self.finding(code, code.severity(), index, &pointer, text, Vec::new());
            }
        }
        Ok(())
    }

    /// A question without a token.
    fn without_token(
        &self,
        intention: &Intention,
        pointer: &str,
        judges: &mut Judges<'_>,
    ) -> Result<Vec<Evidence>, LintError> {
        let Some(uri) = caller(intention, ANY_SERVICE, self.settings) else {
            return Ok(Vec::new());
        };
        let number = pointer
            .split('/')
            .nth(1)
            .and_then(|part| part.parse::<usize>().ok());
        let asked = match (&intention.rule, number) {
            (Says::Requests { permissions, .. }, number) => permissions
                .get(number.unwrap_or(0))
                .and_then(|one| super::requests(&one.http).into_iter().next()),
            _ if self.is_http() => Some(Asked::new("GET", "/")),
            _ => None,
        };
        let judge = judges.by(self.settings.matching);
        let answer = self.ask(judge, &uri, asked.as_ref().map(|asked| (asked, Http1)))?;
        Ok(answer.into_iter().collect())
    }

    /// Envoy gets names as patterns.
    fn name(
        &mut self,
        index: usize,
        intention: &Intention,
        judges: &mut Judges<'_>,
    ) -> Result<(), LintError> {
        let name = &*intention.source.name;
        if !name.contains('.') || name == "*" {
            return Ok(());
        }
        let other = name.replace('.', "x");
        let is_read_so =
            Pattern::parse(name).is_ok_and(|name| name.is_full_match(other.as_bytes()));
        let uri = caller(intention, ANY_SERVICE, self.settings);
        let Some(uri) = uri.filter(|_| is_read_so) else {
            return Ok(());
        };
        let Some(stem) = uri.strip_suffix(name) else {
            return Ok(());
        };
        let other_uri = format!("{stem}{other}");
        if SpiffeId::parse(&other_uri).is_err() {
            return Ok(());
        }
        let answer = self.ask(judges.by(self.settings.matching), &other_uri, None)?;
        let ours = u32::try_from(index).ok();
        if answer
            .as_ref()
            .is_some_and(|answer| answer.intention == ours)
        {
            return Ok(());
        }
        let code = Code::EnvoyNamePattern;
        let text = format!(
            "Envoy reads `{name}` as a regular expression, which `{other}` matches too; Portcullis compares names"
        );
        let pointer = "SourceName";
        self.finding(
            code,
            code.severity(),
            index,
            pointer,
            text,
            answer.into_iter().collect(),
        );
        Ok(())
    }

    /// Envoy, as Consul configures it, lets a later rule act whose source is narrower.
    fn order(
        &mut self,
        earlier: usize,
        wider: &Intention,
        index: usize,
        intention: &Intention,
        judges: &mut Judges<'_>,
    ) -> Result<(), LintError> {
        let stars = |one: &Intention| {
            [&one.source.namespace, &one.source.name]
                .iter()
                .filter(|name| &****name == "*")
                .count()
        };
        if !wider.covers_target
            || matches!(wider.rule, Says::Unreadable { .. })
            || stars(intention) >= stars(wider)
            || !same_origin(&wider.source.origin, &intention.source.origin)
        {
            return Ok(());
        }
        let default = match self.settings.default_policy {
            DefaultPolicy::Allow => Action::Allow,
            _ => Action::Deny,
        };
        let acts = |rule: &Says| match rule {
            Says::Connection { action, .. } => *action != default,
            Says::Requests { permissions, .. } => {
                permissions.iter().any(|one| one.action != default)
            }
            Says::Unreadable { .. } => false,
        };
        let acts_on_all = matches!(
            wider.rule,
            Says::Connection { action, jwt: None } if action != default
        );
        if !acts(&intention.rule) || acts_on_all {
            return Ok(());
        }
        let Some(uri) = caller(intention, ANY_SERVICE, self.settings) else {
            return Ok(());
        };
        let asked = match &intention.rule {
            Says::Requests { permissions, .. } if self.is_http() => permissions
                .iter()
                .find(|one| one.action != default)
                .and_then(|one| super::requests(&one.http).into_iter().next()),
            _ if self.is_http() => Some(Asked::new("GET", "/")),
            _ => None,
        };
        let request = asked.as_ref().map(|asked| (asked, Http1));
        let answer = self.ask(judges.by(Matching::Envoy), &uri, request)?;
        let Some(answer) = answer.filter(|answer| answer.intention == u32::try_from(earlier).ok())
        else {
            return Ok(());
        };
        let severity = match answer.effect {
            // We would let through what a sidecar refuses.
            "allow" => Severity::Error,
            _ => Severity::Warning,
        };
        let text = format!(
            "for the same client `{wider}` decides, here and in Consul's documentation, but Envoy, as Consul configures it, lets `{intention}` act, whose source is narrower"
        );
        self.finding(
            Code::EnvoyPrecedence,
            severity,
            index,
            "",
            text,
            vec![answer],
        );
        Ok(())
    }
}

fn same_origin(a: &Origin, b: &Origin) -> bool {
    match (a, b) {
        (Origin::Local(a), Origin::Local(b)) => a.eq_ignore_ascii_case(b),
        (Origin::Peer(a), Origin::Peer(b)) => a == b,
        _ => false,
    }
}
