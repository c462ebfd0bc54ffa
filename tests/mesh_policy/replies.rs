//! Replies that no healthy agent gives: the last good rules stay in force.

use std::time::Duration;

use portcullis_testkit::TestCa;
use portcullis_tests::process::eventually;
use serde_json::json;

use crate::host::Settings;
use crate::scripted::{Scripted, State};
use crate::{SOON, Story, ours, pair};

const TRUST_DOMAIN: &str = "mesh.consul";
const DENY: &str = r#"{"db":[{"SourceNS":"default","SourceName":"web","DestinationNS":"default","DestinationName":"db","SourceType":"consul","Action":"deny","Precedence":9}]}"#;
const NONE: &str = r#"{"db":null}"#;

/// `web` is denied by a rule, and would be allowed by default.
fn denied(fetch_timeout: u32) -> (Scripted, Story) {
    let root = TestCa::new(TRUST_DOMAIN).pem();
    let roots = json!({"ActiveRootID": "a", "TrustDomain": TRUST_DOMAIN,
        "Roots": [{"ID": "a", "Name": "r", "RootCert": root, "Active": true}]});
    let agent = Scripted::start(State {
        roots: roots.to_string(),
        index: 100,
        status: "200 OK",
        headers: "",
        lists: DENY.into(),
        silent: false,
        once: None,
    });
    let host = ours::start(agent.address(), None);
    let mut story = Story {
        host,
        trust_domain: TRUST_DOMAIN.to_owned(),
    };
    let settings = Settings {
        default_policy: "allow",
        fetch_timeout,
        ..Settings::default()
    };
    story
        .host
        .configure(&settings)
        .expect("the settings are accepted");
    assert_eq!(story.ask("web", "db"), pair("deny", "intention"));
    assert_eq!(story.ask("api", "db"), pair("allow", "default-policy"));
    (agent, story)
}

fn error_of(story: &mut Story) -> Option<String> {
    let mut watched = story.host.status().into_iter();
    watched
        .find(|watched| watched.name.ends_with("/db"))
        .and_then(|db| db.last_error)
}

#[test]
fn a_reply_that_cannot_be_read_drops_no_rule() {
    let (agent, mut story) = denied(20_000);
    let huge = [b"{\"db\":[", " ".repeat(40 << 20).as_bytes(), b"]}"].concat();
    let deep = format!(r#"{{"db":{}{}}}"#, "[".repeat(5_000), "]".repeat(5_000));
    let bodies: [(&str, &str, &str, Vec<u8>); 15] = [
        ("truncated", "200 OK", "", DENY[..60].into()),
        ("empty", "200 OK", "", Vec::new()),
        ("no object", "200 OK", "", "[]".into()),
        ("missing name", "200 OK", "", "{}".into()),
        (
            "name in another case",
            "200 OK",
            "",
            r#"{"DB":null}"#.into(),
        ),
        ("name twice", "200 OK", "", r#"{"db":[],"db":null}"#.into()),
        ("no list", "200 OK", "", r#"{"db":{}}"#.into()),
        ("list as text", "200 OK", "", r#"{"db":"null"}"#.into()),
        ("not even JSON", "200 OK", "", "<html>".into()),
        ("deep", "200 OK", "", deep.into()),
        ("huge", "200 OK", "", huge),
        (
            "compressed",
            "200 OK",
            "Content-Encoding: gzip\r\n",
            NONE.into(),
        ),
        ("refused", "403 Forbidden", "", NONE.into()),
        (
            "redirected",
            "307 Temporary Redirect",
            "Location: /v1/elsewhere\r\n",
            NONE.into(),
        ),
        ("broken", "500 Internal Server Error", "", NONE.into()),
    ];
    let mut index = 200;
    for (what, status, headers, lists) in bodies {
        index += 1;
        agent.say(|state| {
            *state = State {
                status,
                headers,
                lists,
                index,
                ..state.clone()
            }
        });
        eventually(what, SOON, || {
            assert_eq!(story.ask("web", "db"), pair("deny", "intention"), "{what}");
            error_of(&mut story)
        });
        index += 1;
        agent.say(|state| {
            *state = State {
                status: "200 OK",
                headers: "",
                lists: DENY.into(),
                index,
                ..state.clone()
            };
        });
        eventually("it recovers", SOON, || {
            assert_eq!(story.ask("web", "db"), pair("deny", "intention"), "{what}");
            error_of(&mut story).is_none().then_some(())
        });
    }
    agent.say(|state| {
        *state = State {
            lists: NONE.into(),
            index: 900,
            ..state.clone()
        }
    });
    story.becomes("web", "db", ("allow", "default-policy"));
}

#[test]
fn an_older_state_is_read_again_before_it_counts() {
    let (agent, mut story) = denied(20_000);
    // A server that lags: one answer with an older state, under a lower index.
    agent.say(|state| state.once = Some((50, NONE.into())));
    eventually("the older state was seen", SOON, || {
        assert_eq!(story.ask("web", "db"), pair("deny", "intention"));
        agent.said_once().then_some(())
    });
    eventually("the leader was asked", SOON, || {
        assert_eq!(story.ask("web", "db"), pair("deny", "intention"));
        agent
            .targets()
            .iter()
            .any(|target| target.contains("consistent"))
            .then_some(())
    });
    for _ in 0..20 {
        assert_eq!(story.ask("web", "db"), pair("deny", "intention"));
        std::thread::sleep(Duration::from_millis(5));
    }
    // A snapshot was restored: the leader says so too, and the older state is the state.
    agent.say(|state| {
        *state = State {
            lists: NONE.into(),
            index: 60,
            ..state.clone()
        }
    });
    story.becomes("web", "db", ("allow", "default-policy"));
    assert!(
        agent
            .targets()
            .iter()
            .any(|target| target.contains("consistent"))
    );
}

/// It waits for a silent agent, but not for ever, and not every time.
#[test]
fn a_silent_agent_leaves_the_last_good_rules_in_force() {
    let (agent, mut story) = denied(3_000);
    agent.say(|state| state.silent = true);
    // Nobody watches for more than a second, so the present state is asked for first.
    std::thread::sleep(Duration::from_millis(1_200));
    agent.say(|state| {
        *state = State {
            index: 101,
            silent: true,
            ..state.clone()
        }
    });
    assert_eq!(story.ask("web", "db"), pair("deny", "intention"));
    for _ in 0..1_000 {
        assert_eq!(story.ask("web", "db"), pair("deny", "intention"));
    }
    assert_eq!(story.ask("web", "new"), pair("deny", "not-ready"));
    agent.say(|state| {
        *state = State {
            lists: NONE.into(),
            index: 102,
            silent: false,
            ..state.clone()
        }
    });
    story.becomes("web", "db", ("allow", "default-policy"));
}
