//! No new leaf certificate is to be had: the old one serves to its end, then nobody is let in.

use std::time::Duration;

use portcullis_dev_agent::{DevAgentConfig, Fault};
use portcullis_tests::load::{Counts, Load};
use portcullis_tests::pair::Pair;
use portcullis_tests::process::eventually;

use crate::scene::{Embedded, SOON, counted};

const LEAF: &str = "/v1/agent/connect/ca/leaf/";

/// A leaf's life, in seconds.
const LIFE: u64 = 12;

#[test]
fn a_renewal_that_is_refused_costs_nothing_until_the_leaf_ends_and_then_everything() {
    // Each waits for the end of a certificate, so they do it side by side.
    std::thread::scope(|scope| {
        for (status, text) in [
            (
                403,
                "Permission denied: token lacks permission 'service:write'",
            ),
            (429, "CA signing rate limit reached: rate: limit exceeded"),
            (500, "no leader"),
        ] {
            scope.spawn(move || refused_with(status, text));
        }
    });
}

fn refused_with(status: u16, text: &str) {
    let embedded = Embedded::with(DevAgentConfig {
        leaf_ttl: Duration::from_secs(LIFE),
        ..DevAgentConfig::for_tests()
    });
    let agent = embedded.agent();
    let pair = Pair::start(embedded.address(), &[]);
    let load = Load::start(pair.door);
    pair.passes(&load);
    agent.inject_until_cleared(LEAF, Fault::Status(status, text.to_owned()));
    let mut before = Counts::default();
    // As long as both certificates are good, nothing fails.
    let mut last = load.next(20);
    while last.failed() == 0 {
        before.passed += last.passed;
        last = load.next(20);
    }
    let ended = now();
    counted(&format!("{status} for the leaf, until it ends"), &before);
    assert!(before.passed + last.passed > 0, "{last}");
    let first_end = [&pair.db, &pair.web]
        .iter()
        .filter_map(|proxy| last_leaf_end(&proxy.log()))
        .min()
        .expect("the logs tell when the leaves end");
    assert!(
        ended >= first_end,
        "refused at {ended}, but both were good until {first_end}\n{}",
        pair.logs()
    );

    pair.refuses(&load);
    // From here on both have ended, whoever was first.
    eventually("both have ended", SOON, || {
        let last_end = [&pair.db, &pair.web]
            .iter()
            .filter_map(|proxy| last_leaf_end(&proxy.log()))
            .max()?;
        (now() > last_end).then_some(())
    });
    let reached = pair.app.accepted();
    let counts = load.next(60);
    counted(&format!("{status} for the leaf, after its end"), &counts);
    assert_eq!(counts.passed, 0, "{counts}\n{}", pair.logs());
    assert_eq!(counts.hung, 0, "{counts}\n{}", pair.logs());
    assert_eq!(pair.app.accepted(), reached, "an expired client was let in");
    let said = text.split(':').next().unwrap_or(text);
    pair.web.logs("this side's certificate expired at");
    let log = pair.logs();
    assert!(
        log.lines()
            .any(|line| line.contains("leaf of db") && line.contains(said)),
        "`{said}` is not said\n{log}"
    );

    agent.clear_faults();
    pair.passes(&load);
    let counts = load.next(40);
    counted(&format!("{status} for the leaf no more"), &counts);
    assert_eq!(counts.failed(), 0, "{counts}\n{}", pair.logs());
}

/// Seconds since the epoch.
fn now() -> i64 {
    time::OffsetDateTime::now_utc().unix_timestamp()
}

/// When the leaf that was logged last ends.
fn last_leaf_end(log: &str) -> Option<i64> {
    let line = log
        .lines()
        .rev()
        .find(|line| line.contains("leaf certificate identity="))?;
    let until = line.split(" until=").nth(1)?.split(' ').next()?;
    let parsed = time::OffsetDateTime::parse(until, &time::format_description::well_known::Rfc3339);
    parsed.ok().map(time::OffsetDateTime::unix_timestamp)
}
