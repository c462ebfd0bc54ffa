//! What a request was seen as, and how each permission answered: notes of a trace.
//!
//! Values of headers are never among them, nor is the query.

use std::cell::OnceCell;

use super::judge::{self, Asked};
use super::mesh::Mesh;
use super::service::Service;
use super::tokens::{RequestTokens, requirements};
use crate::http::{Preparation, Prepared, RequestRef};
use crate::identity::Excerpt;
use crate::intention::matcher::{Answer, Miss};
use crate::intention::{Action, Decision, Matching, Permission, Rule, Tokens as _};
use crate::jwt::{Standing, Unverifiable};

/// How many permissions and readings are listed one by one.
const MAX_LISTED: usize = 200;

/// Notes about a request that a rule was asked about, or could not be.
pub(super) fn notes(
    asked: &Asked<'_>,
    request: RequestRef<'_>,
    decision: &Decision,
) -> Vec<String> {
    let (mesh, service) = (asked.mesh, asked.service);
    let mut notes = Vec::new();
    match judge::prepare(mesh, request) {
        Err(bad) => notes.push(format!("bad request: {bad}")),
        Ok(Preparation::Redirect(_)) => notes.push(
            "the path holds encoded slashes, which the mesh redirects to the path without them"
                .to_owned(),
        ),
        Ok(Preparation::Judged(prepared)) => {
            note_path(&prepared, &mut notes);
            note_repeated(mesh, service, &prepared, decision, &mut notes);
            note_permissions(service, &prepared, decision, &mut notes);
            note_tokens(asked, &prepared, decision, &mut notes);
        }
    }
    notes
}

fn shown(path: &[u8]) -> String {
    Excerpt::of(&String::from_utf8_lossy(path)).to_string()
}

fn note_path(request: &Prepared<'_>, notes: &mut Vec<String>) {
    let Some(path) = request.path() else {
        notes.push("the request has no path".to_owned());
        return;
    };
    let how = match request.changed_target() {
        Some(_) => "in its normalised form, and so it is forwarded",
        None => "as it arrived",
    };
    notes.push(format!("path: judged as `{}`, {how}", shown(path)));
    for other in request.other_paths().iter().take(MAX_LISTED) {
        notes.push(format!(
            "path: strict matching also reads it as `{}`: a denial covers that, and an allow must hold for it",
            shown(other)
        ));
    }
}

/// The permissions that the decision is about.
fn permissions<'s>(service: &'s Service, decision: &Decision) -> Option<&'s [Permission]> {
    match &service.intentions.get(decision.intention?)?.rule {
        Rule::Requests { permissions, .. } => Some(permissions),
        _ => None,
    }
}

/// Headers that a rule looks at and that can be read in several ways.
fn note_repeated(
    mesh: &Mesh,
    service: &Service,
    request: &Prepared<'_>,
    decision: &Decision,
    notes: &mut Vec<String>,
) {
    let headers = permissions(service, decision)
        .unwrap_or_default()
        .iter()
        .flat_map(|permission| &permission.http.headers);
    let mut names: Vec<String> = headers
        .filter(|header| !header.name.starts_with(':') && request.is_ambiguous(&header.name))
        .map(|header| header.name.to_ascii_lowercase())
        .collect();
    names.sort_unstable();
    names.dedup();
    for name in names.iter().take(MAX_LISTED) {
        notes.push(format!(
            "header `{}`: {} matching reads its values in several ways",
            Excerpt::of(name),
            mesh.matching.code()
        ));
    }
}

fn note_permissions(
    service: &Service,
    request: &Prepared<'_>,
    decision: &Decision,
    notes: &mut Vec<String>,
) {
    let compiled = decision
        .intention
        .and_then(|index| service.intentions.permissions(index));
    let (Some(permissions), Some(compiled)) = (permissions(service, decision), compiled) else {
        return;
    };
    let answers = compiled.answers(request, decision.permission);
    let mut nearest = None;
    let decides = |index: usize| u32::try_from(index).ok() == decision.permission;
    for (index, (permission, answer)) in permissions.iter().zip(&answers).enumerate() {
        let said = match answer {
            Answer::Matches => "matches".to_owned(),
            // What decides all the same, because of its token.
            Answer::Misses(miss) if decides(index) => format!(
                "matches in another reading only ({}), and no later permission may allow without its token",
                why_not(permission, *miss)
            ),
            Answer::Misses(miss) => {
                if nearest.is_none_or(|(_, nearest)| *miss > nearest) {
                    nearest = Some((index, *miss));
                }
                format!("no: {}", why_not(permission, *miss))
            }
        };
        if index < MAX_LISTED || !matches!(answer, Answer::Misses(_)) {
            notes.push(format!("permission {index} ({permission}): {said}"));
        }
    }
    let has_matched = decision.permission.is_some()
        || answers
            .iter()
            .any(|answer| matches!(answer, Answer::Matches));
    if let (false, Some((index, miss))) = (has_matched, nearest)
        && let Some(permission) = permissions.get(index)
        && miss != Miss::Path
    {
        notes.push(format!(
            "nearest miss: permission {index}, all but {}",
            part(permission, miss)
        ));
    }
}

/// How the request stands with each provider that the deciding rule asks for. Nothing of
/// a token is said.
fn note_tokens(
    asked: &Asked<'_>,
    request: &Prepared<'_>,
    decision: &Decision,
    notes: &mut Vec<String>,
) {
    let index = decision.intention;
    let Some(intention) = index.and_then(|index| asked.service.intentions.get(index)) else {
        return;
    };
    let tokens = RequestTokens {
        mesh: asked.mesh,
        key_sets: asked.key_sets,
        request,
        now: asked.now,
        verifier: OnceCell::new(),
    };
    let permission = permissions(asked.service, decision)
        .zip(decision.permission.and_then(|at| usize::try_from(at).ok()))
        .and_then(|(permissions, at)| permissions.get(at));
    let action = match (&intention.rule, permission) {
        (_, Some(permission)) => permission.action,
        (Rule::Connection { action, .. }, None) => *action,
        _ => Action::Allow,
    };
    for jwt in requirements(Some(&intention.rule), decision.permission) {
        let met = match tokens.is_met(jwt, action) {
            true => "met",
            false => "not met",
        };
        notes.push(format!("JWT: the requirement is {met}"));
        if jwt.providers.is_empty() {
            notes.push("JWT: the rule names no provider, so no token is enough".to_owned());
        }
        for wanted in jwt.providers.iter().take(MAX_LISTED) {
            let name = Excerpt::of(&wanted.name);
            let said = match tokens.verifier().standing(&wanted.name) {
                Standing::Unknown => "there is no such provider".to_owned(),
                Standing::Absent => "the request carries no token".to_owned(),
                Standing::Invalid(error) => error.to_string(),
                Standing::Unverifiable(Unverifiable::NotLoaded) => {
                    "nobody has said which providers there are, so nothing is accepted and a denial holds"
                        .to_owned()
                }
                Standing::Unverifiable(Unverifiable::Unreadable) => {
                    "its config entry cannot be read, so nothing is accepted".to_owned()
                }
                Standing::Unverifiable(Unverifiable::NoKeys) => {
                    "its keys are not loaded or too old, so nothing is accepted".to_owned()
                }
                Standing::Unverifiable(Unverifiable::TooMany) => {
                    "the request carries more tokens than are verified".to_owned()
                }
                Standing::Valid { strictly: false } if asked.mesh.matching == Matching::Strict => {
                    "the token is valid to Envoy only: strict matching does not let it allow"
                        .to_owned()
                }
                Standing::Valid { .. } => "the token is valid".to_owned(),
            };
            notes.push(format!("JWT provider `{name}`: {said}"));
            for claim in wanted.claims.iter().take(MAX_LISTED) {
                let path = Excerpt::of(&claim.path.join(".")).to_string();
                let holds = match tokens.verifier().says(&wanted.name, claim) {
                    Some(true) => "is what it must be",
                    Some(false) => "is not what it must be, or no text",
                    None => continue,
                };
                notes.push(format!("JWT provider `{name}`: claim `{path}` {holds}"));
            }
        }
    }
}

fn part(permission: &Permission, miss: Miss) -> String {
    match miss {
        Miss::Path => "the path".to_owned(),
        Miss::Method => "the method".to_owned(),
        Miss::Header(place) => permission
            .http
            .headers
            .get(place)
            .map_or_else(|| "a header".to_owned(), |header| format!("the {header}")),
    }
}

fn why_not(permission: &Permission, miss: Miss) -> String {
    format!("{} does not match", part(permission, miss))
}
