//! One thing that all workers follow and one of them fetches.

use super::Shelf;
use super::head::Head;
use super::leader::{Candidate, Role};
use crate::watch::{Digest, Event, Position, Settings, Watch, WatchRequest};

/// How long beyond its own time-out a request may be under way before it counts as lost.
const LOST_MS: u64 = 5_000;

/// One worker's view of one thing.
#[derive(Debug)]
pub(super) struct Topic {
    head_key: String,
    value_key: String,
    candidate: Candidate,
    settings: Settings,
    /// While it leads.
    watch: Option<Watch>,
    /// When the request under way counts as lost.
    lost_at: Option<u64>,
    /// Number of the head's write that was looked at last.
    looked: Option<u32>,
    /// The head of the value that was taken over last.
    head: Option<Head>,
    /// Its value is to be taken over once more.
    is_again: bool,
    /// The value cannot be used: what was before it stays in force and ages.
    refused: bool,
    /// When what is in force was last confirmed.
    confirmed_at: Option<u64>,
}

impl Topic {
    /// `key` says what it is, `name` differs between workers.
    pub(super) fn new(key: &str, name: u64, settings: Settings) -> Self {
        Self {
            head_key: format!("{key}/head"),
            value_key: format!("{key}/value"),
            candidate: Candidate::new(format!("{key}/leader"), name),
            settings,
            watch: None,
            lost_at: None,
            looked: None,
            head: None,
            is_again: false,
            refused: false,
            confirmed_at: None,
        }
    }

    /// When what is in force was last confirmed; `None` before the first value.
    pub(super) const fn confirmed_at(&self) -> Option<u64> {
        self.confirmed_at
    }

    /// Whether what is in force was confirmed longer than `budget` ago; 0 is no limit.
    pub(super) fn is_stale(&self, now: u64, budget: u64) -> bool {
        let age = self.confirmed_at.map(|at| now.saturating_sub(at));
        budget != 0 && age.is_some_and(|age| age > budget)
    }

    /// How many values there were.
    pub(super) fn number(&self) -> u64 {
        self.head.as_ref().map_or(0, |head| head.number)
    }

    /// The failure since the last good answer, if this worker leads.
    pub(super) fn last_error(&self) -> Option<&str> {
        self.watch.as_ref()?.last_error()
    }

    /// Votes, and gives the question that is due if this worker leads.
    pub(super) fn due(&mut self, shelf: &impl Shelf, now: u64) -> Option<WatchRequest> {
        self.due_if(shelf, now, true)
    }

    /// The same, but without a place for a further question only the vote.
    pub(super) fn due_if(
        &mut self,
        shelf: &impl Shelf,
        now: u64,
        has_place: bool,
    ) -> Option<WatchRequest> {
        if self.candidate.tick(shelf, now) != Role::Leader {
            self.watch = None;
            self.lost_at = None;
            return None;
        }
        if self.is_disturbed(shelf, now) {
            // Somebody else has written there: fetched and published again.
            self.watch = None;
        }
        let settings = self.settings;
        let watch = self.watch.get_or_insert_with(|| Watch::new(settings));
        if self.lost_at.is_some_and(|at| now > at) {
            self.lost_at = None;
            watch.handle_error(now, "no reply in time");
        }
        has_place.then(|| watch.poll_request(now)).flatten()
    }

    /// Whether this worker asks.
    pub(super) const fn leads(&self) -> bool {
        self.watch.is_some()
    }

    /// Whether a question has not been answered yet.
    pub(super) fn is_under_way(&self) -> bool {
        self.watch
            .as_ref()
            .is_some_and(|watch| watch.sent_at().is_some())
    }

    /// Asks at once, and from then on by other settings.
    pub(super) fn ask_otherwise(&mut self, settings: Settings) {
        self.settings = settings;
        self.watch = None;
        self.lost_at = None;
    }

    fn is_disturbed(&self, shelf: &impl Shelf, now: u64) -> bool {
        let Some((bytes, _)) = shelf.read(&self.head_key) else {
            // Gone, or not there yet: in both cases what this worker has must be published.
            return self.head.is_some();
        };
        Head::read(&bytes).is_none_or(|head| !head.follows(self.head.as_ref(), now))
    }

    /// The question was sent and may take so long.
    pub(super) fn sent(&mut self, now: u64, time_out: u64) {
        self.lost_at = Some(now.saturating_add(time_out).saturating_add(LOST_MS));
    }

    /// The question under way will not be answered.
    pub(super) fn lost(&mut self, now: u64) {
        if self.lost_at.take().is_some()
            && let Some(watch) = &mut self.watch
        {
            watch.handle_error(now, "the call was given up");
        }
    }

    /// The value, if it is another than the one that was taken over last.
    pub(super) fn take(&mut self, shelf: &impl Shelf, now: u64) -> Option<Vec<u8>> {
        let (bytes, number) = shelf.read(&self.head_key)?;
        if self.looked == Some(number) {
            return None;
        }
        let head = Head::read(&bytes).filter(|head| head.follows(self.head.as_ref(), now));
        let Some(head) = head else {
            self.looked = Some(number);
            return None;
        };
        let is_same = self
            .head
            .as_ref()
            .is_some_and(|before| before.digest == head.digest);
        if is_same && !self.is_again {
            self.looked = Some(number);
            if !self.refused {
                self.confirmed_at = Some(head.confirmed_at);
            }
            self.head = Some(head);
            return None;
        }
        let (value, _) = shelf.read(&self.value_key)?;
        if Digest::of(&value).to_string() != head.digest {
            // The value is written before its head: at the next tick they fit.
            return None;
        }
        self.looked = Some(number);
        self.is_again = false;
        self.refused = false;
        self.head = Some(head);
        Some(value)
    }

    /// What [`Topic::take`] gave is in force.
    pub(super) fn accepted(&mut self) {
        self.refused = false;
        self.confirmed_at = self.head.as_ref().map(|head| head.confirmed_at);
    }

    /// What [`Topic::take`] gave cannot be used.
    pub(super) fn refused(&mut self) {
        self.refused = true;
    }

    /// Takes the value over once more.
    pub(super) const fn again(&mut self) {
        self.looked = None;
        self.is_again = true;
    }

    /// Nothing of it is in force any more: whatever stands there is new.
    pub(super) const fn forget(&mut self) {
        self.again();
        self.confirmed_at = None;
    }

    /// Nobody wants to know it for the time being: whoever has led leaves `nothing` behind, so
    /// that nobody takes over later what was true once.
    pub(super) fn rest(&mut self, shelf: &impl Shelf, now: u64, nothing: &[u8]) {
        self.lost_at = None;
        if self.watch.take().is_some() && self.head.is_some() {
            self.publish(shelf, now, nothing, Digest::of(nothing));
        }
    }

    /// A good answer. What is new is checked and then published.
    ///
    /// # Errors
    /// What `check` says: nothing is published.
    pub(super) fn good(
        &mut self,
        shelf: &impl Shelf,
        now: u64,
        at: &Position,
        value: &[u8],
        check: impl FnOnce() -> Result<(), String>,
    ) -> Result<Event, String> {
        self.lost_at = None;
        let Some(watch) = &mut self.watch else {
            // Another leads by now, and has asked for itself.
            return Ok(Event::Unchanged);
        };
        let digest = Digest::of(value);
        let event = watch.handle_reply(now, at, digest);
        if let Event::WentBack { .. } = event {
            return Ok(event);
        }
        if event == Event::Changed
            && let Err(error) = check()
        {
            watch.handle_refused(now, error.as_str());
            return Err(error);
        }
        self.publish(shelf, now, value, digest);
        Ok(event)
    }

    fn publish(&self, shelf: &impl Shelf, now: u64, value: &[u8], digest: Digest) {
        let there = shelf
            .read(&self.head_key)
            .and_then(|(bytes, _)| Head::read(&bytes))
            .filter(|head| head.follows(self.head.as_ref(), now));
        let last = there.as_ref().or(self.head.as_ref());
        let (number, is_there) = match last {
            Some(last) if last.digest == digest.to_string() => (last.number, there.is_some()),
            Some(last) => (last.number.saturating_add(1), false),
            None => (1, false),
        };
        if !is_there {
            shelf.write(&self.value_key, value, None);
        }
        let head = Head::new(number, now, digest);
        shelf.write(&self.head_key, head.write().as_bytes(), None);
    }

    /// There is no good answer.
    pub(super) fn failed(&mut self, now: u64, error: &str) {
        self.lost_at = None;
        if let Some(watch) = &mut self.watch {
            watch.handle_error(now, error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::FakeShelf;
    use super::*;

    fn topic(name: u64) -> Topic {
        Topic::new("k", name, Settings::default())
    }

    fn at(index: u64) -> Position {
        Position {
            index: Some(index),
            hash: None,
        }
    }

    fn leader(shelf: &FakeShelf, name: u64, now: u64) -> Topic {
        let mut topic = topic(name);
        assert!(topic.due(shelf, now).is_none());
        assert!(topic.due(shelf, now + 500).is_some());
        topic
    }

    fn publish(topic: &mut Topic, shelf: &FakeShelf, now: u64, index: u64, value: &[u8]) -> Event {
        topic
            .good(shelf, now, &at(index), value, || Ok(()))
            .unwrap()
    }

    #[test]
    fn what_the_leader_publishes_reaches_followers_once() {
        let shelf = FakeShelf::default();
        let mut one = leader(&shelf, 1, 0);
        let mut two = topic(2);
        assert!(two.due(&shelf, 600).is_none());
        assert_eq!(two.take(&shelf, 600), None);
        assert_eq!(publish(&mut one, &shelf, 700, 5, b"a"), Event::Changed);
        for topic in [&mut one, &mut two] {
            assert_eq!(topic.take(&shelf, 800).as_deref(), Some(&b"a"[..]));
            topic.accepted();
            assert_eq!(topic.take(&shelf, 900), None);
            assert_eq!((topic.number(), topic.confirmed_at()), (1, Some(700)));
        }
        one.due(&shelf, 1_000).unwrap();
        assert_eq!(publish(&mut one, &shelf, 1_100, 6, b"a"), Event::Unchanged);
        assert_eq!(two.take(&shelf, 1_200), None);
        assert_eq!((two.number(), two.confirmed_at()), (1, Some(1_100)));
        one.due(&shelf, 1_300).unwrap();
        assert_eq!(publish(&mut one, &shelf, 1_300, 7, b"b"), Event::Changed);
        assert_eq!(two.take(&shelf, 1_400).as_deref(), Some(&b"b"[..]));
        assert_eq!(two.number(), 2);
    }

    #[test]
    fn a_new_leader_goes_on_with_the_numbers() {
        let shelf = FakeShelf::default();
        let mut one = leader(&shelf, 1, 0);
        publish(&mut one, &shelf, 600, 5, b"a");
        drop(one);
        let mut two = topic(2);
        assert!(two.take(&shelf, 700).is_some());
        two.accepted();
        assert!(two.due(&shelf, 3_000).is_none());
        two.due(&shelf, 3_500).unwrap();
        publish(&mut two, &shelf, 3_600, 5, b"a");
        assert_eq!(two.take(&shelf, 3_700), None, "nothing has changed");
        assert_eq!((two.number(), two.confirmed_at()), (1, Some(3_600)));
    }

    #[test]
    fn a_value_that_cannot_be_used_is_not_published() {
        let shelf = FakeShelf::default();
        let mut one = leader(&shelf, 1, 0);
        let refused = one.good(&shelf, 600, &at(5), b"bad", || Err("no".to_owned()));
        assert_eq!(refused, Err("no".to_owned()));
        assert_eq!(one.last_error(), Some("no"));
        assert_eq!(shelf.keys(), ["k/leader"]);
    }

    #[test]
    fn a_refused_value_leaves_the_age_of_the_one_before() {
        let shelf = FakeShelf::default();
        let mut one = leader(&shelf, 1, 0);
        let mut two = topic(2);
        publish(&mut one, &shelf, 600, 5, b"a");
        assert!(two.take(&shelf, 700).is_some());
        two.accepted();
        one.due(&shelf, 800).unwrap();
        publish(&mut one, &shelf, 900, 6, b"b");
        assert!(two.take(&shelf, 1_000).is_some());
        two.refused();
        one.due(&shelf, 1_100).unwrap();
        publish(&mut one, &shelf, 1_200, 7, b"b");
        assert_eq!(two.take(&shelf, 1_300), None);
        assert_eq!(two.confirmed_at(), Some(600));
    }

    #[test]
    fn what_others_write_is_refused_and_repaired() {
        let shelf = FakeShelf::default();
        let mut one = leader(&shelf, 1, 0);
        let mut two = topic(2);
        publish(&mut one, &shelf, 600, 5, b"deny");
        for topic in [&mut one, &mut two] {
            assert!(topic.take(&shelf, 700).is_some());
            topic.accepted();
        }
        let digest = Digest::of(b"allow");
        let mut now = 10_000;
        for forged in [
            Head::new(u64::MAX, now, digest).write(),
            Head::new(1, now, digest).write(),
            Head::new(0, now, digest).write(),
            Head::new(9, now + 1_000_000, digest).write(),
            "rubbish".to_owned(),
        ] {
            now += 500;
            shelf.write("k/value", b"allow", None);
            shelf.write("k/head", forged.as_bytes(), None);
            assert_eq!(two.take(&shelf, now), None, "{forged}");
            assert_eq!(one.take(&shelf, now), None, "{forged}");
            let due = one.due(&shelf, now);
            let due = due.or_else(|| one.due(&shelf, now + 100));
            assert!(due.is_some(), "{forged}: fetched again");
            publish(&mut one, &shelf, now + 200, 6, b"deny");
            assert_eq!(shelf.text("k/value").as_deref(), Some("deny"), "{forged}");
            assert_eq!(two.take(&shelf, now + 300), None, "{forged}");
            assert_eq!(two.confirmed_at(), Some(now + 200), "{forged}");
            assert_eq!(one.take(&shelf, now + 300), None, "{forged}");
        }
    }

    #[test]
    fn a_value_without_its_head_is_not_believed() {
        let shelf = FakeShelf::default();
        let mut one = leader(&shelf, 1, 0);
        publish(&mut one, &shelf, 600, 5, b"a");
        shelf.write("k/value", b"b", None);
        let mut two = topic(2);
        assert_eq!(two.take(&shelf, 700), None);
        shelf.write("k/value", b"a", None);
        assert!(two.take(&shelf, 700).is_some());
    }

    #[test]
    fn a_lost_call_is_made_again() {
        let shelf = FakeShelf::default();
        let mut one = leader(&shelf, 1, 0);
        one.sent(500, 1_000);
        for now in [1_000, 2_000, 4_000, 6_000] {
            assert!(one.due(&shelf, now).is_none(), "{now}");
        }
        let mut now = 6_600;
        while one.due(&shelf, now).is_none() {
            now += 100;
            assert!(now < 8_000);
        }
        one.sent(now, 1_000);
        one.lost(now + 1);
        assert!((1..20).any(|step| one.due(&shelf, now + step * 100).is_some()));
    }

    #[test]
    fn what_was_forgotten_is_new_again() {
        let shelf = FakeShelf::default();
        let mut one = leader(&shelf, 1, 0);
        publish(&mut one, &shelf, 600, 5, b"a");
        let mut two = topic(2);
        assert!(two.take(&shelf, 700).is_some());
        two.accepted();
        two.forget();
        assert_eq!((two.number(), two.confirmed_at()), (1, None));
        // The same write, or a later one of the same value.
        assert_eq!(two.take(&shelf, 800).as_deref(), Some(&b"a"[..]));
        two.forget();
        one.due(&shelf, 900).unwrap();
        publish(&mut one, &shelf, 1_000, 6, b"b");
        one.due(&shelf, 1_100).unwrap();
        publish(&mut one, &shelf, 1_200, 7, b"a");
        assert_eq!(two.take(&shelf, 1_300).as_deref(), Some(&b"a"[..]));
        two.accepted();
        assert_eq!((two.number(), two.confirmed_at()), (3, Some(1_200)));
        assert_eq!(two.take(&shelf, 1_400), None);
    }

    #[test]
    fn what_rests_leaves_nothing_true_behind() {
        let shelf = FakeShelf::default();
        let mut one = leader(&shelf, 1, 0);
        let mut two = topic(2);
        publish(&mut one, &shelf, 600, 5, b"a");
        for topic in [&mut one, &mut two] {
            assert!(topic.take(&shelf, 700).is_some());
            topic.accepted();
        }
        one.rest(&shelf, 800, b"[]");
        two.rest(&shelf, 900, b"never led");
        for topic in [&mut one, &mut two] {
            assert_eq!(topic.take(&shelf, 1_000).as_deref(), Some(&b"[]"[..]));
            topic.accepted();
        }
        one.rest(&shelf, 1_100, b"[]");
        assert_eq!(one.number(), 2, "once is enough");
        let mut now = 1_200;
        while one.due(&shelf, now).is_none() {
            now += 100;
        }
        publish(&mut one, &shelf, now, 5, b"a");
        assert_eq!(two.take(&shelf, now).as_deref(), Some(&b"a"[..]));
    }

    #[test]
    fn a_value_can_be_taken_again() {
        let shelf = FakeShelf::default();
        let mut one = leader(&shelf, 1, 0);
        publish(&mut one, &shelf, 600, 5, b"a");
        for _ in 0..3 {
            assert_eq!(one.take(&shelf, 700).as_deref(), Some(&b"a"[..]));
            one.accepted();
            one.again();
        }
    }
}
