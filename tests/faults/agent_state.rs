//! The agent comes back with an older state: a deny is not dropped unread and unsaid.

use std::fs;
use std::path::Path;
use std::process::Command;

use portcullis_tests::api::Api;
use portcullis_tests::consul::{Consul, Options};
use portcullis_tests::load::Load;
use portcullis_tests::pair::{Pair, intention};
use portcullis_tests::process::eventually;

use crate::scene::{Dev, SOON, allow, counted, deny};

/// What is logged when an older state is answered.
const OLDER: &str = "an older state, which is read again before it is used";

#[test]
fn a_restored_folder_of_the_development_agent_is_read_again_and_logged() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, copy) = (folder.path().join("data"), folder.path().join("copy"));
    let mut dev = Dev::start(Some(&data));
    // Its folder as it was while web was allowed.
    copy_folder(&data, &copy);
    // A restart skips numbers; then the copy's are lower.
    dev.restart();
    let pair = Pair::start(dev.address(), &[]);
    let load = Load::start(pair.door);
    pair.passes(&load);
    deny(&dev.api());
    pair.refuses(&load);
    let counts = load.next(50);
    assert_eq!(counts.passed, 0, "{counts}");

    dev.kill();
    let counts = load.next(50);
    counted("denied, and the agent is dead", &counts);
    assert_eq!(counts.passed, 0, "{counts}");
    fs::remove_dir_all(&data).expect("the folder goes");
    copy_folder(&copy, &data);
    dev.restart();
    // The agent says the older state twice: then it is so, and it was said.
    pair.passes(&load);
    pair.db.logs(OLDER);
    let log = pair.db.log();
    let said = log
        .find(OLDER)
        .unwrap_or_else(|| panic!("nothing said:\n{log}"));
    let line = log[..said].rfind('\n').map_or(0, |at| at + 1);
    assert!(
        log[line..said + OLDER.len()].contains("WARN"),
        "{}",
        &log[line..]
    );
    let counts = load.next(100);
    counted("older state, read twice", &counts);
    assert_eq!(counts.failed(), 0, "{counts}\n{}", pair.logs());
    // And the watch goes on from there.
    deny(&dev.api());
    pair.refuses(&load);
    assert_eq!(load.next(50).passed, 0);
}

#[test]
fn an_agent_without_memory_denies_until_it_is_told_again() {
    let mut dev = Dev::start(None);
    let pair = Pair::start(dev.address(), &[]);
    let load = Load::start(pair.door);
    for _ in 0..30 {
        deny(&dev.api());
        allow(&dev.api());
    }
    pair.passes(&load);
    dev.restart();
    // Another CA, another trust domain, lower indexes, no intention: the default denies. The
    // certificates may come before the list, and until then the last good one allows.
    pair.refuses_by(&load, "default-policy");
    let before = pair.app.accepted();
    let counts = load.next(100);
    counted("agent without memory", &counts);
    assert_eq!(counts.passed, 0, "{counts}\n{}", pair.logs());
    assert_eq!(pair.app.accepted(), before);
    allow(&dev.api());
    pair.passes(&load);
    let counts = load.next(100);
    assert_eq!(counts.failed(), 0, "{counts}\n{}", pair.logs());
}

#[test]
fn a_restored_snapshot_of_real_consul_is_read_again_and_logged() {
    let Some(consul) = Consul::start("a_restored_snapshot", Options::new().persistent()) else {
        return;
    };
    let api = consul.api();
    intention(&api, "*", "db", "deny", "");
    allow(&api);
    let folder = tempfile::tempdir().expect("a folder");
    let snapshot = folder.path().join("snapshot");
    // Consul answers a question that was blocked over a restore only when its wait is over,
    // which follows from the budget: a quarter.
    let pair = Pair::start(consul.address(), &["-max-stale=24s"]);
    let load = Load::start(pair.door);
    pair.passes(&load);
    run(&consul, &["snapshot", "save"], &snapshot);
    // Further changes, the last one a deny: the snapshot's index is lower.
    for _ in 0..5 {
        allow(&api);
        deny(&api);
    }
    pair.refuses(&load);
    let counts = load.next(50);
    assert_eq!(counts.passed, 0, "{counts}");

    run(&consul, &["snapshot", "restore"], &snapshot);
    pair.passes(&load);
    pair.db.logs(OLDER);
    let counts = load.next(100);
    counted("snapshot restored in Consul", &counts);
    assert_eq!(counts.failed(), 0, "{counts}\n{}", pair.logs());
    deny(&api);
    pair.refuses(&load);
    assert_eq!(load.next(50).passed, 0);
}

#[test]
fn real_consul_killed_and_restarted_costs_no_connection() {
    let Some(mut consul) = Consul::start("real_consul_killed", Options::new().persistent()) else {
        return;
    };
    let api = consul.api();
    intention(&api, "*", "db", "deny", "");
    allow(&api);
    let pair = Pair::start(consul.address(), &[]);
    let load = Load::start(pair.door);
    pair.passes(&load);
    let counts = load.during(300, || consul.kill());
    counted("Consul killed", &counts);
    assert_eq!(counts.failed(), 0, "{counts}\n{}", pair.logs());
    let counts = load.during(300, || consul.restart());
    counted("Consul restarted", &counts);
    assert_eq!(counts.failed(), 0, "{counts}\n{}", pair.logs());
    change_arrives(&api, &load, &pair);
}

fn change_arrives(api: &Api, load: &Load, pair: &Pair) {
    eventually("the agent takes changes again", SOON, || {
        let path = "/v1/connect/intentions/exact?source=web&destination=db";
        let body = serde_json::json!({ "Action": "deny" }).to_string();
        let reply = api.send("PUT", path, Some(&body)).ok()?;
        (reply.status == 200).then_some(())
    });
    pair.refuses(load);
    assert_eq!(load.next(50).passed, 0);
}

fn run(consul: &Consul, arguments: &[&str], file: &Path) {
    let output = Command::new(consul.binary())
        .args(arguments)
        .arg(format!("-http-addr={}", consul.address()))
        .arg(file)
        .output()
        .expect("consul runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A copy for its owner only, as the agent wants it.
fn copy_folder(from: &Path, to: &Path) {
    let status = Command::new("cp")
        .arg("-a")
        .args([from, to])
        .status()
        .expect("cp runs");
    assert!(status.success());
}
