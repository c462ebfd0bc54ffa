//! The agent dies, freezes, is slow: what was good goes on for the staleness budget.

use std::collections::BTreeMap;
use std::time::Duration;

use portcullis_dev_agent::Fault;
use portcullis_tests::api::Api;
use portcullis_tests::load::{Live, Load};
use portcullis_tests::pair::Pair;

use crate::scene::{Dev, Embedded, allow, counted, deny};

/// The codes of what is refused beyond the budget. Which list was read longest ago, the roots or
/// the intentions, and so is too old first, is chance.
const STALE: [&str; 2] = ["roots-stale", "stale"];

fn tell_of_staleness(codes: &BTreeMap<String, usize>) -> bool {
    STALE.iter().any(|code| codes.contains_key(*code))
}

#[test]
fn a_killed_agent_costs_no_connection() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut dev = Dev::start(Some(&folder.path().join("data")));
    let pair = Pair::start(dev.address(), &[]);
    let load = Load::start(pair.door);
    pair.passes(&load);
    let live = Live::start(pair.door, 4);
    let counts = load.next(100);
    assert_eq!(counts.failed(), 0, "healthy: {counts}");

    let counts = load.during(400, || dev.kill());
    counted("agent killed", &counts);
    assert_eq!(counts.failed(), 0, "{counts}\n{}", pair.logs());

    // It comes back with its memory, but every check is critical until it is reported again.
    let counts = load.during(400, || dev.restart());
    counted("agent restarted with its state", &counts);
    assert_eq!(counts.failed(), 0, "{counts}\n{}", pair.logs());
    assert_eq!(live.broken(), 0);
    assert!(live.exchanges() > 0);

    // And it is listened to.
    deny(&dev.api());
    pair.refuses(&load);
    let before = pair.app.accepted();
    let counts = load.next(50);
    assert_eq!(counts.passed, 0, "{counts}");
    assert_eq!(pair.app.accepted(), before, "a denied one was let through");
    allow(&dev.api());
    pair.passes(&load);
}

#[test]
fn beyond_the_staleness_budget_everything_is_denied_until_the_agent_is_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut dev = Dev::start(Some(&folder.path().join("data")));
    let pair = Pair::start(dev.address(), &["-max-stale=8s"]);
    let load = Load::start(pair.door);
    pair.passes(&load);
    // A healthy agent is asked often enough, however short the budget is.
    std::thread::sleep(Duration::from_secs(9));
    let counts = load.next(50);
    assert_eq!(counts.failed(), 0, "healthy: {counts}\n{}", pair.logs());
    let healthy = pair.codes();

    dev.kill();
    pair.refuses(&load);
    let before = pair.app.accepted();
    let counts = load.next(100);
    counted("agent dead for longer than the budget", &counts);
    assert_eq!(counts.passed, 0, "{counts}");
    assert_eq!(
        pair.app.accepted(),
        before,
        "a stale policy let somebody in"
    );
    // Nothing else than staleness was ever a reason: one side says so, the other is told.
    let mut codes = pair.codes();
    assert!(tell_of_staleness(&codes), "{codes:?}");
    codes.retain(|code, count| healthy.get(code) != Some(count));
    for code in codes.keys() {
        let fits = [
            "intention",
            "connected",
            "handshake-failed",
            "refused-by-peer",
        ];
        let fits = STALE.iter().chain(&fits).any(|fitting| fitting == code);
        assert!(fits, "{codes:?}\n{}", pair.logs());
    }

    dev.restart();
    pair.passes(&load);
    let counts = load.next(100);
    counted("agent back", &counts);
    assert_eq!(counts.failed(), 0, "{counts}\n{}", pair.logs());
}

#[test]
fn a_frozen_agent_costs_no_connection_and_is_followed_when_it_goes_on() {
    let dev = Dev::start(None);
    let pair = Pair::start(dev.address(), &[]);
    let load = Load::start(pair.door);
    pair.passes(&load);
    let live = Live::start(pair.door, 4);
    let counts = load.during(600, || dev.freeze());
    counted("agent frozen", &counts);
    assert_eq!(counts.failed(), 0, "{counts}\n{}", pair.logs());

    let counts = load.during(100, || dev.thaw());
    counted("agent goes on", &counts);
    assert_eq!(counts.failed(), 0, "{counts}\n{}", pair.logs());
    assert_eq!(live.broken(), 0);
    deny(&dev.api());
    pair.refuses(&load);
    let counts = load.next(50);
    assert_eq!(counts.passed, 0, "{counts}");
}

#[test]
fn an_agent_that_stays_frozen_is_denied_by_when_the_budget_ends() {
    let dev = Dev::start(None);
    let pair = Pair::start(dev.address(), &["-max-stale=8s"]);
    let load = Load::start(pair.door);
    pair.passes(&load);
    dev.freeze();
    pair.refuses(&load);
    let before = pair.app.accepted();
    let counts = load.next(50);
    counted("agent frozen for longer than the budget", &counts);
    assert_eq!(counts.passed, 0, "{counts}");
    assert_eq!(pair.app.accepted(), before);
    assert!(tell_of_staleness(&pair.codes()), "{}", pair.logs());
    dev.thaw();
    pair.passes(&load);
    let counts = load.next(50);
    assert_eq!(counts.failed(), 0, "{counts}\n{}", pair.logs());
}

#[test]
fn a_slow_agent_costs_no_connection_and_its_changes_arrive() {
    let embedded = Embedded::start();
    let pair = Pair::start(embedded.address(), &[]);
    let load = Load::start(pair.door);
    pair.passes(&load);
    let agent = embedded.agent();
    agent.inject_until_cleared("/v1/", Fault::Delay(Duration::from_millis(1500)));
    let api = Api::new(embedded.address(), None);
    // A slow write of something else, so that every watch meets the slowness.
    let counts = load.during(300, || {
        let path = "/v1/connect/intentions/exact?source=other&destination=db";
        let _ = api
            .put(path, &serde_json::json!({ "Action": "allow" }))
            .good();
    });
    counted("agent answers after 1.5 s", &counts);
    assert_eq!(counts.failed(), 0, "{counts}\n{}", pair.logs());
    agent.deny("web", "db").expect("a change");
    pair.refuses(&load);
    let counts = load.next(50);
    assert_eq!(counts.passed, 0, "{counts}");
    agent.allow("web", "db").expect("a change");
    pair.passes(&load);
}
