//! What a request was seen as, and how each permission answered: notes of a trace.
//!
//! Values of headers are never among them, nor is the query.

use super::judge;
use super::mesh::Mesh;
use super::service::Service;
use crate::http::{Preparation, Prepared, Request};
use crate::identity::Excerpt;
use crate::intention::matcher::{Answer, Miss};
use crate::intention::{Decision, Permission, Rule};

/// How many permissions and readings are listed one by one.
const MAX_LISTED: usize = 200;

/// Notes about a request that a rule was asked about, or could not be.
pub(super) fn notes(
    mesh: &Mesh,
    service: &Service,
    request: &Request,
    decision: &Decision,
) -> Vec<String> {
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
    let answers = compiled.answers(request);
    let mut nearest = None;
    for (index, (permission, answer)) in permissions.iter().zip(&answers).enumerate() {
        let said = match answer {
            Answer::Matches => "matches".to_owned(),
            Answer::NotJudged => "asks for something that this version does not judge".to_owned(),
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
    let has_matched = answers
        .last()
        .is_some_and(|last| !matches!(last, Answer::Misses(_)));
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
