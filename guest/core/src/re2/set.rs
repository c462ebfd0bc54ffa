//! Sets of characters, and which bytes they are.

use regex_syntax::hir::{Class, ClassBytes, ClassBytesRange, Hir};

/// The last character of a class. Those beyond [`LAST_BYTE`] match nothing, but stand in
/// classes by name, and come in when these are negated.
pub(super) const LAST: u32 = 0x0010_ffff;
/// The last character that a text can have.
pub(super) const LAST_BYTE: u32 = 0xff;

/// Ranges of characters, in order and apart from each other once [`Set::tidy`] ran.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Set {
    ranges: Vec<(u32, u32)>,
}

impl Set {
    /// One range.
    pub(super) fn range(low: u32, high: u32) -> Self {
        Self {
            ranges: vec![(low, high)],
        }
    }

    /// ASCII ranges, given by their ends.
    pub(super) fn ascii(ranges: &[(u8, u8)]) -> Self {
        let wide = |(low, high): &(u8, u8)| (u32::from(*low), u32::from(*high));
        Self {
            ranges: ranges.iter().map(wide).collect(),
        }
    }

    pub(super) fn push(&mut self, low: u32, high: u32) {
        self.ranges.push((low, high));
    }

    pub(super) fn union(&mut self, other: &Self) {
        self.ranges.extend(&other.ranges);
    }

    /// How many ranges there are.
    pub(super) fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Sorts the ranges and joins those that touch.
    pub(super) fn tidy(&mut self) {
        self.ranges.sort_unstable();
        let mut tidy: Vec<(u32, u32)> = Vec::with_capacity(self.ranges.len());
        for (low, high) in self.ranges.drain(..) {
            match tidy.last_mut() {
                Some(last) if low <= last.1.saturating_add(1) => last.1 = last.1.max(high),
                _ => tidy.push((low, high)),
            }
        }
        self.ranges = tidy;
    }

    /// All characters that are not in it.
    pub(super) fn negate(&mut self) {
        self.tidy();
        let mut rest = Vec::with_capacity(self.ranges.len().saturating_add(1));
        let mut next = 0;
        for (low, high) in self.ranges.drain(..) {
            if let Some(before) = low.checked_sub(1)
                && next <= before
            {
                rest.push((next, before));
            }
            next = high.saturating_add(1);
        }
        if next <= LAST {
            rest.push((next, LAST));
        }
        self.ranges = rest;
    }

    /// Adds the other case of its ASCII letters.
    pub(super) fn fold_ascii(&mut self) {
        const LETTERS: [(u32, u32, u32); 2] = [(0x41, 0x5a, 0x61), (0x61, 0x7a, 0x41)];
        let mut others = Vec::new();
        for (low, high) in &self.ranges {
            for (first, last, other) in LETTERS {
                let (low, high) = (first.max(*low), last.min(*high));
                if low <= high {
                    let place = |letter: u32| letter.saturating_sub(first).saturating_add(other);
                    others.push((place(low), place(high)));
                }
            }
        }
        self.ranges.extend(others);
        self.tidy();
    }

    /// What matches one of its characters that is a byte.
    pub(super) fn into_hir(mut self) -> Hir {
        self.tidy();
        let bytes = ClassBytes::new(self.ranges.iter().filter_map(|(low, high)| {
            let low = u8::try_from(*low).ok()?;
            let high = u8::try_from(*high).unwrap_or(u8::MAX);
            Some(ClassBytesRange::new(low, high))
        }));
        if bytes.ranges().is_empty() {
            return Hir::fail();
        }
        Hir::class(Class::Bytes(bytes))
    }
}
