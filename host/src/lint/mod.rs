//! Finds rules that do not do what they say, and proves it with a request where it can.
//!
//! Nothing is judged here: what a finding claims about a request is what a policy answers
//! about it. `host/POLICY-TOOLS.md` lists the codes.

mod escape;
mod finding;
mod permissions;
mod reach;
mod rules;
mod sample;

use portcullis_core::intention::{DefaultPolicy, Destination, IntentionSet, Matching};
use portcullis_core::policy::HttpVersion;

use crate::entries::{Asked, Entries, EntriesError, Judge, JudgeError, Rule, Settings};
use crate::runtime::{Policy, PolicyError};

pub(crate) use finding::version_name;
pub use finding::{Code, Evidence, Finding, Severity};
pub(crate) use sample::requests;

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum LintError {
    /// The entries cannot be read.
    #[error(transparent)]
    Entries(#[from] EntriesError),
    /// The policy cannot be asked.
    #[error(transparent)]
    Judge(#[from] JudgeError),
    /// The policy cannot be made.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

/// Looks at all entries. Policies to ask come from `new_policy`.
///
/// # Errors
/// When the entries cannot be read as lists of intentions, or a policy fails.
pub fn lint(
    entries: &Entries,
    settings: &Settings,
    new_policy: impl Fn() -> Result<Policy, PolicyError>,
) -> Result<Vec<Finding>, LintError> {
    let judge = |matching| -> Result<Judge<'_>, LintError> {
        let settings = settings.with_matching(matching);
        Ok(Judge::new(new_policy()?, entries, settings)?)
    };
    // A mesh without rules, to see what becomes of a path.
    let bare = entries.without_rules();
    let open = Settings::new(&bare, DefaultPolicy::Allow, Matching::Envoy);
    let mut judges = Judges {
        strict: judge(Matching::Strict)?,
        envoy: judge(Matching::Envoy)?,
        paths: Judge::new(new_policy()?, &bare, open)?,
    };
    let mut found = Vec::new();
    for target in entries.targets() {
        let (set, problems) = entries.decode(&target)?;
        let mut list = Target {
            entries,
            settings,
            target: &target,
            set: &set,
            rules: entries.rules_of(&target),
            found: &mut found,
        };
        list.problems(&problems, &mut judges)?;
        list.intentions(&mut judges)?;
        for index in 0..set.intentions().len() {
            list.permissions(index, &mut judges)?;
        }
    }
    // Rules with `*` as destination are in the list of each one.
    found.sort_by(|a, b| {
        let key = |one: &Finding| (one.place.clone(), one.rule.clone(), one.code, one.severity);
        key(a).cmp(&key(b))
    });
    found.dedup_by(|a, b| a.place == b.place && a.code == b.code && a.rule == b.rule);
    Ok(found)
}

/// Policies with the same entries.
pub(crate) struct Judges<'e> {
    strict: Judge<'e>,
    envoy: Judge<'e>,
    paths: Judge<'e>,
}

impl<'e> Judges<'e> {
    fn by(&mut self, matching: Matching) -> &mut Judge<'e> {
        match matching {
            Matching::Strict => &mut self.strict,
            Matching::Envoy => &mut self.envoy,
        }
    }
}

/// The list of one destination, while it is looked at.
pub(crate) struct Target<'l> {
    entries: &'l Entries,
    settings: &'l Settings,
    target: &'l Destination,
    set: &'l IntentionSet,
    rules: Vec<&'l Rule>,
    found: &'l mut Vec<Finding>,
}

impl Target<'_> {
    /// Whether requests of the destination are judged.
    fn is_http(&self) -> bool {
        self.entries.supposed_protocol(self.target) != "tcp"
    }

    /// What a policy answers.
    fn ask(
        &self,
        judge: &mut Judge<'_>,
        uri: &str,
        request: Option<(&Asked, HttpVersion)>,
    ) -> Result<Option<Evidence>, LintError> {
        let Some(decision) = judge.decide(self.target, uri, request)? else {
            return Ok(None);
        };
        Ok(Some(Evidence {
            source: uri.to_owned(),
            request: request.map(|(asked, version)| (asked.clone(), version)),
            matching: judge.settings.matching.code(),
            effect: decision.effect.code(),
            code: decision.code.code(),
            intention: decision.intention,
            permission: decision.permission,
            text: judge.describe(self.target, &decision),
        }))
    }

    fn finding(
        &mut self,
        code: Code,
        severity: Severity,
        index: usize,
        pointer: &str,
        text: String,
        evidence: Vec<Evidence>,
    ) {
        let intention = self.set.intentions().get(index);
        let rule = intention.map(ToString::to_string).unwrap_or_default();
        let place = intention
            .and_then(|intention| usize::try_from(intention.place).ok())
            .and_then(|place| self.rules.get(place))
            .map(|rule| rule.place(pointer));
        let Some(place) = place else { return };
        self.found.push(Finding {
            code,
            severity,
            place,
            destination: self.target.to_string(),
            rule,
            text,
            evidence,
        });
    }
}
