//! The match reply's list of intentions for one destination.
//!
//! A rule that cannot be read denies whatever reaches it: it can neither vanish nor
//! keep later changes from being taken over. If even its source or its destination
//! cannot be read, it covers every client or every destination.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::error::{DecodeError, Problem};
use super::json::{self, At, Fields, Flaw};
use super::model::{Action, Description, Intention, Rule};
use super::pattern::{
    DEFAULT, Destination, DestinationPattern, Origin, Source, WILDCARD, is_plain,
};
use super::permission::{Jwt, Permission};
use super::precedence;
use crate::identity::Excerpt;

/// How many intentions one destination may have.
pub const MAX_INTENTIONS: usize = 65_536;
/// How many bytes one destination's list may have.
pub const MAX_LIST: usize = 32 * 1024 * 1024;
/// How many problems are reported one by one.
const MAX_PROBLEMS: usize = 100;

/// What is known beside the names: fields that do not decide.
const DESCRIPTIVE: [&str; 9] = [
    "ID",
    "Description",
    "Meta",
    "CreatedAt",
    "UpdatedAt",
    "Hash",
    "Precedence",
    "CreateIndex",
    "ModifyIndex",
];

/// Problems, the first [`MAX_PROBLEMS`] of them in full.
#[derive(Default)]
struct Problems {
    kept: Vec<Problem>,
    more: usize,
}

impl Problems {
    fn push(&mut self, pointer: String, text: String, denies: bool) {
        if self.kept.len() < MAX_PROBLEMS {
            self.kept.push(Problem {
                pointer,
                text,
                denies,
            });
        } else {
            self.more = self.more.saturating_add(1);
        }
    }

    fn finish(mut self) -> Vec<Problem> {
        if self.more > 0 {
            let text = format!("{} more problems are not listed", self.more);
            self.kept.push(Problem {
                pointer: String::new(),
                text,
                denies: false,
            });
        }
        self.kept
    }
}

/// Reads the list, in any order, and returns the intentions in the order in which
/// they are considered, with what could not be read.
pub(super) fn list(
    raw: &RawValue,
    target: &Destination,
) -> Result<(Vec<Intention>, Vec<Problem>), DecodeError> {
    if raw.get().len() > MAX_LIST {
        return Err(DecodeError::TooLarge { limit: MAX_LIST });
    }
    if raw.get() == "null" {
        return Ok((Vec::new(), Vec::new()));
    }
    if !raw.get().starts_with('[') {
        return Err(DecodeError::NotAList(json::type_of(raw)));
    }
    let items = json::items(raw, &At::ROOT).map_err(|flaw| DecodeError::Syntax(flaw.text))?;
    if items.len() > MAX_INTENTIONS {
        return Err(DecodeError::TooMany {
            limit: MAX_INTENTIONS,
        });
    }
    let mut problems = Problems::default();
    let mut intentions: Vec<Intention> = items
        .into_iter()
        .enumerate()
        .map(|(place, raw)| intention(raw, place, target, &mut problems))
        .collect();
    intentions.sort_by(precedence::order);
    report_twins(&intentions, &mut problems);
    Ok((intentions, problems.finish()))
}

/// Reads one intention; what cannot be read makes it deny.
fn intention(
    raw: &RawValue,
    place: usize,
    target: &Destination,
    problems: &mut Problems,
) -> Intention {
    let at = At::ROOT.index(place);
    let place = u32::try_from(place).unwrap_or(u32::MAX);
    let mut fields = match Fields::of(raw, &at) {
        Ok(fields) => fields,
        Err(flaw) => {
            let said = format!("{}; this rule denies every client", flaw.text);
            problems.push(flaw.pointer.clone(), said, true);
            return unreadable(place, flaw);
        }
    };
    let mut flaws = Vec::new();
    let source = keep(source(&mut fields, &at), &mut flaws);
    let destination = keep(destination(&mut fields, &at), &mut flaws);
    let rule = keep(
        rule(&mut fields, &at, source.as_ref().is_some_and(|s| s.1)),
        &mut flaws,
    );
    let mut warnings = Vec::new();
    let description = describe(&mut fields, &at, &mut warnings);
    unknown(&fields, &at, &mut flaws, &mut warnings);

    let source = source.map(|(source, _)| source);
    let covers_target = destination.as_ref().is_none_or(|d| d.covers(target));
    let level = precedence::level(source.as_ref(), destination.as_ref());
    let mut intention = Intention {
        source: source.unwrap_or_else(Source::everybody),
        destination,
        rule: Rule::Unreadable {
            pointer: String::new(),
            text: String::new(),
        },
        precedence: level,
        covers_target,
        place,
        description,
    };
    if let (Some(rule), true) = (rule, flaws.is_empty()) {
        intention.rule = rule;
    } else {
        for flaw in &flaws {
            let said = format!("{}; {}", flaw.text, consequence(&intention));
            problems.push(flaw.pointer.clone(), said, true);
        }
        if let Some(flaw) = flaws.into_iter().next() {
            intention.rule = Rule::Unreadable {
                pointer: flaw.pointer,
                text: flaw.text,
            };
        }
    }
    warn(&intention, &at, target, &mut warnings);
    for flaw in warnings {
        problems.push(flaw.pointer, flaw.text, false);
    }
    intention
}

fn unreadable(place: u32, flaw: Flaw) -> Intention {
    Intention {
        source: Source::everybody(),
        destination: None,
        rule: Rule::Unreadable {
            pointer: flaw.pointer,
            text: flaw.text,
        },
        precedence: precedence::level(None, None),
        covers_target: true,
        place,
        description: Description::default(),
    }
}

fn keep<T>(read: Result<T, Flaw>, flaws: &mut Vec<Flaw>) -> Option<T> {
    read.map_err(|flaw| flaws.push(flaw)).ok()
}

/// What follows from a flaw, for people.
fn consequence(intention: &Intention) -> String {
    if !intention.covers_target {
        return format!("the rule `{intention}` is not about this service and never decides");
    }
    if intention.source == Source::everybody() {
        return "this rule denies every client".to_owned();
    }
    format!("the rule `{intention}` denies every client that it covers")
}

/// The source, and whether it stands for a sameness group.
fn source(fields: &mut Fields<'_>, at: &At<'_>) -> Result<(Source, bool), Flaw> {
    let name = fields.take_text("SourceName", at)?;
    let namespace = fields.take_text("SourceNS", at)?;
    let partition = fields.take_text("SourcePartition", at)?;
    let peer = fields.take_text("SourcePeer", at)?;
    let group = fields.take_text("SourceSamenessGroup", at)?;
    // Asked for again with the rule; here it must only not hide behind the prefix.
    let kind = fields.take_text("SourceType", at)?;
    if let Some(kind) = kind.filter(|kind| kind != "consul") {
        let text = format!("`{}` is not a source type", Excerpt::of(&kind));
        return Err(at.key("SourceType").flaw(text));
    }
    no_other(fields, "source", at)?;

    let (namespace, name) = names(
        (namespace, &at.key("SourceNS")),
        (name, &at.key("SourceName")),
    )?;
    let origin = match (peer, partition) {
        _ if group.is_some() => Origin::Anywhere,
        (Some(peer), partition) => {
            no_wildcard(&peer, &at.key("SourcePeer"))?;
            if partition.is_some_and(|partition| partition != DEFAULT) {
                let text = "a source has either a partition or a peer";
                return Err(at.key("SourcePartition").flaw(text));
            }
            Origin::Peer(peer.into())
        }
        (None, partition) => Origin::Local(local_partition(partition, &at.key("SourcePartition"))?),
    };
    let is_group = group.is_some();
    Ok((
        Source {
            origin,
            namespace,
            name,
        },
        is_group,
    ))
}

fn destination(fields: &mut Fields<'_>, at: &At<'_>) -> Result<DestinationPattern, Flaw> {
    let name = fields.take_text("DestinationName", at)?;
    let namespace = fields.take_text("DestinationNS", at)?;
    let partition = fields.take_text("DestinationPartition", at)?;
    no_other(fields, "destination", at)?;
    let (namespace, name) = names(
        (namespace, &at.key("DestinationNS")),
        (name, &at.key("DestinationName")),
    )?;
    let partition = local_partition(partition, &at.key("DestinationPartition"))?;
    Ok(DestinationPattern {
        partition,
        namespace: namespace.to_ascii_lowercase().into(),
        name: name.to_ascii_lowercase().into(),
    })
}

/// A namespace, `default` where absent, and a name; either may be `*`.
fn names(
    (namespace, namespace_at): (Option<Cow<'_, str>>, &At<'_>),
    (name, name_at): (Option<Cow<'_, str>>, &At<'_>),
) -> Result<(Box<str>, Box<str>), Flaw> {
    let name = name.ok_or_else(|| name_at.flaw("this field is missing"))?;
    let namespace = namespace.unwrap_or(Cow::Borrowed(DEFAULT));
    for (text, at) in [(&namespace, namespace_at), (&name, name_at)] {
        if text != WILDCARD {
            no_wildcard(text, at)?;
        }
    }
    if namespace == WILDCARD && name != WILDCARD {
        return Err(name_at.flaw("a single name in every namespace is not possible"));
    }
    Ok((namespace.into(), name.into()))
}

/// Consul compares partitions without regard to case and knows no wildcard for them.
fn local_partition(partition: Option<Cow<'_, str>>, at: &At<'_>) -> Result<Box<str>, Flaw> {
    let partition = partition.unwrap_or(Cow::Borrowed(DEFAULT));
    no_wildcard(&partition, at)?;
    Ok(partition.to_ascii_lowercase().into())
}

fn no_wildcard(text: &str, at: &At<'_>) -> Result<(), Flaw> {
    if text.contains('*') {
        return Err(at.flaw(format!(
            "`{}` has a wildcard where none is possible",
            Excerpt::of(text)
        )));
    }
    Ok(())
}

/// A field about the source or the destination that is not known may change whom
/// the rule covers.
fn no_other(fields: &Fields<'_>, prefix: &str, at: &At<'_>) -> Result<(), Flaw> {
    let other = fields.rest().find(|(name, _)| {
        name.get(..prefix.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    });
    match other {
        Some((name, _)) => Err(at
            .key(name)
            .flaw("this field is not known and may change whom the rule covers")),
        None => Ok(()),
    }
}

fn rule(fields: &mut Fields<'_>, at: &At<'_>, is_group: bool) -> Result<Rule, Flaw> {
    // All three are taken before any is judged, so that none is later called unknown.
    let action = fields.take_text("Action", at);
    let permissions = fields.take_items("Permissions", at);
    let jwt = Jwt::take(fields, at);
    let (action, permissions, jwt) = (action?, permissions?, jwt?);
    if is_group {
        return Err(at
            .key("SourceSamenessGroup")
            .flaw("this sameness group is not resolved"));
    }
    match (action, permissions.is_empty()) {
        (None, true) => Err(at.flaw("this rule has neither `Action` nor `Permissions`")),
        (Some(_), false) => Err(at.flaw("this rule has both `Action` and `Permissions`")),
        (Some(action), true) => match Action::parse(&action) {
            Some(action) => Ok(Rule::Connection { action, jwt }),
            None => {
                let text = format!("`{}` is not an action", Excerpt::of(&action));
                Err(at.key("Action").flaw(text))
            }
        },
        (None, false) => {
            let list = at.key("Permissions");
            let permissions = permissions
                .into_iter()
                .enumerate()
                .map(|(i, raw)| Permission::decode(raw, &list.index(i)))
                .collect::<Result<Vec<_>, _>>()?;
            Ok(Rule::Requests { permissions, jwt })
        }
    }
}

/// The fields that do not decide; those of another type are left out with a warning.
fn describe(fields: &mut Fields<'_>, at: &At<'_>, warnings: &mut Vec<Flaw>) -> Description {
    let mut take_text = |key, warnings: &mut Vec<Flaw>| match fields.take_text(key, at) {
        Ok(text) => text.map(Cow::into_owned),
        Err(flaw) => {
            warnings.push(flaw);
            None
        }
    };
    let description = take_text("Description", warnings);
    let legacy_id = take_text("ID", warnings);
    let created_at = take_text("CreatedAt", warnings);
    let updated_at = take_text("UpdatedAt", warnings);
    let hash = take_text("Hash", warnings);
    let mut take_number = |key, warnings: &mut Vec<Flaw>| {
        let number = fields
            .take(key, at)
            .and_then(|raw| raw.map(|raw| json::unsigned(raw, &at.key(key))).transpose());
        number.unwrap_or_else(|flaw| {
            warnings.push(flaw);
            None
        })
    };
    let stated_precedence = take_number("Precedence", warnings);
    let create_index = take_number("CreateIndex", warnings);
    let modify_index = take_number("ModifyIndex", warnings);
    let meta = meta(fields, at).unwrap_or_else(|flaw| {
        warnings.push(flaw);
        Vec::new()
    });
    Description {
        description,
        legacy_id,
        meta,
        created_at,
        updated_at,
        hash,
        stated_precedence,
        create_index,
        modify_index,
    }
}

fn meta(fields: &mut Fields<'_>, at: &At<'_>) -> Result<Vec<(String, String)>, Flaw> {
    let Some(raw) = fields.take("Meta", at)? else {
        return Ok(Vec::new());
    };
    let at = at.key("Meta");
    Fields::of(raw, &at)?
        .rest()
        .map(|(key, raw)| Ok((key.to_owned(), json::text(raw, &at.key(key))?.into_owned())))
        .collect()
}

/// A field that is not known: a plain value only describes, a structure may decide.
fn unknown(fields: &Fields<'_>, at: &At<'_>, flaws: &mut Vec<Flaw>, warnings: &mut Vec<Flaw>) {
    const DECIDING: [&str; 3] = ["Action", "Permissions", "JWT"];
    let has_prefix = |name: &str, prefix: &str| {
        name.get(..prefix.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    for (name, raw) in fields.rest() {
        let reported = has_prefix(name, "Source")
            || has_prefix(name, "Destination")
            || DECIDING.iter().any(|known| json::folds_equal(name, known));
        // Left in place because it is repeated or of odd case, and said so already.
        if reported || DESCRIPTIVE.contains(&name) {
            continue;
        }
        let flaw = |text: &str| at.key(name).flaw(text);
        if json::is_structure(raw)
            && !DESCRIPTIVE
                .iter()
                .any(|known| json::folds_equal(name, known))
        {
            flaws.push(flaw("this field is not known and may decide"));
        } else {
            warnings.push(flaw("this field is not known and ignored"));
        }
    }
}

/// What a reader of the policy should know although nothing is unreadable.
fn warn(intention: &Intention, at: &At<'_>, target: &Destination, warnings: &mut Vec<Flaw>) {
    if let Some(destination) = intention
        .destination
        .as_ref()
        .filter(|_| !intention.covers_target)
    {
        warnings.push(at.flaw(format!(
            "the rule is about `{destination}`, not about `{target}`, and never decides"
        )));
    }
    if let Some(stated) = intention.description.stated_precedence
        && stated != u64::from(intention.precedence)
        && intention.destination.is_some()
    {
        warnings.push(at.key("Precedence").flaw(format!(
            "the reply says {stated}, but by its names the rule `{intention}` has precedence {}, which counts",
            intention.precedence
        )));
    }
    let names = [&intention.source.namespace, &intention.source.name];
    if names
        .iter()
        .any(|name| &***name != WILDCARD && !is_plain(name))
    {
        warnings.push(at.flaw(format!(
            "no SPIFFE ID can carry the source's name, so the rule `{intention}` covers nobody"
        )));
    }
}

/// Rules of equal names are no valid state of Consul.
fn report_twins(intentions: &[Intention], problems: &mut Problems) {
    for pair in intentions.windows(2) {
        let [first, second] = pair else { continue };
        let readable = first.destination.is_some() && first.source != Source::everybody();
        if readable && first.source == second.source && first.destination == second.destination {
            problems.push(
                format!("/{}", second.place),
                format!("the rule `{second}` has the same names as `{first}`; the stricter counts"),
                false,
            );
        }
    }
}
