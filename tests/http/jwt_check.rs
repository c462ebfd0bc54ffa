//! `portcullis check` about requests that show tokens.

use portcullis_dev_agent::DevAgent;
use portcullis_tests::program::{Said, portcullis, run};
use serde_json::{Value, json};

use crate::jwt::{guarded, provider};
use crate::scene::{agent, intentions, speaks};
use crate::tokens::{Answer, Issuer, KeyServer};

/// What `check web api` with these flags says, and its whole answer.
fn check(agent: Option<&DevAgent>, flags: &[&str]) -> (Said, Value) {
    let mut command = portcullis(["check", "web", "api", "-output=json"]);
    command.args(flags);
    if let Some(agent) = agent {
        command.env("CONSUL_HTTP_ADDR", agent.address().to_string());
    }
    let said = tokio::task::block_in_place(|| run(&mut command));
    assert!(!said.out.is_empty(), "{said:?}");
    let answer = serde_json::from_str(&said.out).expect("JSON");
    (said, answer)
}

/// A file with a token as a header.
fn header(token: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let line = format!("authorization: Bearer {token}\n");
    std::fs::write(file.path(), line).expect("it can be written");
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_says_what_a_token_is_worth_and_nothing_of_it() {
    let agent = agent().await;
    speaks(&agent, "http");
    let issuer = Issuer::new("one");
    let keys = json!({ "Local": { "JWKS": issuer.inline() } });
    let entry = provider(keys, json!({}));
    agent.put_config_entry(&entry).expect("a provider");
    intentions(&agent, guarded());

    let ask = |token: &str| {
        let file = header(token);
        let flag = format!("-header=@{}", file.path().display());
        let (said, answer) = check(Some(&agent), &["-path=/a", "-explain", &flag]);
        for part in token.split('.').filter(|part| part.len() > 20) {
            assert!(
                !said.out.contains(part) && !said.err.contains(part),
                "{said:?}"
            );
        }
        (said.code, answer)
    };
    let has = |answer: &Value, note: &str| {
        let notes = answer["trace"]["notes"].as_array().expect("notes");
        assert!(
            notes
                .iter()
                .any(|text| text.as_str().is_some_and(|text| text.contains(note))),
            "`{note}` is missing in {notes:?}"
        );
    };
    let (code, answer) = ask(&issuer.token(600, "admin"));
    assert_eq!(code, Some(0), "{answer}");
    assert_eq!(answer["because"]["code"], "permission");
    has(&answer, "JWT: the requirement is met");
    has(&answer, "JWT provider `okta`: the token is valid");
    has(
        &answer,
        "JWT provider `okta`: claim `role` is what it must be",
    );

    for (token, note) in [
        (
            issuer.token(600, "guest"),
            "claim `role` is not what it must be",
        ),
        (issuer.token(-600, "admin"), "expired"),
        (
            Issuer::new("one").token(600, "admin"),
            "no key of the provider verifies",
        ),
    ] {
        let (code, answer) = ask(&token);
        assert_eq!(code, Some(1), "{answer}");
        assert_eq!(answer["because"]["code"], "jwt-not-satisfied");
        has(&answer, "JWT: the requirement is not met");
        has(&answer, note);
    }
    for (what, token) in issuer.bad("admin") {
        let (code, answer) = ask(&token);
        assert_eq!(code, Some(1), "{what}: {answer}");
        has(&answer, "JWT: the requirement is not met");
    }
    let (said, answer) = check(Some(&agent), &["-path=/a", "-explain"]);
    assert_eq!(said.code, Some(1));
    has(&answer, "JWT provider `okta`: the request carries no token");
    // The same for people.
    let mut text = portcullis(["check", "web", "api", "-path=/a", "-explain"]);
    text.env("CONSUL_HTTP_ADDR", agent.address().to_string());
    let text = tokio::task::block_in_place(|| run(&mut text));
    assert!(
        text.out.starts_with("denied: ") && text.out.contains("the request carries no token"),
        "{text:?}"
    );
    // A line that is no header is not shown: it may be a token.
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "\ncanary\n").expect("it can be written");
    let flag = format!("-header=@{}", file.path().display());
    let mut wrong = portcullis(["check", "web", "api", "-path=/a", &flag]);
    let said = tokio::task::block_in_place(|| run(&mut wrong));
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(
        said.err.contains("line 2") && !said.err.contains("canary"),
        "{said:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn check_asks_only_servers_that_it_may_ask() {
    let agent = agent().await;
    speaks(&agent, "http");
    let issuer = Issuer::new("one");
    let server = KeyServer::start(Answer::Keys(issuer.keys()), None).await;
    let uri = format!("http://{}/keys", server.address);
    let entry = provider(json!({ "Remote": { "URI": uri } }), json!({}));
    agent.put_config_entry(&entry).expect("a provider");
    // Of no account, as no rule speaks of it.
    let mut other = entry.clone();
    other["Name"] = json!("other");
    agent.put_config_entry(&other).expect("a provider");
    intentions(&agent, guarded());
    let file = header(&issuer.token(600, "admin"));
    let token = format!("-header=@{}", file.path().display());

    let (said, answer) = check(Some(&agent), &["-path=/a", "-explain", &token]);
    assert_eq!(said.code, Some(1));
    assert_eq!(answer["because"]["code"], "jwt-not-satisfied");
    let warning = &answer["warnings"][0];
    assert_eq!(warning["document"], "jwks/okta", "{answer}");
    assert_eq!(answer["warnings"][1], Value::Null, "{answer}");
    let allow = format!("-jwks-allow http://{}", server.address);
    assert!(
        warning["text"]
            .as_str()
            .is_some_and(|text| text.contains(&allow)),
        "{answer}"
    );
    assert!(
        answer.to_string().contains("its keys are not loaded"),
        "{answer}"
    );
    assert_eq!(server.asked(), 0);

    let allow = format!("-jwks-allow=http://{}", server.address);
    let (said, answer) = check(Some(&agent), &["-path=/a", &token, &allow]);
    assert_eq!(said.code, Some(0), "{answer}");
    assert_eq!(answer["warnings"], json!([]));
    server.answers(Answer::Garbage);
    let (said, answer) = check(Some(&agent), &["-path=/a", &token, &allow]);
    assert_eq!(said.code, Some(1), "{answer}");
    assert_eq!(answer["warnings"][0]["document"], "jwks/okta", "{answer}");
    // Nobody is asked for keys where the question is about a connection.
    let asked = server.asked();
    let (said, _) = check(Some(&agent), &[&allow]);
    assert_eq!((said.code, server.asked()), (Some(1), asked));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_reads_providers_and_normalisation_from_agent_and_files() {
    let agent = agent().await;
    speaks(&agent, "http");
    let issuer = Issuer::new("one");
    let keys = json!({ "Local": { "JWKS": issuer.inline() } });
    let okta = provider(keys, json!({}));
    let normalization = json!({ "RequestNormalization": { "MergeSlashes": true } });
    let mesh = json!({ "Kind": "mesh", "HTTP": { "Incoming": normalization } });
    for entry in [&okta, &mesh] {
        agent.put_config_entry(entry).expect("an entry");
    }
    intentions(&agent, guarded());
    let file = header(&issuer.token(600, "admin"));
    let token = format!("-header=@{}", file.path().display());
    let (said, answer) = check(Some(&agent), &["-path=/a//b", &token]);
    assert_eq!(said.code, Some(0), "{answer}");
    assert_eq!(answer["forwarded_path"], "/a/b", "{answer}");

    let folder = tempfile::tempdir().expect("a folder");
    let mut flags = vec![
        "-path=/a//b".to_owned(),
        token,
        "-default-intention-policy=deny".to_owned(),
    ];
    let permission = &guarded()[0]["Permissions"];
    let list = json!([{ "SourceName": "web", "DestinationName": "api", "SourceType": "consul", "Precedence": 9, "Permissions": permission }]);
    for (flag, content) in [("from", &list), ("entries", &okta), ("entries", &mesh)] {
        let file = folder.path().join(format!("{}.json", flags.len()));
        std::fs::write(&file, content.to_string()).expect("a file");
        flags.push(format!("-{flag}={}", file.display()));
    }
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let (said, answer) = check(None, &flags);
    assert_eq!(said.code, Some(0), "{answer}");
    assert_eq!(answer["forwarded_path"], "/a/b", "{answer}");
    let (said, answer) = check(None, &flags[..4]);
    assert_eq!(said.code, Some(1), "{answer}");
    assert_eq!(answer["because"]["code"], "jwt-not-satisfied");
}
