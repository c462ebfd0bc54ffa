//! The last good value, and how fresh it is.

/// How far a value can be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// There never was one.
    Missing,
    /// Confirmed within the budget.
    Fresh,
    /// Not confirmed for longer than the budget: it must not decide.
    Stale,
}

/// A value that stays until a better one comes, with the time of its last confirmation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastGood<T> {
    value: Option<(T, u64)>,
}

impl<T> Default for LastGood<T> {
    fn default() -> Self {
        Self { value: None }
    }
}

impl<T> LastGood<T> {
    /// The value, however old.
    #[must_use]
    pub fn get(&self) -> Option<&T> {
        self.value.as_ref().map(|(value, _)| value)
    }

    /// A new value, confirmed at `now`.
    pub fn replace(&mut self, value: T, now: u64) {
        self.value = Some((value, now));
    }

    /// The value is still current. Never moves the confirmation back.
    pub fn confirm(&mut self, now: u64) {
        if let Some((_, at)) = &mut self.value {
            *at = now.max(*at);
        }
    }

    /// Milliseconds since the last confirmation; 0 if `now` is before it.
    #[must_use]
    pub fn age(&self, now: u64) -> Option<u64> {
        self.value.as_ref().map(|(_, at)| now.saturating_sub(*at))
    }

    /// Against a budget in milliseconds; 0 stands for none.
    #[must_use]
    pub fn freshness(&self, now: u64, max_stale_ms: u64) -> Freshness {
        match self.age(now) {
            None => Freshness::Missing,
            Some(age) if max_stale_ms != 0 && age > max_stale_ms => Freshness::Stale,
            Some(_) => Freshness::Fresh,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_ages_until_it_is_confirmed() {
        let mut good = LastGood::default();
        good.confirm(1);
        assert_eq!(good.freshness(0, 10), Freshness::Missing);
        good.replace('a', 100);
        assert_eq!(good.freshness(110, 10), Freshness::Fresh);
        assert_eq!(good.freshness(111, 10), Freshness::Stale);
        assert_eq!(good.freshness(u64::MAX, 0), Freshness::Fresh);
        good.confirm(111);
        good.confirm(50);
        assert_eq!((good.age(121), good.age(0)), (Some(10), Some(0)));
        assert_eq!(good.get(), Some(&'a'));
    }
}
