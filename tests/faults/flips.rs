//! Intentions change back and forth under load: after each change all new connections obey.

use portcullis_tests::consul::{Consul, Options};
use portcullis_tests::load::{Counts, Live, Load};
use portcullis_tests::pair::{Pair, intention};

use crate::scene::{Embedded, allow, counted, deny};

#[test]
fn after_each_of_forty_flips_every_connection_obeys() {
    let embedded = Embedded::start();
    let pair = Pair::start(embedded.address(), &[]);
    let load = Load::start(pair.door);
    pair.passes(&load);
    let (mut denied, mut allowed, mut late) = (Counts::default(), Counts::default(), 0);
    for _ in 0..20 {
        embedded.agent().deny("web", "db").expect("a change");
        late += pair.refuses(&load);
        let reached = pair.app.accepted();
        let counts = load.next(12);
        denied.closed += counts.failed();
        denied.passed += counts.passed;
        assert_eq!(counts.passed, 0, "denied, and let through\n{}", pair.logs());
        assert_eq!(pair.app.accepted(), reached);

        embedded.agent().allow("web", "db").expect("a change");
        pair.passes(&load);
        let counts = load.next(12);
        allowed.passed += counts.passed;
        allowed.closed += counts.failed();
        assert_eq!(counts.failed(), 0, "allowed: {counts}\n{}", pair.logs());
    }
    counted("while denied, in 20 flips", &denied);
    counted("while allowed, in 20 flips", &allowed);
    eprintln!("COUNTED let in between a denial's write and its arrival: {late}");
}

#[test]
fn flips_of_others_cost_no_connection() {
    let embedded = Embedded::start();
    let pair = Pair::start(embedded.address(), &[]);
    let load = Load::start(pair.door);
    pair.passes(&load);
    let live = Live::start(pair.door, 4);
    let agent = embedded.agent();
    let counts = load.during(400, || {
        for number in 0..200 {
            let other = format!("other-{}", number % 7);
            agent.deny(&other, "db").expect("a change");
            agent.allow(&other, "db").expect("a change");
        }
    });
    counted("400 changes about others", &counts);
    assert_eq!(counts.failed(), 0, "{counts}\n{}", pair.logs());
    assert_eq!(live.broken(), 0);
}

#[test]
fn flips_in_real_consul_are_obeyed_too() {
    let Some(consul) = Consul::start("flips_in_real_consul", Options::new()) else {
        return;
    };
    let api = consul.api();
    intention(&api, "*", "db", "deny", "");
    allow(&api);
    let pair = Pair::start(consul.address(), &[]);
    let load = Load::start(pair.door);
    pair.passes(&load);
    for _ in 0..8 {
        deny(&api);
        pair.refuses(&load);
        let counts = load.next(20);
        assert_eq!(counts.passed, 0, "denied, and let through\n{}", pair.logs());
        allow(&api);
        pair.passes(&load);
        let counts = load.next(20);
        assert_eq!(counts.failed(), 0, "allowed: {counts}\n{}", pair.logs());
    }
}
