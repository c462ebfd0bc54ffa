//! Tokens and keys are written nowhere, whatever happens to the proxy.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use portcullis_dev_agent::{DefaultPolicy, DevAgent, DevAgentConfig, Fault, Token};
use portcullis_tests::api::Api;
use portcullis_tests::load::Load;
use portcullis_tests::pair::Pair;
use portcullis_tests::process::eventually;
use portcullis_tests::{ports, program};

const CANARY: &str = "c4n4ry-70k3n-41d9-9a10-0123456789ab";

#[test]
fn neither_token_nor_key_is_logged_at_trace_level_under_load_and_faults() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let config = DevAgentConfig {
        default_policy: DefaultPolicy::Deny,
        default_intention_policy: Some(DefaultPolicy::Allow),
        tokens: vec![Token::management(CANARY)],
        ..DevAgentConfig::for_tests()
    };
    let agent = runtime
        .block_on(DevAgent::start(config))
        .expect("the agent starts");
    let folder = tempfile::tempdir().expect("a folder");
    let token = folder.path().join("token");
    fs::write(&token, CANARY).expect("a token");
    let pair = Pair::prepared(agent.address(), |command| {
        command
            .arg(format!("-token-file={}", token.display()))
            .env("RUST_LOG", "trace")
            .env("LOG_FORMAT", "json");
    });
    let load = Load::start(pair.door);
    pair.passes(&load);
    // The keys that the proxies hold, as the agent keeps them.
    let api = Api::new(agent.address(), Some(CANARY));
    let keys: Vec<String> = ["web", "db"]
        .iter()
        .map(|service| {
            let path = format!("/v1/agent/connect/ca/leaf/{service}");
            let leaf = api.get(&path).good().json();
            leaf["PrivateKeyPEM"].as_str().expect("a key").to_owned()
        })
        .collect();
    for fault in [
        Fault::Status(500, "no leader".to_owned()),
        Fault::Garbage(b"{".to_vec()),
        Fault::Truncated,
    ] {
        agent.inject("/v1/agent/connect/ca/leaf/", fault.clone());
        agent.inject("/v1/connect/intentions/match", fault);
        agent.allow("other", "db").expect("a change");
        agent.delete_intention("other", "db").expect("a change");
        let _ = load.next(20);
    }
    // What a reload writes is no exception.
    pair.db.signal(1);
    pair.web.signal(1);
    let _ = load.next(20);
    for proxy in [&pair.db, &pair.web] {
        let log = proxy.log();
        assert!(log.len() > 10_000, "trace level says a lot: {}", log.len());
        let cmdline = fs::read(format!("/proc/{}/cmdline", proxy.id())).expect("this is Linux");
        let environment = fs::read(format!("/proc/{}/environ", proxy.id())).expect("this is Linux");
        for place in [
            log,
            String::from_utf8_lossy(&cmdline).into_owned(),
            String::from_utf8_lossy(&environment).into_owned(),
        ] {
            assert!(!place.contains(CANARY) && !place.contains(&CANARY[..14]));
            for line in keys.iter().flat_map(|key| key.lines()) {
                if !line.starts_with("-----") {
                    assert!(!place.contains(line), "a line of a key");
                }
            }
            assert!(!place.contains("PRIVATE KEY"), "{place}");
        }
    }
    drop(load);
    runtime.block_on(agent.shutdown());
}

#[test]
fn what_holds_keys_writes_no_core_dump() {
    let [port] = ports::free();
    let dev = program::portcullis(["dev"]);
    let mut proxy = program::portcullis(["proxy", "-service=web", "-upstream=db:0"]);
    // No agent there: it waits for one.
    proxy.env("CONSUL_HTTP_ADDR", format!("127.0.0.1:{port}"));
    let mut dev_arguments = dev;
    dev_arguments.arg("-listen=127.0.0.1:0");
    for command in [dev_arguments, proxy] {
        let folder = tempfile::tempdir().expect("a folder");
        let mut shell = std::process::Command::new("sh");
        shell
            .args(["-c", "ulimit -c unlimited 2>/dev/null; exec \"$0\" \"$@\""])
            .arg(command.get_program())
            .args(command.get_args())
            .current_dir(folder.path())
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        let child = shell.spawn().expect("it starts");
        let mut process = portcullis_tests::process::Process::new(child);
        let of_process = |name: &str| format!("/proc/{}/{name}", process.id());
        let (program, limits) = (of_process("exe"), of_process("limits"));
        eventually("core dumps are off", Duration::from_secs(90), || {
            // The shell before it may have been started with none.
            let program = fs::read_link(&program).ok()?;
            if !program.ends_with("portcullis") {
                return None;
            }
            let limits = fs::read_to_string(&limits).ok()?;
            let line = limits
                .lines()
                .find(|line| line.starts_with("Max core file size"))?;
            (line.split_whitespace().nth(4) == Some("0")).then_some(())
        });
        process.signal(6);
        let ended = process
            .wait(Duration::from_secs(90))
            .expect("SIGABRT ends it");
        assert_eq!(ended.signal(), Some(6), "{ended}");
        assert!(!ended.core_dumped(), "{ended}");
        let left: Vec<_> = fs::read_dir(folder.path()).expect("a folder").collect();
        assert!(left.is_empty(), "{left:?}");
    }
}
