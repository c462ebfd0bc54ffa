//! Which permission takes the requests of a later one: containment that holds for every
//! request, part by part. What cannot be shown is not claimed.

use portcullis_core::intention::{
    Action, HeaderMatch, Matching, PathMatch, Permission, ValueMatch,
};

use super::sample::{beginnings, same_field};

/// Whether each request that `later` is about is one of `earlier`'s, for one reading.
pub(crate) fn contains(earlier: &Permission, later: &Permission) -> bool {
    later.http.methods.is_empty() && takes(earlier, later, None)
        || !later.http.methods.is_empty()
            && later
                .http
                .methods
                .iter()
                .all(|method| takes(earlier, later, Some(method)))
}

/// The earlier permissions that together take all that `later` could decide; `None` where
/// that cannot be shown. With strict matching an allow must hold in every reading, so it
/// never takes all of a denial, which holds in any.
pub(crate) fn takers(
    earlier: &[Permission],
    later: &Permission,
    matching: Matching,
) -> Option<Vec<usize>> {
    let may = |one: &Permission| {
        matching == Matching::Envoy || one.action == Action::Deny || later.action == Action::Allow
    };
    let taker = |method: Option<&String>| {
        earlier
            .iter()
            .position(|one| may(one) && takes(one, later, method))
    };
    if later.http.methods.is_empty() {
        return taker(None).map(|one| vec![one]);
    }
    let mut all: Vec<usize> = later
        .http
        .methods
        .iter()
        .map(|method| taker(Some(method)))
        .collect::<Option<_>>()?;
    all.sort_unstable();
    all.dedup();
    Some(all)
}

/// Whether `earlier` takes the requests of `later` that have this method.
fn takes(earlier: &Permission, later: &Permission, method: Option<&String>) -> bool {
    let methods = &earlier.http.methods;
    let method = methods.is_empty() || method.is_some_and(|method| methods.contains(method));
    // What becomes of a request whose token is not valid is not looked into here.
    method
        && earlier.jwt.is_none()
        && path(earlier.http.path.as_ref(), later.http.path.as_ref())
        && earlier.http.headers.iter().all(|wanted| {
            let given = &later.http.headers;
            given.iter().any(|given| implies(given, wanted))
        })
}

fn path(earlier: Option<&PathMatch>, later: Option<&PathMatch>) -> bool {
    let Some(earlier) = earlier else { return true };
    match (earlier, later) {
        (_, None) => false,
        (PathMatch::Exact(all), Some(PathMatch::Exact(one))) => all == one,
        (PathMatch::Prefix(all), Some(PathMatch::Exact(one) | PathMatch::Prefix(one))) => {
            one.starts_with(all.as_str())
        }
        (PathMatch::Prefix(all), Some(PathMatch::Regex(one))) => {
            beginnings(one).is_some_and(|begins| {
                !begins.is_empty() && begins.iter().all(|one| one.starts_with(all.as_bytes()))
            })
        }
        (PathMatch::Regex(all), Some(PathMatch::Exact(one))) => all.is_full_match(one.as_bytes()),
        (PathMatch::Regex(all), Some(PathMatch::Regex(one))) => all == one,
        // Paths that begin with a slash have no line break.
        (PathMatch::Regex(all), Some(PathMatch::Prefix(_))) => {
            matches!(all.as_str(), ".*" | "/.*")
        }
        (PathMatch::Exact(_), Some(_)) => false,
    }
}

/// Whether a request that has `given` also has `wanted`.
fn implies(given: &HeaderMatch, wanted: &HeaderMatch) -> bool {
    if !same_field(&given.name, &wanted.name) {
        return false;
    }
    let is_absence = |one: &HeaderMatch| one.invert && one.value == ValueMatch::Present;
    match (&wanted.value, wanted.invert) {
        (ValueMatch::Present, false) => !is_absence(given),
        (ValueMatch::Present, true) => is_absence(given),
        _ if is_absence(given) || given.invert != wanted.invert => false,
        (_, false) => within(given, wanted),
        (_, true) => within(wanted, given),
    }
}

/// Whether each value that `small` is about is one of `large`'s, inversion aside.
fn within(small: &HeaderMatch, large: &HeaderMatch) -> bool {
    use ValueMatch::{Contains, Exact, Prefix, Regex, Suffix};
    if small.ignore_case && !large.ignore_case {
        return false;
    }
    let fold = |text: &String| match large.ignore_case {
        true => text.to_ascii_lowercase(),
        false => text.clone(),
    };
    match (&small.value, &large.value) {
        (Regex(one), Regex(all)) => one == all,
        (Exact(one), Regex(all)) => !small.ignore_case && all.is_full_match(one.as_bytes()),
        (Exact(one), Exact(all)) => fold(one) == fold(all),
        (Exact(one) | Prefix(one), Prefix(all)) => fold(one).starts_with(&fold(all)),
        (Exact(one) | Suffix(one), Suffix(all)) => fold(one).ends_with(&fold(all)),
        (Exact(one) | Prefix(one) | Suffix(one) | Contains(one), Contains(all)) => {
            fold(one).contains(&fold(all))
        }
        _ => false,
    }
}
