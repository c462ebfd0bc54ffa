//! Cluster peers: asked for while intentions name one, in force with them, and never too old.

use portcullis_testkit::TestCa;

use super::*;
use crate::filter::Peer;

const BETA: &str = "spiffe://beta.consul/ns/default/dc/dc1/svc/web";
const GAMMA: &str = "spiffe://gamma.consul/ns/default/dc/dc1/svc/web";

/// What intentions allow or deny `web` of these peers.
fn peers(rules: &[(&str, &str)]) -> String {
    let list: Vec<_> = rules
        .iter()
        .map(|(peer, action)| {
            serde_json::json!({
                "SourceName": "web", "SourcePeer": peer, "SourceNS": "default",
                "DestinationName": "db", "DestinationNS": "default", "SourceType": "consul",
                "Action": action,
            })
        })
        .collect();
    serde_json::json!({ "db": list }).to_string()
}

fn peering(name: &str, roots: &[&TestCa]) -> serde_json::Value {
    let roots: Vec<String> = roots.iter().map(|ca| ca.pem()).collect();
    serde_json::json!({
        "Name": name, "State": "ACTIVE", "PeerCAPems": roots, "Remote": { "Partition": "" },
        "StreamStatus": { "LastHeartbeat": "now" },
    })
}

fn listed(peerings: &[serde_json::Value]) -> (u16, String) {
    (200, serde_json::Value::from(peerings).to_string())
}

/// Everybody ticks until `is_done`, within ten seconds; the time is given back.
fn until(
    agent: &mut Agent,
    shelf: &FakeShelf,
    workers: &mut [Supply],
    from: u64,
    is_done: impl Fn(&mut [Supply], u64) -> bool,
) -> u64 {
    for now in (from..from + 10_000).step_by(500) {
        for worker in &mut *workers {
            agent.answer(worker, shelf, now);
        }
        if is_done(workers, now) {
            return now;
        }
    }
    panic!("it does not come: {:?}", shelf.keys());
}

/// Whether each worker lets `uri` in, or each refuses it.
fn all(workers: &mut [Supply], shelf: &FakeShelf, now: u64, uri: &str, effect: Effect) -> bool {
    workers
        .iter_mut()
        .all(|worker| asked(worker, shelf, now, uri).0 == effect)
}

fn workers(more: &str) -> Vec<Supply> {
    (1..4).map(|n| Supply::new(settings(more), n)).collect()
}

#[test]
fn bundles_come_with_the_intentions_that_name_them() {
    let shelf = FakeShelf::default();
    let (beta, gamma) = (TestCa::new("beta.consul"), TestCa::new("gamma.consul"));
    let mut agent = Agent::new("allow");
    agent.peerings = listed(&[peering("beta", &[&beta]), peering("gamma", &[&gamma])]);
    let mut workers = workers("");
    run(&mut agent, &shelf, &mut workers, 0, 5_000);
    assert!(all(&mut workers, &shelf, 5_000, WEB, Effect::Allow));
    assert!(!agent.asked.contains(&Asks::Peerings), "nobody names one");
    let before = workers[0].generation();

    agent.list = peers(&[("beta", "allow")]);
    agent.index = 2;
    let now = until(&mut agent, &shelf, &mut workers, 6_000, |workers, now| {
        all(workers, &shelf, now, BETA, Effect::Allow)
    });
    let generations: Vec<u64> = workers.iter().map(Supply::generation).collect();
    assert_eq!(generations, [generations[0]; 3]);
    assert!(generations[0] >= before + 2);
    // One that no intention names is nobody's, and a peer's roots are no roots of ours.
    for worker in &mut workers {
        let foreign = asked(worker, &shelf, now, GAMMA);
        assert_eq!(foreign, (Effect::Deny, Reason::ForeignTrustDomain));
        assert_eq!(worker.peers_without_bundle(), 0);
        let wall = Timestamp::from_millis(WALL + now);
        let mut verify = |ca: &TestCa, uri: &str| {
            let leaf = ca
                .leaf(uri)
                .with(|leaf| leaf.valid(0, 2_000_000_000))
                .issue();
            let leaf = Peer::read(leaf.pem().as_bytes()).unwrap().leaf;
            worker
                .verify(&shelf, Layer::Connections, &leaf, &[], now, wall)
                .is_ok()
        };
        assert!(verify(&beta, BETA));
        assert!(!verify(&gamma, BETA));
        assert!(!verify(&beta, WEB));
        assert!(!verify(&gamma, GAMMA));
    }
    let anchors = workers[0].anchors();
    // A denial of the other one comes with its bundle, so that beta is never cut off.
    agent.list = peers(&[("beta", "allow"), ("gamma", "deny")]);
    agent.index = 3;
    let now = until(
        &mut agent,
        &shelf,
        &mut workers,
        now + 500,
        |workers, now| {
            assert!(all(workers, &shelf, now, BETA, Effect::Allow), "at {now}");
            workers.iter_mut().all(|worker| {
                asked(worker, &shelf, now, GAMMA) == (Effect::Deny, Reason::Intention)
            })
        },
    );
    assert!(workers[0].anchors() > anchors);

    // Nobody names one any longer.
    agent.list = list("allow");
    agent.index = 4;
    let now = until(
        &mut agent,
        &shelf,
        &mut workers,
        now + 500,
        |workers, now| {
            all(workers, &shelf, now, WEB, Effect::Allow)
                && all(workers, &shelf, now, BETA, Effect::Deny)
        },
    );
    run(&mut agent, &shelf, &mut workers, now + 500, now + 2_000);
    let key = shelf.key_with("peerings/default/default/db/value");
    assert_eq!(shelf.text(&key).as_deref(), Some("[]"));
    agent.asked.clear();
    run(&mut agent, &shelf, &mut workers, now + 2_500, now + 9_000);
    assert!(!agent.asked.contains(&Asks::Peerings));
}

#[test]
fn without_the_right_or_the_endpoint_everything_else_goes_on() {
    for (status, told) in [(403, "peering:read"), (404, "no peerings")] {
        let shelf = FakeShelf::default();
        let mut agent = Agent::new("allow");
        let rules = peers(&[("beta", "allow")]);
        let both = rules.replacen('[', &format!("[{},", own_rule()), 1);
        agent.list = both;
        agent.peerings = (status, String::new());
        let mut workers = workers("");
        let now = until(&mut agent, &shelf, &mut workers, 0, |workers, now| {
            all(workers, &shelf, now, WEB, Effect::Allow)
        });
        assert!(all(&mut workers, &shelf, now, BETA, Effect::Deny));
        let errors: Vec<String> = workers
            .iter()
            .flat_map(Supply::errors)
            .filter(|(asks, _)| *asks == Asks::Peerings)
            .map(|(_, error)| error.to_owned())
            .collect();
        assert!(
            errors.iter().any(|error| error.contains(told)),
            "{errors:?}"
        );
        assert!(workers.iter().all(|one| one.peers_without_bundle() == 1));
        // As soon as it may be asked, the bundle is there.
        agent.peerings = listed(&[peering("beta", &[&TestCa::new("beta.consul")])]);
        until(
            &mut agent,
            &shelf,
            &mut workers,
            now + 500,
            |workers, now| all(workers, &shelf, now, BETA, Effect::Allow),
        );
    }
}

fn own_rule() -> String {
    let list: serde_json::Value = serde_json::from_str(&list("allow")).unwrap();
    list["db"][0].to_string()
}

#[test]
fn what_cannot_be_read_leaves_the_last_good_until_it_is_too_old() {
    let shelf = FakeShelf::default();
    let beta = TestCa::new("beta.consul");
    let mut agent = Agent::new("allow");
    agent.list = peers(&[("beta", "allow")]);
    agent.peerings = listed(&[peering("beta", &[&beta])]);
    let more = r#","default_policy":"deny","max_stale_ms":20000"#;
    let mut workers = workers(more);
    let mut now = until(&mut agent, &shelf, &mut workers, 0, |workers, now| {
        all(workers, &shelf, now, BETA, Effect::Allow)
    });
    let good_at = now;
    let bad = [
        (200, r#"[{"Name":"beta"},{"Name":"beta"}]"#),
        (200, "[7]"),
        (200, "x"),
        (403, ""),
        (500, "[]"),
    ];
    for (status, body) in bad.iter().cycle().take(60) {
        agent.peerings = (*status, (*body).to_owned());
        now += 500;
        for worker in &mut workers {
            agent.answer(worker, &shelf, now);
        }
        let (fresh, stale) = (now <= good_at + 18_000, now > good_at + 21_000);
        if fresh {
            assert!(all(&mut workers, &shelf, now, BETA, Effect::Allow), "{now}");
        }
        if stale {
            assert!(all(&mut workers, &shelf, now, BETA, Effect::Deny), "{now}");
        }
    }
    assert!(workers.iter().all(|one| one.peers_without_bundle() == 1));
    // The rest is as fresh as ever, and with an answer so are they.
    agent.peerings = listed(&[peering("beta", &[&beta])]);
    until(
        &mut agent,
        &shelf,
        &mut workers,
        now + 500,
        |workers, now| all(workers, &shelf, now, BETA, Effect::Allow),
    );
}

#[test]
fn roots_and_ends_of_peerings_reach_every_worker() {
    let shelf = FakeShelf::default();
    let beta = TestCa::new("beta.consul");
    let own = TestCa::new("t.consul");
    let mut agent = Agent::new("allow");
    agent.list = peers(&[("beta", "allow")]);
    agent.peerings = listed(&[peering("beta", &[&beta])]);
    let mut workers = workers("");
    let mut now = until(&mut agent, &shelf, &mut workers, 0, |workers, now| {
        all(workers, &shelf, now, BETA, Effect::Allow)
    });
    let mut ended = peering("beta", &[&beta]);
    ended["State"] = "TERMINATED".into();
    let good = [peering("beta", &[&beta])];
    for none in [
        vec![ended],
        vec![],
        // A peer that would vouch for us.
        vec![peering("beta", &[&own])],
    ] {
        for (list, effect) in [(&none[..], Effect::Deny), (&good[..], Effect::Allow)] {
            agent.index += 1;
            agent.peerings = listed(list);
            now = until(
                &mut agent,
                &shelf,
                &mut workers,
                now + 500,
                |workers, now| all(workers, &shelf, now, BETA, effect),
            );
        }
    }
}
