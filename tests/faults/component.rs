//! The component traps, hangs and eats memory under load: denied with a reason, and it recovers.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Instant;

use portcullis_tests::api::Api;
use portcullis_tests::components;
use portcullis_tests::load::{Live, Load};
use portcullis_tests::pair::{Pair, intention};
use portcullis_tests::process::eventually;

use crate::scene::{Embedded, SOON, allow, counted};

/// What is logged for every instance that fails.
const REPLACED: &str = "the policy failed; its instance is replaced";

fn tricks() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(components::tricks).clone()
}

/// Two proxies, of which that of `db` is decided by the hostile component.
fn scene() -> (Embedded, Pair, Api) {
    let embedded = Embedded::start();
    let component = format!("-component={}", tricks().display());
    let pair = Pair::start(embedded.address(), &[&component]);
    let api = Api::new(embedded.address(), None);
    (embedded, pair, api)
}

#[test]
fn a_trap_in_every_answer_denies_with_its_reason_and_ends_with_its_cause() {
    fails_and_recovers("panic");
}

#[test]
fn a_hang_in_every_answer_denies_with_its_reason_and_ends_with_its_cause() {
    fails_and_recovers("loop");
}

#[test]
fn a_memory_bomb_in_every_answer_denies_with_its_reason_and_ends_with_its_cause() {
    fails_and_recovers("allocate");
}

fn fails_and_recovers(trick: &str) {
    let (_embedded, pair, api) = scene();
    let load = Load::start(pair.door);
    pair.passes(&load);
    let counts = load.next(50);
    assert_eq!(counts.failed(), 0, "healthy: {counts}\n{}", pair.logs());

    let began = Instant::now();
    intention(&api, "web", "db", "allow", &format!("trick:{trick}"));
    pair.refuses(&load);
    let reached = pair.app.accepted();
    let counts = load.next(30);
    counted(&format!("component does `{trick}`"), &counts);
    assert_eq!(counts.passed, 0, "{counts}\n{}", pair.logs());
    assert_eq!(
        pair.app.accepted(),
        reached,
        "a failing policy let somebody in"
    );
    eventually("the reason is logged", SOON, || {
        pair.codes().contains_key("policy-failed").then_some(())
    });
    let replaced = replaced(&pair);
    // Two that were there, eight at once, ten a second.
    let most = 2 + 8 + began.elapsed().as_millis() / 100 + 1;
    assert!(
        replaced >= 1 && u128::from(replaced) <= most,
        "{replaced} instances failed, of at most {most}"
    );

    allow(&api);
    pair.passes(&load);
    let counts = load.next(100);
    counted(&format!("component does `{trick}` no more"), &counts);
    assert_eq!(counts.failed(), 0, "{counts}\n{}", pair.logs());
}

/// How often the proxy of `db` has replaced an instance.
fn replaced(pair: &Pair) -> u64 {
    u64::try_from(pair.db.log().matches(REPLACED).count()).expect("a count")
}

#[test]
fn a_trap_now_and_then_costs_the_connection_that_asked_and_no_other() {
    let (_embedded, pair, api) = scene();
    let load = Load::start(pair.door);
    pair.passes(&load);
    assert_eq!(load.next(20).failed(), 0, "{}", pair.logs());
    assert!(!pair.db.log().contains(REPLACED));
    let before = load.total().failed();
    // Two questions for each connection: every hundred and fiftieth connection or so.
    let counts = load.during(1200, || {
        intention(&api, "web", "db", "allow", "trick:every-300:panic");
    });
    allow(&api);
    counted("one of 300 answers traps", &counts);
    // Both go on to rise until the change arrives, and the log follows what it tells of.
    let failed = load.total().failed() - before;
    eventually(
        "no more connections failed than traps were logged",
        SOON,
        || {
            let replaced = replaced(&pair);
            (replaced >= 3 && failed <= replaced).then_some(())
        },
    );
    pair.passes(&load);
    let counts = load.next(100);
    assert_eq!(counts.failed(), 0, "{counts}\n{}", pair.logs());
}

#[test]
fn live_connections_outlive_the_rebuild_of_an_instance() {
    let (_embedded, pair, api) = scene();
    let load = Load::start(pair.door);
    pair.passes(&load);
    let live = Live::start(pair.door, 8);
    let _ = load.during(1200, || {
        intention(&api, "web", "db", "allow", "trick:every-300:panic");
    });
    pair.db.logs(REPLACED);
    let exchanges = live.exchanges();
    eventually("those that live go on", SOON, || {
        (live.exchanges() > exchanges + 50).then_some(())
    });
    // A change is judged for each of them; one of these questions may be the one that traps.
    let broken = live.broken();
    eventually("no more broke than traps were logged", SOON, || {
        (broken <= replaced(&pair)).then_some(())
    });
}
