//! What strangers say is written as one line of plain ASCII, whoever the stranger is.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use portcullis_dev_agent::{DevAgent, DevAgentConfig, Fault};
use portcullis_tests::load::Load;
use portcullis_tests::pair::{Pair, intention};
use portcullis_tests::process::eventually;
use portcullis_tests::program::{portcullis, run};
use portcullis_tests::{api::Api, components};
use serde_json::Value;

/// Line ends, terminal codes, a line separator, a forged entry, and bytes that are no text.
const NASTY: &str = "x\r\n2026-01-01T00:00:00.000Z ERROR forged\u{1b}[2J\u{1b}[31m\u{2028}\u{9b}\u{85}\u{feff}é\0\u{202e}";

/// No line is longer: fields are cut.
const LONGEST: usize = 16 * 1024;

fn nasty_bytes() -> Vec<u8> {
    let mut bytes = NASTY.as_bytes().to_vec();
    bytes.extend([0x80, 0xff, 0xfe]);
    bytes.extend(vec![b'A'; 200_000]);
    bytes
}

/// Every line is ASCII, not too long, and in JSON an object.
#[track_caller]
fn is_clean(text: &[u8], json: bool) {
    assert!(!text.is_empty());
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let shown = String::from_utf8_lossy(&line[..line.len().min(600)]);
        assert!(line.ends_with(b"\n"), "cut: {shown}");
        let line = &line[..line.len() - 1];
        assert!(line.len() <= LONGEST, "{} bytes: {shown}", line.len());
        assert!(
            line.iter().all(|byte| matches!(byte, 0x20..=0x7e)),
            "{shown:?}"
        );
        assert!(!line.starts_with(b"2026-01-01"), "forged: {shown}");
        if json {
            let parsed: Value =
                serde_json::from_slice(line).unwrap_or_else(|error| panic!("{error}: {shown}"));
            assert!(parsed.is_object(), "{shown}");
        }
    }
}

/// An agent on a runtime of its own.
fn agent() -> (tokio::runtime::Runtime, DevAgent) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let agent = runtime
        .block_on(DevAgent::start(DevAgentConfig::for_tests()))
        .expect("the agent starts");
    (runtime, agent)
}

/// A ClientHello whose server name is `name`, whatever that is.
fn client_hello(name: &[u8]) -> Vec<u8> {
    let with_length = |body: &[u8]| {
        let length = u16::try_from(body.len()).expect("short").to_be_bytes();
        [&length, body].concat()
    };
    let entry = [&[0][..], &with_length(name)].concat();
    let sni = [&[0, 0][..], &with_length(&with_length(&entry))].concat();
    let versions = [0, 43, 0, 3, 2, 3, 4];
    let groups = [0, 10, 0, 4, 0, 2, 0, 23];
    let schemes = [0, 13, 0, 4, 0, 2, 4, 3];
    let extensions = with_length(&[&sni[..], &versions, &groups, &schemes].concat());
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[0],
        &with_length(&[0x13, 0x01]),
        &[1, 0],
        &extensions,
    ]
    .concat();
    let length = u32::try_from(body.len()).expect("short").to_be_bytes();
    let handshake = [&[1][..], &length[1..], &body].concat();
    [&[22, 3, 1][..], &with_length(&handshake)].concat()
}

/// Sends bytes to the mesh listener and waits for the end.
fn insult(address: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .expect("a timeout");
    // It may be closed while we still write.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
}

fn hostile_world(format: &str) {
    let (runtime, agent) = agent();
    let api = Api::new(agent.address(), None);
    intention(&api, "web", "db", "allow", "");
    let component = format!("-component={}", components::tricks().display());
    let pair = Pair::prepared(agent.address(), |command| {
        command
            .arg(&component)
            .env("RUST_LOG", "debug")
            .env("LOG_FORMAT", format);
    });
    let load = Load::start(pair.door);
    pair.passes(&load);
    // The mesh: no TLS, odd server names.
    for name in [
        NASTY.as_bytes(),
        b"a\r\nb.example",
        &[0xff, 0x80],
        &[b'a'; 4000],
    ] {
        insult(pair.inbound, &client_hello(name));
    }
    insult(pair.inbound, &nasty_bytes());
    insult(
        pair.inbound,
        format!("GET /{NASTY} HTTP/1.1\r\nHost: {NASTY}\r\n\r\n").as_bytes(),
    );
    // The component: its words for a panic.
    intention(&api, "web", "db", "allow", "trick:panic");
    pair.refuses(&load);
    intention(&api, "web", "db", "allow", NASTY.trim_end_matches('\0'));
    pair.passes(&load);
    // The agent: its words for an error, and in what it answers.
    for fault in [
        Fault::Status(500, NASTY.to_owned()),
        Fault::Status(403, NASTY.repeat(2000)),
        Fault::Garbage(nasty_bytes()),
        Fault::Garbage(
            format!(
                r#"{{"db":[{{"Action":"{}","SourceName":"{}"}}]}}"#,
                "a\\r\\n\\u001b",
                NASTY.escape_default()
            )
            .into_bytes(),
        ),
        Fault::Foreign {
            status: 200,
            headers: vec![("Content-Type".to_owned(), "text/html".to_owned())],
            body: nasty_bytes(),
        },
    ] {
        agent.inject_until_cleared("/v1/", fault);
        let before = pair.db.log().matches("intentions of db").count();
        eventually("it is logged", Duration::from_secs(60), || {
            agent.allow("other", "db").ok()?;
            agent.delete_intention("other", "db").ok()?;
            (pair.db.log().matches("intentions of db").count() > before).then_some(())
        });
        agent.clear_faults();
        let _ = load.next(4);
    }
    drop(load);
    let mut pair = pair;
    // At the end everything is written.
    pair.db.stop();
    pair.web.stop();
    // What is to be harmless did arrive; a component's own words are not even kept.
    assert!(pair.db.log().contains("forged"), "{}", pair.logs());
    is_clean(&pair.db.raw_log(), format == "json");
    is_clean(&pair.web.raw_log(), format == "json");
    runtime.block_on(agent.shutdown());
}

#[test]
fn a_hostile_mesh_component_and_agent_write_clean_lines_of_text() {
    hostile_world("text");
}

#[test]
fn a_hostile_mesh_component_and_agent_write_clean_lines_of_json() {
    hostile_world("json");
}

#[test]
fn commands_say_what_a_hostile_agent_says_in_clean_lines() {
    let (runtime, agent) = agent();
    for fault in [
        Fault::Status(500, NASTY.to_owned()),
        Fault::Status(403, NASTY.to_owned()),
        Fault::Garbage(nasty_bytes()),
    ] {
        for arguments in [
            &["check", "web", "db"][..],
            &["check", "web", "db", "-output=json"],
            &["intention", "list"],
            &["intention", "list", "-output=json"],
            &["intention", "allow", "web", "db"],
            &["proxy", "-service=web", "-upstream=db:0", "-output=json"],
        ] {
            agent.inject_until_cleared("/v1/", fault.clone());
            let mut command: Command = portcullis(arguments.iter().copied());
            command.env("CONSUL_HTTP_ADDR", agent.url());
            // One that waits for the agent is not what this is about.
            let waits = arguments[0] == "proxy" && matches!(fault, Fault::Status(500, _));
            if !waits {
                let said = run(&mut command);
                assert!(
                    said.code.is_some_and(|code| code != 0),
                    "{arguments:?} {said:?}"
                );
                is_clean(said.err.as_bytes(), false);
                if !said.out.is_empty() {
                    is_clean(said.out.as_bytes(), false);
                }
            }
            agent.clear_faults();
        }
    }
    runtime.block_on(agent.shutdown());
}
