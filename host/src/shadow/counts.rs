//! What was compared, by kind and by both effects: few numbers, whatever happens.

use std::sync::atomic::{AtomicU64, Ordering};

use portcullis_core::intention::Effect;

/// What is decided about.
pub(crate) const KINDS: [&str; 2] = ["connection", "request"];

/// All effects.
pub(crate) const EFFECTS: [Effect; 4] = [
    Effect::Allow,
    Effect::Deny,
    Effect::BadRequest,
    Effect::Redirect,
];

/// Numbers since the start.
#[derive(Debug, Default)]
pub struct Counts {
    same: [AtomicU64; 2],
    skipped: [AtomicU64; 2],
    different: [[[AtomicU64; 4]; 4]; 2],
}

impl Counts {
    pub(super) fn same(&self, kind: usize) {
        add(self.same.get(kind));
    }

    pub(super) fn skipped(&self, kind: usize) {
        add(self.skipped.get(kind));
    }

    pub(super) fn different(&self, kind: usize, live: Effect, candidate: Effect) {
        add(self.at(kind, live, candidate));
    }

    fn at(&self, kind: usize, live: Effect, candidate: Effect) -> Option<&AtomicU64> {
        let place = |effect: Effect| EFFECTS.iter().position(|one| *one == effect);
        self.different
            .get(kind)?
            .get(place(live)?)?
            .get(place(candidate)?)
    }

    /// How often both said the same: of connections, and of requests.
    #[must_use]
    pub fn same_of(&self) -> [u64; 2] {
        self.same.each_ref().map(get)
    }

    /// How often nothing could be compared: there was no candidate yet, or one of the two
    /// had just changed, or failed.
    #[must_use]
    pub fn skipped_of(&self) -> [u64; 2] {
        self.skipped.each_ref().map(get)
    }

    /// How often they differed so.
    #[must_use]
    pub fn differences(&self, of_requests: bool, live: Effect, candidate: Effect) -> u64 {
        self.at(usize::from(of_requests), live, candidate)
            .map_or(0, get)
    }
}

fn add(number: Option<&AtomicU64>) {
    if let Some(number) = number {
        number.fetch_add(1, Ordering::Relaxed);
    }
}

fn get(number: &AtomicU64) -> u64 {
    number.load(Ordering::Relaxed)
}
