//! The watch machine under a clock and an agent that are both made up.
use super::*;
use crate::agent::{After, Consistency, HttpReply, ReplyHeaders};

fn at(index: u64) -> Position {
    Position {
        index: Some(index),
        hash: None,
    }
}

pub(super) fn content(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

fn due(watch: &mut Watch, now: u64) -> WatchRequest {
    watch.poll_request(now).expect("a request is due")
}

/// A watch that has read `text` at `index`.
fn settled(index: u64, text: &str) -> Watch {
    let mut watch = Watch::new(Settings::default());
    due(&mut watch, 0);
    assert_eq!(
        watch.handle_reply(0, &at(index), content(text)),
        Event::Changed
    );
    watch
}

#[test]
fn the_first_request_does_not_block_and_the_next_goes_on_from_its_index() {
    let mut watch = Watch::new(Settings::default());
    let first = due(&mut watch, 5);
    assert_eq!(
        first,
        WatchRequest {
            after: After::Nothing,
            wait_ms: 300_000,
            reread: false
        }
    );
    assert_eq!(watch.poll_request(u64::MAX), None, "one request at a time");
    assert_eq!((watch.poll_timeout(), watch.sent_at()), (None, Some(5)));
    assert_eq!(watch.age(9), None);
    assert_eq!(watch.handle_reply(9, &at(23), content("a")), Event::Changed);
    assert_eq!((watch.age(10), watch.index()), (Some(1), 23));
    assert_eq!(due(&mut watch, 9).after, After::Index(23));
}

#[test]
fn who_is_asked_to_stay_away_does_so_for_longer_than_that_but_not_for_ever() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..50 {
        let mut watch = Watch::new(Settings {
            seed,
            ..Settings::default()
        });
        due(&mut watch, 0);
        let wait = watch.handle_error(0, "busy");
        assert!(wait <= 250);
        let wait = watch.hold_back(0, 2_000);
        assert!((2_000..=3_000).contains(&wait), "{wait}");
        assert_eq!(watch.poll_timeout(), Some(wait));
        seen.insert(wait);
        let wait = watch.hold_back(0, u64::MAX);
        assert!((30_000..=45_000).contains(&wait), "{wait}");
        // A shorter time than the wait that holds already changes nothing.
        assert_eq!(watch.hold_back(0, 1), wait);
    }
    assert!(seen.len() > 30, "{seen:?}");
}

#[test]
fn index_zero_counts_as_one() {
    let mut watch = settled(0, "a");
    assert_eq!(due(&mut watch, 0).after, After::Index(1));
}

#[test]
fn an_index_that_moves_alone_changes_nothing_but_is_followed() {
    let mut watch = settled(75, "a");
    due(&mut watch, 1);
    assert_eq!(
        watch.handle_reply(60_000, &at(121), content("a")),
        Event::Unchanged
    );
    assert_eq!(due(&mut watch, 60_000).after, After::Index(121));
    assert_eq!(watch.age(60_001), Some(1));
}

#[test]
fn an_older_state_is_read_again_from_the_leader_before_it_counts() {
    let mut watch = settled(100, "deny web");
    due(&mut watch, 1);
    let event = watch.handle_reply(10, &at(50), content("allow all"));
    assert_eq!(event, Event::WentBack { from: 100, to: 50 });
    assert_eq!(watch.age(10), Some(10), "it confirms nothing");
    assert!(
        watch
            .last_error()
            .is_some_and(|error| error.contains("index 50 after 100"))
    );
    let again = due(&mut watch, 10);
    assert_eq!((again.after.clone(), again.reread), (After::Nothing, true));
    assert_eq!(again.query().consistency, Consistency::Consistent);
    // A server that lagged: the leader still has the newer state.
    let mut lagged = watch.clone();
    assert_eq!(
        lagged.handle_reply(11, &at(101), content("deny web")),
        Event::Unchanged
    );
    assert_eq!(due(&mut lagged, 11).after, After::Index(101));
    // A snapshot was restored: the older state is the state.
    assert_eq!(
        watch.handle_reply(11, &at(51), content("allow all")),
        Event::Changed
    );
    let next = due(&mut watch, 2_000);
    assert_eq!(
        (next.after, next.reread),
        (After::Nothing, false),
        "the loop starts again"
    );
    assert_eq!(
        watch.handle_reply(2_001, &at(51), content("allow all")),
        Event::Unchanged
    );
    assert_eq!(due(&mut watch, 10_000).after, After::Index(51));
}

#[test]
fn a_second_reading_that_fails_is_still_owed() {
    let mut watch = settled(100, "deny");
    due(&mut watch, 1);
    watch.handle_reply(1, &at(50), content("allow"));
    due(&mut watch, 1);
    watch.handle_error(2, "connection refused");
    assert!(due(&mut watch, 60_000).reread);
    assert_eq!(
        watch.handle_reply(60_001, &at(50), content("allow")),
        Event::Changed
    );
}

#[test]
fn an_older_state_after_an_error_is_noticed_too() {
    let mut watch = settled(100, "deny");
    due(&mut watch, 1);
    watch.handle_error(2, "agent restarted");
    assert_eq!(due(&mut watch, 60_000).after, After::Nothing);
    let event = watch.handle_reply(60_000, &at(3), content("allow"));
    assert_eq!(event, Event::WentBack { from: 100, to: 3 });
}

#[test]
fn the_same_content_under_a_lower_index_is_confirmed() {
    let mut watch = settled(100, "a");
    due(&mut watch, 1);
    assert_eq!(
        watch.handle_reply(7, &at(50), content("a")),
        Event::Unchanged
    );
    assert_eq!((watch.age(7), watch.index()), (Some(0), 50));
    assert_eq!(due(&mut watch, 7).after, After::Nothing);
}

#[test]
fn what_waits_after_a_failure_can_be_told_to_ask_again() {
    let mut watch = settled(9, "a");
    due(&mut watch, 0);
    watch.handle_error(0, "refused");
    assert_eq!(watch.poll_request(1), None);
    watch.retry(1);
    due(&mut watch, 1);
    let wait = watch.handle_error(1, "refused");
    assert_eq!((watch.failures(), watch.poll_request(wait)), (2, None));
}

#[test]
fn errors_keep_what_is_there_and_wait_longer_each_time() {
    let mut watch = settled(9, "a");
    let mut now = 0;
    let mut last = 0;
    for n in 1..=20 {
        due(&mut watch, now);
        let wait = watch.handle_error(now, "refused");
        assert_eq!(watch.poll_request(now + wait - 1), None);
        assert!(wait >= last / 4 && wait <= 30_000, "{wait}");
        assert_eq!((watch.failures(), watch.last_error()), (n, Some("refused")));
        last = wait;
        now += wait;
    }
    assert!(last >= 15_000);
    assert_eq!(watch.age(now), Some(now), "age goes on");
    due(&mut watch, now);
    watch.handle_reply(now, &at(9), content("a"));
    assert_eq!(
        (watch.failures(), watch.last_error(), watch.age(now)),
        (0, None, Some(0))
    );
}

#[test]
fn the_index_of_a_refusal_is_ignored() {
    let headers = ReplyHeaders {
        index: Some(1),
        content_hash: Some("x".into()),
        ..ReplyHeaders::default()
    };
    let reply = |status| HttpReply {
        status,
        headers: headers.clone(),
        body: b"",
    };
    assert_eq!(Position::of(&reply(403)), Position::default());
    assert_eq!(
        Position::of(&reply(200)),
        Position {
            index: Some(1),
            hash: Some("x".into())
        }
    );
}

#[test]
fn unusable_content_is_taken_back() {
    let mut watch = settled(5, "good");
    due(&mut watch, 1);
    assert_eq!(
        watch.handle_reply(1_000, &at(6), content("broken")),
        Event::Changed
    );
    watch.handle_refused(1_000, "no list");
    assert_eq!(
        (watch.age(2_000), watch.last_error()),
        (Some(2_000), Some("no list"))
    );
    due(&mut watch, 90_000);
    let event = watch.handle_reply(90_000, &at(6), content("broken"));
    assert_eq!(
        event,
        Event::Changed,
        "it is not taken for confirmed the next time"
    );
    watch.handle_refused(90_000, "no list");
    due(&mut watch, 190_000);
    assert_eq!(
        watch.handle_reply(190_000, &at(7), content("good")),
        Event::Changed
    );
    assert_eq!(watch.age(190_000), Some(0));
}

#[test]
fn a_reply_that_lay_unread_confirms_only_what_held_then() {
    let mut watch = settled(5, "a");
    due(&mut watch, 100);
    watch.handle_old_reply(90_000, 60_000, &at(5), content("a"));
    assert_eq!(watch.age(90_000), Some(30_000));
    due(&mut watch, 90_000);
    watch.handle_old_reply(90_001, 10, &at(5), content("a"));
    assert_eq!(
        watch.age(90_001),
        Some(30_001),
        "a confirmation is never taken back"
    );
}

#[test]
fn short_polls_are_spread_over_their_interval() {
    let mut times = std::collections::BTreeSet::new();
    for seed in 0..50 {
        let mode = Mode::ShortPoll {
            wait_ms: 500,
            every_ms: 10_000,
        };
        let mut watch = Watch::new(Settings {
            mode,
            seed,
            ..Settings::default()
        });
        due(&mut watch, 0);
        watch.handle_reply(0, &at(4), content("a"));
        let next = watch.poll_timeout().unwrap();
        assert!((9_000..=10_000).contains(&next));
        times.insert(next);
        let request = due(&mut watch, next);
        assert_eq!((request.after, request.wait_ms), (After::Index(4), 500));
    }
    assert!(times.len() > 30);
}

#[test]
fn without_an_index_there_is_nothing_to_block_on() {
    let mut watch = Watch::new(Settings::default());
    due(&mut watch, 0);
    watch.handle_reply(0, &Position::default(), content("a"));
    let next = watch.poll_timeout().unwrap();
    assert!(next >= 9_000);
    assert_eq!(due(&mut watch, next).after, After::Nothing);
}

#[test]
fn hashes_are_blocked_on_where_they_are_the_key() {
    let mut watch = Watch::new(Settings {
        key: Key::Hash,
        ..Settings::default()
    });
    due(&mut watch, 0);
    let position = Position {
        index: Some(7),
        hash: Some("7730002e0bed13b".into()),
    };
    watch.handle_reply(0, &position, content("a"));
    assert_eq!(
        due(&mut watch, 0).after,
        After::Hash("7730002e0bed13b".into())
    );
    watch.handle_error(0, "404");
    assert_eq!(due(&mut watch, 1_000).after, After::Nothing);
}

#[test]
fn a_refresh_asks_at_once_but_does_not_outrun_errors() {
    let mut watch = settled(5, "a");
    due(&mut watch, 1);
    watch.refresh(2);
    assert_eq!(due(&mut watch, 2).after, After::Nothing);
    let wait = watch.handle_error(2, "refused");
    watch.refresh(3);
    assert_eq!(watch.poll_timeout(), Some(2 + wait));
}

/// Answers at once, always: the worst that an agent can do. Gives the questions it was asked.
pub(super) fn storm(
    settings: Settings,
    until: u64,
    mut answer: impl FnMut(&mut Watch, u64),
) -> u64 {
    let mut watch = Watch::new(settings);
    let (mut now, mut questions) = (0, 0);
    while now <= until {
        match watch.poll_request(now) {
            Some(_) => {
                questions += 1;
                answer(&mut watch, now);
            }
            None => {
                now = watch
                    .poll_timeout()
                    .expect("nothing is under way")
                    .max(now + 1)
            }
        }
    }
    questions
}

#[test]
fn a_storm_without_change_is_held_back_and_one_of_changes_coalesced() {
    let minute = 60_000;
    let unchanged = storm(Settings::default(), minute, |watch, now| {
        watch.handle_reply(now, &at(now), content("a"));
    });
    assert!((60..=67).contains(&unchanged), "{unchanged}");
    let mut count = 0_u64;
    let changed = storm(Settings::default(), minute, |watch, now| {
        count += 1;
        watch.handle_reply(now, &at(count), content(&count.to_string()));
    });
    assert!((1_100..=1_203).contains(&changed), "{changed}");
    let failed = storm(Settings::default(), minute, |watch, now| {
        watch.handle_error(now, "refused");
    });
    assert!((5..=15).contains(&failed), "{failed}");
}

#[test]
fn a_change_passes_at_once_after_a_storm_without() {
    let mut watch = settled(1, "a");
    let mut now = 0;
    for _ in 0..50 {
        now = watch.poll_timeout().unwrap().max(now);
        due(&mut watch, now);
        watch.handle_reply(now, &at(2), content("a"));
    }
    let gap = watch.poll_timeout().unwrap() - now;
    assert!(
        gap <= 1_000,
        "a revocation waits no longer than the limit: {gap}"
    );
    now += gap;
    due(&mut watch, now);
    assert_eq!(
        watch.handle_reply(now, &at(3), content("b")),
        Event::Changed
    );
    assert_eq!(
        watch.poll_timeout(),
        Some(now),
        "and the next question goes out at once"
    );
}
