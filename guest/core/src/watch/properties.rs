//! The watch machine against any sequence of answers.
use proptest::prelude::*;

use super::tests::{content, storm};
use super::*;
use crate::agent::After;

/// What an agent may do at one step.
#[derive(Debug, Clone)]
enum Step {
    Reply { index: Option<u64>, text: u8 },
    Refused { index: Option<u64>, text: u8 },
    Error,
    Refresh,
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = || {
        prop_oneof![
            Just(None),
            (0..5_u64).prop_map(Some),
            any::<u64>().prop_map(Some),
            Just(Some(u64::MAX))
        ]
    };
    let step = prop_oneof![
        4 => (index(), 0..4_u8).prop_map(|(index, text)| Step::Reply { index, text }),
        1 => (index(), 0..4_u8).prop_map(|(index, text)| Step::Refused { index, text }),
        1 => Just(Step::Error),
        1 => Just(Step::Refresh),
        1 => prop_oneof![0..2_000_u64, Just(u64::MAX / 2)].prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Against a plain model: what is in force, and since when it is confirmed.
    #[test]
    fn the_machine_never_loses_a_change_nor_believes_an_older_state_at_first_sight(
        steps in steps(),
        seed in any::<u64>(),
        key in prop_oneof![Just(Key::Index), Just(Key::Hash)],
    ) {
        let mut watch = Watch::new(Settings { seed, key, ..Settings::default() });
        let mut now = 0_u64;
        let mut in_force: Option<u8> = None;
        let mut highest = 0_u64;
        let mut confirmed: Option<u64> = None;
        for step in steps {
            if let Step::Wait(wait) = step {
                now = now.saturating_add(wait);
                continue;
            }
            if let Step::Refresh = step {
                watch.refresh(now);
                continue;
            }
            if let Some(next) = watch.poll_timeout() {
                now = now.max(next);
            }
            let Some(request) = watch.poll_request(now) else {
                prop_assert!(watch.sent_at().is_some());
                continue;
            };
            prop_assert_eq!(watch.poll_request(u64::MAX), None);
            if let After::Index(index) = request.after {
                prop_assert_eq!(index, highest);
                prop_assert!(index > 0);
            }
            match step {
                Step::Error => {
                    let wait = watch.handle_error(now, "e");
                    prop_assert!(wait <= 30_000);
                    prop_assert_eq!(watch.poll_timeout(), Some(now.saturating_add(wait)));
                }
                Step::Reply { index, text } | Step::Refused { index, text } => {
                    let position = Position { index, hash: index.map(|i| i.to_string()) };
                    let event = watch.handle_reply(now, &position, content(&text.to_string()));
                    let older = index.is_some_and(|index| index.max(1) < highest);
                    let same = in_force == Some(text);
                    let went_back = matches!(event, Event::WentBack { .. });
                    prop_assert_eq!(went_back, older && !same && !request.reread);
                    if went_back {
                        prop_assert_eq!(watch.confirmed_at(), confirmed);
                        prop_assert!(watch.poll_request(u64::MAX).is_some_and(|r| r.reread));
                        watch.refresh(now);
                        continue;
                    }
                    prop_assert_eq!(event == Event::Unchanged, same);
                    highest = index.map_or(highest, |index| index.max(1));
                    if matches!(step, Step::Refused { .. }) && event == Event::Changed {
                        watch.handle_refused(now, "unusable");
                        in_force = None;
                    } else {
                        in_force = Some(text);
                        confirmed = Some(now);
                    }
                }
                Step::Wait(_) | Step::Refresh => {}
            }
            prop_assert_eq!(watch.confirmed_at(), confirmed);
            prop_assert_eq!(watch.age(0), confirmed.map(|_| 0));
            prop_assert_eq!(watch.age(u64::MAX), confirmed.map(|at| u64::MAX - at));
        }
    }

    /// Whatever an agent answers, and however fast, questions stay bounded.
    #[test]
    fn no_sequence_of_answers_makes_a_storm(
        answers in prop::collection::vec((any::<Option<u64>>(), 0..3_u8, 0..5_u8), 1..40),
        seed in any::<u64>(),
    ) {
        let mut turn = answers.iter().cycle();
        let settings = Settings { seed, ..Settings::default() };
        let questions = storm(settings, 30_000, |watch, now| {
            let (index, text, kind) = turn.next().expect("it cycles");
            let position = Position { index: *index, hash: None };
            if *kind == 0 {
                watch.handle_error(now, "e");
            } else {
                watch.handle_reply(now, &position, content(&text.to_string()));
            }
        });
        // Twenty changes a second, and what the bucket lets through between them.
        prop_assert!(questions <= 30 * 20 + 30 + 8, "{}", questions);
    }
}
