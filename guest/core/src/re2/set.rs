//! Sets of characters, surrogates included, and what they are in bytes.

use regex_syntax::hir::{Class, ClassBytes, ClassBytesRange, ClassUnicode, ClassUnicodeRange, Hir};

/// The last character.
pub(super) const LAST: u32 = 0x0010_ffff;
const SURROGATES: (u32, u32) = (0xd800, 0xdfff);

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

    /// How many characters the ranges hold, each counted as often as it appears.
    pub(super) fn characters(&self) -> u32 {
        let size = |(low, high): &(u32, u32)| high.saturating_sub(*low).saturating_add(1);
        self.ranges.iter().map(size).fold(0, u32::saturating_add)
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

    /// Adds whatever differs from its characters only in case.
    pub(super) fn fold_case(&mut self) {
        let mut class = self.scalars();
        class.case_fold_simple();
        self.ranges.extend(
            class
                .ranges()
                .iter()
                .map(|range| (u32::from(range.start()), u32::from(range.end()))),
        );
        self.tidy();
    }

    /// Without surrogates, as the library has it.
    fn scalars(&self) -> ClassUnicode {
        let (first, last) = SURROGATES;
        let below = |(low, high): (u32, u32)| (low, high.min(first.saturating_sub(1)));
        let above = |(low, high): (u32, u32)| (low.max(last.saturating_add(1)), high);
        let parts = self
            .ranges
            .iter()
            .flat_map(|range| [below(*range), above(*range)])
            .filter(|(low, high)| low <= high);
        ClassUnicode::new(parts.filter_map(|(low, high)| {
            Some(ClassUnicodeRange::new(
                char::from_u32(low)?,
                char::from_u32(high)?,
            ))
        }))
    }

    /// What matches the UTF-8 form of one of its characters, as RE2 builds it.
    pub(super) fn into_hir(mut self) -> Hir {
        self.tidy();
        if self.ranges.is_empty() {
            return Hir::fail();
        }
        if self.ranges.last().is_some_and(|(_, high)| *high < 0x80) {
            return Hir::class(Class::Bytes(self.below_0x80()));
        }
        // RE2 takes this range whole, without looking for overlong forms,
        // surrogates and numbers beyond the last character.
        if let Some((low, LAST)) = self.ranges.last()
            && *low <= 0x80
        {
            return Hir::alternation(vec![
                Hir::class(Class::Bytes(self.below_0x80())),
                sequence(&[(0xc2, 0xdf), TAIL]),
                sequence(&[(0xe0, 0xef), TAIL, TAIL]),
                sequence(&[(0xf0, 0xf4), TAIL, TAIL, TAIL]),
            ]);
        }
        let mut forms = vec![Hir::class(Class::Unicode(self.scalars()))];
        forms.extend(self.surrogates());
        Hir::alternation(forms)
    }

    fn below_0x80(&self) -> ClassBytes {
        ClassBytes::new(self.ranges.iter().filter_map(|(low, high)| {
            let low = u8::try_from(*low).ok().filter(u8::is_ascii)?;
            let high = u8::try_from(*high).map_or(0x7f, |high| high.min(0x7f));
            Some(ClassBytesRange::new(low, high))
        }))
    }

    /// The surrogates in it, in three bytes each as if they were characters.
    fn surrogates(&self) -> impl Iterator<Item = Hir> {
        let (first, _) = SURROGATES;
        (0xa0..=0xbf_u8).filter_map(move |second| {
            let block = first.saturating_add(u32::from(second - 0xa0).saturating_mul(64));
            let tails = self.ranges.iter().filter_map(|(low, high)| {
                let low = low.saturating_sub(block);
                let high = high.checked_sub(block)?.min(63);
                if low > high {
                    return None;
                }
                let tail = |place: u32| u8::try_from(place).ok().map(|place| 0x80 | place);
                Some(ClassBytesRange::new(tail(low)?, tail(high)?))
            });
            let tails = ClassBytes::new(tails);
            if tails.ranges().is_empty() {
                return None;
            }
            let lead = sequence(&[(0xed, 0xed), (second, second)]);
            Some(Hir::concat(vec![lead, Hir::class(Class::Bytes(tails))]))
        })
    }
}

/// A byte that continues a UTF-8 form.
const TAIL: (u8, u8) = (0x80, 0xbf);

/// Bytes one after the other, each from a range.
pub(super) fn sequence(ranges: &[(u8, u8)]) -> Hir {
    let byte = |(low, high): &(u8, u8)| {
        Hir::class(Class::Bytes(ClassBytes::new([ClassBytesRange::new(
            *low, *high,
        )])))
    };
    Hir::concat(ranges.iter().map(byte).collect())
}
