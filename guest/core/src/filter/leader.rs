//! Which worker fetches: an election over the shelf.
//!
//! The leader stamps its key on every tick. Who finds a stamp that is too old writes its own
//! and leads only when it finds that again at a later tick, so that of two who claim at once
//! one gives way.

use super::Shelf;
use super::head::decimal;

/// A stamp that is older belongs to a leader that is gone.
pub(super) const GONE_MS: u64 = 2_000;
/// Clocks are the same for all workers; reading them takes a moment.
const AHEAD_MS: u64 = 1_000;
const MAX_STAMP: usize = 64;

/// The part of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Somebody else leads.
    Follower,
    /// It has written its name, and nobody has confirmed that yet.
    Claimant,
    /// It fetches.
    Leader,
}

/// One worker in one election.
#[derive(Debug)]
pub(super) struct Candidate {
    key: String,
    /// Differs between workers.
    name: u64,
    role: Role,
}

impl Candidate {
    pub(super) fn new(key: String, name: u64) -> Self {
        Self {
            key,
            name,
            role: Role::Follower,
        }
    }

    #[cfg(test)]
    const fn role(&self) -> Role {
        self.role
    }

    /// Looks at the stamp, and stamps where that is due.
    pub(super) fn tick(&mut self, shelf: &impl Shelf, now: u64) -> Role {
        let found = shelf.read(&self.key);
        let stamp = found.as_ref().and_then(|(bytes, _)| read(bytes));
        let number = found.as_ref().map(|(_, number)| *number);
        self.role = match stamp {
            Some((name, _)) if name == self.name => self.stamp(shelf, now, number, Role::Leader),
            Some((_, at))
                if at <= now.saturating_add(AHEAD_MS) && now.saturating_sub(at) <= GONE_MS =>
            {
                Role::Follower
            }
            _ => self.stamp(shelf, now, number, Role::Claimant),
        };
        self.role
    }

    fn stamp(&self, shelf: &impl Shelf, now: u64, number: Option<u32>, role: Role) -> Role {
        let stamp = format!("{} {now}", self.name);
        if shelf.write(&self.key, stamp.as_bytes(), number) {
            role
        } else {
            Role::Follower
        }
    }
}

fn read(bytes: &[u8]) -> Option<(u64, u64)> {
    if bytes.len() > MAX_STAMP {
        return None;
    }
    let (name, at) = std::str::from_utf8(bytes).ok()?.split_once(' ')?;
    Some((decimal(name)?, decimal(at)?))
}

#[cfg(test)]
mod tests {
    use super::super::testing::FakeShelf;
    use super::*;

    fn candidates(count: u64) -> Vec<Candidate> {
        (0..count)
            .map(|name| Candidate::new("leader".to_owned(), name))
            .collect()
    }

    #[test]
    fn one_of_many_leads_and_stays() {
        let shelf = FakeShelf::default();
        let mut all = candidates(5);
        for now in (0..20_000).step_by(500) {
            for one in &mut all {
                one.tick(&shelf, now);
            }
            let leaders = all.iter().filter(|one| one.role() == Role::Leader).count();
            assert_eq!(leaders, usize::from(now > 0), "{now}");
        }
        assert_eq!(all[0].role(), Role::Leader);
    }

    #[test]
    fn two_who_claim_at_once_end_with_one_leader() {
        let shelf = FakeShelf::default();
        let mut all = candidates(2);
        // Both have found nothing before either has written.
        all[0].role = all[0].stamp(&shelf, 0, None, Role::Claimant);
        all[1].role = all[1].stamp(&shelf, 0, None, Role::Claimant);
        assert_eq!(all[0].tick(&shelf, 500), Role::Follower);
        assert_eq!(all[1].tick(&shelf, 500), Role::Leader);
    }

    #[test]
    fn a_dead_leader_is_replaced_within_four_seconds() {
        let shelf = FakeShelf::default();
        let mut all = candidates(3);
        for now in [0, 500, 1_000] {
            for one in &mut all {
                one.tick(&shelf, now);
            }
        }
        let dead = all.remove(0);
        assert_eq!(dead.role(), Role::Leader);
        let mut now = 1_000;
        while !all.iter().any(|one| one.role() == Role::Leader) {
            now += 500;
            for one in &mut all {
                one.tick(&shelf, now);
            }
        }
        assert!(now - 1_000 <= 4_000, "{now}");
    }

    #[test]
    fn a_leader_that_slept_gives_way() {
        let shelf = FakeShelf::default();
        let mut all = candidates(2);
        for now in [0, 500] {
            all[0].tick(&shelf, now);
        }
        for now in [3_000, 3_500] {
            all[1].tick(&shelf, now);
        }
        assert_eq!(all[1].role(), Role::Leader);
        assert_eq!(all[0].tick(&shelf, 3_600), Role::Follower);
    }

    #[test]
    fn a_stamp_from_the_future_or_of_another_form_holds_nobody_back() {
        for stamp in ["9 99999999999999", "", "x y", "9", "9 5 5"] {
            let shelf = FakeShelf::default();
            assert!(shelf.write("leader", stamp.as_bytes(), None));
            let mut one = Candidate::new("leader".to_owned(), 1);
            assert_eq!(one.tick(&shelf, 10_000), Role::Claimant, "{stamp}");
            assert_eq!(one.tick(&shelf, 10_500), Role::Leader, "{stamp}");
        }
    }
}
