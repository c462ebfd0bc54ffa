//! The permissions of one intention, compiled: names once in lower case, patterns ready.
//!
//! A permission is asked in one of three ways. As Envoy does: what the first reading of
//! a request says. Strictly, an allow must hold in every reading, and a denial in any.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use memchr::memmem::Finder;

use super::model::Action;
use super::permission::{HeaderMatch, PathMatch, Permission, ValueMatch};
use super::set::Matching;
use crate::http::{Field, Found, Prepared, Reading};
use crate::re2::Pattern;

/// The permissions of one intention.
#[derive(Clone, Debug)]
pub(crate) struct Permissions {
    /// Every field that a permission looks at, once.
    fields: Vec<Field>,
    permissions: Vec<Test>,
}

/// Fields and their places, while permissions are compiled.
type Fields = BTreeMap<Field, usize>;

/// A permission.
#[derive(Clone, Debug)]
struct Test {
    action: Action,
    path: Option<PathTest>,
    methods: Vec<Box<[u8]>>,
    headers: Vec<HeaderTest>,
}

#[derive(Clone, Debug)]
enum PathTest {
    Exact(Box<[u8]>),
    Prefix(Box<[u8]>),
    Regex(Pattern),
}

#[derive(Clone, Debug)]
struct HeaderTest {
    /// Its place among the fields.
    field: usize,
    value: ValueTest,
    /// Compare ASCII letters without regard to case; the text is in lower case then.
    fold: bool,
    invert: bool,
}

#[derive(Clone, Debug)]
enum ValueTest {
    Present,
    Exact(Box<[u8]>),
    Prefix(Box<[u8]>),
    Suffix(Box<[u8]>),
    Contains(Box<Finder<'static>>),
    Regex(Pattern),
}

/// The first part of a permission that does not hold; what comes later in the order of
/// asking is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Miss {
    /// The path.
    Path,
    /// The method.
    Method,
    /// The header at this place.
    Header(usize),
}

/// How a permission answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It matches.
    Matches,
    /// This part does not hold.
    Misses(Miss),
}

/// In which readings a part must hold.
#[derive(Clone, Copy)]
enum In {
    Envoys,
    Every,
    Any,
}

impl In {
    fn of(action: Action, matching: Matching) -> Self {
        match (matching, action) {
            (Matching::Envoy, _) => Self::Envoys,
            (Matching::Strict, Action::Allow) => Self::Every,
            (Matching::Strict, Action::Deny) => Self::Any,
        }
    }

    /// Whether enough of the readings hold.
    fn holds<T>(self, mut readings: impl Iterator<Item = T>, test: impl Fn(T) -> bool) -> bool {
        match self {
            Self::Envoys => readings.next().is_some_and(test),
            Self::Every => readings.all(test),
            Self::Any => readings.any(test),
        }
    }
}

/// A permission that matches.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matched {
    /// Its place.
    pub(super) place: u32,
    pub(super) action: Action,
    /// In all readings that it must match in; else in some that it may not be followed in.
    pub(super) is_certain: bool,
}

/// A request, with what was looked up in it.
struct Asked<'p, 'r> {
    request: &'p Prepared<'r>,
    found: Vec<OnceCell<Found<'p>>>,
}

impl Permissions {
    pub(super) fn compile(permissions: &[Permission]) -> Self {
        let mut fields = Fields::new();
        let permissions = permissions
            .iter()
            .map(|permission| Test::compile(permission, &mut fields))
            .collect();
        let mut fields: Vec<(Field, usize)> = fields.into_iter().collect();
        fields.sort_by_key(|(_, place)| *place);
        Self {
            fields: fields.into_iter().map(|(field, _)| field).collect(),
            permissions,
        }
    }

    /// A request, to be asked about these permissions.
    fn ask<'p, 'r>(&self, request: &'p Prepared<'r>) -> Asked<'p, 'r> {
        Asked {
            request,
            found: self.fields.iter().map(|_| OnceCell::new()).collect(),
        }
    }

    /// The permissions that match, in order. Of those of which `asks` says so also the ones
    /// that strict matching finds in a part of the readings only.
    pub(super) fn matching<'s, 'r: 's>(
        &'s self,
        request: &'s Prepared<'r>,
        asks: impl Fn(u32) -> bool + 's,
    ) -> impl Iterator<Item = Matched> + 's {
        let asked = self.ask(request);
        let matching = request.matching();
        (0_u32..)
            .zip(&self.permissions)
            .filter_map(move |(place, test)| {
                let holds = |readings| self.answer_of(test, &asked, readings) == Answer::Matches;
                let is_certain = holds(In::of(test.action, matching));
                let is_found =
                    is_certain || (matching == Matching::Strict && asks(place) && holds(In::Any));
                is_found.then_some(Matched {
                    place,
                    action: test.action,
                    is_certain,
                })
            })
    }

    /// Whether the permission at a place matches the request as Envoy reads it.
    pub(super) fn matches_as_envoy(&self, index: u32, request: &Prepared<'_>) -> bool {
        let test = usize::try_from(index)
            .ok()
            .and_then(|index| self.permissions.get(index));
        test.is_some_and(|test| {
            self.answer_of(test, &self.ask(request), In::Envoys) == Answer::Matches
        })
    }

    /// How the permissions answer, in order, up to the one at `last` or all of them.
    pub(crate) fn answers(&self, request: &Prepared<'_>, last: Option<u32>) -> Vec<Answer> {
        let asked = self.ask(request);
        let matching = request.matching();
        (0..=last.unwrap_or(u32::MAX))
            .zip(&self.permissions)
            .map(|(_, test)| self.answer_of(test, &asked, In::of(test.action, matching)))
            .collect()
    }

    fn answer_of(&self, test: &Test, asked: &Asked<'_, '_>, readings: In) -> Answer {
        let request = asked.request;
        match &test.path {
            Some(path) if !path.holds(request, readings) => return Answer::Misses(Miss::Path),
            _ => {}
        }
        let method = request.method();
        if !test.methods.is_empty() && !test.methods.iter().any(|one| **one == *method) {
            return Answer::Misses(Miss::Method);
        }
        for (index, header) in test.headers.iter().enumerate() {
            if !self.header_holds(header, asked, readings) {
                return Answer::Misses(Miss::Header(index));
            }
        }
        Answer::Matches
    }

    fn header_holds(&self, test: &HeaderTest, asked: &Asked<'_, '_>, readings: In) -> bool {
        let (Some(field), Some(found)) = (self.fields.get(test.field), asked.found.get(test.field))
        else {
            return false;
        };
        match found.get_or_init(|| asked.request.find(field)) {
            Found::Absent => matches!(test.value, ValueTest::Present) && test.invert,
            Found::One(value) => test.holds(value) != test.invert,
            Found::Several(values) => readings.holds(values.iter(), |reading| {
                let holds = match reading {
                    Reading::Single(value) => test.holds(value),
                    Reading::Any(values) => values.iter().any(|value| test.holds(value)),
                    Reading::Every(values) => values.iter().all(|value| test.holds(value)),
                };
                holds != test.invert
            }),
        }
    }
}

impl Test {
    fn compile(permission: &Permission, fields: &mut Fields) -> Self {
        let http = &permission.http;
        Self {
            action: permission.action,
            path: http.path.as_ref().map(|path| match path {
                PathMatch::Exact(text) => PathTest::Exact(bytes(text)),
                PathMatch::Prefix(text) => PathTest::Prefix(bytes(text)),
                PathMatch::Regex(pattern) => PathTest::Regex(pattern.clone()),
            }),
            methods: http.methods.iter().map(|method| bytes(method)).collect(),
            headers: http
                .headers
                .iter()
                .map(|header| HeaderTest::compile(header, fields))
                .collect(),
        }
    }
}

impl PathTest {
    fn holds(&self, request: &Prepared<'_>, readings: In) -> bool {
        let Some(path) = request.path() else {
            return false;
        };
        let test = |path: &[u8]| match self {
            Self::Exact(text) => **text == *path,
            Self::Prefix(text) => path.starts_with(text),
            Self::Regex(pattern) => pattern.is_full_match(path),
        };
        let others = request.other_paths().iter().map(Vec::as_slice);
        readings.holds(std::iter::once(path).chain(others), test)
    }
}

impl HeaderTest {
    fn compile(header: &HeaderMatch, fields: &mut Fields) -> Self {
        let next = fields.len();
        let field = *fields.entry(Field::named(&header.name)).or_insert(next);
        let text = |text: &str| match header.ignore_case {
            true => bytes(&text.to_ascii_lowercase()),
            false => bytes(text),
        };
        let value = match &header.value {
            ValueMatch::Present => ValueTest::Present,
            ValueMatch::Exact(value) => ValueTest::Exact(text(value)),
            ValueMatch::Prefix(value) => ValueTest::Prefix(text(value)),
            ValueMatch::Suffix(value) => ValueTest::Suffix(text(value)),
            ValueMatch::Contains(value) => {
                ValueTest::Contains(Box::new(Finder::new(&text(value)).into_owned()))
            }
            ValueMatch::Regex(pattern) => ValueTest::Regex(pattern.clone()),
        };
        Self {
            field,
            value,
            fold: header.ignore_case,
            invert: header.invert,
        }
    }

    /// Whether a single value has what is asked for, `invert` aside.
    fn holds(&self, value: &[u8]) -> bool {
        let same = |a: &[u8], b: &[u8]| match self.fold {
            true => a.eq_ignore_ascii_case(b),
            false => a == b,
        };
        match &self.value {
            ValueTest::Present => true,
            ValueTest::Exact(text) => same(value, text),
            ValueTest::Prefix(text) => value
                .get(..text.len())
                .is_some_and(|start| same(start, text)),
            ValueTest::Suffix(text) => value
                .len()
                .checked_sub(text.len())
                .and_then(|place| value.get(place..))
                .is_some_and(|end| same(end, text)),
            ValueTest::Contains(finder) if self.fold => {
                finder.find(&value.to_ascii_lowercase()).is_some()
            }
            ValueTest::Contains(finder) => finder.find(value).is_some(),
            ValueTest::Regex(pattern) => pattern.is_full_match(value),
        }
    }
}

fn bytes(text: &str) -> Box<[u8]> {
    text.as_bytes().into()
}
